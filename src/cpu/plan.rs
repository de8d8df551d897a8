//! What stays from call to call.

use std::sync::Arc;

use crate::batch::Batch;
use crate::conv::Conv;
use crate::element::Element;
use crate::error::Result;
use crate::path::{Path, Paths};

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
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(batch: &Batch, features: usize, conv: Conv) -> Result<Self> {
        Self::on(batch, features, conv, Paths::choose::<T>(batch.topologies(), features)?)
    }

    /// A plan with a path for each topology of the batch, in their order, instead of those that are chosen.
    ///
    /// # Errors
    /// [`Error::PathsMismatch`](crate::Error::PathsMismatch),
    /// [`Error::PathUnavailable`](crate::Error::PathUnavailable),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
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
}
