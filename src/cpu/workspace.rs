//! What a plan's calls compute in, made once for all calls.

use super::instance_sums::ChunkSums;
use super::plan::Plan;
use super::scratch::Memory;
use super::tree_sums::TreeSums;
use crate::axis::Axis;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::summation::instances_of_bias_chunk;

/// The scratch memory of a plan, and the operators.
pub struct Workspace<T: Element> {
    pub(super) plan: Plan<T>,
    pub(super) max_instances: usize,
    pub(super) memory: Memory<T>,
    pub(super) sums: ChunkSums<T::Acc>,
    /// Γ of all copies of a topology that has a dense operator, and the gradient of a bias.
    pub(super) tree_sums: TreeSums,
}

impl<T: Element> Plan<T> {
    /// The scratch memory for calls with up to `max_instances` instances, for as many threads as the current
    /// rayon pool has: for each thread two rows of F sums for each hyperedge of the largest small topology
    /// (none where it is computed by its dense operator) and up to a mebibyte and a half for dense operators,
    /// once two rows for each hyperedge of the largest other topology, and a little over four mebibytes.
    /// Besides, both have room for a row of F elements for each vertex, which is reserved and not touched
    /// before a call with an epilogue or a readout needs it, and for some rows of F sums.
    ///
    /// # Errors
    /// [`Error::TooManyInstances`] where a table batch has more, [`Error::TooLarge`], [`Error::OutOfMemory`].
    #[inline(never)]
    pub fn workspace(&self, max_instances: usize) -> Result<Workspace<T>> {
        if let Some(value) = self.batch().n_instances().filter(|&n| n > max_instances) {
            return Err(Error::TooManyInstances { value, bound: max_instances });
        }
        let (memory, sums) = (Memory::new(self)?, ChunkSums::new(self, max_instances)?);
        let is_of_copies = self.batch().is_replicated() && self.prepared(0).pairs().is_some();
        let n = if is_of_copies { self.batch().topologies()[0].n_vertices() } else { 0 };
        let bias_chunk_len = instances_of_bias_chunk(self.batch().largest(Axis::Vertex));
        let tree_sums = TreeSums::with_room(
            self.features().saturating_add(n * n),
            if is_of_copies { max_instances } else { max_instances.div_ceil(bias_chunk_len) },
        )?;
        Ok(Workspace { plan: self.clone(), max_instances, memory, sums, tree_sums })
    }
}

compiled_here!(Plan::<T>::workspace as fn(_, _) -> _);

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
