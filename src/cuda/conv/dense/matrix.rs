//! The launches of `kernels/matrix.cu`, and of the kernels that use or make the matrices of instances.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::super::super::DeviceElement;
use super::super::super::args::{Address, GramArgs, Kernel, MatrixArgs, MatrixKind, RowsArgs, ScaleArgs};
use super::super::super::call::{Call, Destination, PlacedRows, PlacedWeights};
use super::super::super::epilogue::Finish;
use super::super::super::geometry::{Grid, THREADS};
use super::super::super::launches::Launches;
use super::super::super::route::DenseClass;
use super::super::super::window_table::DeviceWindows;
use super::backward::{BackwardRows, Nodes};
use super::{DenseForward, DenseInstances, INSTANCES_BYTES, ITEM_BYTES, ToWeights, per_block};
use crate::axis::Axis;
use crate::error::Result;
use crate::windows::Windows;

/// The matrices of a caller, one for each instance, with the rows of the largest topology in use.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct MatricesTo {
    pub(in super::super) address: Address,
    pub(in super::super) accumulate: bool,
}

/// As in `kernels/gram.cu`: the rows and columns of the products of a block, and the products of a thread.
const GRAM_BLOCK: usize = 8;
const GRAM_TILE: usize = 4;

/// What stands for weights where operators do not depend on any: there is one for each topology, or for each
/// instance.
fn unweighted<'w>(windows: Windows<&'w DeviceWindows>) -> PlacedWeights<'w> {
    PlacedWeights { scale: ScaleArgs::none(), windows }
}

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// M of the instances of a class: a launch that forms operators and one that stores them, if they are
    /// wanted. Negative degrees are reported in any case.
    ///
    /// # Safety
    /// There are weights where their windows say, and a matrix for each instance. The topologies of the
    /// instances are in the class; here and below.
    pub(in super::super) unsafe fn dense_matrices(
        &mut self,
        class: DenseClass,
        weights: PlacedWeights<'_>,
        to: Option<MatricesTo>,
    ) -> Result<()> {
        let of = self.dense_instances(class, weights);
        // SAFETY: the caller's promise; operators are stored by the first launch.
        unsafe {
            self.form_operators(&of)?;
            match to {
                Some(to) => self.move_matrices(&of, MatrixKind::StoreOperator, to, 0),
                None => Ok(()),
            }
        }
    }

    /// The gradients of weights from those of M: two launches before those that there are for products of
    /// rows, with a product for each instance.
    ///
    /// # Safety
    /// There are weights where their windows say, a matrix for each instance, and gradients have the elements
    /// that they say.
    pub(in super::super) unsafe fn dense_matrices_backward(
        &mut self,
        class: DenseClass,
        weights: PlacedWeights<'_>,
        grad_matrix: Address,
        to: ToWeights,
    ) -> Result<()> {
        let of = self.dense_instances(class, weights);
        let products = self.products(&of, of.count)?;
        let from = MatricesTo { address: grad_matrix, accumulate: false };
        // SAFETY: the caller's promise; operators, and then products, are stored.
        unsafe {
            self.form_operators(&of)?;
            self.move_matrices(&of, MatrixKind::LoadGradient, from, products)?;
            self.weights_of_products(&of, Nodes::of_instances(products, of.count), to)
        }
    }

    /// The inner products of rows: a launch for factors of 1, the products, and one that stores them.
    ///
    /// # Safety
    /// There are such rows, and a matrix for each instance.
    pub(in super::super) unsafe fn dense_gram(
        &mut self,
        class: DenseClass,
        x: PlacedRows,
        to: MatricesTo,
    ) -> Result<()> {
        let of = self.dense_instances(class, unweighted(Windows::Shared));
        if !class.is_on_path() {
            let of = self.dense_instances(class, unweighted(Windows::Consecutive));
            // SAFETY: the caller's promise.
            return unsafe { self.gram(&of, x, to, None) };
        }
        let rows = BackwardRows { x, grad_y: x, grad_x: None, wants_products: true };
        // SAFETY: the caller's promise; operators, and then products, are stored.
        unsafe {
            self.move_matrices(&of, MatrixKind::MakeUnit, to, 0)?;
            let products = self.backward_rows(&of, rows, false)?;
            self.move_matrices(&of, MatrixKind::StoreProducts, to, products.address)
        }
    }

    /// The gradient of rows from that of their inner products: a launch for operators, and one that applies
    /// them.
    ///
    /// # Safety
    /// There are such rows, and a matrix for each instance.
    pub(in super::super) unsafe fn dense_gram_backward(
        &mut self,
        class: DenseClass,
        x: PlacedRows,
        grad_gram: Address,
        grad_x: Destination,
    ) -> Result<()> {
        let weights = unweighted(Windows::Consecutive);
        let of = self.dense_instances(class, weights);
        let from = MatricesTo { address: grad_gram, accumulate: false };
        if !class.is_on_path() {
            // SAFETY: the caller's promise.
            return unsafe { self.gram(&of, x, from, Some(grad_x)) };
        }
        let apply = DenseForward { class, x, weights, y: grad_x, finish: Finish::none() };
        // SAFETY: the caller's promise; operators are stored by the first launch.
        unsafe {
            self.move_matrices(&of, MatrixKind::LoadSymmetric, from, 0)?;
            self.apply_operators(&of, apply, false)
        }
    }

    /// The inner products of rows of a class that the path has no kernels for, or with `grad_x` their
    /// gradient. One launch.
    ///
    /// # Safety
    /// There are such rows, and a matrix for each instance.
    unsafe fn gram(
        &mut self,
        of: &DenseInstances<'_>,
        x: PlacedRows,
        matrices: MatricesTo,
        grad_x: Option<Destination>,
    ) -> Result<()> {
        let (size, features, side) = (size_of::<T>(), self.features(), self.batch().largest(Axis::Vertex));
        let parts = match &grad_x {
            None => {
                let blocks = side.div_ceil(GRAM_BLOCK) as u64;
                blocks * (blocks + 1) / 2
            }
            Some(_) => {
                let rows = of.class.vertices() as u64;
                (features as u64 * rows).div_ceil(THREADS.into())
            }
        };
        // Nothing is stored, so nothing of it is read either.
        let items = self.dense_items(of, 1, false)?;
        let add = grad_x.as_ref().map_or(matrices.accumulate, |to| to.accumulate);
        let args = GramArgs {
            items,
            x: x.args(),
            grad_x: grad_x.as_ref().map_or(RowsArgs::zeroed(), |to| to.rows.args()),
            matrices: matrices.address,
            features: features as u64,
            parts,
            side: side as u32,
            add: add.into(),
            element: T::KIND,
            padding: 0,
        };
        if L::COUNTS {
            let (_, vertices) = self.size(Axis::Vertex);
            let rows = 1 + u128::from(grad_x.is_some());
            self.launches.moves(rows * vertices * (features * size) as u128);
        }
        let sums = if grad_x.is_none() { THREADS as usize * GRAM_TILE * size_of::<T::Acc>() } else { 0 };
        let grid = Grid::of_blocks(items.blocks * parts).with_shared_bytes((sums + ITEM_BYTES) as u32);
        // SAFETY: the kernel takes a `GramArgs`; a block has the shared memory of an item and of the sums of
        // its threads. The caller promises the rest.
        unsafe { self.launches.launch(Kernel::Gram, grid, &args) }
    }

    /// One launch, between the caller's matrices and operators or products in scratch memory.
    ///
    /// # Safety
    /// There are such matrices and, of the kinds that store, operators or products.
    unsafe fn move_matrices(
        &mut self,
        of: &DenseInstances<'_>,
        what: MatrixKind,
        matrices: MatricesTo,
        products: Address,
    ) -> Result<()> {
        let (row, side) = (of.class.vertices(), self.batch().largest(Axis::Vertex));
        let stores = matches!(what, MatrixKind::StoreOperator | MatrixKind::StoreProducts);
        let size = if stores { side * side } else { row * row };
        // A thread takes an element; a few rounds of those make up for the way to the first.
        let per_block = per_block(4 * THREADS as usize / size.max(1), ITEM_BYTES, INSTANCES_BYTES);
        let mut items = self.dense_items(of, per_block, true)?;
        let of_topologies = matches!(what, MatrixKind::MakeUnit);
        if of_topologies && of.count > 0 {
            (items.numbers, items.n_items) = of.topologies;
            items.blocks = items.n_items.div_ceil(per_block.into());
        }
        let args = MatrixArgs {
            items,
            matrices: matrices.address,
            products,
            what: what as u32,
            side: side as u32,
            add: matrices.accumulate.into(),
            of_topologies: of_topologies.into(),
        };
        let grid = Grid::of_blocks(items.blocks).with_shared_bytes(per_block * ITEM_BYTES as u32);
        // SAFETY: the kernel takes a `MatrixArgs`. Scratch memory has room for the operators and the products
        // that it reads and stores, and a block has the shared memory of its items. The caller promises the
        // rest.
        unsafe { self.launches.launch(Kernel::Matrix, grid, &args) }
    }
}
