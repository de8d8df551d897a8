//! Which hyperedges join each pair of vertices of a small topology: what its dense operator
//! M = L H U B⁻¹ Hᵀ R is formed from.
//!
//! The entry of two vertices u and v is made of Σ U_e / B_e over the hyperedges e that have both. The list of
//! a pair has those by size, and ascending where sizes are equal; a hyperedge counts once for each incidence
//! of u with each of v. Both backends add the U of one size, one by one, and divide that sum by the size.
//! Where all hyperedges have one size and no vertex twice, the sum of a vertex with itself is its degree if
//! weights are in both, and need not be summed again.

use crate::batch::Batch;
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::incidence::Incidence;
use crate::operator::Operator;
use crate::summation::SEGMENT;

/// The most vertices of a topology that has a dense operator.
pub(crate) const MOST_VERTICES: usize = 64;

/// The most vertices of a topology that may be computed by it: kernels keep the rows of all in registers.
pub(crate) const MOST_ON_PATH: usize = 32;

/// The most incidences of a vertex: kernels add the weights of a degree in one segment.
const MOST_OF_VERTEX: usize = SEGMENT;

/// A set of vertices of a topology that has a dense operator: bit v.
pub(crate) type VertexSet = u64;

/// The pairs of vertices that share a hyperedge, with their hyperedges.
#[derive(Debug)]
pub(crate) struct Pairs {
    /// For each vertex u the vertices that share a hyperedge with it, u itself among them if it has any: bit
    /// v.
    pub(crate) neighbors: Vec<VertexSet>,
    /// For each pair u <= v that shares a hyperedge: u + v 2^16.
    pub(crate) vertices: Vec<u32>,
    /// Where the list of each pair starts in `lists`, and where the last one ends.
    pub(crate) starts: Vec<u32>,
    /// The lists: for each size the number of hyperedges, the size, and the hyperedges.
    pub(crate) lists: Vec<u32>,
    /// The size of all hyperedges that have a vertex; 0 where sizes differ or a hyperedge has a vertex twice.
    pub(crate) uniform_size: u32,
}

/// Why a topology has no dense operator, or no matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Obstacle {
    pub(crate) what: &'static str,
    pub(crate) value: usize,
    pub(crate) bound: usize,
}

impl Obstacle {
    fn too_many(what: &'static str, value: usize, bound: usize) -> Option<Self> {
        (value > bound).then_some(Self { what, value, bound })
    }
}

/// Which operators with a matrix for each instance a batch cannot have: the first topology in use that has
/// an obstacle, and that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixObstacles {
    /// Of the matrix of the convolution.
    of_conv: Option<(usize, Obstacle)>,
    /// Of inner products, which depend on the vertices alone.
    of_rows: Option<(usize, Obstacle)>,
}

impl MatrixObstacles {
    pub(crate) fn new(batch: &Batch) -> Result<Self> {
        let topologies = batch.topologies();
        let mut is_used = try_zeroed::<bool>("the topologies in use", topologies.len())?;
        match batch.n_instances() {
            None => is_used.fill(true),
            Some(instances) => (0..instances).for_each(|g| is_used[batch.topology_id(g)] = true),
        }
        let first = |obstacle: fn(&Incidence) -> Option<Obstacle>| {
            let mut used = (0..topologies.len()).filter(|&id| is_used[id]);
            used.find_map(|id| Some((id, obstacle(&topologies[id])?)))
        };
        Ok(Self { of_conv: first(Pairs::obstacle), of_rows: first(too_many_vertices) })
    }

    /// Refuses an operator that needs what some topology in use does not have.
    pub(crate) fn check(&self, operator: Operator) -> Result<()> {
        let obstacle = if operator.has_products() { self.of_rows } else { self.of_conv };
        let Some((topology, Obstacle { what, value, bound })) = obstacle else { return Ok(()) };
        Err(Error::MatrixUnavailable { operator: operator.name(), topology, what, value, bound })
    }

    /// Whether there are matrices of the convolution.
    pub(crate) fn has_conv(&self) -> bool {
        self.of_conv.is_none()
    }

    /// Whether there are inner products.
    pub(crate) fn has_products(&self) -> bool {
        self.of_rows.is_none()
    }
}

/// Why a topology may not have a matrix of any kind.
pub(crate) fn too_many_vertices(topology: &Incidence) -> Option<Obstacle> {
    Obstacle::too_many("vertices", topology.n_vertices(), MOST_VERTICES)
}

impl Pairs {
    /// Why a topology may not have a dense operator: a function of the topology alone.
    pub(crate) fn obstacle(topology: &Incidence) -> Option<Obstacle> {
        too_many_vertices(topology).or_else(|| Self::obstacle_of_lists(topology))
    }

    /// Why it may not be computed by that.
    pub(crate) fn obstacle_on_path(topology: &Incidence) -> Option<Obstacle> {
        Obstacle::too_many("vertices", topology.n_vertices(), MOST_ON_PATH)
            .or_else(|| Self::obstacle_of_lists(topology))
    }

    /// Both limits together keep the lists of all pairs below 2^23 words, however many hyperedges there are.
    fn obstacle_of_lists(topology: &Incidence) -> Option<Obstacle> {
        let longest = topology.by_vertex().rows().map(<[u32]>::len).max().unwrap_or(0);
        // Longer lists than a topology without repeated incidences has; kernels with checks know the bound.
        let joined = || topology.by_edge().rows().map(|members| members.len() * members.len()).sum();
        let per_incidence = if topology.n_vertices() > MOST_ON_PATH { MOST_VERTICES } else { MOST_ON_PATH };
        Obstacle::too_many("incidences of a vertex", longest, MOST_OF_VERTEX).or_else(|| {
            Obstacle::too_many("pairs of incidences", joined(), per_incidence * topology.n_incidences())
        })
    }

    /// The pairs of a topology without an [`obstacle`](Self::obstacle).
    pub(crate) fn new(topology: &Incidence) -> Result<Self> {
        let what = "the pairs of vertices";
        let (n, by_edge) = (topology.n_vertices(), topology.by_edge());
        let size = |e: u32| by_edge.row(e as usize).len() as u32;
        let mut by_size: Vec<u32> = try_with_capacity(what, by_edge.len())?;
        by_size.extend((0..by_edge.len() as u32).filter(|&e| size(e) > 0));
        by_size.sort_unstable_by_key(|&e| (size(e), e));

        // The words of the list of each pair at u n + v, and the size that its last hyperedge has.
        let mut lengths = try_zeroed::<u32>(what, n * n)?;
        let mut sizes = try_zeroed::<u32>(what, n * n)?;
        for &e in &by_size {
            each_pair(by_edge.row(e as usize), |u, v| {
                let (length, last) = (&mut lengths[u * n + v], &mut sizes[u * n + v]);
                *length += if *last == size(e) { 1 } else { 3 };
                *last = size(e);
            });
        }
        let n_pairs = lengths.iter().filter(|&&length| length > 0).count();
        let mut pairs = Self {
            neighbors: try_zeroed(what, n)?,
            vertices: try_with_capacity(what, n_pairs)?,
            starts: try_with_capacity(what, n_pairs + 1)?,
            lists: try_zeroed(what, lengths.iter().map(|&length| length as usize).sum())?,
            uniform_size: uniform_size(topology),
        };
        let mut start = 0;
        for (u, v) in (0..n).flat_map(|u| (u..n).map(move |v| (u, v))) {
            if lengths[u * n + v] > 0 {
                pairs.vertices.push(u as u32 | (v as u32) << 16);
                pairs.starts.push(start);
                pairs.neighbors[u] |= 1 << v;
                pairs.neighbors[v] |= 1 << u;
            }
            // From here on where the next word of the pair goes.
            start += std::mem::replace(&mut lengths[u * n + v], start);
        }
        pairs.starts.push(start);
        let mut places = lengths;
        // Where the number of the hyperedges of the last size is.
        let mut counts = try_zeroed::<u32>(what, n * n)?;
        sizes.fill(0);
        for &e in &by_size {
            each_pair(by_edge.row(e as usize), |u, v| {
                let (place, count) = (&mut places[u * n + v], &mut counts[u * n + v]);
                if std::mem::replace(&mut sizes[u * n + v], size(e)) != size(e) {
                    *count = *place;
                    pairs.lists[*place as usize + 1] = size(e);
                    *place += 2;
                }
                pairs.lists[*count as usize] += 1;
                pairs.lists[*place as usize] = e;
                *place += 1;
            });
        }
        Ok(pairs)
    }

    /// The pairs in order: two vertices, and their list.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, usize, PairList<'_>)> {
        self.vertices.iter().zip(self.starts.windows(2)).map(|(&vertices, list)| {
            let (u, v) = (vertices & 0xffff, vertices >> 16);
            (u as usize, v as usize, PairList(&self.lists[list[0] as usize..list[1] as usize]))
        })
    }
}

/// The hyperedges of a pair by size: each size, and its hyperedges.
#[derive(Clone, Copy)]
pub(crate) struct PairList<'a>(&'a [u32]);

impl<'a> Iterator for PairList<'a> {
    type Item = (u32, &'a [u32]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[count, size], rest) = self.0.split_first_chunk()?;
        let (hyperedges, rest) = rest.split_at(count as usize);
        self.0 = rest;
        Some((size, hyperedges))
    }
}

/// Calls `f` for each pair u <= v of vertices of a hyperedge: for two different ones once for each incidence
/// of the one with each of the other, for a vertex with itself once for each two incidences in either order.
fn each_pair(members: &[u32], mut f: impl FnMut(usize, usize)) {
    for (i, &a) in members.iter().enumerate() {
        f(a as usize, a as usize);
        for &b in &members[i + 1..] {
            let (u, v) = (a.min(b) as usize, a.max(b) as usize);
            f(u, v);
            if u == v {
                f(u, v);
            }
        }
    }
}

fn uniform_size(topology: &Incidence) -> u32 {
    let mut size = 0;
    for members in topology.by_edge().rows().filter(|members| !members.is_empty()) {
        let mut seen: VertexSet = 0;
        members.iter().for_each(|&v| seen |= 1 << v);
        let repeats = seen.count_ones() as usize != members.len();
        if repeats || (size != 0 && size != members.len()) {
            return 0;
        }
        size = members.len();
    }
    size as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incidence::Repeats;

    type Lists = Vec<((usize, usize), Vec<(u32, Vec<u32>)>)>;

    fn lists(n: usize, edges: &[&[u32]]) -> Lists {
        let topology = Incidence::from_edges(n, edges, Repeats::Keep).unwrap();
        let pairs = Pairs::new(&topology).unwrap();
        let owned = |list: PairList<'_>| list.map(|(size, hyperedges)| (size, hyperedges.to_vec())).collect();
        pairs.iter().map(|(u, v, list)| ((u, v), owned(list))).collect()
    }

    #[test]
    fn hyperedges_are_listed_by_size() {
        let edges: &[&[u32]] = &[&[0, 1, 2], &[1, 0], &[], &[2], &[1, 2]];
        let expected = vec![
            ((0, 0), vec![(2, vec![1]), (3, vec![0])]),
            ((0, 1), vec![(2, vec![1]), (3, vec![0])]),
            ((0, 2), vec![(3, vec![0])]),
            ((1, 1), vec![(2, vec![1, 4]), (3, vec![0])]),
            ((1, 2), vec![(2, vec![4]), (3, vec![0])]),
            ((2, 2), vec![(1, vec![3]), (2, vec![4]), (3, vec![0])]),
        ];
        assert_eq!(lists(4, edges), expected);
    }

    #[test]
    fn repeated_incidences_count_with_each_other() {
        let expected = vec![
            ((0, 0), vec![(3, vec![0; 4])]),
            ((0, 1), vec![(3, vec![0; 2])]),
            ((1, 1), vec![(3, vec![0])]),
        ];
        assert_eq!(lists(2, &[&[0, 1, 0]]), expected);
    }

    #[test]
    fn sizes_are_uniform_or_not() {
        let size = |n, edges: &[&[u32]]| {
            Pairs::new(&Incidence::from_edges(n, edges, Repeats::Keep).unwrap()).unwrap().uniform_size
        };
        assert_eq!(size(3, &[&[0, 1], &[], &[2, 1]]), 2);
        assert_eq!(size(3, &[&[0, 1], &[2]]), 0);
        assert_eq!(size(3, &[&[0, 1], &[2, 2]]), 0);
        assert_eq!(size(3, &[]), 0);
    }
}
