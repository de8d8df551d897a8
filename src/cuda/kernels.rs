//! The kernels by name, and how they are loaded and launched.

#![allow(unsafe_code)]

use std::ffi::c_void;

use bytemuck::Pod;
use cudarc::driver::{CudaFunction, result, sys};

pub(super) use super::args::Kernel;
use super::device::{Device, module};
use super::driver::failed;
use super::geometry::Grid;
use crate::error::{Error, Result};

/// The number of no module.
const NO_MODULE: usize = usize::MAX;

/// Which kernels an element type has for plans with checks, or for those without.
#[derive(Debug)]
pub struct KernelSet {
    /// Their names, in the order of `Kernel`; empty where the type has none.
    pub names: [&'static str; Kernel::COUNT],
    /// The numbers of the modules that they are in, in the same order.
    modules: [usize; Kernel::COUNT],
    /// The kernel whose blocks copy rows to shared memory before they need them.
    staged: Option<Kernel>,
}

impl KernelSet {
    /// Of each kernel but those of layers, in any order, its name and that of its module. It does not compile
    /// with one that is missing or listed twice, or with a module that is not embedded.
    pub(super) const fn new(
        kernels: [(Kernel, &'static str, &str); Kernel::COUNT - Kernel::OF_LAYERS],
    ) -> Self {
        let mut set = Self { names: [""; Kernel::COUNT], modules: [NO_MODULE; Kernel::COUNT], staged: None };
        let mut i = 0;
        while i < kernels.len() {
            let (kernel, name, its_module) = kernels[i];
            // There are as many places as entries, so none stays empty.
            assert!(!kernel.is_of_layers(), "a kernel of layers is not for all types");
            assert!(set.names[kernel as usize].is_empty(), "a kernel is listed twice");
            set.names[kernel as usize] = name;
            set.modules[kernel as usize] = module(its_module);
            i += 1;
        }
        set
    }

    /// With kernels of layers, each alone in the module of its name.
    pub(super) const fn with_layers<const N: usize>(mut self, kernels: [(Kernel, &'static str); N]) -> Self {
        let mut i = 0;
        while i < kernels.len() {
            let (kernel, name) = kernels[i];
            assert!(kernel.is_of_layers(), "a kernel of others than layers");
            self.names[kernel as usize] = name;
            self.modules[kernel as usize] = module(name);
            i += 1;
        }
        self
    }

    /// With another kernel for one of these, alone in the module of its name, that has stages.
    pub(super) const fn with_stages(mut self, kernel: Kernel, name: &'static str) -> Self {
        self.names[kernel as usize] = name;
        self.modules[kernel as usize] = module(name);
        self.staged = Some(kernel);
        self
    }

    /// Whether the blocks of a kernel need shared memory for stages.
    pub(super) fn has_stages(&self, kernel: Kernel) -> bool {
        self.staged == Some(kernel)
    }

    pub(super) fn name(&self, kernel: Kernel) -> &'static str {
        self.names[kernel as usize]
    }

    /// The name of a kernel by the number that it reports.
    pub(super) fn name_of(&self, number: u32) -> &'static str {
        Kernel::numbered(number).map_or("an unknown kernel", |kernel| self.name(kernel))
    }
}

impl Kernel {
    /// Those that a type may not have, and that ask for more shared memory than others.
    const OF_LAYERS: usize = 8;

    const fn is_of_layers(self) -> bool {
        self as usize >= Self::COUNT - Self::OF_LAYERS
    }
}

/// The name of a kernel, or of a module, of a class of dense operators.
macro_rules! dense_name {
    ($class:literal, $t:literal) => {
        concat!("dense", $class, "_", $t)
    };
}
pub(super) use dense_name;

/// The kernels of an element type, given that of its sums, the kernel that gathers rows of sums, and how
/// names end. A module is a file of `kernels/` for a type.
macro_rules! kernel_set {
    ($t:literal, $acc:literal, $gather_sums:literal, $checks:literal) => {{
        const GATHER: &str = concat!("gather_", $t, $checks);
        const GATHER_LONG: &str = concat!("gather_", $t, "_long", $checks);
        const DEGREE: &str = concat!("degree_", $acc, $checks);
        const WEIGHT_GRADIENT: &str = concat!("weight_gradient", $checks);
        const ROW_SCALE: &str = concat!("row_scale_", $acc, $checks);
        const DENSE_FORM: &str = concat!("dense_form_", $acc, $checks);
        const DENSE_GRADIENT: &str = concat!("dense_gradient_", $acc, $checks);
        // With checks it finds what the kernels of rows take, which are the same for all plans.
        const DENSE_FIND: &str = "dense_find_checked";
        // A backward is alone in its module, which has its name.
        const BACKWARD_8: &str = dense_name!("8_backward", $t);
        const BACKWARD_16: &str = dense_name!("16_backward", $t);
        const BACKWARD_32: &str = dense_name!("32_backward", $t);
        const EPILOGUE: &str = concat!("epilogue_", $t, $checks);
        const ADD_SUMS: &str = concat!("add_sums_", $acc, $checks);
        const MATRIX: &str = concat!("matrix_", $acc, $checks);
        const INSTANCE_SUMS: &str = concat!("instance_sums_", $acc, $checks);
        KernelSet::new([
            (Kernel::Gather, concat!("gather_", $t, $checks), GATHER),
            (Kernel::GatherSums, concat!($gather_sums, $checks), GATHER),
            (Kernel::AddPartials, concat!("add_partials_", $t, $checks), GATHER_LONG),
            (Kernel::Degree, concat!("degree_", $acc, $checks), DEGREE),
            (Kernel::EdgeShift, concat!("edge_shift_", $acc, $checks), DEGREE),
            (Kernel::DegreeGradient, concat!("degree_gradient_", $acc, $checks), DEGREE),
            (Kernel::WeightGradient, concat!("weight_gradient", $checks), WEIGHT_GRADIENT),
            (Kernel::RowScale, concat!("row_scale_", $acc, $checks), ROW_SCALE),
            (Kernel::SumChunks, concat!("sum_chunks_", $acc, $checks), INSTANCE_SUMS),
            (Kernel::SumWindows, concat!("sum_windows_", $acc, $checks), INSTANCE_SUMS),
            (Kernel::DenseForm, concat!("dense_form_", $acc, $checks), DENSE_FORM),
            (Kernel::DenseFind, DENSE_FIND, DENSE_FIND),
            (Kernel::DenseGradient, concat!("dense_gradient_", $acc, $checks), DENSE_GRADIENT),
            (Kernel::WalkRows, concat!("walk_rows_", $t, $checks), EPILOGUE),
            (Kernel::AddSums, ADD_SUMS, ADD_SUMS),
            (Kernel::Matrix, MATRIX, MATRIX),
            (Kernel::Dense8Backward, BACKWARD_8, BACKWARD_8),
            (Kernel::Dense16Backward, BACKWARD_16, BACKWARD_16),
            (Kernel::Dense32Backward, BACKWARD_32, BACKWARD_32),
            (Kernel::Dense8Conv, dense_name!("8_conv", $t), dense_name!("8", $t)),
            (Kernel::Dense16Conv, dense_name!("16_conv", $t), dense_name!("16", $t)),
            (Kernel::Dense32Conv, dense_name!("32_conv", $t), dense_name!("32", $t)),
        ])
    }};
}
pub(super) use kernel_set;

/// The kernels for one element type, with or without checks, that were loaded.
pub(super) struct Kernels {
    functions: [Option<CudaFunction>; Kernel::COUNT],
    set: &'static KernelSet,
}

impl Kernels {
    /// Loads the modules of the kernels that are needed, if they are not loaded yet. The context must be
    /// current.
    pub(super) fn load(
        device: &Device,
        set: &'static KernelSet,
        needed: [bool; Kernel::COUNT],
    ) -> Result<Self> {
        let is_needed = |module: usize| (0..Kernel::COUNT).any(|of| needed[of] && set.modules[of] == module);
        let mut functions = [const { None }; Kernel::COUNT];
        for &kernel in Kernel::ALL {
            let module = set.modules[kernel as usize];
            if module != NO_MODULE && is_needed(module) {
                let function = device.module(module)?.load_function(set.name(kernel));
                let function = function.map_err(|e| failed("loading a kernel", e))?;
                if kernel.is_of_layers() {
                    let attribute =
                        sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    function
                        .set_attribute(attribute, device.shared_bytes() as i32)
                        .map_err(|e| failed("asking for shared memory", e))?;
                }
                functions[kernel as usize] = Some(function);
            }
        }
        Ok(Self { functions, set })
    }

    /// Queues a launch, if there is something to do.
    ///
    /// # Errors
    /// [`Error::KernelNotLoaded`] for a kernel that the workspace was made without.
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
            return Err(Error::KernelNotLoaded { kernel: self.set.name(kernel) });
        };
        let (blocks, shared_bytes) = (grid.dimensions(), grid.shared_bytes());
        let mut parameters = [(&raw const *arguments).cast_mut().cast::<c_void>()];
        // SAFETY: the driver only reads the argument; the caller promises the rest.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                blocks,
                (grid.threads(), 1, 1),
                shared_bytes,
                stream,
                &mut parameters,
            )
        }
        .map_err(|e| failed("launching a kernel", e))
    }
}
