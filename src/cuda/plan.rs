//! A plan: what stays from call to call.

use std::marker::PhantomData;
use std::sync::Arc;

use super::kernels::{Kernels, Needs};
use super::split::Split;
use super::{Checks, DeviceBatch, DeviceElement};
use crate::conv::Conv;
use crate::error::{Error, Result, fits_u32};
use crate::incidence::Incidence;
use crate::path::{Path, Paths, shared_bytes};

/// What stays from call to call: a batch on a device, the number of features F, the conventions of the
/// convolution, and whether kernels check every index. A clone is cheap.
#[derive(Clone)]
pub struct Plan<T: DeviceElement>(Arc<Parts<T>>);

struct Parts<T> {
    // Before the batch, which may be the last holder of the device.
    kernels: Kernels,
    /// Where the instances are on several paths.
    split: Option<Arc<Split>>,
    batch: DeviceBatch,
    features: u32,
    conv: Conv,
    checks: Checks,
    paths: Paths,
    /// The paths that some instance is on.
    used_paths: Vec<Path>,
    /// The shared memory of a block, enough for each topology on [`Path::SingleBlock`].
    shared_bytes: usize,
    element: PhantomData<fn() -> T>,
}

/// How a plan is made: [`Plan::builder`] begins, [`build`](Self::build) ends.
#[derive(Debug, Clone)]
#[must_use = "`build` makes the plan"]
pub struct PlanBuilder<'a, T> {
    batch: &'a DeviceBatch,
    features: usize,
    conv: Conv,
    checks: Checks,
    paths: Option<&'a [Path]>,
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

    /// A path for each topology of the batch, in their order; chosen by the plan unless set.
    pub fn paths(self, paths: &'a [Path]) -> Self {
        Self { paths: Some(paths), ..self }
    }

    /// Makes the plan. Loads the kernels if this is the first plan that needs them, and uploads which
    /// instances are on which path where a table batch has several.
    ///
    /// # Errors
    /// [`Error::UncheckedTables`] for [`Checks::Off`] on a batch whose tables were overwritten;
    /// [`Error::PathsMismatch`], [`Error::PathUnavailable`]; [`Error::TooLarge`] for 2³² features and more;
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn build(self) -> Result<Plan<T>> {
        let Self { batch, features, conv, checks, paths, element } = self;
        let paths = Paths::new::<T>(batch.batch().topologies(), features, paths)?;
        if batch.tables().overwritten && checks == Checks::Off {
            return Err(Error::UncheckedTables);
        }
        let features = fits_u32("the number of features", features)?;
        let _current = batch.device().enter()?;
        let used_paths = paths.used_by(batch.batch())?;
        let needs = Needs { long_rows: batch.tables().has_long_rows(), paths: &used_paths };
        let kernels = Kernels::load(batch.device(), T::kernels(checks), needs)?;
        let on_single_block = batch.batch().topologies().iter().zip(paths.as_slice());
        let on_single_block = on_single_block.filter(|&(_, &path)| path == Path::SingleBlock);
        let bytes = |t: &Incidence| {
            shared_bytes(t.n_vertices(), t.n_hyperedges(), features as usize, size_of::<T::Acc>())
        };
        let shared_bytes = on_single_block.map(|(topology, _)| bytes(topology)).max().unwrap_or(0);
        let split = Split::new(batch, &paths, &used_paths)?.map(Arc::new);
        let batch = batch.clone();
        Ok(Plan(Arc::new(Parts {
            split,
            batch,
            features,
            conv,
            checks,
            paths,
            used_paths,
            shared_bytes,
            kernels,
            element,
        })))
    }
}

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
        PlanBuilder { batch, features, conv, checks, paths: None, element: PhantomData }
    }

    /// How the convolution of each topology's instances is computed.
    pub fn paths(&self) -> &[Path] {
        self.0.paths.as_slice()
    }

    /// The paths that some instance is on.
    pub(super) fn used_paths(&self) -> &[Path] {
        &self.0.used_paths
    }

    /// The shared memory of a block, enough for each topology on [`Path::SingleBlock`].
    pub(super) fn shared_bytes(&self) -> usize {
        self.0.shared_bytes
    }

    pub(super) fn split(&self) -> Option<&Arc<Split>> {
        self.0.split.as_ref()
    }

    /// The batch.
    pub fn batch(&self) -> &DeviceBatch {
        &self.0.batch
    }

    /// The number of features F.
    pub fn features(&self) -> usize {
        self.0.features as usize
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

    pub(super) fn kernels(&self) -> &Kernels {
        &self.0.kernels
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
