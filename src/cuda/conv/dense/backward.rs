//! The launches of `kernels/dense_backward.cuh` and `kernels/dense_gradient.cu`: the backward of the
//! convolution of small hypergraphs by their dense operators.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::super::super::DeviceElement;
use super::super::super::args::{
    Address, DenseBackwardArgs, DenseGradientArgs, DenseItemsArgs, Kernel, RowsArgs,
};
use super::super::super::call::{Call, Destination, GradientTo, PlacedRows, PlacedWeights};
use super::super::super::geometry::{Grid, MOST_NODES, THREADS, WARP};
use super::super::super::instance_sums::RowGradients;
use super::super::super::launches::Launches;
use super::super::super::route::DenseClass;
use super::super::super::scratch::Slot;
use super::super::super::tables::Orientation;
use super::{DenseInstances, INSTANCES_BYTES, ITEM_BYTES, per_block};
use crate::axis::Axis;
use crate::dense;
use crate::error::Result;

/// The shared memory that each device gives to a block without being asked.
const SHARED_BYTES: usize = 48 << 10;

/// The products over chunks of instances that a launch before the last adds to one.
const NODES_PER_ROOT: u64 = 64;

/// The gradients of the instances of a class of topologies.
pub(in super::super) struct DenseBackward<'w> {
    pub(in super::super) class: DenseClass,
    pub(in super::super) x: PlacedRows,
    pub(in super::super) weights: PlacedWeights<'w>,
    pub(in super::super) grad_y: PlacedRows,
    pub(in super::super) grad_x: Option<Destination>,
    pub(in super::super) to_weights: Option<ToWeights>,
}

impl Nodes {
    /// Products of the accumulation type, of each instance or chunk.
    pub(super) fn of_instances(address: Address, count: u64) -> Self {
        Self::of_parts(address, count, 1)
    }

    /// The same in some parts each, side by side.
    pub(super) fn of_parts(address: Address, count: u64, parts: u32) -> Self {
        Self { address, count, of_item: parts, is_wide: false }
    }
}

/// Where gradients of weights go.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum ToWeights {
    /// Those of each instance alone, to be summed over instances.
    Rows(RowGradients),
    /// Where they belong: windows are consecutive, or copies of one topology share one.
    Gradient(GradientTo),
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// A launch that forms operators, and one for both gradients, before which with checks one finds items;
    /// for gradients of weights one more, and a few before it where more than [`MOST_NODES`] chunks of
    /// instances share a window. It needs no rows in
    /// scratch memory: of each instance or chunk the products of its vertices.
    ///
    /// # Safety
    /// The operands have rows where their placements say, weights where their windows say, and gradients the
    /// elements that they say. The topologies of the instances are in the class.
    pub(in super::super) unsafe fn dense_backward(&mut self, stage: DenseBackward<'_>) -> Result<()> {
        let DenseBackward { class, x, weights, grad_y, grad_x, to_weights } = stage;
        let of = self.dense_instances(class, weights);
        let is_chunked = of.has_shared_window() && self.batch().is_replicated();
        let rows = BackwardRows { x, grad_y, grad_x, wants_products: to_weights.is_some() };
        // SAFETY: the caller's promise; operators and products are stored.
        unsafe {
            self.form_operators(&of)?;
            let products = self.backward_rows(&of, rows, is_chunked)?;
            match to_weights {
                Some(to) => self.weights_of_products(&of, products, to),
                None => Ok(()),
            }
        }
    }

    /// The gradients of rows, and products of rows of each instance, or of each chunk of copies that share a
    /// window. One launch, and one before it that finds items, see [`find_items`](Self::find_items).
    ///
    /// # Safety
    /// As [`dense_backward`](Self::dense_backward), and operators are stored.
    pub(super) unsafe fn backward_rows(
        &mut self,
        of: &DenseInstances<'_>,
        rows: BackwardRows,
        is_chunked: bool,
    ) -> Result<Nodes> {
        let BackwardRows { x, grad_y, grad_x, wants_products } = rows;
        let class = of.class;
        let (size, features, row) = (size_of::<T>(), self.features(), class.vertices());
        let len = dense::features_of_slice(size);
        let is_aligned = |rows: &PlacedRows| rows.is_aligned(size, len * size);
        let aligned = features.is_multiple_of(len)
            && is_aligned(&x)
            && is_aligned(&grad_y)
            && grad_x.is_none_or(|to| is_aligned(&to.rows));
        let slices = dense::slices(features, size);
        let chunk_len = if is_chunked { dense::chunk_len(slices) } else { 0 };
        let slots = if is_chunked { dense::most_slots(row) } else { dense::slots(row, slices) };
        let size_of_sums = size_of::<T::Acc>();
        let (mut exchange, of_item) =
            (class.exchange_bytes(size_of_sums), class.backward_bytes(size_of_sums));
        if self.plan.kernels().has_stages(class.backward()) {
            exchange = exchange.max(class.stages_bytes(len * size));
        }
        let per_block = per_block(dense::most_slots(row) / slots, of_item, SHARED_BYTES - exchange);
        let mut items = self.dense_items(of, per_block, true)?;
        if is_chunked {
            (items.per_block, items.blocks) = (0, of.count.div_ceil(chunk_len as u64));
        }
        // SAFETY: the items are instances.
        let items = unsafe { self.find_items(items)? };
        let n_products = if is_chunked { items.blocks } else { of.count };
        let products = if wants_products { self.products(of, n_products)? } else { 0 };
        let args = DenseBackwardArgs {
            items,
            x: x.args(),
            grad_y: grad_y.args(),
            grad_x: grad_x.map_or(RowsArgs::zeroed(), |to| to.rows.args()),
            products,
            features: features as u64,
            slices: slices as u32,
            slots: slots as u32,
            chunk_len: chunk_len as u32,
            aligned: aligned.into(),
            add: grad_x.is_some_and(|to| to.accumulate).into(),
            wants_products: wants_products.into(),
        };
        if L::COUNTS {
            let (_, vertices) = self.size(Axis::Vertex);
            let rows = 1 + u128::from(wants_products) + u128::from(grad_x.is_some());
            self.launches.moves(rows * vertices * (features * size) as u128);
        }
        let shared_bytes = exchange + items.per_block.max(1) as usize * of_item;
        let grid = Grid::of_blocks(items.blocks).with_shared_bytes(shared_bytes as u32);
        // SAFETY: the kernel takes a `DenseBackwardArgs`. Operators are where a launch before has stored
        // them, and with checks items, too; scratch memory has room for the products of each item or chunk,
        // and a block for what it exchanges. The caller promises the rest.
        unsafe { self.launches.launch(class.backward(), grid, &args)? };
        Ok(Nodes::of_instances(products, n_products))
    }

    /// Where products of so many instances or chunks of them are.
    pub(super) fn products(&mut self, of: &DenseInstances<'_>, count: u64) -> Result<Address> {
        let numbers = u128::from(count) * (of.class.vertices() * of.class.vertices()) as u128;
        self.launches.scratch(Slot::Products, numbers * size_of::<T::Acc>() as u128)
    }

    /// The gradients of weights from products, which copies that share a window add.
    ///
    /// # Safety
    /// There are such products, operators are stored, and gradients have the elements that they say.
    pub(super) unsafe fn weights_of_products(
        &mut self,
        of: &DenseInstances<'_>,
        mut nodes: Nodes,
        to: ToWeights,
    ) -> Result<()> {
        let mut with_gradients = *of;
        // SAFETY: the caller's promise.
        unsafe {
            if of.has_shared_window() && self.batch().is_replicated() {
                nodes = self.add_products(of, nodes)?;
                // All instances have the operator of topology 0, and one gradient.
                (with_gradients.list, with_gradients.count) = (0, 1);
            }
            self.dense_gradient(&with_gradients, nodes, to)
        }
    }

    /// Adds products until few enough are left for the gradients: a launch for each level of the tree that
    /// takes.
    ///
    /// # Safety
    /// There are such products.
    unsafe fn add_products(&mut self, of: &DenseInstances<'_>, mut nodes: Nodes) -> Result<Nodes> {
        let size = of.class.vertices() * of.class.vertices();
        let levels = std::iter::successors(Some(nodes.count), |n| Some(n.div_ceil(NODES_PER_ROOT)));
        // One block adds the last of them, entry by entry.
        let most = if of.class.vertices() > 8 { MOST_NODES / 2 } else { MOST_NODES };
        let levels = levels.take_while(|&n| n > most).map(|n| n.div_ceil(NODES_PER_ROOT));
        let bytes_of = |n: u64| n * (size * size_of::<f64>()) as u64;
        let all = levels.clone().map(|n| u128::from(bytes_of(n))).sum();
        let mut roots = self.launches.scratch(Slot::ProductSums, all)?;
        for n_roots in levels {
            let per_block = (THREADS as usize / size).max(1) as u32;
            let parts = DenseInstances { list: 0, count: n_roots, ..*of };
            nodes.of_item = NODES_PER_ROOT as u32;
            let items = self.dense_items(&parts, per_block, true)?;
            let mut args = DenseGradientArgs { roots, ..self.dense_gradient_args(items, nodes) };
            // A thread has one entry: it waits for memory once for each few nodes.
            args.parts = (size as u64).div_ceil(THREADS.into());
            // SAFETY: the kernel takes a `DenseGradientArgs`; scratch memory has room for the roots of all
            // levels, one behind the other. The caller promises the rest.
            unsafe {
                self.launches.launch(
                    Kernel::DenseGradient,
                    Grid::of_blocks(items.blocks * args.parts),
                    &args,
                )?
            };
            nodes = Nodes { address: roots, count: n_roots, of_item: 1, is_wide: true };
            roots += bytes_of(n_roots);
        }
        Ok(Nodes { of_item: nodes.count as u32, ..nodes })
    }

    /// The gradients of weights of each item.
    ///
    /// # Safety
    /// There are such products, and gradients have the elements that they say.
    unsafe fn dense_gradient(&mut self, of: &DenseInstances<'_>, nodes: Nodes, to: ToWeights) -> Result<()> {
        let (row, bytes) = (of.class.vertices(), of.class.gradient_bytes());
        let per_block = per_block(2 * THREADS as usize / (row * row), bytes, INSTANCES_BYTES);
        let items = self.dense_items(of, per_block, true)?;
        let mut args = self.dense_gradient_args(items, nodes);
        if of.count == 1 {
            // A block would take long for many hyperedges.
            let m = self.batch().largest(Axis::Hyperedge) as u64;
            args.parts = m.div_ceil(THREADS.into()).max(1);
        }
        match to {
            ToWeights::Rows(rows) => (args.values, args.blocks) = (rows.values, rows.blocks as u32),
            ToWeights::Gradient(to) => {
                (args.gradient, args.gradient_len) = (to.address, to.len as u64);
                args.add = to.accumulate.into();
            }
        }
        let grid = Grid::of_blocks(items.blocks * args.parts).with_shared_bytes(per_block * bytes as u32);
        // SAFETY: the kernel takes a `DenseGradientArgs`; a block has the shared memory of its items.
        // Operators are where they were stored, and the caller promises the rest.
        unsafe { self.launches.launch(Kernel::DenseGradient, grid, &args) }
    }

    fn dense_gradient_args(&self, items: DenseItemsArgs, nodes: Nodes) -> DenseGradientArgs {
        DenseGradientArgs {
            items,
            conventions: self.dense_conventions(),
            by_edge: self.tables(Orientation::ByEdge),
            nodes: nodes.address,
            n_nodes: nodes.count,
            nodes_of_item: nodes.of_item,
            wide: nodes.is_wide.into(),
            parts: 1,
            ..DenseGradientArgs::zeroed()
        }
    }
}

/// The rows of a backward.
#[derive(Clone, Copy)]
pub(super) struct BackwardRows {
    pub(super) x: PlacedRows,
    pub(super) grad_y: PlacedRows,
    pub(super) grad_x: Option<Destination>,
    pub(super) wants_products: bool,
}

/// Products of the vertices of instances, or of chunks of them, which are added: so many for each item.
#[derive(Clone, Copy)]
pub(super) struct Nodes {
    pub(super) address: Address,
    count: u64,
    of_item: u32,
    /// They are `f64`, and else of the accumulation type.
    is_wide: bool,
}

impl DenseClass {
    /// The shared memory in which a block adds products: `Exchange` of `kernels/dense_backward.cuh`.
    pub(in crate::cuda) const fn exchange_bytes(self, size: usize) -> usize {
        let n = self.vertices();
        let parts = dense::parts(n);
        let (tiles, side) = (parts * parts, n / parts);
        let at_once = if side * side < 128 / size { side * side } else { 128 / size };
        let slots = dense::most_slots(n);
        let tile = if tiles == 1 { slots } else { slots + WARP as usize / tiles };
        at_once * (tiles * tile + 4) * size
    }

    /// That of the two stages of each warp, of rows of g and of x: `Stages` of `kernels/dense_backward.cuh`.
    /// A thread has so many bytes of a row. What is exchanged later has the same memory.
    pub(in crate::cuda) const fn stages_bytes(self, of_thread: usize) -> usize {
        2 * dense::most_slots(self.vertices()) * 2 * self.vertices() * of_thread
    }

    /// That of an item of the backward: its operator, transposed, and what is known of it.
    pub(in crate::cuda) const fn backward_bytes(self, size: usize) -> usize {
        let n = self.vertices();
        (n * (n + 4) + n) * size + n * size_of::<u32>() + ITEM_BYTES
    }

    /// That of an item whose gradients of weights are found: `Gradients` of `kernels/dense_gradient.cu`.
    const fn gradient_bytes(self) -> usize {
        let n = self.vertices();
        // Of 64 vertices M_uv Γ_uv has the same memory, or a block had no room.
        let (products, words) = if self.is_on_path() { (2 * n * n, 2 * n) } else { (n * n, 3 * n) };
        ITEM_BYTES + size_of::<u64>() + (products + 2 * n) * size_of::<f64>() + words * size_of::<u32>()
    }
}
