//! The two scatter steps and their gradients, by gather-reduce.
//!
//! Both are the same operation on an incidence structure and its transpose. With rows x of sources s (scale
//! p) and results y of targets d (scale t), where a mean divides by the number k_d of sources, g = ∂loss/∂y:
//!
//! ```text
//! y_d  = t_d/k_d Σ_{s∈d} p_s x_s              ∂t_d = ⟨g_d, 1/k_d Σ_{s∈d} p_s x_s⟩
//! ∂x_s = p_s Σ_{d∋s} t_d/k_d g_d              ∂p_s = ⟨x_s, Σ_{d∋s} t_d/k_d g_d⟩
//! ```

#![allow(unsafe_code)]

use super::gather::{Dot, gather};
use super::instance_sums::GradientTo;
use super::operands::{Input, Operands, Output, Weights};
use super::plan::Plan;
use super::row_scale::fill_row_scales;
use super::schedule::{By, Parallel, Schedule, Task, each, each_value, for_each};
use super::scratch::Scratch;
use super::workspace::Workspace;
use crate::axis::Axis;
use crate::conv::Reduce;
use crate::direction::{Direction, HYPEREDGE_GRADIENT, HYPEREDGE_SCALE, VERTEX_GRADIENT, VERTEX_SCALE};
use crate::element::{Accumulator, Element};
use crate::error::Result;
use crate::incidence::{Csr, Incidence};
use crate::rows::{Out, Rows};
use crate::windows::Windows;

/// What a step computes.
pub type Step<'a, A> = crate::Step<Weights<'a, A>>;

/// The gradients of a step.
pub type StepGradients<'a, T> = crate::StepGradients<&'a mut [T], &'a mut [<T as Element>::Acc]>;

impl<T: Element> Workspace<T> {
    /// z_e = s_e Σ_{v∈e} r_v x_v, divided by |e| for a mean; r is the vertex scale and s the hyperedge scale
    /// of `step`.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `z`: `M` rows of hyperedges, overwritten or added to, and nothing between them. An empty hyperedge
    ///   gets zeros.
    ///
    /// # Errors
    /// Those [of operands](super#errors-of-operands). Nothing is written then.
    pub fn vertex_to_hyperedge(
        &mut self,
        step: &Step<'_, T::Acc>,
        x: Rows<&[T]>,
        z: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.step(Direction::VertexToHyperedge, step, x, z)
    }

    /// The gradients of [`vertex_to_hyperedge`](Self::vertex_to_hyperedge) from the same `x`.
    ///
    /// * `x`: `N` rows of vertices;
    /// * `grad_z`: ∂loss/∂z, `M` rows of hyperedges;
    /// * `gradients.rows`: ∂loss/∂x, `N` rows of vertices.
    ///
    /// # Errors
    /// As [`vertex_to_hyperedge`](Self::vertex_to_hyperedge).
    pub fn vertex_to_hyperedge_backward(
        &mut self,
        step: &Step<'_, T::Acc>,
        x: Rows<&[T]>,
        grad_z: Rows<&[T]>,
        gradients: StepGradients<'_, T>,
    ) -> Result<()> {
        self.step_backward(Direction::VertexToHyperedge, step, x, grad_z, gradients)
    }

    /// y_v = t_v Σ_{e∋v} u_e z_e, divided by the number of incidences of v for a mean; u is the hyperedge
    /// scale and t the vertex scale of `step`.
    ///
    /// * `z`: `M` rows of hyperedges;
    /// * `y`: `N` rows of vertices, overwritten or added to, and nothing between them. An isolated vertex
    ///   gets zeros.
    ///
    /// # Errors
    /// As [`vertex_to_hyperedge`](Self::vertex_to_hyperedge).
    pub fn hyperedge_to_vertex(
        &mut self,
        step: &Step<'_, T::Acc>,
        z: Rows<&[T]>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.step(Direction::HyperedgeToVertex, step, z, y)
    }

    /// The gradients of [`hyperedge_to_vertex`](Self::hyperedge_to_vertex) from the same `z`.
    ///
    /// * `z`: `M` rows of hyperedges;
    /// * `grad_y`: ∂loss/∂y, `N` rows of vertices;
    /// * `gradients.rows`: ∂loss/∂z, `M` rows of hyperedges.
    ///
    /// # Errors
    /// As [`vertex_to_hyperedge`](Self::vertex_to_hyperedge).
    pub fn hyperedge_to_vertex_backward(
        &mut self,
        step: &Step<'_, T::Acc>,
        z: Rows<&[T]>,
        grad_y: Rows<&[T]>,
        gradients: StepGradients<'_, T>,
    ) -> Result<()> {
        self.step_backward(Direction::HyperedgeToVertex, step, z, grad_y, gradients)
    }

    #[inline(never)]
    fn step(
        &mut self,
        direction: Direction,
        step: &Step<'_, T::Acc>,
        x: Rows<&[T]>,
        mut y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        let names = direction.names();
        let mut operands = Operands::new();
        let x = operands.read(names.input, direction.source(), x);
        operands.weights(VERTEX_SCALE, Axis::Vertex, step.vertex_scale);
        operands.weights(HYPEREDGE_SCALE, Axis::Hyperedge, step.hyperedge_scale);
        let y = operands.write(names.output, direction.target(), &mut y);
        let bound = operands.check(&self.plan, self.max_instances)?;
        let call = Call::new(&self.plan, direction, bound.instances(), step);
        let Some(y) = y.filter(|_| call.plan.features() > 0) else { return Ok(()) };

        let (x, y) = (bound.input(x), bound.output(y));
        for_each(&mut self.memory.threads, 0..call.instances, |_, instance| {
            call.forward(Parallel::Instances, instance, x, &y)
        });
        if Parallel::Rows.is_in(call.plan.batch()) {
            (0..call.instances).for_each(|instance| call.forward(Parallel::Rows, instance, x, &y));
        }
        Ok(())
    }

    #[inline(never)]
    fn step_backward(
        &mut self,
        direction: Direction,
        step: &Step<'_, T::Acc>,
        x: Rows<&[T]>,
        grad_y: Rows<&[T]>,
        mut gradients: StepGradients<'_, T>,
    ) -> Result<()> {
        let StepGradients { rows, vertex_scale: vertex, hyperedge_scale: hyperedge } = &mut gradients;
        let names = direction.names();
        let mut operands = Operands::new();
        let x = operands.read(names.input, direction.source(), x);
        operands.weights(VERTEX_SCALE, Axis::Vertex, step.vertex_scale);
        operands.weights(HYPEREDGE_SCALE, Axis::Hyperedge, step.hyperedge_scale);
        let grad_y = operands.read(names.grad_output, direction.target(), grad_y);
        let grad_x = operands.write(names.grad_input, direction.source(), rows);
        let len = |scale: Option<Weights<'_, T::Acc>>| scale.map_or(0, |scale| scale.values.len());
        let of = (VERTEX_SCALE, len(step.vertex_scale));
        let vertex = operands.gradient(VERTEX_GRADIENT, of, vertex);
        let of = (HYPEREDGE_SCALE, len(step.hyperedge_scale));
        let hyperedge = operands.gradient(HYPEREDGE_GRADIENT, of, hyperedge);
        let bound = operands.check(&self.plan, self.max_instances)?;
        let call = Call::new(&self.plan, direction, bound.instances(), step);
        let (x, grad_y) = (bound.input(x), bound.input(grad_y));
        let grad_x = grad_x.map(|grad_x| bound.output(grad_x));
        let (vertex, hyperedge) = (vertex.map(GradientTo::start), hyperedge.map(GradientTo::start));
        if call.plan.features() == 0 {
            return Ok(());
        }

        let [source, target] = direction.by_place([vertex, hyperedge]);
        let source = source.filter(|_| call.source_scale.is_some());
        let target = target.filter(|_| call.target_scale.is_some());
        let backward = Backward { x, grad_y, grad_x, source_scale_wanted: source.is_some(), call };
        let call = &backward.call;
        if backward.grad_x.is_some() || source.is_some() {
            let schedule = call.schedule(direction.source(), call.source_scale);
            self.sums.add_up(&mut self.memory, &schedule, source, |task, scratch, sums| {
                backward.sources(task, scratch, sums);
            });
        }
        if target.is_some() {
            let schedule = call.schedule(direction.target(), call.target_scale);
            let targets = |task: &Task<'_>, _: &mut _, sums: &mut [_]| backward.targets(task, sums);
            self.sums.add_up(&mut self.memory, &schedule, target, targets);
        }
        Ok(())
    }
}

compiled_here!(
    Workspace::<T>::step as fn(_, _, _, _, _) -> _,
    Workspace::<T>::step_backward as fn(_, _, _, _, _, _) -> _,
);

/// A checked call of a step or its backward.
struct Call<'a, T: Element> {
    plan: &'a Plan<T>,
    direction: Direction,
    instances: usize,
    reduce: Reduce,
    source_scale: Option<Weights<'a, T::Acc>>,
    target_scale: Option<Weights<'a, T::Acc>>,
}

impl<'a, T: Element> Call<'a, T> {
    fn new(plan: &'a Plan<T>, direction: Direction, instances: usize, step: &Step<'a, T::Acc>) -> Self {
        let Step { reduce, vertex_scale, hyperedge_scale } = *step;
        let [source_scale, target_scale] = direction.by_place([vertex_scale, hyperedge_scale]);
        Self { plan, direction, instances, reduce, source_scale, target_scale }
    }

    /// The sources of each target.
    fn by_target(&self, topology: &'a Incidence) -> Csr<'a> {
        topology.by(self.direction.target())
    }

    /// The targets of each source.
    fn by_source(&self, topology: &'a Incidence) -> Csr<'a> {
        topology.by(self.direction.source())
    }

    /// The part of a scale that an instance reads.
    fn window(
        &self,
        scale: Option<Weights<'a, T::Acc>>,
        axis: Axis,
        instance: usize,
    ) -> Option<&'a [T::Acc]> {
        let Weights { values, windows } = scale?;
        let start = windows.offset(self.plan.batch(), axis, instance);
        Some(&values[start..][..self.plan.batch().topology(instance).size(axis)])
    }

    /// The chunks in which gradients of a scale along `axis` are summed; any where there is no such scale.
    fn schedule(&self, axis: Axis, scale: Option<Weights<'a, T::Acc>>) -> Schedule<'a, T> {
        let windows = scale.map_or(Windows::Shared, |scale| scale.windows);
        Schedule::new(self.plan, By::Gathers, axis, windows, self.instances)
    }

    /// Computes an instance, if its topology is computed like this.
    fn forward(&self, parallel: Parallel, instance: usize, x: Input<'_, T>, y: &Output<'_, T>) {
        let batch = self.plan.batch();
        let topology = batch.topology(instance);
        if Parallel::of(topology) != parallel {
            return;
        }
        let targets = self.by_target(topology);
        let source_scale = self.window(self.source_scale, self.direction.source(), instance);
        let target_scale = self.window(self.target_scale, self.direction.target(), instance);
        let x = x.source(batch, instance, source_scale, false);
        each(parallel, targets.len(), |d| {
            let sources = targets.row(d);
            let scale = target_scale.map_or(T::Acc::ONE, |t| t[d]) * self.reduce.factor(sources.len());
            // SAFETY: each instance is computed once, and each target once in it.
            let mut store = unsafe { y.store(batch, instance, d, scale) };
            gather(x, sources, &mut store);
        });
    }
}

/// A checked call of the backward, and its operands.
struct Backward<'a, T: Element> {
    call: Call<'a, T>,
    x: Input<'a, T>,
    grad_y: Input<'a, T>,
    grad_x: Option<Output<'a, T>>,
    source_scale_wanted: bool,
}

impl<T: Element> Backward<'_, T> {
    /// Computes a chunk: ∂x, and ∂p of its instances added to `sums`.
    fn sources(&self, task: &Task<'_>, scratch: &mut Scratch<T>, sums: &mut [T::Acc]) {
        let call = &self.call;
        let (batch, parallel) = (call.plan.batch(), task.parallel);
        let (sources, targets) = (call.by_source(task.topology), call.by_target(task.topology));
        for instance in task.instances() {
            let source_scale = call.window(call.source_scale, call.direction.source(), instance);
            let target_scale = call.window(call.target_scale, call.direction.target(), instance);
            fill_row_scales(parallel, targets, call.reduce, target_scale, |_| 0, &mut scratch.row_scale);
            let grad_y = self.grad_y.source(batch, instance, Some(&scratch.row_scale), false);
            let x = self.x.source(batch, instance, None, false);
            each_value(parallel, &mut sums[..sources.len()], |s, sum_of_chunk| {
                let scale = source_scale.map_or(T::Acc::ONE, |p| p[s]);
                // SAFETY: each instance is in one chunk, each chunk is computed once, and each source once in
                // it.
                let store = self.grad_x.as_ref().map(|out| unsafe { out.store(batch, instance, s, scale) });
                let dot = self.source_scale_wanted.then(|| Dot::<T, _>::new(x.row(s), T::Acc::ONE));
                let mut sinks = (store, dot);
                gather(grad_y, sources.row(s), &mut sinks);
                if let Some(dot) = sinks.1 {
                    *sum_of_chunk += T::Acc::from_f64(dot.value());
                }
            });
        }
    }

    /// Adds ∂t of the instances of a chunk to `sums`.
    fn targets(&self, task: &Task<'_>, sums: &mut [T::Acc]) {
        let call = &self.call;
        let batch = call.plan.batch();
        let targets = call.by_target(task.topology);
        for instance in task.instances() {
            let source_scale = call.window(call.source_scale, call.direction.source(), instance);
            let grad_y = self.grad_y.source(batch, instance, None, false);
            let x = self.x.source(batch, instance, source_scale, false);
            each_value(task.parallel, &mut sums[..targets.len()], |d, sum_of_chunk| {
                let sources = targets.row(d);
                let mut dot = Dot::<T, _>::new(grad_y.row(d), call.reduce.factor(sources.len()));
                gather(x, sources, &mut dot);
                *sum_of_chunk += T::Acc::from_f64(dot.value());
            });
        }
    }
}
