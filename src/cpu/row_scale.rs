//! The row scale: the factor that a row's gradient is passed on with.

use super::schedule::{Parallel, each_value};
use crate::conv::Reduce;
use crate::element::Accumulator;
use crate::incidence::Csr;

/// Fills in 2^shift · scale, divided by the number of entries of a row for a mean, for each of `rows`. A
/// scale is 1 where there is none.
pub(super) fn fill_row_scales<A: Accumulator>(
    parallel: Parallel,
    rows: Csr<'_>,
    reduce: Reduce,
    scale: Option<&[A]>,
    shift: impl Fn(usize) -> i32 + Sync,
    row_scales: &mut [A],
) {
    each_value(parallel, &mut row_scales[..rows.len()], |i, row_scale| {
        let scale = scale.map_or(A::ONE, |scale| scale[i]).times_power_of_two(shift(i));
        *row_scale = scale * reduce.factor(rows.row(i).len());
    });
}
