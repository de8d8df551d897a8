//! The launches of `kernels/degree.cu` and `kernels/weight_gradient.cu`.

#![allow(unsafe_code)]

use bytemuck::Zeroable;
use cudarc::driver::sys;

use super::DeviceElement;
use super::args::{DegreeGradientArgs, ScaleArgs, SumArgs, TablesArgs, Tiles};
use super::call::Call;
use super::geometry::WARP;
use super::kernels::Kernel;
use super::tables::Orientation;
use crate::error::Result;

impl<T: DeviceElement> Call<'_, T> {
    /// Queues the degrees of all vertices and their inverses, into `degree` and `left` of the scratch memory, and their shifts
    /// where weights are part of the degrees. `weights` are those of the hyperedges, or none where degrees are numbers of
    /// incidences.
    ///
    /// # Safety
    /// As [`Call`] says; `weights` has a weight where its windows say.
    pub(super) unsafe fn degrees(&self, weights: ScaleArgs) -> Result<()> {
        let tables = self.tables(Orientation::ByVertex)?;
        let conv = self.plan().conv();
        let scratch = self.scratch();
        let args = SumArgs {
            degree: scratch.degree.address(),
            inv_degree: scratch.left.address(),
            weight_inv_degree: match scratch.weight_left.len() {
                0 => 0,
                _ => scratch.weight_left.address(),
            },
            vertex_shifts: if conv.weights_in_degree() { scratch.vertex_shifts.address() } else { 0 },
            least_exponent: conv.least_exponent::<T::Acc>(),
            plain_exponents: conv.plain_exponents::<T::Acc>(),
            ..self.sums(tables, weights)
        };
        // SAFETY: the caller's promise.
        unsafe { self.sum([Kernel::Degree, Kernel::AddDegree], &args) }
    }

    /// Queues the shifts of all hyperedges, from those of the vertices.
    ///
    /// # Safety
    /// As [`Call`] says.
    pub(super) unsafe fn edge_shifts(&self) -> Result<()> {
        let shifts = &self.scratch().vertex_shifts;
        let values = ScaleArgs::consecutive(shifts.address(), shifts.len());
        let args = self.sums(self.tables(Orientation::ByEdge)?, values);
        // SAFETY: the caller's promise.
        unsafe { self.sum([Kernel::EdgeShift, Kernel::AddEdgeShift], &args) }
    }

    /// Queues the gradients of all degrees, from the dot products in `dots_y` and, if `symmetric`, `dots_x`.
    ///
    /// # Safety
    /// As [`Call`] says.
    pub(super) unsafe fn degree_gradient(&self, symmetric: bool) -> Result<()> {
        let scratch = self.scratch();
        let n_vertices = self.tables(Orientation::ByVertex)?.n_targets;
        let args = DegreeGradientArgs {
            degree: scratch.degree.address(),
            inv_degree: scratch.left.address(),
            weight_inv_degree: self.weight_left(),
            shifts: scratch.vertex_shifts.address(),
            dots_y: scratch.dots_y.address(),
            dots_x: if symmetric { scratch.dots_x.address() } else { 0 },
            gradient: scratch.degree_gradient.address(),
            n_vertices,
            dot_blocks: self.feature_blocks() as u32,
            shifts_of_degree: self.plan().conv().shifts_of_degree() as u32,
        };
        // SAFETY: a thread for each vertex; the caller promises the rest.
        unsafe { self.launch(Kernel::DegreeGradient, n_vertices.div_ceil(u64::from(WARP)), 1, &args) }
    }

    /// Queues the sums of the degrees' gradients over the vertices of each hyperedge, and the dot products of that
    /// hyperedge in `dots` if `with_dots`, into `weight_gradient`.
    ///
    /// # Safety
    /// As [`Call`] says.
    pub(super) unsafe fn weight_gradient(&self, with_dots: bool) -> Result<()> {
        let scratch = self.scratch();
        let tables = self.tables(Orientation::ByEdge)?;
        let values = &scratch.degree_gradient;
        let args = SumArgs {
            dots: if with_dots { scratch.dots.address() } else { 0 },
            gradient: scratch.weight_gradient.address(),
            dot_blocks: self.feature_blocks() as u32,
            ..self.sums(tables, ScaleArgs::consecutive(values.address(), values.len()))
        };
        // SAFETY: the caller's promise.
        unsafe { self.sum([Kernel::WeightGradient, Kernel::AddWeightGradient], &args) }
    }

    /// L as the gradients of weights see it.
    pub(super) fn weight_left(&self) -> sys::CUdeviceptr {
        match self.plan().leaves_out_single_incidences() {
            true => self.scratch().weight_left.address(),
            false => self.scratch().left.address(),
        }
    }

    /// The part that all sums have.
    fn sums(&self, tables: TablesArgs, values: ScaleArgs) -> SumArgs {
        SumArgs {
            tables,
            tiles: Tiles::new(tables.items, WARP),
            values,
            partials: self.scratch().partials.address(),
            record: self.record(),
            vertex_shifts: self.scratch().vertex_shifts.address(),
            edge_shifts: self.scratch().edge_shifts.address(),
            shifts_of_degree: self.plan().conv().shifts_of_degree() as u32,
            ..SumArgs::zeroed()
        }
    }

    /// # Safety
    /// As [`Call`] says, for what the arguments name.
    unsafe fn sum(&self, [sum, add]: [Kernel; 2], args: &SumArgs) -> Result<()> {
        // SAFETY: both kernels take a `SumArgs`; the caller promises the rest.
        unsafe {
            self.launch(sum, args.tiles.all, 1, args)?;
            self.launch(add, args.tiles.long_row, 1, args)
        }
    }
}
