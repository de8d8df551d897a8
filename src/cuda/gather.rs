//! The launches of `kernels/gather.cu`.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::{CudaFunction, CudaModule, CudaStream, result, sys};

use super::driver::failed;
use super::record::RecordArgs;
use super::tables::{Counts, Orientation, SHORT_ROW, Tables};
use super::{Checks, DeviceElement};
use crate::batch::Batch;
use crate::conv::Reduce;
use crate::error::Result;
use crate::rows::Placement;

/// As `THREADS` in the kernel file.
const THREADS: u32 = 128;
const WARP: u32 = 32;
const WARPS: u64 = (THREADS / WARP) as u64;

/// As in the kernel file: each lane of a warp loads one index of a short row.
const ROWS_OF_SHORT_TILE: u64 = WARP as u64 / SHORT_ROW as u64;

/// The bytes of a vector access, and so of a lane's features.
const VECTOR_BYTES: usize = 16;

/// The largest grid in x and in y.
const MAX_GRID_X: u64 = (1 << 31) - 1;
const MAX_GRID_Y: u32 = 65_535;

/// The two kernels for one element type, with or without checks.
#[derive(Clone)]
pub(super) struct Kernels {
    gather: CudaFunction,
    add_partials: CudaFunction,
    pub(super) names: [&'static str; 2],
}

impl Kernels {
    /// The context must be current.
    pub(super) fn load<T: DeviceElement>(module: &Arc<CudaModule>, checks: Checks) -> Result<Self> {
        let names = T::gather_kernels(checks);
        let load = |name| module.load_function(name).map_err(|e| failed("loading a kernel", e));
        Ok(Self { gather: load(names[0])?, add_partials: load(names[1])?, names })
    }
}

/// As `Rows` in the kernel file.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RowsArgs {
    data: sys::CUdeviceptr,
    row_stride: u64,
    instance_stride: u64,
    total: u64,
    packed: u32,
    largest: u32,
}

/// As `Tiles` in the kernel file.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Tiles {
    partial: u64,
    groups: u64,
    all: u64,
    long: u64,
}

impl Tiles {
    /// A tile is a row for each group of `lanes` lanes of a warp, or four short rows.
    fn new(items: Counts, lanes: u32) -> Self {
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

/// As `GatherArgs` in the kernel file.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GatherArgs {
    topologies: sys::CUdeviceptr,
    pointers: sys::CUdeviceptr,
    indices: sys::CUdeviceptr,
    work: sys::CUdeviceptr,
    topology_ids: sys::CUdeviceptr,
    work_starts: sys::CUdeviceptr,
    target_starts: sys::CUdeviceptr,
    source_starts: sys::CUdeviceptr,
    n_topologies: u64,
    n_pointers: u64,
    n_indices: u64,
    n_work: u64,
    instances: u64,
    items: Counts,
    tiles: Tiles,
    sources: RowsArgs,
    targets: RowsArgs,
    partials: sys::CUdeviceptr,
    record: RecordArgs,
    features: u32,
    lanes: u32,
    mean: u32,
    add: u32,
    aligned: u32,
    orientation: u32,
    feature_blocks: u32,
    padding: u32,
}

// As the kernel file asserts it: neither side may move a field alone.
const _: () = {
    assert!(size_of::<RowsArgs>() == 40 && size_of::<Tiles>() == 32 && size_of::<GatherArgs>() == 304);
    assert!(offset_of!(GatherArgs, n_topologies) == 64 && offset_of!(GatherArgs, instances) == 96);
    assert!(offset_of!(GatherArgs, items) == 104 && offset_of!(GatherArgs, tiles) == 136);
    assert!(offset_of!(GatherArgs, sources) == 168 && offset_of!(GatherArgs, targets) == 208);
    assert!(offset_of!(GatherArgs, partials) == 248 && offset_of!(GatherArgs, record) == 256);
    assert!(offset_of!(GatherArgs, features) == 272 && offset_of!(GatherArgs, orientation) == 292);
};

/// A feature operand on the device: where it starts, and where its rows lie.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) address: sys::CUdeviceptr,
    pub(super) placement: Placement,
}

impl Operand {
    fn args(self, batch: &Batch, axis: crate::batch::Axis, instances: usize) -> Result<RowsArgs> {
        let stride = self.placement.instance_stride();
        Ok(RowsArgs {
            data: self.address,
            row_stride: self.placement.row_stride() as u64,
            instance_stride: stride.unwrap_or(0) as u64,
            total: batch.total(axis, instances)? as u64,
            packed: stride.is_none().into(),
            largest: batch.largest(axis) as u32,
        })
    }

    /// Whether every row starts at a multiple of 16 bytes.
    fn is_aligned(self, size: usize) -> bool {
        let multiple = |elements: usize| elements.wrapping_mul(size).is_multiple_of(VECTOR_BYTES);
        self.address.is_multiple_of(VECTOR_BYTES as u64)
            && multiple(self.placement.row_stride())
            && multiple(self.placement.instance_stride().unwrap_or(0))
    }
}

/// The lanes that compute a row together: as many as its features fill, at least a quarter of a warp.
pub(super) fn lanes(features: usize, size: usize) -> u32 {
    match features.div_ceil(VECTOR_BYTES / size) {
        0..=8 => 8,
        9..=16 => 16,
        _ => 32,
    }
}

/// Whether rows of this many features can be read 16 bytes at a time, if addresses and strides allow it.
pub(super) fn whole_vectors(features: usize, size: usize) -> bool {
    (features * size).is_multiple_of(VECTOR_BYTES)
}

/// One gather over a whole batch.
pub(super) struct Gather<'a> {
    pub(super) batch: &'a Batch,
    pub(super) tables: &'a Tables,
    pub(super) orientation: Orientation,
    pub(super) instances: usize,
    pub(super) features: u32,
    pub(super) sources: Operand,
    pub(super) targets: Operand,
    pub(super) reduce: Reduce,
    pub(super) add: bool,
    pub(super) partials: sys::CUdeviceptr,
    pub(super) record: Option<RecordArgs>,
}

impl Gather<'_> {
    /// Queues the launches on `stream`: rows and segments, and the sums of long rows if there are some.
    ///
    /// # Safety
    /// The context of `stream` is current. Until the launches have ended, tables, scratch memory and record stay alive and
    /// are used by no other stream, the operands' memory stays alive with rows where their placements say, nobody else
    /// writes what is read or touches what is written, and sources and targets do not overlap. The tables are those of the
    /// batch, or `record` is given and the kernels are checked ones.
    pub(super) unsafe fn launch<T: DeviceElement>(
        &self,
        kernels: &Kernels,
        stream: &CudaStream,
    ) -> Result<()> {
        let Self { batch, tables, orientation, instances, .. } = *self;
        let side = tables.side(orientation);
        let instance_tables = tables.instances.as_ref();
        let starts = |axis| instance_tables.map_or(0, |t| t.starts(axis).address());
        let items = side.items(batch, instances);
        let lanes = lanes(self.features as usize, size_of::<T>());
        let tiles = Tiles::new(items, lanes);
        let feature_blocks = self.features.div_ceil(lanes * (VECTOR_BYTES / size_of::<T>()) as u32);
        let aligned = whole_vectors(self.features as usize, size_of::<T>())
            && self.sources.is_aligned(size_of::<T>())
            && self.targets.is_aligned(size_of::<T>());
        let mut args = GatherArgs {
            topologies: side.topologies.address(),
            pointers: side.pointers.address(),
            indices: side.indices.address(),
            work: side.work.address(),
            topology_ids: instance_tables.map_or(0, |t| t.topology_ids.address()),
            work_starts: side.work_starts.as_ref().map_or(0, |w| w.address()),
            target_starts: starts(orientation.rows()),
            source_starts: starts(orientation.indices()),
            n_topologies: side.n_topologies() as u64,
            n_pointers: side.pointers.len() as u64,
            n_indices: side.indices.len() as u64,
            n_work: side.work.len() as u64,
            instances: instances as u64,
            items,
            tiles,
            sources: self.sources.args(batch, orientation.indices(), instances)?,
            targets: self.targets.args(batch, orientation.rows(), instances)?,
            partials: self.partials,
            record: self.record.unwrap_or(RecordArgs::zeroed()),
            features: self.features,
            lanes,
            mean: (self.reduce == Reduce::Mean).into(),
            add: self.add.into(),
            aligned: aligned.into(),
            orientation: orientation as u32,
            feature_blocks,
            padding: 0,
        };
        for (function, tiles) in [(&kernels.gather, tiles.all), (&kernels.add_partials, tiles.long)] {
            if tiles == 0 || feature_blocks == 0 {
                continue;
            }
            let grid = (tiles.div_ceil(WARPS).min(MAX_GRID_X) as u32, feature_blocks.min(MAX_GRID_Y), 1);
            let mut parameters = [(&raw mut args).cast::<c_void>()];
            // SAFETY: the function takes one parameter, a `GatherArgs`, and the caller promises the rest.
            unsafe {
                result::launch_kernel(
                    function.cu_function(),
                    grid,
                    (THREADS, 1, 1),
                    0,
                    stream.cu_stream(),
                    &mut parameters,
                )
            }
            .map_err(|e| failed("launching a kernel", e))?;
        }
        Ok(())
    }
}
