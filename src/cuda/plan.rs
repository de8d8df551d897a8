//! A plan: what stays from call to call.

use std::marker::PhantomData;
use std::sync::Arc;

use super::kernels::KernelSet;
use super::route::Route;
use super::split::Split;
use super::{Checks, DeviceBatch, DeviceElement};
use crate::conv::Conv;
use crate::error::{Error, Result, fits_u32, try_zeroed};
use crate::layer::Precision;
use crate::operator::Operator;
use crate::pairs::MatrixObstacles;
use crate::path::{Path, Paths};
use crate::rows::Widths;

/// What stays from call to call: a batch on a device, the number of features F, the conventions of the
/// convolution, and whether kernels check every index. A clone is cheap.
#[derive(Clone)]
pub struct Plan<T: DeviceElement>(Arc<Parts<T>>);

struct Parts<T> {
    by_path: Routes,
    /// As if all were on the path of dense operators.
    by_class: Routes,
    obstacles: MatrixObstacles,
    batch: DeviceBatch,
    /// As many as a `u32` holds at most.
    widths: Widths,
    precision: Precision,
    conv: Conv,
    checks: Checks,
    kernels: &'static KernelSet,
    paths: Paths,
    element: PhantomData<fn() -> T>,
}

/// The routes that some instance is on, and which instances those are.
#[derive(Clone)]
struct Routes {
    routes: Vec<Route>,
    /// Where the instances are on several.
    split: Option<Arc<Split>>,
}

impl Routes {
    /// Given which topologies are in use. The context must be current.
    fn new(batch: &DeviceBatch, is_used: &[bool], route_of: impl Fn(usize) -> Route) -> Result<Self> {
        let mut routes = Vec::new();
        for route in (0..is_used.len()).filter(|&id| is_used[id]).map(&route_of) {
            if !routes.contains(&route) {
                routes.push(route);
            }
        }
        let split = Split::new(batch, route_of, is_used, &routes)?.map(Arc::new);
        Ok(Self { routes, split })
    }
}

/// How a plan is made: [`Plan::builder`] begins, [`build`](Self::build) ends.
#[derive(Debug, Clone)]
#[must_use = "`build` makes the plan"]
pub struct PlanBuilder<'a, T> {
    batch: &'a DeviceBatch,
    features: usize,
    inputs: Option<usize>,
    precision: Precision,
    conv: Conv,
    checks: Checks,
    paths: Option<&'a [Path]>,
    copies_async: bool,
    element: PhantomData<fn() -> T>,
}

impl<'a, T: DeviceElement> PlanBuilder<'a, T> {
    /// The conventions of the convolution; [`Conv::default`] unless set.
    pub fn conv(self, conv: Conv) -> Self {
        Self { conv, ..self }
    }

    /// Whether kernels check every index; [`Checks::default`] unless set, which is [`Checks::On`] where this
    /// crate is built with debug assertions.
    pub fn checks(self, checks: Checks) -> Self {
        Self { checks, ..self }
    }

    /// The number of features of a layer's x; F unless set. Nothing else uses it.
    pub fn inputs(self, inputs: usize) -> Self {
        Self { inputs: Some(inputs), ..self }
    }

    /// How layers multiply `f32`; [`Precision::default`] unless set. Nothing else uses it.
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// A path for each topology of the batch, in their order; chosen by the plan unless set.
    pub fn paths(self, paths: &'a [Path]) -> Self {
        Self { paths: Some(paths), ..self }
    }

    /// Whether kernels may copy rows to shared memory asynchronously, where the device can. They do unless
    /// this is `false`: for benchmarks that compare both. The bits are the same.
    #[doc(hidden)]
    pub fn copies_async(self, copies_async: bool) -> Self {
        Self { copies_async, ..self }
    }

    /// Makes the plan. Uploads which instances are on which path where a table batch has several.
    ///
    /// # Errors
    /// [`Error::UncheckedTables`] for [`Checks::Off`] on a batch whose tables were overwritten;
    /// [`Error::PathsMismatch`], [`Error::PathUnavailable`]; [`Error::TooLarge`] for 2³² features or inputs
    /// and more; [`Error::OutOfMemory`], [`Error::Driver`].
    #[inline(never)]
    pub fn build(self) -> Result<Plan<T>> {
        let Self { batch, features, inputs, precision, conv, checks, paths, copies_async, element } = self;
        let widths = Widths { features, inputs: inputs.unwrap_or(features) };
        let paths = Paths::new::<T>(batch.batch().topologies(), paths)?;
        if batch.tables().overwritten && checks == Checks::Off {
            return Err(Error::UncheckedTables);
        }
        fits_u32("the number of features", widths.features)?;
        fits_u32("the number of inputs", widths.inputs)?;
        let _current = batch.device().enter()?;
        let topologies = batch.batch().topologies();
        let route_of = |topology: usize| Route::of(paths.as_slice()[topology], &topologies[topology]);
        let mut is_used = try_zeroed::<bool>("the topologies in use", topologies.len())?;
        match batch.batch().n_instances() {
            None => is_used.fill(true),
            Some(instances) => (0..instances).for_each(|g| is_used[batch.batch().topology_id(g)] = true),
        }
        let by_path = Routes::new(batch, &is_used, route_of)?;
        let obstacles = MatrixObstacles::new(batch.batch())?;
        let by_class = match obstacles.has_products() {
            false => Routes { routes: Vec::new(), split: None },
            true if by_path.routes.iter().all(|route| route.class().is_some()) => by_path.clone(),
            true => Routes::new(batch, &is_used, |id| Route::of(Path::Dense, &topologies[id]))?,
        };
        let kernels = T::kernels(checks, copies_async && batch.device().copies_async());
        let batch = batch.clone();
        let parts = Parts {
            by_path,
            by_class,
            obstacles,
            batch,
            widths,
            precision,
            conv,
            checks,
            kernels,
            paths,
            element,
        };
        Ok(Plan(Arc::new(parts)))
    }
}

compiled_here!(PlanBuilder::<T>::build as fn(_) -> _);

impl<T: DeviceElement> Plan<T> {
    /// Begins a plan for rows of `features` elements.
    ///
    /// ```no_run
    /// # use hyperscatter::{Batch, Incidence};
    /// use hyperscatter::cuda::{Checks, Device, Plan};
    ///
    /// # let batch = Batch::replicate(Incidence::subsets(4, 2)?);
    /// let batch = Device::open(0)?.upload(&batch)?;
    /// let plan = Plan::<f32>::builder(&batch, 16).checks(Checks::On).build()?;
    /// # Ok::<(), hyperscatter::Error>(())
    /// ```
    pub fn builder(batch: &DeviceBatch, features: usize) -> PlanBuilder<'_, T> {
        let (conv, checks) = (Conv::default(), Checks::default());
        let (inputs, precision) = (None, Precision::default());
        let (paths, copies_async, element) = (None, true, PhantomData);
        PlanBuilder { batch, features, inputs, precision, conv, checks, paths, copies_async, element }
    }

    /// How the convolution of each topology's instances is computed.
    pub fn paths(&self) -> &[Path] {
        self.0.paths.as_slice()
    }

    /// The routes that some instance is on.
    pub(super) fn routes(&self) -> &[Route] {
        &self.0.by_path.routes
    }

    /// The same as if all were on the path of dense operators; none where some have too many vertices.
    pub(super) fn classes(&self) -> &[Route] {
        &self.0.by_class.routes
    }

    /// Refuses an operator that the plan has not: one of matrices where a topology in use is too large for
    /// them, and a layer that no kernel computes in one pass.
    ///
    /// # Errors
    /// [`Error::MatrixUnavailable`](crate::Error::MatrixUnavailable),
    /// [`Error::LayerUnavailable`](crate::Error::LayerUnavailable): what their calls return.
    pub fn check_operator(&self, operator: Operator) -> Result<()> {
        match operator {
            Operator::Layer | Operator::LayerBackward => self.check_layer(operator),
            _ if operator.has_matrices() => self.check_matrices(operator),
            _ => Ok(()),
        }
    }

    /// Refuses an operator with a matrix for each instance, if some topology in use is too large.
    pub(super) fn check_matrices(&self, operator: Operator) -> Result<()> {
        self.0.obstacles.check(operator)
    }

    /// The route of the instances of a topology.
    pub(super) fn route_of(&self, topology: usize, by_class: bool) -> Route {
        let path = if by_class { Path::Dense } else { self.paths()[topology] };
        Route::of(path, &self.batch().batch().topologies()[topology])
    }

    /// Which instances are on which route: of those by path, or of those by class alone.
    pub(super) fn split(&self, by_class: bool) -> Option<&Arc<Split>> {
        if by_class { self.0.by_class.split.as_ref() } else { self.0.by_path.split.as_ref() }
    }

    /// The batch.
    pub fn batch(&self) -> &DeviceBatch {
        &self.0.batch
    }

    /// The number of features F.
    pub fn features(&self) -> usize {
        self.0.widths.features
    }

    /// The number of features of a layer's x.
    pub fn inputs(&self) -> usize {
        self.0.widths.inputs
    }

    /// Both of these numbers.
    pub(super) fn widths(&self) -> Widths {
        self.0.widths
    }

    /// How layers multiply `f32`.
    pub fn precision(&self) -> Precision {
        self.0.precision
    }

    /// The conventions of the convolution.
    pub fn conv(&self) -> Conv {
        self.0.conv
    }

    /// Whether the kernels check every index.
    pub fn checks(&self) -> Checks {
        self.0.checks
    }

    /// Whether the gradients of weights leave out vertices of a single incidence. Where the conventions make
    /// y_v = z_e for those, their part is 0 whatever the weights. To leave them out takes a gather of its
    /// own.
    pub(super) fn leaves_out_single_incidences(&self) -> bool {
        self.conv().single_incidences_cancel_out() && self.0.batch.tables().has_single_incidences
    }

    /// The kernels of its element type and checks.
    pub(super) fn kernels(&self) -> &'static KernelSet {
        self.0.kernels
    }
}

impl<T: DeviceElement> std::fmt::Debug for Plan<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Plan");
        shown
            .field("batch", self.batch())
            .field("features", &self.features())
            .field("conv", &self.conv())
            .field("checks", &self.checks());
        shown.finish_non_exhaustive()
    }
}
