//! The scratch memory of a workspace.

use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::CudaStream;

use super::DeviceElement;
use super::buffer::Buffer;
use super::geometry::feature_blocks;
use super::plan::Plan;
use super::tables::Orientation;
use crate::axis::Axis;
use crate::error::{Error, Result};

/// Which operators a workspace has scratch memory for. The rows of hyperedges in the accumulation type are what takes
/// room: M rows of F sums, once or twice. Everything else is a few numbers for each vertex and hyperedge, and the sums of
/// the segments of rows of more than 512 incidences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Uses {
    /// Both steps and their gradients, and [`conv_saving_z`](super::Workspace::conv_saving_z).
    Steps,
    /// Also what needs one set of rows of hyperedges: [`conv`](super::Workspace::conv), and
    /// [`conv_backward_from_z`](super::Workspace::conv_backward_from_z), whose other set is the caller's.
    Conv,
    /// Everything: two sets of rows of hyperedges, for [`conv_backward`](super::Workspace::conv_backward), which computes
    /// z again.
    #[default]
    All,
}

impl Uses {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Steps => "Uses::Steps",
            Self::Conv => "Uses::Conv",
            Self::All => "Uses::All",
        }
    }
}

/// What the kernels of a call leave for the next. Nothing in it outlives a call.
pub(super) struct Scratch {
    pub(super) uses: Uses,
    /// For each segment of a long row its sums, or one `f64`.
    pub(super) partials: Buffer<u8>,
    /// Rows of sums of hyperedges.
    pub(super) q: Buffer<u8>,
    pub(super) z: Buffer<u8>,
    /// For each vertex: D and L, and L as the gradients of weights see it where that differs, of the accumulation type.
    pub(super) degree: Buffer<u8>,
    pub(super) left: Buffer<u8>,
    pub(super) weight_left: Buffer<u8>,
    /// For each vertex, and for each hyperedge, where weights are part of the degrees.
    pub(super) vertex_shifts: Buffer<i32>,
    pub(super) edge_shifts: Buffer<i32>,
    /// For each row to pull from, of the accumulation type.
    pub(super) pull: Buffer<u8>,
    /// For each row and block of features a dot product: of hyperedges, or of the targets of a step's gradient.
    pub(super) dots: Buffer<f64>,
    /// Of vertices, with y and with x.
    pub(super) dots_y: Buffer<f64>,
    pub(super) dots_x: Buffer<f64>,
    /// For each vertex, and for each hyperedge.
    pub(super) degree_gradient: Buffer<f64>,
    pub(super) weight_gradient: Buffer<f64>,
    /// The sums of chunks, in the rows of their first instances; of the accumulation type.
    pub(super) sums: Buffer<u8>,
}

/// The elements of each buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    partial_bytes: u128,
    rows_of_sums: [u128; 2],
    degrees: u128,
    weight_lefts: u128,
    vertex_shifts: u128,
    edge_shifts: u128,
    rows: u128,
    dots: u128,
    vertex_dots: u128,
    degree_gradients: u128,
    weight_gradients: u128,
}

impl Sizes {
    pub(super) fn new<T: DeviceElement>(plan: &Plan<T>, uses: Uses, max_instances: usize) -> Self {
        let (batch, tables) = (plan.batch().batch(), plan.batch().tables());
        let segments = [Orientation::ByEdge, Orientation::ByVertex]
            .map(|o| u128::from(tables.side(o).items(batch, max_instances).partial));
        let accumulator = size_of::<T::Acc>() as u128;
        let features = plan.features() as u128;
        let rows_of = |axis| match batch.n_instances() {
            None => batch.largest(axis) as u128 * max_instances as u128,
            Some(n) => batch.start(axis, n) as u128,
        };
        let (n, m) = (rows_of(Axis::Vertex), rows_of(Axis::Hyperedge));
        let blocks = feature_blocks(plan.features(), size_of::<T>()) as u128;
        let with = |is_used: bool, elements: u128| if is_used { elements } else { 0 };
        let is_normalized = plan.conv().normalization != crate::Normalization::None;
        let through_degree = uses > Uses::Steps && plan.conv().weights_in_degree();
        Self {
            partial_bytes: segments[0].max(segments[1]) * (features * accumulator).max(8),
            rows_of_sums: [
                with(uses >= Uses::Conv, m * features * accumulator),
                with(uses == Uses::All, m * features * accumulator),
            ],
            degrees: with(is_normalized, n * accumulator),
            weight_lefts: with(through_degree && plan.leaves_out_single_incidences(), n * accumulator),
            vertex_shifts: with(plan.conv().weights_in_degree(), n),
            edge_shifts: with(through_degree, m),
            rows: n.max(m) * accumulator,
            dots: n.max(m) * blocks,
            vertex_dots: with(through_degree, n * blocks),
            degree_gradients: with(through_degree, n),
            weight_gradients: with(through_degree, m),
        }
    }

    /// In bytes, together.
    pub(super) fn bytes(&self) -> u128 {
        let doubles = self.dots + 2 * self.vertex_dots + self.degree_gradients + self.weight_gradients;
        self.partial_bytes
            + self.rows_of_sums[0]
            + self.rows_of_sums[1]
            + 2 * self.degrees
            + self.weight_lefts
            + 4 * (self.vertex_shifts + self.edge_shifts)
            + 2 * self.rows
            + 8 * doubles
    }
}

impl Scratch {
    /// The context must be current.
    pub(super) fn new<T: DeviceElement>(
        plan: &Plan<T>,
        uses: Uses,
        max_instances: usize,
        stream: &Arc<CudaStream>,
    ) -> Result<Self> {
        fn buffer<U: Pod>(what: &'static str, stream: &Arc<CudaStream>, len: u128) -> Result<Buffer<U>> {
            let bound = (usize::MAX / size_of::<U>()) as u128;
            match usize::try_from(len).ok().filter(|&len| len as u128 <= bound) {
                Some(len) => Buffer::new(what, stream, len),
                None => Err(Error::TooLarge { what, value: len, bound }),
            }
        }
        let sizes = Sizes::new(plan, uses, max_instances);
        let rows = "the sums of hyperedges";
        let numbers = "the numbers of vertices and hyperedges";
        let dots = "the dot products";
        Ok(Self {
            uses,
            partials: buffer("the sums of the segments of long rows", stream, sizes.partial_bytes)?,
            q: buffer(rows, stream, sizes.rows_of_sums[0])?,
            z: buffer(rows, stream, sizes.rows_of_sums[1])?,
            degree: buffer(numbers, stream, sizes.degrees)?,
            left: buffer(numbers, stream, sizes.degrees)?,
            weight_left: buffer(numbers, stream, sizes.weight_lefts)?,
            vertex_shifts: buffer(numbers, stream, sizes.vertex_shifts)?,
            edge_shifts: buffer(numbers, stream, sizes.edge_shifts)?,
            pull: buffer(numbers, stream, sizes.rows)?,
            dots: buffer(dots, stream, sizes.dots)?,
            dots_y: buffer(dots, stream, sizes.vertex_dots)?,
            dots_x: buffer(dots, stream, sizes.vertex_dots)?,
            degree_gradient: buffer(numbers, stream, sizes.degree_gradients)?,
            weight_gradient: buffer(numbers, stream, sizes.weight_gradients)?,
            sums: buffer(numbers, stream, sizes.rows)?,
        })
    }
}
