//! Which version of the interface there is.

/// The version of this interface. It changes whenever a function, a structure or a constant does in a way
/// that older callers would notice.
pub const HS_ABI_VERSION: u32 = 1;

/// What a caller takes the interface for; `HS_ABI_INIT` fills it in. Its own layout never changes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_abi {
    /// `HS_ABI_VERSION`.
    pub version: u32,
    /// `sizeof(hs_rows) + sizeof(hs_out_rows)`.
    pub rows: u32,
    /// `sizeof(hs_values) + sizeof(hs_out_values) + sizeof(hs_weights)`.
    pub values: u32,
    /// `sizeof(hs_step) + sizeof(hs_step_gradients) + sizeof(hs_epilogue) + sizeof(hs_epilogue_gradients) +
    /// sizeof(hs_layer_gradients)`.
    pub steps: u32,
    /// `sizeof(hs_plan_options) + sizeof(hs_workspace_options) + sizeof(hs_error)`.
    pub options: u32,
}

/// The version of the interface that this library has: `HS_ABI_VERSION` of the header that came with it.
///
/// # Safety
/// It is always safe to call.
#[unsafe(no_mangle)]
pub extern "C" fn hs_abi_version() -> u32 {
    HS_ABI_VERSION
}
