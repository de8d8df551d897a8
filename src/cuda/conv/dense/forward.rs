//! The launches of `kernels/dense_conv.cuh`: the convolution, forward, of small hypergraphs by their dense
//! operators.

#![allow(unsafe_code)]

use super::super::super::DeviceElement;
use super::super::super::args::{DenseConvArgs, DenseFormArgs};
use super::super::super::call::{Call, Destination, PlacedRows, PlacedWeights};
use super::super::super::epilogue::Finish;
use super::super::super::geometry::{Grid, THREADS};
use super::super::super::launches::Launches;
use super::super::super::route::DenseClass;
use super::{DenseInstances, INSTANCES_BYTES, ITEM_BYTES, STAGED_BYTES, per_block};
use crate::axis::Axis;
use crate::conv::{Normalization, WeightUse};
use crate::dense;
use crate::error::{Error, Result};

/// y of the instances of a class of topologies.
pub(in super::super) struct DenseForward<'w> {
    pub(in super::super) class: DenseClass,
    pub(in super::super) x: PlacedRows,
    pub(in super::super) weights: PlacedWeights<'w>,
    pub(in super::super) y: Destination,
    pub(in super::super) finish: Finish,
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// One launch behind one that forms operators, and with checks behind one that finds items, see
    /// [`find_items`](Self::find_items). Without checks a single one where windows are not shared or
    /// instances are few, of up to 16 vertices, if hyperedges are of one size, windows fit into shared memory
    /// and the call is one that kernels form operators for: they are formed while x is under way. It needs no
    /// rows in scratch memory.
    ///
    /// # Safety
    /// The operands have rows where their placements say, and weights where their windows say. The topologies
    /// of the instances are in the class.
    pub(in super::super) unsafe fn dense_forward(&mut self, stage: DenseForward<'_>) -> Result<()> {
        let DenseForward { class, weights, .. } = stage;
        if self.total(Axis::Vertex) == 0 {
            return Ok(());
        }
        let of = self.dense_instances(class, weights);
        let bytes = class.conv_bytes(size_of::<T::Acc>());
        let window = self.window_room(class, bytes, STAGED_BYTES);
        let gains = !of.has_shared_window() || of.count <= class.few_instances();
        let forms = window.filter(|_| gains && self.forms(class));
        // SAFETY: the caller's promise, and operators that the kernel does not form are stored.
        unsafe {
            if forms.is_none() {
                self.form_operators(&of)?;
            }
            self.apply_operators(&of, stage, forms)
        }
    }

    /// Whether unchecked kernels of the forward of a class can form operators themselves, by the conventions
    /// of this call, where hyperedges are of one size. For others it would be much PTX in many kernels.
    fn forms(&self, class: DenseClass) -> bool {
        let conv = self.plan.conv();
        class != DenseClass::Of32
            && size_of::<T::Acc>() == size_of::<f32>()
            && conv.normalization == Normalization::Row
            && conv.weight_use == WeightUse::Documented
    }

    /// y by operators that are stored, or that the kernel forms: `forms` are the numbers and the bytes of a
    /// window in shared memory.
    ///
    /// # Safety
    /// As [`dense_forward`](Self::dense_forward), and unless the kernel forms operators they are stored.
    pub(super) unsafe fn apply_operators(
        &mut self,
        of: &DenseInstances<'_>,
        stage: DenseForward<'_>,
        forms: Option<(u32, usize)>,
    ) -> Result<()> {
        let DenseForward { class, x, y, finish, .. } = stage;
        let (size, features) = (size_of::<T>(), self.features());
        let len = dense::features_of_slice(size);
        let bytes = len * size;
        let aligned = features.is_multiple_of(len)
            && [x, y.rows].iter().all(|rows| rows.is_aligned(size, bytes))
            && finish.is_aligned(size, bytes);
        let chunks = if aligned { features / len } else { features };
        // A block counts in 32 bits.
        let bound = u64::from(u32::MAX - THREADS);
        if chunks as u64 > bound {
            let (what, value) = ("the number of features that are no whole vectors", chunks as u128);
            return Err(Error::TooLarge { what, value, bound: bound.into() });
        }
        let (window_room, of_window) = forms.unwrap_or((0, 0));
        let room = if forms.is_some() { STAGED_BYTES } else { INSTANCES_BYTES };
        let bytes_of_instance = class.conv_bytes(size_of::<T::Acc>()) + of_window;
        let items = match forms.is_none() && of.has_shared_window() && self.batch().is_replicated() {
            true => {
                let blocks = (u128::from(of.count) * chunks as u128).div_ceil(THREADS.into());
                let items = self.dense_items(of, 1, true)?;
                super::DenseItemsArgs { blocks: blocks.min(u64::MAX.into()) as u64, per_block: 0, ..items }
            }
            false => {
                let per_block = per_block(THREADS as usize / chunks, bytes_of_instance, room);
                self.dense_items(of, per_block, forms.is_none())?
            }
        };
        // SAFETY: the items are instances.
        let items = unsafe { self.find_items(items)? };
        let args = DenseConvArgs {
            form: DenseFormArgs { window_room, ..self.dense_form_args(of, items) },
            x: x.args(),
            y: y.rows.args(),
            epilogue: finish.args(),
            forms: forms.is_some().into(),
            chunks: chunks as u32,
            aligned: aligned.into(),
            add: y.accumulate.into(),
        };
        if L::COUNTS {
            let (_, vertices) = self.size(Axis::Vertex);
            let written = if finish.is_readout() { of.count.into() } else { vertices };
            let others = if finish.reads_rows() { vertices } else { 0 };
            self.launches.moves((vertices + written + others) * (features * size) as u128);
        }
        let grid = Grid::of_blocks(items.blocks)
            .with_shared_bytes(items.per_block.max(1) * bytes_of_instance as u32);
        // SAFETY: the kernel takes a `DenseConvArgs`. Operators are where a launch before has stored them, or
        // are formed in shared memory, of which a block has what its instances need; with checks items are
        // where a launch before has stored them. The caller promises the rest.
        unsafe { self.launches.launch(class.conv(), grid, &args) }
    }
}

impl DenseClass {
    /// So many instances with one window take longer to wait for a launch that forms their operator than to
    /// form it in each block. On an H100 (`f32`, F = 256, pairs of 8 vertices) 64 of them took 15 µs by two
    /// launches (commit 049d652132fa) and 7 by one (0659e6d07e92), 2,048 took 27 and 20. The number for more
    /// vertices has not been measured.
    const fn few_instances(self) -> u64 {
        match self {
            Self::Of8 => 2_048,
            _ => 512,
        }
    }

    /// The shared memory of an instance in the forward, for numbers of `size` bytes: M and what sums are
    /// multiplied by, degrees, terms and shifts; and what is known of it.
    pub(in crate::cuda) const fn conv_bytes(self, size: usize) -> usize {
        let n = self.vertices();
        (n * n + 2 * n) * size + 2 * n * size_of::<u32>() + ITEM_BYTES
    }
}
