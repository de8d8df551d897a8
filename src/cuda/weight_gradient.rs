//! The launches of `kernels/weight_gradient.cu`: the gradients of weights, for each instance by itself.

#![allow(unsafe_code)]

use super::DeviceElement;
use super::args::SumArgs;
use super::call::Call;
use super::kernels::Kernel;
use super::launches::Launches;
use super::scratch::Slot;
use super::tables::Orientation;
use crate::axis::Axis;
use crate::error::Result;

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// The gradients of weights that are part of the degrees, for each instance by itself. That of a
    /// hyperedge is the sum of the gradients of its vertices' degrees, plus ⟨q, z⟩ if `through_message`.
    ///
    /// # Safety
    /// The gradients of the degrees were computed, and so were the shifts and the dot products of the
    /// hyperedges.
    pub(super) unsafe fn weight_gradients(&mut self, through_message: bool) -> Result<()> {
        let of_degrees = self.scratch_scale::<f64>(Slot::DegreeGradient, Axis::Vertex)?;
        let args = SumArgs {
            dots: if through_message { self.scratch_dots(Slot::Dots, Axis::Hyperedge)? } else { 0 },
            gradient: self.scratch_numbers::<f64>(Slot::WeightGradient, Axis::Hyperedge)?,
            dot_blocks: self.feature_blocks() as u32,
            vertex_shifts: self.vertex_shifts()?,
            edge_shifts: self.edge_shifts()?,
            ..self.sum_args(Orientation::ByEdge, of_degrees)?
        };
        // SAFETY: scratch memory has a number for each hyperedge; the caller promises the rest.
        unsafe { self.sum_rows(Kernel::WeightGradient, &args) }
    }
}
