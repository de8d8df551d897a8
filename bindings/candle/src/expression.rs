//! The gradients of the operators once more, as expressions of differentiable operations: what candle follows
//! where it keeps the graph of gradients. The values of the first gradients come from the core all the same.
//!
//! Everything here is a plain sum over incidences, whose gradient is the plain sum in the other direction,
//! and candle's own operations between them; so derivatives of any order come out of it. It computes in
//! `f64`: 16-bit features lose nothing on the way. Powers of a degree are never formed by themselves, but
//! factor by factor on what they scale, so that a small weight meets a large inverse degree before the next:
//! `f64` weights may be as small, or as large, as the inverses of their degrees allow.

use candle_core::{D, DType, Device, Result, Tensor};
use hyperscatter::{Axis, Batch, Conv, Direction, Normalization, Reduce};

use crate::rows::{Size, rows_of};
use crate::shared::Shared;
use crate::sum::sum;
use crate::weights::TensorWindows;

/// The gradients of one call.
pub(crate) struct Expression<'a> {
    shared: &'a Shared,
    instances: usize,
}

impl<'a> Expression<'a> {
    pub(crate) fn new(shared: &'a Shared, size: Size) -> Self {
        Self { shared, instances: size.instances }
    }

    /// Of the convolution with respect to features and weights.
    pub(crate) fn conv(
        &self,
        windows: &TensorWindows,
        x: &Tensor,
        weights: &Tensor,
        grad_y: &Tensor,
    ) -> Result<[Tensor; 2]> {
        if self.instances == 0 {
            return Ok([nothing(grad_y, x)?, nothing(grad_y, weights)?]);
        }
        let Conv { normalization, weight_use, .. } = self.shared.conventions();
        let (in_message, in_degree) = (weight_use.in_message(), weight_use.in_degree());
        let (features, grad) = (self.rows(Axis::Vertex, x)?, self.rows(Axis::Vertex, grad_y)?);
        let w = self.spread(Axis::Hyperedge, weights, windows)?;
        let inverse_sizes = inverse(&self.to_hyperedges(&self.ones(Axis::Vertex)?)?)?;
        let message = if in_message { w.broadcast_mul(&inverse_sizes)? } else { inverse_sizes.clone() };
        let degrees =
            if in_degree { self.to_vertices(&w)? } else { self.to_vertices(&self.ones(Axis::Hyperedge)?)? };
        // y = L H M Hᵀ R x with the message M, and the slope of L (and of R) by the degree.
        let left = match normalization {
            Normalization::None => None,
            Normalization::Row => Some(inverse(&degrees)?),
            Normalization::Symmetric => Some(inverse(&root(&degrees)?)?),
            other => candle_core::bail!("the normalization {other:?} has no second derivatives"),
        };
        let right = left.as_ref().filter(|_| normalization == Normalization::Symmetric);
        let scaled = |rows: &Tensor, scale: Option<&Tensor>| match scale {
            Some(scale) => rows.broadcast_mul(scale),
            None => Ok(rows.clone()),
        };
        let (left_grad, right_features) = (scaled(&grad, left.as_ref())?, scaled(&features, right)?);
        let (q, z) = (self.to_hyperedges(&left_grad)?, self.to_hyperedges(&right_features)?);
        let back = self.to_vertices(&q.broadcast_mul(&message)?)?;
        let grad_x = scaled(&back, right)?;
        let mut grad_w = w.zeros_like()?;
        if in_message {
            grad_w = grad_w.broadcast_add(&dot(&q, &z)?.broadcast_mul(&inverse_sizes)?)?;
        }
        if let Some(left) = left.as_ref().filter(|_| in_degree) {
            let forth = dot(&left_grad, &self.to_vertices(&z.broadcast_mul(&message)?)?)?;
            let by_degree = match normalization {
                Normalization::Symmetric => {
                    let both = (forth + dot(&right_features, &back)?)?;
                    (both.broadcast_mul(left)?.broadcast_mul(left)? * -0.5)?
                }
                _ => forth.broadcast_mul(left)?.neg()?,
            };
            grad_w = grad_w.broadcast_add(&self.to_hyperedges(&by_degree)?)?;
        }
        Ok([like(&grad_x, x)?, self.collect(Axis::Hyperedge, &grad_w, weights, windows)?])
    }

    /// Of a step with respect to its features, and to the scales that there are, vertices first.
    pub(crate) fn step(
        &self,
        direction: Direction,
        reduce: Reduce,
        x: &Tensor,
        scales: [Option<(&Tensor, &TensorWindows)>; 2],
        grad_y: &Tensor,
    ) -> Result<(Tensor, [Option<Tensor>; 2])> {
        if self.instances == 0 {
            let [of_vertices, of_hyperedges] =
                scales.map(|scale| scale.map(|(values, _)| nothing(grad_y, values)).transpose());
            return Ok((nothing(grad_y, x)?, [of_vertices?, of_hyperedges?]));
        }
        let (source, target) = (direction.source(), direction.target());
        let (features, mut grad) = (self.rows(source, x)?, self.rows(target, grad_y)?);
        match reduce {
            Reduce::Sum => {}
            Reduce::Mean => {
                grad = grad.broadcast_mul(&inverse(&sum(self.shared, direction, &self.ones(source)?)?)?)?;
            }
            other => candle_core::bail!("the reduction {other:?} has no second derivatives"),
        }
        let spread = |axis: Axis| {
            let scale = scales[axis as usize];
            scale.map(|(values, windows)| self.spread(axis, values, windows)).transpose()
        };
        let (source_scale, target_scale) = (spread(source)?, spread(target)?);
        let scaled = |rows: &Tensor, scale: &Option<Tensor>| match scale {
            Some(scale) => rows.broadcast_mul(scale),
            None => Ok(rows.clone()),
        };
        let back = sum(self.shared, direction.reversed(), &scaled(&grad, &target_scale)?)?;
        let grad_x = like(&scaled(&back, &source_scale)?, x)?;
        let mut grad_scales = [None, None];
        if let Some((values, windows)) = scales[source as usize] {
            let per_row = dot(&features, &back)?;
            grad_scales[source as usize] = Some(self.collect(source, &per_row, values, windows)?);
        }
        if let Some((values, windows)) = scales[target as usize] {
            let per_row = dot(&grad, &sum(self.shared, direction, &scaled(&features, &source_scale)?)?)?;
            grad_scales[target as usize] = Some(self.collect(target, &per_row, values, windows)?);
        }
        Ok((grad_x, grad_scales))
    }

    fn batch(&self) -> &Batch {
        self.shared.batch()
    }

    /// `[instances, rows, features]`, or `[rows, features]` of a table.
    fn dims(&self, instances: usize, axis: Axis, features: usize) -> Vec<usize> {
        let rows = rows_of(self.batch(), axis);
        if self.batch().is_replicated() { vec![instances, rows, features] } else { vec![rows, features] }
    }

    fn rows(&self, axis: Axis, tensor: &Tensor) -> Result<Tensor> {
        let features = tensor.dim(D::Minus1)?;
        tensor.to_dtype(DType::F64)?.reshape(self.dims(self.instances, axis, features))
    }

    /// One row of 1 for each vertex or hyperedge, the same for all copies.
    fn ones(&self, axis: Axis) -> Result<Tensor> {
        Tensor::ones(self.dims(1, axis, 1), DType::F64, &Device::Cpu)
    }

    fn to_hyperedges(&self, rows: &Tensor) -> Result<Tensor> {
        sum(self.shared, Direction::VertexToHyperedge, rows)
    }

    fn to_vertices(&self, rows: &Tensor) -> Result<Tensor> {
        sum(self.shared, Direction::HyperedgeToVertex, rows)
    }

    /// The weights (or scales) of each row, as rows of one feature; one set where all copies share it.
    fn spread(&self, axis: Axis, values: &Tensor, windows: &TensorWindows) -> Result<Tensor> {
        let values = values.to_dtype(DType::F64)?.flatten_all()?;
        match self.positions(axis, windows)? {
            Some(positions) => {
                values.index_select(&positions, 0)?.reshape(self.dims(self.instances, axis, 1))
            }
            None => values.reshape(self.dims(1, axis, 1)),
        }
    }

    /// The transposed of [`spread`](Self::spread), of the shape and type of `values`.
    fn collect(
        &self,
        axis: Axis,
        per_row: &Tensor,
        values: &Tensor,
        windows: &TensorWindows,
    ) -> Result<Tensor> {
        let sums = match self.positions(axis, windows)? {
            Some(positions) => {
                let per_row = per_row.broadcast_as(self.dims(self.instances, axis, 1))?.flatten_all()?;
                let zeros = Tensor::zeros(values.elem_count(), DType::F64, &Device::Cpu)?;
                zeros.index_add(&positions, &per_row.contiguous()?, 0)?
            }
            None => per_row.broadcast_as(self.dims(self.instances, axis, 1))?.sum(0)?,
        };
        like(&sums, values)
    }

    /// Which weight each row reads; `None` where all copies read the same ones.
    fn positions(&self, axis: Axis, windows: &TensorWindows) -> Result<Option<Tensor>> {
        let batch = self.batch();
        if batch.is_replicated() && matches!(windows, TensorWindows::Shared) {
            return Ok(None);
        }
        let windows = windows.as_deref();
        let mut positions = Vec::new();
        for instance in 0..self.instances {
            let start = windows.offset(batch, axis, instance) as i64;
            positions.extend((start..).take(batch.topology(instance).size(axis)));
        }
        let len = positions.len();
        Tensor::from_vec(positions, len, &Device::Cpu).map(Some)
    }
}

/// `tensor` in the shape and type of another.
fn like(tensor: &Tensor, other: &Tensor) -> Result<Tensor> {
    tensor.reshape(other.shape())?.to_dtype(other.dtype())
}

/// Zeros in the shape and type of another tensor, as the sum over an empty batch's gradient.
fn nothing(grad_y: &Tensor, other: &Tensor) -> Result<Tensor> {
    match other.elem_count() {
        0 => like(grad_y, other),
        _ => grad_y.sum_all()?.to_dtype(other.dtype())?.broadcast_as(other.shape()),
    }
}

/// The inner product of each row with the same row of another tensor.
fn dot(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a * b)?.sum_keepdim(D::Minus1)
}

/// 1 where a number is 0, and else 0; constant.
fn zeros_of(x: &Tensor) -> Result<Tensor> {
    x.detach().eq(0f64)?.to_dtype(DType::F64)
}

/// 1/x, and 0 with a gradient of zero where x is 0.
fn inverse(x: &Tensor) -> Result<Tensor> {
    let (zeros, units) = (zeros_of(x)?, units_of(x)?);
    // Candle's gradient squares what it inverts, so that is never far from 1.
    ((x * &units)? + &zeros)?.recip()? * ((1.0 - zeros)? * units)?
}

/// The powers of two that bring numbers to between 1 and 2 (as near as powers of two go, at both ends of the
/// type), and 1 for those that are 0 or not finite; constant.
fn units_of(x: &Tensor) -> Result<Tensor> {
    let unit = |x: f64| {
        if x == 0.0 || !x.is_finite() { 1.0 } else { 2f64.powi((-exponent_of(x)).clamp(-1022, 1023)) }
    };
    let units: Vec<f64> = x.detach().flatten_all()?.to_vec1::<f64>()?.into_iter().map(unit).collect();
    Tensor::from_vec(units, x.shape(), x.device())
}

/// The exponent in the representation of a number, −1023 for subnormal ones.
fn exponent_of(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// √x, with a gradient of zero where x is 0.
fn root(x: &Tensor) -> Result<Tensor> {
    let zeros = zeros_of(x)?;
    (x + &zeros)?.sqrt()? * (1.0 - zeros)?
}
