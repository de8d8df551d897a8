//! The operators on slices, in parallel on the current rayon pool.
//!
//! A [`Plan`] is what stays from step to step: batch, features, conventions. A [`Workspace`] owns the scratch memory of
//! one caller at a time, and its methods are the operators: no call allocates. Outputs are overwritten unless the call
//! says [`Out::Accumulate`](crate::Out::Accumulate); a call that returns an error has written nothing.
//!
//! # Bits
//! Results do not depend on the number of threads. The outputs and feature gradients of an instance have the same bits
//! alone and in any batch, at any position, with any strides and windows.
//!
//! Gradients of weights and scales are sums over the batch. Each instance adds one value of the accumulation type; up to
//! 64 instances with the same topology and window are summed in ascending order, from 0 on, and these sums are added to
//! the gradient, which starts at 0 or at what it holds: those of small topologies first, then by the class (a power of
//! two) of the window's width, by its offset, by topology id. So the order depends on the batch and its windows only, and
//! it is one that a GPU can follow.
//!
//! # What the backward computes again
//! The backward of the convolution needs z = B⁻¹ Hᵀ R x, unrounded, and computes it again, so that nothing that a later call
//! needs hides in a workspace. A caller that has the memory keeps it instead: see
//! [`conv_saving_z`](Workspace::conv_saving_z) and [`conv_backward_from_z`](Workspace::conv_backward_from_z).
//!
//! # Shapes
//! With `N` vertices and `M` hyperedges in all instances, features of vertices are `N` rows and features of hyperedges
//! are `M` rows, of `F` elements of type `T` each, wherever their [`RowLayout`](crate::RowLayout) places them. Weights,
//! scales and their gradients are of type `T::Acc`.
//!
//! An output's rows are overwritten or added to, and nothing else of its buffer: elements that its layout places no
//! row on stay as they are.
//!
//! # Errors of operands
//! The operators of both backends check their operands in this order, before anything is written:
//!
//! * features, and the number of instances, operand by operand: [`Error::FeaturesMismatch`]; [`Error::PartialRow`] and
//!   [`Error::PartialInstance`] where a length is no whole number of them; [`Error::InstancesMismatch`],
//!   [`Error::UnknownInstances`]; [`Error::TooManyInstances`] for the workspace, [`Error::TooLarge`] for the batch;
//! * windows: [`Error::WindowOutOfRange`], [`Error::UnreadWeights`]; [`Error::WindowTableMismatch`],
//!   [`Error::WindowTableAxis`], [`Error::WindowTableLength`];
//! * gradients of weights and scales: [`Error::GradientMismatch`];
//! * places of rows: [`Error::RowsMismatch`], or [`Error::Stride`] where strides or instances are given;
//!   [`Error::Overlap`] of an output's rows.

mod conv;
mod disjoint;
mod gather;
mod operands;
mod schedule;
mod step;
mod workspace;

use std::sync::Arc;

pub use step::{Step, StepGradients};
pub use workspace::Workspace;

use crate::batch::Batch;
use crate::conv::Conv;
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result, fits_u32, try_with_capacity};
use crate::incidence::Incidence;
use crate::rows::{Operand, agree_on_instances};
use crate::windows::WindowTable;

/// Weights (or scales) in a slice.
pub type Weights<'a, A> = crate::Weights<&'a [A], &'a WindowTable>;

/// How the instances of one topology are computed. A function of the topology, F and `T` alone; all paths of a topology
/// that could be chosen at different times have the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Gather-reduce, an instance (or a chunk of them) a task.
    Gather,
    /// Gather-reduce, one instance at a time with its rows in parallel.
    GatherRows,
}

impl Path {
    fn choose(topology: &Incidence) -> Self {
        if topology.is_large() { Self::GatherRows } else { Self::Gather }
    }
}

/// What stays from call to call: a batch, the number of features F and the conventions of the convolution. A clone is
/// cheap.
#[derive(Debug)]
pub struct Plan<T> {
    shared: Arc<PlanParts>,
    element: std::marker::PhantomData<fn() -> T>,
}

impl<T> Clone for Plan<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), element: self.element }
    }
}

#[derive(Debug)]
struct PlanParts {
    batch: Batch,
    features: usize,
    conv: Conv,
    /// One for each topology.
    paths: Vec<Path>,
}

impl<T: Element> Plan<T> {
    /// A plan for rows of `features` elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(batch: &Batch, features: usize, conv: Conv) -> Result<Self> {
        let mut paths = try_with_capacity("the path of each topology", batch.topologies().len())?;
        paths.extend(batch.topologies().iter().map(Path::choose));
        let shared = Arc::new(PlanParts { batch: batch.clone(), features, conv, paths });
        Ok(Self { shared, element: std::marker::PhantomData })
    }

    /// The scratch memory for calls with up to `max_instances` instances, for as many threads as the current rayon pool
    /// has: for each thread two rows of F sums for each hyperedge of the largest small topology, once the same for the
    /// largest other topology, and about a mebibyte.
    ///
    /// # Errors
    /// [`Error::TooManyInstances`] where a table batch has more, [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn workspace(&self, max_instances: usize) -> Result<Workspace<T>> {
        Workspace::new(self.clone(), max_instances)
    }

    /// The batch.
    pub fn batch(&self) -> &Batch {
        &self.shared.batch
    }

    /// The number of features F.
    pub fn features(&self) -> usize {
        self.shared.features
    }

    /// The conventions of the convolution.
    pub fn conv(&self) -> Conv {
        self.shared.conv
    }

    /// The number of instances of a call with these operands.
    fn instances(&self, operands: &[Option<Operand>], max_instances: usize) -> Result<usize> {
        let value = agree_on_instances(self.batch(), self.features(), operands.iter().flatten())?;
        fits_u32("the number of instances", value)?;
        if value > max_instances {
            return Err(Error::TooManyInstances { value, bound: max_instances });
        }
        Ok(value)
    }

    fn has(&self, path: Path) -> bool {
        self.shared.paths.contains(&path)
    }

    fn path(&self, topology: usize) -> Path {
        self.shared.paths[topology]
    }
}

/// 1 / `count`, and 0 for a count of 0.
fn inverse_count<A: Accumulator>(count: usize) -> A {
    if count == 0 { A::ZERO } else { A::ONE / A::from_count(count) }
}

fn add_to<A: Accumulator>(sums: &mut [A], values: &[A]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}
