//! What the dense operators of a batch's topologies are formed from, as the kernels read it.

use std::sync::Arc;

use bytemuck::Zeroable;
use cudarc::driver::CudaStream;

use super::args::{DenseTablesArgs, DenseTopologyWords};
use super::buffer::Buffer;
use super::route::DenseClass;
use crate::batch::Batch;
use crate::error::{Error, Result, try_with_capacity};
use crate::incidence::Incidence;
use crate::pairs::{MOST_ON_PATH, Pairs, VertexSet, too_many_vertices};

/// The words of a list of [`StagedTable`] that a thread reads together.
pub(super) const STAGED_TOGETHER: usize = 4;

/// The tables of all topologies that have a dense operator, on the device.
pub(super) struct DenseTables {
    pub(super) topologies: Buffer<u64>,
    pub(super) neighbors: Buffer<u32>,
    pub(super) pairs: Buffer<u32>,
    pub(super) lists: Buffer<u32>,
    pub(super) staged: Buffer<u32>,
    /// Of each class the most hyperedges of a topology; none where one has no [`StagedTable`].
    widest: [Option<usize>; DenseClass::ALL.len()],
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
        let (mut neighbors, mut pairs, mut lists, mut staged) = (vec![], vec![], vec![], vec![]);
        let mut widest = [Some(0); DenseClass::ALL.len()];
        // Operators of topologies that the path is not for lie behind the others: its calls have no memory
        // for them.
        let (mut sizes, mut longest_row) = ([(0, 0); 2], 0);
        for topology in batch.topologies() {
            if too_many_vertices(topology).is_some() {
                topologies.push(DenseTopologyWords::zeroed());
                continue;
            }
            let class = DenseClass::of(topology.n_vertices());
            let (n_entries, n_words) = &mut sizes[usize::from(!class.is_on_path())];
            let mut of_topology = DenseTopologyWords {
                n_vertices: topology.n_vertices() as u64,
                entries: *n_entries,
                terms: *n_words,
                ..DenseTopologyWords::zeroed()
            };
            *n_entries += class.entries() as u64;
            *n_words += class.words() as u64;
            // Inner products need no more.
            if Pairs::obstacle(topology).is_some() {
                topologies.push(of_topology);
                continue;
            }
            let of = Pairs::new(topology)?;
            let of_staged = StagedTable::new(topology, &of)?;
            let width = &mut widest[class as usize];
            *width = of_staged.as_ref().and(*width).map(|width| width.max(topology.n_hyperedges()));
            let of_staged = of_staged.unwrap_or_default();
            of_topology = DenseTopologyWords {
                neighbors: neighbors.len() as u64,
                pairs: pairs.len() as u64,
                n_pairs: of.vertices.len() as u64,
                lists: lists.len() as u64,
                n_listed: of.lists.len() as u64,
                uniform_size: u64::from(of.uniform_size),
                staged: staged.len() as u64,
                n_staged: of_staged.n_pairs as u64,
                staged_words: of_staged.words_of_pair as u64,
                staged_ids: of_staged.ids_of_vertex as u64,
                ..of_topology
            };
            topologies.push(of_topology);
            longest_row = topology.by_vertex().rows().map(<[u32]>::len).fold(longest_row, usize::max);
            // The first words of all vertices, and then the second ones.
            for first in (0..class.vertices()).step_by(u32::BITS as usize) {
                let word = |&set: &VertexSet| (set >> first) as u32;
                extend(what, &mut neighbors, of.neighbors.iter().map(word))?;
            }
            let words = of.vertices.iter().chain([&0]).zip(&of.starts).flat_map(|(&v, &start)| [v, start]);
            extend(what, &mut pairs, words)?;
            extend(what, &mut lists, of.lists.iter().copied())?;
            extend(what, &mut staged, of_staged.words.iter().copied())?;
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
            staged: Buffer::from_slice(what, stream, &staged)?,
            widest,
            on_path,
            all: (on_path.0 + others.0, on_path.1 + others.1),
            longest_row,
        })
    }

    /// The entries and the words of the operators up to a class.
    pub(super) fn sizes(&self, class: DenseClass) -> (u64, u64) {
        if class.is_on_path() { self.on_path } else { self.all }
    }

    /// The numbers that the widest window of a class takes in shared memory, with a zero behind it; none
    /// where some topology of the class has no [`StagedTable`].
    pub(super) fn window_room(&self, class: DenseClass) -> Option<usize> {
        self.widest[class as usize].map(|width| width + 1)
    }

    pub(super) fn args(&self) -> DenseTablesArgs {
        DenseTablesArgs {
            topologies: self.topologies.address(),
            neighbors: self.neighbors.address(),
            pairs: self.pairs.address(),
            lists: self.lists.address(),
            staged: self.staged.address(),
            n_neighbors: self.neighbors.len() as u64,
            n_pairs: self.pairs.len() as u64,
            n_lists: self.lists.len() as u64,
        }
    }
}

/// What kernels read of a topology, whose hyperedges are all of one size, where they have its window in
/// shared memory: which numbers to add. `kernels/dense_form.cuh` has the same order of words.
///
/// For each vertex the number of its hyperedges; for each vertex its hyperedges; for each pair of two
/// vertices u < v that share a hyperedge, u + v 2^8 and the number of those times 2^16; and which ones: word
/// k of all pairs, then word k + 1, so that threads of consecutive pairs read consecutive words. Hyperedges
/// are two in a word, and lists as long as the longest one, with numbers of the zero behind the window at
/// their ends; those of vertices end with one in any case.
#[derive(Default)]
struct StagedTable {
    words: Vec<u32>,
    n_pairs: usize,
    words_of_pair: usize,
    ids_of_vertex: usize,
}

impl StagedTable {
    /// None where sizes differ, where numbers have no room, or where lists differ so much in length that the
    /// table would be more than twice as long as they are.
    fn new(topology: &Incidence, of: &Pairs) -> Result<Option<Self>> {
        let zero = topology.n_hyperedges();
        let pairs = || {
            of.iter().filter(|&(u, v, _)| u != v).flat_map(|(u, v, list)| {
                list.map(move |(_, hyperedges)| (u as u32 | (v as u32) << 8, hyperedges))
            })
        };
        let by_vertex = topology.by_vertex();
        let words = |longest: usize| longest.div_ceil(2).next_multiple_of(STAGED_TOGETHER);
        let n_pairs = pairs().count();
        let words_of_pair = words(pairs().map(|(_, hyperedges)| hyperedges.len()).max().unwrap_or(0));
        let words_of_vertex = words(1 + by_vertex.rows().map(<[u32]>::len).max().unwrap_or(0));
        let len = (1 + words_of_vertex) * by_vertex.len() + (1 + words_of_pair) * n_pairs;
        let is_uniform = of.uniform_size != 0 || of.vertices.is_empty();
        let most = 2 * (of.lists.len() + of.starts.len() + by_vertex.len());
        if !is_uniform || zero > usize::from(u16::MAX) || len > most {
            return Ok(None);
        }
        let id = |hyperedges: &[u32], k: usize| hyperedges.get(k).map_or(zero as u32, |&e| e);
        let word = |hyperedges: &[u32], k: usize| id(hyperedges, 2 * k) | id(hyperedges, 2 * k + 1) << 16;
        let mut table = try_with_capacity("the dense operators' tables", len)?;
        table.extend(by_vertex.rows().map(|row| row.len() as u32));
        for row in by_vertex.rows() {
            table.extend((0..words_of_vertex).map(|k| word(row, k)));
        }
        table.extend(pairs().map(|(vertices, hyperedges)| vertices | (hyperedges.len() as u32) << 16));
        for k in 0..words_of_pair {
            table.extend(pairs().map(|(_, hyperedges)| word(hyperedges, k)));
        }
        Ok(Some(Self { words: table, n_pairs, words_of_pair, ids_of_vertex: 2 * words_of_vertex }))
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
