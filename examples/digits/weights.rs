//! What hyperedge weights amount to: their effective values, the vertex degrees they give, and how much of them
//! goes to hyperedges with noisy members.

use std::collections::BTreeSet;

use crate::args::WeightKind;
use crate::dense_stand_in::Incidence;

/// The parameter that makes a weight of 1 under softplus.
pub(crate) fn softplus_parameter_of_one() -> f64 {
    (std::f64::consts::E - 1.0).ln()
}

/// The weights that stand for `parameters` in the layer.
pub(crate) fn effective(kind: WeightKind, parameters: &[f32]) -> Vec<f64> {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    parameters
        .iter()
        .map(|&parameter| match kind {
            WeightKind::Softplus => softplus(f64::from(parameter)),
            WeightKind::Raw => f64::from(parameter),
        })
        .collect()
}

/// D_v, the sum of the weights of the hyperedges around each vertex.
pub(crate) fn degrees(incidence: &Incidence, weights: &[f64]) -> Vec<f64> {
    let mut degrees = vec![0.0; incidence.n_vertices()];
    for (edge, weight) in incidence.by_edge().rows().zip(weights) {
        for &vertex in edge {
            degrees[vertex as usize] += weight;
        }
    }
    degrees
}

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
    fn softplus_parameter_of_one_gives_one() {
        let weights = effective(WeightKind::Softplus, &[softplus_parameter_of_one() as f32, 200.0, -200.0]);
        assert!((weights[0] - 1.0).abs() < 1e-6);
        assert_eq!(weights[1], 200.0);
        assert!(weights[2] >= 0.0 && weights[2] < 1e-80);
    }

    #[test]
    fn degrees_and_means_of_three_vertices() {
        let triangle = Incidence::subsets(3, 2).unwrap();
        let weights = [1.0, 2.0, 4.0];
        assert_eq!(degrees(&triangle, &weights), [3.0, 5.0, 6.0]);
        let means = mean_by_noisy_members(&triangle, &weights, &BTreeSet::from([2]));
        assert_eq!(means, [Some(1.0), Some(3.0), None]);
    }
}
