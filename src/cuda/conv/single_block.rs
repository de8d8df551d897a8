//! The launch of `kernels/single_block.cu`: the convolution, forward, of instances that are small enough for
//! a block.

#![allow(unsafe_code)]

use super::super::DeviceElement;
use super::super::args::{Address, ScaleArgs, SingleBlockArgs};
use super::super::call::{Call, Destination, PlacedRows};
use super::super::geometry::{Grid, feature_blocks, lanes, whole_vectors};
use super::super::kernels::Kernel;
use super::super::launches::Launches;
use super::super::tables::Orientation;
use crate::axis::Axis;
use crate::conv::Normalization;
use crate::error::Result;

/// A convolution of which z is not wanted.
pub(super) struct SingleBlock {
    pub(super) x: PlacedRows,
    pub(super) weights: ScaleArgs,
    pub(super) y: Destination,
    /// The instances on this path: where their numbers are, `u32` on the device, and how many there are.
    /// None: they are all of the call.
    pub(super) instances: Option<(Address, u64)>,
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// One launch, a block for each instance; y is what [`gather`](Self::gather) makes of degrees and z,
    /// bit by bit. It needs no rows in scratch memory.
    ///
    /// # Safety
    /// The operands have rows where their placements say, and weights where their windows say. The instances
    /// are those whose topologies are on this path.
    pub(super) unsafe fn single_block(&mut self, stage: SingleBlock) -> Result<()> {
        let SingleBlock { x, weights, y, instances } = stage;
        let conv = self.plan.conv();
        let (size, features) = (size_of::<T>(), self.features());
        let when = |is_used: bool| if is_used { weights } else { ScaleArgs::none() };
        let (list, n_instances) = instances.unwrap_or((0, self.instances as u64));
        let args = SingleBlockArgs {
            by_edge: self.tables(Orientation::ByEdge),
            by_vertex: self.tables(Orientation::ByVertex),
            instances: list,
            n_instances,
            x: x.args(),
            y: y.rows.args(),
            degree_weights: when(conv.weights_in_degree()),
            message_weights: when(conv.weight_use.in_message()),
            record: self.launches.record(),
            features: features as u32,
            lanes: lanes(features, size),
            feature_blocks: feature_blocks(features, size) as u32,
            aligned: (whole_vectors(features, size) && x.is_aligned(size) && y.rows.is_aligned(size)).into(),
            add: y.accumulate.into(),
            shared_bytes: self.plan.shared_bytes() as u32,
            normalized: (conv.normalization != Normalization::None).into(),
            least_exponent: conv.least_exponent::<T::Acc>(),
            plain_exponents: conv.plain_exponents::<T::Acc>(),
            shifts_of_degree: conv.shifts_of_degree() as u32,
        };
        if L::COUNTS {
            // z never leaves the block.
            let (incidences, vertices) = self.size(Axis::Vertex);
            self.launches.moves((incidences + vertices) * (features * size) as u128);
        }
        let grid = Grid::of_blocks(n_instances).with_shared_bytes(args.shared_bytes);
        // SAFETY: the kernel takes a `SingleBlockArgs`; the caller promises the rest.
        unsafe { self.launches.launch(Kernel::SingleBlock, grid, &args) }
    }
}
