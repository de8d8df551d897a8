//! A call under way: what is the same for all its launches.

#![allow(unsafe_code)]

use bytemuck::Pod;
use cudarc::driver::sys;

use super::args::{RecordArgs, ScaleArgs, TablesArgs};
use super::gather::Operand;
use super::geometry::feature_blocks;
use super::kernels::Kernel;
use super::operands::{RawWeights, same_device};
use super::plan::Plan;
use super::scratch::Scratch;
use super::tables::{ChunkTables, Orientation};
use super::workspace::{Held, Workspace};
use super::{Checks, DeviceElement};
use crate::axis::Axis;
use crate::batch::Batch;
use crate::element::Accumulator;
use crate::error::{Error, Result, fits_u32};
use crate::rows::{self, RowLayout, agree_on_instances};
use crate::windows::Windows;

/// A call of a workspace on a stream, for some number of instances.
///
/// # Safety of its launches
/// All its methods that queue work promise the same on these conditions. The context of the stream is current. Until the
/// work has ended, tables, scratch memory and record stay alive and are used by nothing that is not ordered before or behind
/// it, the operands' memory stays alive, nobody else writes what is read or touches what is written, and no output shares
/// memory with another operand. The tables are those of the batch, or the plan is a checked one.
pub(super) struct Call<'a, T: DeviceElement> {
    plan: &'a Plan<T>,
    held: &'a Held,
    stream: sys::CUstream,
    instances: usize,
}

impl<'a, T: DeviceElement> Call<'a, T> {
    /// A call with these feature operands, which tell the number of instances.
    pub(super) fn new(
        workspace: &'a Workspace<T>,
        stream: sys::CUstream,
        operands: &[Option<rows::Operand>],
    ) -> Result<Self> {
        let plan = &workspace.plan;
        let instances = agree_on_instances(plan.batch().batch(), plan.features(), operands)?;
        fits_u32("the number of instances", instances)?;
        if instances > workspace.max_instances {
            return Err(Error::TooManyInstances { value: instances, bound: workspace.max_instances });
        }
        Ok(Self { plan, held: workspace.held(), stream, instances })
    }

    pub(super) fn plan(&self) -> &'a Plan<T> {
        self.plan
    }

    pub(super) fn batch(&self) -> &'a Batch {
        self.plan.batch().batch()
    }

    pub(super) fn features(&self) -> usize {
        self.plan.features()
    }

    pub(super) fn instances(&self) -> usize {
        self.instances
    }

    /// Whether there is anything to compute.
    pub(super) fn has_elements(&self) -> bool {
        self.instances > 0 && self.features() > 0
    }

    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    pub(super) fn scratch(&self) -> &'a Scratch {
        &self.held.scratch
    }

    pub(super) fn record(&self) -> RecordArgs {
        self.held.record.as_ref().map_or(RecordArgs::none(), |record| record.args())
    }

    pub(super) fn tables(&self, orientation: Orientation) -> Result<TablesArgs> {
        TablesArgs::new(self.batch(), &self.held.tables, orientation, self.instances)
    }

    /// The chunks of shared weights of a table batch.
    pub(super) fn batch_chunks(&self, axis: Axis) -> Option<&'a ChunkTables> {
        self.held.tables.instances.as_ref().map(|instances| instances.chunks(axis))
    }

    /// The blocks of features that dot products are stored for.
    pub(super) fn feature_blocks(&self) -> usize {
        feature_blocks(self.features(), size_of::<T>())
    }

    /// Where the rows of an operand lie, checked.
    pub(super) fn place(
        &self,
        operand: rows::Operand,
        address: sys::CUdeviceptr,
        is_written: bool,
    ) -> Result<Operand> {
        let placement = operand.place(self.batch(), self.instances, is_written)?;
        Ok(Operand { address, placement })
    }

    /// Rows of all instances along `axis` in scratch memory, one behind the other.
    pub(super) fn scratch_rows(&self, axis: Axis, address: sys::CUdeviceptr) -> Result<Operand> {
        let layout = RowLayout::contiguous(self.features()).instances(self.instances);
        let operand = rows::Operand { name: "scratch memory", axis, layout, len: usize::MAX };
        self.place(operand, address, true)
    }

    /// A number for each row of all instances along `axis`, in scratch memory.
    pub(super) fn scratch_scale(&self, axis: Axis, address: sys::CUdeviceptr) -> Result<ScaleArgs> {
        Ok(ScaleArgs::consecutive(address, self.batch().total(axis, self.instances)?))
    }

    /// Weights or scales along `axis`, checked.
    pub(super) fn scale<A: Accumulator>(
        &self,
        name: &'static str,
        axis: Axis,
        weights: &RawWeights<'_, A>,
    ) -> Result<ScaleArgs> {
        let (address, len) = (weights.values.address, weights.values.len);
        let windows = match weights.windows {
            Windows::Shared => Windows::Shared,
            Windows::Consecutive => Windows::Consecutive,
            Windows::Table(table) => {
                same_device(self.plan.batch().device(), table)?;
                if table.overwritten() && self.plan.checks() == Checks::Off {
                    return Err(Error::UncheckedTables);
                }
                Windows::Table(table.table())
            }
        };
        windows.check(name, self.batch(), axis, self.instances, len)?;
        Ok(match weights.windows {
            Windows::Shared => ScaleArgs::shared(address, len),
            Windows::Consecutive => ScaleArgs::consecutive(address, len),
            Windows::Table(table) => ScaleArgs::table(address, len, table.offsets()),
        })
    }

    /// Queues a launch, if there is something to do: `warps` warps, and in y `blocks` blocks of features.
    ///
    /// # Safety
    /// As [`Call`] says; the kernel takes an `A`.
    pub(super) unsafe fn launch<A: Pod>(
        &self,
        kernel: Kernel,
        warps: u64,
        blocks: u32,
        arguments: &A,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.plan.kernels().launch(kernel, self.stream, warps, blocks, arguments) }
    }
}
