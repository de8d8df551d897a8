//! What stays from call to call.

use std::sync::Arc;

use crate::batch::Batch;
use crate::conv::Conv;
use crate::element::Element;
use crate::error::Result;

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
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
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
}
