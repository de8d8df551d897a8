//! Sums of one number for each incidence of a row, as in `kernels/sums.cuh`: what degrees, shifts and
//! gradients of weights have in common.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::DeviceElement;
use super::args::{ScaleArgs, SumArgs, Tiles};
use super::call::Call;
use super::geometry::{Grid, WARP};
use super::kernels::Kernel;
use super::launches::Launches;
use super::scratch::Slot;
use super::tables::Orientation;
use crate::error::Result;

/// The bytes of the sum of a segment: of both accumulation types, and of two shifts.
const SEGMENT_BYTES: u128 = 8;

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// The arguments that all these sums have: of `values` of the sources, over the rows of `orientation`.
    pub(super) fn sum_args(&mut self, orientation: Orientation, values: ScaleArgs) -> Result<SumArgs> {
        let tables = self.tables(orientation);
        let partials = u128::from(tables.items.partial) * SEGMENT_BYTES;
        Ok(SumArgs {
            tables,
            tiles: Tiles::new(tables.items, WARP),
            values,
            partials: self.launches.scratch(Slot::Partials, partials)?,
            record: self.launches.record(),
            shifts_of_degree: self.plan.conv().shifts_of_degree() as u32,
            ..SumArgs::zeroed()
        })
    }

    /// Launches the sums of rows and of segments, then those of long rows from their segments, if there are
    /// any.
    ///
    /// # Safety
    /// The kernel takes a `SumArgs`, and what it names is there.
    pub(super) unsafe fn sum_rows(&mut self, kernel: Kernel, args: &SumArgs) -> Result<()> {
        let all = args.tiles.all;
        for (begin_tile, n_tiles) in [(0, all), (all, args.tiles.long_row)] {
            let args = SumArgs { begin_tile, end_tile: begin_tile + n_tiles, ..*args };
            // SAFETY: the caller's promise.
            unsafe { self.launches.launch(kernel, Grid::of_warps(n_tiles), &args) }?;
        }
        Ok(())
    }
}
