//! The kernels by name, and how they are loaded and launched.

#![allow(unsafe_code)]

use std::ffi::c_void;

use bytemuck::Pod;
use cudarc::driver::{CudaFunction, result, sys};

pub(super) use super::args::Kernel;
use super::device::{Device, File};
use super::driver::failed;
use super::geometry::{MAX_GRID_X, MAX_GRID_Y, THREADS, WARPS_OF_BLOCK};
use super::{Checks, DeviceElement};
use crate::error::Result;

impl Kernel {
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
            Self::RowScale | Self::SumChunks | Self::SumWindows => File::Windows,
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
        for (kernel, name) in Kernel::ALL.iter().zip(names) {
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
        let grid = (warps.div_ceil(WARPS_OF_BLOCK).min(MAX_GRID_X) as u32, blocks.min(MAX_GRID_Y), 1);
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        // SAFETY: the driver only reads the argument; the caller promises the rest.
        unsafe {
            result::launch_kernel(function.cu_function(), grid, (THREADS, 1, 1), 0, stream, &mut parameters)
        }
        .map_err(|e| failed("launching a kernel", e))
    }
}
