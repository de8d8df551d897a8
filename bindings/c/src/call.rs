//! A call of an operator, with its operands read, and how each backend makes it.

use std::ptr::NonNull;

use hyperscatter::cuda::cudarc::driver::sys;
use hyperscatter::cuda::{self, DeviceElement, DevicePointer, DeviceWindows};
use hyperscatter::{
    Direction, Element, Epilogue, EpilogueGradients, LayerGradients, Operator, Out, Rows, Step,
    StepGradients, Weights, WindowTable, Windows, cpu,
};

use crate::error::{Failure, Result};
use crate::operands::{InEpilogue, InRows, InStep, InWeights, InWindows, Memory, Mode, OutRows, OutValues};
use crate::windows::hs_windows;

/// Where the gradients of a convolution go.
pub(crate) struct ConvGradients {
    pub(crate) x: Option<OutRows>,
    pub(crate) weights: Option<OutValues>,
}

/// Where those of one with an epilogue go besides.
pub(crate) struct EpilogueOut {
    pub(crate) conv: ConvGradients,
    pub(crate) bias: Option<OutValues>,
    pub(crate) residual: Option<OutRows>,
}

/// Where those of a layer go.
pub(crate) struct LayerOut {
    pub(crate) x: Option<OutRows>,
    pub(crate) theta: Option<OutValues>,
    pub(crate) weights: Option<OutValues>,
    pub(crate) bias: Option<OutValues>,
    pub(crate) residual: Option<OutRows>,
}

/// What is given or stored for each vertex, or for each instance.
pub(crate) enum Level<V, I> {
    Vertices(V),
    Instances(I),
}

/// An operator and its operands.
pub(crate) enum Call<'a> {
    Step {
        direction: Direction,
        step: InStep<'a>,
        x: InRows,
        y: Option<OutRows>,
    },
    StepBackward {
        direction: Direction,
        step: InStep<'a>,
        x: InRows,
        grad: InRows,
        rows: Option<OutRows>,
        vertex_scale: Option<OutValues>,
        hyperedge_scale: Option<OutValues>,
    },
    /// With z it is also stored.
    Conv {
        x: InRows,
        weights: InWeights<'a>,
        z: Option<OutRows>,
        y: Option<OutRows>,
    },
    /// From z, if it was saved.
    ConvBackward {
        x: InRows,
        z: Option<InRows>,
        weights: InWeights<'a>,
        grad_y: InRows,
        gradients: ConvGradients,
    },
    ConvEpilogue {
        x: InRows,
        weights: InWeights<'a>,
        epilogue: InEpilogue,
        residual: Option<InRows>,
        result: Level<Option<OutRows>, Option<OutValues>>,
    },
    ConvEpilogueBackward {
        x: InRows,
        weights: InWeights<'a>,
        epilogue: InEpilogue,
        grad: Level<InRows, Memory>,
        gradients: EpilogueOut,
    },
    ConvMatrix {
        weights: InWeights<'a>,
        matrix: Option<OutValues>,
    },
    ConvMatrixBackward {
        weights: InWeights<'a>,
        grad_matrix: Memory,
        grad_weights: Option<OutValues>,
    },
    Gram {
        x: InRows,
        gram: Option<OutValues>,
    },
    GramBackward {
        x: InRows,
        grad_gram: Memory,
        grad_x: Option<OutRows>,
    },
    Layer {
        x: InRows,
        theta: Memory,
        weights: InWeights<'a>,
        epilogue: InEpilogue,
        residual: Option<InRows>,
        y: Option<OutRows>,
    },
    LayerBackward {
        x: InRows,
        theta: Memory,
        weights: InWeights<'a>,
        epilogue: InEpilogue,
        grad_y: InRows,
        gradients: LayerOut,
    },
}

impl Call<'_> {
    pub(crate) fn operator(&self) -> Operator {
        match *self {
            Self::Step { direction, .. } => Operator::step(direction),
            Self::StepBackward { direction, .. } => Operator::step_backward(direction),
            Self::Conv { z: None, .. } => Operator::Conv,
            Self::Conv { z: Some(_), .. } => Operator::ConvSavingZ,
            Self::ConvBackward { z: None, .. } => Operator::ConvBackward,
            Self::ConvBackward { z: Some(_), .. } => Operator::ConvBackwardFromZ,
            Self::ConvEpilogue { result: Level::Vertices(_), .. } => Operator::ConvEpilogue,
            Self::ConvEpilogue { result: Level::Instances(_), .. } => Operator::ConvReadout,
            Self::ConvEpilogueBackward { grad: Level::Vertices(_), .. } => Operator::ConvEpilogueBackward,
            Self::ConvEpilogueBackward { grad: Level::Instances(_), .. } => Operator::ConvReadoutBackward,
            Self::ConvMatrix { .. } => Operator::ConvMatrix,
            Self::ConvMatrixBackward { .. } => Operator::ConvMatrixBackward,
            Self::Gram { .. } => Operator::Gram,
            Self::GramBackward { .. } => Operator::GramBackward,
            Self::Layer { .. } => Operator::Layer,
            Self::LayerBackward { .. } => Operator::LayerBackward,
        }
    }

    pub(crate) fn is_of_layer(&self) -> bool {
        matches!(self, Self::Layer { .. } | Self::LayerBackward { .. })
    }

    /// Of how many instances rows are read; `None` for what reads none.
    pub(crate) fn instances(&self) -> Option<usize> {
        match self {
            Self::Step { x, .. }
            | Self::StepBackward { x, .. }
            | Self::Conv { x, .. }
            | Self::ConvBackward { x, .. }
            | Self::ConvEpilogue { x, .. }
            | Self::ConvEpilogueBackward { x, .. }
            | Self::Gram { x, .. }
            | Self::GramBackward { x, .. }
            | Self::Layer { x, .. }
            | Self::LayerBackward { x, .. } => Some(x.instances),
            Self::ConvMatrix { .. } | Self::ConvMatrixBackward { .. } => None,
        }
    }
}

/// Memory as a backend's operators take it.
trait Space {
    type In<'a, E: 'static>;
    type Out<'a, E: 'static>;
    type Table: 'static;

    /// # Safety
    /// There are so many elements, which nobody writes while the result is used.
    unsafe fn read<'a, E: 'static>(memory: Memory) -> Self::In<'a, E>;

    /// # Safety
    /// There are so many elements, which nobody else uses while the result is.
    unsafe fn write<'a, E: 'static>(memory: Memory) -> Self::Out<'a, E>;

    fn table(windows: &hs_windows) -> Result<&Self::Table>;
}

struct Host;

impl Space for Host {
    type In<'a, E: 'static> = &'a [E];
    type Out<'a, E: 'static> = &'a mut [E];
    type Table = WindowTable;

    unsafe fn read<'a, E: 'static>(Memory { address, len }: Memory) -> &'a [E] {
        // SAFETY: the caller's promise. Memory of nothing may be anywhere.
        unsafe { std::slice::from_raw_parts(pointer(address, len).as_ptr(), len) }
    }

    unsafe fn write<'a, E: 'static>(Memory { address, len }: Memory) -> &'a mut [E] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(pointer(address, len).as_ptr(), len) }
    }

    fn table(windows: &hs_windows) -> Result<&WindowTable> {
        Ok(&windows.table)
    }
}

/// Where elements are: not null, which an empty operand's address may be.
fn pointer<E>(address: u64, len: usize) -> NonNull<E> {
    let pointer = NonNull::new(std::ptr::with_exposed_provenance_mut(address as usize));
    pointer.filter(|_| len > 0).unwrap_or(NonNull::dangling())
}

struct OnDevice;

impl Space for OnDevice {
    type In<'a, E: 'static> = DevicePointer<E>;
    type Out<'a, E: 'static> = DevicePointer<E>;
    type Table = DeviceWindows;

    unsafe fn read<'a, E: 'static>(Memory { address, len }: Memory) -> Self::In<'a, E> {
        DevicePointer::new(address, len)
    }

    unsafe fn write<'a, E: 'static>(Memory { address, len }: Memory) -> Self::Out<'a, E> {
        DevicePointer::new(address, len)
    }

    fn table(windows: &hs_windows) -> Result<&DeviceWindows> {
        windows.on_device.as_ref().ok_or(Failure::Backend("table"))
    }
}

type WeightsIn<'a, S, A> = Weights<<S as Space>::In<'a, A>, &'a <S as Space>::Table>;

/// What reads of operands as a backend takes them.
///
/// # Safety
/// That of [`Space::read`] and [`Space::write`], of all memory of an operand.
mod take {
    use super::*;

    pub(super) unsafe fn rows<'a, S: Space, E: 'static>(rows: InRows) -> Rows<S::In<'a, E>> {
        // SAFETY: the caller's promise; likewise in what follows.
        Rows { buffer: unsafe { S::read(rows.memory) }, layout: rows.layout }
    }

    fn out<B>(mode: Mode, buffer: B) -> Out<B> {
        match mode {
            Mode::Overwrite => Out::Overwrite(buffer),
            Mode::Accumulate => Out::Accumulate(buffer),
        }
    }

    pub(super) unsafe fn all_rows<'a, S: Space, E: 'static>(rows: InRows) -> Rows<S::Out<'a, E>> {
        // SAFETY: as above.
        Rows { buffer: unsafe { S::write(rows.memory) }, layout: rows.layout }
    }

    pub(super) unsafe fn out_rows<'a, S: Space, E: 'static>(
        wanted: Option<OutRows>,
    ) -> Out<Rows<S::Out<'a, E>>> {
        let Some(OutRows { rows, mode }) = wanted else { return Out::Skip };
        // SAFETY: as above.
        out(mode, unsafe { all_rows::<S, E>(rows) })
    }

    pub(super) unsafe fn out_values<'a, S: Space, E: 'static>(
        wanted: Option<OutValues>,
    ) -> Out<S::Out<'a, E>> {
        let Some(OutValues { memory, mode }) = wanted else { return Out::Skip };
        // SAFETY: as above.
        out(mode, unsafe { S::write(memory) })
    }

    pub(super) unsafe fn weights<'a, S: Space, A: 'static>(
        weights: InWeights<'a>,
    ) -> Result<WeightsIn<'a, S, A>> {
        let windows = match weights.windows {
            InWindows::Shared => Windows::Shared,
            InWindows::Consecutive => Windows::Consecutive,
            InWindows::Table(table) => Windows::Table(S::table(table)?),
        };
        // SAFETY: as above.
        Ok(Weights { values: unsafe { S::read(weights.memory) }, windows })
    }

    pub(super) unsafe fn step<'a, S: Space, A: 'static>(
        step: &InStep<'a>,
    ) -> Result<Step<WeightsIn<'a, S, A>>> {
        // SAFETY: as above.
        let scale = |scale: Option<InWeights<'a>>| scale.map(|scale| unsafe { weights::<S, A>(scale) });
        Ok(Step::new(step.reduce)
            .vertex_scale(scale(step.vertex_scale).transpose()?)
            .hyperedge_scale(scale(step.hyperedge_scale).transpose()?))
    }

    pub(super) unsafe fn epilogue<'a, S: Space, A: 'static>(epilogue: &InEpilogue) -> Epilogue<S::In<'a, A>> {
        // SAFETY: as above.
        Epilogue::new(epilogue.activation).bias(epilogue.bias.map(|bias| unsafe { S::read(bias) }))
    }

    pub(super) unsafe fn gradients<'a, S: Space, E: 'static, A: 'static>(
        gradients: &EpilogueOut,
    ) -> EpilogueGradients<S::Out<'a, E>, S::Out<'a, A>> {
        // SAFETY: as above.
        unsafe {
            EpilogueGradients::none()
                .x(out_rows::<S, E>(gradients.conv.x))
                .weights(out_values::<S, A>(gradients.conv.weights))
                .bias(out_values::<S, A>(gradients.bias))
                .residual(out_rows::<S, E>(gradients.residual))
        }
    }

    pub(super) unsafe fn layer_gradients<'a, S: Space, E: 'static, A: 'static>(
        gradients: &LayerOut,
    ) -> LayerGradients<S::Out<'a, E>, S::Out<'a, A>> {
        // SAFETY: as above.
        unsafe {
            LayerGradients::none()
                .x(out_rows::<S, E>(gradients.x))
                .theta(out_values::<S, A>(gradients.theta))
                .weights(out_values::<S, A>(gradients.weights))
                .bias(out_values::<S, A>(gradients.bias))
                .residual(out_rows::<S, E>(gradients.residual))
        }
    }
}

/// The methods of a backend's workspace, by the operators.
macro_rules! make_call {
    (
        $space:ident, $element:ident, $workspace:ident, $call:ident, ($($stream:expr)?),
        $vertex_to_hyperedge:ident, $vertex_to_hyperedge_backward:ident, $hyperedge_to_vertex:ident,
        $hyperedge_to_vertex_backward:ident, $conv:ident, $conv_saving_z:ident, $conv_backward:ident,
        $conv_backward_from_z:ident, $conv_epilogue:ident, $conv_epilogue_backward:ident,
        $conv_readout:ident, $conv_readout_backward:ident, $conv_matrix:ident,
        $conv_matrix_backward:ident, $gram:ident, $gram_backward:ident, $layer:ident,
        $layer_backward:ident
    ) => {
        match *$call {
            Call::Step { direction, ref step, x, y } => {
                let step = take::step::<$space, $element::Acc>(step)?;
                let (x, y) = (take::rows::<$space, $element>(x), take::out_rows::<$space, $element>(y));
                match direction {
                    Direction::VertexToHyperedge => {
                        $workspace.$vertex_to_hyperedge($($stream,)? &step, x, y)
                    }
                    Direction::HyperedgeToVertex => {
                        $workspace.$hyperedge_to_vertex($($stream,)? &step, x, y)
                    }
                }
            }
            Call::StepBackward { direction, ref step, x, grad, rows, vertex_scale, hyperedge_scale } => {
                let step = take::step::<$space, $element::Acc>(step)?;
                let x = take::rows::<$space, $element>(x);
                let grad = take::rows::<$space, $element>(grad);
                let gradients = StepGradients::none()
                    .rows(take::out_rows::<$space, $element>(rows))
                    .vertex_scale(take::out_values::<$space, $element::Acc>(vertex_scale))
                    .hyperedge_scale(take::out_values::<$space, $element::Acc>(hyperedge_scale));
                match direction {
                    Direction::VertexToHyperedge => {
                        $workspace.$vertex_to_hyperedge_backward($($stream,)? &step, x, grad, gradients)
                    }
                    Direction::HyperedgeToVertex => {
                        $workspace.$hyperedge_to_vertex_backward($($stream,)? &step, x, grad, gradients)
                    }
                }
            }
            Call::Conv { x, weights, z, y } => {
                let x = take::rows::<$space, $element>(x);
                let weights = take::weights::<$space, $element::Acc>(weights)?;
                let y = take::out_rows::<$space, $element>(y);
                match z {
                    None => $workspace.$conv($($stream,)? x, weights, y),
                    Some(z) => {
                        let z = take::all_rows::<$space, $element::Acc>(z.rows);
                        $workspace.$conv_saving_z($($stream,)? x, weights, z, y)
                    }
                }
            }
            Call::ConvBackward { x, z, weights, grad_y, ref gradients } => {
                let x = take::rows::<$space, $element>(x);
                let weights = take::weights::<$space, $element::Acc>(weights)?;
                let g = take::rows::<$space, $element>(grad_y);
                let grad_x = take::out_rows::<$space, $element>(gradients.x);
                let grad_w = take::out_values::<$space, $element::Acc>(gradients.weights);
                match z {
                    None => $workspace.$conv_backward($($stream,)? x, weights, g, grad_x, grad_w),
                    Some(z) => {
                        let z = take::rows::<$space, $element::Acc>(z);
                        $workspace.$conv_backward_from_z($($stream,)? x, z, weights, g, grad_x, grad_w)
                    }
                }
            }
            Call::ConvEpilogue { x, weights, ref epilogue, residual, ref result } => {
                let x = take::rows::<$space, $element>(x);
                let w = take::weights::<$space, $element::Acc>(weights)?;
                let epilogue = take::epilogue::<$space, $element::Acc>(epilogue);
                let r = residual.map(|rows| take::rows::<$space, $element>(rows));
                match *result {
                    Level::Vertices(y) => {
                        let y = take::out_rows::<$space, $element>(y);
                        $workspace.$conv_epilogue($($stream,)? x, w, &epilogue, r, y)
                    }
                    Level::Instances(readout) => {
                        let readout = take::out_values::<$space, $element>(readout);
                        $workspace.$conv_readout($($stream,)? x, w, &epilogue, r, readout)
                    }
                }
            }
            Call::ConvEpilogueBackward { x, weights, ref epilogue, ref grad, ref gradients } => {
                let x = take::rows::<$space, $element>(x);
                let w = take::weights::<$space, $element::Acc>(weights)?;
                let epilogue = take::epilogue::<$space, $element::Acc>(epilogue);
                let gradients = take::gradients::<$space, $element, $element::Acc>(gradients);
                match *grad {
                    Level::Vertices(grad) => {
                        let g = take::rows::<$space, $element>(grad);
                        $workspace.$conv_epilogue_backward($($stream,)? x, w, &epilogue, g, gradients)
                    }
                    Level::Instances(grad) => {
                        let g = $space::read(grad);
                        $workspace.$conv_readout_backward($($stream,)? x, w, &epilogue, g, gradients)
                    }
                }
            }
            Call::ConvMatrix { weights, matrix } => {
                let weights = take::weights::<$space, $element::Acc>(weights)?;
                let matrix = take::out_values::<$space, $element::Acc>(matrix);
                $workspace.$conv_matrix($($stream,)? weights, matrix)
            }
            Call::ConvMatrixBackward { weights, grad_matrix, grad_weights } => {
                let weights = take::weights::<$space, $element::Acc>(weights)?;
                let grad_weights = take::out_values::<$space, $element::Acc>(grad_weights);
                $workspace.$conv_matrix_backward(
                    $($stream,)? weights,
                    $space::read(grad_matrix),
                    grad_weights,
                )
            }
            Call::Gram { x, gram } => {
                let gram = take::out_values::<$space, $element::Acc>(gram);
                $workspace.$gram($($stream,)? take::rows::<$space, $element>(x), gram)
            }
            Call::GramBackward { x, grad_gram, grad_x } => {
                let (x, grad_gram) = (take::rows::<$space, $element>(x), $space::read(grad_gram));
                $workspace.$gram_backward(
                    $($stream,)? x,
                    grad_gram,
                    take::out_rows::<$space, $element>(grad_x),
                )
            }
            Call::Layer { x, theta, weights, ref epilogue, residual, y } => {
                let (x, theta) = (take::rows::<$space, $element>(x), $space::read(theta));
                let w = take::weights::<$space, $element::Acc>(weights)?;
                let epilogue = take::epilogue::<$space, $element::Acc>(epilogue);
                let r = residual.map(|rows| take::rows::<$space, $element>(rows));
                let y = take::out_rows::<$space, $element>(y);
                $workspace.$layer($($stream,)? x, theta, w, &epilogue, r, y)
            }
            Call::LayerBackward { x, theta, weights, ref epilogue, grad_y, ref gradients } => {
                let (x, theta) = (take::rows::<$space, $element>(x), $space::read(theta));
                let w = take::weights::<$space, $element::Acc>(weights)?;
                let epilogue = take::epilogue::<$space, $element::Acc>(epilogue);
                let g = take::rows::<$space, $element>(grad_y);
                let gradients = take::layer_gradients::<$space, $element, $element::Acc>(gradients);
                $workspace.$layer_backward($($stream,)? x, theta, w, &epilogue, g, gradients)
            }
        }
    };
}

/// Makes a call on the CPU, on the current pool.
///
/// # Safety
/// The operands are as they say, in host memory; no output shares memory with another operand, and nobody
/// else uses it.
pub(crate) unsafe fn on_cpu<T: Element>(workspace: &mut cpu::Workspace<T>, call: &Call<'_>) -> Result<()> {
    // SAFETY: the caller's promise.
    let result = unsafe {
        make_call!(
            Host,
            T,
            workspace,
            call,
            (),
            vertex_to_hyperedge,
            vertex_to_hyperedge_backward,
            hyperedge_to_vertex,
            hyperedge_to_vertex_backward,
            conv,
            conv_saving_z,
            conv_backward,
            conv_backward_from_z,
            conv_epilogue,
            conv_epilogue_backward,
            conv_readout,
            conv_readout_backward,
            conv_matrix,
            conv_matrix_backward,
            gram,
            gram_backward,
            layer,
            layer_backward
        )
    };
    Ok(result?)
}

/// Queues a call on a stream.
///
/// # Safety
/// The operands are as they say, in device memory, and the contract of the raw tier holds.
pub(crate) unsafe fn on_cuda<T: DeviceElement>(
    workspace: &mut cuda::Workspace<T>,
    stream: sys::CUstream,
    call: &Call<'_>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let result = unsafe {
        make_call!(
            OnDevice,
            T,
            workspace,
            call,
            (stream),
            vertex_to_hyperedge_raw,
            vertex_to_hyperedge_backward_raw,
            hyperedge_to_vertex_raw,
            hyperedge_to_vertex_backward_raw,
            conv_raw,
            conv_saving_z_raw,
            conv_backward_raw,
            conv_backward_from_z_raw,
            conv_epilogue_raw,
            conv_epilogue_backward_raw,
            conv_readout_raw,
            conv_readout_backward_raw,
            conv_matrix_raw,
            conv_matrix_backward_raw,
            gram_raw,
            gram_backward_raw,
            layer_raw,
            layer_backward_raw
        )
    };
    Ok(result?)
}
