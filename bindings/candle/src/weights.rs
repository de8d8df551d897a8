//! Weights and scales as tensors, and the windows through which instances read them.

use std::sync::Arc;

use candle_core::{CpuStorage, DType, Layout, Result, Tensor, WithDType};
use hyperscatter::{WindowTable, cpu};

use crate::error::{check_device, check_weights};

/// Which part of a weight (or scale) tensor each instance reads.
pub type TensorWindows = hyperscatter::Windows<Arc<WindowTable>>;

/// Hyperedge weights (or scales of vertices or hyperedges): a tensor of any shape, whose elements are read in
/// row-major order through windows. The gradient has the tensor's shape.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TensorWeights<'a> {
    /// The values.
    pub values: &'a Tensor,
    /// Which part of them each instance reads.
    pub windows: TensorWindows,
}

impl<'a> TensorWeights<'a> {
    /// Values read through these windows.
    pub fn new(values: &'a Tensor, windows: TensorWindows) -> Self {
        Self { values, windows }
    }

    /// One set of values, shared by all instances.
    pub fn shared(values: &'a Tensor) -> Self {
        Self::new(values, TensorWindows::Shared)
    }

    /// Values of their own for each instance, one behind the other.
    pub fn consecutive(values: &'a Tensor) -> Self {
        Self::new(values, TensorWindows::Consecutive)
    }

    /// Values read at each instance's offset in `table`.
    pub fn table(values: &'a Tensor, table: Arc<WindowTable>) -> Self {
        Self::new(values, TensorWindows::Table(table))
    }

    /// The values, contiguous, once device and type are checked, and the windows.
    pub(crate) fn checked(
        self,
        op: &'static str,
        operand: &'static str,
        features: DType,
    ) -> Result<(Tensor, TensorWindows)> {
        check_device(op, operand, self.values)?;
        check_weights(op, operand, self.values, features)?;
        Ok((self.values.contiguous()?, self.windows))
    }
}

/// What a step computes, with scales that are tensors.
pub type TensorStep<'a> = hyperscatter::Step<TensorWeights<'a>>;

/// Weights or scales of the core, from a contiguous tensor of any shape.
pub(crate) fn weights<'a, A: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
    windows: &'a TensorWindows,
) -> Result<cpu::Weights<'a, A>> {
    let not_contiguous = || candle_core::Error::RequiresContiguous { op: "hyperscatter" };
    let (start, end) = layout.contiguous_offsets().ok_or_else(not_contiguous)?;
    Ok(cpu::Weights::new(&A::cpu_storage_as_slice(storage)?[start..end], windows.as_deref()))
}
