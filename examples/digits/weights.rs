//! What hyperedge weights amount to: how far they moved, and how much of them goes to hyperedges with noisy
//! members.

use std::collections::BTreeSet;

use hyperscatter::Incidence;

/// Euclidean distance of two lists of weights.
pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// The mean weight of the hyperedges with 0, 1, 2, … noisy members; `None` where there is no such hyperedge.
pub(crate) fn mean_by_noisy_members(
    incidence: &Incidence,
    weights: &[f64],
    noisy: &BTreeSet<usize>,
) -> Vec<Option<f64>> {
    let mut sums: Vec<(f64, usize)> = Vec::new();
    for (edge, weight) in incidence.by_edge().rows().zip(weights) {
        let members = edge.iter().filter(|&&vertex| noisy.contains(&(vertex as usize))).count();
        if sums.len() <= edge.len() {
            sums.resize(edge.len() + 1, (0.0, 0));
        }
        sums[members].0 += weight;
        sums[members].1 += 1;
    }
    sums.into_iter().map(|(sum, count)| (count > 0).then(|| sum / count as f64)).collect()
}

/// The degree closest to zero that a run met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SmallestDegree {
    pub(crate) degree: f64,
    pub(crate) layer: usize,
    pub(crate) expert: usize,
    pub(crate) step: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_three_vertices() {
        let triangle = Incidence::subsets(3, 2).unwrap();
        let weights = [1.0, 2.0, 4.0];
        let means = mean_by_noisy_members(&triangle, &weights, &BTreeSet::from([2]));
        assert_eq!(means, [Some(1.0), Some(3.0), None]);
    }
}
