//! Dense operators on the device: which instances have one, where it is stored, and how it is formed.

#![allow(unsafe_code)]

mod backward;
mod forward;
mod layer;
mod matrix;

pub(super) use self::backward::{DenseBackward, ToWeights};
pub(super) use self::forward::DenseForward;
#[cfg(test)]
pub(in crate::cuda) use self::layer::{LAYER_ITEM_BYTES, LAYER_THREADS};
pub(super) use self::layer::{LayerBackward, LayerForward, ThetaParts};
pub(super) use self::matrix::MatricesTo;

use super::super::Checks;
use super::super::DeviceElement;
use super::super::args::{
    Address, DenseConventions, DenseFormArgs, DenseItemsArgs, DenseOperatorsArgs, Kernel,
};
use super::super::call::{Call, PlacedWeights};
use super::super::geometry::{Grid, THREADS, WARP};
use super::super::launches::Launches;
use super::super::route::{DenseClass, Route};
use super::super::scratch::Slot;
use super::super::tables::Orientation;
use crate::conv::Normalization;
use crate::error::Result;
use crate::windows::Windows;

/// The shared memory that a block's instances take, at most, where nothing else takes any: enough blocks for
/// all registers then fit into a multiprocessor.
const INSTANCES_BYTES: usize = 16 << 10;

/// Likewise where their windows are in shared memory, too: rather fewer threads with work than fewer blocks.
const STAGED_BYTES: usize = 20 << 10;

/// What a block has for a single item at most, where operators are formed by a launch of their own: less than
/// what every device gives.
const LONE_ITEM_BYTES: usize = 40 << 10;

/// What a kernel keeps of an instance beside numbers: `DenseItem` of `kernels/dense.cuh`.
pub(in crate::cuda) const ITEM_BYTES: usize = 56;

/// The lanes that sum the weights of a vertex, where no vertex has more incidences.
const FEW_LANES: u32 = 8;

/// The instances of a class of topologies.
#[derive(Clone, Copy)]
pub(super) struct DenseInstances<'w> {
    class: DenseClass,
    weights: PlacedWeights<'w>,
    /// Where their numbers are, `u32` on the device; null: they are all of the call.
    list: Address,
    count: u64,
    /// Likewise the topologies that they have.
    topologies: (Address, u64),
}

impl DenseInstances<'_> {
    fn has_shared_window(&self) -> bool {
        matches!(self.weights.windows, Windows::Shared)
    }
}

/// How many items of `bytes` bytes a block takes, if it would like to have `wanted` and there is `room` for
/// all.
fn per_block(wanted: usize, bytes: usize, room: usize) -> u32 {
    wanted.clamp(1, (room / bytes).clamp(1, THREADS as usize)) as u32
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// Those of this call.
    pub(super) fn dense_instances<'w>(
        &self,
        class: DenseClass,
        weights: PlacedWeights<'w>,
    ) -> DenseInstances<'w> {
        let (route, split) = (Route::Dense(class), self.split());
        let listed = split.and_then(|split| split.instances(route));
        let (list, count) = listed.unwrap_or((0, self.instances as u64));
        // Copies are of topology 0.
        let topologies = split.and_then(|split| split.topologies(route)).unwrap_or((0, 1));
        DenseInstances { class, weights, list, count, topologies }
    }

    /// A launch over instances, `per_block` to a block. If operators are stored there is one for each
    /// topology where the instances share a window, and else one for each instance.
    fn dense_items(
        &mut self,
        of: &DenseInstances<'_>,
        per_block: u32,
        is_stored: bool,
    ) -> Result<DenseItemsArgs> {
        let (batch, tables) = (self.batch(), self.plan.batch().tables().dense());
        let of_items = !of.has_shared_window();
        let (n_entries, n_words) = match of_items {
            _ if !is_stored => (0, 0),
            true => (of.count * of.class.entries() as u64, of.count * of.class.words() as u64),
            false => tables.sizes(of.class),
        };
        let bytes = |numbers: u64, size: usize| u128::from(numbers) * size as u128;
        Ok(DenseItemsArgs {
            by_vertex: self.tables(Orientation::ByVertex),
            dense: tables.args(),
            operators: DenseOperatorsArgs {
                entries: self.launches.scratch(Slot::Operators, bytes(n_entries, size_of::<T::Acc>()))?,
                words: self.launches.scratch(Slot::OperatorWords, bytes(n_words, size_of::<u32>()))?,
                n_entries,
                n_words,
                row: of.class.vertices() as u32,
                of_items: of_items.into(),
            },
            record: self.launches.record(),
            numbers: of.list,
            found: 0,
            n_items: of.count,
            blocks: of.count.div_ceil(per_block.into()),
            per_block,
            n_vertices: if batch.is_replicated() { batch.topologies()[0].n_vertices() as u32 } else { 0 },
        })
    }

    /// With checks a launch that finds the instances of a launch of rows, whose kernel tests nothing itself.
    /// None for copies that share a window: they look nothing up.
    ///
    /// # Safety
    /// The items are instances, as [`dense_items`](Self::dense_items) has them.
    unsafe fn find_items(&mut self, items: DenseItemsArgs) -> Result<DenseItemsArgs> {
        if self.plan.checks() == Checks::Off || items.per_block == 0 {
            return Ok(items);
        }
        let bytes = u128::from(items.n_items) * ITEM_BYTES as u128;
        let items = DenseItemsArgs { found: self.launches.scratch(Slot::Items, bytes)?, ..items };
        let grid = Grid::of_blocks(items.n_items.div_ceil(THREADS.into()));
        // SAFETY: the kernel takes a `DenseItemsArgs`; scratch memory has room for each item. The caller
        // promises the rest.
        unsafe { self.launches.launch(Kernel::DenseFind, grid, &items)? };
        Ok(items)
    }

    fn dense_conventions(&self) -> DenseConventions {
        let conv = self.plan.conv();
        let normalized = conv.normalization != Normalization::None;
        DenseConventions {
            in_degree: (normalized && conv.weight_use.in_degree()).into(),
            in_message: conv.weight_use.in_message().into(),
            normalized: normalized.into(),
            shifted: conv.weights_in_degree().into(),
            least_exponent: conv.least_exponent::<T::Acc>(),
            shifts_of_degree: conv.shifts_of_degree() as u32,
            leaves_out_single: conv.single_incidences_cancel_out().into(),
            padding: 0,
        }
    }

    /// What operators are formed from.
    fn dense_form_args(&self, of: &DenseInstances<'_>, items: DenseItemsArgs) -> DenseFormArgs {
        let longest_row = self.plan.batch().tables().dense().longest_row;
        DenseFormArgs {
            items,
            conventions: self.dense_conventions(),
            weights: of.weights.scale,
            of_topologies: 0,
            row_lanes: if longest_row <= FEW_LANES as usize { FEW_LANES } else { WARP },
            window_room: 0,
            padding: 0,
        }
    }

    /// The numbers of a window in shared memory, and its bytes, where an unchecked kernel can have those of
    /// its items of `bytes` bytes there besides, in `room` bytes.
    fn window_room(&self, class: DenseClass, bytes: usize, room: usize) -> Option<(u32, usize)> {
        if self.plan.checks() != Checks::Off {
            return None;
        }
        let numbers = self.plan.batch().tables().dense().window_room(class)?;
        let of_window = numbers * size_of::<T::Acc>();
        (bytes + of_window <= room).then_some((numbers as u32, of_window))
    }

    /// Forms the operators of these instances, or of the topologies that they have, and stores them where
    /// [`dense_items`](Self::dense_items) says. One launch.
    ///
    /// # Safety
    /// There are weights where their windows say.
    unsafe fn form_operators(&mut self, of: &DenseInstances<'_>) -> Result<()> {
        let (row, size) = (of.class.vertices(), size_of::<T::Acc>());
        // A thread takes a pair of vertices; a few rounds of those make up for the way to the first.
        let bytes = ITEM_BYTES + row * (size + size_of::<i32>());
        let wanted = 4 * THREADS as usize / (row * (row + 1) / 2);
        let (window_room, bytes, room) = match self.window_room(of.class, bytes, LONE_ITEM_BYTES) {
            Some((numbers, of_window)) => (numbers, bytes + of_window, STAGED_BYTES),
            None => (0, bytes, INSTANCES_BYTES),
        };
        let per_block = per_block(wanted, bytes, room);
        let items = self.dense_items(of, per_block, true)?;
        let mut args = DenseFormArgs { window_room, ..self.dense_form_args(of, items) };
        if of.has_shared_window() && of.count > 0 {
            let (numbers, n_items) = of.topologies;
            (args.of_topologies, args.items.numbers, args.items.n_items) = (1, numbers, n_items);
            args.items.blocks = n_items.div_ceil(per_block.into());
        }
        let grid = Grid::of_blocks(args.items.blocks).with_shared_bytes(per_block * bytes as u32);
        // SAFETY: the kernel takes a `DenseFormArgs`. Scratch memory has room for an operator for each item,
        // or for those of all topologies at the places that their tables say, which the host made together
        // with the sizes. A block has the shared memory of its items. The caller promises the rest.
        unsafe { self.launches.launch(Kernel::DenseForm, grid, &args) }
    }
}
