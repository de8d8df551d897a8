//! The two scatter steps on the device, and their gradients.
//!
//! With rows x of sources s (factor p) and results y of targets d (factor t), and g = ∂loss/∂y, as on the
//! CPU:
//!
//! ```text
//! y_d  = t_d/k_d Σ_{s∈d} p_s x_s              ∂t_d = ⟨g_d, 1/k_d Σ_{s∈d} p_s x_s⟩
//! ∂x_s = p_s Σ_{d∋s} t_d/k_d g_d              ∂p_s = ⟨x_s, Σ_{d∋s} t_d/k_d g_d⟩
//! ```

#![allow(unsafe_code)]

use super::DeviceElement;
use super::args::ScaleArgs;
use super::call::{Call, Destination, GradientTo, PlacedRows, PlacedWeights};
use super::description::Description;
use super::gather::{Dots, Elements, Gather};
use super::instance_sums::RowGradients;
use super::launches::Launches;
use super::operands::{BoundWeights, Operands, Read, Write};
use super::scratch::Slot;
use super::tables::Orientation;
use super::window_table::DeviceWindows;
use crate::axis::Axis;
use crate::conv::Reduce;
use crate::direction::{Direction, HYPEREDGE_GRADIENT, HYPEREDGE_SCALE, VERTEX_GRADIENT, VERTEX_SCALE};
use crate::error::Result;
use crate::rows::{Out, Rows};
use crate::step::{Step, StepGradients};
use crate::windows::Weights;

/// The scales of a step, by their place in its direction.
#[derive(Clone, Copy)]
struct Scales<'w> {
    direction: Direction,
    reduce: Reduce,
    source: Option<PlacedWeights<'w>>,
    target: Option<PlacedWeights<'w>>,
}

/// The operands of a step.
#[derive(Clone, Copy)]
pub(super) struct Forward<'w> {
    scales: Scales<'w>,
    x: PlacedRows,
    y: Option<Destination>,
}

/// The operands of its gradients.
#[derive(Clone, Copy)]
pub(super) struct Backward<'w> {
    scales: Scales<'w>,
    x: PlacedRows,
    grad_y: PlacedRows,
    grad_x: Option<Destination>,
    /// Of the scales.
    grad_source: Option<GradientTo>,
    grad_target: Option<GradientTo>,
}

/// The scales of a step that were bound: of vertices and of hyperedges.
type BoundScales<'w> = [Option<BoundWeights<'w>>; 2];

impl<'w> Scales<'w> {
    fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        step: &'a Step<Weights<impl Read<T::Acc>, &'w DeviceWindows>>,
    ) -> BoundScales<'w> {
        let (vertex, hyperedge) = (step.vertex_scale.as_ref(), step.hyperedge_scale.as_ref());
        [
            vertex.map(|scale| operands.weights(VERTEX_SCALE, Axis::Vertex, scale)),
            hyperedge.map(|scale| operands.weights(HYPEREDGE_SCALE, Axis::Hyperedge, scale)),
        ]
    }

    fn placed(direction: Direction, reduce: Reduce, scales: BoundScales<'w>) -> Self {
        let [source, target] = direction.by_place(scales.map(|scale| scale.map(BoundWeights::placed)));
        Self { direction, reduce, source, target }
    }

    fn source_args(&self) -> ScaleArgs {
        self.source.map_or(ScaleArgs::none(), |scale| scale.scale)
    }

    fn target_args(&self) -> ScaleArgs {
        self.target.map_or(ScaleArgs::none(), |scale| scale.scale)
    }
}

impl<'w> Forward<'w> {
    /// Binds and checks the operands. Returns them, and the number of instances.
    pub(super) fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        direction: Direction,
        step: &'a Step<Weights<impl Read<T::Acc>, &'w DeviceWindows>>,
        x: &'a Rows<impl Read<T>>,
        y: &'a mut Out<Rows<impl Write<T>>>,
    ) -> Result<(Self, usize)> {
        let scales = Scales::bind(operands, step);
        let x = operands.read(direction.names().input, direction.source(), x);
        let y = operands.write(direction.names().output, direction.target(), y);
        let bound = operands.check()?;
        let (scales, x) = (Scales::placed(direction, step.reduce, scales), bound.rows(x));
        Ok((Self { scales, x, y: y.map(|y| bound.out(y)) }, bound.instances()))
    }
}

impl Description for Forward<'_> {
    /// # Safety
    /// The operands have rows where their placements say, and factors where their windows say.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        if self.y.is_none() || !call.has_elements() {
            return Ok(());
        }
        let gather = Gather {
            source_scale: self.scales.source_args(),
            target_scale: self.scales.target_args(),
            reduce: self.scales.reduce,
            targets: self.y,
            ..Gather::new(Orientation::with_rows(self.scales.direction.target()), Elements::Plain, self.x)
        };
        // SAFETY: the caller's promise.
        unsafe { call.gather(gather) }
    }
}

impl<'w> Backward<'w> {
    /// Binds and checks the operands. Returns them, and the number of instances.
    pub(super) fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        direction: Direction,
        step: &'a Step<Weights<impl Read<T::Acc>, &'w DeviceWindows>>,
        x: &'a Rows<impl Read<T>>,
        grad_y: &'a Rows<impl Read<T>>,
        gradients: &'a mut StepGradients<impl Write<T>, impl Write<T::Acc>>,
    ) -> Result<(Self, usize)> {
        let names = direction.names();
        let scales = Scales::bind(operands, step);
        let x = operands.read(names.input, direction.source(), x);
        let grad_y = operands.read(names.grad_output, direction.target(), grad_y);
        let grad_x = operands.write(names.grad_input, direction.source(), &mut gradients.rows);
        let [vertex, hyperedge] = scales;
        let (of_vertices, of_hyperedges) = (&mut gradients.vertex_scale, &mut gradients.hyperedge_scale);
        let len = |scale: Option<BoundWeights<'_>>| scale.map_or(0, BoundWeights::len);
        let gradients = [
            operands.gradient(VERTEX_GRADIENT, (VERTEX_SCALE, len(vertex)), of_vertices),
            operands.gradient(HYPEREDGE_GRADIENT, (HYPEREDGE_SCALE, len(hyperedge)), of_hyperedges),
        ];
        let bound = operands.check()?;
        let scales = Scales::placed(direction, step.reduce, scales);
        let (x, grad_y, grad_x) = (bound.rows(x), bound.rows(grad_y), grad_x.map(|out| bound.out(out)));
        let [grad_source, grad_target] = direction.by_place(gradients);
        Ok((Self { scales, x, grad_y, grad_x, grad_source, grad_target }, bound.instances()))
    }
}

impl Description for Backward<'_> {
    /// # Safety
    /// The operands have rows where their placements say, and factors where their windows say.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        let Self { scales, x, grad_y, grad_x, .. } = self;
        let (source, target) = (scales.direction.source(), scales.direction.target());
        // Without a scale there is no gradient of it.
        let grad_source = self.grad_source.zip(scales.source);
        let grad_target = self.grad_target.zip(scales.target);
        // SAFETY: the caller's promise, and scratch memory has what is asked for.
        unsafe {
            if !call.has_elements() {
                for (to, _) in [grad_source, grad_target].into_iter().flatten() {
                    call.no_gradient(to)?;
                }
                return Ok(());
            }
            if grad_x.is_some() || grad_source.is_some() {
                let source_scale = match scales.reduce == Reduce::Mean || scales.target.is_some() {
                    true => {
                        let by_target = Orientation::with_rows(target);
                        call.row_scale(by_target, scales.target_args(), scales.reduce, None)?
                    }
                    false => ScaleArgs::none(),
                };
                let dots = match grad_source {
                    Some(_) => Some(Dots { others: x, to: call.scratch_dots(Slot::Dots, source)? }),
                    None => None,
                };
                call.gather(Gather {
                    source_scale,
                    target_scale: scales.source_args(),
                    targets: grad_x,
                    dots,
                    ..Gather::new(Orientation::with_rows(source), Elements::Plain, grad_y)
                })?;
                if let Some(((to, scale), dots)) = grad_source.zip(dots) {
                    let rows = RowGradients { values: dots.to, blocks: call.feature_blocks() };
                    call.sum_over_instances(source, scale.windows, rows, to)?;
                }
            }
            let Some((to, scale)) = grad_target else { return Ok(()) };
            let dots = Dots { others: grad_y, to: call.scratch_dots(Slot::Dots, target)? };
            call.gather(Gather {
                source_scale: scales.source_args(),
                reduce: scales.reduce,
                dots: Some(dots),
                ..Gather::new(Orientation::with_rows(target), Elements::Plain, x)
            })?;
            let rows = RowGradients { values: dots.to, blocks: call.feature_blocks() };
            call.sum_over_instances(target, scale.windows, rows, to)
        }
    }
}
