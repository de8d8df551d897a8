//! Layers: a linear map of each row, the convolution and an epilogue in one call.

use std::ffi::c_void;

use hyperscatter::Axis;

use crate::arguments::reference;
use crate::call::{Call, LayerOut};
use crate::operands::{Of, hs_epilogue, hs_layer_gradients, hs_out_rows, hs_rows, hs_values, hs_weights};
use crate::workspace::{call, hs_workspace};

/// A layer in one pass: y = act(M (x Theta^T) + bias) + residual, where M is the operator of `hs_conv`.
///
/// The rows of `x` have as many elements as the plan has `inputs`, those of `y` and `residual` `features`.
/// `theta` are `features` rows of `inputs` elements of the plan's type, without gaps, as PyTorch's `Linear`
/// has them. `epilogue` may be null for none, and `residual`, too.
///
/// On the CPU every plan has layers. On a device there are kernels for `HS_F32`, `HS_F16` and `HS_BF16` from
/// compute capability 8.0 on, where no topology in use has more than 16 vertices, and for up to 256 inputs
/// (512 of the 16-bit types); the backward needs the same of `features`. `hs_plan_check_operator` tells.
/// Elsewhere multiply `x` by Theta^T with a library, and call `hs_conv_epilogue`.
///
/// Tensor cores multiply: the bits are not those of the CPU, and may be others on a device of another
/// architecture. They are the same in each call, and those of an instance the same alone and at any place.
///
/// Errors: as `hs_vertex_to_hyperedge`, `HS_ERROR_LENGTH_MISMATCH`, `HS_ERROR_LAYER_UNAVAILABLE` and
/// `HS_ERROR_MATRIX_UNAVAILABLE`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[allow(clippy::too_many_arguments)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_layer(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    theta: *const hs_values,
    weights: *const hs_weights,
    epilogue: *const hs_epilogue,
    residual: *const hs_rows,
    y: *const hs_out_rows,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            Ok(Call::Layer {
                x: reader.rows("x", Axis::Vertex, x, Of::Elements)?,
                theta: reader.values("theta", theta, Of::Elements)?,
                weights: reader.weights("weights", weights)?,
                epilogue: reader.epilogue(epilogue)?,
                residual: reader.optional_rows("residual", Axis::Vertex, residual)?,
                y: reader.out_rows("y", Axis::Vertex, y, Of::Elements)?,
            })
        })
    }
}

/// Its gradients, given that of y, with the same epilogue. What the activation was applied to is computed
/// again.
///
/// Errors: as `hs_layer`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[allow(clippy::too_many_arguments)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_layer_backward(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    theta: *const hs_values,
    weights: *const hs_weights,
    epilogue: *const hs_epilogue,
    grad_y: *const hs_rows,
    gradients: *const hs_layer_gradients,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, theta) = (
                reader.rows("x", Axis::Vertex, x, Of::Elements)?,
                reader.values("theta", theta, Of::Elements)?,
            );
            let (weights, epilogue) = (reader.weights("weights", weights)?, reader.epilogue(epilogue)?);
            let grad_y = reader.rows("grad_y", Axis::Vertex, grad_y, Of::Elements)?;
            let to = reference("gradients", gradients)?;
            let gradients = LayerOut {
                x: reader.out_rows("grad_x", Axis::Vertex, to.x, Of::Elements)?,
                theta: reader.out_values("grad_theta", to.theta, Of::Sums)?,
                weights: reader.out_values("grad_weights", to.weights, Of::Sums)?,
                bias: reader.out_values("grad_bias", to.bias, Of::Sums)?,
                residual: reader.out_rows("grad_residual", Axis::Vertex, to.residual, Of::Elements)?,
            };
            Ok(Call::LayerBackward { x, theta, weights, epilogue, grad_y, gradients })
        })
    }
}
