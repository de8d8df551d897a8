//! log(1 + exp(x)), without overflow and without cancellation; built from candle's operations, it would be 0
//! (with a degree of 0 behind it) for every x below −17 in f32, and its gradient, by candle's sigmoid, below
//! −89.
//!
//! Where the common scale of the weights cancels out of a convolution, the layer computes with softplus times
//! a power of two, 2^k: weights of very negative parameters are then ordinary numbers, and so are the
//! gradients of weights, which grow like 1/w. No bit of a result depends on that power, and none of a
//! gradient unless it is very small: the gradients of weights are divided by 2^k until they are through the
//! softplus, so those below 2^k times the least normal number (2^64 · 2^−126 = 2^−62 in `F32`) lose bits.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Error, Layout, Result, Shape, Tensor};

use crate::custom::{keeps_graph, no_accelerators};

/// log(1 + exp(x)) of an `F32` or `F64` tensor, rounded once.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softplus { exponent: 0, least: 0.0 })
}

/// log(1 + exp(x)) · 2^k, for an even k that depends on the largest x only and leaves room for sums at both
/// ends of the type: 64 where no x is above 2³².
///
/// Finite x never give 0: values are at least 2^−88 (2^−960 in `F64`), which at k = 64 is below all numbers
/// of the type without the factor. x = −∞ does give 0.
pub(crate) fn scaled_softplus(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let largest = match x.elem_count() {
        0 => 0.0,
        _ => x.detach().flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?,
    };
    // The largest weight is below 2^97, and a degree sums at most 2^32 of them; even, for the square roots.
    let bits = if largest.is_finite() && largest > 1.0 { largest.log2().ceil() as i32 } else { 0 };
    let exponent = (96 - bits).min(64) & !1;
    let least = if x.dtype() == DType::F64 { 2f64.powi(-960) } else { 2f64.powi(-88) };
    x.apply_op1(Softplus { exponent, least })
}

/// Where softplus is 1: log(e − 1).
pub(crate) fn inverse_softplus_of_one() -> f64 {
    1f64.exp_m1().ln()
}

/// exp(x) · 2^exponent, for an x whose own exponential may be no number of the type.
fn scaled_exp(x: f64, exponent: i32) -> f64 {
    let half = (x / 2.0).exp();
    if x < -600.0 { half * 2f64.powi(exponent) * half } else { x.exp() * 2f64.powi(exponent) }
}

/// An element-wise function of an `F32` or `F64` tensor; in between is `f64`.
fn map(
    name: &'static str,
    x: &CpuStorage,
    layout: &Layout,
    f: impl Fn(f64) -> f64,
) -> Result<(CpuStorage, Shape)> {
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: name })?;
    let y = match x {
        CpuStorage::F32(x) => CpuStorage::F32(x[start..end].iter().map(|&x| f(x.into()) as f32).collect()),
        CpuStorage::F64(x) => CpuStorage::F64(x[start..end].iter().map(|&x| f(x)).collect()),
        other => return Err(Error::UnsupportedDTypeForOp(other.dtype(), name).bt()),
    };
    Ok((y, layout.shape().clone()))
}

/// log(1 + exp(x)) · 2^exponent, and at least `least` for finite x.
struct Softplus {
    exponent: i32,
    least: f64,
}

impl CustomOp1 for Softplus {
    fn name(&self) -> &'static str {
        "softplus"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        map("softplus", x, layout, |x| {
            // Below −600 the logarithm is its argument.
            let tail = if x < -600.0 {
                scaled_exp(x, self.exponent)
            } else {
                (-x.abs()).exp().ln_1p() * 2f64.powi(self.exponent)
            };
            let y = if x > 0.0 { x * 2f64.powi(self.exponent) + tail } else { tail };
            if y < self.least && x != f64::NEG_INFINITY { self.least } else { y }
        })
    }

    no_accelerators!(CustomOp1: s1);

    /// The gradient is 0 where the derivative is, whatever arrives: a weight that is masked out may get an
    /// infinite one.
    fn bwd(&self, x: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        let x = if keeps_graph()? { x.clone() } else { x.detach() };
        let slope = x.apply_op1(Sigmoid { exponent: self.exponent })?;
        let masked_out = slope.detach().eq(0f64)?;
        let gradient = (&slope * grad_y)?;
        Ok(Some(masked_out.where_cond(&gradient.zeros_like()?, &gradient)?))
    }
}

/// 1 / (1 + exp(−x)) · 2^exponent, the derivative of softplus.
struct Sigmoid {
    exponent: i32,
}

impl CustomOp1 for Sigmoid {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        map("sigmoid", x, layout, |x| {
            if x < 0.0 {
                scaled_exp(x, self.exponent) / (1.0 + x.exp())
            } else {
                2f64.powi(self.exponent) / (1.0 + (-x).exp())
            }
        })
    }

    no_accelerators!(CustomOp1: s1);

    fn bwd(&self, x: &Tensor, slope: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let rest = x.neg()?.apply_op1(Sigmoid { exponent: 0 })?;
        Ok(Some(((slope * rest)? * grad)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    type Softening = fn(&Tensor) -> Result<Tensor>;

    /// Values and gradients (where `grad` arrives), in `f64`.
    fn both(f: Softening, x: &[f64], grad: f64, dtype: DType) -> [Vec<f64>; 2] {
        let x = Var::from_tensor(&Tensor::new(x, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap();
        let y = f(&x).unwrap();
        assert_eq!(y.dtype(), dtype);
        let loss = y.affine(grad, 0.0).unwrap().sum_all().unwrap();
        let gradient = loss.backward().unwrap().get(&x).unwrap().clone();
        [y, gradient].map(|t| t.to_dtype(DType::F64).unwrap().to_vec1().unwrap())
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64, dtype: DType) {
        let (precision, least) =
            if dtype == DType::F64 { (1e-15, 5e-324) } else { (1.2e-7, 2f64.powi(-149)) };
        assert!((found - expected).abs() <= (precision * expected.abs()).max(least), "{found} {expected}");
    }

    #[test]
    fn softplus_and_its_gradient_are_accurate_in_both_tails_and_keep_subnormals() {
        for dtype in [DType::F32, DType::F64] {
            let x = [-103., -95., -88.5, -80., -20., -1., 0., 1., 20., 100., 1e38, inverse_softplus_of_one()];
            let [y, gradient] = both(softplus, &x, 1.0, dtype);
            for (i, &x) in x.iter().enumerate() {
                let x = if dtype == DType::F64 { x } else { f64::from(x as f32) };
                let expected = if x < 0.0 { x.exp().ln_1p() } else { x + (-x).exp().ln_1p() };
                assert_close(y[i], expected, dtype);
                assert!(y[i] > 0.0);
                assert_close(
                    gradient[i],
                    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) },
                    dtype,
                );
            }
        }
    }

    #[test]
    fn a_scale_changes_no_bit_and_keeps_tails() {
        let x = [-60., -20., -1., 0., 1., 20., 1e9];
        // Down to gradients whose 2^-64 is the least normal number.
        for arriving in [1.0, 1.1 * 2f64.powi(-62)] {
            let [plain, plain_gradient] = both(softplus, &x, arriving, DType::F32);
            let [scaled, gradient] = both(scaled_softplus, &x, arriving * 2f64.powi(-64), DType::F32);
            for i in 0..x.len() {
                assert_eq!(scaled[i], plain[i] * 2f64.powi(64), "{}", x[i]);
                assert_eq!(gradient[i], plain_gradient[i], "{}", x[i]);
            }
        }
        // Where f32 has no such weight, the scaled one has all its bits.
        let [scaled, gradient] = both(scaled_softplus, &[-104.5, 0.0], 1.0, DType::F32);
        assert_close(scaled[0], (-104.5f64).exp() * 2f64.powi(64), DType::F32);
        assert_close(gradient[0], scaled[0], DType::F32);
        let [scaled, gradient] = both(scaled_softplus, &[-700., -720., 0.0], 1.0, DType::F64);
        assert_close(scaled[0], (-350f64).exp() * 2f64.powi(64) * (-350f64).exp(), DType::F64);
        assert_close(gradient[0], scaled[0], DType::F64);
        assert_eq!(scaled[1], 2f64.powi(-960));
    }

    #[test]
    fn a_finite_parameter_never_has_a_scaled_weight_of_zero_and_only_minus_infinity_has_one() {
        for dtype in [DType::F32, DType::F64] {
            let x = [-1e30, -2000., f64::NEG_INFINITY, f64::NAN, 3.0];
            let [y, gradient] = both(scaled_softplus, &x, f64::INFINITY, dtype);
            assert!(y[0] > 0.0 && y[1] == y[0] && y[2] == 0.0, "{y:?}");
            assert!(gradient[..3] == [0.0; 3] && gradient[3].is_nan() && gradient[4] == f64::INFINITY);
            assert!(y[3].is_nan());
        }
    }

    #[test]
    fn large_parameters_leave_room_for_sums() {
        let [y, _] = both(scaled_softplus, &[1e38, 3e38, 3.4e38], 1.0, DType::F32);
        assert!(y.iter().all(|&y| y.is_finite() && y < 2f64.powi(97)), "{y:?}");
        assert_close(y[1] / y[0], 3e38f32 as f64 / 1e38f32 as f64, DType::F32);
        let [y, _] = both(scaled_softplus, &[1e300, f64::INFINITY], 1.0, DType::F64);
        assert!(y[1] == f64::INFINITY && y[0] > 0.0);
    }

    #[test]
    fn softplus_of_integers_is_refused() {
        let x = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
        assert!(softplus(&x).unwrap_err().to_string().contains("U32"));
    }
}
