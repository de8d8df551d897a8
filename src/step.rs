//! What a step is asked to compute, on both backends.

use crate::conv::Reduce;
use crate::rows::{Out, Rows};

/// What a step computes: the reduction, and scales of vertices and hyperedges. A scale is 1 where there is
/// none. The instances read scales through windows; [`WindowTable::for_vertices`] makes those of vertices.
///
/// A scale is a plain factor: 0 times an infinity is NaN. `S` is the [`Weights`](crate::Weights) of a
/// backend. Operators take a step by reference, so that a step and its backward can share one.
///
/// [`WindowTable::for_vertices`]: crate::WindowTable::for_vertices
///
/// ```
/// use hyperscatter::{Step, cpu::Weights};
///
/// let scale = [0.5f32; 28];
/// let step = Step::mean().hyperedge_scale(Weights::shared(&scale));
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Step<S> {
    /// Sum or mean.
    pub reduce: Reduce,
    /// One factor for each vertex.
    pub vertex_scale: Option<S>,
    /// One factor for each hyperedge.
    pub hyperedge_scale: Option<S>,
}

impl<S> Step<S> {
    /// This reduction, without scales.
    pub fn new(reduce: Reduce) -> Self {
        Self { reduce, vertex_scale: None, hyperedge_scale: None }
    }

    /// The plain sum.
    pub fn sum() -> Self {
        Self::new(Reduce::Sum)
    }

    /// The plain mean.
    pub fn mean() -> Self {
        Self::new(Reduce::Mean)
    }

    /// With this scale of the vertices, or with none.
    pub fn vertex_scale(self, scale: impl Into<Option<S>>) -> Self {
        Self { vertex_scale: scale.into(), ..self }
    }

    /// With this scale of the hyperedges, or with none.
    pub fn hyperedge_scale(self, scale: impl Into<Option<S>>) -> Self {
        Self { hyperedge_scale: scale.into(), ..self }
    }
}

impl<S> Default for Step<S> {
    /// The plain sum.
    fn default() -> Self {
        Self::sum()
    }
}

/// Where the gradients of a step go. A gradient that is not asked for is not computed.
///
/// `R` is a mutable buffer of elements, and `S` one of elements of the accumulation type.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepGradients<R, S> {
    /// The gradient of the feature rows that the step read.
    pub rows: Out<Rows<R>>,
    /// The gradient of the vertex scale: for each of its values an element, summed over the instances that
    /// read it. Without a scale there are no elements.
    pub vertex_scale: Out<S>,
    /// The gradient of the hyperedge scale, likewise.
    pub hyperedge_scale: Out<S>,
}

impl<R, S> StepGradients<R, S> {
    /// No gradient.
    pub fn none() -> Self {
        Self { rows: Out::Skip, vertex_scale: Out::Skip, hyperedge_scale: Out::Skip }
    }

    /// With that of the feature rows.
    pub fn rows(self, rows: Out<Rows<R>>) -> Self {
        Self { rows, ..self }
    }

    /// With that of the vertex scale.
    pub fn vertex_scale(self, vertex_scale: Out<S>) -> Self {
        Self { vertex_scale, ..self }
    }

    /// With that of the hyperedge scale.
    pub fn hyperedge_scale(self, hyperedge_scale: Out<S>) -> Self {
        Self { hyperedge_scale, ..self }
    }
}

impl<R, S> Default for StepGradients<R, S> {
    /// No gradient.
    fn default() -> Self {
        Self::none()
    }
}
