//! The operands of a call, bound one by one, and where their rows are once all are checked.

#![allow(unsafe_code)]

use super::disjoint::Disjoint;
use super::epilogue::Activated;
use super::gather::{Source, Store};
use super::instance_sums::GradientTo;
use super::plan::Plan;
use super::streams::STREAMED_BYTES;
use crate::axis::Axis;
use crate::batch::Batch;
use crate::element::{Accumulator, Element};
use crate::epilogue::Epilogue;
use crate::error::Result;
use crate::operands::{self, Checked, Length, RowsId};
use crate::rows::{Operand, Out, Placement, RowLayout, Rows, Width};
use crate::windows::WindowTable;

/// Weights (or scales) in a slice.
pub type Weights<'a, A> = crate::Weights<&'a [A], &'a WindowTable>;

/// Rows that were bound: their elements, and what the checks know them by.
#[derive(Clone, Copy)]
pub(super) struct BoundRows<B> {
    buffer: B,
    id: RowsId,
}

/// Rows that were bound as an output.
pub(super) struct BoundOut<'a, E> {
    rows: BoundRows<&'a mut [E]>,
    accumulate: bool,
}

/// The operands of a call. Each is bound once; then all are checked.
pub(super) struct Operands<'w>(operands::Operands<'w>);

impl<'w> Operands<'w> {
    pub(super) fn new() -> Self {
        Self(operands::Operands::new())
    }

    /// Rows that are read.
    pub(super) fn read<'a, E>(
        &mut self,
        name: &'static str,
        axis: Axis,
        rows: Rows<&'a [E]>,
    ) -> BoundRows<&'a [E]> {
        self.read_of(name, (axis, Width::Features), rows)
    }

    /// Rows of vertices that are read, of a layer's inputs.
    pub(super) fn read_inputs<'a, E>(
        &mut self,
        name: &'static str,
        rows: Rows<&'a [E]>,
    ) -> BoundRows<&'a [E]> {
        self.read_of(name, (Axis::Vertex, Width::Inputs), rows)
    }

    /// Rows that are written, if they are wanted.
    pub(super) fn write<'a, E>(
        &mut self,
        name: &'static str,
        axis: Axis,
        out: &'a mut Out<Rows<&mut [E]>>,
    ) -> Option<BoundOut<'a, E>> {
        self.write_of(name, (axis, Width::Features), out)
    }

    /// Rows of vertices that are written, of a layer's inputs.
    pub(super) fn write_inputs<'a, E>(
        &mut self,
        name: &'static str,
        out: &'a mut Out<Rows<&mut [E]>>,
    ) -> Option<BoundOut<'a, E>> {
        self.write_of(name, (Axis::Vertex, Width::Inputs), out)
    }

    fn read_of<'a, E>(
        &mut self,
        name: &'static str,
        of: (Axis, Width),
        rows: Rows<&'a [E]>,
    ) -> BoundRows<&'a [E]> {
        let id = self.rows(name, of, rows.layout, rows.buffer.len(), false);
        BoundRows { buffer: rows.buffer, id }
    }

    fn write_of<'a, E>(
        &mut self,
        name: &'static str,
        of: (Axis, Width),
        out: &'a mut Out<Rows<&mut [E]>>,
    ) -> Option<BoundOut<'a, E>> {
        let (rows, accumulate) = out.as_parts()?;
        let id = self.rows(name, of, rows.layout, rows.buffer.len(), true);
        Some(BoundOut { rows: BoundRows { buffer: rows.buffer, id }, accumulate })
    }

    fn rows(
        &mut self,
        name: &'static str,
        (axis, width): (Axis, Width),
        layout: RowLayout,
        len: usize,
        is_written: bool,
    ) -> RowsId {
        self.0.rows(Operand { name, axis, width, layout, len }, is_written)
    }

    /// Weights, or a scale, if there is one.
    pub(super) fn weights<A: 'w>(
        &mut self,
        name: &'static str,
        axis: Axis,
        weights: impl Into<Option<Weights<'w, A>>>,
    ) {
        if let Some(Weights { values, windows }) = weights.into() {
            self.0.scale(name, axis, values.len(), windows);
        }
    }

    /// What an epilogue applies to the rows of sums.
    pub(super) fn activated<'a, A>(&mut self, epilogue: &Epilogue<&'a [A]>) -> Activated<'a, A> {
        let &Epilogue { activation, bias } = epilogue;
        if let Some(bias) = bias {
            self.0.values("bias", bias.len(), Length::Features);
        }
        Activated { activation, bias }
    }

    /// The matrix Θ of a layer.
    pub(super) fn theta<'a, E>(&mut self, theta: &'a [E]) -> &'a [E] {
        self.0.values("theta", theta.len(), Length::Theta);
        theta
    }

    /// A row for each instance, that is read.
    pub(super) fn instance_rows<'a, E>(&mut self, name: &'static str, rows: &'a [E]) -> &'a [E] {
        self.0.values(name, rows.len(), Length::Instances);
        rows
    }

    /// A row for each instance, that is written, if they are wanted.
    pub(super) fn instance_rows_out<'a, E>(
        &mut self,
        name: &'static str,
        out: &'a mut Out<&mut [E]>,
    ) -> Option<InstanceRowsOut<'a, E>> {
        let (rows, accumulate) = out.as_parts()?;
        self.0.values(name, rows.len(), Length::Instances);
        Some(InstanceRowsOut { buffer: Disjoint::new(rows), accumulate })
    }

    /// A matrix for each instance, that is read.
    pub(super) fn matrices<'a, E>(
        &mut self,
        name: &'static str,
        values: &'a [E],
        batch: &Batch,
    ) -> Matrices<'a, E> {
        self.0.values(name, values.len(), Length::Matrices);
        Matrices { values, side: batch.largest(Axis::Vertex) }
    }

    /// A matrix for each instance, that is written, if they are wanted.
    pub(super) fn matrices_out<'a, E>(
        &mut self,
        name: &'static str,
        out: &'a mut Out<&mut [E]>,
        batch: &Batch,
    ) -> Option<MatricesOut<'a, E>> {
        let (values, accumulate) = out.as_parts()?;
        self.0.values(name, values.len(), Length::Matrices);
        Some(MatricesOut { buffer: Disjoint::new(values), side: batch.largest(Axis::Vertex), accumulate })
    }

    /// The gradient of weights, of a scale or of values, if it is wanted; `of` is the name and the length of
    /// those.
    pub(super) fn gradient<'a, A>(
        &mut self,
        name: &'static str,
        of: (&'static str, usize),
        out: &'a mut Out<&mut [A]>,
    ) -> Option<GradientTo<'a, A>> {
        let (values, accumulate) = out.as_parts()?;
        self.0.gradient(name, values.len(), of);
        Some(GradientTo { values, accumulate })
    }

    /// Checks all operands together.
    pub(super) fn check<'o, T: Element>(
        &'o mut self,
        plan: &'o Plan<T>,
        max_instances: usize,
    ) -> Result<Bound<'o>> {
        let checked = self.0.check(plan.batch(), plan.widths(), max_instances)?;
        Ok(Bound { checked, batch: plan.batch() })
    }
}

/// Operands that passed all checks.
pub(super) struct Bound<'o> {
    checked: Checked<'o>,
    batch: &'o Batch,
}

impl Bound<'_> {
    pub(super) fn instances(&self) -> usize {
        self.checked.instances
    }

    pub(super) fn input<'a, E>(&self, rows: BoundRows<&'a [E]>) -> Input<'a, E> {
        Input { buffer: rows.buffer, placement: self.checked.placement(rows.id) }
    }

    pub(super) fn output<'a, E>(&self, BoundOut { rows, accumulate }: BoundOut<'a, E>) -> Output<'a, E> {
        let placement = self.checked.placement(rows.id);
        // What is written, and not how much room there is.
        let elements = placement.elements(self.batch, self.instances());
        let is_streamed = !accumulate && elements >= STREAMED_BYTES / size_of::<E>();
        Output { buffer: Disjoint::new(rows.buffer), placement, accumulate, is_streamed }
    }
}

/// Rows that are read.
#[derive(Clone, Copy)]
pub(super) struct Input<'a, T> {
    buffer: &'a [T],
    placement: Placement,
}

impl<'a, T: Element> Input<'a, T> {
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

/// Rows that are written; they are disjoint.
pub(super) struct Output<'a, T> {
    buffer: Disjoint<'a, T>,
    placement: Placement,
    accumulate: bool,
    is_streamed: bool,
}

impl<T: Element> Output<'_, T> {
    /// Whether stores go past the caches, see [`Streams`](super::streams::Streams).
    pub(super) fn is_streamed(&self) -> bool {
        self.is_streamed
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
        Store { row, scale, accumulate: self.accumulate }
    }
}

/// A row for each instance, one behind the other, that is written.
pub(super) struct InstanceRowsOut<'a, T> {
    buffer: Disjoint<'a, T>,
    accumulate: bool,
}

impl<T: Element> InstanceRowsOut<'_, T> {
    /// Where the row of `instance` is stored, which has `features` elements.
    ///
    /// # Safety
    /// As long as the result lives, nobody else stores the row of this instance.
    pub(super) unsafe fn store(&self, instance: usize, features: usize) -> Store<'_, T> {
        let start = instance * features;
        // SAFETY: rows do not overlap, and this one is the caller's.
        let row = unsafe { self.buffer.part(start..start + features) };
        Store { row, scale: T::Acc::ONE, accumulate: self.accumulate }
    }
}

/// A matrix for each instance, one behind the other, that is read.
#[derive(Clone, Copy)]
pub(super) struct Matrices<'a, A> {
    values: &'a [A],
    side: usize,
}

impl<A: Accumulator> Matrices<'_, A> {
    /// An entry of an instance.
    pub(super) fn entry(&self, instance: usize, u: usize, v: usize) -> A {
        self.values[(instance * self.side + u) * self.side + v]
    }
}

/// A matrix for each instance, one behind the other, that is written.
pub(super) struct MatricesOut<'a, A> {
    buffer: Disjoint<'a, A>,
    side: usize,
    accumulate: bool,
}

impl<A: Accumulator> MatricesOut<'_, A> {
    /// Stores or adds the matrix of `instance`, which has `n` rows. What is beyond becomes 0, or stays.
    ///
    /// # Safety
    /// Until this returns, nobody else stores the matrix of this instance.
    pub(super) unsafe fn store(&self, instance: usize, n: usize, entry: impl Fn(usize, usize) -> A) {
        let size = self.side * self.side;
        // SAFETY: matrices do not overlap, and this one is the caller's.
        let matrix = unsafe { self.buffer.part(instance * size..(instance + 1) * size) };
        for (u, row) in matrix.chunks_exact_mut(self.side.max(1)).enumerate() {
            for (v, place) in row.iter_mut().enumerate() {
                match (u < n && v < n, self.accumulate) {
                    (true, true) => *place += entry(u, v),
                    (true, false) => *place = entry(u, v),
                    (false, true) => {}
                    (false, false) => *place = A::ZERO,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incidence::Incidence;
    use crate::rows::RowLayout;

    /// Rows of 1 KiB for 8 vertices: 2,048 instances fill half a last cache.
    #[test]
    fn an_output_is_streamed_by_what_is_written() {
        let batch = Batch::replicate(Incidence::subsets(8, 2).unwrap());
        let plan = Plan::<f32>::builder(&batch, 256).build().unwrap();
        let mut room = vec![0.0f32; 2 * 2_048 * 8 * 256];
        let (packed, apart) = (RowLayout::contiguous(256), RowLayout::contiguous(256).row_stride(512));
        let cases = [
            (packed, 2_048, false, true),
            (packed, 2_047, false, false),
            (packed, 2_048, true, false),
            // As much memory as that, with gaps or without a call that needs it.
            (apart, 2_047, false, false),
            (apart, 2_048, false, true),
            (packed.instances(3), 3, false, false),
        ];
        for (layout, instances, accumulate, expected) in cases {
            let rows = Rows::new(&mut room[..], layout.instances(instances));
            let mut out = if accumulate { Out::Accumulate(rows) } else { Out::Overwrite(rows) };
            let mut operands = Operands::new();
            let bound_out = operands.write("y", Axis::Vertex, &mut out).unwrap();
            let bound = operands.check(&plan, 4_096).unwrap();
            let output = bound.output(bound_out);
            assert_eq!(output.is_streamed(), expected, "{layout:?} {instances} {accumulate}");
        }
    }
}
