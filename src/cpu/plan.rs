//! What stays from call to call.

use std::sync::Arc;

use crate::batch::Batch;
use crate::conv::Conv;
use crate::element::Element;
use crate::error::{Error, Result, fits_u32};
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
}

impl<T: Element> Plan<T> {
    /// A plan for rows of `features` elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(batch: &Batch, features: usize, conv: Conv) -> Result<Self> {
        let shared = Arc::new(PlanParts { batch: batch.clone(), features, conv });
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
