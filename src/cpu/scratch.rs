//! The intermediate results of instances.

use super::dense::{DenseOperator, Gram, Room};
use super::lanes::most_lanes;
use super::plan::Plan;
use super::schedule::{Parallel, Schedule, Task, for_each};
use super::threads::n_threads;
use super::tree_sums::{BlockTree, Tree};
use crate::axis::Axis;
use crate::chunks::CHUNK_INSTANCES;
use crate::element::Element;
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::summation::SEGMENT_ROWS;

/// The most instances of a task whose sums are added in trees.
const TASK_INSTANCES: usize = if CHUNK_INSTANCES > SEGMENT_ROWS { CHUNK_INSTANCES } else { SEGMENT_ROWS };

/// Rows of vertices, without gaps. Their memory is there from the start, and touched where a
/// call first uses it: most plans have no epilogue.
pub(super) struct ScratchRows<T>(Vec<T>);

impl<T: Element> ScratchRows<T> {
    pub(super) fn with_room(len: usize) -> Result<Self> {
        Ok(Self(try_with_capacity("the workspace", len)?))
    }

    /// `len` elements, to write. There must be room for them.
    pub(super) fn write(&mut self, len: usize) -> &mut [T] {
        if self.0.len() < len {
            self.0.resize(len, T::default());
        }
        &mut self.0[..len]
    }

    /// All elements that were ever written.
    pub(super) fn read(&self) -> &[T] {
        &self.0
    }
}

/// The intermediate results of one instance, for up to `n` vertices and `m` hyperedges.
pub(super) struct Scratch<T: Element> {
    /// For each hyperedge of a topology that is not computed by its M a row of F sums: z = B⁻¹ Hᵀ R x.
    pub(super) z: Vec<T::Acc>,
    /// The same: q = Hᵀ L g.
    pub(super) q: Vec<T::Acc>,
    /// For each vertex: D.
    pub(super) degree: Vec<T::Acc>,
    /// L: D⁻¹ or D^(−1/2), see [`inv_degree`](super::degree::inv_degree).
    pub(super) inv_degree: Vec<T::Acc>,
    /// L, but 0 where the weight of the only hyperedge cancels out.
    pub(super) weight_inv_degree: Vec<T::Acc>,
    /// The shift of a vertex; 0 where the conventions shift nothing.
    pub(super) vertex_shift: Vec<i32>,
    /// ∂loss/∂D.
    pub(super) degree_gradient: Vec<f64>,
    /// For each hyperedge its shift; 0 where the conventions shift nothing.
    pub(super) edge_shift: Vec<i32>,
    /// For each row of a result the factor that its gradient is passed on with: U B⁻¹ of a hyperedge; in a
    /// step, the scale and mean.
    pub(super) row_scale: Vec<T::Acc>,
    /// M of an instance whose topology has one, or of several.
    pub(super) dense: DenseOperator<T::Acc>,
    /// Γ of these instances, in lanes.
    pub(super) gamma: Vec<f64>,
    /// The gradients of a task whose instances have windows of their own.
    pub(super) sums: Vec<T::Acc>,
    /// Γ of instances whose topology has an M, and of several chunks of them.
    pub(super) gram: Gram<T::Acc>,
    pub(super) tree: Tree,
    /// The sum of the rows of t of several chunks of such instances.
    pub(super) bias: BlockTree,
    /// Rows of vertices that an epilogue makes: those of y that a readout sums, or t.
    pub(super) rows: ScratchRows<T>,
    /// A row of the instance: the sum of a readout, or the gradient of all its vertices.
    pub(super) instance_row: Vec<T::Acc>,
}

impl<T: Element> Scratch<T> {
    /// For what is computed like this.
    fn new(plan: &Plan<T>, parallel: Parallel) -> Result<Self> {
        let topologies = || plan.batch().topologies().iter().enumerate();
        let topologies = || topologies().filter(|&(id, _)| parallel.is_of(plan, id));
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
        let has_matrices = |id| parallel == Parallel::Instances && plan.has_matrices(id);
        let dense = || topologies().filter(|&(id, _)| has_matrices(id));
        let sizes = || dense().map(|(_, t)| t.n_vertices());
        let is_gathered = |id, t| plan.prepared(id).has_edge_rows() && Parallel::of(t) == parallel;
        let gathered = topologies().filter(|&(id, t)| is_gathered(id, t));
        let gathered = rows(gathered.map(|(_, t)| t.n_hyperedges()).max().unwrap_or(0))?;
        let n_dense = sizes().max().unwrap_or(0);
        let lanes = |id| if plan.prepared(id).has_several_windows() { most_lanes::<T::Acc>() } else { 1 };
        let operators = dense().map(|(id, topology)| Room::of_operators(topology, lanes(id)));
        let products = sizes().map(|n| Room::of_products::<T>(n, features));
        let room = operators.chain(products).fold(Room::default(), Room::or);
        let sums = topologies().map(|(id, t)| t.n_vertices().max(t.n_hyperedges() * lanes(id)));
        let what = "the workspace";
        Ok(Self {
            z: try_zeroed(what, gathered)?,
            q: try_zeroed(what, gathered)?,
            degree: try_zeroed(what, n)?,
            inv_degree: try_zeroed(what, n)?,
            weight_inv_degree: try_zeroed(what, n)?,
            vertex_shift: try_zeroed(what, n)?,
            edge_shift: try_zeroed(what, m)?,
            degree_gradient: try_zeroed(what, n)?,
            row_scale: try_zeroed(what, n.max(m))?,
            dense: DenseOperator::with_room(room)?,
            gamma: try_zeroed(what, room.pairs())?,
            sums: try_zeroed(what, sums.max().unwrap_or(0))?,
            gram: Gram::with_room(room)?,
            tree: Tree::with_room(n_dense * n_dense, TASK_INSTANCES)?,
            bias: BlockTree::with_room(if dense().next().is_none() { 0 } else { features }, TASK_INSTANCES)?,
            rows: ScratchRows::with_room(rows(n)?)?,
            instance_row: try_zeroed(what, features)?,
        })
    }
}

/// The intermediate results of all instances that are computed at the same time.
pub(super) struct Memory<T: Element> {
    /// Where instances are computed in parallel: one for each thread.
    pub(super) threads: Vec<Scratch<T>>,
    /// Where the rows of an instance are.
    pub(super) large: Scratch<T>,
}

impl<T: Element> Memory<T> {
    pub(super) fn new(plan: &Plan<T>) -> Result<Self> {
        let n = n_threads();
        let mut threads = try_with_capacity("the workspace", n)?;
        for _ in 0..n {
            threads.push(Scratch::new(plan, Parallel::Instances)?);
        }
        Ok(Self { threads, large: Scratch::new(plan, Parallel::Rows)? })
    }

    /// Calls `f` for each chunk of `schedule` that has instances.
    pub(super) fn for_each_chunk(
        &mut self,
        schedule: &Schedule<'_, T>,
        f: impl Fn(&Task<'_>, &mut Scratch<T>) + Sync,
    ) {
        for_each(&mut self.threads, 0..schedule.n_chunks(), |scratch, c| {
            schedule.tasks_in(Parallel::Instances, c).for_each(|task| f(&task, scratch));
        });
        schedule.large().for_each(|task| f(&task, &mut self.large));
    }
}
