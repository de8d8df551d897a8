//! A range of NVTX around each call of an operator, for the timelines of profilers.
//!
//! Without the feature `nvtx` all of this compiles to nothing.

#![cfg_attr(feature = "nvtx", allow(unsafe_code))]

use crate::operator::Operator;

/// A range of this thread, from `enter` until it is dropped on the same thread. The range entered last is
/// dropped first.
#[must_use]
pub(super) struct Range {
    #[cfg(feature = "nvtx")]
    nvtx: Option<&'static nvtx::Nvtx>,
}

impl Range {
    /// Looks for the library, so that no call does.
    pub(super) fn prepare() {
        #[cfg(feature = "nvtx")]
        nvtx::get();
    }

    #[cfg(not(feature = "nvtx"))]
    #[inline(always)]
    pub(super) fn enter(_operator: Operator) -> Self {
        Self {}
    }

    #[cfg(feature = "nvtx")]
    pub(super) fn enter(operator: Operator) -> Self {
        let nvtx = nvtx::get();
        if let Some(nvtx) = nvtx {
            nvtx.push(nvtx::name(operator));
        }
        Self { nvtx }
    }
}

#[cfg(feature = "nvtx")]
impl Drop for Range {
    fn drop(&mut self) {
        if let Some(nvtx) = self.nvtx {
            nvtx.pop();
        }
    }
}

/// The library.
///
/// Not by `cudarc`'s feature of the same name: that panics where the library is missing, does not know what
/// it is called from CUDA 12.9 on, and allocates a string for each range.
#[cfg(feature = "nvtx")]
mod nvtx {
    use std::ffi::{CStr, c_char, c_int};
    use std::mem::ManuallyDrop;
    use std::sync::OnceLock;

    use crate::operator::Operator;

    /// Its names from CUDA 12.9 on, then those before; of each, first the name at run time, then that for
    /// linking.
    #[cfg(not(windows))]
    const LIBRARIES: [&str; 4] =
        ["libnvtx3interop.so.1", "libnvtx3interop.so", "libnvToolsExt.so.1", "libnvToolsExt.so"];
    #[cfg(windows)]
    const LIBRARIES: [&str; 2] = ["nvtx3interop.dll", "nvToolsExt64_1.dll"];

    pub(super) struct Nvtx {
        push: unsafe extern "C" fn(*const c_char) -> c_int,
        pop: unsafe extern "C" fn() -> c_int,
    }

    /// The library, loaded once; `None` where there is none.
    pub(super) fn get() -> Option<&'static Nvtx> {
        static NVTX: OnceLock<Option<Nvtx>> = OnceLock::new();
        NVTX.get_or_init(|| LIBRARIES.into_iter().find_map(load)).as_ref()
    }

    fn load(name: &str) -> Option<Nvtx> {
        // SAFETY: loading NVTX runs its initialisers, which do nothing that this process could notice. A
        // profiler is loaded at the first range.
        let library = unsafe { libloading::Library::new(name) }.ok()?;
        // SAFETY: since NVTX 1 the functions of these names have these types.
        let nvtx = unsafe {
            Nvtx { push: *library.get(b"nvtxRangePushA\0").ok()?, pop: *library.get(b"nvtxRangePop\0").ok()? }
        };
        // Never unloaded, since the functions are kept.
        let _loaded = ManuallyDrop::new(library);
        Some(nvtx)
    }

    impl Nvtx {
        pub(super) fn push(&self, name: &'static CStr) {
            // SAFETY: the library stays loaded, and the name is a C string that lives as long.
            unsafe { (self.push)(name.as_ptr()) };
        }

        pub(super) fn pop(&self) {
            // SAFETY: the library stays loaded. A thread that has no range gets an error, which is no harm.
            unsafe { (self.pop)() };
        }
    }

    /// `hyperscatter::` and the name of the operator. A C string for each, so that no call makes one.
    pub(super) fn name(operator: Operator) -> &'static CStr {
        match operator {
            Operator::VertexToHyperedge => c"hyperscatter::vertex_to_hyperedge",
            Operator::VertexToHyperedgeBackward => c"hyperscatter::vertex_to_hyperedge_backward",
            Operator::HyperedgeToVertex => c"hyperscatter::hyperedge_to_vertex",
            Operator::HyperedgeToVertexBackward => c"hyperscatter::hyperedge_to_vertex_backward",
            Operator::Conv => c"hyperscatter::conv",
            Operator::ConvSavingZ => c"hyperscatter::conv_saving_z",
            Operator::ConvBackward => c"hyperscatter::conv_backward",
            Operator::ConvBackwardFromZ => c"hyperscatter::conv_backward_from_z",
            Operator::ConvEpilogue => c"hyperscatter::conv_epilogue",
            Operator::ConvEpilogueBackward => c"hyperscatter::conv_epilogue_backward",
            Operator::ConvReadout => c"hyperscatter::conv_readout",
            Operator::ConvReadoutBackward => c"hyperscatter::conv_readout_backward",
            Operator::ConvMatrix => c"hyperscatter::conv_matrix",
            Operator::ConvMatrixBackward => c"hyperscatter::conv_matrix_backward",
            Operator::Gram => c"hyperscatter::gram",
            Operator::GramBackward => c"hyperscatter::gram_backward",
            Operator::Layer => c"hyperscatter::layer",
            Operator::LayerBackward => c"hyperscatter::layer_backward",
        }
    }
}
