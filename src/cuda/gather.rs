//! The launches of `kernels/gather.cu`.

#![allow(unsafe_code)]

use bytemuck::Zeroable;
use cudarc::driver::sys;

use super::DeviceElement;
use super::args::{GatherArgs, RowsArgs, ScaleArgs, Tiles};
use super::call::Call;
use super::geometry::{VECTOR_BYTES, feature_blocks, lanes, whole_vectors};
use super::kernels::Kernel;
use super::tables::Orientation;
use crate::conv::Reduce;
use crate::error::Result;
use crate::rows::Placement;

/// A feature operand on the device: where it starts, and where its rows lie.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) address: sys::CUdeviceptr,
    pub(super) placement: Placement,
}

impl Operand {
    fn args(self) -> RowsArgs {
        let stride = self.placement.instance_stride();
        RowsArgs {
            data: self.address,
            row_stride: self.placement.row_stride() as u64,
            instance_stride: stride.unwrap_or(0) as u64,
            packed: stride.is_none().into(),
            padding: 0,
        }
    }

    /// Whether every row of elements of `size` bytes starts at a multiple of 16 bytes.
    fn is_aligned(self, size: usize) -> bool {
        let multiple = |elements: usize| elements.wrapping_mul(size).is_multiple_of(VECTOR_BYTES);
        self.address.is_multiple_of(VECTOR_BYTES as u64)
            && multiple(self.placement.row_stride())
            && multiple(self.placement.instance_stride().unwrap_or(0))
    }
}

/// The elements of a gather's operands: `T` for all, or rows of sums on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    Plain,
    /// Sources are rows of the accumulation type.
    FromSums,
    /// Targets and others are rows of the accumulation type.
    ToSums,
}

/// Where the rows that a gather computes go.
#[derive(Clone, Copy)]
pub(super) struct Destination {
    pub(super) rows: Operand,
    pub(super) add: bool,
}

/// Rows to multiply the results with, and where the dot products go.
#[derive(Clone, Copy)]
pub(super) struct Dots {
    pub(super) others: Operand,
    pub(super) to: sys::CUdeviceptr,
}

/// One gather over a whole batch.
pub(super) struct Gather {
    pub(super) orientation: Orientation,
    pub(super) elements: Elements,
    pub(super) sources: Operand,
    pub(super) source_scale: ScaleArgs,
    pub(super) target_scale: ScaleArgs,
    /// The shifts of the sources and of the targets, in scratch memory.
    pub(super) shifts: [Option<sys::CUdeviceptr>; 2],
    pub(super) reduce: Reduce,
    pub(super) targets: Option<Destination>,
    pub(super) dots: Option<Dots>,
}

impl Gather {
    /// Queues the launches: rows and segments, and the sums of long rows if there are some.
    ///
    /// # Safety
    /// As [`Call`] says. The operands' memory has rows where their placements say and of the type that `elements` says, the
    /// scales have factors where their windows say, and `dots` has room for each target row's feature blocks.
    pub(super) unsafe fn launch<T: DeviceElement>(self, call: &Call<'_, T>) -> Result<()> {
        let tables = call.tables(self.orientation)?;
        let (size, acc) = (size_of::<T>(), size_of::<T::Acc>());
        let lanes = lanes(call.features(), size);
        let tiles = Tiles::new(tables.items, lanes);
        let feature_blocks = feature_blocks(call.features(), size) as u32;
        let source_size = if self.elements == Elements::FromSums { acc } else { size };
        let target_size = if self.elements == Elements::ToSums { acc } else { size };
        let outputs = [self.targets.map(|t| t.rows), self.dots.map(|d| d.others)];
        let aligned = whole_vectors(call.features(), size)
            && self.sources.is_aligned(source_size)
            && outputs.iter().flatten().all(|o| o.is_aligned(target_size));
        let rows = |operand: Option<Operand>| operand.map_or(RowsArgs::zeroed(), Operand::args);
        let args = GatherArgs {
            tables,
            tiles,
            sources: self.sources.args(),
            targets: rows(outputs[0]),
            others: rows(outputs[1]),
            source_scale: self.source_scale,
            target_scale: self.target_scale,
            source_shifts: self.shifts[0].unwrap_or(0),
            target_shifts: self.shifts[1].unwrap_or(0),
            dots: self.dots.map_or(0, |d| d.to),
            partials: call.scratch().partials.address(),
            record: call.record(),
            features: call.features() as u32,
            lanes,
            mean: (self.reduce == Reduce::Mean).into(),
            add: self.targets.is_some_and(|t| t.add).into(),
            aligned: aligned.into(),
            wide: (self.elements == Elements::ToSums).into(),
            feature_blocks,
            padding: 0,
        };
        let gather = match self.elements {
            Elements::FromSums => Kernel::GatherSums,
            Elements::Plain | Elements::ToSums => Kernel::Gather,
        };
        // SAFETY: both kernels take a `GatherArgs`; the caller promises the rest.
        unsafe {
            call.launch(gather, tiles.all, feature_blocks, &args)?;
            call.launch(Kernel::AddPartials, tiles.long_row, feature_blocks, &args)
        }
    }
}
