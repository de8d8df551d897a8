//! The operands of a call: whose memory they are in, and that outputs share none.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{
    CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop, sys,
};

use super::call::Call;
use super::gather::Destination;
use super::window_table::DeviceWindows;
use super::{Device, DeviceElement};
use crate::axis::Axis;
use crate::buffer::{Buffer, sealed::Sealed};
use crate::error::{Error, Result};
use crate::rows::{self, Out, Rows};
use crate::windows::{Weights, Windows};

/// Elements of type `T` on the device that are somebody else's: `len` of them from `address` on. An operand of the raw tier.
pub struct DevicePointer<T> {
    /// Where the first element is: a `CUdeviceptr`.
    pub address: sys::CUdeviceptr,
    /// The number of elements that calls may use.
    pub len: usize,
    elements: PhantomData<fn() -> T>,
}

impl<T> DevicePointer<T> {
    /// `len` elements from `address` on. Nothing is checked: that is up to who uses it.
    pub fn new(address: sys::CUdeviceptr, len: usize) -> Self {
        Self { address, len, elements: PhantomData }
    }
}

impl<T> Clone for DevicePointer<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DevicePointer<T> {}

impl<T> std::fmt::Debug for DevicePointer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevicePointer").field("address", &self.address).field("len", &self.len).finish()
    }
}

/// Weights (or scales) of a call, as an address.
pub(super) type RawWeights<'a, A> = Weights<DevicePointer<A>, &'a DeviceWindows>;

/// The shape of a feature operand.
pub(super) fn shape<T>(name: &'static str, axis: Axis, rows: &Rows<DevicePointer<T>>) -> rows::Operand {
    rows::Operand { name, axis, layout: rows.layout, len: rows.buffer.len }
}

// ---------------------------------------------------------------------------------------------------------------------
// What the constructors of `Rows` and `Weights` take. A view of a view lasts as long as the first.

impl<T> Sealed for DevicePointer<T> {}
impl<T> Buffer for DevicePointer<T> {
    type View = Self;

    fn view(self) -> Self {
        self
    }
}

impl<T> Sealed for CudaView<'_, T> {}
impl<T> Buffer for CudaView<'_, T> {
    type View = Self;

    fn view(self) -> Self {
        self
    }
}

impl<T> Sealed for CudaViewMut<'_, T> {}
impl<T> Buffer for CudaViewMut<'_, T> {
    type View = Self;

    fn view(self) -> Self {
        self
    }
}

impl<T> Sealed for &CudaSlice<T> {}
impl<'a, T> Buffer for &'a CudaSlice<T> {
    type View = CudaView<'a, T>;

    fn view(self) -> CudaView<'a, T> {
        self.as_view()
    }
}

impl<T> Sealed for &mut CudaSlice<T> {}
impl<'a, T> Buffer for &'a mut CudaSlice<T> {
    type View = CudaViewMut<'a, T>;

    fn view(self) -> CudaViewMut<'a, T> {
        self.as_view_mut()
    }
}

impl<T> Sealed for &CudaView<'_, T> {}
impl<'a, T> Buffer for &CudaView<'a, T> {
    type View = CudaView<'a, T>;

    fn view(self) -> CudaView<'a, T> {
        self.slice(..)
    }
}

impl<T> Sealed for &mut CudaViewMut<'_, T> {}
impl<'a, T> Buffer for &'a mut CudaViewMut<'_, T> {
    type View = CudaViewMut<'a, T>;

    fn view(self) -> CudaViewMut<'a, T> {
        self.slice_mut(..)
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// From `cudarc`'s views to addresses. The guards make the stream wait for what the memory is still used for, and record
// this use when they are dropped, behind the launches; in a context with a single stream they do nothing.

/// Checks that a buffer is of the device's context.
pub(super) fn same_context<T>(
    device: &Device,
    operand: &'static str,
    buffer: &impl DeviceSlice<T>,
) -> Result<()> {
    let (context, own) = (buffer.stream().context(), device.context());
    if Arc::ptr_eq(context, own) {
        return Ok(());
    }
    Err(Error::WrongContext { operand, value: context.ordinal(), bound: own.ordinal() })
}

/// Checks that an output, if there is one, is of the device's context.
pub(super) fn same_context_out<T>(
    device: &Device,
    operand: &'static str,
    out: &Out<Rows<CudaViewMut<'_, T>>>,
) -> Result<()> {
    out.as_ref().map_or(Ok(()), |rows| same_context(device, operand, &rows.buffer))
}

/// The same for weights, and for the window table that they are read through.
pub(super) fn same_context_weights<A>(
    device: &Device,
    operand: &'static str,
    weights: &Weights<CudaView<'_, A>, &DeviceWindows>,
) -> Result<()> {
    same_context(device, operand, &weights.values)?;
    match weights.windows {
        Windows::Table(table) => same_device(device, table),
        Windows::Shared | Windows::Consecutive => Ok(()),
    }
}

/// Checks that a window table is of the device's context.
pub(super) fn same_device(device: &Device, table: &DeviceWindows) -> Result<()> {
    if table.device().is(device) {
        return Ok(());
    }
    let (value, bound) = (table.device().ordinal(), device.ordinal());
    Err(Error::WrongContext { operand: "the window table", value, bound })
}

pub(super) fn read<'a, T>(
    rows: &'a Rows<CudaView<'_, T>>,
    stream: &'a CudaStream,
) -> (Rows<DevicePointer<T>>, SyncOnDrop<'a>) {
    let (address, guard) = rows.buffer.device_ptr(stream);
    (Rows::new(DevicePointer::new(address, rows.buffer.len()), rows.layout), guard)
}

pub(super) fn write<'a, T>(
    rows: &'a mut Rows<CudaViewMut<'_, T>>,
    stream: &'a CudaStream,
) -> (Rows<DevicePointer<T>>, SyncOnDrop<'a>) {
    let (len, layout) = (rows.buffer.len(), rows.layout);
    let (address, guard) = rows.buffer.device_ptr_mut(stream);
    (Rows::new(DevicePointer::new(address, len), layout), guard)
}

pub(super) fn write_out<'a, T>(
    out: &'a mut Out<Rows<CudaViewMut<'_, T>>>,
    stream: &'a CudaStream,
) -> (Out<Rows<DevicePointer<T>>>, Option<SyncOnDrop<'a>>) {
    out.split(|rows| write(rows, stream))
}

pub(super) fn write_values<'a, A>(
    out: &'a mut Out<CudaViewMut<'_, A>>,
    stream: &'a CudaStream,
) -> (Out<DevicePointer<A>>, Option<SyncOnDrop<'a>>) {
    out.split(|values| {
        let len = values.len();
        let (address, guard) = values.device_ptr_mut(stream);
        (DevicePointer::new(address, len), guard)
    })
}

/// The values are guarded like any operand; the window table notes who reads it.
pub(super) fn read_weights<'a, 'w, A>(
    weights: &'a Weights<CudaView<'_, A>, &'w DeviceWindows>,
    stream: &'a Arc<CudaStream>,
) -> (RawWeights<'w, A>, SyncOnDrop<'a>) {
    let (address, guard) = weights.values.device_ptr(stream);
    let values = DevicePointer::new(address, weights.values.len());
    if let Windows::Table(table) = weights.windows {
        table.read_on(stream);
    }
    (Weights { values, windows: weights.windows }, guard)
}

impl<B> Out<B> {
    /// What `f` makes of the buffer, in its place, and what it gives besides.
    fn split<'a, C, G>(&'a mut self, f: impl FnOnce(&'a mut B) -> (C, G)) -> (Out<C>, Option<G>) {
        match self {
            Self::Overwrite(buffer) => {
                let (buffer, guard) = f(buffer);
                (Out::Overwrite(buffer), Some(guard))
            }
            Self::Accumulate(buffer) => {
                let (buffer, guard) = f(buffer);
                (Out::Accumulate(buffer), Some(guard))
            }
            Self::Skip => (Out::Skip, None),
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------

/// The memory of an operand.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    name: &'static str,
    address: sys::CUdeviceptr,
    bytes: u64,
    element: u64,
    is_written: bool,
}

impl Memory {
    pub(super) fn read<T>(name: &'static str, buffer: DevicePointer<T>) -> Self {
        let element = size_of::<T>() as u64;
        let bytes = element.saturating_mul(buffer.len as u64);
        Self { name, address: buffer.address, bytes, element, is_written: false }
    }

    pub(super) fn written<T>(name: &'static str, buffer: DevicePointer<T>) -> Self {
        Self { is_written: true, ..Self::read(name, buffer) }
    }

    fn end(self) -> u64 {
        self.address.saturating_add(self.bytes)
    }
}

/// Checks that operands start at multiples of their elements' sizes, and that no output shares memory with another operand.
pub(super) fn check_memory(operands: &[Option<Memory>]) -> Result<()> {
    for operand in operands.iter().flatten() {
        if !operand.address.is_multiple_of(operand.element) {
            let Memory { name, address, element, .. } = *operand;
            return Err(Error::Misaligned { operand: name, value: address, bound: element });
        }
    }
    for (i, output) in operands.iter().enumerate() {
        let Some(output) = output.filter(|output| output.is_written && output.bytes > 0) else { continue };
        for (j, other) in operands.iter().enumerate() {
            let Some(other) = other.filter(|other| i != j && other.bytes > 0) else { continue };
            if output.address < other.end() && other.address < output.end() {
                let (operand, other_name) = (output.name, other.name);
                return Err(Error::SharedMemory {
                    operand,
                    other: other_name,
                    value: output.address,
                    bound: other.end(),
                });
            }
        }
    }
    Ok(())
}

/// An output's buffer, and whether results are added; `None` if it is not wanted.
pub(super) fn into_parts<B>(out: Out<B>) -> Option<(B, bool)> {
    match out {
        Out::Overwrite(buffer) => Some((buffer, false)),
        Out::Accumulate(buffer) => Some((buffer, true)),
        Out::Skip => None,
    }
}

/// Where an output's rows lie, checked; `None` if it is not wanted.
pub(super) fn destination<T: DeviceElement, D>(
    call: &Call<'_, T>,
    shape: Option<rows::Operand>,
    out: Out<Rows<DevicePointer<D>>>,
) -> Result<Option<Destination>> {
    let Some((shape, (rows, add))) = shape.zip(into_parts(out)) else { return Ok(None) };
    Ok(Some(Destination { rows: call.place(shape, rows.buffer.address, true)?, add }))
}
