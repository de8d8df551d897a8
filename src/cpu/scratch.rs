//! The intermediate results of instances.

use super::dense::DenseOperator;
use super::plan::Plan;
use super::schedule::{Parallel, Schedule, Task, for_each};
use crate::axis::Axis;
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::incidence::Incidence;
use crate::pairs::MOST_VERTICES;

/// The intermediate results of one instance, for up to `n` vertices and `m` hyperedges.
pub(super) struct Scratch<A> {
    /// For each hyperedge a row of F sums: z = B⁻¹ Hᵀ R x.
    pub(super) z: Vec<A>,
    /// The same: q = Hᵀ L g.
    pub(super) q: Vec<A>,
    /// For each vertex: D.
    pub(super) degree: Vec<A>,
    /// L: D⁻¹ or D^(−1/2), see [`inv_degree`](super::degree::inv_degree).
    pub(super) inv_degree: Vec<A>,
    /// L, but 0 where the weight of the only hyperedge cancels out.
    pub(super) weight_inv_degree: Vec<A>,
    /// The shift of a vertex; 0 where the conventions shift nothing.
    pub(super) vertex_shift: Vec<i32>,
    /// ∂loss/∂D.
    pub(super) degree_gradient: Vec<f64>,
    /// For each hyperedge its shift; 0 where the conventions shift nothing.
    pub(super) edge_shift: Vec<i32>,
    /// For each row of a result the factor that its gradient is passed on with: U B⁻¹ of a hyperedge; in a
    /// step, the scale and mean.
    pub(super) row_scale: Vec<A>,
    /// M of an instance whose topology has one.
    pub(super) dense: DenseOperator<A>,
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
            inv_degree: try_zeroed(what, n)?,
            weight_inv_degree: try_zeroed(what, n)?,
            vertex_shift: try_zeroed(what, n)?,
            edge_shift: try_zeroed(what, m)?,
            degree_gradient: try_zeroed(what, n)?,
            row_scale: try_zeroed(what, n.max(m))?,
            dense: DenseOperator::with_room(n.min(MOST_VERTICES))?,
        })
    }
}

/// The intermediate results of all instances that are computed at the same time.
pub(super) struct Memory<A> {
    /// Where instances are computed in parallel: one for each thread.
    pub(super) threads: Vec<Scratch<A>>,
    /// Where the rows of an instance are.
    pub(super) large: Scratch<A>,
}

impl<A: Accumulator> Memory<A> {
    pub(super) fn new<T: Element<Acc = A>>(plan: &Plan<T>) -> Result<Self> {
        let of = |parallel| {
            let topologies = plan.batch().topologies().iter();
            Scratch::new(topologies.filter(move |t| Parallel::of(t) == parallel), plan.features())
        };
        let n_threads = rayon::current_num_threads();
        let mut threads = try_with_capacity("the workspace", n_threads)?;
        for _ in 0..n_threads {
            threads.push(of(Parallel::Instances)?);
        }
        Ok(Self { threads, large: of(Parallel::Rows)? })
    }

    /// Calls `f` for each chunk of `schedule` that has instances.
    pub(super) fn for_each_chunk<T: Element<Acc = A>>(
        &mut self,
        schedule: &Schedule<'_, T>,
        f: impl Fn(&Task<'_>, &mut Scratch<A>) + Sync,
    ) {
        for_each(&mut self.threads, 0..schedule.n_chunks(), |scratch, c| {
            if let Some(task) = schedule.task_of(Parallel::Instances, c) {
                f(&task, scratch);
            }
        });
        schedule.large().for_each(|task| f(&task, &mut self.large));
    }
}
