//! What the dense operators of a batch's topologies are formed from, as the kernels read it.

use std::sync::Arc;

use bytemuck::Zeroable;
use cudarc::driver::CudaStream;

use super::args::{DenseTablesArgs, DenseTopologyWords};
use super::buffer::Buffer;
use super::route::DenseClass;
use crate::batch::Batch;
use crate::error::{Error, Result, try_with_capacity};
use crate::pairs::{MOST_ON_PATH, Pairs, VertexSet};

/// The tables of all topologies that have a dense operator, on the device.
pub(super) struct DenseTables {
    pub(super) topologies: Buffer<u64>,
    pub(super) neighbors: Buffer<u32>,
    pub(super) pairs: Buffer<u32>,
    pub(super) lists: Buffer<u32>,
    /// The entries and the words, see `DenseOperatorsArgs`, of the operators of all topologies that the path
    /// is for, and with those of the others.
    on_path: (u64, u64),
    all: (u64, u64),
    /// The most incidences of a vertex.
    pub(super) longest_row: usize,
}

impl DenseTables {
    /// The context of `stream` must be current.
    pub(super) fn new(batch: &Batch, stream: &Arc<CudaStream>) -> Result<Self> {
        let what = "the dense operators' tables";
        let mut topologies = try_with_capacity(what, batch.topologies().len())?;
        let (mut neighbors, mut pairs, mut lists) = (vec![], vec![], vec![]);
        // Operators of topologies that the path is not for lie behind the others: its calls have no memory
        // for them.
        let (mut sizes, mut longest_row) = ([(0, 0); 2], 0);
        for topology in batch.topologies() {
            if Pairs::obstacle(topology).is_some() {
                topologies.push(DenseTopologyWords::zeroed());
                continue;
            }
            let of = Pairs::new(topology)?;
            let class = DenseClass::of(topology.n_vertices());
            let (n_entries, n_words) = &mut sizes[usize::from(!class.is_on_path())];
            topologies.push(DenseTopologyWords {
                n_vertices: topology.n_vertices() as u64,
                neighbors: neighbors.len() as u64,
                pairs: pairs.len() as u64,
                n_pairs: of.vertices.len() as u64,
                lists: lists.len() as u64,
                n_listed: of.lists.len() as u64,
                uniform_size: u64::from(of.uniform_size),
                entries: *n_entries,
                terms: *n_words,
            });
            *n_entries += class.entries() as u64;
            *n_words += class.words() as u64;
            longest_row = topology.by_vertex().rows().map(<[u32]>::len).fold(longest_row, usize::max);
            // The first words of all vertices, and then the second ones.
            for first in (0..class.vertices()).step_by(u32::BITS as usize) {
                let word = |&set: &VertexSet| (set >> first) as u32;
                extend(what, &mut neighbors, of.neighbors.iter().map(word))?;
            }
            let words = of.vertices.iter().chain([&0]).zip(&of.starts).flat_map(|(&v, &start)| [v, start]);
            extend(what, &mut pairs, words)?;
            extend(what, &mut lists, of.lists.iter().copied())?;
        }
        let [on_path, others] = sizes;
        for words in topologies.iter_mut().filter(|words| words.n_vertices > MOST_ON_PATH as u64) {
            (words.entries, words.terms) = (words.entries + on_path.0, words.terms + on_path.1);
        }
        Ok(Self {
            topologies: Buffer::from_slice(what, stream, bytemuck::cast_slice(&topologies))?,
            neighbors: Buffer::from_slice(what, stream, &neighbors)?,
            pairs: Buffer::from_slice(what, stream, &pairs)?,
            lists: Buffer::from_slice(what, stream, &lists)?,
            on_path,
            all: (on_path.0 + others.0, on_path.1 + others.1),
            longest_row,
        })
    }

    /// The entries and the words of the operators up to a class.
    pub(super) fn sizes(&self, class: DenseClass) -> (u64, u64) {
        if class.is_on_path() { self.on_path } else { self.all }
    }

    pub(super) fn args(&self) -> DenseTablesArgs {
        DenseTablesArgs {
            topologies: self.topologies.address(),
            neighbors: self.neighbors.address(),
            pairs: self.pairs.address(),
            lists: self.lists.address(),
            n_neighbors: self.neighbors.len() as u64,
            n_pairs: self.pairs.len() as u64,
            n_lists: self.lists.len() as u64,
        }
    }
}

/// Adds values to a table that grows, or [`Error::OutOfMemory`].
fn extend(what: &'static str, to: &mut Vec<u32>, values: impl Iterator<Item = u32> + Clone) -> Result<()> {
    let len = values.clone().count();
    to.try_reserve(len).map_err(|_| Error::OutOfMemory {
        what,
        bytes: (to.len() + len) as u128 * size_of::<u32>() as u128,
    })?;
    to.extend(values);
    Ok(())
}
