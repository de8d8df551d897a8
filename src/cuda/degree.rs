//! The launches of `kernels/degree.cu`: the degrees of vertices, the shifts of hyperedges, the gradients of
//! degrees.

#![allow(unsafe_code)]

use super::DeviceElement;
use super::args::{Address, DegreeGradientArgs, ScaleArgs, SumArgs};
use super::call::Call;
use super::geometry::{Grid, WARP};
use super::kernels::Kernel;
use super::launches::Launches;
use super::scratch::Slot;
use super::tables::Orientation;
use crate::axis::Axis;
use crate::error::Result;

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// D and L of all vertices, and their shifts where weights are part of the degrees. With `for_weights`
    /// also L as the gradients of weights see it, where that leaves out vertices of a single incidence.
    ///
    /// # Safety
    /// `weights` has a weight where its windows say, or is none, and degrees are numbers of incidences.
    pub(super) unsafe fn degrees(&mut self, weights: ScaleArgs, for_weights: bool) -> Result<()> {
        let conv = self.plan.conv();
        let left_out = for_weights && self.plan.leaves_out_single_incidences();
        let args = SumArgs {
            degree: self.scratch_numbers::<T::Acc>(Slot::Degree, Axis::Vertex)?,
            inv_degree: self.scratch_numbers::<T::Acc>(Slot::InvDegree, Axis::Vertex)?,
            weight_inv_degree: if left_out { self.weight_inv_degree()? } else { 0 },
            vertex_shifts: if conv.weights_in_degree() { self.vertex_shifts()? } else { 0 },
            least_exponent: conv.least_exponent::<T::Acc>(),
            plain_exponents: conv.plain_exponents::<T::Acc>(),
            ..self.sum_args(Orientation::ByVertex, weights)?
        };
        // SAFETY: scratch memory has a number for each vertex; the caller promises the rest.
        unsafe { self.sum_rows(Kernel::Degree, &args) }
    }

    /// The shifts of all hyperedges, from those of the vertices; gives where they are.
    ///
    /// # Safety
    /// [`degrees`](Self::degrees) were computed, with weights in them.
    pub(super) unsafe fn shift_hyperedges(&mut self) -> Result<Address> {
        let shifts = self.scratch_scale::<i32>(Slot::VertexShifts, Axis::Vertex)?;
        let args = SumArgs {
            vertex_shifts: self.vertex_shifts()?,
            edge_shifts: self.edge_shifts()?,
            ..self.sum_args(Orientation::ByEdge, shifts)?
        };
        // SAFETY: scratch memory has a shift for each vertex and hyperedge; the caller promises the rest.
        unsafe { self.sum_rows(Kernel::EdgeShift, &args) }?;
        Ok(args.edge_shifts)
    }

    /// The gradients of all degrees, from the dot products with y and, if `symmetric`, with ∂x.
    ///
    /// # Safety
    /// [`degrees`](Self::degrees) and those dot products were computed.
    pub(super) unsafe fn degree_gradients(&mut self, symmetric: bool) -> Result<()> {
        let n_vertices = self.total(Axis::Vertex) as u64;
        let args = DegreeGradientArgs {
            degree: self.scratch_numbers::<T::Acc>(Slot::Degree, Axis::Vertex)?,
            inv_degree: self.scratch_numbers::<T::Acc>(Slot::InvDegree, Axis::Vertex)?,
            weight_inv_degree: self.weight_inv_degree()?,
            shifts: self.vertex_shifts()?,
            dots_y: self.scratch_dots(Slot::DotsY, Axis::Vertex)?,
            dots_x: if symmetric { self.scratch_dots(Slot::DotsX, Axis::Vertex)? } else { 0 },
            gradient: self.scratch_numbers::<f64>(Slot::DegreeGradient, Axis::Vertex)?,
            n_vertices,
            dot_blocks: self.feature_blocks() as u32,
            shifts_of_degree: self.plan.conv().shifts_of_degree() as u32,
        };
        let warps = n_vertices.div_ceil(u64::from(WARP));
        // SAFETY: a thread for each vertex; the caller promises the rest.
        unsafe { self.launches.launch(Kernel::DegreeGradient, Grid::of_warps(warps), &args) }
    }

    /// L as the gradients of weights see it: 0 for a vertex of a single incidence that they leave out.
    pub(super) fn weight_inv_degree(&mut self) -> Result<Address> {
        let slot = match self.plan.leaves_out_single_incidences() {
            true => Slot::WeightInvDegree,
            false => Slot::InvDegree,
        };
        self.scratch_numbers::<T::Acc>(slot, Axis::Vertex)
    }

    pub(super) fn vertex_shifts(&mut self) -> Result<Address> {
        self.scratch_numbers::<i32>(Slot::VertexShifts, Axis::Vertex)
    }

    pub(super) fn edge_shifts(&mut self) -> Result<Address> {
        self.scratch_numbers::<i32>(Slot::EdgeShifts, Axis::Hyperedge)
    }
}
