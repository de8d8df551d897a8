//! A plan: what stays from call to call.

use std::sync::Arc;

use super::kernels::Kernels;
use super::{Checks, DeviceBatch, DeviceElement};
use crate::conv::Conv;
use crate::error::{Error, Result, fits_u32};

/// What stays from call to call: a batch on a device, the number of features F, the conventions of the convolution, and
/// whether kernels check every index. A clone is cheap.
#[derive(Clone)]
pub struct Plan<T: DeviceElement>(Arc<Parts<T>>);

struct Parts<T> {
    // Before the batch, which may be the last holder of the device.
    kernels: Kernels,
    batch: DeviceBatch,
    features: u32,
    conv: Conv,
    checks: Checks,
    element: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeviceElement> Plan<T> {
    /// A plan for rows of `features` elements. Loads the kernels if this is the first plan that needs them.
    ///
    /// # Errors
    /// [`Error::UncheckedTables`] for [`Checks::Off`] on a batch whose tables were overwritten; [`Error::TooLarge`] for 2³²
    /// features and more; [`Error::Driver`].
    pub fn new(batch: &DeviceBatch, features: usize, conv: Conv, checks: Checks) -> Result<Self> {
        if batch.tables().overwritten && checks == Checks::Off {
            return Err(Error::UncheckedTables);
        }
        let features = fits_u32("the number of features", features)?;
        let _current = batch.device().enter()?;
        let kernels = Kernels::load(batch.device(), T::kernels(checks), false)?;
        let (batch, element) = (batch.clone(), std::marker::PhantomData);
        Ok(Self(Arc::new(Parts { batch, features, conv, checks, kernels, element })))
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

    /// Whether there are vertices whose part in the gradients of weights is 0 whatever the weights: those of a single incidence,
    /// where that makes y_v = z_e. To leave them out takes a gather of its own.
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
