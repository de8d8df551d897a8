//! The launches of `kernels/row_scale.cu` and `kernels/instance_sums.cu`.

#![allow(unsafe_code)]

use bytemuck::Zeroable;
use cudarc::driver::{result, sys};

use super::DeviceElement;
use super::args::{GradientArgs, RowScaleArgs, ScaleArgs};
use super::call::Call;
use super::driver::failed;
use super::geometry::WARP;
use super::kernels::Kernel;
use super::tables::{ChunkCounts, Orientation};
use super::window_table::DeviceWindows;
use crate::conv::Reduce;
use crate::error::Result;
use crate::windows::Windows;

/// The slots from which on a thread has one instead of a warp: then there are threads enough to keep a device busy.
const SLOTS_OF_THREADS: u64 = 1 << 16;

/// A gradient that is summed over the instances.
pub(super) struct Gradient<'a> {
    /// The orientation whose rows it belongs to.
    pub(super) orientation: Orientation,
    pub(super) windows: Windows<&'a DeviceWindows>,
    /// The gradient of each row of the batch alone: `blocks` numbers of type `f64`, which are added first.
    pub(super) values: sys::CUdeviceptr,
    pub(super) blocks: usize,
    pub(super) to: sys::CUdeviceptr,
    pub(super) len: usize,
    pub(super) add: bool,
}

impl<T: DeviceElement> Call<'_, T> {
    /// Queues the factors that the targets of `orientation` are pulled with, into `pull` of the scratch memory: the scale,
    /// shifted down as often as a degree is up if there are `shifts` of the targets.
    ///
    /// # Safety
    /// As [`Call`] says; `scale` has a factor where its windows say.
    pub(super) unsafe fn pull(
        &self,
        orientation: Orientation,
        scale: ScaleArgs,
        reduce: Reduce,
        shifts: Option<sys::CUdeviceptr>,
    ) -> Result<()> {
        let tables = self.tables(orientation)?;
        let args = RowScaleArgs {
            tables,
            scale,
            shifts: shifts.unwrap_or(0),
            row_scale: self.scratch().pull.address(),
            record: self.record(),
            mean: (reduce == Reduce::Mean).into(),
            shifts_of_degree: self.plan().conv().shifts_of_degree() as u32,
        };
        // SAFETY: a thread for each row; the caller promises the rest.
        unsafe { self.launch(Kernel::RowScale, tables.n_targets.div_ceil(u64::from(WARP)), 1, &args) }
    }

    /// Queues the sums of a gradient over all instances.
    ///
    /// # Safety
    /// As [`Call`] says; `values` and the gradient have the elements that are said.
    pub(super) unsafe fn gradient(&self, gradient: Gradient<'_>) -> Result<()> {
        let Gradient { orientation, windows, values, blocks, to, len, add } = gradient;
        let axis = orientation.rows();
        let batch = self.batch();
        let mut args = GradientArgs {
            tables: self.tables(orientation)?,
            n_chunks: 1,
            chunk_len: 1,
            n_rows: batch.largest(axis) as u64,
            values,
            sums: self.scratch().sums.address(),
            gradient: to,
            n_slots: len as u64,
            record: self.record(),
            blocks: blocks as u32,
            add: add.into(),
            ..GradientArgs::zeroed()
        };
        let with_tables = |args: GradientArgs, counts: ChunkCounts, addresses: [sys::CUdeviceptr; 3]| {
            let [chunks, members, classes] = addresses;
            GradientArgs {
                chunks,
                members,
                classes,
                n_chunks: counts.n_chunks as u64,
                n_members: counts.n_members as u64,
                n_classes: counts.n_classes as u64,
                tiles: counts.tiles,
                ..args
            }
        };
        let tiles_of_each = |rows: u64| rows.div_ceil(u64::from(WARP));
        match (windows, self.batch_chunks(axis)) {
            (Windows::Consecutive, _) => {
                // All rows of the batch as those of one instance, which has the only window.
                args.n_rows = args.tables.n_targets;
                args.tables = args.tables.as_one_instance();
                args.tiles = tiles_of_each(args.n_rows);
            }
            (Windows::Shared, None) => {
                let chunk_len = batch.topologies()[0].chunk_len();
                args.chunk_len = chunk_len as u64;
                args.n_chunks = self.instances().div_ceil(chunk_len) as u64;
                args.tiles = args.n_chunks * tiles_of_each(args.n_rows);
            }
            (Windows::Shared, Some(chunks)) => {
                args = with_tables(args, chunks.counts, chunks.addresses());
            }
            (Windows::Table(windows), _) => {
                args = with_tables(args, windows.counts(), windows.addresses());
            }
        }
        args.direct = (args.chunks == 0 && args.n_chunks == 1).into();
        args.lanes = if args.n_slots < SLOTS_OF_THREADS { WARP } else { 1 };
        // SAFETY: both kernels take a `GradientArgs`; a warp for each tile, and for each slot or 32 of them; the caller
        // promises the rest.
        unsafe {
            self.launch(Kernel::SumChunks, args.tiles, 1, &args)?;
            if args.direct == 1 {
                return Ok(());
            }
            let warps = args.n_slots.div_ceil(u64::from(WARP / args.lanes));
            self.launch(Kernel::SumWindows, warps, 1, &args)
        }
    }

    /// Queues zeros for a gradient that nothing adds to.
    ///
    /// # Safety
    /// As [`Call`] says; the gradient has `len` elements of the accumulation type.
    pub(super) unsafe fn no_gradient(&self, to: sys::CUdeviceptr, len: usize, add: bool) -> Result<()> {
        if add || len == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise; zeros are numbers of both types.
        unsafe { result::memset_d8_async(to, 0, len * size_of::<T::Acc>(), self.stream()) }
            .map_err(|e| failed("clearing a gradient", e))
    }
}
