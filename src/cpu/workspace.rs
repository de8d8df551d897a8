//! What a plan's calls compute in, made once for all calls.

use std::any::TypeId;

use super::instance_sums::ChunkSums;
use super::plan::Plan;
use super::products::{Needs, Products};
use super::scratch::Memory;
use super::tree_sums::TreeSums;
use crate::axis::Axis;
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::summation::instances_of_bias_chunk;

/// The scratch memory of a plan, and the operators.
pub struct Workspace<T: Element> {
    pub(super) plan: Plan<T>,
    pub(super) max_instances: usize,
    pub(super) memory: Memory<T>,
    pub(super) sums: ChunkSums<T::Acc>,
    /// Γ of all copies of a topology that has a dense operator, and the gradient of a bias.
    pub(super) tree_sums: TreeSums,
    /// What layers compute in, where it is made for them.
    pub(super) layer: Option<Box<LayerMemory<T::Acc>>>,
}

/// What layers compute in.
pub(super) struct LayerMemory<A: Accumulator> {
    pub(super) operators: Vec<Operator>,
    /// The convolution of rows of sums; `None` where that of the workspace itself is one.
    pub(super) conv: Option<Workspace<A>>,
    pub(super) products: Products<A>,
}

impl<T: Element> Plan<T> {
    /// The scratch memory for calls with up to `max_instances` instances, for as many threads as the current
    /// rayon pool has: for each thread two rows of F sums for each hyperedge of the largest small topology
    /// (none where it is computed by its dense operator) and up to a mebibyte and a half for dense operators,
    /// once two rows for each hyperedge of the largest other topology, and a little over four mebibytes.
    /// Besides, both have room for a row of F elements for each vertex, which is reserved and not touched
    /// before a call with an epilogue or a readout needs it, and for some rows of F sums.
    ///
    /// That is for all operators but [`Operator::Layer`] and its backward, for which
    /// [`workspace_for`](Self::workspace_for) makes room.
    ///
    /// # Errors
    /// [`Error::TooManyInstances`] where a table batch has more, [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn workspace(&self, max_instances: usize) -> Result<Workspace<T>> {
        self.workspace_for(max_instances, &[])
    }

    /// The same for these operators, or [`Operator::ALL`]. The others may be called, too, but for a layer and
    /// its backward: without one of them among the operators, its calls are [`Error::NotMadeFor`]. They take
    /// memory besides:
    ///
    /// * for each vertex of `max_instances` instances rows of F sums, which are reserved and not touched
    ///   before a call needs them: one for a layer and two for its backward, and one more of each where sums
    ///   are of another type than elements;
    /// * for each thread 48 rows of as many sums as the plan has features or inputs, whichever are more, and
    ///   for the backward as many rows of inputs, and less than half a mebibyte;
    /// * F × inputs sums, and for the backward as many numbers of 8 bytes, up to 32 times and 8 mebibytes, or
    ///   once where that is more;
    /// * where sums are of another type than elements, what [`workspace`](Self::workspace) takes for a plan
    ///   in the type of sums.
    ///
    /// # Errors
    /// As [`workspace`](Self::workspace).
    #[inline(never)]
    pub fn workspace_for(&self, max_instances: usize, operators: &[Operator]) -> Result<Workspace<T>> {
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
        let layer = self.layer_memory(max_instances, operators)?.map(Box::new);
        Ok(Workspace { plan: self.clone(), max_instances, memory, sums, tree_sums, layer })
    }

    /// What the layers among these operators compute in, if there are any.
    fn layer_memory(
        &self,
        max_instances: usize,
        operators: &[Operator],
    ) -> Result<Option<LayerMemory<T::Acc>>> {
        let mut layers = Vec::new();
        for operator in [Operator::Layer, Operator::LayerBackward] {
            if operators.contains(&operator) {
                layers.push(operator);
            }
        }
        if layers.is_empty() {
            return Ok(None);
        }
        let is_narrow = TypeId::of::<T>() != TypeId::of::<T::Acc>();
        let needs = Needs { backward: layers.contains(&Operator::LayerBackward), is_narrow };
        let products = Products::new(self, max_instances, needs)?;
        // The paths are those of the plan, whose choice depends on the type.
        let of_sums = Plan::<T::Acc>::builder(self.batch(), self.features());
        let of_sums = of_sums.conv(self.conv()).paths(self.paths());
        let conv = if is_narrow { Some(of_sums.build()?.workspace(max_instances)?) } else { None };
        Ok(Some(LayerMemory { operators: layers, conv, products }))
    }
}

compiled_here!(Plan::<T>::workspace_for as fn(_, _, _) -> _);

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
