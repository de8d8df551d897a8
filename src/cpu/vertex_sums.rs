//! The sum of the rows of an instance, in segments of [`SEGMENT_ROWS`].

use rayon::prelude::*;

use super::gather::Source;
use super::schedule::{Parallel, is_shared_out};
use crate::element::{Accumulator, Element};
use crate::summation::SEGMENT_ROWS;

/// The features that are summed together.
const BLOCK: usize = 32;

/// Adds the first `n` rows, each element made an `A` by `value`, to `totals`: one by one, or where there are
/// more than a segment, the sum of each segment.
pub(super) fn add_rows<T: Element, A: Accumulator>(
    parallel: Parallel,
    totals: &mut [A],
    rows: &Source<'_, T>,
    n: usize,
    value: impl Fn(T) -> A + Sync,
) {
    let add = |sums: &mut [A], start: usize, row: usize| {
        for (sum, &x) in sums.iter_mut().zip(&rows.row(row)[start..]) {
            *sum += value(x);
        }
    };
    let add_block = |(block, totals): (usize, &mut [A])| {
        let start = block * BLOCK;
        if n <= SEGMENT_ROWS {
            (0..n).for_each(|row| add(totals, start, row));
            return;
        }
        for first in (0..n).step_by(SEGMENT_ROWS) {
            let mut sums = [A::ZERO; BLOCK];
            let sums = &mut sums[..totals.len()];
            (first..n.min(first + SEGMENT_ROWS)).for_each(|row| add(sums, start, row));
            for (total, &sum) in totals.iter_mut().zip(&*sums) {
                *total += sum;
            }
        }
    };
    // Each block adds its rows in order, so that the bits are the same either way.
    if is_shared_out(parallel) {
        totals.par_chunks_mut(BLOCK).enumerate().for_each(add_block);
    } else {
        totals.chunks_mut(BLOCK).enumerate().for_each(add_block);
    }
}
