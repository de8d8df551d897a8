//! The operators.
//!
//! What all of them share: `workspace` is one of a plan, and `stream` is where the work is queued, a
//! `CUstream` of the plan's device (null is the default stream). On the CPU `stream` is not looked at, and
//! the work is done when the call returns.

use std::ffi::c_void;

use hyperscatter::{Axis, Direction};

use crate::arguments::reference;
use crate::call::{Call, ConvGradients, EpilogueOut, Level};
use crate::error::{Failure, Result};
use crate::operands::{
    HS_OVERWRITE, Of, Reader, hs_epilogue, hs_epilogue_gradients, hs_out_rows, hs_out_values, hs_rows,
    hs_step, hs_step_gradients, hs_values, hs_weights,
};
use crate::workspace::{call, hs_workspace};

/// z, which a convolution stores.
///
/// # Safety
/// The pointer is null or as it says.
unsafe fn overwritten(reader: &mut Reader<'_>, z: *const hs_out_rows) -> Result<crate::operands::OutRows> {
    // SAFETY: the caller's promise, here and below.
    let mode = unsafe { reference("z", z)? }.mode;
    // SAFETY: as above.
    match unsafe { reader.out_rows("z", Axis::Hyperedge, z, Of::Sums)? } {
        Some(z) if mode == HS_OVERWRITE => Ok(z),
        _ => Err(Failure::NotOverwritten("z")),
    }
}

/// Where the gradients of a convolution with an epilogue go.
///
/// # Safety
/// The pointer is null or as it says.
unsafe fn epilogue_gradients(
    reader: &mut Reader<'_>,
    gradients: *const hs_epilogue_gradients,
) -> Result<EpilogueOut> {
    // SAFETY: the caller's promise.
    unsafe {
        let &hs_epilogue_gradients { x: grad_x, weights: grad_weights, bias, residual } =
            reference("gradients", gradients)?;
        let conv = ConvGradients {
            x: reader.out_rows("grad_x", Axis::Vertex, grad_x, Of::Elements)?,
            weights: reader.out_values("grad_weights", grad_weights, Of::Sums)?,
        };
        Ok(EpilogueOut {
            conv,
            bias: reader.out_values("grad_bias", bias, Of::Sums)?,
            residual: reader.out_rows("grad_residual", Axis::Vertex, residual, Of::Elements)?,
        })
    }
}

/// What a step calls the rows that it reads and those that it computes, and their gradients.
fn names_of_step(direction: Direction) -> ([&'static str; 2], [&'static str; 2]) {
    match direction {
        Direction::VertexToHyperedge => (["x", "z"], ["grad_x", "grad_z"]),
        Direction::HyperedgeToVertex => (["z", "y"], ["grad_z", "grad_y"]),
    }
}

/// A step from `source` rows to `target` rows.
///
/// # Safety
/// As that of [`hs_vertex_to_hyperedge`].
unsafe fn make_step(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    direction: Direction,
    step: *const hs_step,
    source: *const hs_rows,
    target: *const hs_out_rows,
) -> i32 {
    let ([of_source, of_target], _) = names_of_step(direction);
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            Ok(Call::Step {
                direction,
                step: reader.step(step)?,
                x: reader.rows(of_source, direction.source(), source, Of::Elements)?,
                y: reader.out_rows(of_target, direction.target(), target, Of::Elements)?,
            })
        })
    }
}

/// The gradients of a step from `source` rows, given that of its target rows.
///
/// # Safety
/// As that of [`hs_vertex_to_hyperedge`].
unsafe fn differentiate_step(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    direction: Direction,
    step: *const hs_step,
    source: *const hs_rows,
    grad: *const hs_rows,
    gradients: *const hs_step_gradients,
) -> i32 {
    let ([of_source, _], [of_rows, of_grad]) = names_of_step(direction);
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let gradients = reference("gradients", gradients)?;
            let (of_vertices, of_hyperedges) = (gradients.vertex_scale, gradients.hyperedge_scale);
            Ok(Call::StepBackward {
                direction,
                step: reader.step(step)?,
                x: reader.rows(of_source, direction.source(), source, Of::Elements)?,
                grad: reader.rows(of_grad, direction.target(), grad, Of::Elements)?,
                rows: reader.out_rows(of_rows, direction.source(), gradients.rows, Of::Elements)?,
                vertex_scale: reader.out_values("gradients.vertex_scale", of_vertices, Of::Sums)?,
                hyperedge_scale: reader.out_values("gradients.hyperedge_scale", of_hyperedges, Of::Sums)?,
            })
        })
    }
}

/// z_e = s_e Σ_{v∈e} r_v x_v: for each hyperedge the sum or the mean of the rows of its vertices. `x` has a
/// row for each vertex, `z` one for each hyperedge.
///
/// Errors: those of operands (`HS_ERROR_NULL`, `HS_ERROR_ARGUMENT`, `HS_ERROR_FEATURES_MISMATCH`,
/// `HS_ERROR_ROWS_MISMATCH`, `HS_ERROR_INSTANCES_MISMATCH`, `HS_ERROR_TOO_MANY_INSTANCES`, `HS_ERROR_STRIDE`,
/// `HS_ERROR_OVERLAP`, `HS_ERROR_MISALIGNED`, `HS_ERROR_SHARED_MEMORY`, and of windows and lengths), and of
/// calls (`HS_ERROR_NOT_MADE_FOR`, `HS_ERROR_BUSY`, `HS_ERROR_NO_SCRATCH`, `HS_ERROR_SCRATCH_TOO_SMALL`,
/// `HS_ERROR_NEGATIVE_DEGREE`, `HS_ERROR_INDEX_OUT_OF_BOUNDS`, `HS_ERROR_DRIVER`). A call that fails has
/// written nothing, unless the driver failed between two launches.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_vertex_to_hyperedge(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    step: *const hs_step,
    x: *const hs_rows,
    z: *const hs_out_rows,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { make_step(workspace, stream, Direction::VertexToHyperedge, step, x, z) }
}

/// The gradients of `hs_vertex_to_hyperedge`, given that of z.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_vertex_to_hyperedge_backward(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    step: *const hs_step,
    x: *const hs_rows,
    grad_z: *const hs_rows,
    gradients: *const hs_step_gradients,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { differentiate_step(workspace, stream, Direction::VertexToHyperedge, step, x, grad_z, gradients) }
}

/// y_v = t_v Σ_{e∋v} u_e z_e: for each vertex the sum or the mean of the rows of its hyperedges. `z` has a
/// row for each hyperedge, `y` one for each vertex.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_hyperedge_to_vertex(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    step: *const hs_step,
    z: *const hs_rows,
    y: *const hs_out_rows,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { make_step(workspace, stream, Direction::HyperedgeToVertex, step, z, y) }
}

/// The gradients of `hs_hyperedge_to_vertex`, given that of y.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_hyperedge_to_vertex_backward(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    step: *const hs_step,
    z: *const hs_rows,
    grad_y: *const hs_rows,
    gradients: *const hs_step_gradients,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { differentiate_step(workspace, stream, Direction::HyperedgeToVertex, step, z, grad_y, gradients) }
}

/// The convolution y = L H U B⁻¹ Hᵀ R x, with the conventions of the plan.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    weights: *const hs_weights,
    y: *const hs_out_rows,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, weights) =
                (reader.rows("x", Axis::Vertex, x, Of::Elements)?, reader.weights("weights", weights)?);
            Ok(Call::Conv { x, weights, z: None, y: reader.out_rows("y", Axis::Vertex, y, Of::Elements)? })
        })
    }
}

/// The convolution that also stores z = B⁻¹ Hᵀ R x, a row of the accumulation type for each hyperedge, for
/// `hs_conv_backward_from_z`. `z` is overwritten.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_saving_z(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    weights: *const hs_weights,
    z: *const hs_out_rows,
    y: *const hs_out_rows,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, weights) =
                (reader.rows("x", Axis::Vertex, x, Of::Elements)?, reader.weights("weights", weights)?);
            Ok(Call::Conv {
                x,
                weights,
                z: Some(overwritten(reader, z)?),
                y: reader.out_rows("y", Axis::Vertex, y, Of::Elements)?,
            })
        })
    }
}

/// The gradients of `hs_conv` by x and by the weights, given that of y. `grad_weights` has as many numbers of
/// the accumulation type as there are weights.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_backward(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    weights: *const hs_weights,
    grad_y: *const hs_rows,
    grad_x: *const hs_out_rows,
    grad_weights: *const hs_out_values,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, weights, grad_y) = (
                reader.rows("x", Axis::Vertex, x, Of::Elements)?,
                reader.weights("weights", weights)?,
                reader.rows("grad_y", Axis::Vertex, grad_y, Of::Elements)?,
            );
            let gradients = ConvGradients {
                x: reader.out_rows("grad_x", Axis::Vertex, grad_x, Of::Elements)?,
                weights: reader.out_values("grad_weights", grad_weights, Of::Sums)?,
            };
            Ok(Call::ConvBackward { x, z: None, weights, grad_y, gradients })
        })
    }
}

/// The same from a saved z.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[allow(clippy::too_many_arguments)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_backward_from_z(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    z: *const hs_rows,
    weights: *const hs_weights,
    grad_y: *const hs_rows,
    grad_x: *const hs_out_rows,
    grad_weights: *const hs_out_values,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, weights, grad_y) = (
                reader.rows("x", Axis::Vertex, x, Of::Elements)?,
                reader.weights("weights", weights)?,
                reader.rows("grad_y", Axis::Vertex, grad_y, Of::Elements)?,
            );
            let z = Some(reader.rows("z", Axis::Hyperedge, z, Of::Sums)?);
            let gradients = ConvGradients {
                x: reader.out_rows("grad_x", Axis::Vertex, grad_x, Of::Elements)?,
                weights: reader.out_values("grad_weights", grad_weights, Of::Sums)?,
            };
            Ok(Call::ConvBackward { x, z, weights, grad_y, gradients })
        })
    }
}

/// The convolution with an epilogue: y = act(u + bias) + residual, where u is what `hs_conv` stores.
/// `epilogue` may be null for none, and `residual`, too.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_epilogue(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    weights: *const hs_weights,
    epilogue: *const hs_epilogue,
    residual: *const hs_rows,
    y: *const hs_out_rows,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, weights) =
                (reader.rows("x", Axis::Vertex, x, Of::Elements)?, reader.weights("weights", weights)?);
            let epilogue = reader.epilogue(epilogue)?;
            let residual = reader.optional_rows("residual", Axis::Vertex, residual)?;
            let result = Level::Vertices(reader.out_rows("y", Axis::Vertex, y, Of::Elements)?);
            Ok(Call::ConvEpilogue { x, weights, epilogue, residual, result })
        })
    }
}

/// Its gradients, given that of y, with the same epilogue.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_epilogue_backward(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    weights: *const hs_weights,
    epilogue: *const hs_epilogue,
    grad_y: *const hs_rows,
    gradients: *const hs_epilogue_gradients,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, weights) =
                (reader.rows("x", Axis::Vertex, x, Of::Elements)?, reader.weights("weights", weights)?);
            let (epilogue, grad) = (
                reader.epilogue(epilogue)?,
                Level::Vertices(reader.rows("grad_y", Axis::Vertex, grad_y, Of::Elements)?),
            );
            let gradients = epilogue_gradients(reader, gradients)?;
            Ok(Call::ConvEpilogueBackward { x, weights, epilogue, grad, gradients })
        })
    }
}

/// The mean over the vertices of each instance of what `hs_conv_epilogue` gives: F elements for each
/// instance, one behind the other.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_readout(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    weights: *const hs_weights,
    epilogue: *const hs_epilogue,
    residual: *const hs_rows,
    readout: *const hs_out_values,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, weights) =
                (reader.rows("x", Axis::Vertex, x, Of::Elements)?, reader.weights("weights", weights)?);
            let epilogue = reader.epilogue(epilogue)?;
            let residual = reader.optional_rows("residual", Axis::Vertex, residual)?;
            let result = Level::Instances(reader.out_values("readout", readout, Of::Elements)?);
            Ok(Call::ConvEpilogue { x, weights, epilogue, residual, result })
        })
    }
}

/// Its gradients, given that of the readout, with the same epilogue.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_readout_backward(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    weights: *const hs_weights,
    epilogue: *const hs_epilogue,
    grad_readout: *const hs_values,
    gradients: *const hs_epilogue_gradients,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, weights) =
                (reader.rows("x", Axis::Vertex, x, Of::Elements)?, reader.weights("weights", weights)?);
            let (epilogue, grad) = (
                reader.epilogue(epilogue)?,
                Level::Instances(reader.values("grad_readout", grad_readout, Of::Elements)?),
            );
            let gradients = epilogue_gradients(reader, gradients)?;
            Ok(Call::ConvEpilogueBackward { x, weights, epilogue, grad, gradients })
        })
    }
}

/// The matrix M of the convolution y = M x of each instance, row by row, of the accumulation type. Each has
/// as many rows and columns as the largest hypergraph in use has vertices, 64 at most (else
/// `HS_ERROR_MATRIX_UNAVAILABLE`).
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_matrix(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    weights: *const hs_weights,
    matrix: *const hs_out_values,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let weights = reader.weights("weights", weights)?;
            Ok(Call::ConvMatrix { weights, matrix: reader.out_values("matrix", matrix, Of::Sums)? })
        })
    }
}

/// Its gradient by the weights, given that of the matrices.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_conv_matrix_backward(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    weights: *const hs_weights,
    grad_matrix: *const hs_values,
    grad_weights: *const hs_out_values,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let weights = reader.weights("weights", weights)?;
            let grad_matrix = reader.values("grad_matrix", grad_matrix, Of::Sums)?;
            let grad_weights = reader.out_values("grad_weights", grad_weights, Of::Sums)?;
            Ok(Call::ConvMatrixBackward { weights, grad_matrix, grad_weights })
        })
    }
}

/// The inner products ⟨x_u, x_v⟩ of the rows of each instance, as matrices like those of `hs_conv_matrix`.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_gram(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    gram: *const hs_out_values,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let x = reader.rows("x", Axis::Vertex, x, Of::Elements)?;
            Ok(Call::Gram { x, gram: reader.out_values("gram", gram, Of::Sums)? })
        })
    }
}

/// Their gradient by x, given that of the matrices.
///
/// Errors: as `hs_vertex_to_hyperedge`.
///
/// # Safety
/// Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
/// the plan's backend, and which nobody else uses as long as the work runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_gram_backward(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    x: *const hs_rows,
    grad_gram: *const hs_values,
    grad_x: *const hs_out_rows,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        call(workspace, stream, |reader| {
            let (x, grad_gram) = (
                reader.rows("x", Axis::Vertex, x, Of::Elements)?,
                reader.values("grad_gram", grad_gram, Of::Sums)?,
            );
            Ok(Call::GramBackward {
                x,
                grad_gram,
                grad_x: reader.out_rows("grad_x", Axis::Vertex, grad_x, Of::Elements)?,
            })
        })
    }
}
