//! The operators on slices, in parallel on the current rayon pool.
//!
//! A [`Plan`] is what stays from step to step: batch, features, conventions. A [`Workspace`] owns the scratch memory of
//! one caller at a time, and its methods are the operators: no call allocates. Outputs are overwritten unless the call
//! says [`Out::Add`]; a call that returns an error has written nothing.
//!
//! # Bits
//! Results do not depend on the number of threads. The outputs and feature gradients of an instance have the same bits
//! alone and in any batch, at any position, with any strides and windows. Weight gradients are sums over the batch, in
//! an order that depends on the batch and its windows only.
//!
//! # Shapes
//! With `N` vertices and `M` hyperedges in all instances, features of vertices are `N` rows and features of hyperedges
//! are `M` rows, of `F` elements of type `T` each, wherever their [`RowLayout`](crate::RowLayout) places them. Weights,
//! scales and their gradients are of type `T::Acc`.

mod conv;
mod disjoint;
mod gather;
mod schedule;
mod step;

use std::sync::Arc;

pub use step::{Step, StepGradients};

use crate::batch::{Axis, Batch};
use crate::conv::Conv;
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::incidence::Incidence;
use crate::rows::{Operand, Out, Placement, Rows, agree_on_instances};
use crate::windows::WindowTable;
use disjoint::Disjoint;
use gather::{Source, Store};

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
        let value = agree_on_instances(self.batch(), self.features(), operands)?;
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

/// The scratch memory of a plan, and the operators.
pub struct Workspace<T: Element> {
    plan: Plan<T>,
    max_instances: usize,
    /// For topologies on [`Path::Gather`]: one for each thread.
    slots: Vec<Scratch<T::Acc>>,
    /// For topologies on [`Path::GatherRows`], and the gradients of weights or scales of one instance.
    large: Scratch<T::Acc>,
    large_sums: Vec<T::Acc>,
    partials: Partials<T::Acc>,
}

/// The elements of [`Partials`]: 1 or 2 MiB, which stay in cache, and enough for hundreds of small instances.
const PARTIAL_ELEMENTS: usize = 1 << 18;

/// Gradients of weights or scales of some chunks or instances, one row each (of the weights of an instance's hyperedges,
/// or of the scales of its vertices and hyperedges), on the way into the gradient of the batch.
#[derive(Debug)]
struct Partials<A> {
    values: Vec<A>,
    width: usize,
}

impl<A: Accumulator> Partials<A> {
    fn new(width: usize, max_rows: usize) -> Result<Self> {
        let rows = (PARTIAL_ELEMENTS / width.max(1)).clamp(1, max_rows.max(1));
        Ok(Self { values: try_zeroed("partial weight gradients", rows * width)?, width })
    }

    /// Calls `f` for consecutive blocks of `0..n`, with a zeroed row of partial gradients for each number.
    fn for_each_block(&mut self, n: usize, mut f: impl FnMut(std::ops::Range<usize>, &mut [A])) {
        let rows = self.values.len().checked_div(self.width).unwrap_or(n.max(1));
        for start in (0..n).step_by(rows) {
            let block = start..(start + rows).min(n);
            let values = &mut self.values[..block.len() * self.width];
            values.fill(A::ZERO);
            f(block, values);
        }
    }
}

/// The intermediate results of one instance, for up to `n` vertices and `m` hyperedges.
struct Scratch<A> {
    /// Rows of F sums for each hyperedge: z = B⁻¹ Hᵀ R x, and q = Hᵀ L g.
    z: Vec<A>,
    q: Vec<A>,
    /// For each vertex: D, L, and the gradient of D.
    degree: Vec<A>,
    left: Vec<A>,
    degree_gradient: Vec<f64>,
    /// For each hyperedge: U B⁻¹. In a step, for each row of its result: the scale and mean.
    pull: Vec<A>,
}

impl<A: Accumulator> Scratch<A> {
    fn new<'t>(topologies: impl Iterator<Item = &'t Incidence> + Clone, features: usize) -> Result<Self> {
        let most = |axis| topologies.clone().map(|t| t.size(axis)).max().unwrap_or(0);
        let (n, m) = (most(Axis::Vertex), most(Axis::Hyperedge));
        let rows = m.checked_mul(features).ok_or(Error::TooLarge {
            what: "the scratch memory of one instance",
            value: m as u128 * features as u128,
            bound: usize::MAX as u128,
        })?;
        let what = "the workspace";
        Ok(Self {
            z: try_zeroed(what, rows)?,
            q: try_zeroed(what, rows)?,
            degree: try_zeroed(what, n)?,
            left: try_zeroed(what, n)?,
            degree_gradient: try_zeroed(what, n)?,
            pull: try_zeroed(what, n.max(m))?,
        })
    }
}

impl<T: Element> Workspace<T> {
    fn new(plan: Plan<T>, max_instances: usize) -> Result<Self> {
        if let Some(value) = plan.batch().n_instances().filter(|&n| n > max_instances) {
            return Err(Error::TooManyInstances { value, bound: max_instances });
        }
        let on = |path| plan.batch().topologies().iter().filter(move |t| Path::choose(t) == path);
        let n_slots = rayon::current_num_threads();
        let mut slots = try_with_capacity("the workspace", n_slots)?;
        for _ in 0..n_slots {
            slots.push(Scratch::new(on(Path::Gather), plan.features())?);
        }
        let large = Scratch::new(on(Path::GatherRows), plan.features())?;
        let rows = |path| on(path).map(|t| t.n_vertices() + t.n_hyperedges()).max().unwrap_or(0);
        let partials = Partials::new(rows(Path::Gather), max_instances)?;
        let large_sums = try_zeroed("the workspace", rows(Path::GatherRows))?;
        Ok(Self { plan, max_instances, slots, large, large_sums, partials })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<T> {
        &self.plan
    }

    /// The most instances that a call may have.
    pub fn max_instances(&self) -> usize {
        self.max_instances
    }
}

impl<T: Element> std::fmt::Debug for Workspace<T> {
    /// Without the scratch memory.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { plan, max_instances, slots, .. } = self;
        let mut shown = f.debug_struct("Workspace");
        shown.field("plan", plan).field("max_instances", max_instances).field("slots", &slots.len());
        shown.finish_non_exhaustive()
    }
}

fn operand<T>(name: &'static str, axis: Axis, rows: &Rows<&[T]>) -> Operand {
    Operand { name, axis, layout: rows.layout, len: rows.buffer.len() }
}

fn output<T>(name: &'static str, axis: Axis, rows: &Out<Rows<&mut [T]>>) -> Option<Operand> {
    rows.as_ref().map(|rows| Operand { name, axis, layout: rows.layout, len: rows.buffer.len() })
}

/// An operand that is read, checked.
#[derive(Clone, Copy)]
struct Input<'a, T> {
    buffer: &'a [T],
    placement: Placement,
}

impl<'a, T: Element> Input<'a, T> {
    fn new(rows: Rows<&'a [T]>, operand: Operand, batch: &Batch, instances: usize) -> Result<Self> {
        Ok(Self { buffer: rows.buffer, placement: operand.place(batch, instances, false)? })
    }

    /// The rows of one instance, to gather from.
    fn source<'s>(
        &self,
        batch: &Batch,
        instance: usize,
        scale: Option<&'s [T::Acc]>,
        skip_zero: bool,
    ) -> Source<'s, T>
    where
        'a: 's,
    {
        Source {
            rows: &self.buffer[self.placement.base(batch, instance).min(self.buffer.len())..],
            row_stride: self.placement.row_stride(),
            features: self.placement.features,
            scale,
            skip_zero,
        }
    }
}

/// An operand that is written, checked; its rows are disjoint.
struct Output<'a, T> {
    buffer: Disjoint<'a, T>,
    placement: Placement,
    add: bool,
}

impl<'a, T: Element> Output<'a, T> {
    /// `None` where the result is not wanted.
    fn new(
        rows: Out<Rows<&'a mut [T]>>,
        operand: Option<Operand>,
        batch: &Batch,
        instances: usize,
    ) -> Result<Option<Self>> {
        let Some(operand) = operand else { return Ok(None) };
        let placement = operand.place(batch, instances, true)?;
        let (rows, add) = match rows {
            Out::Overwrite(rows) => (rows, false),
            Out::Add(rows) => (rows, true),
            Out::Skip => return Ok(None),
        };
        Ok(Some(Self { buffer: Disjoint::new(rows.buffer), placement, add }))
    }

    /// Where row `i` of `instance` is stored, times `scale`.
    ///
    /// # Safety
    /// As long as the result lives, nobody else stores this row of this instance.
    unsafe fn store(&self, batch: &Batch, instance: usize, i: usize, scale: T::Acc) -> Store<'_, T> {
        let start = self.placement.base(batch, instance) + i * self.placement.row_stride();
        // SAFETY: rows of the placement do not overlap, and this one is the caller's.
        let row = unsafe { self.buffer.part(start..start + self.placement.features) };
        Store { row, scale, add: self.add }
    }
}

/// Checks that a wanted gradient has as many elements as what it is the gradient of.
fn check_gradient<A: Accumulator>(name: &'static str, values: &Out<&mut [A]>, len: usize) -> Result<()> {
    match values.as_ref() {
        Some(values) if values.len() != len => {
            let relation = "are those that it is the gradient of";
            Err(Error::Shape { operand: name, what: "elements", value: values.len(), bound: len, relation })
        }
        _ => Ok(()),
    }
}

/// The gradient as a sum to add to, which starts at zero if it is to be overwritten; `None` if it is not wanted.
fn started<A: Accumulator>(values: Out<&mut [A]>) -> Option<&mut [A]> {
    match values {
        Out::Overwrite(values) => {
            values.fill(A::ZERO);
            Some(values)
        }
        Out::Add(values) => Some(values),
        Out::Skip => None,
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
