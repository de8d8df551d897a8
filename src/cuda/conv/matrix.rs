//! Matrices of instances: M of the convolution y = M x, the inner products of rows, and the gradients of
//! both.
//!
//! ```text
//! conv_matrix            dense operators → store
//! conv_matrix_backward   dense operators → ∂loss/∂M as products of rows → as the backward of the convolution
//! gram                   factors of 1 → products of rows, as the backward of the convolution → store
//! gram_backward          G + Gᵀ as dense operators → as the convolution
//! ```
//!
//! All instances are on the path of dense operators, whatever the paths of the plan.

#![allow(unsafe_code)]

use super::super::DeviceElement;
use super::super::args::Address;
use super::super::call::{Call, Destination, GradientTo, PlacedRows, PlacedWeights};
use super::super::description::Description;
use super::super::launches::Launches;
use super::super::operands::{Operands, Read, Write};
use super::super::route::DenseClass;
use super::super::window_table::DeviceWindows;
use super::dense::MatricesTo;
use super::{WEIGHTS, WeightGradient};
use crate::axis::Axis;
use crate::error::Result;
use crate::operands::Length;
use crate::operator::Operator;
use crate::rows::{Out, Rows};
use crate::windows::Weights;

/// The operands of M, if it is wanted: skipped, nothing tells how many copies there are.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct MatrixForward<'w>(Option<(PlacedWeights<'w>, MatricesTo)>);

impl<'w> MatrixForward<'w> {
    /// Binds and checks the operands. Returns them, and the number of instances; likewise below.
    pub(in crate::cuda) fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        weights: &'a Weights<impl Read<T::Acc>, &'w DeviceWindows>,
        matrix: &'a mut Out<impl Write<T::Acc>>,
    ) -> Result<(Self, usize)> {
        operands.check_matrices(Operator::ConvMatrix)?;
        if !matrix.is_wanted() {
            return Ok((Self(None), 0));
        }
        let weights = operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let matrix = operands.write_values("matrix", Length::Matrices, matrix);
        let bound = operands.check()?;
        let matrix = matrix.map(|(address, accumulate)| MatricesTo { address, accumulate });
        Ok((Self(matrix.map(|to| (weights.placed(), to))), bound.instances()))
    }
}

impl Description for MatrixForward<'_> {
    /// # Safety
    /// There are weights where their windows say, and a matrix for each instance.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        match self.0 {
            Some((weights, to)) if has_entries(call) => {
                // SAFETY: the caller's promise.
                by_class(call, |call, class| unsafe { call.dense_matrices(class, weights, Some(to)) })
            }
            _ => Ok(()),
        }
    }
}

/// The operands of its gradient.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct MatrixBackward<'w> {
    weights: PlacedWeights<'w>,
    grad_matrix: Address,
    grad_weights: Option<GradientTo>,
}

impl<'w> MatrixBackward<'w> {
    pub(in crate::cuda) fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        weights: &'a Weights<impl Read<T::Acc>, &'w DeviceWindows>,
        grad_matrix: &'a impl Read<T::Acc>,
        grad_weights: &'a mut Out<impl Write<T::Acc>>,
    ) -> Result<(Self, usize)> {
        operands.check_matrices(Operator::ConvMatrixBackward)?;
        let weights = operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let (grad_matrix, _) = operands.values("grad_matrix", Length::Matrices, grad_matrix);
        let grad_weights = operands.gradient("grad_weights", (WEIGHTS, weights.len()), grad_weights);
        let bound = operands.check()?;
        Ok((Self { weights: weights.placed(), grad_matrix, grad_weights }, bound.instances()))
    }
}

impl Description for MatrixBackward<'_> {
    /// # Safety
    /// There are weights where their windows say, a matrix for each instance, and a gradient for each weight.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        let Self { weights, grad_matrix, grad_weights } = self;
        let conv = call.plan.conv();
        let has_entries = has_entries(call);
        let wanted = grad_weights.filter(|_| conv.weights_matter() && has_entries);
        let Some(to) = wanted else {
            // SAFETY: the caller's promise.
            unsafe {
                if has_entries && conv.checks_degrees() {
                    // A negative degree is reported all the same.
                    by_class(call, |call, class| call.dense_matrices(class, weights, None))?;
                }
                return grad_weights.map_or(Ok(()), |to| call.no_gradient(to));
            }
        };
        let gradient = WeightGradient::new(call, weights.windows, to, true)?;
        // SAFETY: the caller's promise, and scratch memory has what is asked for.
        unsafe {
            by_class(call, |call, class| {
                call.dense_matrices_backward(class, weights, grad_matrix, gradient.to_weights())
            })?;
            gradient.add_up(call)
        }
    }
}

/// The operands of the inner products of rows.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct GramForward {
    x: PlacedRows,
    gram: Option<MatricesTo>,
}

impl GramForward {
    pub(in crate::cuda) fn bind<'a, 'w, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        x: &'a Rows<impl Read<T>>,
        gram: &'a mut Out<impl Write<T::Acc>>,
    ) -> Result<(Self, usize)> {
        operands.check_matrices(Operator::Gram)?;
        let x = operands.read("x", Axis::Vertex, x);
        let gram = operands.write_values("gram", Length::Matrices, gram);
        let bound = operands.check()?;
        let gram = gram.map(|(address, accumulate)| MatricesTo { address, accumulate });
        Ok((Self { x: bound.rows(x), gram }, bound.instances()))
    }
}

impl Description for GramForward {
    /// # Safety
    /// There are rows where their placement says, and a matrix for each instance.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        match self.gram {
            Some(to) if has_entries(call) => {
                // SAFETY: the caller's promise.
                by_class(call, |call, class| unsafe { call.dense_gram(class, self.x, to) })
            }
            _ => Ok(()),
        }
    }
}

/// The operands of their gradient.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct GramBackward {
    x: PlacedRows,
    grad_gram: Address,
    grad_x: Option<Destination>,
}

impl GramBackward {
    pub(in crate::cuda) fn bind<'a, 'w, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        x: &'a Rows<impl Read<T>>,
        grad_gram: &'a impl Read<T::Acc>,
        grad_x: &'a mut Out<Rows<impl Write<T>>>,
    ) -> Result<(Self, usize)> {
        operands.check_matrices(Operator::GramBackward)?;
        let x = operands.read("x", Axis::Vertex, x);
        let (grad_gram, _) = operands.values("grad_gram", Length::Matrices, grad_gram);
        let grad_x = operands.write("grad_x", Axis::Vertex, grad_x);
        let bound = operands.check()?;
        let (x, grad_x) = (bound.rows(x), grad_x.map(|out| bound.out(out)));
        Ok((Self { x, grad_gram, grad_x }, bound.instances()))
    }
}

impl Description for GramBackward {
    /// # Safety
    /// There are rows where their placements say, and a matrix for each instance.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        let Self { x, grad_gram, grad_x } = self;
        match grad_x {
            Some(grad_x) if call.has_elements() && call.total(Axis::Vertex) > 0 => {
                // SAFETY: the caller's promise.
                by_class(call, |call, class| unsafe { call.dense_gram_backward(class, x, grad_gram, grad_x) })
            }
            _ => Ok(()),
        }
    }
}

/// Whether matrices have any entries. If not, they do not tell how many there are.
fn has_entries<T: DeviceElement, L: Launches>(call: &Call<'_, T, L>) -> bool {
    call.instances > 0 && call.batch().largest(Axis::Vertex) > 0
}

/// The launches of each class of topologies in turn.
pub(super) fn by_class<T: DeviceElement, L: Launches>(
    call: &mut Call<'_, T, L>,
    mut f: impl FnMut(&mut Call<'_, T, L>, DenseClass) -> Result<()>,
) -> Result<()> {
    call.by_class = true;
    call.on_each(call.plan.classes(), |call, route| match route.class() {
        Some(class) => f(call, class),
        None => Ok(()),
    })?;
    call.by_class = false;
    Ok(())
}
