//! The convolution with an epilogue, its readout, and the gradients of both.
//!
//! ```text
//! forward     as the convolution, whose last launch stores act(u + b) + r, or the mean of that
//! backward    as its forward, whose last launch stores t = g act'(u + b)
//!             → the backward of the convolution with t → sums of t over all vertices → copy of g
//! ```
//!
//! u is computed again, not stored: that takes a pass over x, and the caller keeps nothing from the forward
//! to the backward. t is rounded to the element type, as it is where the epilogue is an operator of its own.
//! Without an activation t is g.

#![allow(unsafe_code)]

use super::super::DeviceElement;
use super::super::call::{Call, Destination, GradientTo, PlacedRows, PlacedWeights};
use super::super::description::Description;
use super::super::epilogue::Finish;
use super::super::launches::Launches;
use super::super::operands::{Operands, Read, Write};
use super::super::scratch::Slot;
use super::super::window_table::DeviceWindows;
use super::{Backward, Forward, WEIGHTS};
use crate::activation::Activation;
use crate::axis::Axis;
use crate::epilogue::{Epilogue, EpilogueGradients, Level};
use crate::error::Result;
use crate::operands::Length;
use crate::rows::{Out, Placement, Rows};
use crate::windows::Weights;

pub(super) const BIAS: &str = "bias";

impl<'w> Forward<'w> {
    /// Binds and checks the operands of a convolution with an epilogue. Returns them, and the number of
    /// instances.
    pub(in crate::cuda) fn bind_epilogue<'a, T: DeviceElement, W: Write<T>>(
        operands: &mut Operands<'a, 'w, T>,
        x: &'a Rows<impl Read<T>>,
        weights: &'a Weights<impl Read<T::Acc>, &'w DeviceWindows>,
        epilogue: &'a Epilogue<impl Read<T::Acc>>,
        residual: Option<&'a Rows<impl Read<T>>>,
        result: &'a mut Level<Out<Rows<W>>, Out<W>>,
    ) -> Result<(Self, usize)> {
        let features = operands.features();
        let x = operands.read("x", Axis::Vertex, x);
        let weights = operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let bias = epilogue.bias.as_ref().map_or(0, |bias| operands.values(BIAS, Length::Features, bias).0);
        let residual = residual.map(|residual| operands.read("residual", Axis::Vertex, residual));
        let is_mean = matches!(result, Level::Instances(_));
        let (rows, readout) = match result {
            Level::Vertices(y) => (operands.write("y", Axis::Vertex, y), None),
            Level::Instances(readout) => (None, operands.write_values("readout", Length::Instances, readout)),
        };
        let bound = operands.check()?;
        let finish = Finish {
            activation: epilogue.activation,
            bias,
            rows: residual.map(|residual| bound.rows(residual)),
            is_backward: false,
            is_mean,
        };
        let readout = readout.map(|(address, accumulate)| Destination {
            rows: PlacedRows { address, placement: Placement::of_instances(features) },
            accumulate,
        });
        let y = rows.map(|rows| bound.out(rows)).or(readout);
        Ok((Self { x: bound.rows(x), weights: weights.placed(), z: None, y, finish }, bound.instances()))
    }
}

/// The operands of its gradients.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct EpilogueBackward<'w> {
    x: PlacedRows,
    weights: PlacedWeights<'w>,
    /// How t is made.
    finish: Finish,
    grad: PlacedRows,
    grad_x: Option<Destination>,
    grad_weights: Option<GradientTo>,
    grad_bias: Option<GradientTo>,
    grad_residual: Option<Destination>,
}

impl<'w> EpilogueBackward<'w> {
    /// Binds and checks the operands. Returns them, and the number of instances.
    pub(in crate::cuda) fn bind<'a, T: DeviceElement, G: Read<T>>(
        operands: &mut Operands<'a, 'w, T>,
        x: &'a Rows<impl Read<T>>,
        weights: &'a Weights<impl Read<T::Acc>, &'w DeviceWindows>,
        epilogue: &'a Epilogue<impl Read<T::Acc>>,
        grad: &'a Level<Rows<G>, G>,
        gradients: &'a mut EpilogueGradients<impl Write<T>, impl Write<T::Acc>>,
    ) -> Result<(Self, usize)> {
        let features = operands.features();
        let x = operands.read("x", Axis::Vertex, x);
        let weights = operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let bias = epilogue.bias.as_ref().map(|bias| operands.values(BIAS, Length::Features, bias));
        let (grad_y, grad_readout) = match grad {
            Level::Vertices(grad_y) => (Some(operands.read("grad_y", Axis::Vertex, grad_y)), 0),
            Level::Instances(grad) => (None, operands.values("grad_readout", Length::Instances, grad).0),
        };
        let grad_x = operands.write("grad_x", Axis::Vertex, &mut gradients.x);
        let grad_weights =
            operands.gradient("grad_weights", (WEIGHTS, weights.len()), &mut gradients.weights);
        let len_of_bias = bias.map_or(0, |(_, len)| len);
        let grad_bias = operands.gradient("grad_bias", (BIAS, len_of_bias), &mut gradients.bias);
        let grad_residual = operands.write("grad_residual", Axis::Vertex, &mut gradients.residual);
        let bound = operands.check()?;
        let grad = match grad_y {
            Some(grad_y) => bound.rows(grad_y),
            None => PlacedRows { address: grad_readout, placement: Placement::of_instances(features) },
        };
        let finish = Finish {
            activation: epilogue.activation,
            bias: bias.map_or(0, |(address, _)| address),
            rows: Some(grad),
            is_backward: true,
            is_mean: grad_y.is_none(),
        };
        let backward = Self {
            x: bound.rows(x),
            weights: weights.placed(),
            finish,
            grad,
            grad_x: grad_x.map(|out| bound.out(out)),
            grad_weights,
            // Without a bias it has no elements.
            grad_bias: grad_bias.filter(|to| to.len > 0),
            grad_residual: grad_residual.map(|out| bound.out(out)),
        };
        Ok((backward, bound.instances()))
    }
}

impl Description for EpilogueBackward<'_> {
    /// # Safety
    /// The operands have rows where their placements say, weights where their windows say, and a bias has F
    /// elements.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        let Self { x, weights, finish, grad, grad_x, grad_weights, grad_bias, grad_residual } = self;
        let is_wanted = grad_x.is_some() || grad_weights.is_some() || grad_bias.is_some();
        // SAFETY: the caller's promise, and scratch memory has what is asked for.
        unsafe {
            let grad_sums = match call.has_elements() && is_wanted {
                true => self.grad_sums(call)?,
                false => grad,
            };
            Backward { x, z: None, weights, grad_y: grad_sums, grad_x, grad_weights }.run(call)?;
            match grad_bias {
                Some(to) if call.has_elements() => {
                    call.bias_gradient(grad_sums, to)?;
                }
                Some(to) => call.no_gradient(to)?,
                None => {}
            }
            match grad_residual {
                Some(to) if call.has_elements() => call.copy_rows(grad, finish.is_mean, to),
                _ => Ok(()),
            }
        }
    }
}

impl EpilogueBackward<'_> {
    /// t, in scratch memory unless it is g.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn grad_sums<T: DeviceElement, L: Launches>(
        &self,
        call: &mut Call<'_, T, L>,
    ) -> Result<PlacedRows> {
        let &Self { x, weights, finish, grad, .. } = self;
        let is_identity = finish.activation == Activation::Identity;
        if is_identity && !finish.is_mean {
            return Ok(grad);
        }
        let to = Destination { rows: call.element_rows(Slot::Rows)?, accumulate: false };
        // SAFETY: the caller's promise, and scratch memory has these rows.
        unsafe {
            match is_identity {
                true => call.copy_rows(grad, true, to)?,
                false => Forward { x, weights, z: None, y: Some(to), finish }.run(call)?,
            }
        }
        Ok(to.rows)
    }
}
