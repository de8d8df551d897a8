//! The launches of `kernels/dense.cuh`: the convolution, forward, of small hypergraphs by their dense
//! operators.

#![allow(unsafe_code)]

use super::super::DeviceElement;
use super::super::args::{Address, DenseArgs, DenseTask};
use super::super::call::{Call, Destination, PlacedRows, PlacedWeights};
use super::super::geometry::{Grid, THREADS, VECTOR_BYTES, WARP};
use super::super::launches::Launches;
use super::super::route::DenseClass;
use super::super::scratch::Slot;
use super::super::tables::Orientation;
use crate::axis::Axis;
use crate::conv::Normalization;
use crate::error::{Error, Result};
use crate::windows::Windows;

/// The shared memory of a block that computes several instances, at most: enough blocks for all registers
/// then fit into a multiprocessor.
const INSTANCES_BYTES: usize = 16 << 10;

/// The lanes that sum the weights of a vertex, where no vertex has more incidences.
const FEW_LANES: u32 = 8;

/// y of the instances of a class of topologies.
pub(super) struct Dense<'w> {
    pub(super) class: DenseClass,
    pub(super) x: PlacedRows,
    pub(super) weights: PlacedWeights<'w>,
    pub(super) y: Destination,
    /// The instances of this class: where their numbers are, `u32` on the device, and how many there are.
    /// None: they are all of the call.
    pub(super) instances: Option<(Address, u64)>,
    /// Likewise the topologies that they have. None: topology 0.
    pub(super) topologies: Option<(Address, u64)>,
}

/// The features of a thread, `Features` of the kernels: elements of 16 bits come 8 bytes at a time.
const fn features_of_thread(size: usize) -> usize {
    if size == 2 { 4 } else { VECTOR_BYTES / size }
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// One launch; with a shared window two, the first of which forms M of each topology. It needs no rows in
    /// scratch memory.
    ///
    /// # Safety
    /// The operands have rows where their placements say, and weights where their windows say. The topologies
    /// of the instances are in the class.
    pub(super) unsafe fn dense(&mut self, stage: Dense<'_>) -> Result<()> {
        let Dense { class, x, weights, y, instances, topologies } = stage;
        let (conv, batch) = (self.plan.conv(), self.batch());
        let (size, sum_size, features) = (size_of::<T>(), size_of::<T::Acc>(), self.features());
        if self.total(Axis::Vertex) == 0 {
            return Ok(());
        }
        let (list, n_instances) = instances.unwrap_or((0, self.instances as u64));
        let is_shared = matches!(weights.windows, Windows::Shared);
        let is_replicated = batch.is_replicated();

        let len = features_of_thread(size);
        let bytes = len * size;
        let aligned =
            features.is_multiple_of(len) && x.is_aligned(size, bytes) && y.rows.is_aligned(size, bytes);
        let chunks = if aligned { features / len } else { features };
        // A block counts in 32 bits.
        let bound = u64::from(u32::MAX - THREADS);
        if chunks as u64 > bound {
            let (what, value) = ("the number of features that are no whole vectors", chunks as u128);
            return Err(Error::TooLarge { what, value, bound: bound.into() });
        }
        let bytes_of_instance = class.instance_bytes(sum_size);
        let (per_block, blocks) = if is_shared && is_replicated {
            (0, (n_instances as u128 * chunks as u128).div_ceil(THREADS.into()))
        } else {
            let room = (INSTANCES_BYTES / bytes_of_instance).max(1);
            let per_block = (THREADS as usize / chunks).clamp(1, room) as u32;
            (per_block, u128::from(n_instances.div_ceil(per_block.into())))
        };

        let tables = self.plan.batch().tables().dense();
        let (mut operators, mut terms, mut n_entries, mut n_terms) = (0, 0, 0, 0);
        if is_shared {
            (n_entries, n_terms) = (tables.n_entries, tables.n_terms);
            let bytes = |numbers: u64, size: usize| u128::from(numbers) * size as u128;
            operators = self.launches.scratch(Slot::Operators, bytes(n_entries, sum_size))?;
            terms = self.launches.scratch(Slot::Terms, bytes(n_terms, size_of::<u32>()))?;
        }
        let args = DenseArgs {
            by_vertex: self.tables(Orientation::ByVertex),
            dense: tables.args(),
            items: list,
            n_items: n_instances,
            blocks: blocks.min(u64::MAX.into()) as u64,
            x: x.args(),
            y: y.rows.args(),
            weights: weights.scale,
            operators,
            terms,
            n_entries,
            n_terms,
            record: self.launches.record(),
            task: if is_shared { DenseTask::DenseApply } else { DenseTask::DenseFormAndApply } as u32,
            per_block,
            n_vertices: if is_replicated { batch.topologies()[0].n_vertices() as u32 } else { 0 },
            chunks: chunks as u32,
            aligned: aligned.into(),
            add: y.accumulate.into(),
            in_degree: (conv.normalization != Normalization::None && conv.weight_use.in_degree()).into(),
            in_message: conv.weight_use.in_message().into(),
            normalized: (conv.normalization != Normalization::None).into(),
            shifted: conv.weights_in_degree().into(),
            least_exponent: conv.least_exponent::<T::Acc>(),
            shifts_of_degree: conv.shifts_of_degree() as u32,
            row_lanes: if tables.longest_row <= FEW_LANES as usize { FEW_LANES } else { WARP },
            padding: 0,
        };
        if L::COUNTS {
            let (_, vertices) = self.size(Axis::Vertex);
            self.launches.moves(2 * vertices * (features * size) as u128);
        }
        let mut launch = |args: &DenseArgs| {
            let grid = Grid::of_blocks(args.blocks)
                .with_shared_bytes(args.per_block.max(1) * bytes_of_instance as u32);
            // SAFETY: the kernel takes a `DenseArgs`. Scratch memory has room for the operators of all
            // topologies at the places that their tables say, which the host made together with the sizes; a
            // block has the memory of as many instances as it is told, whose sizes the kernel asserts. The
            // caller promises the rest.
            unsafe { self.launches.launch(class.kernel(), grid, args) }
        };
        if is_shared && n_instances > 0 {
            let (items, n_items) = topologies.unwrap_or((0, 1));
            let task = DenseTask::DenseFormAndStore as u32;
            launch(&DenseArgs { task, per_block: 1, items, n_items, blocks: n_items, ..args })?;
        }
        launch(&args)
    }
}
