//! The intermediate results of instances.

use super::dense::{DenseOperator, Gram, Room};
use super::plan::Plan;
use super::schedule::{Parallel, Schedule, Task, for_each};
use super::tree_sums::Tree;
use crate::axis::Axis;
use crate::chunks::CHUNK_INSTANCES;
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result, try_with_capacity, try_zeroed};

/// The intermediate results of one instance, for up to `n` vertices and `m` hyperedges.
pub(super) struct Scratch<A> {
    /// For each hyperedge a row of F sums: z = B⁻¹ Hᵀ R x.
    pub(super) z: Vec<A>,
    /// The same: q = Hᵀ L g, of a topology that is not computed by its M.
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
    /// Γ of instances whose topology has an M, and of several chunks of them.
    pub(super) gram: Gram<A>,
    pub(super) tree: Tree,
}

impl<A: Accumulator> Scratch<A> {
    /// For the topologies that are computed like this.
    fn new<T: Element<Acc = A>>(plan: &Plan<T>, parallel: Parallel) -> Result<Self> {
        let topologies = || plan.batch().topologies().iter().enumerate();
        let topologies = || topologies().filter(|(_, topology)| Parallel::of(topology) == parallel);
        let most = |axis| topologies().map(|(_, t)| t.size(axis)).max().unwrap_or(0);
        let (n, m) = (most(Axis::Vertex), most(Axis::Hyperedge));
        let features = plan.features();
        let rows = |m: usize| {
            m.checked_mul(features).ok_or(Error::TooLarge {
                what: "the scratch memory of one instance",
                value: m as u128 * features as u128,
                bound: usize::MAX as u128,
            })
        };
        let is_dense = |id: usize| plan.pairs(id).is_some();
        let dense = || topologies().filter(|&(id, _)| is_dense(id)).map(|(_, t)| t.n_vertices());
        let gathered = topologies().filter(|&(id, _)| !is_dense(id)).map(|(_, t)| t.n_hyperedges());
        let n_dense = dense().max().unwrap_or(0);
        let room = dense().map(|n| Room::new::<T>(n, features)).fold(Room::default(), Room::or);
        let what = "the workspace";
        Ok(Self {
            z: try_zeroed(what, rows(m)?)?,
            q: try_zeroed(what, rows(gathered.max().unwrap_or(0))?)?,
            degree: try_zeroed(what, n)?,
            inv_degree: try_zeroed(what, n)?,
            weight_inv_degree: try_zeroed(what, n)?,
            vertex_shift: try_zeroed(what, n)?,
            edge_shift: try_zeroed(what, m)?,
            degree_gradient: try_zeroed(what, n)?,
            row_scale: try_zeroed(what, n.max(m))?,
            dense: DenseOperator::with_room(n_dense)?,
            gram: Gram::with_room(room)?,
            tree: Tree::with_room(n_dense * n_dense, CHUNK_INSTANCES)?,
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
        let n_threads = rayon::current_num_threads();
        let mut threads = try_with_capacity("the workspace", n_threads)?;
        for _ in 0..n_threads {
            threads.push(Scratch::new(plan, Parallel::Instances)?);
        }
        Ok(Self { threads, large: Scratch::new(plan, Parallel::Rows)? })
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
