//! How many instances are computed together. What is the same for all instances of a chunk is computed once
//! for it, and the gradients of weights and scales are summed chunk by chunk, in the order of the chunks.

use std::ops::Range;

use crate::incidence::Incidence;

/// The work of one chunk, in incidences (both directions) and rows of its instances: large enough to make a
/// parallel task worth its start, small enough that a batch makes many tasks.
pub(crate) const CHUNK_WORK: usize = 8192;

/// The most instances in a chunk. Gradients are summed chunk by chunk, so this bounds the length of the
/// chains of rounding errors.
const CHUNK_INSTANCES: usize = 64;

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
