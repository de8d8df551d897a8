//! The kernels by name, and what they share in their arguments.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::{CudaFunction, result, sys};

use super::device::{Device, File};
use super::driver::failed;
use super::tables::{Counts, Orientation, SHORT_ROW, Side, Tables};
use super::{Checks, DeviceElement};
use crate::batch::Batch;
use crate::error::Result;

/// As `THREADS` in `kernels/tables.cuh`.
pub(super) const THREADS: u32 = 128;
pub(super) const WARP: u32 = 32;
const WARPS: u64 = (THREADS / WARP) as u64;

/// As in the kernel files: each lane of a warp loads one index of a short row.
const ROWS_OF_SHORT_TILE: u64 = WARP as u64 / SHORT_ROW as u64;

/// The largest grid in x and in y.
const MAX_GRID_X: u64 = (1 << 31) - 1;
const MAX_GRID_Y: u32 = 65_535;

/// The kernels that may report a violation, with the numbers that they do it by: as `Kernel` in `kernels/tables.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    Gather,
    AddPartials,
    /// Rows of the accumulation type are gathered into 16-bit ones; for other types it is `Gather`.
    GatherSums,
    Degree,
    AddDegree,
    WeightGradient,
    AddWeightGradient,
    Pull,
    SumChunks,
    SumWindows,
    EdgeShift,
    AddEdgeShift,
    /// Reads no table, and so reports nothing.
    DegreeGradient,
}

impl Kernel {
    const COUNT: usize = 13;

    const ALL: [Self; Self::COUNT] = [
        Self::Gather,
        Self::AddPartials,
        Self::GatherSums,
        Self::Degree,
        Self::AddDegree,
        Self::WeightGradient,
        Self::AddWeightGradient,
        Self::Pull,
        Self::SumChunks,
        Self::SumWindows,
        Self::EdgeShift,
        Self::AddEdgeShift,
        Self::DegreeGradient,
    ];

    fn file(self) -> File {
        match self {
            Self::Gather | Self::AddPartials | Self::GatherSums => File::Gather,
            Self::Degree
            | Self::AddDegree
            | Self::WeightGradient
            | Self::AddWeightGradient
            | Self::EdgeShift
            | Self::AddEdgeShift
            | Self::DegreeGradient => File::Degree,
            Self::Pull | Self::SumChunks | Self::SumWindows => File::Windows,
        }
    }
}

/// The names of the kernels of one element type, by number.
pub type Names = [&'static str; Kernel::COUNT];

/// The names for an element type and its accumulation type, and where rows of sums are gathered.
macro_rules! names {
    ($t:literal, $acc:literal, $gather_sums:literal) => {
        [
            &[
                concat!("gather_", $t),
                concat!("add_partials_", $t),
                $gather_sums,
                concat!("degree_", $acc),
                concat!("add_degree_", $acc),
                "weight_gradient",
                "add_weight_gradient",
                concat!("pull_", $acc),
                concat!("sum_chunks_", $acc),
                concat!("sum_windows_", $acc),
                concat!("edge_shift_", $acc),
                concat!("add_edge_shift_", $acc),
                concat!("degree_gradient_", $acc),
            ],
            &[
                concat!("gather_", $t, "_checked"),
                concat!("add_partials_", $t, "_checked"),
                concat!($gather_sums, "_checked"),
                concat!("degree_", $acc, "_checked"),
                concat!("add_degree_", $acc, "_checked"),
                "weight_gradient_checked",
                "add_weight_gradient_checked",
                concat!("pull_", $acc, "_checked"),
                concat!("sum_chunks_", $acc, "_checked"),
                concat!("sum_windows_", $acc, "_checked"),
                concat!("edge_shift_", $acc, "_checked"),
                concat!("add_edge_shift_", $acc, "_checked"),
                concat!("degree_gradient_", $acc),
            ],
        ]
    };
}
pub(super) use names;

/// The kernels for one element type, with or without checks.
#[derive(Clone)]
pub(super) struct Kernels {
    functions: [CudaFunction; Kernel::COUNT],
    names: &'static Names,
}

impl Kernels {
    /// The context must be current.
    pub(super) fn load<T: DeviceElement>(device: &Device, checks: Checks) -> Result<Self> {
        let names = T::kernels(checks);
        let mut functions = Vec::with_capacity(Kernel::COUNT);
        for (kernel, name) in Kernel::ALL.into_iter().zip(names) {
            let module = device.module(kernel.file())?;
            functions.push(module.load_function(name).map_err(|e| failed("loading a kernel", e))?);
        }
        let Ok(functions) = functions.try_into() else { unreachable!("as many functions as kernels") };
        Ok(Self { functions, names })
    }

    pub(super) fn name(&self, kernel: Kernel) -> &'static str {
        self.names[kernel as usize]
    }

    /// The name of a kernel by the number that it reports.
    pub(super) fn name_of(&self, number: u32) -> &'static str {
        self.names.get(number as usize).copied().unwrap_or("an unknown kernel")
    }

    /// Queues a launch, if there is something to do: `warps` warps, and in y `blocks` blocks of features.
    ///
    /// # Safety
    /// The kernel takes one argument, an `A`, and what it does with it is sound; the context is current.
    pub(super) unsafe fn launch<A: Pod>(
        &self,
        kernel: Kernel,
        stream: sys::CUstream,
        warps: u64,
        blocks: u32,
        arguments: &A,
    ) -> Result<()> {
        if warps == 0 || blocks == 0 {
            return Ok(());
        }
        let function = &self.functions[kernel as usize];
        let grid = (warps.div_ceil(WARPS).min(MAX_GRID_X) as u32, blocks.min(MAX_GRID_Y), 1);
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        // SAFETY: the driver only reads the argument; the caller promises the rest.
        unsafe {
            result::launch_kernel(function.cu_function(), grid, (THREADS, 1, 1), 0, stream, &mut parameters)
        }
        .map_err(|e| failed("launching a kernel", e))
    }
}

/// As `Tables` in `kernels/tables.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct TablesArgs {
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
    pub(super) n_targets: u64,
    n_sources: u64,
    largest_targets: u32,
    largest_sources: u32,
    pub(super) items: Counts,
    orientation: u32,
    padding: u32,
}

impl TablesArgs {
    pub(super) fn new(
        batch: &Batch,
        tables: &Tables,
        orientation: Orientation,
        instances: usize,
    ) -> Result<Self> {
        let side: &Side = tables.side(orientation);
        let table = tables.instances.as_ref();
        let starts = |axis| table.map_or(0, |t| t.starts(axis).address());
        let (targets, sources) = (orientation.rows(), orientation.indices());
        Ok(Self {
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
            n_targets: batch.total(targets, instances)? as u64,
            n_sources: batch.total(sources, instances)? as u64,
            largest_targets: batch.largest(targets) as u32,
            largest_sources: batch.largest(sources) as u32,
            items: side.items(batch, instances),
            orientation: orientation as u32,
            padding: 0,
        })
    }

    /// All rows as those of a single instance. The tables of topologies no longer fit then.
    pub(super) fn as_one_instance(self) -> Self {
        Self { topology_ids: 0, work_starts: 0, target_starts: 0, source_starts: 0, instances: 1, ..self }
    }
}

/// As `Tiles` in `kernels/tables.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Tiles {
    partial: u64,
    groups: u64,
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
    values: sys::CUdeviceptr,
    len: u64,
    offsets: sys::CUdeviceptr,
    windows: u32,
    skip_zero: u32,
}

impl ScaleArgs {
    pub(super) fn none() -> Self {
        Self::zeroed()
    }

    /// One set of factors for all instances.
    pub(super) fn shared(values: sys::CUdeviceptr, len: usize) -> Self {
        Self { values, len: len as u64, offsets: 0, windows: WindowKind::Shared as u32, skip_zero: 0 }
    }

    /// A factor for each row of the batch.
    pub(super) fn consecutive(values: sys::CUdeviceptr, len: usize) -> Self {
        Self { windows: WindowKind::Consecutive as u32, ..Self::shared(values, len) }
    }

    /// Factors at the offset of each instance.
    pub(super) fn table(values: sys::CUdeviceptr, len: usize, offsets: sys::CUdeviceptr) -> Self {
        Self { offsets, windows: WindowKind::Table as u32, ..Self::shared(values, len) }
    }

    /// Rows whose factor is 0 are left out instead of multiplied.
    pub(super) fn skipping_zeros(self) -> Self {
        Self { skip_zero: 1, ..self }
    }
}

// As the kernel files assert it: neither side may move a field alone.
const _: () = {
    assert!(size_of::<TablesArgs>() == 168 && size_of::<Tiles>() == 32 && size_of::<ScaleArgs>() == 32);
    assert!(offset_of!(TablesArgs, n_topologies) == 64 && offset_of!(TablesArgs, instances) == 96);
    assert!(offset_of!(TablesArgs, largest_targets) == 120 && offset_of!(TablesArgs, items) == 128);
    assert!(offset_of!(TablesArgs, orientation) == 160 && offset_of!(ScaleArgs, windows) == 24);
};
