//! What the generic suite asks of a backend: the operators that every backend has, on host arrays.

use hyperscatter::{Batch, Conv, Out, Reduce, Result, Rows, cpu};

use crate::common::TestElement;

/// One of the two steps.
#[derive(Debug, Clone, Copy)]
pub struct StepKind {
    pub to_hyperedges: bool,
    pub reduce: Reduce,
}

/// The operators of one plan, with scratch memory for some number of instances.
pub trait Operators<T> {
    /// Runs a step to its end; `y` holds the result then.
    fn step(&mut self, kind: StepKind, x: Rows<&[T]>, y: Out<Rows<&mut [T]>>) -> Result<()>;
}

/// A backend.
pub trait Backend<T> {
    fn operators(
        &self,
        batch: &Batch,
        features: usize,
        max_instances: usize,
    ) -> Result<Box<dyn Operators<T>>>;
}

/// The operators on slices.
pub struct Cpu;

struct OnCpu<T: TestElement>(cpu::Workspace<T>);

impl<T: TestElement> Backend<T> for Cpu {
    fn operators(
        &self,
        batch: &Batch,
        features: usize,
        max_instances: usize,
    ) -> Result<Box<dyn Operators<T>>> {
        let plan = cpu::Plan::<T>::new(batch, features, Conv::default())?;
        Ok(Box::new(OnCpu(plan.workspace(max_instances)?)))
    }
}

impl<T: TestElement> Operators<T> for OnCpu<T> {
    fn step(&mut self, kind: StepKind, x: Rows<&[T]>, y: Out<Rows<&mut [T]>>) -> Result<()> {
        let step = cpu::Step { reduce: kind.reduce, ..cpu::Step::default() };
        match kind.to_hyperedges {
            true => self.0.vertex_to_hyperedge(step, x, y),
            false => self.0.hyperedge_to_vertex(step, x, y),
        }
    }
}
