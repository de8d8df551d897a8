//! A layer, y = act(M (x Θᵀ) + b) + s, and its gradients.
//!
//! With P = x Θᵀ, M the operator of the convolution, s the residual and g = ∂loss/∂y:
//!
//! ```text
//! u  = M P                  y  = act(u + b) + s
//! t  = g act'(u + b)        ∂b = Σ t_v,  ∂s = g
//! ∂P = Mᵀ t, and ∂w         those of the convolution of P, for t
//! ∂x = ∂P Θ                 ∂Θ = ∂Pᵀ x
//! ```
//!
//! P, u, t and ∂P are rows of sums and not rounded to a narrower type. So the convolution is that of a plan
//! in the type of sums, with an epilogue: the workspace's own where elements are of that type. What is
//! narrower is widened before and rounded once behind it. The products are in `products.rs`.

#![allow(unsafe_code)]

use std::any::Any;

use super::conv::{Epilogue, EpilogueGradients};
use super::disjoint::Disjoint;
use super::epilogue::store_row;
use super::gather::Store;
use super::operands::{Operands, Weights};
use super::products::{LayerRows, Products, for_each_vertex};
use super::workspace::{LayerMemory, Workspace};
use crate::activation::Activation;
use crate::axis::Axis;
use crate::element::{Accumulator as _, Element};
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::rows::{Out, RowLayout, Rows};

/// Where the gradients of a layer go: slices.
pub type LayerGradients<'a, T> = crate::LayerGradients<&'a mut [T], &'a mut [<T as Element>::Acc]>;

impl<T: Element> Workspace<T> {
    /// y = act(M (x Θᵀ) + b) + residual, where M is the operator of [`conv`](Self::conv): a linear map of
    /// each row, the convolution and an epilogue in one. Neither x Θᵀ nor its convolution is rounded before
    /// the epilogue. The workspace must be made for [`Operator::Layer`], by
    /// [`workspace_for`](super::Plan::workspace_for).
    ///
    /// * `x`: `N` rows of vertices, of as many elements as the plan has inputs;
    /// * `theta`: Θ, F rows of as many elements of type `T`, without gaps (what PyTorch's `Linear` has as its
    ///   weight);
    /// * `weights`: one for each hyperedge, read through windows;
    /// * `epilogue`: the activation, and a bias of F elements of type `T::Acc`, if there is one;
    /// * `residual`: `N` rows of vertices, of F elements, if there are any;
    /// * `y`: `N` rows of vertices, of F elements, overwritten, added to or skipped.
    ///
    /// An infinity or NaN in a row of x reaches the vertices that share a hyperedge with that vertex, and no
    /// others.
    ///
    /// # Errors
    /// [`Error::NotMadeFor`], those [of operands](super#errors-of-operands), among them
    /// [`Error::LengthMismatch`] of Θ, and [`Error::NegativeDegree`]. Nothing is written then.
    #[inline(never)]
    pub fn layer(
        &mut self,
        x: Rows<&[T]>,
        theta: &[T],
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.with_layer(Operator::Layer, |workspace, memory| {
            let (plan, mut y) = (workspace.plan.clone(), y);
            let mut operands = Operands::new();
            let x = operands.read_inputs("x", x);
            let theta = operands.theta(theta);
            operands.weights("weights", Axis::Hyperedge, weights);
            operands.activated(epilogue);
            let added = residual.map(|residual| operands.read("residual", Axis::Vertex, residual));
            let placed = operands.write("y", Axis::Vertex, &mut y);
            let bound = operands.check(&plan, workspace.max_instances)?;
            let instances = bound.instances();
            let LayerMemory { conv, products, .. } = memory;
            let conv = of_sums(conv, workspace)?;
            if placed.is_some() {
                products.multiply((&plan, instances), bound.input(x), theta);
            }
            let Products { threads, rows: LayerRows { products, results, .. }, .. } = products;
            let layout = RowLayout::contiguous(plan.features()).instances(instances);
            let n_sums = plan.batch().start(Axis::Vertex, instances) * plan.features();
            let products = Rows::new(&*products.write(n_sums), layout);
            if T::as_sums(&[]).is_some() {
                let residual = residual.and_then(sums_of);
                return conv.conv_epilogue(products, weights, epilogue, residual, sums_of_out(y));
            }
            let Some(placed) = placed else {
                return conv.conv_epilogue(products, weights, epilogue, None, Out::Skip);
            };
            let sums = results.write(n_sums);
            let out = Out::Overwrite(Rows::new(&mut *sums, layout));
            conv.conv_epilogue(products, weights, epilogue, None, out)?;
            let (sums, features, batch) = (&*sums, plan.features(), plan.batch());
            let (placed, added) = (bound.output(placed), added.map(|added| bound.input(added)));
            for_each_vertex(threads, (batch, instances), |row, instance, v| {
                let sums = &sums[row * features..][..features];
                let added = added.map(|added| added.source(batch, instance, None, false));
                // SAFETY: each vertex comes once.
                let store = unsafe { placed.store(batch, instance, v, T::Acc::ONE) };
                store_sums(store, sums, added.as_ref().map(|added| added.row(v)));
            });
            Ok(())
        })
    }

    /// The gradients of [`layer`](Self::layer) for g = ∂loss/∂y, from the same `x`, `theta`, `weights` and
    /// `epilogue`. What the activation was applied to is computed again. The workspace must be made for
    /// [`Operator::LayerBackward`].
    ///
    /// With t = g act'(u + b), 0 where the derivative is 0, whatever g is there, and ∂P = Mᵀ t, neither of
    /// which is rounded to `T`:
    ///
    /// * `grad_y`: g, `N` rows of vertices, of F elements;
    /// * `gradients.x`: ∂P Θ, `N` rows of vertices, of as many elements as the plan has inputs;
    /// * `gradients.theta`: ∂Pᵀ x, F rows of as many elements of type `T::Acc`, without gaps;
    /// * `gradients.weights`: as many elements as `weights` has values: for each, the sum over all instances
    ///   whose windows cover it, 0 where there are none;
    /// * `gradients.bias`: F elements of type `T::Acc`, the sum of all rows of t; none without a bias;
    /// * `gradients.residual`: `N` rows of vertices, g itself.
    ///
    /// Each is overwritten, added to or skipped, and not computed where it is skipped.
    ///
    /// # Errors
    /// As [`layer`](Self::layer).
    #[inline(never)]
    pub fn layer_backward(
        &mut self,
        x: Rows<&[T]>,
        theta: &[T],
        weights: Weights<'_, T::Acc>,
        epilogue: &Epilogue<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        gradients: LayerGradients<'_, T>,
    ) -> Result<()> {
        self.with_layer(Operator::LayerBackward, |workspace, memory| {
            let (plan, mut gradients) = (workspace.plan.clone(), gradients);
            let mut operands = Operands::new();
            let x = operands.read_inputs("x", x);
            let of_theta = ("theta", theta.len());
            let theta = operands.theta(theta);
            operands.weights("weights", Axis::Hyperedge, weights);
            let activated = operands.activated(epilogue);
            let g = operands.read("grad_y", Axis::Vertex, grad_y);
            let grad_x = operands.write_inputs("grad_x", &mut gradients.x);
            let grad_theta = operands.gradient("grad_theta", of_theta, &mut gradients.theta);
            let of_weights = ("weights", weights.values.len());
            let wants_weights =
                operands.gradient("grad_weights", of_weights, &mut gradients.weights).is_some();
            let of_bias = ("bias", activated.bias.map_or(0, <[_]>::len));
            let wants_bias = operands.gradient("grad_bias", of_bias, &mut gradients.bias).is_some();
            let grad_residual = operands.write("grad_residual", Axis::Vertex, &mut gradients.residual);
            let bound = operands.check(&plan, workspace.max_instances)?;
            let instances = bound.instances();
            let (x, g) = (bound.input(x), bound.input(g));
            let LayerMemory { conv, products, .. } = memory;
            let conv = of_sums(conv, workspace)?;

            let is_passed_on = grad_x.is_some() || grad_theta.is_some();
            let through_weights = wants_weights && plan.conv().weights_matter();
            let needs_t = is_passed_on || through_weights || wants_bias;
            let needs_u = needs_t && epilogue.activation != Activation::Identity;
            if needs_u || through_weights {
                products.multiply((&plan, instances), x, theta);
            }
            let (batch, features) = (plan.batch(), plan.features());
            let layout = RowLayout::contiguous(features).instances(instances);
            let n_sums = batch.start(Axis::Vertex, instances) * features;
            let Products { threads, rows, .. } = &mut *products;
            let grad_products = match is_passed_on {
                true => Out::Overwrite(Rows::new(rows.results.write(n_sums), layout)),
                false => Out::Skip,
            };
            let g_of_sums = match sums_of(grad_y) {
                Some(g) => g,
                None => {
                    let wide = rows.gradients.write(n_sums);
                    if needs_t {
                        let wide = Disjoint::new(&mut *wide);
                        for_each_vertex(threads, (batch, instances), |row, instance, v| {
                            // SAFETY: each row comes once, and rows do not overlap.
                            let row = unsafe { wide.part(row * features..(row + 1) * features) };
                            let store = Store { row, scale: T::Acc::ONE, accumulate: false };
                            store_row(store, g.source(batch, instance, None, false).row(v));
                        });
                    }
                    Rows::new(&*wide, layout)
                }
            };
            let of_conv = EpilogueGradients::<T::Acc>::none()
                .x(grad_products)
                .weights(gradients.weights)
                .bias(gradients.bias);
            let products_of_rows = Rows::new(&*rows.products.write(n_sums), layout);
            conv.conv_epilogue_backward(products_of_rows, weights, epilogue, g_of_sums, of_conv)?;

            if let Some(grad_x) = grad_x {
                products.multiply_back((&plan, instances), theta, &bound.output(grad_x));
            }
            if let Some(grad_theta) = grad_theta {
                products.multiply_rows((&plan, instances), x, grad_theta);
            }
            if let Some(grad_residual) = grad_residual {
                let grad_residual = bound.output(grad_residual);
                for_each_vertex(&mut products.threads, (batch, instances), |_, instance, v| {
                    // SAFETY: each vertex comes once.
                    let store = unsafe { grad_residual.store(batch, instance, v, T::Acc::ONE) };
                    store_row(store, g.source(batch, instance, None, false).row(v));
                });
            }
            Ok(())
        })
    }

    /// Calls `f` with the memory of layers, if there is some for this operator.
    fn with_layer(
        &mut self,
        operator: Operator,
        f: impl FnOnce(&mut Self, &mut LayerMemory<T::Acc>) -> Result<()>,
    ) -> Result<()> {
        let is_made_for = |memory: &mut Box<LayerMemory<_>>| memory.operators.contains(&operator);
        let Some(mut memory) = self.layer.take_if(is_made_for) else {
            return Err(Error::NotMadeFor { operator: operator.name() });
        };
        // The workspace is lent as a whole, so its memory of layers is apart until the call has ended.
        let done = f(self, &mut memory);
        self.layer = Some(memory);
        done
    }
}

compiled_here!(
    Workspace::<T>::layer as fn(_, _, _, _, _, _, _) -> _,
    Workspace::<T>::layer_backward as fn(_, _, _, _, _, _, _) -> _,
);

/// The workspace for the convolution of rows of sums: that of the layer, or this one, if it has their type.
fn of_sums<'m, T: Element>(
    of_layer: &'m mut Option<Workspace<T::Acc>>,
    workspace: &'m mut Workspace<T>,
) -> Result<&'m mut Workspace<T::Acc>> {
    let itself = (workspace as &mut dyn Any).downcast_mut();
    // One of the two is there.
    of_layer.as_mut().or(itself).ok_or(Error::NotMadeFor { operator: Operator::Layer.name() })
}

/// Rows of elements that are of the type of sums.
fn sums_of<T: Element>(rows: Rows<&[T]>) -> Option<Rows<&[T::Acc]>> {
    T::as_sums(rows.buffer).map(|sums| Rows::new(sums, rows.layout))
}

/// The same of rows that are written.
fn sums_of_mut<T: Element>(rows: Rows<&mut [T]>) -> Option<Rows<&mut [T::Acc]>> {
    let layout = rows.layout;
    T::as_sums_mut(rows.buffer).map(|sums| Rows::new(sums, layout))
}

/// The same of an output.
fn sums_of_out<T: Element>(out: Out<Rows<&mut [T]>>) -> Out<Rows<&mut [T::Acc]>> {
    match out {
        Out::Overwrite(rows) => sums_of_mut(rows).map_or(Out::Skip, Out::Overwrite),
        Out::Accumulate(rows) => sums_of_mut(rows).map_or(Out::Skip, Out::Accumulate),
        Out::Skip => Out::Skip,
    }
}

/// Stores a row of sums, and a residual added to it, rounded once.
fn store_sums<T: Element>(to: Store<'_, T>, sums: &[T::Acc], residual: Option<&[T]>) {
    for (i, (place, &sum)) in to.row.iter_mut().zip(sums).enumerate() {
        let sum = residual.map_or(sum, |residual| sum + residual[i].widen());
        *place = T::narrow(if to.accumulate { place.widen() + sum } else { sum });
    }
}
