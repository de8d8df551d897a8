//! What stays from call to call.

use std::sync::Arc;

use crate::batch::Batch;
use crate::conv::Conv;
use crate::element::Element;
use crate::error::{Error, Result, fits_u32};
use crate::path::{Path, Paths};
use crate::rows::{Operand, agree_on_instances};

/// What stays from call to call: a batch, the number of features F and the conventions of the convolution. A
/// clone is cheap.
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
    paths: Paths,
}

impl<T: Element> Plan<T> {
    /// A plan for rows of `features` elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(batch: &Batch, features: usize, conv: Conv) -> Result<Self> {
        Self::on(batch, features, conv, Paths::choose::<T>(batch.topologies(), features)?)
    }

    /// A plan with a path for each topology of the batch, in their order, instead of those that are chosen.
    ///
    /// # Errors
    /// [`Error::PathsMismatch`], [`Error::PathUnavailable`], [`Error::OutOfMemory`].
    pub fn with_paths(batch: &Batch, features: usize, conv: Conv, paths: &[Path]) -> Result<Self> {
        Self::on(batch, features, conv, Paths::given::<T>(batch.topologies(), features, paths)?)
    }

    fn on(batch: &Batch, features: usize, conv: Conv, paths: Paths) -> Result<Self> {
        let shared = Arc::new(PlanParts { batch: batch.clone(), features, conv, paths });
        Ok(Self { shared, element: std::marker::PhantomData })
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

    /// How the convolution of each topology's instances is computed.
    pub fn paths(&self) -> &[Path] {
        self.shared.paths.as_slice()
    }

    /// The number of instances of a call with these operands.
    pub(super) fn instances(&self, operands: &[Option<Operand>], max_instances: usize) -> Result<usize> {
        let value = agree_on_instances(self.batch(), self.features(), operands.iter().flatten())?;
        fits_u32("the number of instances", value)?;
        if value > max_instances {
            return Err(Error::TooManyInstances { value, bound: max_instances });
        }
        Ok(value)
    }
}
