//! Scratch memory, made once for all calls.

use std::ops::Range;

use super::{Path, Plan};
use crate::axis::Axis;
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::incidence::Incidence;

/// The scratch memory of a plan, and the operators.
pub struct Workspace<T: Element> {
    pub(super) plan: Plan<T>,
    pub(super) max_instances: usize,
    pub(super) memory: Memory<T::Acc>,
}

/// All scratch memory of a workspace.
pub(super) struct Memory<A> {
    /// For topologies on [`Path::Gather`]: one for each thread.
    pub(super) slots: Vec<Scratch<A>>,
    pub(super) partials: Partials<A>,
    /// For topologies on [`Path::GatherRows`], and the gradients of one chunk.
    pub(super) large: Scratch<A>,
    pub(super) large_sums: Vec<A>,
}

/// The elements of [`Partials`]: 1 or 2 MiB, which stay in cache, and enough for hundreds of small instances.
const PARTIAL_ELEMENTS: usize = 1 << 18;

/// Gradients of weights or scales of some chunks, one row each (as wide as the window of an instance), on the way into
/// the gradient of the batch.
#[derive(Debug)]
pub(super) struct Partials<A> {
    values: Vec<A>,
    pub(super) width: usize,
}

impl<A: Accumulator> Partials<A> {
    fn new(width: usize, max_rows: usize) -> Result<Self> {
        let rows = (PARTIAL_ELEMENTS / width.max(1)).clamp(1, max_rows.max(1));
        Ok(Self { values: try_zeroed("partial weight gradients", rows * width)?, width })
    }

    /// Calls `f` for consecutive blocks of `0..n`, with a zeroed row of partial gradients for each number.
    pub(super) fn for_each_block(&mut self, n: usize, mut f: impl FnMut(Range<usize>, &mut [A])) {
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
pub(super) struct Scratch<A> {
    /// Rows of F sums for each hyperedge: z = B⁻¹ Hᵀ R x, and q = Hᵀ L g.
    pub(super) z: Vec<A>,
    pub(super) q: Vec<A>,
    /// For each vertex: D, L, L as the gradients of weights see it, the shift, and the gradient of D.
    pub(super) degree: Vec<A>,
    pub(super) left: Vec<A>,
    pub(super) weight_left: Vec<A>,
    pub(super) vertex_shift: Vec<i32>,
    pub(super) degree_gradient: Vec<f64>,
    /// For each hyperedge: its shift.
    pub(super) edge_shift: Vec<i32>,
    /// For each hyperedge: U B⁻¹. In a step, for each row of its result: the scale and mean.
    pub(super) pull: Vec<A>,
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
            weight_left: try_zeroed(what, n)?,
            vertex_shift: try_zeroed(what, n)?,
            edge_shift: try_zeroed(what, m)?,
            degree_gradient: try_zeroed(what, n)?,
            pull: try_zeroed(what, n.max(m))?,
        })
    }
}

impl<T: Element> Workspace<T> {
    pub(super) fn new(plan: Plan<T>, max_instances: usize) -> Result<Self> {
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
        let width = |path| on(path).map(|t| t.n_vertices().max(t.n_hyperedges())).max().unwrap_or(0);
        let partials = Partials::new(width(Path::Gather), max_instances)?;
        let large_sums = try_zeroed("the workspace", width(Path::GatherRows))?;
        Ok(Self { plan, max_instances, memory: Memory { slots, partials, large, large_sums } })
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
        let Self { plan, max_instances, memory: Memory { slots, .. } } = self;
        let mut shown = f.debug_struct("Workspace");
        shown.field("plan", plan).field("max_instances", max_instances).field("slots", &slots.len());
        shown.finish_non_exhaustive()
    }
}
