//! The convolution y = L H U B⁻¹ Hᵀ R x and its gradients on the device: for each path the launches of the
//! instances that are on it. Those of dense operators are in [`dense`], those of gather-reduce here.
//!
//! The formulas and the order of every sum are those of the CPU backend (`src/cpu/conv.rs`). What one kernel
//! leaves for the next is in scratch memory: D and L of each vertex, rows of unrounded sums z = B⁻¹Hᵀ R x and
//! q = Hᵀ L g of each hyperedge, and dot products in `f64`.
//!
//! ```text
//! forward     degrees → gather z → gather y
//! backward    degrees → gather z → shifts of hyperedges → gather q, ⟨q, z⟩ → row scale U/B
//!             → gather ∂x, ⟨x, ∂x⟩ → gather ⟨g, y⟩ → gradients of degrees
//!             → gradients of each instance's weights → sums over instances
//! ```
//!
//! Vertices of a single incidence have no part in ∂w under `Row` and `Documented`. Where there are some,
//! ⟨q, z⟩ is a gather of its own.

#![allow(unsafe_code)]

mod dense;
mod epilogue;
mod layer;
mod matrix;

use self::dense::{DenseBackward, DenseForward, ToWeights};
#[cfg(test)]
pub(super) use self::dense::{ITEM_BYTES, LAYER_ITEM_BYTES, LAYER_THREADS};
pub(super) use self::epilogue::EpilogueBackward;
pub(super) use self::layer::{LayerBackward, LayerForward};
pub(super) use self::matrix::{GramBackward, GramForward, MatrixBackward, MatrixForward};
use super::DeviceElement;
use super::args::{Address, ScaleArgs};
use super::call::{Call, Destination, GradientTo, PlacedRows, PlacedWeights};
use super::description::Description;
use super::epilogue::Finish;
use super::gather::{Dots, Elements, Gather};
use super::instance_sums::RowGradients;
use super::launches::Launches;
use super::operands::{Operands, Read, Write};
use super::route::Route;
use super::scratch::Slot;
use super::tables::Orientation;
use super::window_table::DeviceWindows;
use crate::axis::Axis;
use crate::conv::{Conv, Normalization, Reduce};
use crate::error::Result;
use crate::rows::{Out, Rows};
use crate::windows::{Weights, Windows};

const WEIGHTS: &str = "weights";

/// The operands of the convolution.
#[derive(Clone, Copy)]
pub(super) struct Forward<'w> {
    x: PlacedRows,
    weights: PlacedWeights<'w>,
    /// Where z is stored, of the accumulation type; in scratch memory if nowhere.
    z: Option<PlacedRows>,
    y: Option<Destination>,
    /// What becomes of y's sums in their store.
    finish: Finish,
}

/// The operands of its gradients.
#[derive(Clone, Copy)]
pub(super) struct Backward<'w> {
    x: PlacedRows,
    /// z where it was saved; it is computed again if not.
    z: Option<PlacedRows>,
    weights: PlacedWeights<'w>,
    grad_y: PlacedRows,
    grad_x: Option<Destination>,
    grad_weights: Option<GradientTo>,
}

impl<'w> Forward<'w> {
    /// Binds and checks the operands. Returns them, and the number of instances.
    pub(super) fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        x: &'a Rows<impl Read<T>>,
        weights: &'a Weights<impl Read<T::Acc>, &'w DeviceWindows>,
        z: Option<&'a mut Rows<impl Write<T::Acc>>>,
        y: &'a mut Out<Rows<impl Write<T>>>,
    ) -> Result<(Self, usize)> {
        let x = operands.read("x", Axis::Vertex, x);
        let weights = operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let z = z.map(|z| operands.overwrite("z", Axis::Hyperedge, z));
        let y = operands.write("y", Axis::Vertex, y);
        let bound = operands.check()?;
        let (x, weights) = (bound.rows(x), weights.placed());
        let (z, y) = (z.map(|z| bound.rows(z)), y.map(|y| bound.out(y)));
        Ok((Self { x, weights, z, y, finish: Finish::none() }, bound.instances()))
    }
}

impl Description for Forward<'_> {
    /// # Safety
    /// The operands have rows where their placements say, and weights where their windows say.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        let is_wanted = call.features() > 0 && (self.z.is_some() || self.y.is_some());
        if call.instances == 0 || !(is_wanted || call.plan.conv().checks_degrees()) {
            return Ok(());
        }
        // SAFETY: the caller's promise, here and below.
        unsafe {
            if !is_wanted {
                // A negative degree is reported all the same.
                return Factors::new(call, self.weights.scale)?.degrees(call, false);
            }
            if let Some(z) = self.z {
                let factors = Factors::new(call, self.weights.scale)?;
                // Only R is a factor of z, but y is made with L from what is found here.
                let reads_degrees = call.plan.routes().iter().any(|route| route.reads_degrees());
                if factors.is_symmetric() || reads_degrees {
                    factors.degrees(call, false)?;
                }
                factors.hyperedges(call, self.x, z)?;
            }
            let Some(y) = self.y else { return Ok(()) };
            call.launches.by_path();
            // Where some kernel does not have all rows of an instance, readouts are made of stored rows.
            // Where there are no rows at all, no kernel of a route stores the means of nothing.
            let make_readouts =
                call.total(Axis::Vertex) > 0 && call.plan.routes().iter().all(|route| route.makes_readouts());
            let stores_rows = self.finish.is_readout() && !make_readouts;
            let (to, finish) = match stores_rows {
                true => {
                    let rows = call.element_rows(Slot::Rows)?;
                    (Destination { rows, accumulate: false }, self.finish.storing_rows())
                }
                false => (y, self.finish),
            };
            call.on_each(call.plan.routes(), |call, route| match route {
                Route::Gather => self.gather(call, to, finish),
                Route::Dense(class) => {
                    let (x, weights) = (self.x, self.weights);
                    call.dense_forward(DenseForward { class, x, weights, y: to, finish })
                }
            })?;
            if stores_rows { call.mean_rows(to.rows, y) } else { Ok(()) }
        }
    }
}

impl Forward<'_> {
    /// y by gathers, from z where that is saved.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn gather<T: DeviceElement, L: Launches>(
        &self,
        call: &mut Call<'_, T, L>,
        y: Destination,
        finish: Finish,
    ) -> Result<()> {
        let factors = Factors::new(call, self.weights.scale)?;
        // SAFETY: the caller's promise, and scratch memory has what is asked for.
        unsafe {
            let z = match self.z {
                Some(saved) => saved,
                None => {
                    let z = call.scratch_rows(Slot::Q, Axis::Hyperedge)?;
                    factors.degrees(call, false)?;
                    factors.hyperedges(call, self.x, z)?;
                    z
                }
            };
            call.gather(Gather {
                source_scale: factors.message,
                target_scale: factors.inv_degree,
                shifts: [None, factors.vertex_shifts],
                targets: Some(y),
                finish,
                ..Gather::new(Orientation::ByVertex, Elements::FromSums, z)
            })
        }
    }
}

impl<'w> Backward<'w> {
    /// Binds and checks the operands. Returns them, and the number of instances.
    pub(super) fn bind<'a, T: DeviceElement>(
        operands: &mut Operands<'a, 'w, T>,
        x: &'a Rows<impl Read<T>>,
        z: Option<&'a Rows<impl Read<T::Acc>>>,
        weights: &'a Weights<impl Read<T::Acc>, &'w DeviceWindows>,
        grad_y: &'a Rows<impl Read<T>>,
        grad_x: &'a mut Out<Rows<impl Write<T>>>,
        grad_weights: &'a mut Out<impl Write<T::Acc>>,
    ) -> Result<(Self, usize)> {
        let x = operands.read("x", Axis::Vertex, x);
        let z = z.map(|z| operands.read("z", Axis::Hyperedge, z));
        let weights = operands.weights(WEIGHTS, Axis::Hyperedge, weights);
        let grad_y = operands.read("grad_y", Axis::Vertex, grad_y);
        let grad_x = operands.write("grad_x", Axis::Vertex, grad_x);
        let grad_weights = operands.gradient("grad_weights", (WEIGHTS, weights.len()), grad_weights);
        let bound = operands.check()?;
        let (x, z, grad_y) = (bound.rows(x), z.map(|z| bound.rows(z)), bound.rows(grad_y));
        let (weights, grad_x) = (weights.placed(), grad_x.map(|out| bound.out(out)));
        Ok((Self { x, z, weights, grad_y, grad_x, grad_weights }, bound.instances()))
    }
}

impl Description for Backward<'_> {
    /// # Safety
    /// The operands have rows where their placements say, and weights where their windows say.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        let conv = call.plan.conv();
        let wanted = self.grad_weights.filter(|_| conv.weights_matter());
        if !call.has_elements() || (wanted.is_none() && self.grad_x.is_none()) {
            // SAFETY: the caller's promise.
            unsafe {
                if call.instances > 0 && conv.checks_degrees() {
                    // A negative degree is reported all the same.
                    Factors::new(call, self.weights.scale)?.degrees(call, false)?;
                }
                return self.grad_weights.map_or(Ok(()), |to| call.no_gradient(to));
            }
        }
        let is_dense = call.plan.routes().iter().all(|route| route.makes_weight_gradients());
        let gradient = match wanted {
            Some(to) => Some(WeightGradient::new(call, self.weights.windows, to, is_dense)?),
            None => None,
        };
        let to_weights = gradient.as_ref().map(WeightGradient::to_weights);
        call.launches.by_path();
        // SAFETY: the caller's promise, and scratch memory has what is asked for.
        unsafe {
            call.on_each(call.plan.routes(), |call, route| match route {
                Route::Gather => self.gather(call, to_weights.is_some()),
                Route::Dense(class) => {
                    let Self { x, weights, grad_y, grad_x, .. } = self;
                    call.dense_backward(DenseBackward { class, x, weights, grad_y, grad_x, to_weights })
                }
            })?;
            match (gradient, self.grad_weights) {
                (Some(gradient), _) => gradient.add_up(call),
                (None, Some(to)) => call.no_gradient(to),
                (None, None) => Ok(()),
            }
        }
    }
}

impl Backward<'_> {
    /// Both gradients by gathers, those of weights for each instance alone.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn gather<T: DeviceElement, L: Launches>(
        &self,
        call: &mut Call<'_, T, L>,
        wants_weights: bool,
    ) -> Result<()> {
        let &Self { x, z: saved, weights, grad_y, grad_x, .. } = self;
        let factors = Factors::new(call, weights.scale)?;
        let conv = factors.conv;
        let through_degree = wants_weights && conv.weights_in_degree();
        let through_message = wants_weights && conv.weight_use.in_message();
        // ⟨x, ∂x⟩ is a part of the symmetric degree's gradient.
        let needs_products_with_x = through_degree && factors.is_symmetric();
        let needs_q = grad_x.is_some() || needs_products_with_x;
        // SAFETY: the caller's promise, and scratch memory has what is asked for.
        unsafe {
            factors.degrees(call, wants_weights)?;
            let z = match (saved, wants_weights) {
                (Some(saved), _) => Some(saved),
                (None, true) => {
                    let z = call.scratch_rows(Slot::Z, Axis::Hyperedge)?;
                    factors.hyperedges(call, x, z)?;
                    Some(z)
                }
                (None, false) => None,
            };
            let edge_shifts = if conv.weights_in_degree() { Some(call.shift_hyperedges()?) } else { None };
            let q = if needs_q { Some(call.scratch_rows(Slot::Q, Axis::Hyperedge)?) } else { None };
            let dots = match z.filter(|_| through_message) {
                Some(others) => Some(Dots { others, to: call.scratch_dots(Slot::Dots, Axis::Hyperedge)? }),
                None => None,
            };
            let gather_q = |inv_degree, targets: Option<PlacedRows>, dots| Gather {
                source_scale: inv_degree,
                shifts: [factors.vertex_shifts, edge_shifts],
                targets: targets.map(|rows| Destination { rows, accumulate: false }),
                dots,
                ..Gather::new(Orientation::ByEdge, Elements::ToSums, grad_y)
            };
            match dots.filter(|_| call.plan.leaves_out_single_incidences()) {
                None if q.is_some() || dots.is_some() => {
                    call.gather(gather_q(factors.inv_degree, q, dots))?
                }
                None => {}
                Some(dots) => {
                    if q.is_some() {
                        call.gather(gather_q(factors.inv_degree, q, None))?;
                    }
                    let vertices = call.total(Axis::Vertex);
                    let inv_degree = ScaleArgs::consecutive(call.weight_inv_degree()?, vertices);
                    call.gather(gather_q(inv_degree.skipping_zeros(), None, Some(dots)))?;
                }
            }
            if let Some(q) = q {
                // A hyperedge passes its gradient on by U B⁻¹.
                let row_scale =
                    call.row_scale(Orientation::ByEdge, factors.message, Reduce::Mean, edge_shifts)?;
                let dots = match needs_products_with_x {
                    true => Some(Dots { others: x, to: call.scratch_dots(Slot::DotsX, Axis::Vertex)? }),
                    false => None,
                };
                call.gather(Gather {
                    source_scale: row_scale,
                    target_scale: factors.right(),
                    shifts: match factors.is_symmetric() {
                        true => [edge_shifts, factors.vertex_shifts],
                        false => [None; 2],
                    },
                    targets: grad_x,
                    dots,
                    ..Gather::new(Orientation::ByVertex, Elements::FromSums, q)
                })?;
            }
            let Some(z) = z.filter(|_| through_degree) else { return Ok(()) };
            let dots_y = call.scratch_dots(Slot::DotsY, Axis::Vertex)?;
            call.gather(Gather {
                source_scale: factors.message,
                shifts: [None, factors.vertex_shifts],
                dots: Some(Dots { others: grad_y, to: dots_y }),
                ..Gather::new(Orientation::ByVertex, Elements::FromSums, z)
            })?;
            call.degree_gradients(factors.is_symmetric())?;
            call.weight_gradients(through_message)
        }
    }
}

/// The way of the gradient of weights, which the launches for instances begin and
/// [`add_up`](Self::add_up) ends.
struct WeightGradient<'w> {
    windows: Windows<&'w DeviceWindows>,
    to: GradientTo,
    /// Those of each instance alone; `None` where none are summed.
    rows: Option<RowGradients>,
    /// Dense operators store the gradient where it belongs.
    is_direct: bool,
}

impl<'w> WeightGradient<'w> {
    /// `is_dense`: all instances are computed by dense operators.
    fn new<T: DeviceElement, L: Launches>(
        call: &mut Call<'_, T, L>,
        windows: Windows<&'w DeviceWindows>,
        to: GradientTo,
        is_dense: bool,
    ) -> Result<Self> {
        let is_direct = is_dense
            && match windows {
                Windows::Consecutive => true,
                Windows::Shared => call.batch().is_replicated(),
                Windows::Table(_) => false,
            };
        let rows = if is_direct && !L::ANY_OPERANDS {
            None
        } else if is_dense || call.plan.conv().weights_in_degree() {
            let values = call.scratch_numbers::<f64>(Slot::WeightGradient, Axis::Hyperedge)?;
            Some(RowGradients { values, blocks: 1 })
        } else {
            // On the path of the gathers the products of q and z are all there is.
            let values = call.scratch_dots(Slot::Dots, Axis::Hyperedge)?;
            Some(RowGradients { values, blocks: call.feature_blocks() })
        };
        Ok(Self { windows, to, rows, is_direct })
    }

    /// Where dense operators leave it.
    fn to_weights(&self) -> ToWeights {
        match self.rows {
            Some(rows) if !self.is_direct => ToWeights::Rows(rows),
            _ => ToWeights::Gradient(self.to),
        }
    }

    /// Sums what each instance alone has, if that is not summed yet.
    ///
    /// # Safety
    /// The gradient has the elements that it says, and there is what each instance alone has.
    unsafe fn add_up<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()> {
        match self.rows {
            // SAFETY: the caller's promise.
            Some(rows) => unsafe { call.sum_over_instances(Axis::Hyperedge, self.windows, rows, self.to) },
            None => Ok(()),
        }
    }
}

/// The factors of a convolution.
struct Factors {
    conv: Conv,
    weights: ScaleArgs,
    /// U.
    message: ScaleArgs,
    /// L.
    inv_degree: ScaleArgs,
    /// Where weights are part of the degrees.
    vertex_shifts: Option<Address>,
}

impl Factors {
    fn new<T: DeviceElement, L: Launches>(call: &mut Call<'_, T, L>, weights: ScaleArgs) -> Result<Self> {
        let conv = call.plan.conv();
        // A vertex of degree 0 has L = 0, and takes no part: neither as a row, whose store is zeros, nor as a
        // factor.
        let inv_degree = match conv.normalization {
            Normalization::None => ScaleArgs::none(),
            Normalization::Row | Normalization::Symmetric => {
                call.scratch_scale::<T::Acc>(Slot::InvDegree, Axis::Vertex)?.skipping_zeros()
            }
        };
        let message = if conv.weight_use.in_message() { weights } else { ScaleArgs::none() };
        let vertex_shifts = if conv.weights_in_degree() { Some(call.vertex_shifts()?) } else { None };
        Ok(Self { conv, weights, message, inv_degree, vertex_shifts })
    }

    fn is_symmetric(&self) -> bool {
        self.conv.normalization == Normalization::Symmetric
    }

    /// R.
    fn right(&self) -> ScaleArgs {
        if self.is_symmetric() { self.inv_degree } else { ScaleArgs::none() }
    }

    /// D and L, where the normalization uses them.
    ///
    /// # Safety
    /// The weights are where their windows say.
    unsafe fn degrees<T: DeviceElement, L: Launches>(
        &self,
        call: &mut Call<'_, T, L>,
        for_weights: bool,
    ) -> Result<()> {
        if self.conv.normalization == Normalization::None {
            return Ok(());
        }
        let weights = if self.conv.weight_use.in_degree() { self.weights } else { ScaleArgs::none() };
        // SAFETY: the caller's promise.
        unsafe { call.degrees(weights, for_weights) }
    }

    /// z = B⁻¹ Hᵀ R x.
    ///
    /// # Safety
    /// `x` has rows of vertices, and `z` rows of hyperedges of the accumulation type.
    unsafe fn hyperedges<T: DeviceElement, L: Launches>(
        &self,
        call: &mut Call<'_, T, L>,
        x: PlacedRows,
        z: PlacedRows,
    ) -> Result<()> {
        let gather = Gather {
            source_scale: self.right(),
            shifts: [self.vertex_shifts.filter(|_| self.is_symmetric()), None],
            reduce: Reduce::Mean,
            targets: Some(Destination { rows: z, accumulate: false }),
            ..Gather::new(Orientation::ByEdge, Elements::ToSums, x)
        };
        // SAFETY: the caller's promise.
        unsafe { call.gather(gather) }
    }
}
