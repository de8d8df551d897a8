//! How many instances are computed together, and which. What is the same for all instances of a chunk is
//! computed once for it, and the gradients of weights and scales are summed chunk by chunk, in the order of
//! the chunks.

use std::ops::Range;

use crate::axis::Axis;
use crate::error::{Result, try_with_capacity};
use crate::incidence::Incidence;

/// The work of one chunk, in incidences (both directions) and rows of its instances: large enough to make a
/// parallel task worth its start, small enough that a batch makes many tasks.
pub(crate) const CHUNK_WORK: usize = 8192;

/// The most instances in a chunk. Gradients are summed chunk by chunk, so this bounds the length of the
/// chains of rounding errors.
pub(crate) const CHUNK_INSTANCES: usize = 64;

impl Incidence {
    /// What one instance costs for each feature, in rows and incidences of both directions.
    pub(crate) fn work(&self) -> usize {
        2 * self.n_incidences() + self.n_vertices() + self.n_hyperedges()
    }

    /// Whether one instance is more than a chunk's work, so that its own rows are worth computing in
    /// parallel.
    pub(crate) fn is_large(&self) -> bool {
        self.work() > CHUNK_WORK
    }

    /// The number of instances of a chunk: a function of the topology alone, since it decides an order of
    /// summation.
    pub(crate) fn chunk_len(&self) -> usize {
        (CHUNK_WORK / self.work().max(1)).clamp(1, CHUNK_INSTANCES)
    }
}

/// Up to [`chunk_len`](Incidence::chunk_len) instances of one topology that read their window at one offset.
#[derive(Debug, Clone)]
pub(crate) struct Chunk<'a> {
    pub(crate) topology: usize,
    pub(crate) offset: usize,
    pub(crate) members: Members<'a>,
}

/// The instances of a chunk, ascending.
#[derive(Debug, Clone)]
pub(crate) enum Members<'a> {
    Range(Range<usize>),
    List(&'a [u32]),
}

impl Members<'_> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let (range, list) = match self {
            Self::Range(range) => (range.clone(), &[][..]),
            Self::List(list) => (0..0, *list),
        };
        range.chain(list.iter().map(|&g| g as usize))
    }
}

/// Which topologies come first: small ones before large ones, and then by the width of their window, rounded
/// down to a power of two. So chunks that need the same room for their sums stand together.
fn rank(topology: &Incidence, axis: Axis) -> (bool, u32) {
    (topology.is_large(), topology.size(axis).max(1).ilog2())
}

/// All instances of one topology that read their window at one offset.
#[derive(Debug)]
struct Run {
    topology: u32,
    chunk_len: u32,
    offset: u64,
    /// Where its instances start in `order`.
    start: usize,
    /// Its first chunk.
    chunk: usize,
}

/// The chunks of all topologies of one rank.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rank {
    pub(crate) first_chunk: usize,
    /// The width of the widest window.
    pub(crate) width: usize,
}

/// The chunks of a table's instances, ascending by (rank, offset, topology).
#[derive(Debug)]
pub(crate) struct Chunks {
    runs: Vec<Run>,
    /// The instances, run after run, ascending within each.
    order: Vec<u32>,
    n_chunks: usize,
}

impl Chunks {
    /// Of instances whose topologies are `topology_ids` (fewer than 2³²) and whose windows along `axis` start
    /// at `offset(instance)`.
    pub(crate) fn new(
        topologies: &[Incidence],
        axis: Axis,
        topology_ids: &[u32],
        offset: impl Fn(usize) -> u64,
    ) -> Result<Self> {
        let mut ranks = try_with_capacity("the ranks of the topologies", topologies.len())?;
        ranks.extend(topologies.iter().map(|topology| rank(topology, axis)));
        let key = |g: u32| {
            let topology = topology_ids[g as usize];
            (ranks[topology as usize], offset(g as usize), topology)
        };
        let mut order = try_with_capacity("the order of the instances", topology_ids.len())?;
        order.extend(0..topology_ids.len() as u32);
        // Not a stable sort, which would allocate: ties are broken by the instance.
        order.sort_unstable_by_key(|&g| (key(g), g));
        let same = || order.chunk_by(|&a, &b| key(a) == key(b));
        let mut runs = try_with_capacity("the chunks of the instances", same().count())?;
        let (mut start, mut n_chunks) = (0, 0);
        for same in same() {
            let (_, offset, topology) = key(same[0]);
            let chunk_len = topologies[topology as usize].chunk_len();
            runs.push(Run { topology, chunk_len: chunk_len as u32, offset, start, chunk: n_chunks });
            start += same.len();
            n_chunks += same.len().div_ceil(chunk_len);
        }
        Ok(Self { runs, order, n_chunks })
    }

    pub(crate) fn n_chunks(&self) -> usize {
        self.n_chunks
    }

    /// The instances in the order of their chunks, ascending within each.
    #[cfg(feature = "cuda")]
    pub(crate) fn order(&self) -> &[u32] {
        &self.order
    }

    /// All chunks in order: topology, offset, and where its instances stand in [`order`](Self::order).
    #[cfg(feature = "cuda")]
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (usize, usize, Range<usize>)> + '_ {
        (0..self.runs.len()).flat_map(move |i| {
            let Run { topology, chunk_len, offset, start, .. } = self.runs[i];
            let end = self.end(i);
            let starts = (start..end).step_by(chunk_len as usize);
            starts.map(move |first| {
                (topology as usize, offset as usize, first..(first + chunk_len as usize).min(end))
            })
        })
    }

    /// The chunks of each rank, in order. There are at most 64 ranks: one is whether a topology is large, and
    /// a power of two.
    #[cfg(feature = "cuda")]
    pub(crate) fn ranks(&self, topologies: &[Incidence], axis: Axis) -> Vec<Rank> {
        let topology = |run: &Run| &topologies[run.topology as usize];
        let same = |a: &Run, b: &Run| rank(topology(a), axis) == rank(topology(b), axis);
        let of_rank = |runs: &[Run]| Rank {
            first_chunk: runs[0].chunk,
            width: runs.iter().map(|run| topology(run).size(axis)).max().unwrap_or(0),
        };
        self.runs.chunk_by(same).map(of_rank).collect()
    }

    /// Where the instances of run `i` end in `order`.
    fn end(&self, i: usize) -> usize {
        self.runs.get(i + 1).map_or(self.order.len(), |next| next.start)
    }

    /// The `c`-th chunk, without the instances from `n_instances` on.
    pub(crate) fn chunk(&self, c: usize, n_instances: usize) -> Chunk<'_> {
        let i = self.runs.partition_point(|run| run.chunk <= c) - 1;
        let Run { topology, chunk_len, offset, start, chunk } = self.runs[i];
        let first = start + (c - chunk) * chunk_len as usize;
        let members = &self.order[first..(first + chunk_len as usize).min(self.end(i))];
        let present = members.partition_point(|&g| (g as usize) < n_instances);
        Chunk {
            topology: topology as usize,
            offset: offset as usize,
            members: Members::List(&members[..present]),
        }
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_ordered_by_rank_and_hold_each_instance_once() {
        let topologies = [
            Incidence::subsets(60, 3).unwrap(), // large
            Incidence::subsets(5, 3).unwrap(),  // 10 hyperedges
            Incidence::subsets(4, 2).unwrap(),  // 6
            Incidence::subsets(5, 1).unwrap(),  // 5
            Incidence::subsets(0, 0).unwrap(),
        ];
        // Chunks of topology 3 have 64 instances: there are 70 at offset 0.
        let mut ids = vec![2, 1, 0, 4, 3, 2, 1, 0, 3];
        ids.extend([3; 70]);
        let offset = |g: usize| if g < 9 { 7 - g as u64 % 3 } else { 0 };
        let table = Chunks::new(&topologies, Axis::Hyperedge, &ids, offset).unwrap();

        let chunks: Vec<_> = table.chunks().collect();
        let summary: Vec<_> =
            chunks.iter().map(|(t, offset, members)| (*t, *offset, members.len())).collect();
        let small = [(4, 7, 1), (3, 0, 64), (3, 0, 6), (2, 5, 1), (3, 5, 1), (3, 6, 1), (2, 7, 1)];
        assert_eq!(summary, [&small[..], &[(1, 6, 1), (1, 7, 1), (0, 5, 1), (0, 6, 1)]].concat());
        let ranks = [(0, 1), (1, 6), (7, 10), (9, 34220)];
        let ranks = ranks.map(|(first_chunk, width)| Rank { first_chunk, width });
        assert_eq!(table.ranks(&topologies, Axis::Hyperedge), ranks);

        assert_eq!(chunks.len(), table.n_chunks());
        let mut end = 0;
        for (c, (topology, offset, members)) in chunks.into_iter().enumerate() {
            assert_eq!(members.start, end);
            end = members.end;
            let chunk = table.chunk(c, ids.len());
            assert_eq!((chunk.topology, chunk.offset), (topology, offset));
            let instances: Vec<_> = table.order()[members].iter().map(|&g| g as usize).collect();
            assert_eq!(chunk.members.iter().collect::<Vec<_>>(), instances);
            assert!(instances.is_sorted());
        }
        assert_eq!(end, ids.len());
        let mut order = table.order().to_vec();
        order.sort_unstable();
        assert!(order.into_iter().eq(0..ids.len() as u32));

        // Along vertices the same instances have other widths, and so other ranks.
        let by_vertex = Chunks::new(&topologies, Axis::Vertex, &ids, offset).unwrap();
        let ranks = [(0, 0), (1, 5), (9, 60)].map(|(first_chunk, width)| Rank { first_chunk, width });
        assert_eq!(by_vertex.ranks(&topologies, Axis::Vertex), ranks);
    }
}
