//! The structures that kernels take and write, field for field as in `kernels/`.
//!
//! They have no padding and hold numbers alone: an address is a `u64`, and 0 where there is nothing. What fills them from
//! batches, tables and operands is with those.

#![allow(unsafe_code)]

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::geometry::{ROWS_OF_SHORT_TILE, WARP};

/// An address of device memory.
pub(super) type Address = u64;

/// A number for each list of rows, as `Counts` in `kernels/tables.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct Counts {
    pub(super) partial: u64,
    pub(super) medium: u64,
    pub(super) short: u64,
    pub(super) long: u64,
}

/// As `Topology` in `kernels/tables.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct TopologyWords {
    pub(super) pointers: u64,
    pub(super) indices: u64,
    pub(super) work: u64,
    pub(super) n_rows: u64,
    pub(super) n_sources: u64,
    pub(super) n_indices: u64,
    pub(super) count: Counts,
}

pub(super) const TOPOLOGY_WORDS: usize = size_of::<TopologyWords>() / size_of::<u64>();
const _: () = assert!(TOPOLOGY_WORDS == 10);

/// As `Tables` in `kernels/tables.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct TablesArgs {
    pub(super) topologies: Address,
    pub(super) pointers: Address,
    pub(super) indices: Address,
    pub(super) work: Address,
    pub(super) topology_ids: Address,
    pub(super) work_starts: Address,
    pub(super) target_starts: Address,
    pub(super) source_starts: Address,
    pub(super) n_topologies: u64,
    pub(super) n_pointers: u64,
    pub(super) n_indices: u64,
    pub(super) n_work: u64,
    pub(super) instances: u64,
    pub(super) n_targets: u64,
    pub(super) n_sources: u64,
    pub(super) largest_targets: u32,
    pub(super) largest_sources: u32,
    pub(super) items: Counts,
    pub(super) orientation: u32,
    pub(super) padding: u32,
}

impl TablesArgs {
    /// All rows as those of a single instance. The tables of topologies no longer fit then.
    pub(super) fn as_one_instance(self) -> Self {
        Self { topology_ids: 0, work_starts: 0, target_starts: 0, source_starts: 0, instances: 1, ..self }
    }
}

/// As `Tiles` in `kernels/tables.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Tiles {
    pub(super) partial: u64,
    pub(super) groups: u64,
    pub(super) all: u64,
    pub(super) long: u64,
}

impl Tiles {
    /// A tile is a row for each group of `lanes` lanes of a warp, or four short rows.
    pub(super) fn new(items: Counts, lanes: u32) -> Self {
        let of_groups = |items: u64| items.div_ceil(u64::from(WARP / lanes));
        let partial = of_groups(items.partial);
        let groups = partial + of_groups(items.medium);
        Self {
            partial,
            groups,
            all: groups + items.short.div_ceil(ROWS_OF_SHORT_TILE),
            long: of_groups(items.long),
        }
    }
}

/// How an instance finds its factors, as `Windows` in `kernels/tables.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WindowKind {
    Shared = 1,
    Consecutive = 2,
    Table = 3,
}

/// As `Scale` in `kernels/tables.cuh`; zeros where there is none.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct ScaleArgs {
    values: Address,
    len: u64,
    offsets: Address,
    windows: u32,
    skip_zero: u32,
}

impl ScaleArgs {
    pub(super) fn none() -> Self {
        Self::zeroed()
    }

    /// One set of factors for all instances.
    pub(super) fn shared(values: Address, len: usize) -> Self {
        Self { values, len: len as u64, offsets: 0, windows: WindowKind::Shared as u32, skip_zero: 0 }
    }

    /// A factor for each row of the batch.
    pub(super) fn consecutive(values: Address, len: usize) -> Self {
        Self { windows: WindowKind::Consecutive as u32, ..Self::shared(values, len) }
    }

    /// Factors at the offset of each instance.
    pub(super) fn table(values: Address, len: usize, offsets: Address) -> Self {
        Self { offsets, windows: WindowKind::Table as u32, ..Self::shared(values, len) }
    }

    /// Rows whose factor is 0 are left out instead of multiplied.
    pub(super) fn skipping_zeros(self) -> Self {
        Self { skip_zero: 1, ..self }
    }
}

/// As `Violation` in `kernels/common.cuh`, which a kernel writes.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Violation {
    pub(super) ready: u32,
    pub(super) kernel: u32,
    pub(super) table: u32,
    pub(super) orientation: u32,
    pub(super) instance: u64,
    pub(super) position: u64,
    pub(super) value: u64,
    pub(super) bound: u64,
}

/// As `Record` in `kernels/common.cuh`; zeros where there are no checks.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct RecordArgs {
    pub(super) claim: Address,
    pub(super) published: Address,
}

impl RecordArgs {
    /// Where nothing is checked.
    pub(super) fn none() -> Self {
        Self::zeroed()
    }
}

/// As `Rows` in `kernels/gather.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct RowsArgs {
    pub(super) data: Address,
    pub(super) row_stride: u64,
    pub(super) instance_stride: u64,
    pub(super) packed: u32,
    pub(super) padding: u32,
}

/// As `GatherArgs` in `kernels/gather.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct GatherArgs {
    pub(super) tables: TablesArgs,
    pub(super) tiles: Tiles,
    pub(super) sources: RowsArgs,
    pub(super) targets: RowsArgs,
    pub(super) others: RowsArgs,
    pub(super) source_scale: ScaleArgs,
    pub(super) target_scale: ScaleArgs,
    pub(super) source_shifts: Address,
    pub(super) target_shifts: Address,
    pub(super) dots: Address,
    pub(super) partials: Address,
    pub(super) record: RecordArgs,
    pub(super) features: u32,
    pub(super) lanes: u32,
    pub(super) mean: u32,
    pub(super) add: u32,
    pub(super) aligned: u32,
    pub(super) wide: u32,
    pub(super) feature_blocks: u32,
    pub(super) padding: u32,
}

/// As `SumArgs` in `kernels/degree.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct SumArgs {
    pub(super) tables: TablesArgs,
    pub(super) tiles: Tiles,
    pub(super) values: ScaleArgs,
    pub(super) partials: Address,
    pub(super) record: RecordArgs,
    pub(super) degree: Address,
    pub(super) left: Address,
    pub(super) weight_left: Address,
    pub(super) vertex_shifts: Address,
    pub(super) edge_shifts: Address,
    pub(super) dots: Address,
    pub(super) gradient: Address,
    pub(super) dot_blocks: u32,
    pub(super) least_exponent: i32,
    pub(super) plain_exponents: i32,
    pub(super) shifts_of_degree: u32,
}

/// As `DegreeGradientArgs` in `kernels/degree.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct DegreeGradientArgs {
    pub(super) degree: Address,
    pub(super) left: Address,
    pub(super) weight_left: Address,
    pub(super) shifts: Address,
    pub(super) dots_y: Address,
    pub(super) dots_x: Address,
    pub(super) gradient: Address,
    pub(super) n_vertices: u64,
    pub(super) dot_blocks: u32,
    pub(super) shifts_of_degree: u32,
}

/// As `RowScaleArgs` in `kernels/windows.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct RowScaleArgs {
    pub(super) tables: TablesArgs,
    pub(super) scale: ScaleArgs,
    pub(super) shifts: Address,
    pub(super) row_scale: Address,
    pub(super) record: RecordArgs,
    pub(super) mean: u32,
    pub(super) shifts_of_degree: u32,
}

/// As `GradientArgs` in `kernels/windows.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct GradientArgs {
    pub(super) tables: TablesArgs,
    pub(super) chunks: Address,
    pub(super) members: Address,
    pub(super) classes: Address,
    pub(super) n_chunks: u64,
    pub(super) n_members: u64,
    pub(super) n_classes: u64,
    pub(super) chunk_len: u64,
    pub(super) n_rows: u64,
    pub(super) tiles: u64,
    pub(super) values: Address,
    pub(super) sums: Address,
    pub(super) gradient: Address,
    pub(super) n_slots: u64,
    pub(super) record: RecordArgs,
    pub(super) blocks: u32,
    pub(super) add: u32,
    pub(super) direct: u32,
    pub(super) lanes: u32,
}

// As the kernel files assert it: neither side may move a field alone.
const _: () = {
    assert!(size_of::<TablesArgs>() == 168 && size_of::<Tiles>() == 32 && size_of::<ScaleArgs>() == 32);
    assert!(offset_of!(TablesArgs, n_topologies) == 64 && offset_of!(TablesArgs, instances) == 96);
    assert!(offset_of!(TablesArgs, largest_targets) == 120 && offset_of!(TablesArgs, items) == 128);
    assert!(offset_of!(TablesArgs, orientation) == 160 && offset_of!(ScaleArgs, windows) == 24);
    assert!(size_of::<Violation>() == 48 && offset_of!(Violation, instance) == 16);
    assert!(size_of::<RecordArgs>() == 16 && size_of::<RowsArgs>() == 32 && size_of::<GatherArgs>() == 440);
    assert!(offset_of!(GatherArgs, tiles) == 168 && offset_of!(GatherArgs, sources) == 200);
    assert!(offset_of!(GatherArgs, source_scale) == 296 && offset_of!(GatherArgs, dots) == 376);
    assert!(offset_of!(GatherArgs, source_shifts) == 360);
    assert!(offset_of!(GatherArgs, record) == 392 && offset_of!(GatherArgs, features) == 408);
    assert!(size_of::<SumArgs>() == 328 && size_of::<DegreeGradientArgs>() == 72);
    assert!(offset_of!(SumArgs, values) == 200 && offset_of!(SumArgs, partials) == 232);
    assert!(offset_of!(SumArgs, record) == 240 && offset_of!(SumArgs, degree) == 256);
    assert!(offset_of!(SumArgs, vertex_shifts) == 280 && offset_of!(SumArgs, gradient) == 304);
    assert!(offset_of!(SumArgs, least_exponent) == 316 && offset_of!(SumArgs, shifts_of_degree) == 324);
    assert!(offset_of!(DegreeGradientArgs, shifts) == 24);
    assert!(size_of::<RowScaleArgs>() == 240 && size_of::<GradientArgs>() == 304);
    assert!(offset_of!(RowScaleArgs, row_scale) == 208 && offset_of!(RowScaleArgs, mean) == 232);
    assert!(offset_of!(GradientArgs, n_chunks) == 192 && offset_of!(GradientArgs, values) == 240);
    assert!(offset_of!(GradientArgs, n_slots) == 264 && offset_of!(GradientArgs, blocks) == 288);
};
