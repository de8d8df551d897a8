//! The launches of `kernels/layer.cuh` and `kernels/layer_theta.cuh`: layers of small hypergraphs by their
//! dense operators and tensor cores, and their gradients.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::super::super::DeviceElement;
use super::super::super::args::{Address, EpilogueArgs, Kernel, LayerArgs, RowsArgs, ThetaSumArgs};
use super::super::super::call::{Call, Destination, GradientTo, PlacedRows, PlacedWeights};
use super::super::super::device::CAPABILITY_OF_ASYNC_COPIES;
use super::super::super::epilogue::Finish;
use super::super::super::geometry::{Grid, THREADS, VECTOR_BYTES, WARP};
use super::super::super::launches::Launches;
use super::super::super::plan::Plan;
use super::super::super::route::DenseClass;
use super::super::super::scratch::Slot;
use super::DenseInstances;
use super::backward::{Nodes, ToWeights};
use crate::axis::Axis;
use crate::error::{Error, Result};
use crate::layer::Precision;
use crate::operator::Operator;

/// The threads of a block. Each has 255 registers at most: a block has those of a multiprocessor.
pub(in crate::cuda) const LAYER_THREADS: u32 = 256;
const WARPS: usize = (LAYER_THREADS / WARP) as usize;

/// What a block knows of an instance: `LayerItem` of the kernels.
pub(in crate::cuda) const LAYER_ITEM_BYTES: usize = 48;

/// The rows that a warp multiplies at once, of whole instances: as many as an operator may have.
const GROUP_ROWS: usize = 16;

/// Rows in shared memory are a multiple of so many bytes: all banks.
const PITCH_BYTES: usize = 128;

/// The most groups of a tile.
const MOST_GROUPS: usize = 8;

/// The groups of a chunk of instances that share a window, whose products are added together.
const GROUPS_OF_CHUNK: usize = 8;

/// The outputs and inputs that a warp has of the gradient of a matrix, and the stages of a block.
const THETA_SIDE: usize = 64;
const THETA_STAGES: usize = 4;

/// The groups of a tile of that.
const THETA_GROUPS: usize = 2;

/// So many blocks at most share out the tiles of the gradient of a matrix: each has a part of the sum, which
/// is stored, or two. With two blocks that share out a matrix of 256 x 256 they fill the multiprocessors of
/// an H100.
const MOST_SPLITS: usize = 64;

/// A layer, as kernels are compiled for it.
#[derive(Clone, Copy)]
struct Shape {
    forward: Kernel,
    backward: Kernel,
    /// The outputs of a warp, and the vector of them that a lane has of a row.
    outputs: usize,
    len: usize,
    stages: usize,
}

impl Shape {
    /// The one for so many features to be summed over; `None` for more than kernels have registers for.
    fn of<T: DeviceElement>(summed: usize, precision: Precision) -> Option<Self> {
        let shape = match (size_of::<T>(), precision) {
            (2, _) if summed <= 256 => Self {
                forward: Kernel::Layer256,
                backward: Kernel::Layer256Backward,
                outputs: 32,
                len: 8,
                stages: 4,
            },
            (2, _) => Self {
                forward: Kernel::Layer512,
                backward: Kernel::Layer512Backward,
                outputs: 16,
                len: 4,
                stages: 3,
            },
            (4, precision) => {
                let (forward, backward) = match precision {
                    Precision::ThreeBf16 => (Kernel::Layer256, Kernel::Layer256Backward),
                    Precision::Tf32 => (Kernel::LayerTf32, Kernel::LayerTf32Backward),
                };
                Self { forward, backward, outputs: 16, len: 4, stages: 3 }
            }
            _ => return None,
        };
        (summed <= most_features::<T>()).then_some(shape)
    }
}

/// The most features of a layer's x in one pass, and in the backward of its y; 0 where there are no kernels.
fn most_features<T: DeviceElement>() -> usize {
    match size_of::<T>() {
        2 => 512,
        4 => 256,
        _ => 0,
    }
}

impl<T: DeviceElement> Plan<T> {
    /// Refuses a layer that no kernel computes in one pass.
    pub(in crate::cuda) fn check_layer(&self, operator: Operator) -> Result<()> {
        let (major, minor) = self.batch().device().capability();
        let (least_major, least_minor) = CAPABILITY_OF_ASYNC_COPIES;
        let refused = |what, value, bound| {
            Err(Error::LayerUnavailable { operator: operator.name(), what, value, bound })
        };
        if most_features::<T>() == 0 {
            return refused("the size of an element", size_of::<T>(), size_of::<f32>());
        }
        if (major, minor) < CAPABILITY_OF_ASYNC_COPIES {
            let number = |major, minor| (10 * major + minor) as usize;
            let what = "ten times the compute capability of the device";
            return refused(what, number(major, minor), number(least_major, least_minor));
        }
        let n = self.batch().batch().largest(Axis::Vertex);
        if n > GROUP_ROWS {
            return refused("the number of vertices of the largest topology in use", n, GROUP_ROWS);
        }
        let bound = most_features::<T>();
        if self.inputs() > bound {
            return refused("the number of inputs", self.inputs(), bound);
        }
        if operator == Operator::LayerBackward && self.features() > bound {
            return refused("the number of features", self.features(), bound);
        }
        self.check_matrices(operator)
    }
}

/// y of the instances of a class of topologies, or t of an epilogue's backward.
#[derive(Clone, Copy)]
pub(in super::super) struct LayerForward<'w> {
    pub(in super::super) class: DenseClass,
    pub(in super::super) x: PlacedRows,
    pub(in super::super) weights: PlacedWeights<'w>,
    pub(in super::super) theta: Address,
    pub(in super::super) y: Destination,
    pub(in super::super) finish: Finish,
}

/// The gradients of the instances of a class of topologies, from t.
#[derive(Clone, Copy)]
pub(in super::super) struct LayerBackward<'w> {
    pub(in super::super) class: DenseClass,
    pub(in super::super) x: PlacedRows,
    pub(in super::super) weights: PlacedWeights<'w>,
    pub(in super::super) theta: Address,
    pub(in super::super) grad_sums: PlacedRows,
    pub(in super::super) grad_x: Option<Destination>,
    pub(in super::super) to_weights: Option<ToWeights>,
    pub(in super::super) wants_theta: bool,
}

/// Parts of the gradient of a matrix in scratch memory, which are added in the end.
#[derive(Clone, Copy, Default)]
pub(in super::super) struct ThetaParts {
    address: Address,
    count: u64,
}

/// How the rows of a launch are cut.
struct Cut {
    slot_bits: u32,
    own: bool,
    /// Groups of all instances.
    groups: u64,
}

impl Cut {
    /// The rows of a tile of `groups` groups, and what they have of operators, in bytes.
    fn operator_bytes(&self, groups: usize) -> usize {
        let rows = groups * GROUP_ROWS;
        if self.own { ((rows << self.slot_bits) + rows) * size_of::<f32>() } else { 0 }
    }

    /// The bytes of the items of `n` tiles, and of the operator that all share.
    fn item_bytes(&self, n: usize, groups: usize) -> usize {
        let of_all = if self.own { 0 } else { (1 << (2 * self.slot_bits)) + (1 << self.slot_bits) };
        n * ((groups * GROUP_ROWS) >> self.slot_bits) * LAYER_ITEM_BYTES + of_all * size_of::<f32>()
    }
}

/// The bits of the least power of two that is no less than `n`.
fn bits_for(n: usize) -> u32 {
    n.next_power_of_two().trailing_zeros()
}

/// The lanes that copy a row of so many bytes, as bits.
fn copy_bits(pitch: usize) -> u32 {
    bits_for((pitch / VECTOR_BYTES).clamp(1, WARP as usize))
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    fn cut(&self, of: &DenseInstances<'_>) -> Cut {
        let batch = self.batch();
        let n = if batch.is_replicated() { batch.largest(Axis::Vertex) } else { of.class.vertices() };
        let slot_bits = bits_for(n.max(1));
        Cut {
            slot_bits,
            own: !(of.has_shared_window() && batch.is_replicated()),
            groups: of.count.div_ceil((GROUP_ROWS >> slot_bits) as u64),
        }
    }

    /// What launches of layers have in common. `summed` and `outputs` are features.
    fn layer_args(
        &mut self,
        of: &DenseInstances<'_>,
        cut: &Cut,
        (summed, outputs): (usize, usize),
        theta: Address,
    ) -> Result<LayerArgs> {
        let mut items = self.dense_items(of, 1, true)?;
        if items.n_vertices == 0 {
            // SAFETY: the items are instances.
            items = unsafe { self.find_items(items)? };
        }
        Ok(LayerArgs {
            items,
            theta,
            // Its rows have as many elements as there are inputs, also where outputs are summed over.
            theta_aligned: ((self.plan.inputs() * size_of::<T>()).is_multiple_of(VECTOR_BYTES)
                && theta.is_multiple_of(VECTOR_BYTES as u64))
            .into(),
            inputs: summed as u32,
            outputs: outputs as u32,
            slot_bits: cut.slot_bits,
            own: cut.own.into(),
            input_columns: 1,
            input_parts: 1,
            ..LayerArgs::zeroed()
        })
    }

    /// Two launches: one forms operators.
    ///
    /// # Safety
    /// The operands have rows where their placements say, weights where their windows say, and Θ its
    /// elements. The topologies of the instances are in the class, and [`Plan::check_layer`] takes the call.
    pub(in super::super) unsafe fn layer_forward(&mut self, stage: LayerForward<'_>) -> Result<()> {
        let LayerForward { class, x, weights, theta, y, finish } = stage;
        if self.total(Axis::Vertex) == 0 {
            return Ok(());
        }
        let of = self.dense_instances(class, weights);
        let (inputs, outputs) = (self.plan.inputs(), self.features());
        let shape = self.shape(inputs)?;
        let cut = self.cut(&of);
        let mut args = self.layer_args(&of, &cut, (inputs, outputs), theta)?;
        let size = size_of::<T>();
        let bytes = shape.len * size;
        (args.x, args.y, args.epilogue) = (x.args(), y.rows.args(), finish.args());
        args.y_aligned = (outputs.is_multiple_of(shape.len)
            && y.rows.is_aligned(size, bytes)
            && finish.rows.is_none_or(|rows| rows.is_aligned(size, bytes)))
        .into();
        args.bias_aligned = (outputs.is_multiple_of(shape.len)
            && finish.bias.is_multiple_of((shape.len * size_of::<f32>()) as u64))
        .into();
        args.add = y.accumulate.into();
        let grid = self.cut_layer(&mut args, &cut, shape, x, false);
        if L::COUNTS {
            let (_, vertices) = self.size(Axis::Vertex);
            let rows = outputs + if finish.reads_rows() { outputs } else { 0 } + inputs;
            self.launches.moves(vertices * (rows * size) as u128);
        }
        // SAFETY: the kernel takes a `LayerArgs`. Operators are where the launch before has stored them; a
        // block has the shared memory of its tiles. The caller promises the rest.
        unsafe {
            self.form_operators(&of)?;
            self.launches.launch(shape.forward, grid, &args)
        }
    }

    /// A launch that forms operators; one for gradients of rows and products of rows, if either is wanted;
    /// those of the gradients of weights; and one for the parts of the gradient of Θ, which are stored behind
    /// those that are there.
    ///
    /// # Safety
    /// As [`layer_forward`](Self::layer_forward), and gradients have the elements that they say.
    pub(in super::super) unsafe fn layer_backward(
        &mut self,
        stage: LayerBackward<'_>,
        parts: &mut ThetaParts,
    ) -> Result<()> {
        let LayerBackward { class, x, weights, theta, grad_sums, grad_x, to_weights, wants_theta } = stage;
        let of = self.dense_instances(class, weights);
        let cut = self.cut(&of);
        // SAFETY: the caller's promise; operators and products are stored.
        unsafe {
            self.form_operators(&of)?;
            if grad_x.is_some() || to_weights.is_some() {
                let rows = (x, grad_sums, grad_x);
                let products = self.layer_rows(&of, &cut, theta, rows, to_weights.is_some())?;
                if let Some(to) = to_weights {
                    self.weights_of_products(&of, products, to)?;
                }
            }
            if wants_theta { self.theta_parts(&of, &cut, x, grad_sums, parts) } else { Ok(()) }
        }
    }

    /// The gradients of rows, and products of rows of each instance, or of each chunk of copies that share a
    /// window. One launch.
    ///
    /// # Safety
    /// As [`layer_backward`](Self::layer_backward), and operators are stored.
    unsafe fn layer_rows(
        &mut self,
        of: &DenseInstances<'_>,
        cut: &Cut,
        theta: Address,
        (x, grad_sums, grad_x): (PlacedRows, PlacedRows, Option<Destination>),
        wants_products: bool,
    ) -> Result<Nodes> {
        let (inputs, outputs, size) = (self.plan.inputs(), self.features(), size_of::<T>());
        let shape = self.shape(outputs)?;
        let mut args = self.layer_args(of, cut, (outputs, inputs), theta)?;
        let bytes = shape.len * size;
        args.x = grad_sums.args();
        args.y = grad_x.map_or(RowsArgs::zeroed(), |to| to.rows.args());
        args.add = grad_x.is_some_and(|to| to.accumulate).into();
        if wants_products {
            args.epilogue = EpilogueArgs { rows: x.args(), ..EpilogueArgs::zeroed() };
        }
        args.y_aligned = (inputs.is_multiple_of(shape.len)
            && (!wants_products || x.is_aligned(size, bytes))
            && grad_x.is_none_or(|to| to.rows.is_aligned(size, bytes)))
        .into();
        let grid = self.cut_layer(&mut args, cut, shape, grad_sums, true);
        let n_sums = if cut.own { of.count } else { args.items.blocks };
        let n_products = n_sums * u64::from(args.parts);
        if wants_products {
            args.products = self.products(of, n_products)?;
        }
        if L::COUNTS {
            let (_, vertices) = self.size(Axis::Vertex);
            let rows =
                outputs + [grad_x.is_some(), wants_products].map(usize::from).iter().sum::<usize>() * inputs;
            self.launches.moves(vertices * (rows * size) as u128);
        }
        // SAFETY: the kernel takes a `LayerArgs`. Operators are where they were stored; scratch memory has
        // room for the products of each item or chunk and each part of the outputs; a block has the shared
        // memory of its tiles. The caller promises the rest.
        unsafe { self.launches.launch(shape.backward, grid, &args)? };
        Ok(Nodes::of_parts(args.products, n_products, args.parts))
    }

    /// The parts of the gradient of Θ. One launch.
    ///
    /// # Safety
    /// As [`layer_backward`](Self::layer_backward), and operators are stored.
    unsafe fn theta_parts(
        &mut self,
        of: &DenseInstances<'_>,
        cut: &Cut,
        x: PlacedRows,
        grad_sums: PlacedRows,
        parts: &mut ThetaParts,
    ) -> Result<()> {
        let (inputs, outputs, size) = (self.plan.inputs(), self.features(), size_of::<T>());
        let mut args = self.layer_args(of, cut, (inputs, outputs), 0)?;
        (args.x, args.y) = (x.args(), grad_sums.args());
        let is_aligned = |features: usize, rows: PlacedRows| {
            (features * size).is_multiple_of(VECTOR_BYTES) && rows.is_aligned(size, VECTOR_BYTES)
        };
        args.x_aligned = is_aligned(inputs, x).into();
        args.y_aligned = is_aligned(outputs, grad_sums).into();
        let room = self.plan.batch().device().shared_bytes() as usize;
        // A power of two of warps each way, eight in all.
        let warps_for =
            |features: usize, most: usize| features.div_ceil(THETA_SIDE).next_power_of_two().min(most);
        let (mut columns, mut input_columns) = (warps_for(outputs, 2), warps_for(inputs, WARPS / 2));
        let rows = THETA_GROUPS * GROUP_ROWS;
        let bytes_of = |columns: usize| {
            THETA_STAGES * (rows * columns * THETA_SIDE * size + cut.operator_bytes(THETA_GROUPS))
                + cut.item_bytes(THETA_STAGES + 1, THETA_GROUPS)
        };
        while columns.max(input_columns) > 1 && bytes_of(columns + input_columns) > room {
            *(if input_columns > 1 { &mut input_columns } else { &mut columns }) /= 2;
        }
        let (n_parts, n_input_parts) =
            (outputs.div_ceil(columns * THETA_SIDE), inputs.div_ceil(input_columns * THETA_SIDE));
        args.groups = THETA_GROUPS as u32;
        (args.columns, args.input_columns) = (columns as u32, input_columns as u32);
        (args.parts, args.input_parts) = (n_parts as u32, n_input_parts as u32);
        (args.pitch, args.theta_pitch) =
            ((input_columns * THETA_SIDE * size) as u32, (columns * THETA_SIDE * size) as u32);
        args.copy_bits = copy_bits(args.pitch.min(args.theta_pitch) as usize);
        args.items.blocks = cut.groups.div_ceil(THETA_GROUPS as u64);
        let splits = args.items.blocks.min(MOST_SPLITS as u64);
        // Rows of warps share out the groups of a tile.
        let count = splits * (WARPS / (columns * input_columns)).min(THETA_GROUPS) as u64;
        let of_part = (inputs * outputs * size_of::<f32>()) as u64;
        let bytes = u128::from(parts.count + count) * u128::from(of_part);
        parts.address = self.launches.scratch(Slot::ThetaParts, bytes)?;
        args.products = parts.address + parts.count * of_part;
        parts.count += count;
        if L::COUNTS {
            let (_, vertices) = self.size(Axis::Vertex);
            self.launches.moves(vertices * ((inputs + outputs) * size) as u128);
        }
        let grid = Grid::of_blocks(splits * (n_parts * n_input_parts) as u64)
            .with_threads(LAYER_THREADS)
            .with_shared_bytes(bytes_of(columns + input_columns) as u32);
        // SAFETY: the kernel takes a `LayerArgs`. Operators are where they were stored, and scratch memory
        // has room for the parts of all warps; a block has the shared memory of its tiles. The caller
        // promises the rest.
        unsafe { self.launches.launch(Kernel::LayerTheta, grid, &args) }
    }

    /// Adds the parts of the gradient of Θ.
    ///
    /// # Safety
    /// They are stored, and the gradient has the elements that it says.
    pub(in super::super) unsafe fn add_theta_parts(
        &mut self,
        parts: ThetaParts,
        to: GradientTo,
    ) -> Result<()> {
        let args = ThetaSumArgs {
            parts: parts.address,
            n_parts: parts.count,
            n_elements: to.len as u64,
            gradient: to.address,
            add: to.accumulate.into(),
            padding: 0,
        };
        let grid = Grid::of_blocks(args.n_elements.div_ceil(THREADS.into()));
        // SAFETY: the kernel takes a `ThetaSumArgs`; the caller promises the rest.
        unsafe { self.launches.launch(Kernel::LayerThetaSum, grid, &args) }
    }

    fn shape(&self, summed: usize) -> Result<Shape> {
        let bound = most_features::<T>();
        Shape::of::<T>(summed, self.plan.precision()).ok_or_else(|| Error::LayerUnavailable {
            operator: Operator::Layer.name(),
            what: "the number of features",
            value: summed,
            bound,
        })
    }

    /// Cuts a launch into tiles, as the device has room for them, and blocks.
    fn cut_layer(
        &self,
        args: &mut LayerArgs,
        cut: &Cut,
        shape: Shape,
        x: PlacedRows,
        is_backward: bool,
    ) -> Grid {
        let device = self.plan.batch().device();
        let (summed, outputs, size) = (args.inputs as usize, args.outputs as usize, size_of::<T>());
        let pitch = (summed * size).next_multiple_of(PITCH_BYTES);
        let columns = outputs.div_ceil(shape.outputs).next_power_of_two().min(WARPS);
        let outputs_of_block = columns * shape.outputs;
        let theta_pitch = (outputs_of_block * size).next_multiple_of(PITCH_BYTES);
        let rows_of_warps = WARPS / columns;
        // Of a backward, products of each warp; of one more for each group where instances have their own.
        let left = |groups: usize| {
            let of_rows = if cut.own { groups } else { rows_of_warps };
            if is_backward {
                (of_rows * columns * (GROUP_ROWS << cut.slot_bits)) * size_of::<f32>()
            } else {
                0
            }
        };
        let stages =
            |groups: usize| shape.stages * (groups * GROUP_ROWS * pitch + cut.operator_bytes(groups));
        // What passes of Θ at once: in the backward whole steps, as many as a row of a tile has together.
        let (of_theta, least) = match is_backward {
            true => (theta_pitch, PITCH_BYTES / size),
            false => (pitch.max(1), shape.outputs),
        };
        let bytes = |groups: usize| {
            let of_tiles = stages(groups) + cut.item_bytes(shape.stages + 1, groups) + left(groups);
            of_tiles.max(least * of_theta)
        };
        let mut groups = (2 * rows_of_warps).min(MOST_GROUPS);
        while groups > 1 && bytes(groups) > device.shared_bytes() as usize {
            groups /= 2;
        }
        let theta_rows = (stages(groups) / of_theta / least).max(1) * least;
        args.groups = groups as u32;
        args.pitch = pitch as u32;
        args.columns = columns as u32;
        args.parts = outputs.div_ceil(outputs_of_block) as u32;
        let rows_of_theta = if is_backward { summed.next_multiple_of(least) } else { outputs_of_block };
        args.theta_rows = theta_rows.min(rows_of_theta) as u32;
        args.theta_pitch = theta_pitch as u32;
        args.copy_bits = copy_bits(pitch);
        args.x_aligned =
            ((summed * size).is_multiple_of(VECTOR_BYTES) && x.is_aligned(size, VECTOR_BYTES)).into();
        let is_chunked = is_backward && !cut.own;
        args.chunk_bits = if is_chunked { bits_for(GROUPS_OF_CHUNK / groups) } else { 0 };
        let tiles = cut.groups.div_ceil(groups as u64);
        args.items.blocks = tiles.div_ceil(1 << args.chunk_bits);
        let side_by_side = u64::from((device.multiprocessors() / args.parts).max(1));
        Grid::of_blocks(args.items.blocks.min(side_by_side) * u64::from(args.parts))
            .with_threads(LAYER_THREADS)
            .with_shared_bytes(bytes(groups) as u32)
    }
}
