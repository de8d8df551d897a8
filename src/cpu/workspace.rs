//! What a plan's calls compute in, made once for all calls.

use super::instance_sums::ChunkSums;
use super::plan::Plan;
use super::scratch::Memory;
use crate::element::Element;
use crate::error::{Error, Result};

/// The scratch memory of a plan, and the operators.
pub struct Workspace<T: Element> {
    pub(super) plan: Plan<T>,
    pub(super) max_instances: usize,
    pub(super) memory: Memory<T::Acc>,
    pub(super) sums: ChunkSums<T::Acc>,
}

impl<T: Element> Plan<T> {
    /// The scratch memory for calls with up to `max_instances` instances, for as many threads as the current
    /// rayon pool has: for each thread two rows of F sums for each hyperedge of the largest small topology,
    /// once the same for the largest other topology, and about a mebibyte.
    ///
    /// # Errors
    /// [`Error::TooManyInstances`] where a table batch has more, [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn workspace(&self, max_instances: usize) -> Result<Workspace<T>> {
        if let Some(value) = self.batch().n_instances().filter(|&n| n > max_instances) {
            return Err(Error::TooManyInstances { value, bound: max_instances });
        }
        let (memory, sums) = (Memory::new(self)?, ChunkSums::new(self, max_instances)?);
        Ok(Workspace { plan: self.clone(), max_instances, memory, sums })
    }
}

impl<T: Element> Workspace<T> {
    /// The plan.
    pub fn plan(&self) -> &Plan<T> {
        &self.plan
    }

    /// The most instances that a call may have.
    pub fn max_instances(&self) -> usize {
        self.max_instances
    }
}

impl<T: Element> std::fmt::Debug for Workspace<T> {
    /// Without the scratch memory.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { plan, max_instances, memory, .. } = self;
        let mut shown = f.debug_struct("Workspace");
        shown
            .field("plan", plan)
            .field("max_instances", max_instances)
            .field("threads", &memory.threads.len());
        shown.finish_non_exhaustive()
    }
}
