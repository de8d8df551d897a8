//! The kernels by name, and how they are loaded and launched.

#![allow(unsafe_code)]

use std::ffi::c_void;

use bytemuck::Pod;
use cudarc::driver::{CudaFunction, result, sys};

pub(super) use super::args::Kernel;
use super::device::{Device, module};
use super::driver::failed;
use super::geometry::{Grid, THREADS};
use crate::error::{Error, Result};
use crate::path::Path;

/// The kernel files of `kernels/`, each of which is a module for each type, with checks and without, and
/// that of the gathers that only batches with long rows need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Gather,
    GatherLong,
    Degree,
    WeightGradient,
    RowScale,
    InstanceSums,
    SingleBlock,
}

impl File {
    const COUNT: usize = 7;
}

impl Kernel {
    fn file(self) -> File {
        match self {
            Self::Gather | Self::GatherSums => File::Gather,
            Self::AddPartials => File::GatherLong,
            Self::Degree | Self::EdgeShift | Self::DegreeGradient => File::Degree,
            Self::WeightGradient => File::WeightGradient,
            Self::RowScale => File::RowScale,
            Self::SumChunks | Self::SumWindows => File::InstanceSums,
            Self::SingleBlock => File::SingleBlock,
        }
    }
}

/// Which kernels an element type has, with checks or without.
#[derive(Debug)]
pub struct KernelSet {
    /// Their names, in the order of `Kernel`.
    pub names: [&'static str; Kernel::COUNT],
    /// The numbers of the modules that have them, in the order of `File`.
    modules: [usize; File::COUNT],
}

impl KernelSet {
    #[doc(hidden)]
    pub const fn new(names: [&'static str; Kernel::COUNT], modules: [&str; File::COUNT]) -> Self {
        let mut numbers = [0; File::COUNT];
        let mut file = 0;
        while file < File::COUNT {
            numbers[file] = module(modules[file]);
            file += 1;
        }
        Self { names, modules: numbers }
    }
}

/// The kernels of an element type, given that of its sums, the kernel that gathers rows of sums, and how
/// names end.
macro_rules! kernel_set {
    ($t:literal, $acc:literal, $gather_sums:literal, $checks:literal) => {
        KernelSet::new(
            [
                concat!("gather_", $t, $checks),
                concat!("add_partials_", $t, $checks),
                concat!($gather_sums, $checks),
                concat!("degree_", $acc, $checks),
                concat!("weight_gradient", $checks),
                concat!("row_scale_", $acc, $checks),
                concat!("sum_chunks_", $acc, $checks),
                concat!("sum_windows_", $acc, $checks),
                concat!("edge_shift_", $acc, $checks),
                concat!("degree_gradient_", $acc, $checks),
                concat!("conv_single_block_", $t, $checks),
            ],
            [
                concat!("gather_", $t, $checks),
                concat!("gather_", $t, "_long", $checks),
                concat!("degree_", $acc, $checks),
                concat!("weight_gradient", $checks),
                concat!("row_scale_", $acc, $checks),
                concat!("instance_sums_", $acc, $checks),
                concat!("single_block_", $t, $checks),
            ],
        )
    };
}
pub(super) use kernel_set;

/// What of a plan decides which kernels it needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs<'a> {
    /// Whether rows of the batch are summed in segments.
    pub(super) long_rows: bool,
    /// The paths that its instances are on.
    pub(super) paths: &'a [Path],
}

impl Needs<'_> {
    fn includes(self, file: File) -> bool {
        match file {
            File::GatherLong => self.long_rows,
            File::SingleBlock => self.paths.contains(&Path::SingleBlock),
            File::Gather | File::Degree | File::WeightGradient | File::RowScale | File::InstanceSums => true,
        }
    }
}

/// The kernels for one element type, with or without checks.
#[derive(Clone)]
pub(super) struct Kernels {
    /// None of those whose module no call of the plan needs.
    functions: [Option<CudaFunction>; Kernel::COUNT],
    set: &'static KernelSet,
}

impl Kernels {
    /// Loads what is needed and not loaded yet. The context must be current.
    pub(super) fn load(device: &Device, set: &'static KernelSet, needs: Needs<'_>) -> Result<Self> {
        let mut functions = [const { None }; Kernel::COUNT];
        for &kernel in Kernel::ALL {
            let file = kernel.file();
            if !needs.includes(file) {
                continue;
            }
            let function =
                device.module(set.modules[file as usize])?.load_function(set.names[kernel as usize]);
            functions[kernel as usize] = Some(function.map_err(|e| failed("loading a kernel", e))?);
        }
        Ok(Self { functions, set })
    }

    pub(super) fn name(&self, kernel: Kernel) -> &'static str {
        self.set.names[kernel as usize]
    }

    /// The name of a kernel by the number that it reports.
    pub(super) fn name_of(&self, number: u32) -> &'static str {
        Kernel::numbered(number).map_or("an unknown kernel", |kernel| self.name(kernel))
    }

    /// Queues a launch, if there is something to do.
    ///
    /// # Errors
    /// [`Error::KernelNotLoaded`] for a kernel that the plan was made without.
    ///
    /// # Safety
    /// The kernel takes one argument, an `A`, and what it does with it is sound; the context is current.
    pub(super) unsafe fn launch<A: Pod>(
        &self,
        kernel: Kernel,
        stream: sys::CUstream,
        grid: Grid,
        arguments: &A,
    ) -> Result<()> {
        if grid.is_empty() {
            return Ok(());
        }
        let Some(function) = &self.functions[kernel as usize] else {
            return Err(Error::KernelNotLoaded { kernel: self.name(kernel) });
        };
        let (blocks, shared_bytes) = (grid.dimensions(), grid.shared_bytes());
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        // SAFETY: the driver only reads the argument; the caller promises the rest.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                blocks,
                (THREADS, 1, 1),
                shared_bytes,
                stream,
                &mut parameters,
            )
        }
        .map_err(|e| failed("launching a kernel", e))
    }
}
