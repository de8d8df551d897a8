//! Operands of a call, checked against the batch.

#![allow(unsafe_code)]

use super::disjoint::Disjoint;
use super::gather::{Source, Store};
use crate::axis::Axis;
use crate::batch::Batch;
use crate::element::Element;
use crate::error::Result;
use crate::rows::{Operand, Out, Placement, Rows};
use crate::windows::WindowTable;

/// Weights (or scales) in a slice.
pub type Weights<'a, A> = crate::Weights<&'a [A], &'a WindowTable>;

pub(super) fn operand<T>(name: &'static str, axis: Axis, rows: &Rows<&[T]>) -> Operand {
    Operand { name, axis, layout: rows.layout, len: rows.buffer.len() }
}

pub(super) fn output<T>(name: &'static str, axis: Axis, rows: &Out<Rows<&mut [T]>>) -> Option<Operand> {
    rows.as_ref().map(|rows| Operand { name, axis, layout: rows.layout, len: rows.buffer.len() })
}

/// An operand that is read, checked.
#[derive(Clone, Copy)]
pub(super) struct Input<'a, T> {
    buffer: &'a [T],
    placement: Placement,
}

impl<'a, T: Element> Input<'a, T> {
    pub(super) fn new(
        rows: Rows<&'a [T]>,
        operand: Operand,
        batch: &Batch,
        instances: usize,
    ) -> Result<Self> {
        Ok(Self { buffer: rows.buffer, placement: operand.place(batch, instances, false)? })
    }

    /// The rows of one instance, to gather from.
    pub(super) fn source<'s>(
        &self,
        batch: &Batch,
        instance: usize,
        scale: Option<&'s [T::Acc]>,
        skip_zero: bool,
    ) -> Source<'s, T>
    where
        'a: 's,
    {
        Source {
            rows: &self.buffer[self.placement.base(batch, instance)..],
            row_stride: self.placement.row_stride(),
            features: self.placement.features,
            scale,
            shifts: None,
            shift: 0,
            skip_zero,
        }
    }
}

/// An operand that is written, checked; its rows are disjoint.
pub(super) struct Output<'a, T> {
    buffer: Disjoint<'a, T>,
    placement: Placement,
    add: bool,
}

impl<'a, T: Element> Output<'a, T> {
    /// `None` where the result is not wanted.
    pub(super) fn new(
        rows: Out<Rows<&'a mut [T]>>,
        operand: Option<Operand>,
        batch: &Batch,
        instances: usize,
    ) -> Result<Option<Self>> {
        let Some(operand) = operand else { return Ok(None) };
        let placement = operand.place(batch, instances, true)?;
        let (rows, add) = match rows {
            Out::Overwrite(rows) => (rows, false),
            Out::Accumulate(rows) => (rows, true),
            Out::Skip => return Ok(None),
        };
        Ok(Some(Self { buffer: Disjoint::new(rows.buffer), placement, add }))
    }

    /// Where row `i` of `instance` is stored, times `scale`.
    ///
    /// # Safety
    /// As long as the result lives, nobody else stores this row of this instance.
    pub(super) unsafe fn store(
        &self,
        batch: &Batch,
        instance: usize,
        i: usize,
        scale: T::Acc,
    ) -> Store<'_, T> {
        let start = self.placement.base(batch, instance) + i * self.placement.row_stride();
        // SAFETY: rows of the placement do not overlap, and this one is the caller's.
        let row = unsafe { self.buffer.part(start..start + self.placement.features) };
        Store { row, scale, add: self.add }
    }
}
