//! Weight windows: where in one array of learnable weights each instance finds its own.

use std::sync::Arc;

use crate::axis::Axis;
use crate::batch::Batch;
use crate::buffer::Buffer;
use crate::chunks::Chunks;
use crate::error::{Error, Result, fits_u32, try_with_capacity};
use crate::index::Index;

/// The weight-offset table of a batch. Instance `g`, with `m` hyperedges, reads
/// `weights[offsets[g] .. offsets[g] + m]`. Windows may overlap in any way.
///
/// Offsets are checked once, when the table is made. A clone is cheap and is the same table.
#[derive(Debug, Clone)]
pub struct WindowTable(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    batch: Batch,
    axis: Axis,
    offsets: Vec<u64>,
    /// The length that the windows of instances `0 ..= g` need.
    needed: Vec<u64>,
    chunks: Chunks,
}

impl WindowTable {
    /// The windows of hyperedge weights (or scales) of a batch: one offset for each instance. The table of a
    /// replicated batch has as many offsets as a call may have copies. A call with fewer copies reads the
    /// first ones.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] where a table batch has another number of instances,
    /// [`Error::OffsetOutOfRange`] where an offset is negative or its window would end past the largest array
    /// that there can be, [`Error::TooLarge`] for 2³² offsets and more, [`Error::OutOfMemory`].
    pub fn new<I: Index>(batch: &Batch, offsets: &[I]) -> Result<Self> {
        Self::along(batch, Axis::Hyperedge, offsets)
    }

    /// The same for scales of vertices: instance `g`, with `n` vertices, reads
    /// `scale[offsets[g] .. offsets[g] + n]`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_vertices<I: Index>(batch: &Batch, offsets: &[I]) -> Result<Self> {
        Self::along(batch, Axis::Vertex, offsets)
    }

    fn along<I: Index>(batch: &Batch, axis: Axis, offsets: &[I]) -> Result<Self> {
        if let Some(bound) = batch.n_instances().filter(|&n| n != offsets.len()) {
            let bound_of = "the instances of the batch";
            return Err(Error::LengthMismatch { table: "offsets", value: offsets.len(), bound, bound_of });
        }
        fits_u32("the number of instances", offsets.len())?;
        let mut checked: Vec<u64> = try_with_capacity("offsets", offsets.len())?;
        let mut needed = try_with_capacity("offsets", offsets.len())?;
        let mut most = 0;
        for (instance, offset) in offsets.iter().map(|o| o.value()).enumerate() {
            let width = batch.topology(instance).size(axis);
            let end = offset + width as i128;
            // No array has more elements than isize::MAX bytes.
            if offset < 0 || end > isize::MAX as i128 {
                let bound = isize::MAX as u64 - width as u64;
                return Err(Error::OffsetOutOfRange { table: "offsets", instance, value: offset, bound });
            }
            most = most.max(end as u64);
            checked.push(offset as u64);
            needed.push(most);
        }
        let mut topology_ids: Vec<u32> = try_with_capacity("topology_ids", offsets.len())?;
        topology_ids.extend((0..offsets.len()).map(|g| batch.topology_id(g) as u32));
        let chunks = Chunks::new(batch.topologies(), axis, &topology_ids, |g| checked[g])?;
        Ok(Self(Arc::new(Inner { batch: batch.clone(), axis, offsets: checked, needed, chunks })))
    }

    /// The number of offsets.
    pub fn len(&self) -> usize {
        self.0.offsets.len()
    }

    /// Whether there are no offsets.
    pub fn is_empty(&self) -> bool {
        self.0.offsets.is_empty()
    }

    /// The offsets, one for each instance.
    pub fn offsets(&self) -> &[u64] {
        &self.0.offsets
    }

    /// The batch that the table was made for.
    pub(crate) fn batch(&self) -> &Batch {
        &self.0.batch
    }

    /// What the windows are windows of.
    pub(crate) fn axis(&self) -> Axis {
        self.0.axis
    }

    /// The chunks of the instances.
    pub(crate) fn chunks(&self) -> &Chunks {
        &self.0.chunks
    }

    /// The values that the windows of the first `instances` instances reach to.
    #[cfg(feature = "cuda")]
    pub(crate) fn reach(&self, instances: usize) -> usize {
        instances.checked_sub(1).map_or(0, |last| self.0.needed[last] as usize)
    }

    /// Checks this table against a call: its batch, axis, number of instances and the length of the operand.
    fn check(
        &self,
        name: &'static str,
        batch: &Batch,
        axis: Axis,
        instances: usize,
        len: usize,
    ) -> Result<()> {
        let table = name;
        if !self.batch().is(batch) {
            return Err(Error::WindowTableMismatch { table });
        }
        if self.axis() != axis {
            let (value, bound) = (self.axis().plural(), axis.plural());
            return Err(Error::WindowTableAxis { table, value, bound });
        }
        if instances > self.len() {
            return Err(Error::WindowTableLength { table, value: self.len(), bound: instances });
        }
        if instances == 0 || self.0.needed[instances - 1] <= len as u64 {
            return Ok(());
        }
        let ends_past = |g: &usize| self.offsets()[*g] + self.width(*g) as u64 > len as u64;
        let instance = (0..instances).find(ends_past).unwrap_or(instances - 1);
        let (value, width) = (self.offsets()[instance], self.width(instance));
        Err(Error::WindowOutOfRange { table, instance, value, width, bound: len })
    }

    fn width(&self, instance: usize) -> usize {
        self.batch().topology(instance).size(self.axis())
    }
}

/// Which part of an array of weights (or scales) each instance reads. `W` is a reference (or a pointer) to a
/// window table.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Windows<W> {
    /// All instances read from offset 0. There is one set of weights, as many as the largest instance reads.
    Shared,
    /// Each instance reads a window of its own, behind that of the instance before it. There is one weight
    /// for each hyperedge of the batch.
    Consecutive,
    /// Each instance reads at its offset in the table. There may be weights that no window covers.
    Table(W),
}

impl<W: std::ops::Deref> Windows<W> {
    /// The same windows by reference.
    pub fn as_deref(&self) -> Windows<&W::Target> {
        match self {
            Self::Shared => Windows::Shared,
            Self::Consecutive => Windows::Consecutive,
            Self::Table(table) => Windows::Table(table),
        }
    }
}

/// Hyperedge weights of a call, or scales of vertices or hyperedges: values of the accumulation type `A`, and
/// the windows through which the instances read them. `B` is `&[A]` for the CPU operators and a `CudaView`
/// for those on a GPU. The constructors take any [`Buffer`], such as `&vec`.
#[derive(Debug, Clone, Copy)]
pub struct Weights<B, W> {
    /// The values.
    pub values: B,
    /// Which part of them each instance reads.
    pub windows: Windows<W>,
}

impl<B, W> Weights<B, W> {
    /// Values read through these windows.
    pub fn new(values: impl Buffer<View = B>, windows: Windows<W>) -> Self {
        Self { values: values.view(), windows }
    }

    /// One set of values, shared by all instances.
    pub fn shared(values: impl Buffer<View = B>) -> Self {
        Self::new(values, Windows::Shared)
    }

    /// Values of their own for each instance, one behind the other.
    pub fn consecutive(values: impl Buffer<View = B>) -> Self {
        Self::new(values, Windows::Consecutive)
    }

    /// Values read at each instance's offset in `table`.
    pub fn table(values: impl Buffer<View = B>, table: W) -> Self {
        Self::new(values, Windows::Table(table))
    }
}

impl Windows<&WindowTable> {
    /// Checks that the windows of `instances` instances lie within an operand of `len` values.
    pub(crate) fn check(
        &self,
        name: &'static str,
        batch: &Batch,
        axis: Axis,
        instances: usize,
        len: usize,
    ) -> Result<()> {
        if let Self::Table(table) = self {
            return table.check(name, batch, axis, instances, len);
        }
        if instances == 0 {
            return Ok(());
        }
        let (needed, windows) = match self {
            Self::Shared => (batch.largest(axis), "shared"),
            _ => (batch.total(axis, instances)?, "consecutive"),
        };
        if needed < len {
            // More values than are read mean that the windows are not what the caller thinks they are.
            let (table, what) = (name, axis.plural());
            return Err(Error::UnreadWeights { table, value: len, bound: needed, windows, what });
        }
        if needed == len {
            return Ok(());
        }
        let ends_past = |g: &usize| self.offset(batch, axis, *g) + batch.topology(*g).size(axis) > len;
        let instance = (0..instances).find(ends_past).unwrap_or(instances - 1);
        let (value, width) = (self.offset(batch, axis, instance) as u64, batch.topology(instance).size(axis));
        Err(Error::WindowOutOfRange { table: name, instance, value, width, bound: len })
    }

    /// Where `instance` starts to read the values of its rows along `axis`.
    ///
    /// # Panics
    /// If `instance` is not below the number of instances of a table batch, or of the offsets of a table of
    /// windows.
    #[inline]
    pub fn offset(&self, batch: &Batch, axis: Axis, instance: usize) -> usize {
        match self {
            Self::Shared => 0,
            Self::Consecutive => batch.start(axis, instance),
            Self::Table(table) => table.offsets()[instance] as usize,
        }
    }
}
