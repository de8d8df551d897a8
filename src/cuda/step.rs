//! The two scatter steps on the device.

#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice};

use super::driver::{not_capturing, pending_error};
use super::gather::{Gather, Operand};
use super::tables::Orientation;
use super::workspace::Workspace;
use super::{Device, DeviceElement};
use crate::conv::Reduce;
use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::rows::{self, Out, Rows, agree_on_instances};

/// What cannot be captured.
const CALL: &str = "a step";

/// What a step computes.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Step {
    /// Sum or mean.
    pub reduce: Reduce,
}

impl Step {
    /// The most launches of a call: one, and another where rows have more than 512 incidences.
    pub const MAX_LAUNCHES: usize = 2;

    /// The plain sum.
    pub fn sum() -> Self {
        Self::default()
    }

    /// The plain mean.
    pub fn mean() -> Self {
        Self { reduce: Reduce::Mean }
    }
}

impl<T: DeviceElement> Workspace<T> {
    /// z_e = Σ_{v∈e} x_v, divided by |e| for a mean.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `z`: `M` rows of hyperedges, overwritten or added to. An empty hyperedge gets zeros.
    ///
    /// The work is queued on the workspace's stream; the call does not wait for it, and allocates nothing.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Stride`], [`Error::Overlap`], [`Error::TooManyInstances`], [`Error::TooLarge`];
    /// [`Error::WrongContext`], [`Error::Misaligned`], [`Error::SharedMemory`]; [`Error::Capturing`];
    /// [`Error::IndexOutOfBounds`] of an earlier call until [`check`](Self::check) has cleared it; [`Error::Driver`].
    /// No kernel is queued then, unless the driver failed between two launches. Where several streams take turns on an operand,
    /// waits for it may be.
    pub fn vertex_to_hyperedge(
        &mut self,
        step: Step,
        x: Rows<CudaView<'_, T>>,
        z: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        self.step(Direction::VERTEX_TO_HYPEREDGE, step, x, z)
    }

    /// y_v = Σ_{e∋v} z_e, divided by the number of incidences of v for a mean.
    ///
    /// * `z`: `M` rows of hyperedges;
    /// * `y`: `N` rows of vertices, overwritten or added to. An isolated vertex gets zeros.
    ///
    /// # Errors
    /// As [`vertex_to_hyperedge`](Self::vertex_to_hyperedge).
    pub fn hyperedge_to_vertex(
        &mut self,
        step: Step,
        z: Rows<CudaView<'_, T>>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        self.step(Direction::HYPEREDGE_TO_VERTEX, step, z, y)
    }

    fn step(
        &mut self,
        direction: Direction,
        step: Step,
        x: Rows<CudaView<'_, T>>,
        y: Out<Rows<CudaViewMut<'_, T>>>,
    ) -> Result<()> {
        self.poll()?;
        let device_batch = self.plan.batch();
        let (batch, device) = (device_batch.batch(), device_batch.device());

        // Shapes and places.
        let (layout, len) = (x.layout, x.buffer.len());
        let x_operand = rows::Operand { name: direction.input, axis: direction.source, layout, len };
        let y_operand = y.as_ref().map(|rows| rows::Operand {
            name: direction.output,
            axis: direction.target,
            layout: rows.layout,
            len: rows.buffer.len(),
        });
        let instances = agree_on_instances(batch, self.plan.features(), &[Some(x_operand), y_operand])?;
        if instances > self.max_instances {
            return Err(Error::TooManyInstances { value: instances, bound: self.max_instances });
        }
        let sources = x_operand.place(batch, instances, false)?;
        let targets = y_operand.map(|y| y.place(batch, instances, true)).transpose()?;
        same_context(device, direction.input, &x.buffer)?;
        let (mut y, add) = match y {
            Out::Overwrite(y) => (y, false),
            Out::Add(y) => (y, true),
            Out::Skip => return Ok(()),
        };
        same_context(device, direction.output, &y.buffer)?;
        let Some(targets) = targets else { return Ok(()) };

        // The guards make the stream wait for what the operands' memory is still used for, and record this use when they
        // are dropped, behind the launches; in a context with a single stream they do nothing.
        let _current = device.enter()?;
        not_capturing(self.stream(), CALL)?;
        let (x_bytes, y_bytes) = (x.buffer.num_bytes() as u64, y.buffer.num_bytes() as u64);
        let (x_address, _x_guard) = x.buffer.device_ptr(self.stream());
        let (y_address, _y_guard) = y.buffer.device_ptr_mut(self.stream());
        // A wait that failed is remembered by the context.
        pending_error(device.context(), "waiting for an operand")?;
        if device.context().is_managing_stream_synchronization() {
            // Waiting for an operand that was written on a stream that records a graph takes this stream into the graph.
            not_capturing(self.stream(), CALL)?;
        }
        aligned::<T>(direction.input, x_address)?;
        aligned::<T>(direction.output, y_address)?;
        if y_address < x_address + x_bytes && x_address < y_address + y_bytes {
            let (operand, other) = (direction.output, direction.input);
            return Err(Error::SharedMemory { operand, other, value: y_address, bound: x_address + x_bytes });
        }

        let held = self.held();
        let gather = Gather {
            batch,
            tables: &held.tables,
            orientation: Orientation::with_rows(direction.target),
            instances,
            features: self.plan.features() as u32,
            sources: Operand { address: x_address, placement: sources },
            targets: Operand { address: y_address, placement: targets },
            reduce: step.reduce,
            add,
            partials: held.partials.address(),
            record: held.record.as_ref().map(|record| record.args()),
        };
        // SAFETY: the context is current. Tables, scratch memory and record are held until an event behind their last use
        // (see `retired`); scratch memory and record are this workspace's, on its one stream. The placements were checked
        // against the buffers, which do not overlap; the guards order other users of them behind or before, and cudarc
        // frees them behind. The tables are valid, or the plan is checked (`Plan::new`).
        unsafe { gather.launch::<T>(self.plan.kernels(), self.stream()) }
    }
}

/// Checks that an operand's memory is of the device's context.
fn same_context<T>(device: &Device, operand: &'static str, buffer: &impl DeviceSlice<T>) -> Result<()> {
    let (context, own) = (buffer.stream().context(), device.context());
    if Arc::ptr_eq(context, own) {
        return Ok(());
    }
    Err(Error::WrongContext { operand, value: context.ordinal(), bound: own.ordinal() })
}

/// Checks that an operand starts at a multiple of its element's size.
fn aligned<T>(operand: &'static str, address: CUdeviceptr) -> Result<()> {
    let bound = size_of::<T>() as u64;
    if address.is_multiple_of(bound) {
        return Ok(());
    }
    Err(Error::Misaligned { operand, value: address, bound })
}
