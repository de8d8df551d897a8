//! A window table on a device.

use cudarc::driver::{CudaSlice, DevicePtr, sys};

use super::batch::DeviceBatch;
use super::device::Device;
use super::driver::{Current, failed};
use super::tables::{ChunkCounts, HostChunks, Orientation, Table, window_name};
use crate::batch::Axis;
use crate::error::{Error, Result, try_with_capacity};
use crate::windows::WindowTable;

/// A window table on a device, for any number of calls with a batch on that device. It may be dropped while work that reads
/// it is in flight, but for calls of the raw tier, which cannot know.
pub struct DeviceWindows {
    table: WindowTable,
    counts: ChunkCounts,
    /// The offsets, the words of the chunks, their members and their classes, one behind the other, as the kernels of
    /// `kernels/windows.cu` read them. Taken when the table is dropped. In `cudarc`'s hands, so that its events keep the memory
    /// as they keep an operand's.
    words: Option<CudaSlice<u64>>,
    address: sys::CUdeviceptr,
    overwritten: bool,
    // Dropped last: the words are freed in its context.
    device: Device,
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
        let stream = device.context().default_stream();
        let words_on_device = stream.clone_htod(&words).map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Error::OutOfMemory { what, bytes: words.len() as u128 * 8 }
            }
            _ => failed("copying a window table to the device", e),
        })?;
        let address = address(&words_on_device);
        let windows = DeviceWindows {
            table: table.clone(),
            counts,
            words: Some(words_on_device),
            address,
            overwritten: false,
            device: device.clone(),
        };
        stream.synchronize().map_err(|e| failed("waiting for a copy to the device", e))?;
        Ok(windows)
    }
}

/// Where a slice starts. The guard is that of its own stream, which has nothing to wait for.
fn address(words: &CudaSlice<u64>) -> sys::CUdeviceptr {
    words.device_ptr(words.stream()).0
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
        let stream = self.device.context().default_stream();
        let copied = stream.clone_dtoh(&self.words().slice(self.range(part)));
        let copied = copied.and_then(|words| stream.synchronize().map(|()| words));
        copied.map_err(|e| failed("copying a window table from the device", e))
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
        let start = range.start + position;
        let Some(words) = &mut self.words else { return Ok(()) };
        stream
            .memcpy_htod(values, &mut words.slice_mut(start..start + values.len()))
            .and_then(|()| stream.synchronize())
            .map_err(|e| failed("copying a window table to the device", e))
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

    pub(super) fn words(&self) -> &CudaSlice<u64> {
        self.words.as_ref().expect("only `drop` takes them")
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
        let words = self.words.take();
        // `cudarc` frees in whatever context is current.
        match Current::enter(self.device.context()) {
            Ok(_current) => drop(words),
            Err(_) => std::mem::forget(words),
        }
    }
}

impl std::fmt::Debug for DeviceWindows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("DeviceWindows");
        shown.field("device", &self.device).field("offsets", &self.table.len()).finish_non_exhaustive()
    }
}
