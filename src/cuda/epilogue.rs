//! What follows the sums of a convolution: in their store, as kernels are told of it, and the launches of
//! `kernels/epilogue.cu`.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::DeviceElement;
use super::args::{ActivationKind, AddSumsArgs, Address, EpilogueArgs, RowsArgs, WalkArgs, WalkKind};
use super::call::{Call, Destination, GradientTo, PlacedRows};
use super::geometry::{Grid, MOST_NODES, THREADS, VECTOR_BYTES};
use super::kernels::Kernel;
use super::launches::Launches;
use super::scratch::Slot;
use super::tables::Orientation;
use crate::activation::Activation;
use crate::axis::Axis;
use crate::dense;
use crate::error::Result;
use crate::summation::{SEGMENT_ROWS, instances_of_bias_chunk};

/// What becomes of the sums of a convolution in their store, see `kernels/epilogue.cuh`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finish {
    pub(super) activation: Activation,
    /// Of the bias, of F numbers of the accumulation type; 0 where there is none.
    pub(super) bias: Address,
    /// A residual or, in the backward, gradients of the result.
    pub(super) rows: Option<PlacedRows>,
    pub(super) is_backward: bool,
    /// The result, or in the backward its gradient, has a row for each instance.
    pub(super) is_mean: bool,
}

impl Finish {
    /// The sums are stored as they are.
    pub(super) fn none() -> Self {
        Self { activation: Activation::Identity, bias: 0, rows: None, is_backward: false, is_mean: false }
    }

    pub(super) fn args(self) -> EpilogueArgs {
        let activation = match self.activation {
            Activation::Identity => ActivationKind::Identity,
            Activation::Relu => ActivationKind::Relu,
            Activation::Gelu => ActivationKind::Gelu,
            Activation::GeluTanh => ActivationKind::GeluTanh,
            Activation::Silu => ActivationKind::Silu,
        };
        let exists = self.activation != Activation::Identity || self.bias != 0 || self.rows.is_some();
        EpilogueArgs {
            bias: self.bias,
            rows: self.rows.map_or(RowsArgs::zeroed(), PlacedRows::args),
            activation: activation as u32,
            backward: self.is_backward.into(),
            mean: self.is_mean.into(),
            exists: exists.into(),
        }
    }

    /// Whether its operands allow vectors of `bytes` bytes of elements of `size` bytes, and as many numbers
    /// of the bias.
    pub(super) fn is_aligned(self, size: usize, bytes: usize) -> bool {
        self.bias.is_multiple_of(VECTOR_BYTES as u64)
            && self.rows.is_none_or(|rows| rows.is_aligned(size, bytes))
    }

    /// Whether the mean over the vertices is stored instead of their rows.
    pub(super) fn is_readout(self) -> bool {
        self.is_mean && !self.is_backward
    }

    /// Of a readout, what gives the rows that it is the mean of.
    pub(super) fn storing_rows(self) -> Self {
        Self { is_mean: false, ..self }
    }

    /// Whether a row is read for each vertex; gradients of a readout are few.
    pub(super) fn reads_rows(self) -> bool {
        self.rows.is_some() && !(self.is_mean && self.is_backward)
    }
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// Rows of elements of all vertices in scratch memory.
    pub(super) fn element_rows(&mut self, slot: Slot) -> Result<PlacedRows> {
        let numbers = self.total(Axis::Vertex) as u128 * self.features() as u128;
        let address = self.launches.scratch(slot, numbers * size_of::<T>() as u128)?;
        self.contiguous(Axis::Vertex, address)
    }

    /// Copies rows of all vertices; those of the gradient of a readout, of which there is one for each
    /// instance, divided by the number of vertices.
    ///
    /// # Safety
    /// There are such rows.
    pub(super) unsafe fn copy_rows(
        &mut self,
        from: PlacedRows,
        is_mean: bool,
        to: Destination,
    ) -> Result<()> {
        let mut args = self.walk(WalkKind::Copy, from, to.rows)?;
        (args.add, args.mean) = (to.accumulate.into(), is_mean.into());
        if L::COUNTS {
            let rows =
                if is_mean { self.instances } else { self.total(Axis::Vertex) } + self.total(Axis::Vertex);
            self.launches.moves(rows as u128 * (self.features() * size_of::<T>()) as u128);
        }
        // SAFETY: the kernel takes a `WalkArgs`; the caller promises the rest.
        unsafe { self.launches.launch(Kernel::WalkRows, walk_grid(&args), &args) }
    }

    /// The mean of the rows of each instance's vertices.
    ///
    /// # Safety
    /// There are such rows, and one to store for each instance.
    pub(super) unsafe fn mean_rows(&mut self, rows: PlacedRows, to: Destination) -> Result<()> {
        let mut args = self.walk(WalkKind::Mean, rows, to.rows)?;
        args.add = to.accumulate.into();
        if L::COUNTS {
            let rows = self.total(Axis::Vertex) as u128 + self.instances as u128;
            self.launches.moves(rows * (self.features() * size_of::<T>()) as u128);
        }
        if args.unit_segments > 1 {
            let numbers = u128::from(args.n_units) * self.features() as u128;
            args.sums = self.launches.scratch(Slot::VertexSums, numbers * size_of::<T::Acc>() as u128)?;
        }
        // SAFETY: the kernel takes a `WalkArgs`, and scratch memory has a row for each unit; the caller
        // promises the rest.
        unsafe {
            self.launches.launch(Kernel::WalkRows, walk_grid(&args), &args)?;
            if args.unit_segments == 1 {
                return Ok(());
            }
            let n_units = self.instances as u64;
            let finish = WalkArgs { sum_segments: args.unit_segments, unit_segments: 1, n_units, ..args };
            self.launches.launch(Kernel::WalkRows, walk_grid(&finish), &finish)
        }
    }

    /// The gradient of a bias: the sums of rows of all vertices, over all instances.
    ///
    /// # Safety
    /// There are such rows, and the gradient has F elements.
    pub(super) unsafe fn bias_gradient(&mut self, rows: PlacedRows, to: GradientTo) -> Result<()> {
        let largest = self.batch().largest(Axis::Vertex);
        let mut args = self.walk(WalkKind::Sum, rows, rows)?;
        args.unit_instances = instances_of_bias_chunk(largest) as u64;
        let mut n_nodes = (self.instances as u64).div_ceil(args.unit_instances);
        if args.unit_segments == 1 {
            args.n_units = n_nodes;
        }
        let row_bytes = (self.features() * size_of::<f64>()) as u128;
        let bytes_of = |rows: u64| u128::from(rows) * row_bytes;
        let nodes = if args.unit_segments > 1 { n_nodes } else { 0 };
        args.sums = self.launches.scratch(Slot::VertexSums, bytes_of(args.n_units) + bytes_of(nodes))?;
        let levels = |nodes: u64| std::iter::successors(Some(nodes), |n| Some(n.div_ceil(MOST_NODES)));
        let is_cut = |&nodes: &u64| nodes > MOST_NODES;
        let all: u128 = levels(n_nodes).take_while(is_cut).map(|n| u128::from(n.div_ceil(MOST_NODES))).sum();
        let mut roots = self.launches.scratch(Slot::BiasSums, all * row_bytes)?;
        if L::COUNTS {
            self.launches
                .moves(self.total(Axis::Vertex) as u128 * (self.features() * size_of::<T>()) as u128);
        }
        let mut adding = AddSumsArgs {
            features: self.features() as u64,
            nodes_per_root: MOST_NODES,
            gradient: to.address,
            add: to.accumulate.into(),
            ..AddSumsArgs::zeroed()
        };
        // SAFETY: the kernels take these arguments, and scratch memory has a row for each unit and for each
        // root of a level, one level behind the other; the caller promises the rest.
        unsafe {
            self.launches.launch(Kernel::WalkRows, walk_grid(&args), &args)?;
            if args.unit_segments > 1 {
                // The segments of each instance.
                let partials = args.sums;
                args.sums = partials.wrapping_add(bytes_of(args.n_units) as u64);
                args.source.data = partials;
                (args.sum_segments, args.unit_segments, args.n_units) = (args.unit_segments, 1, n_nodes);
                self.launches.launch(Kernel::WalkRows, walk_grid(&args), &args)?;
            }
            adding.nodes = args.sums;
            loop {
                let n_roots = n_nodes.div_ceil(MOST_NODES);
                let is_last = n_roots <= 1;
                (adding.n_nodes, adding.n_roots) = (n_nodes, n_roots);
                adding.roots = if is_last { 0 } else { roots };
                let grid = Grid::of_blocks(n_roots.saturating_mul(adding.features).div_ceil(THREADS.into()));
                self.launches.launch(Kernel::AddSums, grid, &adding)?;
                if is_last {
                    return Ok(());
                }
                (adding.nodes, n_nodes) = (roots, n_roots);
                roots = roots.wrapping_add(bytes_of(n_roots) as u64);
            }
        }
    }

    /// A walk through the rows of all vertices, of each instance alone.
    fn walk(&mut self, what: WalkKind, source: PlacedRows, target: PlacedRows) -> Result<WalkArgs> {
        let (size, features) = (size_of::<T>(), self.features());
        let len = dense::features_of_slice(size);
        let aligned = features.is_multiple_of(len)
            && [source, target].iter().all(|rows| rows.is_aligned(size, len * size));
        let unit_segments = self.batch().largest(Axis::Vertex).div_ceil(SEGMENT_ROWS).max(1) as u64;
        let n_units = match (unit_segments, self.batch().is_replicated()) {
            (1, _) => self.instances as u64,
            (_, true) => (self.instances as u64).saturating_mul(unit_segments),
            // Room for the segments of each, see the kernel: next to nothing for short ones beside a long
            // one.
            (_, false) => (self.total(Axis::Vertex) / SEGMENT_ROWS + self.instances) as u64,
        };
        Ok(WalkArgs {
            tables: self.tables(Orientation::ByVertex),
            record: self.launches.record(),
            unit_instances: 1,
            unit_segments,
            n_units,
            source: source.args(),
            target: target.args(),
            features: features as u64,
            slices: if aligned { features / len } else { features } as u64,
            what: what as u32,
            aligned: aligned.into(),
            ..WalkArgs::zeroed()
        })
    }
}

fn walk_grid(args: &WalkArgs) -> Grid {
    Grid::of_blocks(args.n_units.saturating_mul(args.slices).div_ceil(THREADS.into()))
}
