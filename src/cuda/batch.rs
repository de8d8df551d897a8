//! A batch on a device.

use std::sync::Arc;

use super::device::Device;
use super::tables::{Table, Tables};
use crate::batch::Batch;
use crate::error::{Error, Result};

/// A batch whose tables are on a device, for plans of every width. A clone is cheap and is the same batch. It
/// may be dropped while work that reads its tables is in flight.
#[derive(Clone)]
pub struct DeviceBatch {
    batch: Batch,
    tables: Arc<Tables>,
    // Dropped last: the tables are freed in its context.
    device: Device,
}

impl Device {
    /// Uploads the tables of a batch, once for plans of every width, and waits for it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn upload(&self, batch: &Batch) -> Result<DeviceBatch> {
        let _current = self.enter()?;
        self.retired().sweep();
        let stream = self.context().default_stream();
        let tables = Tables::new(batch, &stream)?;
        Ok(DeviceBatch { device: self.clone(), batch: batch.clone(), tables: Arc::new(tables) })
    }
}

impl DeviceBatch {
    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The batch as it was uploaded.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    pub(super) fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The size of all tables, in bytes.
    pub fn bytes(&self) -> usize {
        self.tables.bytes()
    }

    /// A copy of a table. A replicated batch has no tables of instances: those are empty.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn read_table(&self, table: Table) -> Result<Vec<u64>> {
        let _current = self.device.enter()?;
        self.tables.read(table)
    }

    /// Overwrites a part of a table on the device, from `position` on, and waits for it. Nobody validates the
    /// new values, so only checked kernels may read them: from now on, plans on this batch need
    /// [`Checks::On`](super::Checks::On). An index out of bounds is [`Error::IndexOutOfBounds`] from the
    /// calls that follow and read it.
    ///
    /// An index may become any other in range. Row lengths and sizes of topologies have to stay as they are,
    /// since other tables repeat them. Plans repeat some, too: where instances are on several paths, the
    /// convolution and its backward read work starts of the plan's own instead of [`Table::WorkStarts`].
    ///
    /// # Errors
    /// In these cases nothing is written:
    ///
    /// * [`Error::BatchInUse`] while a plan, a workspace or a clone holds the batch, or work of a dropped
    ///   workspace is in flight;
    /// * [`Error::TableRange`] for a range outside the table;
    /// * [`Error::TableValue`] for values that do not fit.
    ///
    /// After [`Error::OutOfMemory`] or [`Error::Driver`] the table may have been written, and counts as
    /// overwritten.
    pub fn overwrite_table(&mut self, table: Table, position: usize, values: &[u64]) -> Result<()> {
        let _current = self.device.enter()?;
        self.device.retired().sweep();
        let holders = Arc::strong_count(&self.tables) - 1;
        let Some(tables) = Arc::get_mut(&mut self.tables) else {
            return Err(Error::BatchInUse { value: holders.max(1) });
        };
        tables.write(table, position, values)
    }
}

impl std::fmt::Debug for DeviceBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("DeviceBatch");
        shown.field("device", &self.device).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}
