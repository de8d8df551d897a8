//! The launches of `kernels/gather.cu`.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::DeviceElement;
use super::args::{Address, GatherArgs, RowsArgs, ScaleArgs, Tiles};
use super::call::{Call, Destination, PlacedRows};
use super::epilogue::Finish;
use super::geometry::{Grid, VECTOR_BYTES, feature_blocks, lanes, whole_vectors};
use super::kernels::Kernel;
use super::launches::Launches;
use super::scratch::Slot;
use super::tables::Orientation;
use crate::conv::Reduce;
use crate::error::Result;

impl PlacedRows {
    pub(super) fn args(self) -> RowsArgs {
        let stride = self.placement.instance_stride();
        RowsArgs {
            data: self.address,
            row_stride: self.placement.row_stride() as u64,
            instance_stride: stride.unwrap_or(0) as u64,
            packed: stride.is_none().into(),
            padding: 0,
        }
    }

    /// Whether every row of elements of `size` bytes starts at a multiple of `bytes`.
    pub(super) fn is_aligned(self, size: usize, bytes: usize) -> bool {
        let multiple = |elements: usize| elements.wrapping_mul(size).is_multiple_of(bytes);
        self.address.is_multiple_of(bytes as u64)
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

/// Rows to multiply the results with, and where the dot products go.
#[derive(Clone, Copy)]
pub(super) struct Dots {
    pub(super) others: PlacedRows,
    pub(super) to: Address,
}

/// One gather over a whole batch.
pub(super) struct Gather {
    pub(super) orientation: Orientation,
    pub(super) elements: Elements,
    pub(super) sources: PlacedRows,
    pub(super) source_scale: ScaleArgs,
    pub(super) target_scale: ScaleArgs,
    /// The shifts of the sources and of the targets, in scratch memory.
    pub(super) shifts: [Option<Address>; 2],
    pub(super) reduce: Reduce,
    pub(super) targets: Option<Destination>,
    /// Of sources of the accumulation type.
    pub(super) finish: Finish,
    pub(super) dots: Option<Dots>,
}

impl Gather {
    /// Sums of rows, of which nothing becomes yet.
    pub(super) fn new(orientation: Orientation, elements: Elements, sources: PlacedRows) -> Self {
        Self {
            orientation,
            elements,
            sources,
            source_scale: ScaleArgs::none(),
            target_scale: ScaleArgs::none(),
            shifts: [None; 2],
            reduce: Reduce::Sum,
            targets: None,
            finish: Finish::none(),
            dots: None,
        }
    }
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// Launches the sums of rows and of segments, then those of long rows from their segments, if there are
    /// any.
    ///
    /// # Safety
    /// The operands' memory has rows where their placements say and of the type that `elements` says, the
    /// scales have factors where their windows say, and `dots` has room for each target row's feature blocks.
    pub(super) unsafe fn gather(&mut self, gather: Gather) -> Result<()> {
        let Gather { orientation, elements, sources, source_scale, target_scale, shifts, reduce, .. } =
            gather;
        let tables = self.tables(orientation);
        let (size, acc) = (size_of::<T>(), size_of::<T::Acc>());
        let features = self.features();
        let lanes = lanes(features, size);
        let tiles = Tiles::new(tables.items, lanes);
        let feature_blocks = feature_blocks(features, size) as u32;
        let source_size = if elements == Elements::FromSums { acc } else { size };
        let target_size = if elements == Elements::ToSums { acc } else { size };
        let outputs = [gather.targets.map(|t| t.rows), gather.dots.map(|d| d.others)];
        let aligned = whole_vectors(features, size)
            && sources.is_aligned(source_size, VECTOR_BYTES)
            && outputs.iter().flatten().all(|o| o.is_aligned(target_size, VECTOR_BYTES))
            && gather.finish.is_aligned(size, VECTOR_BYTES);
        let rows = |rows: Option<PlacedRows>| rows.map_or(RowsArgs::zeroed(), PlacedRows::args);
        let segment = features as u128 * acc as u128;
        let args = GatherArgs {
            tables,
            tiles,
            sources: sources.args(),
            targets: rows(outputs[0]),
            others: rows(outputs[1]),
            source_scale,
            target_scale,
            source_shifts: shifts[0].unwrap_or(0),
            target_shifts: shifts[1].unwrap_or(0),
            dots: gather.dots.map_or(0, |d| d.to),
            partials: self.launches.scratch(Slot::Partials, u128::from(tables.items.partial) * segment)?,
            record: self.launches.record(),
            epilogue: gather.finish.args(),
            features: features as u32,
            lanes,
            mean: (reduce == Reduce::Mean).into(),
            add: gather.targets.is_some_and(|t| t.accumulate).into(),
            aligned: aligned.into(),
            wide: (elements == Elements::ToSums).into(),
            feature_blocks,
            padding: 0,
        };
        if L::COUNTS {
            let (incidences, targets) = self.size(orientation.rows());
            let written = targets * outputs.iter().flatten().count() as u128;
            let others = targets * u128::from(gather.finish.reads_rows());
            let rows = [(incidences, source_size), (written, target_size), (others, size)];
            self.launches.moves(rows.iter().map(|&(rows, size)| rows * (features * size) as u128).sum());
        }
        let kernel = match elements {
            Elements::FromSums => Kernel::GatherSums,
            Elements::Plain | Elements::ToSums => Kernel::Gather,
        };
        let grid = |warps| Grid::of_warps(warps).times_feature_blocks(feature_blocks);
        // SAFETY: both kernels take a `GatherArgs`; the caller promises the rest.
        unsafe {
            self.launches.launch(kernel, grid(tiles.all), &args)?;
            self.launches.launch(Kernel::AddPartials, grid(tiles.long_row), &args)
        }
    }
}
