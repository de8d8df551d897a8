//! The launches of `kernels/matrix.cu`, and of the kernels that use or make the matrices of instances.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::super::super::DeviceElement;
use super::super::super::args::{
    Address, DenseItemsArgs, Kernel, MatrixArgs, MatrixKind, RowsArgs, ScaleArgs,
};
use super::super::super::call::{Call, Destination, PlacedRows, PlacedWeights};
use super::super::super::epilogue::Finish;
use super::super::super::geometry::{Grid, THREADS};
use super::super::super::launches::Launches;
use super::super::super::route::DenseClass;
use super::super::super::window_table::DeviceWindows;
use super::backward::{BackwardRows, Nodes};
use super::{DenseForward, DenseInstances, INSTANCES_BYTES, ITEM_BYTES, ToWeights, per_block};
use crate::axis::Axis;
use crate::dense::most_slots;
use crate::error::Result;
use crate::windows::Windows;

/// The matrices of a caller, one for each instance, with the rows of the largest topology in use.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct MatricesTo {
    pub(in super::super) address: Address,
    pub(in super::super) accumulate: bool,
}

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
        if !class.is_on_path() {
            // SAFETY: the caller's promise.
            return unsafe { self.gram_of_rows(class, x, to, None) };
        }
        let of = self.dense_instances(class, unweighted(Windows::Shared));
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
        let from = MatricesTo { address: grad_gram, accumulate: false };
        if !class.is_on_path() {
            // SAFETY: the caller's promise.
            return unsafe { self.gram_of_rows(class, x, from, Some(grad_x)) };
        }
        let weights = unweighted(Windows::Consecutive);
        let of = self.dense_instances(class, weights);
        let apply = DenseForward { class, x, weights, y: grad_x, finish: Finish::none() };
        // SAFETY: the caller's promise; operators are stored by the first launch.
        unsafe {
            self.move_matrices(&of, MatrixKind::LoadSymmetric, from, 0)?;
            self.apply_operators(&of, apply, None)
        }
    }

    /// The inner products of the rows of a class that the path has no kernels for, or with `grad_x` their
    /// gradient. One launch.
    ///
    /// # Safety
    /// There are such rows, and a matrix for each instance.
    unsafe fn gram_of_rows(
        &mut self,
        class: DenseClass,
        x: PlacedRows,
        matrices: MatricesTo,
        grad_x: Option<Destination>,
    ) -> Result<()> {
        let (features, side) = (self.features(), self.batch().largest(Axis::Vertex));
        // No operator is stored or read.
        let of = self.dense_instances(class, unweighted(Windows::Consecutive));
        let items = self.dense_items(&of, 1, false)?;
        // For each row of the matrix a thread for each slot of its products, and for each row of the gradient
        // one for each feature.
        let slots = most_slots(class.vertices());
        let (what, to_rows, add, threads) = match grad_x {
            None => (MatrixKind::Gram, RowsArgs::zeroed(), matrices.accumulate, side * slots),
            Some(to) => (MatrixKind::GramBackward, to.rows.args(), to.accumulate, features),
        };
        let args = MatrixArgs {
            x: x.args(),
            grad_x: to_rows,
            features: features as u64,
            parts: (side as u64 * threads as u64).div_ceil(THREADS.into()),
            add: add.into(),
            element: T::KIND,
            ..self.matrix_args(items, what, matrices)
        };
        if L::COUNTS {
            let (_, vertices) = self.size(Axis::Vertex);
            let rows = 1 + u128::from(grad_x.is_some());
            self.launches.moves(rows * vertices * (features * size_of::<T>()) as u128);
        }
        let grid = Grid::of_blocks(items.blocks * args.parts).with_shared_bytes(ITEM_BYTES as u32);
        // SAFETY: the kernel takes a `MatrixArgs`; a block has the shared memory of its item. The caller
        // promises the rest.
        unsafe { self.launches.launch(Kernel::Matrix, grid, &args) }
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
        let of_topologies = of_topologies.into();
        let args = MatrixArgs { products, of_topologies, ..self.matrix_args(items, what, matrices) };
        let grid = Grid::of_blocks(items.blocks).with_shared_bytes(per_block * ITEM_BYTES as u32);
        // SAFETY: the kernel takes a `MatrixArgs`. Scratch memory has room for the operators and the products
        // that it reads and stores, and a block has the shared memory of its items. The caller promises the
        // rest.
        unsafe { self.launches.launch(Kernel::Matrix, grid, &args) }
    }

    fn matrix_args(&self, items: DenseItemsArgs, what: MatrixKind, matrices: MatricesTo) -> MatrixArgs {
        MatrixArgs {
            items,
            matrices: matrices.address,
            parts: 1,
            what: what as u32,
            side: self.batch().largest(Axis::Vertex) as u32,
            add: matrices.accumulate.into(),
            ..MatrixArgs::zeroed()
        }
    }
}
