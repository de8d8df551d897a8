//! A window table on a device.
//!
//! Calls on any number of streams read it. A `CudaSlice` would remember the last of them only, so this has memory and an event
//! of its own: each stream that reads waits, behind its launches, for the event as the stream before it left it, and then
//! records it. So the event is behind all launches that read the table.

#![allow(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, DriverError, result, sys};

use super::batch::DeviceBatch;
use super::buffer::Buffer;
use super::device::Device;
use super::driver::{Current, failed};
use super::tables::{ChunkCounts, HostChunks, Orientation, Table, window_name};
use crate::batch::Axis;
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::windows::WindowTable;

/// A window table on a device, for any number of calls with a batch on that device. It may be dropped while work that reads
/// it is in flight, but for calls of the raw tier, which cannot know.
pub struct DeviceWindows {
    table: WindowTable,
    counts: ChunkCounts,
    address: sys::CUdeviceptr,
    /// Taken when the table is dropped.
    held: Option<Held>,
    overwritten: bool,
    // Dropped last: the words are freed in its context.
    device: Device,
}

/// What the launches use, and what they leave.
struct Held {
    /// The offsets, the words of the chunks, their members and their classes, one behind the other, as the kernels of
    /// `kernels/windows.cu` read them.
    words: Buffer<u64>,
    readers: Mutex<Readers>,
}

/// The launches that read the table.
struct Readers {
    /// Behind all of them.
    event: CudaEvent,
    /// Whether there are some that it is not behind, since the driver failed.
    unknown: bool,
}

/// A part of a window table on a device, all in 64-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowPart {
    /// Where each instance reads.
    Offsets,
    /// As [`Table::Chunks`], for the gradient of what is read through these windows.
    Chunks,
    /// As [`Table::Members`].
    Members,
    /// As [`Table::Classes`].
    Classes,
}

impl WindowPart {
    /// All parts.
    pub const ALL: [Self; 4] = [Self::Offsets, Self::Chunks, Self::Members, Self::Classes];
}

impl DeviceBatch {
    /// Uploads a window table of this batch, and waits for it.
    ///
    /// # Errors
    /// [`Error::WindowTableMismatch`] for a table of another batch, [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn upload_windows(&self, table: &WindowTable) -> Result<DeviceWindows> {
        if !table.batch().is(self.batch()) {
            let (value, bound) = ("another batch", "the batch that it is uploaded for");
            return Err(Error::WindowTableMismatch { table: "windows", value, bound });
        }
        let device = self.device();
        let _current = device.enter()?;
        let HostChunks { chunks, members, classes, counts } =
            HostChunks::new(self.batch(), table.axis(), table.groups())?;
        let what = "a window table";
        let parts = [table.offsets(), &chunks, &members, &classes];
        let mut words = try_with_capacity(what, parts.iter().map(|part| part.len()).sum())?;
        parts.into_iter().for_each(|part| words.extend_from_slice(part));
        let words = Buffer::from_slice(what, &device.context().default_stream(), &words)?;
        let event = device.context().new_event(None).map_err(|e| failed("making an event", e))?;
        Ok(DeviceWindows {
            table: table.clone(),
            counts,
            address: words.address(),
            held: Some(Held { words, readers: Mutex::new(Readers { event, unknown: false }) }),
            overwritten: false,
            device: device.clone(),
        })
    }
}

impl Readers {
    /// Adds what `stream` has been given so far.
    fn add(&mut self, stream: &CudaStream) -> Result<(), DriverError> {
        // SAFETY: event and stream are alive, and of the same context.
        let added = unsafe {
            let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            result::stream::wait_event(stream.cu_stream(), self.event.cu_event(), wait)
                .and_then(|()| result::event::record(self.event.cu_event(), stream.cu_stream()))
        };
        if added.is_err() {
            // What has ended needs no event.
            // SAFETY: the stream is alive.
            self.unknown |= unsafe { result::stream::synchronize(stream.cu_stream()) }.is_err();
        }
        added
    }

    /// Makes the table's own stream, which is the default stream, wait for all of them.
    fn wait(&self, stream: &CudaStream) -> Result<(), DriverError> {
        let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: event and stream are alive.
        unsafe { result::stream::wait_event(stream.cu_stream(), self.event.cu_event(), wait) }
    }
}

/// A call that reads a table: when this is dropped, behind the launches, the table's event is behind them.
pub(super) struct Reading<'a> {
    windows: &'a DeviceWindows,
    stream: &'a CudaStream,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let added = self.windows.readers().add(self.stream);
        self.stream.context().record_err(added);
    }
}

impl DeviceWindows {
    /// The table as it was uploaded.
    pub fn table(&self) -> &WindowTable {
        &self.table
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A copy of a part.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn read(&self, part: WindowPart) -> Result<Vec<u64>> {
        let _current = self.device.enter()?;
        let range = self.range(part);
        let mut words = try_zeroed("a copy of a window table", range.len())?;
        self.held().words.read(range.start, &mut words)?;
        Ok(words)
    }

    /// Overwrites a part of the table on the device, from `position` of a part on, and waits for it. Offsets that were not
    /// validated may only meet checked kernels: from now on, calls with this table need a plan with
    /// [`Checks::On`](super::Checks::On), and a window that ends out of bounds is [`Error::IndexOutOfBounds`] from the calls
    /// that follow. The gradient goes where the chunks say, which are not derived anew.
    ///
    /// # Errors
    /// [`Error::TableAccess`] for a range outside the part; nothing is written then. [`Error::Driver`].
    pub fn overwrite(&mut self, part: WindowPart, position: usize, values: &[u64]) -> Result<()> {
        let range = self.range(part);
        let room = range.len().checked_sub(position);
        if room.is_none_or(|room| values.len() > room) {
            let (what, end) = ("the end of the range", position.saturating_add(values.len()) as u64);
            let (table, bound) = (self.part_name(part), range.len() as u64 + 1);
            return Err(Error::TableAccess { table, position, what, value: end, bound });
        }
        if values.is_empty() {
            return Ok(());
        }
        let _current = self.device.enter()?;
        // Before the copy: it may fail half-way.
        self.overwritten = true;
        let stream = self.device.context().default_stream();
        self.readers().wait(&stream).map_err(|e| failed("waiting for a window table", e))?;
        self.held().words.write(self.range(part).start + position, values)
    }

    /// The name of a part in [`Error::IndexOutOfBounds`].
    pub fn part_name(&self, part: WindowPart) -> &'static str {
        let orientation = Orientation::with_rows(self.axis());
        match part {
            WindowPart::Offsets => window_name(self.axis()),
            WindowPart::Chunks => Table::Chunks(orientation).name(),
            WindowPart::Members => Table::Members(orientation).name(),
            WindowPart::Classes => Table::Classes(orientation).name(),
        }
    }

    fn axis(&self) -> Axis {
        self.table.axis()
    }

    /// Where a part stands in the words.
    fn range(&self, part: WindowPart) -> std::ops::Range<usize> {
        let ChunkCounts { n_chunks, n_members, n_classes, .. } = self.counts;
        let lens = [self.table.len(), 4 * (n_chunks + 1), n_members, 2 * (n_classes + 1)];
        let start = lens[..part as usize].iter().sum();
        start..start + lens[part as usize]
    }

    fn held(&self) -> &Held {
        self.held.as_ref().expect("only `drop` takes it")
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.held().readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held by a call until its launches are queued; `None` in a context with a single stream, which orders everything.
    pub(super) fn reading<'a>(&'a self, stream: &'a CudaStream) -> Option<Reading<'a>> {
        let is_ordered = !stream.context().is_managing_stream_synchronization();
        (!is_ordered).then(|| Reading { windows: self, stream })
    }

    pub(super) fn counts(&self) -> ChunkCounts {
        self.counts
    }

    pub(super) fn overwritten(&self) -> bool {
        self.overwritten
    }

    /// Where the offsets start.
    pub(super) fn offsets(&self) -> sys::CUdeviceptr {
        self.address
    }

    /// Where chunks, members and classes start.
    pub(super) fn addresses(&self) -> [sys::CUdeviceptr; 3] {
        [WindowPart::Chunks, WindowPart::Members, WindowPart::Classes]
            .map(|part| self.address + (self.range(part).start * size_of::<u64>()) as u64)
    }
}

impl Drop for DeviceWindows {
    fn drop(&mut self) {
        let Some(Held { words, readers }) = self.held.take() else { return };
        let context = self.device.context();
        let readers = readers.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Freeing and destroying need the context to be current.
        let Ok(_current) = Current::enter(context) else {
            std::mem::forget((words, readers));
            return;
        };
        // SAFETY: the event is alive.
        let ended = || unsafe { result::event::synchronize(readers.event.cu_event()) };
        let waits = readers.wait(&context.default_stream()).or_else(|_| ended());
        if readers.unknown || waits.is_err() {
            // Nothing is known about the work that reads: rather lose the memory than take it from a kernel.
            std::mem::forget(words);
        }
        drop(readers);
    }
}

impl std::fmt::Debug for DeviceWindows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("DeviceWindows");
        shown.field("device", &self.device).field("offsets", &self.table.len()).finish_non_exhaustive()
    }
}
