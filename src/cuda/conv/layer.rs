//! A layer, y = act(M (x Θᵀ) + b) + r, and its gradients.
//!
//! ```text
//! forward     dense operators → y
//! backward    t as the forward, whose last launch stores t = g act'(u + b), unless t is g
//!             → dense operators → ∂x, products of rows → ∂weights → parts of ∂Θ → ∂Θ
//!             → sums of t over all vertices → copy of g
//! ```
//!
//! All instances are on the path of dense operators, whatever the paths of the plan. t is rounded to the
//! element type.

#![allow(unsafe_code)]

use super::super::DeviceElement;
use super::super::args::Address;
use super::super::call::{Call, Destination, GradientTo, PlacedRows, PlacedWeights};
use super::super::description::Description;
use super::super::epilogue::Finish;
use super::super::launches::Launches;
use super::super::operands::{Operands, Read, Write};
use super::super::scratch::Slot;
use super::super::window_table::DeviceWindows;
use super::dense::{self, ThetaParts};
use super::epilogue::BIAS;
use super::matrix::by_class;
use super::{WEIGHTS, WeightGradient};
use crate::activation::Activation;
use crate::axis::Axis;
use crate::epilogue::Epilogue;
use crate::error::Result;
use crate::layer::LayerGradients;
use crate::operands::Length;
use crate::operator::Operator;
use crate::rows::{Out, Rows};
use crate::windows::Weights;

const THETA: &str = "theta";

/// The operands of a layer.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct LayerForward<'w> {
    x: PlacedRows,
    theta: Address,
    weights: PlacedWeights<'w>,
    y: Option<Destination>,
    finish: Finish,
}

impl<'w> LayerForward<'w> {
    /// Binds and checks the operands. Returns them, and the number of instances; likewise below.
    pub(in crate::cuda) fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        x: &'a Rows<impl Read<T>>,
        theta: &'a impl Read<T>,
        weights: &'a Weights<impl Read<T::Acc>, &'w DeviceWindows>,
        epilogue: &'a Epilogue<impl Read<T::Acc>>,
        residual: Option<&'a Rows<impl Read<T>>>,
        y: &'a mut Out<Rows<impl Write<T>>>,
    ) -> Result<(Self, usize)> {
        operands.check_layer(Operator::Layer)?;
        let x = operands.read_inputs("x", x);
        let (theta, _) = operands.values(THETA, Length::Theta, theta);
        let weights = operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let bias = epilogue.bias.as_ref().map_or(0, |bias| operands.values(BIAS, Length::Features, bias).0);
        let residual = residual.map(|residual| operands.read("residual", Axis::Vertex, residual));
        let y = operands.write("y", Axis::Vertex, y);
        let bound = operands.check()?;
        let finish = Finish {
            activation: epilogue.activation,
            bias,
            rows: residual.map(|residual| bound.rows(residual)),
            is_backward: false,
            is_mean: false,
        };
        let y = y.map(|y| bound.out(y));
        Ok((Self { x: bound.rows(x), theta, weights: weights.placed(), y, finish }, bound.instances()))
    }
}

impl Description for LayerForward<'_> {
    /// # Safety
    /// The operands have rows where their placements say, weights where their windows say, and Θ and a bias
    /// the elements that they should.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        let Self { x, theta, weights, y, finish } = self;
        let y = y.filter(|_| call.features() > 0);
        // SAFETY: the caller's promise.
        unsafe {
            by_class(call, |call, class| match y {
                Some(y) => call.layer_forward(dense::LayerForward { class, x, weights, theta, y, finish }),
                // A negative degree is reported all the same.
                None if call.plan.conv().checks_degrees() => call.dense_matrices(class, weights, None),
                None => Ok(()),
            })
        }
    }
}

/// The operands of its gradients.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct LayerBackward<'w> {
    x: PlacedRows,
    theta: Address,
    weights: PlacedWeights<'w>,
    /// How t is made.
    finish: Finish,
    grad_y: PlacedRows,
    grad_x: Option<Destination>,
    grad_theta: Option<GradientTo>,
    grad_weights: Option<GradientTo>,
    grad_bias: Option<GradientTo>,
    grad_residual: Option<Destination>,
}

impl<'w> LayerBackward<'w> {
    pub(in crate::cuda) fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        x: &'a Rows<impl Read<T>>,
        theta: &'a impl Read<T>,
        weights: &'a Weights<impl Read<T::Acc>, &'w DeviceWindows>,
        epilogue: &'a Epilogue<impl Read<T::Acc>>,
        grad_y: &'a Rows<impl Read<T>>,
        gradients: &'a mut LayerGradients<impl Write<T>, impl Write<T::Acc>>,
    ) -> Result<(Self, usize)> {
        operands.check_layer(Operator::LayerBackward)?;
        let x = operands.read_inputs("x", x);
        let (theta, len_of_theta) = operands.values(THETA, Length::Theta, theta);
        let weights = operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let bias = epilogue.bias.as_ref().map(|bias| operands.values(BIAS, Length::Features, bias));
        let grad_y = operands.read("grad_y", Axis::Vertex, grad_y);
        let grad_x = operands.write_inputs("grad_x", &mut gradients.x);
        let grad_theta = operands.gradient("grad_theta", (THETA, len_of_theta), &mut gradients.theta);
        let grad_weights =
            operands.gradient("grad_weights", (WEIGHTS, weights.len()), &mut gradients.weights);
        let len_of_bias = bias.map_or(0, |(_, len)| len);
        let grad_bias = operands.gradient("grad_bias", (BIAS, len_of_bias), &mut gradients.bias);
        let grad_residual = operands.write("grad_residual", Axis::Vertex, &mut gradients.residual);
        let bound = operands.check()?;
        let grad_y = bound.rows(grad_y);
        let finish = Finish {
            activation: epilogue.activation,
            bias: bias.map_or(0, |(address, _)| address),
            rows: Some(grad_y),
            is_backward: true,
            is_mean: false,
        };
        let backward = Self {
            x: bound.rows(x),
            theta,
            weights: weights.placed(),
            finish,
            grad_y,
            grad_x: grad_x.map(|out| bound.out(out)),
            // Without elements there is nothing to do; without a bias it has none.
            grad_theta: grad_theta.filter(|to| to.len > 0),
            grad_weights,
            grad_bias: grad_bias.filter(|to| to.len > 0),
            grad_residual: grad_residual.map(|out| bound.out(out)),
        };
        Ok((backward, bound.instances()))
    }
}

impl Description for LayerBackward<'_> {
    /// # Safety
    /// As of the forward, and gradients have the elements that they say.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        let Self { x, theta, weights, finish, grad_y, grad_bias, grad_theta, grad_residual, .. } = self;
        let has_inputs = call.plan.inputs() > 0;
        let grad_x = self.grad_x.filter(|_| has_inputs);
        let wanted = self
            .grad_weights
            .filter(|_| call.plan.conv().weights_matter() && call.has_elements() && has_inputs);
        let wants_rows = grad_x.is_some() || wanted.is_some() || grad_theta.is_some();
        // SAFETY: the caller's promise, and scratch memory has what is asked for.
        unsafe {
            if call.total(Axis::Vertex) == 0 {
                return self.nothing(call);
            }
            let needs_t = wants_rows || grad_bias.is_some();
            let grad_sums = if needs_t { self.grad_sums(call)? } else { grad_y };
            if wants_rows {
                let gradient = match wanted {
                    Some(to) => Some(WeightGradient::new(call, weights.windows, to, true)?),
                    None => None,
                };
                let to_weights = gradient.as_ref().map(WeightGradient::to_weights);
                let mut parts = ThetaParts::default();
                by_class(call, |call, class| {
                    let wants_theta = grad_theta.is_some();
                    let stage = dense::LayerBackward {
                        class,
                        x,
                        weights,
                        theta,
                        grad_sums,
                        grad_x,
                        to_weights,
                        wants_theta,
                    };
                    call.layer_backward(stage, &mut parts)
                })?;
                if let Some(gradient) = gradient {
                    gradient.add_up(call)?;
                }
                if let Some(to) = grad_theta {
                    call.add_theta_parts(parts, to)?;
                }
            } else if call.plan.conv().checks_degrees()
                && (finish.activation == Activation::Identity || !needs_t)
            {
                // No launch before has formed operators: a negative degree is reported all the same.
                by_class(call, |call, class| call.dense_matrices(class, weights, None))?;
            }
            match self.grad_weights {
                Some(to) if wanted.is_none() => call.no_gradient(to)?,
                _ => {}
            }
            if let Some(to) = grad_bias {
                call.bias_gradient(grad_sums, to)?;
            }
            match grad_residual {
                Some(to) if call.has_elements() => call.copy_rows(grad_y, false, to),
                _ => Ok(()),
            }
        }
    }
}

impl LayerBackward<'_> {
    /// Without vertices gradients that are sums are 0.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn nothing<T: DeviceElement, L: Launches>(&self, call: &mut Call<'_, T, L>) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            for to in [self.grad_weights, self.grad_theta, self.grad_bias].into_iter().flatten() {
                call.no_gradient(to)?;
            }
        }
        Ok(())
    }

    /// t, in scratch memory unless it is g.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn grad_sums<T: DeviceElement, L: Launches>(
        &self,
        call: &mut Call<'_, T, L>,
    ) -> Result<PlacedRows> {
        let &Self { x, theta, weights, finish, grad_y, .. } = self;
        if finish.activation == Activation::Identity {
            return Ok(grad_y);
        }
        let to = Destination { rows: call.element_rows(Slot::Rows)?, accumulate: false };
        // SAFETY: the caller's promise, and scratch memory has these rows.
        unsafe { LayerForward { x, theta, weights, y: Some(to), finish }.run(call)? }
        Ok(to.rows)
    }
}
