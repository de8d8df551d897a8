//! What plans and workspaces are made of: the choices, and the structures that hold them.

use crate::abi::hs_abi;
use crate::device::hs_device;

/// `float`.
pub const HS_F32: u32 = 0;
/// `double`; the only type whose accumulation type is `double`. That of all others is `float`.
pub const HS_F64: u32 = 1;
/// IEEE 754 binary16.
pub const HS_F16: u32 = 2;
/// bfloat16.
pub const HS_BF16: u32 = 3;

/// The convolution divides by the degree of the vertex that it stores.
pub const HS_NORMALIZATION_ROW: u32 = 0;
/// It divides by the roots of the degrees of both vertices.
pub const HS_NORMALIZATION_SYMMETRIC: u32 = 1;
/// It divides by no degree.
pub const HS_NORMALIZATION_NONE: u32 = 2;

/// Weights are in the message and in the degree, as in the paper and in PyTorch Geometric's documentation.
pub const HS_WEIGHTS_DOCUMENTED: u32 = 0;
/// Weights are in the degree alone: what PyTorch Geometric 2.8 computes.
pub const HS_WEIGHTS_DEGREE_ONLY: u32 = 1;
/// Weights are in the message alone: DHG 0.9.7's `v2v(x, "mean", e_weight=w)`.
pub const HS_WEIGHTS_MESSAGE_ONLY: u32 = 2;

/// Kernels check indices if the library was built with debug assertions.
pub const HS_CHECKS_DEFAULT: u32 = 0;
/// Kernels check every index. On the CPU indices cannot be wrong, and this is not looked at.
pub const HS_CHECKS_ON: u32 = 1;
/// Kernels check none.
pub const HS_CHECKS_OFF: u32 = 2;

/// A layer multiplies `float` on a device by three products of bfloat16, of what that has of each factor and
/// of the rest: the relative error of a product is about 2^-16 at most.
pub const HS_PRECISION_THREE_BF16: u32 = 0;
/// A layer multiplies `float` on a device by TF32, which has 11 bits: faster, with a relative error of up to
/// 2^-10.
pub const HS_PRECISION_TF32: u32 = 1;

/// A topology is computed by gathers.
pub const HS_PATH_GATHER: u32 = 0;
/// A topology is computed by its dense operator: up to 32 vertices.
pub const HS_PATH_DENSE: u32 = 1;

/// What a plan is made of. `HS_PLAN_OPTIONS_INIT` gives one with the defaults: `HS_F32` on the CPU, row
/// normalization, documented weights.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_plan_options {
    /// `HS_ABI_INIT`.
    pub abi: hs_abi,
    /// Null for the CPU. The plan keeps what it needs of the device.
    pub device: *const hs_device,
    /// The type of features: `HS_F32`, …
    pub element: u32,
    /// The number of features F of a row.
    pub features: usize,
    /// `HS_NORMALIZATION_ROW`, …
    pub normalization: u32,
    /// `HS_WEIGHTS_DOCUMENTED`, …
    pub weight_use: u32,
    /// `HS_CHECKS_DEFAULT`, …
    pub checks: u32,
    /// `HS_PATH_*` for each topology of the batch, or null where the plan is to choose.
    pub paths: *const u32,
    /// How many paths there are.
    pub n_paths: usize,
    /// The number of features of a layer's x; 0 for as many as `features`. Nothing else uses it.
    pub inputs: usize,
    /// How layers multiply `float` on a device: `HS_PRECISION_THREE_BF16`, … Nothing else uses it.
    pub precision: u32,
}

/// The step from vertices to hyperedges.
pub const HS_VERTEX_TO_HYPEREDGE: u32 = 0;
/// Its gradients.
pub const HS_VERTEX_TO_HYPEREDGE_BACKWARD: u32 = 1;
/// The step from hyperedges to vertices.
pub const HS_HYPEREDGE_TO_VERTEX: u32 = 2;
/// Its gradients.
pub const HS_HYPEREDGE_TO_VERTEX_BACKWARD: u32 = 3;
/// The convolution.
pub const HS_CONV: u32 = 4;
/// The convolution that also stores z.
pub const HS_CONV_SAVING_Z: u32 = 5;
/// The gradients of the convolution.
pub const HS_CONV_BACKWARD: u32 = 6;
/// The same from a saved z.
pub const HS_CONV_BACKWARD_FROM_Z: u32 = 7;
/// The convolution with an epilogue.
pub const HS_CONV_EPILOGUE: u32 = 8;
/// Its gradients.
pub const HS_CONV_EPILOGUE_BACKWARD: u32 = 9;
/// The mean over the vertices of what that gives.
pub const HS_CONV_READOUT: u32 = 10;
/// Its gradients.
pub const HS_CONV_READOUT_BACKWARD: u32 = 11;
/// The matrix of the convolution.
pub const HS_CONV_MATRIX: u32 = 12;
/// Its gradient.
pub const HS_CONV_MATRIX_BACKWARD: u32 = 13;
/// Inner products of rows.
pub const HS_GRAM: u32 = 14;
/// Their gradient.
pub const HS_GRAM_BACKWARD: u32 = 15;

/// A layer: a linear map of each row, the convolution and an epilogue.
pub const HS_LAYER: u32 = 16;
/// Its gradients.
pub const HS_LAYER_BACKWARD: u32 = 17;

/// In `hs_workspace_options.operators`: the convolution and its backward.
pub const HS_OPERATORS_TRAINING: u32 = (1 << HS_CONV) | (1 << HS_CONV_BACKWARD);
/// In `hs_workspace_options.operators`: a layer and its backward.
pub const HS_OPERATORS_LAYERS: u32 = (1 << HS_LAYER) | (1 << HS_LAYER_BACKWARD);
/// In `hs_workspace_options.operators`: all. Nothing is made for those that the plan has not. Without
/// `HS_OPERATORS_LAYERS` memory on the CPU does not grow with `max_instances`.
pub const HS_OPERATORS_ALL: u32 = (1 << 18) - 1;

/// The workspace owns its scratch memory.
pub const HS_SCRATCH_OWNED: u32 = 0;
/// The caller owns it, and lends it by `hs_workspace_lend_scratch`. Else a workspace has on the device a
/// record of errors of a few bytes, with checks or symmetric normalization, and nothing that depends on
/// `max_instances`.
pub const HS_SCRATCH_LENT: u32 = 1;

/// What a workspace is made for. `HS_WORKSPACE_OPTIONS_INIT` gives one for training that owns its memory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_workspace_options {
    /// `HS_ABI_INIT`.
    pub abi: hs_abi,
    /// The most instances that a call may have. It costs nothing on the CPU, whose workspaces grow by some
    /// four mebibytes at most however large it is, but for layers (see `operators`), and nothing with
    /// `HS_SCRATCH_LENT`: who knows no bound gives `UINT32_MAX`, the most that a device takes, or less where
    /// vertices or hyperedges, times features, are 2^32 and more (else `HS_ERROR_TOO_LARGE`), and on the CPU
    /// leaves layers to another workspace. With `HS_SCRATCH_OWNED` there is device memory for so many.
    pub max_instances: usize,
    /// The operators, each `1 << HS_CONV` or so. On the CPU a layer and its backward have up to four rows of
    /// `features` sums for each vertex of `max_instances` instances, which are reserved, and untouched until
    /// a call needs them.
    pub operators: u32,
    /// `HS_SCRATCH_OWNED` or `HS_SCRATCH_LENT`. On the CPU a workspace has its own memory in any case.
    pub scratch: u32,
}
