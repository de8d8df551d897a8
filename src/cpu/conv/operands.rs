//! What an epilogue and a readout add to the operands of the convolution and its backward.

#![allow(unsafe_code)]

use super::super::disjoint::Disjoint;
use super::super::epilogue::{Activated, StoreActivated};
use super::super::gather::{Source, Store};
use super::super::operands::{Bound, BoundRows, Input, InstanceRowsOut, Operands, Output};
use super::super::scratch::ScratchRows;
use crate::activation::Activation;
use crate::axis::Axis;
use crate::batch::Batch;
use crate::element::Element;
use crate::rows::Rows;

/// An epilogue whose bias is a slice.
pub type Epilogue<'a, A> = crate::Epilogue<&'a [A]>;

/// Where the gradients of a convolution with an epilogue go: slices.
pub type EpilogueGradients<'a, T> = crate::EpilogueGradients<&'a mut [T], &'a mut [<T as Element>::Acc]>;

/// What follows the convolution in the forward.
pub(super) struct Finish<'a, T: Element> {
    pub(super) epilogue: &'a Epilogue<'a, T::Acc>,
    pub(super) residual: Option<Rows<&'a [T]>>,
}

impl<'a, T: Element> Finish<'a, T> {
    pub(super) fn bind(self, operands: &mut Operands<'_>) -> BoundFinish<'a, T> {
        let activated = operands.activated(self.epilogue);
        let residual = self.residual.map(|residual| operands.read("residual", Axis::Vertex, residual));
        BoundFinish { activated, residual }
    }
}

/// The same, bound.
pub(super) struct BoundFinish<'a, T: Element> {
    activated: Activated<'a, T::Acc>,
    residual: Option<BoundRows<&'a [T]>>,
}

impl<'a, T: Element> BoundFinish<'a, T> {
    /// `None` where it changes nothing.
    pub(super) fn checked(self, bound: &Bound<'_>) -> Option<CheckedFinish<'a, T>> {
        let Self { activated, residual } = self;
        let residual = residual.map(|residual| bound.input(residual));
        (residual.is_some() || !activated.is_identity()).then_some(CheckedFinish { activated, residual })
    }
}

/// The same, checked.
pub(super) struct CheckedFinish<'a, T: Element> {
    activated: Activated<'a, T::Acc>,
    residual: Option<Input<'a, T>>,
}

impl<T: Element> CheckedFinish<'_, T> {
    pub(super) fn of(&self, batch: &Batch, instance: usize) -> FollowingOfInstance<'_, T> {
        let residual = self.residual.map(|residual| residual.source(batch, instance, None, false));
        FollowingOfInstance { activated: self.activated, residual }
    }
}

/// What follows the convolution of one instance.
pub(super) struct FollowingOfInstance<'s, T: Element> {
    activated: Activated<'s, T::Acc>,
    residual: Option<Source<'s, T>>,
}

impl<'s, T: Element> FollowingOfInstance<'s, T> {
    /// What becomes of the sums of row `v`, which is stored in `row`.
    pub(super) fn store<'r>(&'r self, v: usize, row: Store<'r, T>) -> StoreActivated<'r, T>
    where
        's: 'r,
    {
        let residual = self.residual.map(|residual| residual.row(v));
        StoreActivated { row, activated: self.activated, residual }
    }
}

/// Where the rows of y go.
pub(super) enum Destination<'a, T> {
    Rows(Output<'a, T>),
    /// Into scratch memory, and their mean here.
    Readout(InstanceRowsOut<'a, T>),
}

/// The rows of y of one instance.
pub(super) enum RowsOfInstance<'s, T> {
    Rows { output: &'s Output<'s, T>, batch: &'s Batch, instance: usize },
    Scratch { rows: Disjoint<'s, T>, features: usize },
}

impl<T: Element> Destination<'_, T> {
    /// Whether rows go past the caches.
    pub(super) fn is_streamed(&self) -> bool {
        matches!(self, Self::Rows(output) if output.is_streamed())
    }

    /// The rows of an instance with `n` vertices.
    pub(super) fn rows<'s>(
        &'s self,
        (batch, instance): (&'s Batch, usize),
        (n, features): (usize, usize),
        rows: &'s mut ScratchRows<T>,
    ) -> RowsOfInstance<'s, T> {
        match self {
            Self::Rows(output) => RowsOfInstance::Rows { output, batch, instance },
            Self::Readout(_) => {
                let rows = Disjoint::new(rows.write(n * features));
                RowsOfInstance::Scratch { rows, features }
            }
        }
    }
}

impl<T: Element> RowsOfInstance<'_, T> {
    /// Where row `v` is stored, times `scale`.
    ///
    /// # Safety
    /// As long as the result lives, nobody else stores this row of the instance.
    pub(super) unsafe fn store(&self, v: usize, scale: T::Acc) -> Store<'_, T> {
        match self {
            // SAFETY: the row is the caller's.
            Self::Rows { output, batch, instance } => unsafe { output.store(batch, *instance, v, scale) },
            Self::Scratch { rows, features } => {
                // SAFETY: rows do not overlap, and this one is the caller's.
                let row = unsafe { rows.part(v * features..(v + 1) * features) };
                Store { row, scale, accumulate: false }
            }
        }
    }
}

/// ∂loss/∂y: rows of vertices, or a row for each instance that is the gradient of their mean.
pub(super) enum Gradient<'a, T, R = Rows<&'a [T]>> {
    Rows(R),
    Readout(&'a [T]),
}

impl<'a, T> Gradient<'a, T> {
    pub(super) fn bind(self, operands: &mut Operands<'_>) -> Gradient<'a, T, BoundRows<&'a [T]>> {
        match self {
            Self::Rows(rows) => Gradient::Rows(operands.read("grad_y", Axis::Vertex, rows)),
            Self::Readout(rows) => Gradient::Readout(operands.instance_rows("grad_readout", rows)),
        }
    }
}

impl<'a, T: Element> Gradient<'a, T, BoundRows<&'a [T]>> {
    pub(super) fn checked(self, bound: &Bound<'_>) -> Gradient<'a, T, Input<'a, T>> {
        match self {
            Self::Rows(rows) => Gradient::Rows(bound.input(rows)),
            Self::Readout(rows) => Gradient::Readout(rows),
        }
    }
}

/// What arrives at the convolution in the backward: g, through the epilogue.
pub(super) struct Arriving<'a, T: Element> {
    pub(super) activated: Activated<'a, T::Acc>,
    pub(super) gradient: Gradient<'a, T, Input<'a, T>>,
}

impl<T: Element> Arriving<'_, T> {
    /// Whether t is g as the caller gave it.
    pub(super) fn is_g(&self) -> bool {
        matches!(self.gradient, Gradient::Rows(_)) && !self.needs_u()
    }

    /// Whether t depends on u.
    pub(super) fn needs_u(&self) -> bool {
        self.activated.activation != Activation::Identity
    }
}
