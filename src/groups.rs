//! Instances grouped by what they share, and cut into chunks: what is the same for all instances of a chunk is
//! computed once for it, and their weight gradients are summed in one fixed order.

use std::ops::Range;

use crate::error::{Result, try_with_capacity};
use crate::incidence::Incidence;

/// The work of one chunk, in incidences (both directions) and rows of its instances: large enough to make a parallel
/// task worth its start, small enough that a batch makes many tasks.
const CHUNK_WORK: usize = 8192;

/// The most instances in a chunk. Weight gradients are summed chunk by chunk, so this bounds the length of the chains
/// of rounding errors.
const CHUNK_INSTANCES: usize = 64;

impl Incidence {
    /// What one instance costs for each feature, in rows and incidences of both directions.
    fn work(&self) -> usize {
        2 * self.n_incidences() + self.n_vertices() + self.n_hyperedges()
    }

    /// Whether one instance is more than a chunk's work, so that its own rows are worth computing in parallel.
    pub(crate) fn is_large(&self) -> bool {
        self.work() > CHUNK_WORK
    }

    /// The number of instances of a chunk: a function of the topology alone, since it decides an order of summation.
    pub(crate) fn chunk_len(&self) -> usize {
        (CHUNK_WORK / self.work().max(1)).clamp(1, CHUNK_INSTANCES)
    }
}

/// Instances of one topology that read their weights at one offset.
#[derive(Debug)]
struct Group {
    topology: u32,
    offset: u64,
    /// Where its instances start in `order`.
    start: usize,
    /// Its first chunk.
    chunk: usize,
}

/// All instances of a table, grouped by (offset, topology) in ascending order.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    /// The instances, group after group, ascending within each.
    order: Vec<u32>,
    n_chunks: usize,
}

/// Up to [`chunk_len`](Incidence::chunk_len) instances of one topology that read their weights at one offset.
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

impl Groups {
    /// Groups instances whose topologies are `topology_ids` (fewer than 2³²) and that read at `offset(instance)`.
    pub(crate) fn new(
        topologies: &[Incidence],
        topology_ids: &[u32],
        offset: impl Fn(usize) -> u64,
    ) -> Result<Self> {
        let key = |g: u32| (offset(g as usize), topology_ids[g as usize]);
        let mut order = try_with_capacity("the order of the instances", topology_ids.len())?;
        order.extend(0..topology_ids.len() as u32);
        order.sort_by_key(|&g| key(g));
        let (mut groups, mut n_chunks) = (Vec::new(), 0);
        for same in order.chunk_by(|&a, &b| key(a) == key(b)) {
            let (offset, topology) = key(same[0]);
            let start = groups.last().map_or(0, |&(_, end)| end);
            groups.push((Group { topology, offset, start, chunk: n_chunks }, start + same.len()));
            n_chunks += same.len().div_ceil(topologies[topology as usize].chunk_len());
        }
        Ok(Self { groups: groups.into_iter().map(|(group, _)| group).collect(), order, n_chunks })
    }

    pub(crate) fn n_chunks(&self) -> usize {
        self.n_chunks
    }

    /// The `c`-th chunk, without the instances from `n_instances` on.
    pub(crate) fn chunk(&self, topologies: &[Incidence], c: usize, n_instances: usize) -> Chunk<'_> {
        let i = self.groups.partition_point(|g| g.chunk <= c) - 1;
        let Group { topology, offset, start, chunk } = self.groups[i];
        let group_end = self.groups.get(i + 1).map_or(self.order.len(), |g| g.start);
        let len = topologies[topology as usize].chunk_len();
        let first = start + (c - chunk) * len;
        let members = &self.order[first..(first + len).min(group_end)];
        let present = members.partition_point(|&g| (g as usize) < n_instances);
        Chunk {
            topology: topology as usize,
            offset: offset as usize,
            members: Members::List(&members[..present]),
        }
    }
}
