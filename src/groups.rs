//! The instances of a table, grouped by what they share, and their chunks.

#[cfg(feature = "cuda")]
use std::ops::Range;

use crate::axis::Axis;
use crate::chunk::{Chunk, Members};
use crate::error::{Result, try_with_capacity};
use crate::incidence::Incidence;

/// Which topologies come first: small ones before large ones, and then by the class of their window's width,
/// a power of two. So chunks that need the same room for their sums stand together.
fn rank(topology: &Incidence, axis: Axis) -> (bool, u32) {
    (topology.is_large(), topology.size(axis).max(1).ilog2())
}

/// Instances of one topology that read their window at one offset.
#[derive(Debug)]
struct Group {
    topology: u32,
    chunk_len: u32,
    offset: u64,
    /// Where its instances start in `order`.
    start: usize,
    /// Its first chunk.
    chunk: usize,
}

/// Consecutive chunks of topologies of one rank.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) first_chunk: usize,
    /// The width of the widest window.
    pub(crate) width: usize,
}

/// All instances of a table, grouped by (rank, offset, topology) in ascending order.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    /// The instances, group after group, ascending within each.
    order: Vec<u32>,
    n_chunks: usize,
}

impl Groups {
    /// Groups instances whose topologies are `topology_ids` (fewer than 2³²) and whose windows along `axis`
    /// start at `offset(instance)`.
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
        let mut groups = try_with_capacity("the groups of the instances", same().count())?;
        let (mut start, mut n_chunks) = (0, 0);
        for same in same() {
            let (_, offset, topology) = key(same[0]);
            let chunk_len = topologies[topology as usize].chunk_len();
            groups.push(Group { topology, chunk_len: chunk_len as u32, offset, start, chunk: n_chunks });
            start += same.len();
            n_chunks += same.len().div_ceil(chunk_len);
        }
        Ok(Self { groups, order, n_chunks })
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
        (0..self.groups.len()).flat_map(move |i| {
            let Group { topology, chunk_len, offset, start, .. } = self.groups[i];
            let end = self.end(i);
            let starts = (start..end).step_by(chunk_len as usize);
            starts.map(move |first| {
                (topology as usize, offset as usize, first..(first + chunk_len as usize).min(end))
            })
        })
    }

    /// The classes of chunks, in order. There are at most 64: a rank is whether a topology is large, and a
    /// power of two.
    #[cfg(feature = "cuda")]
    pub(crate) fn classes(&self, topologies: &[Incidence], axis: Axis) -> Vec<Class> {
        let topology = |group: &Group| &topologies[group.topology as usize];
        let same = |a: &Group, b: &Group| rank(topology(a), axis) == rank(topology(b), axis);
        let class = |groups: &[Group]| Class {
            first_chunk: groups[0].chunk,
            width: groups.iter().map(|group| topology(group).size(axis)).max().unwrap_or(0),
        };
        self.groups.chunk_by(same).map(class).collect()
    }

    /// Where the instances of group `i` end in `order`.
    fn end(&self, i: usize) -> usize {
        self.groups.get(i + 1).map_or(self.order.len(), |next| next.start)
    }

    /// The `c`-th chunk, without the instances from `n_instances` on.
    pub(crate) fn chunk(&self, c: usize, n_instances: usize) -> Chunk<'_> {
        let i = self.groups.partition_point(|g| g.chunk <= c) - 1;
        let Group { topology, chunk_len, offset, start, chunk } = self.groups[i];
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
    fn chunks_are_classes_of_widths_and_hold_each_instance_once() {
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
        let groups = Groups::new(&topologies, Axis::Hyperedge, &ids, offset).unwrap();

        let chunks: Vec<_> = groups.chunks().collect();
        let summary: Vec<_> =
            chunks.iter().map(|(t, offset, members)| (*t, *offset, members.len())).collect();
        let small = [(4, 7, 1), (3, 0, 64), (3, 0, 6), (2, 5, 1), (3, 5, 1), (3, 6, 1), (2, 7, 1)];
        assert_eq!(summary, [&small[..], &[(1, 6, 1), (1, 7, 1), (0, 5, 1), (0, 6, 1)]].concat());
        let classes = [(0, 1), (1, 6), (7, 10), (9, 34220)];
        let classes = classes.map(|(first_chunk, width)| Class { first_chunk, width });
        assert_eq!(groups.classes(&topologies, Axis::Hyperedge), classes);

        assert_eq!(chunks.len(), groups.n_chunks());
        let mut end = 0;
        for (c, (topology, offset, members)) in chunks.into_iter().enumerate() {
            assert_eq!(members.start, end);
            end = members.end;
            let chunk = groups.chunk(c, ids.len());
            assert_eq!((chunk.topology, chunk.offset), (topology, offset));
            let instances: Vec<_> = groups.order()[members].iter().map(|&g| g as usize).collect();
            assert_eq!(chunk.members.iter().collect::<Vec<_>>(), instances);
            assert!(instances.is_sorted());
        }
        assert_eq!(end, ids.len());
        let mut order = groups.order().to_vec();
        order.sort_unstable();
        assert!(order.into_iter().eq(0..ids.len() as u32));

        // Along vertices the same instances have other widths, and so other classes.
        let by_vertex = Groups::new(&topologies, Axis::Vertex, &ids, offset).unwrap();
        let classes = [(0, 0), (1, 5), (9, 60)].map(|(first_chunk, width)| Class { first_chunk, width });
        assert_eq!(by_vertex.classes(&topologies, Axis::Vertex), classes);
    }
}
