//! Rows of partial sums that are computed in parallel, and taken in order: a block of them at a time, so that
//! their memory does not grow with their number.

#![allow(unsafe_code)]

use super::disjoint::Disjoint;
use super::schedule::for_each;
use crate::element::Accumulator;
use crate::error::{Result, try_zeroed};

/// The elements of a block: 1 or 2 MiB, which stay in cache, and enough for hundreds of small instances.
const PARTIAL_ELEMENTS: usize = 1 << 18;

/// Room for a block of rows of one width.
#[derive(Debug)]
pub(super) struct Partials<A> {
    values: Vec<A>,
    width: usize,
}

impl<A: Accumulator> Partials<A> {
    /// Room for rows of `width` elements, of which there are `max_rows` at most.
    pub(super) fn new(width: usize, max_rows: usize) -> Result<Self> {
        let rows = (PARTIAL_ELEMENTS / width.max(1)).clamp(1, max_rows.max(1));
        Ok(Self { values: try_zeroed("partial sums", rows * width)?, width })
    }

    /// From now on rows have this width; no row is wider than those that there is room for.
    pub(super) fn narrow(&mut self, width: usize) {
        self.width = width;
    }

    /// Calls `compute` for each number below `n`, with one of the `states` to itself and a zeroed row, and
    /// then `take` with each row, in the order of the numbers, and with the states.
    pub(super) fn for_each<S: Send>(
        &mut self,
        states: &mut [S],
        n: usize,
        compute: impl Fn(&mut S, usize, &mut [A]) + Sync,
        mut take: impl FnMut(&mut [S], usize, &mut [A]),
    ) {
        let width = self.width;
        let block_len = self.values.len().checked_div(width).unwrap_or(n.max(1));
        for start in (0..n).step_by(block_len) {
            let block = start..(start + block_len).min(n);
            let values = &mut self.values[..block.len() * width];
            values.fill(A::ZERO);
            let rows = Disjoint::new(&mut *values);
            for_each(states, block.clone(), |state, i| {
                let row = (i - start) * width;
                // SAFETY: each number of the block has a row of its own, and comes once.
                compute(state, i, unsafe { rows.part(row..row + width) });
            });
            for i in block {
                take(&mut *states, i, &mut values[(i - start) * width..][..width]);
            }
        }
    }
}
