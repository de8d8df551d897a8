//! The launches of `kernels/dense_conv.cuh`: the convolution, forward, of small hypergraphs by their dense
//! operators.

#![allow(unsafe_code)]

use super::super::super::DeviceElement;
use super::super::super::args::DenseConvArgs;
use super::super::super::call::{Call, Destination, PlacedRows, PlacedWeights};
use super::super::super::epilogue::Finish;
use super::super::super::geometry::{Grid, THREADS};
use super::super::super::launches::Launches;
use super::super::super::route::DenseClass;
use super::{DenseInstances, INSTANCES_BYTES, ITEM_BYTES, per_block};
use crate::axis::Axis;
use crate::cuda::Checks;
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
    /// One launch behind one that forms operators. In unchecked builds a single one where windows are not
    /// shared, of up to 16 vertices: operators are formed while x is under way. It needs no rows in scratch
    /// memory.
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
        let forms = !of.has_shared_window() && self.plan.checks() == Checks::Off && class.forms();
        // SAFETY: the caller's promise, and operators that the kernel does not form are stored.
        unsafe {
            if !forms {
                self.form_operators(&of)?;
            }
            self.apply_operators(&of, stage, forms)
        }
    }

    /// y by operators that are stored, or that the kernel forms.
    ///
    /// # Safety
    /// As [`dense_forward`](Self::dense_forward), and unless the kernel forms operators they are stored.
    pub(super) unsafe fn apply_operators(
        &mut self,
        of: &DenseInstances<'_>,
        stage: DenseForward<'_>,
        forms: bool,
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
        let bytes_of_instance = class.conv_bytes(size_of::<T::Acc>());
        let items = match of.has_shared_window() && self.batch().is_replicated() {
            true => {
                let blocks = (u128::from(of.count) * chunks as u128).div_ceil(THREADS.into());
                let items = self.dense_items(of, 1, true)?;
                super::DenseItemsArgs { blocks: blocks.min(u64::MAX.into()) as u64, per_block: 0, ..items }
            }
            false => {
                let per_block = per_block(THREADS as usize / chunks, bytes_of_instance, INSTANCES_BYTES);
                self.dense_items(of, per_block, !forms)?
            }
        };
        let args = DenseConvArgs {
            form: self.dense_form_args(of, items),
            x: x.args(),
            y: y.rows.args(),
            epilogue: finish.args(),
            forms: forms.into(),
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
        // SAFETY: the kernel takes a `DenseConvArgs`. Operators are where the launch before has stored them,
        // or are formed in shared memory, of which a block has what its instances need. The caller promises
        // the rest.
        unsafe { self.launches.launch(class.conv(), grid, &args) }
    }
}

impl DenseClass {
    /// Whether unchecked kernels of the forward can form operators themselves.
    fn forms(self) -> bool {
        self != Self::Of32
    }

    /// The shared memory of an instance in the forward, for numbers of `size` bytes: M and what sums are
    /// multiplied by, degrees, terms and shifts; and what is known of it.
    pub(in crate::cuda) const fn conv_bytes(self, size: usize) -> usize {
        let n = self.vertices();
        (n * n + 2 * n) * size + 2 * n * size_of::<u32>() + ITEM_BYTES
    }
}
