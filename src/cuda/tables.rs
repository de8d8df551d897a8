//! The tables of a batch, as the kernels read them: built on the host, uploaded once.
//!
//! A topology is stored once for each orientation: by hyperedge (the rows of the tables are hyperedges, their
//! indices vertices) and by vertex. Instances are not expanded: a replicated batch has no table of instances
//! at all, a table batch has its topology ids and prefix sums over its instances.

use std::cmp::Reverse;
use std::sync::Arc;

use bytemuck::Zeroable;
use cudarc::driver::{CudaStream, sys};

use super::args::{ChunkWords, Counts, RankWords, TableId, TablesArgs, TopologyWords, WorkClass, words_of};
use super::buffer::Buffer;
use super::dense_tables::DenseTables;
use super::geometry::{SEGMENT, SHORT_ROW, WARP};
use crate::axis::Axis;
use crate::batch::Batch;
use crate::chunks::Chunks;
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::incidence::{Csr, Incidence};

/// Which of the two compressed sparse row forms of a topology a table belongs to. An incidence has two ends,
/// so there is no third.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Orientation {
    /// Rows are hyperedges, indices vertices, as in [`Incidence::by_edge`].
    ByEdge,
    /// Rows are vertices, indices hyperedges, as in [`Incidence::by_vertex`].
    ByVertex,
}

impl Orientation {
    /// Both.
    pub const ALL: &'static [Self] = &[Self::ByEdge, Self::ByVertex];

    /// What its rows are.
    pub(super) fn rows(self) -> Axis {
        match self {
            Self::ByEdge => Axis::Hyperedge,
            Self::ByVertex => Axis::Vertex,
        }
    }

    /// What its indices are.
    pub(super) fn indices(self) -> Axis {
        match self {
            Self::ByEdge => Axis::Vertex,
            Self::ByVertex => Axis::Hyperedge,
        }
    }

    /// The orientation whose rows are `axis`.
    pub(super) fn with_rows(axis: Axis) -> Self {
        match axis {
            Axis::Hyperedge => Self::ByEdge,
            Axis::Vertex => Self::ByVertex,
        }
    }

    fn csr(self, topology: &Incidence) -> Csr<'_> {
        topology.by(self.rows())
    }

    /// The name of a table by the numbers that a kernel gives it in a violation.
    pub(super) fn table_name(orientation: u32, table: u32) -> &'static str {
        let orientation = if orientation == 0 { Self::ByEdge } else { Self::ByVertex };
        let starts = |axis| match axis {
            Axis::Vertex => Table::VertexStarts,
            Axis::Hyperedge => Table::HyperedgeStarts,
        };
        let Some(table) = TableId::numbered(table) else { return "an unknown table" };
        match table {
            TableId::Topologies => Table::Topologies(orientation).name(),
            TableId::Pointers => Table::Pointers(orientation).name(),
            TableId::Indices => Table::Indices(orientation).name(),
            TableId::Work => Table::Work(orientation).name(),
            TableId::TopologyIds => Table::TopologyIds.name(),
            TableId::WorkStarts => Table::WorkStarts(orientation).name(),
            TableId::TargetStarts => starts(orientation.rows()).name(),
            TableId::SourceStarts => starts(orientation.indices()).name(),
            TableId::WorkItems => "work items",
            TableId::SourceWindows => window_name(orientation.indices()),
            TableId::TargetWindows => window_name(orientation.rows()),
            TableId::Chunks => Table::Chunks(orientation).name(),
            TableId::Members => Table::Members(orientation).name(),
            TableId::Ranks => Table::Ranks(orientation).name(),
            TableId::NegativeDegree => "no table",
            TableId::PathInstances => "path_instances",
            TableId::DenseTopologies => Table::DenseTopologies.name(),
            TableId::Neighbors => Table::Neighbors.name(),
            TableId::Pairs => Table::Pairs.name(),
            TableId::PairLists => Table::PairLists.name(),
        }
    }
}

/// The name of the offsets of a window table, along `axis`.
pub(super) fn window_name(axis: Axis) -> &'static str {
    match axis {
        Axis::Vertex => "vertex_windows",
        Axis::Hyperedge => "hyperedge_windows",
    }
}

/// A table of a batch on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Table {
    /// Ten 64-bit words for each topology:
    ///
    /// * where its pointers, indices and work lists start;
    /// * its numbers of rows, of rows to gather from, and of incidences;
    /// * its numbers of segments of long rows, of medium rows, of short rows and of long rows.
    Topologies(Orientation),
    /// The row pointers of all topologies, each one's from 0 on; 32 bits.
    Pointers(Orientation),
    /// The indices of all topologies; 32 bits.
    Indices(Orientation),
    /// For each topology its rows by length, in 32-bit words, as four lists:
    ///
    /// * (row, segment) for each segment of a row of more than 512 incidences;
    /// * the rows of 9 to 512 incidences;
    /// * the rows of up to 8;
    /// * (row, first segment) for each row of more than 512.
    Work(Orientation),
    /// For each of the four lists of [`Work`](Self::Work) in turn, instances + 1 prefix sums of their
    /// lengths; 64 bits. This table and all that follow are empty for a replicated batch.
    WorkStarts(Orientation),
    /// Four 64-bit words for each chunk, whose instances' gradients of shared weights (or scales) are summed
    /// together. Another four end the table.
    ///
    /// * the offset of the instances' window, which is 0;
    /// * their topology;
    /// * the first of the chunk's members;
    /// * the first of its tiles of 32 rows.
    Chunks(Orientation),
    /// The instances, chunk after chunk; 64 bits.
    Members(Orientation),
    /// Two 64-bit words for each rank of chunks, which are those with windows of similar width: its first
    /// chunk, and the width of the widest window. Another two end them.
    Ranks(Orientation),
    /// The topology of each instance; 32 bits.
    TopologyIds,
    /// Instances + 1 prefix sums of the vertices; 64 bits.
    VertexStarts,
    /// Instances + 1 prefix sums of the hyperedges; 64 bits.
    HyperedgeStarts,
    /// Thirteen 64-bit words for each topology, all 0 where it has no dense operator:
    ///
    /// * its number of vertices, and where its neighbors start;
    /// * where its pairs start, and their number;
    /// * where the lists of its pairs start, and their words;
    /// * the size of its hyperedges if all have one and no vertex twice, and else 0;
    /// * where the words start that are read with windows in shared memory, its pairs of two vertices, and
    ///   how many of the words each of these and each vertex has; 0 where there are none;
    /// * where its operator and the terms of that start in scratch memory.
    DenseTopologies,
    /// For each vertex the set of vertices that share a hyperedge with it; 32 bits.
    Neighbors,
    /// Two 32-bit words for each pair of vertices that share a hyperedge: the smaller vertex plus 2^16 times
    /// the larger, and where its list of hyperedges starts. Another two end those of a topology.
    Pairs,
    /// For each pair, and each size of hyperedges that have both its vertices: their number, the size, and
    /// the hyperedges; 32 bits.
    PairLists,
}

impl Table {
    /// All tables.
    pub const ALL: &'static [Self] = &[
        Self::Topologies(Orientation::ByEdge),
        Self::Pointers(Orientation::ByEdge),
        Self::Indices(Orientation::ByEdge),
        Self::Work(Orientation::ByEdge),
        Self::WorkStarts(Orientation::ByEdge),
        Self::Chunks(Orientation::ByEdge),
        Self::Members(Orientation::ByEdge),
        Self::Ranks(Orientation::ByEdge),
        Self::Topologies(Orientation::ByVertex),
        Self::Pointers(Orientation::ByVertex),
        Self::Indices(Orientation::ByVertex),
        Self::Work(Orientation::ByVertex),
        Self::WorkStarts(Orientation::ByVertex),
        Self::Chunks(Orientation::ByVertex),
        Self::Members(Orientation::ByVertex),
        Self::Ranks(Orientation::ByVertex),
        Self::TopologyIds,
        Self::VertexStarts,
        Self::HyperedgeStarts,
        Self::DenseTopologies,
        Self::Neighbors,
        Self::Pairs,
        Self::PairLists,
    ];

    /// Its name in [`Error::IndexOutOfBounds`].
    pub fn name(self) -> &'static str {
        use Orientation::{ByEdge, ByVertex};
        match self {
            Self::Topologies(ByEdge) => "by_edge.topologies",
            Self::Topologies(ByVertex) => "by_vertex.topologies",
            Self::Pointers(ByEdge) => "by_edge.pointers",
            Self::Pointers(ByVertex) => "by_vertex.pointers",
            Self::Indices(ByEdge) => "by_edge.indices",
            Self::Indices(ByVertex) => "by_vertex.indices",
            Self::Work(ByEdge) => "by_edge.work",
            Self::Work(ByVertex) => "by_vertex.work",
            Self::WorkStarts(ByEdge) => "by_edge.work_starts",
            Self::WorkStarts(ByVertex) => "by_vertex.work_starts",
            Self::Chunks(ByEdge) => "hyperedge_chunks",
            Self::Chunks(ByVertex) => "vertex_chunks",
            Self::Members(ByEdge) => "hyperedge_members",
            Self::Members(ByVertex) => "vertex_members",
            Self::Ranks(ByEdge) => "hyperedge_ranks",
            Self::Ranks(ByVertex) => "vertex_ranks",
            Self::TopologyIds => "topology_ids",
            Self::VertexStarts => "vertex_starts",
            Self::HyperedgeStarts => "hyperedge_starts",
            Self::DenseTopologies => "dense_topologies",
            Self::Neighbors => "neighbors",
            Self::Pairs => "pairs",
            Self::PairLists => "pair_lists",
        }
    }
}

impl Counts {
    fn of(self, class: WorkClass) -> u64 {
        match class {
            WorkClass::Partial => self.partial,
            WorkClass::Medium => self.medium,
            WorkClass::Short => self.short_row,
            WorkClass::Long => self.long_row,
        }
    }

    fn map(self, f: impl Fn(u64) -> u64) -> Self {
        let Self { partial, medium, short_row, long_row } = self;
        Self { partial: f(partial), medium: f(medium), short_row: f(short_row), long_row: f(long_row) }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            partial: self.partial + other.partial,
            medium: self.medium + other.medium,
            short_row: self.short_row + other.short_row,
            long_row: self.long_row + other.long_row,
        }
    }
}

/// The tables of one orientation, on the host.
#[derive(Default)]
struct HostSide {
    topologies: Vec<TopologyWords>,
    pointers: Vec<u32>,
    indices: Vec<u32>,
    work: Vec<u32>,
    work_starts: Vec<u64>,
}

impl HostSide {
    fn new(batch: &Batch, orientation: Orientation) -> Result<Self> {
        let csrs = || batch.topologies().iter().map(|t| orientation.csr(t));
        let mut side = Self {
            topologies: try_with_capacity("the topology table", batch.topologies().len())?,
            pointers: try_with_capacity("the pointer table", csrs().map(|c| c.pointers.len()).sum())?,
            indices: try_with_capacity("the index table", csrs().map(|c| c.indices.len()).sum())?,
            ..Self::default()
        };
        for topology in batch.topologies() {
            side.push(orientation, topology)?;
        }
        Ok(side)
    }

    /// Derives where the work of each instance of a table starts. Gives the lengths of the lists: of topology
    /// 0 for a replicated batch, and of all instances for a table.
    fn start_work(&mut self, batch: &Batch) -> Result<Counts> {
        let Some(instances) = batch.n_instances() else { return Ok(self.topologies[0].count) };
        self.work_starts = try_with_capacity("the work starts", WorkClass::COUNT * (instances + 1))?;
        for &class in WorkClass::ALL {
            let mut start = 0;
            self.work_starts.push(start);
            for g in 0..instances {
                start += self.topologies[batch.topology_id(g)].count.of(class);
                self.work_starts.push(start);
            }
        }
        let counts = (0..instances).map(|g| self.topologies[batch.topology_id(g)].count);
        Ok(counts.fold(Counts::zeroed(), Counts::plus))
    }

    fn push(&mut self, orientation: Orientation, topology: &Incidence) -> Result<()> {
        let csr = orientation.csr(topology);
        let what = "the work lists";
        let mut rows: Vec<u32> = try_with_capacity(what, csr.len())?;
        rows.extend(0..csr.len() as u32);
        let length = |row: u32| csr.row(row as usize).len();
        // By falling length: the rows that a warp computes together are alike, and long ones come first. A
        // stable sort would allocate.
        rows.sort_unstable_by_key(|&row| (Reverse(length(row)), row));
        let (long, rest) = rows.split_at(rows.partition_point(|&row| length(row) > SEGMENT));
        let (medium, short) = rest.split_at(rest.partition_point(|&row| length(row) > SHORT_ROW));
        let segments = |row: u32| length(row).div_ceil(SEGMENT) as u32;

        let n_partial: usize = long.iter().map(|&row| segments(row) as usize).sum();
        let count = Counts {
            partial: n_partial as u64,
            medium: medium.len() as u64,
            short_row: short.len() as u64,
            long_row: long.len() as u64,
        };
        self.topologies.push(TopologyWords {
            pointers: self.pointers.len() as u64,
            indices: self.indices.len() as u64,
            work: self.work.len() as u64,
            n_targets: csr.len() as u64,
            n_sources: topology.size(orientation.indices()) as u64,
            n_indices: csr.indices.len() as u64,
            count,
        });
        let words = 2 * n_partial + medium.len() + short.len() + 2 * long.len();
        self.work
            .try_reserve(words)
            .map_err(|_| Error::OutOfMemory { what, bytes: words as u128 * size_of::<u32>() as u128 })?;
        self.work.extend(long.iter().flat_map(|&row| (0..segments(row)).flat_map(move |s| [row, s])));
        self.work.extend_from_slice(medium);
        self.work.extend_from_slice(short);
        let mut first = 0;
        for &row in long {
            self.work.extend([row, first]);
            first += segments(row);
        }
        self.pointers.extend_from_slice(csr.pointers);
        self.indices.extend_from_slice(csr.indices);
        Ok(())
    }
}

/// The tables of one orientation, on the device.
pub(super) struct Side {
    pub(super) topologies: Buffer<u64>,
    pub(super) pointers: Buffer<u32>,
    pub(super) indices: Buffer<u32>,
    pub(super) work: Buffer<u32>,
    pub(super) work_starts: Option<Buffer<u64>>,
    /// The lists' lengths of topology 0 for a replicated batch, and of all instances for a table.
    counts: Counts,
}

impl Side {
    fn new(batch: &Batch, orientation: Orientation, stream: &Arc<CudaStream>) -> Result<Self> {
        let mut side = HostSide::new(batch, orientation)?;
        let counts = side.start_work(batch)?;
        let HostSide { topologies, pointers, indices, work, work_starts } = side;
        let instances = batch.n_instances();
        Ok(Self {
            topologies: Buffer::from_slice("the topology table", stream, bytemuck::cast_slice(&topologies))?,
            pointers: Buffer::from_slice("the pointer table", stream, &pointers)?,
            indices: Buffer::from_slice("the index table", stream, &indices)?,
            work: Buffer::from_slice("the work lists", stream, &work)?,
            work_starts: instances
                .map(|_| Buffer::from_slice("the work starts", stream, &work_starts))
                .transpose()?,
            counts,
        })
    }

    pub(super) fn n_topologies(&self) -> usize {
        self.topologies.len() / words_of::<TopologyWords>()
    }

    /// The lengths of the lists of all instances of a call.
    pub(super) fn items(&self, batch: &Batch, instances: usize) -> Counts {
        match batch.is_replicated() {
            true => self.counts.map(|count| count * instances as u64),
            false => self.counts,
        }
    }
}

/// What is other in the tables of one orientation where only some instances of a table batch take part: the
/// others have no work.
pub(super) struct PartSide {
    work_starts: Buffer<u64>,
    counts: Counts,
}

impl PartSide {
    /// With the instances of the topologies that `takes_part` says. The context of `stream` must be current.
    pub(super) fn new(
        batch: &Batch,
        orientation: Orientation,
        takes_part: impl Fn(usize) -> bool,
        stream: &Arc<CudaStream>,
    ) -> Result<Self> {
        let mut side = HostSide::new(batch, orientation)?;
        let left_out = side.topologies.iter_mut().enumerate().filter(|&(id, _)| !takes_part(id));
        left_out.for_each(|(_, topology)| topology.count = Counts::zeroed());
        let counts = side.start_work(batch)?;
        Ok(Self { work_starts: Buffer::from_slice("the work starts", stream, &side.work_starts)?, counts })
    }

    /// What kernels are told, given what they are told of all instances. No work item leads to an instance
    /// without work, so the table of topologies is that of all.
    pub(super) fn instead_of(&self, all: TablesArgs) -> TablesArgs {
        TablesArgs { work_starts: self.work_starts.address(), items: self.counts, ..all }
    }
}

/// The chunks of instances in which a gradient is summed, on the host.
pub(super) struct HostChunks {
    pub(super) chunks: Vec<ChunkWords>,
    pub(super) members: Vec<u64>,
    pub(super) ranks: Vec<RankWords>,
    pub(super) counts: ChunkCounts,
}

/// The numbers of chunks and of their parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChunkCounts {
    pub(super) n_chunks: usize,
    pub(super) n_members: usize,
    pub(super) n_ranks: usize,
    /// The tiles, each of 32 rows of a chunk.
    pub(super) tiles: u64,
}

impl HostChunks {
    pub(super) fn new(batch: &Batch, axis: Axis, all: &Chunks) -> Result<Self> {
        let what = "the chunks of the gradients";
        let n_chunks = all.n_chunks();
        let mut chunks = try_with_capacity(what, n_chunks + 1)?;
        let mut tiles = 0;
        for (topology, offset, members) in all.chunks() {
            chunks.push(ChunkWords {
                offset: offset as u64,
                topology: topology as u64,
                first_member: members.start as u64,
                first_tile: tiles,
            });
            tiles += batch.topologies()[topology].size(axis).div_ceil(WARP as usize) as u64;
        }
        let mut members = try_with_capacity(what, all.order().len())?;
        members.extend(all.order().iter().map(|&g| u64::from(g)));
        // A search compares with the end's words, too, so they need right values.
        let first_member = members.len() as u64;
        chunks.push(ChunkWords { offset: 0, topology: 0, first_member, first_tile: tiles });
        // There are few ranks, however many chunks.
        let mut ranks = Vec::new();
        for rank in all.ranks(batch.topologies(), axis) {
            ranks.push(RankWords { first_chunk: rank.first_chunk as u64, width: rank.width as u64 });
        }
        let n_ranks = ranks.len();
        ranks.push(RankWords { first_chunk: n_chunks as u64, width: 0 });
        let counts = ChunkCounts { n_chunks, n_members: members.len(), n_ranks, tiles };
        Ok(Self { chunks, members, ranks, counts })
    }
}

/// The chunks of shared weights (or scales) of a table batch, on the device.
pub(super) struct ChunkTables {
    chunks: Buffer<u64>,
    members: Buffer<u64>,
    ranks: Buffer<u64>,
    pub(super) counts: ChunkCounts,
}

impl ChunkTables {
    fn new(batch: &Batch, axis: Axis, all: &Chunks, stream: &Arc<CudaStream>) -> Result<Self> {
        let HostChunks { chunks, members, ranks, counts } = HostChunks::new(batch, axis, all)?;
        let what = "the chunks of the gradients";
        Ok(Self {
            chunks: Buffer::from_slice(what, stream, bytemuck::cast_slice(&chunks))?,
            members: Buffer::from_slice(what, stream, &members)?,
            ranks: Buffer::from_slice(what, stream, bytemuck::cast_slice(&ranks))?,
            counts,
        })
    }

    /// Where chunks, members and ranks start.
    pub(super) fn addresses(&self) -> [sys::CUdeviceptr; 3] {
        [self.chunks.address(), self.members.address(), self.ranks.address()]
    }
}

/// All tables of a batch, on the device.
pub(super) struct Tables {
    pub(super) by_edge: Side,
    pub(super) by_vertex: Side,
    /// `None` for a replicated batch.
    pub(super) instances: Option<InstanceTables>,
    dense: DenseTables,
    /// Whether a vertex had a single incidence when they were uploaded.
    pub(super) has_single_incidences: bool,
    /// Whether they were overwritten after they had been validated.
    pub(super) overwritten: bool,
}

/// The tables that only a table batch has.
pub(super) struct InstanceTables {
    pub(super) topology_ids: Buffer<u32>,
    pub(super) vertex_starts: Buffer<u64>,
    pub(super) hyperedge_starts: Buffer<u64>,
    vertex_chunks: ChunkTables,
    hyperedge_chunks: ChunkTables,
}

impl InstanceTables {
    pub(super) fn chunks(&self, axis: Axis) -> &ChunkTables {
        match axis {
            Axis::Vertex => &self.vertex_chunks,
            Axis::Hyperedge => &self.hyperedge_chunks,
        }
    }

    pub(super) fn starts(&self, axis: Axis) -> &Buffer<u64> {
        match axis {
            Axis::Vertex => &self.vertex_starts,
            Axis::Hyperedge => &self.hyperedge_starts,
        }
    }
}

impl TablesArgs {
    /// What kernels are told of the tables for a call with this many instances, which have `totals` rows of
    /// vertices and of hyperedges.
    pub(super) fn new(
        batch: &Batch,
        tables: &Tables,
        orientation: Orientation,
        instances: usize,
        totals: [usize; 2],
    ) -> Self {
        let side: &Side = tables.side(orientation);
        let table = tables.instances.as_ref();
        let starts = |axis| table.map_or(0, |t| t.starts(axis).address());
        let (targets, sources) = (orientation.rows(), orientation.indices());
        Self {
            topologies: side.topologies.address(),
            pointers: side.pointers.address(),
            indices: side.indices.address(),
            work: side.work.address(),
            topology_ids: table.map_or(0, |t| t.topology_ids.address()),
            work_starts: side.work_starts.as_ref().map_or(0, |w| w.address()),
            target_starts: starts(targets),
            source_starts: starts(sources),
            n_topologies: side.n_topologies() as u64,
            n_pointers: side.pointers.len() as u64,
            n_indices: side.indices.len() as u64,
            n_work: side.work.len() as u64,
            instances: instances as u64,
            n_targets: totals[targets as usize] as u64,
            n_sources: totals[sources as usize] as u64,
            largest_targets: batch.largest(targets) as u32,
            largest_sources: batch.largest(sources) as u32,
            items: side.items(batch, instances),
            orientation: orientation as u32,
            padding: 0,
        }
    }
}

/// A table in the width that it has on the device.
enum Words<'a> {
    U32(&'a Buffer<u32>),
    U64(&'a Buffer<u64>),
    None,
}

impl Tables {
    /// Uploads the tables of a batch, and waits for it. The context of `stream` must be current.
    pub(super) fn new(batch: &Batch, stream: &Arc<CudaStream>) -> Result<Self> {
        let instances = match batch.n_instances() {
            None => None,
            Some(instances) => {
                let mut ids = try_with_capacity("the topology ids", instances)?;
                ids.extend((0..instances).map(|g| batch.topology_id(g) as u32));
                let starts = |axis| -> Result<_> {
                    let what = "the starts of the instances";
                    let mut starts = try_with_capacity(what, instances + 1)?;
                    starts.extend((0..=instances).map(|g| batch.start(axis, g) as u64));
                    Buffer::from_slice(what, stream, &starts)
                };
                let chunks = |axis| {
                    let chunks = batch.chunks(axis).expect("a table batch has them");
                    ChunkTables::new(batch, axis, chunks, stream)
                };
                Some(InstanceTables {
                    topology_ids: Buffer::from_slice("the topology ids", stream, &ids)?,
                    vertex_starts: starts(Axis::Vertex)?,
                    hyperedge_starts: starts(Axis::Hyperedge)?,
                    vertex_chunks: chunks(Axis::Vertex)?,
                    hyperedge_chunks: chunks(Axis::Hyperedge)?,
                })
            }
        };
        let has_single = |t: &Incidence| t.by_vertex().rows().any(|edges| edges.len() == 1);
        Ok(Self {
            has_single_incidences: batch.topologies().iter().any(has_single),
            by_edge: Side::new(batch, Orientation::ByEdge, stream)?,
            by_vertex: Side::new(batch, Orientation::ByVertex, stream)?,
            dense: DenseTables::new(batch, stream)?,
            instances,
            overwritten: false,
        })
    }

    pub(super) fn side(&self, orientation: Orientation) -> &Side {
        match orientation {
            Orientation::ByEdge => &self.by_edge,
            Orientation::ByVertex => &self.by_vertex,
        }
    }

    /// What dense operators are formed from.
    pub(super) fn dense(&self) -> &DenseTables {
        &self.dense
    }

    /// The chunks of shared weights along `axis`, of a table batch.
    pub(super) fn chunks(&self, axis: Axis) -> Option<&ChunkTables> {
        self.instances.as_ref().map(|instances| instances.chunks(axis))
    }

    pub(super) fn bytes(&self) -> usize {
        Table::ALL.iter().map(|&table| self.words(table).bytes()).sum()
    }

    fn words(&self, table: Table) -> Words<'_> {
        let instances = self.instances.as_ref();
        let chunks = |o: Orientation, of: fn(&ChunkTables) -> &Buffer<u64>| {
            instances.map_or(Words::None, |i| Words::U64(of(i.chunks(o.rows()))))
        };
        match table {
            Table::Chunks(o) => chunks(o, |c| &c.chunks),
            Table::Members(o) => chunks(o, |c| &c.members),
            Table::Ranks(o) => chunks(o, |c| &c.ranks),
            Table::Topologies(o) => Words::U64(&self.side(o).topologies),
            Table::Pointers(o) => Words::U32(&self.side(o).pointers),
            Table::Indices(o) => Words::U32(&self.side(o).indices),
            Table::Work(o) => Words::U32(&self.side(o).work),
            Table::WorkStarts(o) => self.side(o).work_starts.as_ref().map_or(Words::None, Words::U64),
            Table::TopologyIds => instances.map_or(Words::None, |i| Words::U32(&i.topology_ids)),
            Table::VertexStarts => instances.map_or(Words::None, |i| Words::U64(&i.vertex_starts)),
            Table::HyperedgeStarts => instances.map_or(Words::None, |i| Words::U64(&i.hyperedge_starts)),
            Table::DenseTopologies => Words::U64(&self.dense.topologies),
            Table::Neighbors => Words::U32(&self.dense.neighbors),
            Table::Pairs => Words::U32(&self.dense.pairs),
            Table::PairLists => Words::U32(&self.dense.lists),
        }
    }

    /// A copy of a table. The context must be current.
    pub(super) fn read(&self, table: Table) -> Result<Vec<u64>> {
        match self.words(table) {
            Words::U32(buffer) => {
                let mut values = try_zeroed("a copy of a table", buffer.len())?;
                buffer.read(0, &mut values)?;
                let mut wide = try_with_capacity("a copy of a table", values.len())?;
                wide.extend(values.into_iter().map(u64::from));
                Ok(wide)
            }
            Words::U64(buffer) => {
                let mut values = try_zeroed("a copy of a table", buffer.len())?;
                buffer.read(0, &mut values)?;
                Ok(values)
            }
            Words::None => Ok(Vec::new()),
        }
    }

    /// Overwrites a part of a table. The context must be current, and nothing may be using the tables.
    pub(super) fn write(&mut self, table: Table, position: usize, values: &[u64]) -> Result<()> {
        let (words, name) = (self.words(table), table.name());
        let room = words.len().checked_sub(position);
        if room.is_none_or(|room| values.len() > room) {
            let value = position.saturating_add(values.len());
            return Err(Error::TableRange { table: name, position, value, bound: words.len() });
        }
        let mut narrow: Vec<u32> = Vec::new();
        if let Words::U32(_) = words {
            narrow = try_with_capacity("the values of a table", values.len())?;
            for (i, &value) in values.iter().enumerate() {
                match u32::try_from(value) {
                    Ok(value) => narrow.push(value),
                    Err(_) => {
                        let (table, position) = (name, position + i);
                        return Err(Error::TableValue { table, position, value, bound: 1 << 32 });
                    }
                }
            }
        }
        // Before the copy: it may fail half-way.
        self.overwritten = true;
        match self.words(table) {
            Words::U32(buffer) => buffer.write(position, &narrow),
            Words::U64(buffer) => buffer.write(position, values),
            Words::None => Ok(()),
        }
    }
}

impl Words<'_> {
    fn len(&self) -> usize {
        match self {
            Self::U32(buffer) => buffer.len(),
            Self::U64(buffer) => buffer.len(),
            Self::None => 0,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::U32(buffer) => buffer.bytes(),
            Self::U64(buffer) => buffer.bytes(),
            Self::None => 0,
        }
    }
}
