//! What stays from call to call.

use std::marker::PhantomData;
use std::sync::Arc;

use super::threads::SMALL;
use crate::batch::Batch;
use crate::conv::Conv;
use crate::element::Element;
use crate::error::{Result, try_with_capacity};
use crate::incidence::Incidence;
use crate::operator::Operator;
use crate::pairs::{MatrixObstacles, Pairs, too_many_vertices};
use crate::path::{Path, Paths, Prepared};
use crate::rows::Widths;

/// What stays from call to call: a batch, the number of features F and the conventions of the convolution. A
/// clone is cheap.
#[derive(Debug)]
pub struct Plan<T> {
    shared: Arc<PlanParts>,
    element: PhantomData<fn() -> T>,
}

impl<T> Clone for Plan<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), element: self.element }
    }
}

#[derive(Debug)]
struct PlanParts {
    batch: Batch,
    widths: Widths,
    conv: Conv,
    paths: Paths,
    obstacles: MatrixObstacles,
    /// Of each topology.
    prepared: Vec<Prepared>,
    /// About what an instance takes, in products, of the topology that takes most.
    work: usize,
}

/// How a plan is made: [`Plan::builder`] begins, [`build`](Self::build) ends.
#[derive(Debug, Clone)]
#[must_use = "`build` makes the plan"]
pub struct PlanBuilder<'a, T> {
    batch: &'a Batch,
    features: usize,
    inputs: Option<usize>,
    conv: Conv,
    paths: Option<&'a [Path]>,
    element: PhantomData<fn() -> T>,
}

impl<'a, T: Element> PlanBuilder<'a, T> {
    /// The conventions of the convolution; [`Conv::default`] unless set.
    pub fn conv(self, conv: Conv) -> Self {
        Self { conv, ..self }
    }

    /// The number of features of a layer's x; F unless set. Nothing else uses it.
    pub fn inputs(self, inputs: usize) -> Self {
        Self { inputs: Some(inputs), ..self }
    }

    /// A path for each topology of the batch, in their order; chosen by the plan unless set.
    pub fn paths(self, paths: &'a [Path]) -> Self {
        Self { paths: Some(paths), ..self }
    }

    /// Makes the plan.
    ///
    /// # Errors
    /// [`Error::PathsMismatch`](crate::Error::PathsMismatch),
    /// [`Error::PathUnavailable`](crate::Error::PathUnavailable),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    #[inline(never)]
    pub fn build(self) -> Result<Plan<T>> {
        let Self { batch, features, inputs, conv, paths, element } = self;
        let paths = Paths::new::<T>(batch.topologies(), paths)?;
        let mut prepared = try_with_capacity("what is ready for each topology", paths.as_slice().len())?;
        let obstacles = MatrixObstacles::new(batch)?;
        for (topology, &path) in batch.topologies().iter().zip(paths.as_slice()) {
            let has_matrix = obstacles.has_conv() && Pairs::obstacle(topology).is_none();
            prepared.push(Prepared::new(path, topology, has_matrix)?);
        }
        let work = batch.topologies().iter().map(|topology| work(topology, features)).max().unwrap_or(0);
        let (batch, widths) = (batch.clone(), Widths { features, inputs: inputs.unwrap_or(features) });
        let shared = Arc::new(PlanParts { batch, widths, conv, paths, obstacles, prepared, work });
        Ok(Plan { shared, element })
    }
}

compiled_here!(PlanBuilder::<T>::build as fn(_) -> _);

/// About what an instance takes in the operator that takes most of it, in products: rows of vertices and
/// hyperedges, a matrix of all vertices if they are so few that there may be one, and the pairs of vertices
/// of each hyperedge, which that is formed from whatever the number of features.
fn work(topology: &Incidence, features: usize) -> usize {
    let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
    let has_matrix = too_many_vertices(topology).is_none();
    let rows = topology.n_incidences().saturating_mul(2).saturating_add(n).saturating_add(m);
    let products = if has_matrix { rows.max(n * n) } else { rows };
    let squares = topology.by_edge().rows().map(|members| members.len().saturating_mul(members.len()));
    let pairs = if has_matrix { squares.fold(0, usize::saturating_add) } else { 0 };
    products.saturating_mul(features).saturating_add(pairs)
}

impl<T: Element> Plan<T> {
    /// Begins a plan for rows of `features` elements.
    ///
    /// ```
    /// use hyperscatter::{Batch, Conv, Incidence, Normalization, WeightUse, cpu::Plan};
    ///
    /// let batch = Batch::replicate(Incidence::subsets(4, 2)?);
    /// let plan = Plan::<f32>::builder(&batch, 16).build()?;
    /// let conv = Conv::new(Normalization::Symmetric, WeightUse::MessageOnly);
    /// let symmetric = Plan::<f32>::builder(&batch, 16).conv(conv).build()?;
    /// # Ok::<(), hyperscatter::Error>(())
    /// ```
    pub fn builder(batch: &Batch, features: usize) -> PlanBuilder<'_, T> {
        let (inputs, conv, paths, element) = (None, Conv::default(), None, PhantomData);
        PlanBuilder { batch, features, inputs, conv, paths, element }
    }

    /// The batch.
    pub fn batch(&self) -> &Batch {
        &self.shared.batch
    }

    /// The number of features F.
    pub fn features(&self) -> usize {
        self.shared.widths.features
    }

    /// The number of features of a layer's x.
    pub fn inputs(&self) -> usize {
        self.shared.widths.inputs
    }

    /// Both of these numbers.
    pub(super) fn widths(&self) -> Widths {
        self.shared.widths
    }

    /// The conventions of the convolution.
    pub fn conv(&self) -> Conv {
        self.shared.conv
    }

    /// Whether any call with so many instances, but for one of a layer, has so little to do that other
    /// threads would take longer to wake: it is faster [on the calling thread
    /// alone](super::on_this_thread).
    pub fn is_small(&self, instances: usize) -> bool {
        self.shared.work.saturating_mul(instances) <= SMALL
    }

    /// How the instances of a topology are computed, and what is ready for it.
    pub(super) fn prepared(&self, topology: usize) -> &Prepared {
        &self.shared.prepared[topology]
    }

    /// Refuses an operator that the plan has not: one of matrices where a topology in use is too large for
    /// them.
    ///
    /// # Errors
    /// [`Error::MatrixUnavailable`](crate::Error::MatrixUnavailable): what its calls return.
    pub fn check_operator(&self, operator: Operator) -> Result<()> {
        if operator.has_matrices() { self.check_matrices(operator) } else { Ok(()) }
    }

    /// Refuses an operator with a matrix for each instance, if some topology in use is too large.
    pub(super) fn check_matrices(&self, operator: Operator) -> Result<()> {
        self.shared.obstacles.check(operator)
    }

    /// Whether anything of a topology is computed by a matrix: its convolution, or an operator with a matrix
    /// for each instance.
    pub(super) fn has_matrices(&self, topology: usize) -> bool {
        let is_small = || too_many_vertices(&self.batch().topologies()[topology]).is_none();
        self.shared.obstacles.has_products() && is_small() || self.prepared(topology).pairs().is_some()
    }

    /// How the convolution of each topology's instances is computed.
    pub fn paths(&self) -> &[Path] {
        self.shared.paths.as_slice()
    }
}
