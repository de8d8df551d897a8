//! The launches of `kernels/instance_sums.cu`: gradients of weights and scales, summed over the instances
//! that read them.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::DeviceElement;
use super::args::{Address, GradientArgs};
use super::call::{Call, GradientTo};
use super::geometry::{Grid, WARP};
use super::kernels::Kernel;
use super::launches::Launches;
use super::scratch::Slot;
use super::tables::{ChunkCounts, Orientation};
use super::window_table::DeviceWindows;
use crate::axis::Axis;
use crate::error::Result;
use crate::windows::Windows;

/// From this many values of a gradient on, a thread sums each of them, and a warp does for fewer. That many
/// threads keep a device busy.
const THREAD_PER_VALUE: u64 = 1 << 16;

/// The gradient of each row in its own instance: `blocks` numbers of type `f64`, whose sum it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowGradients {
    pub(super) values: Address,
    pub(super) blocks: usize,
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// Sums the gradients of the rows along `axis` over all instances, into the values that they read through
    /// `windows`.
    ///
    /// # Safety
    /// There are gradients of all rows, and the output has the elements that it says.
    pub(super) unsafe fn sum_over_instances(
        &mut self,
        axis: Axis,
        windows: Windows<&DeviceWindows>,
        rows: RowGradients,
        to: GradientTo,
    ) -> Result<()> {
        let batch = self.batch();
        let mut args = GradientArgs {
            tables: self.tables(Orientation::with_rows(axis)),
            n_chunks: 1,
            chunk_len: 1,
            n_rows: batch.largest(axis) as u64,
            values: rows.values,
            sums: self.scratch_numbers::<T::Acc>(Slot::ChunkSums, axis)?,
            gradient: to.address,
            gradient_len: to.len as u64,
            record: self.launches.record(),
            blocks: rows.blocks as u32,
            add: to.accumulate.into(),
            ..GradientArgs::zeroed()
        };
        let tiles_of_each = |rows: u64| rows.div_ceil(u64::from(WARP));
        match (windows, self.plan.batch().tables().chunks(axis)) {
            (Windows::Consecutive, _) => {
                // Each value has one row: take all rows of the batch for those of a single instance.
                args.n_rows = args.tables.n_targets;
                args.tables = args.tables.as_one_instance();
                args.tiles = tiles_of_each(args.n_rows);
            }
            (Windows::Shared, None) => {
                let chunk_len = batch.topologies()[0].chunk_len();
                args.chunk_len = chunk_len as u64;
                args.n_chunks = self.instances.div_ceil(chunk_len) as u64;
                args.tiles = args.n_chunks * tiles_of_each(args.n_rows);
            }
            (Windows::Shared, Some(chunks)) => args.set_chunks(chunks.counts, chunks.addresses()),
            (Windows::Table(windows), _) => args.set_chunks(windows.counts(), windows.addresses()),
        }
        args.direct = (args.chunks == 0 && args.n_chunks == 1).into();
        args.lanes = if args.gradient_len < THREAD_PER_VALUE { WARP } else { 1 };
        // SAFETY: both kernels take a `GradientArgs`; a warp for each tile, and for each value or 32 of them;
        // the caller promises the rest.
        unsafe {
            self.launches.launch(Kernel::SumChunks, Grid::of_warps(args.tiles), &args)?;
            if args.direct == 1 {
                return Ok(());
            }
            let warps = args.gradient_len.div_ceil(u64::from(WARP / args.lanes));
            self.launches.launch(Kernel::SumWindows, Grid::of_warps(warps), &args)
        }
    }

    /// Writes zeros to a gradient that no instance adds to.
    ///
    /// # Safety
    /// The output has the elements that it says.
    pub(super) unsafe fn no_gradient(&mut self, to: GradientTo) -> Result<()> {
        if to.accumulate || to.len == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise; zeros are numbers of both types.
        unsafe { self.launches.zero(to.address, to.len * size_of::<T::Acc>()) }
    }
}

impl GradientArgs {
    fn set_chunks(&mut self, counts: ChunkCounts, [chunks, members, ranks]: [Address; 3]) {
        (self.chunks, self.members, self.ranks) = (chunks, members, ranks);
        self.n_chunks = counts.n_chunks as u64;
        self.n_members = counts.n_members as u64;
        self.n_ranks = counts.n_ranks as u64;
        self.tiles = counts.tiles;
    }
}
