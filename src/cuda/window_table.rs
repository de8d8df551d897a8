//! A window table on a device.

#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaEvent, CudaStream, result, sys};

use super::args::{ChunkWords, RankWords, words_of};
use super::batch::DeviceBatch;
use super::buffer::Buffer;
use super::device::Device;
use super::driver::{Current, failed, not_capturing};
use super::retired::Mark;
use super::tables::{ChunkCounts, HostChunks, Orientation, Table, window_name};
use crate::axis::Axis;
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::windows::WindowTable;

/// A window table on a device, for any number of calls with a batch on that device. It may be dropped while
/// calls of the safe tier that read it are in flight. For those of the raw tier, see their
/// [contract](super::raw).
pub struct DeviceWindows {
    table: WindowTable,
    counts: ChunkCounts,
    /// The offsets, the words of the chunks, their members and their ranks, one after the other, as the
    /// kernels of `kernels/instance_sums.cu` read them. Taken when the table is dropped.
    words: Option<Buffer<u64>>,
    /// For the first reader, made in advance: to drop a table that one stream has read creates nothing.
    event: Option<CudaEvent>,
    /// The streams of the calls of the safe tier that read it, any number at once. A `CudaSlice` would not
    /// do, since it knows its last reader only.
    readers: Mutex<Vec<Arc<CudaStream>>>,
    overwritten: bool,
    // Dropped last: the words are freed in its context.
    device: Device,
}

/// A part of a window table on a device, all in 64-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WindowPart {
    /// Where each instance reads.
    Offsets,
    /// As [`Table::Chunks`], for the gradient of what is read through these windows.
    Chunks,
    /// As [`Table::Members`].
    Members,
    /// As [`Table::Ranks`].
    Ranks,
}

impl WindowPart {
    /// All parts.
    pub const ALL: &'static [Self] = &[Self::Offsets, Self::Chunks, Self::Members, Self::Ranks];
}

impl DeviceBatch {
    /// Uploads a window table of this batch, and waits for it.
    ///
    /// # Errors
    /// [`Error::WindowTableMismatch`] for a table of another batch, [`Error::OutOfMemory`],
    /// [`Error::Driver`].
    pub fn upload_windows(&self, table: &WindowTable) -> Result<DeviceWindows> {
        if !table.batch().is(self.batch()) {
            return Err(Error::WindowTableMismatch { table: "table" });
        }
        let device = self.device();
        let _current = device.enter()?;
        let HostChunks { chunks, members, ranks, counts } =
            HostChunks::new(self.batch(), table.axis(), table.chunks())?;
        let what = "a window table";
        let (chunks, ranks) = (bytemuck::cast_slice(&chunks), bytemuck::cast_slice(&ranks));
        let parts = [table.offsets(), chunks, &members, ranks];
        let mut words = try_with_capacity(what, parts.iter().map(|part| part.len()).sum())?;
        parts.into_iter().for_each(|part| words.extend_from_slice(part));
        device.retired().sweep();
        let stream = device.context().default_stream();
        Ok(DeviceWindows {
            table: table.clone(),
            counts,
            words: Some(Buffer::from_slice(what, &stream, &words)?),
            event: Some(device.context().new_event(None).map_err(|e| failed("making an event", e))?),
            // Room for the first few, so that calls allocate nothing.
            readers: Mutex::new(Vec::with_capacity(4)),
            overwritten: false,
            device: device.clone(),
        })
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
        self.words().read(range.start, &mut words)?;
        Ok(words)
    }

    /// Overwrites words of a part on the device, from `position` on, and waits for it. Calls of the safe tier
    /// that read the table are waited for before.
    ///
    /// Nobody validates the new words, so only checked kernels may read them: from now on, calls with this
    /// table need a plan with [`Checks::On`](super::Checks::On). A window that ends out of bounds is
    /// [`Error::IndexOutOfBounds`] from the calls that follow. New offsets do not change the chunks:
    /// gradients still go where those say.
    ///
    /// # Errors
    /// [`Error::TableRange`] for a range outside the part, and [`Error::Capturing`] while a stream that has
    /// read the table records a CUDA graph: nothing is written then. [`Error::Driver`].
    pub fn overwrite(&mut self, part: WindowPart, position: usize, values: &[u64]) -> Result<()> {
        let range = self.range(part);
        let room = range.len().checked_sub(position);
        if room.is_none_or(|room| values.len() > room) {
            let (table, value) = (self.part_name(part), position.saturating_add(values.len()));
            return Err(Error::TableRange { table, position, value, bound: range.len() });
        }
        if values.is_empty() {
            return Ok(());
        }
        let _current = self.device.enter()?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in readers.iter() {
            not_capturing(stream, "overwriting a window table")?;
            // SAFETY: the stream is alive.
            unsafe { result::stream::synchronize(stream.cu_stream()) }
                .map_err(|e| failed("waiting for the readers of a window table", e))?;
        }
        readers.clear();
        drop(readers);
        // Before the copy: it may fail half-way.
        self.overwritten = true;
        self.words().write(range.start + position, values)
    }

    /// The name of a part in [`Error::IndexOutOfBounds`].
    pub fn part_name(&self, part: WindowPart) -> &'static str {
        let orientation = Orientation::with_rows(self.axis());
        match part {
            WindowPart::Offsets => window_name(self.axis()),
            WindowPart::Chunks => Table::Chunks(orientation).name(),
            WindowPart::Members => Table::Members(orientation).name(),
            WindowPart::Ranks => Table::Ranks(orientation).name(),
        }
    }

    fn axis(&self) -> Axis {
        self.table.axis()
    }

    /// Where a part stands in the words.
    fn range(&self, part: WindowPart) -> std::ops::Range<usize> {
        let ChunkCounts { n_chunks, n_members, n_ranks, .. } = self.counts;
        let chunks = words_of::<ChunkWords>() * (n_chunks + 1);
        let ranks = words_of::<RankWords>() * (n_ranks + 1);
        let lens = [self.table.len(), chunks, n_members, ranks];
        let start = lens[..part as usize].iter().sum();
        start..start + lens[part as usize]
    }

    fn words(&self) -> &Buffer<u64> {
        self.words.as_ref().expect("only `drop` takes them")
    }

    /// Notes that work on a stream is going to read it.
    pub(super) fn read_on(&self, stream: &Arc<CudaStream>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if !readers.iter().any(|reader| reader.cu_stream() == stream.cu_stream()) {
            readers.push(stream.clone());
        }
    }

    pub(super) fn counts(&self) -> ChunkCounts {
        self.counts
    }

    pub(super) fn overwritten(&self) -> bool {
        self.overwritten
    }

    /// Where the offsets start.
    pub(super) fn offsets(&self) -> sys::CUdeviceptr {
        self.words().address()
    }

    /// Where chunks, members and ranks start.
    pub(super) fn addresses(&self) -> [sys::CUdeviceptr; 3] {
        [WindowPart::Chunks, WindowPart::Members, WindowPart::Ranks]
            .map(|part| self.words().address() + (self.range(part).start * size_of::<u64>()) as u64)
    }
}

impl Drop for DeviceWindows {
    fn drop(&mut self) {
        let Some(words) = self.words.take() else { return };
        let readers = std::mem::take(self.readers.get_mut().unwrap_or_else(PoisonError::into_inner));
        let Ok(_current) = Current::enter(self.device.context()) else { return std::mem::forget(words) };
        let mut marks = Vec::with_capacity(readers.len());
        for stream in readers {
            match self.event.take().map_or_else(|| self.device.context().new_event(None), Ok) {
                Ok(event) => marks.push(Mark::new(event, stream)),
                Err(_) => {
                    let is_over = not_capturing(&stream, "").is_ok()
                        // SAFETY: the stream is alive.
                        && unsafe { result::stream::synchronize(stream.cu_stream()) }.is_ok();
                    if !is_over {
                        // Nothing tells when this reader is done: rather lose the memory than take it from a
                        // kernel.
                        return std::mem::forget(words);
                    }
                }
            }
        }
        if !marks.is_empty() {
            self.device.retired().push(Box::new(words), marks);
        }
    }
}

impl std::fmt::Debug for DeviceWindows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("DeviceWindows");
        shown.field("device", &self.device).field("offsets", &self.table.len()).finish_non_exhaustive()
    }
}
