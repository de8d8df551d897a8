//! The launches of `kernels/degree.cu`.

#![allow(unsafe_code)]

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys;

use super::DeviceElement;
use super::call::Call;
use super::kernels::{Kernel, ScaleArgs, TablesArgs, Tiles, WARP};
use super::record::RecordArgs;
use super::tables::Orientation;
use crate::error::Result;

/// As `SumArgs` in the kernel file.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct SumArgs {
    tables: TablesArgs,
    tiles: Tiles,
    values: ScaleArgs,
    partials: sys::CUdeviceptr,
    record: RecordArgs,
    degree: sys::CUdeviceptr,
    left: sys::CUdeviceptr,
    dots: sys::CUdeviceptr,
    gradient: sys::CUdeviceptr,
    dot_blocks: u32,
    symmetric: u32,
}

/// As `DegreeGradientArgs` in the kernel file.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct DegreeGradientArgs {
    degree: sys::CUdeviceptr,
    left: sys::CUdeviceptr,
    dots_y: sys::CUdeviceptr,
    dots_x: sys::CUdeviceptr,
    gradient: sys::CUdeviceptr,
    n_vertices: u64,
    dot_blocks: u32,
    padding: u32,
}

// As the kernel file asserts it.
const _: () = {
    assert!(size_of::<SumArgs>() == 296 && size_of::<DegreeGradientArgs>() == 56);
    assert!(offset_of!(SumArgs, values) == 200 && offset_of!(SumArgs, partials) == 232);
    assert!(offset_of!(SumArgs, record) == 240 && offset_of!(SumArgs, degree) == 256);
    assert!(offset_of!(SumArgs, gradient) == 280 && offset_of!(SumArgs, symmetric) == 292);
};

impl<T: DeviceElement> Call<'_, T> {
    /// Queues the degrees of all vertices and their inverses, into `degree` and `left` of the scratch memory. `weights` are
    /// those of the hyperedges, or none where degrees are numbers of incidences.
    ///
    /// # Safety
    /// As [`Call`] says; `weights` has a weight where its windows say.
    pub(super) unsafe fn degrees(&self, weights: ScaleArgs, symmetric: bool) -> Result<()> {
        let tables = self.tables(Orientation::ByVertex)?;
        let args = SumArgs {
            degree: self.scratch().degree.address(),
            left: self.scratch().left.address(),
            symmetric: symmetric.into(),
            ..self.sums(tables, weights)
        };
        // SAFETY: the caller's promise.
        unsafe { self.sum([Kernel::Degree, Kernel::AddDegree], &args) }
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
            left: scratch.left.address(),
            dots_y: scratch.dots_y.address(),
            dots_x: if symmetric { scratch.dots_x.address() } else { 0 },
            gradient: scratch.degree_gradient.address(),
            n_vertices,
            dot_blocks: self.feature_blocks() as u32,
            padding: 0,
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

    /// The part that both sums have.
    fn sums(&self, tables: TablesArgs, values: ScaleArgs) -> SumArgs {
        SumArgs {
            tables,
            tiles: Tiles::new(tables.items, WARP),
            values,
            partials: self.scratch().partials.address(),
            record: self.record(),
            ..SumArgs::zeroed()
        }
    }

    /// # Safety
    /// As [`Call`] says, for what the arguments name.
    unsafe fn sum(&self, [sum, add]: [Kernel; 2], args: &SumArgs) -> Result<()> {
        // SAFETY: both kernels take a `SumArgs`; the caller promises the rest.
        unsafe {
            self.launch(sum, args.tiles.all, 1, args)?;
            self.launch(add, args.tiles.long, 1, args)
        }
    }
}
