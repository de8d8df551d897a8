//! The operands of a call in either tier, bound one by one and then checked together: whose memory they are
//! in, who else uses it, where their rows lie, and that no output shares memory with another operand.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::sync::Arc;

use arrayvec::ArrayVec;
use cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice,
    DriverError, SyncOnDrop, sys,
};

use super::args::{Address, ScaleArgs};
use super::call::{Destination, GradientTo, PlacedRows, PlacedWeights};
use super::driver::{failed, not_capturing};
use super::lent::Region;
use super::plan::Plan;
use super::window_table::DeviceWindows;
use super::{Checks, DeviceElement};
use crate::axis::Axis;
use crate::buffer::{Buffer, sealed::Sealed};
use crate::error::{Error, Result};
use crate::operands::{
    Checked, Length, MOST_GRADIENTS, MOST_ROWS, MOST_SCALES, MOST_VALUES, RowsId, values_of_matrix,
};
use crate::operator::Operator;
use crate::rows::{self, Out, RowLayout, Rows, Width};
use crate::windows::{Weights, Windows};

/// An operand of the raw tier: `len` elements of type `T` from `address` on, in device memory that somebody
/// else owns.
pub struct DevicePointer<T> {
    /// Where the first element is: a `CUdeviceptr`.
    pub address: sys::CUdeviceptr,
    /// The number of elements that calls may use.
    pub len: usize,
    elements: PhantomData<fn() -> T>,
}

impl<T> DevicePointer<T> {
    /// `len` elements from `address` on. Nothing is checked here: the raw calls and their contract do that.
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

/// An operand of a call that is only counted: without memory, and as long as the call needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unallocated;

// -----------------------------------------------------------------------------------------------------------
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

// -----------------------------------------------------------------------------------------------------------
// The buffers of both tiers, and of calls that are only counted.

/// A buffer that a call reads elements of type `E` from.
pub(super) trait Read<E> {
    /// The number of elements; `None` without memory.
    fn len(&self) -> Option<usize>;

    /// Its context, in the safe tier.
    fn context(&self) -> Option<&Arc<CudaContext>>;

    /// Its address, and in the safe tier a guard. With a guard the stream waits for earlier uses of the
    /// memory, and dropping it, after the launches, records this use. In a context with a single stream
    /// guards do nothing.
    fn read<'a>(&'a self, stream: &'a CudaStream) -> (Address, Option<SyncOnDrop<'a>>);
}

/// A buffer that a call writes elements of type `E` to.
pub(super) trait Write<E>: Read<E> {
    /// As [`read`](Read::read).
    fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (Address, Option<SyncOnDrop<'a>>);
}

impl<E> Read<E> for DevicePointer<E> {
    fn len(&self) -> Option<usize> {
        Some(self.len)
    }

    fn context(&self) -> Option<&Arc<CudaContext>> {
        None
    }

    fn read<'a>(&'a self, _stream: &'a CudaStream) -> (Address, Option<SyncOnDrop<'a>>) {
        (self.address, None)
    }
}

impl<E> Write<E> for DevicePointer<E> {
    fn write<'a>(&'a mut self, _stream: &'a CudaStream) -> (Address, Option<SyncOnDrop<'a>>) {
        (self.address, None)
    }
}

impl<E> Read<E> for Unallocated {
    fn len(&self) -> Option<usize> {
        None
    }

    fn context(&self) -> Option<&Arc<CudaContext>> {
        None
    }

    fn read<'a>(&'a self, _stream: &'a CudaStream) -> (Address, Option<SyncOnDrop<'a>>) {
        (0, None)
    }
}

impl<E> Write<E> for Unallocated {
    fn write<'a>(&'a mut self, _stream: &'a CudaStream) -> (Address, Option<SyncOnDrop<'a>>) {
        (0, None)
    }
}

macro_rules! views {
    ($($view:ident)*) => {$(
        impl<E> Read<E> for $view<'_, E> {
            fn len(&self) -> Option<usize> {
                Some(DeviceSlice::len(self))
            }

            fn context(&self) -> Option<&Arc<CudaContext>> {
                Some(self.stream().context())
            }

            fn read<'a>(&'a self, stream: &'a CudaStream) -> (Address, Option<SyncOnDrop<'a>>) {
                let (address, guard) = self.device_ptr(stream);
                (address, Some(guard))
            }
        }
    )*};
}
views!(CudaView CudaViewMut);

impl<E> Write<E> for CudaViewMut<'_, E> {
    fn write<'a>(&'a mut self, stream: &'a CudaStream) -> (Address, Option<SyncOnDrop<'a>>) {
        let (address, guard) = self.device_ptr_mut(stream);
        (address, Some(guard))
    }
}

// -----------------------------------------------------------------------------------------------------------

/// The most operands of an operator, of each kind as many as there may be.
const MOST: usize = MOST_ROWS + MOST_SCALES + MOST_VALUES + MOST_GRADIENTS;

/// The memory of an operand.
#[derive(Debug, Clone, Copy)]
struct Span {
    name: &'static str,
    address: Address,
    bytes: u64,
    element: u64,
    is_written: bool,
}

impl Span {
    fn end(self) -> u64 {
        self.address.saturating_add(self.bytes)
    }
}

/// The operands of a call. Each is bound once; then all are checked.
pub(super) struct Operands<'a, 'w, T: DeviceElement> {
    plan: &'a Plan<T>,
    stream: &'a Arc<CudaStream>,
    /// The name of the operator, in the safe tier.
    safe: Option<&'static str>,
    /// The most that the call may have; what a counted one has.
    max_instances: usize,
    shapes: crate::operands::Operands<'w>,
    addresses: [Address; MOST_ROWS],
    /// With that of lent scratch memory.
    spans: ArrayVec<Span, { MOST + 1 }>,
    guards: ArrayVec<SyncOnDrop<'a>, MOST>,
    /// The sizes of a row of each feature operand without memory, of vertices and of hyperedges added.
    row_bytes: [u128; 2],
    /// The same of rows of instances.
    instance_bytes: u128,
    /// Of the first operand that may not be used at all.
    error: Option<Error>,
}

/// Weights or a scale that were bound.
#[derive(Clone, Copy)]
pub(super) struct BoundWeights<'w> {
    len: usize,
    placed: PlacedWeights<'w>,
}

impl<'w> BoundWeights<'w> {
    pub(super) fn placed(self) -> PlacedWeights<'w> {
        self.placed
    }

    /// The number of values.
    pub(super) fn len(self) -> usize {
        self.len
    }
}

/// Rows that were bound as an output.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoundOut {
    rows: RowsId,
    accumulate: bool,
}

impl<'a, 'w, T: DeviceElement> Operands<'a, 'w, T> {
    /// The operands of a call: of the safe tier if `safe` names its operator, and else of the raw tier or of
    /// a call that is counted.
    #[inline(always)]
    pub(super) fn new(
        plan: &'a Plan<T>,
        stream: &'a Arc<CudaStream>,
        safe: Option<&'static str>,
        max_instances: usize,
    ) -> Self {
        Self {
            plan,
            stream,
            safe,
            max_instances,
            shapes: crate::operands::Operands::new(),
            addresses: [0; MOST_ROWS],
            spans: ArrayVec::new(),
            guards: ArrayVec::new(),
            row_bytes: [0; 2],
            instance_bytes: 0,
            error: None,
        }
    }

    /// With scratch memory that the workspace was lent, which is written like an output.
    #[inline(always)]
    pub(super) fn beside(mut self, lent: Option<Region>) -> Self {
        if let Some(Region { address, bytes }) = lent {
            let (name, bytes, element) = ("scratch", bytes as u64, 1);
            self.spans.push(Span { name, address, bytes, element, is_written: true });
        }
        self
    }

    /// Rows that are read.
    #[inline]
    pub(super) fn read<E>(&mut self, name: &'static str, axis: Axis, rows: &'a Rows<impl Read<E>>) -> RowsId {
        self.read_of(name, (axis, Width::Features), rows)
    }

    /// Rows of vertices that are read, of a layer's inputs.
    #[inline]
    pub(super) fn read_inputs<E>(&mut self, name: &'static str, rows: &'a Rows<impl Read<E>>) -> RowsId {
        self.read_of(name, (Axis::Vertex, Width::Inputs), rows)
    }

    #[inline]
    fn read_of<E>(&mut self, name: &'static str, of: (Axis, Width), rows: &'a Rows<impl Read<E>>) -> RowsId {
        let address = self.read_buffer(name, &rows.buffer);
        self.rows::<E>(name, of, rows.layout, rows.buffer.len(), address, false)
    }

    /// Rows that are overwritten.
    #[inline]
    pub(super) fn overwrite<E>(
        &mut self,
        name: &'static str,
        axis: Axis,
        rows: &'a mut Rows<impl Write<E>>,
    ) -> RowsId {
        self.overwrite_of(name, (axis, Width::Features), rows)
    }

    #[inline]
    fn overwrite_of<E>(
        &mut self,
        name: &'static str,
        of: (Axis, Width),
        rows: &'a mut Rows<impl Write<E>>,
    ) -> RowsId {
        let (layout, len) = (rows.layout, rows.buffer.len());
        let address = self.write_buffer(name, &mut rows.buffer);
        self.rows::<E>(name, of, layout, len, address, true)
    }

    /// Rows that are written, if they are wanted.
    #[inline]
    pub(super) fn write<E>(
        &mut self,
        name: &'static str,
        axis: Axis,
        out: &'a mut Out<Rows<impl Write<E>>>,
    ) -> Option<BoundOut> {
        let (rows, accumulate) = out.as_parts()?;
        Some(BoundOut { rows: self.overwrite(name, axis, rows), accumulate })
    }

    /// Rows of vertices that are written, of a layer's inputs, if they are wanted.
    #[inline]
    pub(super) fn write_inputs<E>(
        &mut self,
        name: &'static str,
        out: &'a mut Out<Rows<impl Write<E>>>,
    ) -> Option<BoundOut> {
        let (rows, accumulate) = out.as_parts()?;
        Some(BoundOut { rows: self.overwrite_of(name, (Axis::Vertex, Width::Inputs), rows), accumulate })
    }

    /// Weights, or a scale.
    #[inline]
    pub(super) fn weights<A>(
        &mut self,
        name: &'static str,
        axis: Axis,
        weights: &'a Weights<impl Read<A>, &'w DeviceWindows>,
    ) -> BoundWeights<'w> {
        let windows = weights.windows;
        let is_counted = weights.values.len().is_none();
        let len = weights.values.len().unwrap_or_else(|| self.reach(axis, windows));
        let address = self.read_buffer(name, &weights.values);
        let (scale, on_host) = match windows {
            Windows::Shared => (ScaleArgs::shared(address, len), Windows::Shared),
            Windows::Consecutive => (ScaleArgs::consecutive(address, len), Windows::Consecutive),
            Windows::Table(table) => {
                if !is_counted {
                    self.window_table(table);
                }
                (ScaleArgs::table(address, len, table.offsets()), Windows::Table(table.table()))
            }
        };
        self.shapes.scale(name, axis, len, on_host);
        BoundWeights { len, placed: PlacedWeights { scale, windows } }
    }

    /// The gradient of weights, of a scale or of a bias, if it is wanted. `of` has the name and the length of
    /// that; without such a scale the gradient has no values.
    #[inline]
    pub(super) fn gradient<A>(
        &mut self,
        name: &'static str,
        of: (&'static str, usize),
        out: &'a mut Out<impl Write<A>>,
    ) -> Option<GradientTo> {
        let (values, accumulate) = out.as_parts()?;
        let len = values.len().unwrap_or(of.1);
        let address = self.write_buffer(name, values);
        self.shapes.gradient(name, len, of);
        Some(GradientTo { address, len, accumulate })
    }

    /// Values that are read as they are. Returns where they are, and their number.
    #[inline]
    pub(super) fn values<E>(
        &mut self,
        name: &'static str,
        length: Length,
        values: &'a impl Read<E>,
    ) -> (Address, usize) {
        let len = values.len().unwrap_or_else(|| self.all_values::<E>(length));
        let address = self.read_buffer(name, values);
        self.shapes.values(name, len, length);
        (address, len)
    }

    /// Values that are written, if they are wanted. Returns where they are, and whether they are added to.
    #[inline]
    pub(super) fn write_values<E>(
        &mut self,
        name: &'static str,
        length: Length,
        out: &'a mut Out<impl Write<E>>,
    ) -> Option<(Address, bool)> {
        let (values, accumulate) = out.as_parts()?;
        let len = values.len().unwrap_or_else(|| self.all_values::<E>(length));
        let address = self.write_buffer(name, values);
        self.shapes.values(name, len, length);
        Some((address, accumulate))
    }

    /// Refuses an operator with a matrix for each instance, if some topology in use is too large.
    pub(super) fn check_matrices(&self, operator: Operator) -> Result<()> {
        self.plan.check_matrices(operator)
    }

    /// Refuses a layer that no kernel computes in one pass.
    pub(super) fn check_layer(&self, operator: Operator) -> Result<()> {
        self.plan.check_layer(operator)
    }

    /// The features of the plan.
    pub(super) fn features(&self) -> usize {
        self.plan.features()
    }

    /// The bytes of the feature operands of a call that is counted, and has so many rows of vertices and of
    /// hyperedges.
    pub(super) fn feature_bytes(&self, totals: [usize; 2]) -> u128 {
        let rows = totals.iter().zip(self.row_bytes).chain([(&self.max_instances, self.instance_bytes)]);
        rows.map(|(&rows, bytes)| rows as u128 * bytes).sum()
    }

    /// Checks all operands together.
    pub(super) fn check(&mut self) -> Result<Bound<'_>> {
        // Where an operand may not be used at all, a wait that failed stays with the context, which tells of
        // it when it is next asked for errors.
        if let (None, Some(call)) = (&self.error, self.safe) {
            self.error = self.check_guards(call).err();
        }
        if let Some(error) = self.error.take() {
            // The operands' events stay as they are: nothing has used them, and events that were recorded in
            // a capture could not be waited for any more.
            std::mem::forget(std::mem::replace(&mut self.guards, ArrayVec::new()));
            return Err(error);
        }
        let checked = self.shapes.check(self.plan.batch().batch(), self.plan.widths(), self.max_instances)?;
        check_memory(&self.spans)?;
        Ok(Bound { checked, addresses: &self.addresses })
    }

    /// Whether the call may queue its work after the guards.
    fn check_guards(&self, call: &'static str) -> Result<()> {
        let context = self.plan.batch().device().context();
        // A wait that failed is remembered by the context.
        let waited = context.check_err().map_err(waiting_failed);
        // To wait for an operand that was written on a stream that records a graph takes this stream into the
        // graph. A wait for work outside of the graph fails then, so this error comes before that of the
        // wait.
        if context.is_managing_stream_synchronization() {
            not_capturing(self.stream, call)?;
        }
        waited
    }

    #[inline]
    fn read_buffer<E>(&mut self, name: &'static str, buffer: &'a impl Read<E>) -> Address {
        if !self.may_use(name, buffer) {
            return 0;
        }
        let Some(len) = buffer.len() else { return 0 };
        let (address, guard) = buffer.read(self.stream);
        self.used::<E>(name, (address, guard), len, false)
    }

    #[inline]
    fn write_buffer<E>(&mut self, name: &'static str, buffer: &'a mut impl Write<E>) -> Address {
        if !self.may_use(name, buffer) {
            return 0;
        }
        let Some(len) = buffer.len() else { return 0 };
        let (address, guard) = buffer.write(self.stream);
        self.used::<E>(name, (address, guard), len, true)
    }

    /// Whether the buffer is of the device's context. Nothing is waited for once an operand is not.
    #[inline]
    fn may_use<E>(&mut self, operand: &'static str, buffer: &impl Read<E>) -> bool {
        let own = self.plan.batch().device().context();
        if let Some(context) = buffer.context()
            && self.error.is_none()
            && !Arc::ptr_eq(context, own)
        {
            let (value, bound) = (context.ordinal(), own.ordinal());
            self.error = Some(Error::WrongContext { operand, value, bound });
        }
        self.error.is_none()
    }

    #[inline]
    fn used<E>(
        &mut self,
        name: &'static str,
        (address, guard): (Address, Option<SyncOnDrop<'a>>),
        len: usize,
        is_written: bool,
    ) -> Address {
        let element = size_of::<E>() as u64;
        let bytes = element.saturating_mul(len as u64);
        self.spans.push(Span { name, address, bytes, element, is_written });
        if let Some(guard) = guard {
            self.guards.push(guard);
        }
        address
    }

    #[inline]
    fn rows<E>(
        &mut self,
        name: &'static str,
        (axis, width): (Axis, Width),
        layout: RowLayout,
        len: Option<usize>,
        address: Address,
        is_written: bool,
    ) -> RowsId {
        let len = len.unwrap_or_else(|| self.all_elements::<E>(name, axis, width));
        let id = self.shapes.rows(rows::Operand { name, axis, width, layout, len }, is_written);
        self.addresses[id.index()] = address;
        id
    }

    /// The elements of a feature operand without memory: the rows of all instances.
    fn all_elements<E>(&mut self, what: &'static str, axis: Axis, width: Width) -> usize {
        let (rows, features, bound) = (self.total(axis), self.plan.widths().of(width), usize::MAX as u128);
        self.row_bytes[axis as usize] += features as u128 * size_of::<E>() as u128;
        rows.checked_mul(features).unwrap_or_else(|| {
            let value = rows as u128 * features as u128;
            self.error.get_or_insert(Error::TooLarge { what, value, bound });
            0
        })
    }

    /// The values without memory of a call that is counted.
    fn all_values<E>(&mut self, length: Length) -> usize {
        match length {
            Length::Features => self.plan.features(),
            // Their product is less than 2⁶⁴.
            Length::Theta => self.plan.features().saturating_mul(self.plan.inputs()),
            Length::Instances => {
                self.instance_bytes += self.plan.features() as u128 * size_of::<E>() as u128;
                self.max_instances.saturating_mul(self.plan.features())
            }
            Length::Matrices => {
                let values = values_of_matrix(self.plan.batch().batch()).unwrap_or(usize::MAX);
                self.max_instances.saturating_mul(values)
            }
        }
    }

    /// The values that a call which is counted reads through windows.
    fn reach(&mut self, axis: Axis, windows: Windows<&DeviceWindows>) -> usize {
        match windows {
            Windows::Shared => self.plan.batch().batch().largest(axis),
            Windows::Consecutive => self.total(axis),
            Windows::Table(table) => table.table().reach(self.max_instances),
        }
    }

    /// The rows of all instances of a call that is counted.
    fn total(&mut self, axis: Axis) -> usize {
        self.plan.batch().batch().total(axis, self.max_instances).unwrap_or_else(|error| {
            self.error.get_or_insert(error);
            0
        })
    }

    /// A window table of the device, which in the safe tier notes who reads it.
    fn window_table(&mut self, table: &DeviceWindows) {
        let device = self.plan.batch().device();
        if self.error.is_some() {
            return;
        }
        if !table.device().is(device) {
            let (value, bound) = (table.device().ordinal(), device.ordinal());
            self.error = Some(Error::WrongContext { operand: "the window table", value, bound });
        } else if table.overwritten() && self.plan.checks() == Checks::Off {
            self.error = Some(Error::UncheckedTables);
        } else if self.safe.is_some() {
            table.read_on(self.stream);
        }
    }
}

/// Operands that passed all checks.
pub(super) struct Bound<'o> {
    checked: Checked<'o>,
    addresses: &'o [Address; MOST_ROWS],
}

impl Bound<'_> {
    pub(super) fn instances(&self) -> usize {
        self.checked.instances
    }

    /// Where the rows of an operand lie.
    pub(super) fn rows(&self, id: RowsId) -> PlacedRows {
        PlacedRows { address: self.addresses[id.index()], placement: self.checked.placement(id) }
    }

    /// Where the rows of an output lie.
    pub(super) fn out(&self, out: BoundOut) -> Destination {
        Destination { rows: self.rows(out.rows), accumulate: out.accumulate }
    }
}

/// Checks that operands start at multiples of their elements' sizes, and that no output shares memory with
/// another operand.
fn check_memory(operands: &[Span]) -> Result<()> {
    for &Span { name, address, element, .. } in operands.iter() {
        if !address.is_multiple_of(element) {
            return Err(Error::Misaligned { operand: name, value: address, bound: element });
        }
    }
    for (i, output) in operands.iter().enumerate().filter(|(_, o)| o.is_written && o.bytes > 0) {
        for (_, other) in operands.iter().enumerate().filter(|&(j, o)| i != j && o.bytes > 0) {
            if output.address < other.end() && other.address < output.end() {
                let (value, bound) = (output.address, other.end());
                return Err(Error::SharedMemory { operand: output.name, other: other.name, value, bound });
            }
        }
    }
    Ok(())
}

/// Why an operand could not be waited for. Its events are alive, so an invalid one was recorded in a capture
/// that has ended.
fn waiting_failed(error: DriverError) -> Error {
    let call = match error.0 {
        sys::CUresult::CUDA_ERROR_INVALID_VALUE => "waiting for an operand that a stream capture used last",
        _ => "waiting for an operand",
    };
    failed(call, error)
}
