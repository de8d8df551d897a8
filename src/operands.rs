//! The operands of a call, bound one by one and then checked together.
//!
//! An operator of either backend states each of its operands once: its name, what its rows belong to, and
//! whether it is written. The checks follow in the order that is documented with
//! the [CPU backend](crate::cpu#errors-of-operands), and give each feature operand its place.

use arrayvec::ArrayVec;

use crate::axis::Axis;
use crate::batch::Batch;
use crate::error::{Error, Result, fits_u32};
use crate::rows::{Operand, Placement, Widths, agree_on_instances};
use crate::windows::{WindowTable, Windows};

/// The most feature operands of an operator, the most scales, the most other values, and the most gradients
/// of scales and values.
pub(crate) const MOST_ROWS: usize = 4;
pub(crate) const MOST_SCALES: usize = 2;
pub(crate) const MOST_VALUES: usize = 2;
pub(crate) const MOST_GRADIENTS: usize = 3;

/// A feature operand of [`Operands`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowsId(usize);

impl RowsId {
    #[cfg(feature = "cuda")]
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

struct Scale<'w> {
    name: &'static str,
    axis: Axis,
    len: usize,
    windows: Windows<&'w WindowTable>,
}

/// How long values are that are neither read through windows nor a gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    /// A value for each feature.
    Features,
    /// For each feature a row of as many values as a layer has inputs.
    Theta,
    /// A row of features for each instance.
    Instances,
    /// For each instance as many rows of as many values as the largest topology in use has vertices.
    Matrices,
}

struct Values {
    name: &'static str,
    len: usize,
    length: Length,
}

struct Gradient {
    name: &'static str,
    len: usize,
    of: (&'static str, usize),
}

/// The operands of one call.
pub(crate) struct Operands<'w> {
    rows: ArrayVec<(Operand, bool), MOST_ROWS>,
    scales: ArrayVec<Scale<'w>, MOST_SCALES>,
    values: ArrayVec<Values, MOST_VALUES>,
    gradients: ArrayVec<Gradient, MOST_GRADIENTS>,
    /// Where the rows of each feature operand lie, once that is checked.
    placements: ArrayVec<Placement, MOST_ROWS>,
}

/// Operands that passed all checks.
pub(crate) struct Checked<'o> {
    /// The instances of the call.
    pub(crate) instances: usize,
    placements: &'o ArrayVec<Placement, MOST_ROWS>,
}

impl Checked<'_> {
    /// Where the rows of an operand lie.
    #[inline]
    pub(crate) fn placement(&self, id: RowsId) -> Placement {
        self.placements[id.0]
    }
}

impl<'w> Operands<'w> {
    // Made in place: it is large.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self {
            rows: ArrayVec::new(),
            scales: ArrayVec::new(),
            values: ArrayVec::new(),
            gradients: ArrayVec::new(),
            placements: ArrayVec::new(),
        }
    }

    /// A feature operand.
    #[inline]
    pub(crate) fn rows(&mut self, operand: Operand, is_written: bool) -> RowsId {
        let id = RowsId(self.rows.len());
        self.rows.push((operand, is_written));
        id
    }

    /// Weights, or a scale, of `len` values.
    #[inline]
    pub(crate) fn scale(
        &mut self,
        name: &'static str,
        axis: Axis,
        len: usize,
        windows: Windows<&'w WindowTable>,
    ) {
        self.scales.push(Scale { name, axis, len, windows });
    }

    /// Other values, `len` of them: a bias, or rows of instances.
    pub(crate) fn values(&mut self, name: &'static str, len: usize, length: Length) {
        self.values.push(Values { name, len, length });
    }

    /// The gradient of weights, of a scale or of values; `of` is the name and the length of those.
    pub(crate) fn gradient(&mut self, name: &'static str, len: usize, of: (&'static str, usize)) {
        self.gradients.push(Gradient { name, len, of });
    }

    /// Checks all operands.
    pub(crate) fn check(
        &mut self,
        batch: &Batch,
        widths: Widths,
        max_instances: usize,
    ) -> Result<Checked<'_>> {
        let Widths { features, inputs } = widths;
        let operands = self.rows.iter().map(|(operand, _)| operand);
        let instances = agree_on_instances(batch, widths, operands, || self.instances_of_matrices(batch))?;
        fits_u32("the number of instances", instances)?;
        if instances > max_instances {
            return Err(Error::TooManyInstances { value: instances, bound: max_instances });
        }
        for Scale { name, axis, len, windows } in &self.scales {
            windows.check(name, batch, *axis, instances, *len)?;
        }
        for &Values { name: table, len: value, length } in &self.values {
            let (bound, bound_of) = match length {
                Length::Features => (Some(features), "the plan's features"),
                Length::Theta => (features.checked_mul(inputs), "the plan's features times its inputs"),
                Length::Instances => (instances.checked_mul(features), "a row for each instance"),
                Length::Matrices => {
                    let values = values_of_matrix(batch).and_then(|values| values.checked_mul(instances));
                    (values, "a matrix for each instance")
                }
            };
            // What is longer than memory is no slice's length either.
            let bound = bound.unwrap_or(usize::MAX);
            if value != bound {
                return Err(Error::LengthMismatch { table, value, bound, bound_of });
            }
        }
        for &Gradient { name: operand, len: value, of: (bound_of, bound) } in &self.gradients {
            if value != bound {
                return Err(Error::GradientMismatch { operand, value, bound, bound_of });
            }
        }
        for (operand, is_written) in &self.rows {
            self.placements.push(operand.place(batch, instances, *is_written)?);
        }
        Ok(Checked { instances, placements: &self.placements })
    }

    /// The copies that the first operand of matrices tells.
    fn instances_of_matrices(&self, batch: &Batch) -> Result<Option<(usize, &'static str)>> {
        let mut matrices = self.values.iter().filter(|values| matches!(values.length, Length::Matrices));
        let Some(&Values { name: operand, len: value, .. }) = matrices.next() else { return Ok(None) };
        match values_of_matrix(batch).unwrap_or(usize::MAX) {
            0 => Ok(None),
            bound if value.is_multiple_of(bound) => Ok(Some((value / bound, operand))),
            bound => Err(Error::PartialMatrix { operand, value, bound }),
        }
    }
}

/// The values of the matrix of an instance.
pub(crate) fn values_of_matrix(batch: &Batch) -> Option<usize> {
    let n = batch.largest(Axis::Vertex);
    n.checked_mul(n)
}
