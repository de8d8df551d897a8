//! log(1 + exp(x)), without overflow and without cancellation; built from candle's operations, it would be 0 (with
//! a degree of 0 behind it) for every x below −17 in f32, and its gradient at 0 would depend on theirs of kinks.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};

use crate::custom::no_accelerators;

/// log(1 + exp(x)) of an `F32` or `F64` tensor.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softplus)
}

/// Where softplus is 1: log(e − 1).
pub(crate) fn inverse_softplus_of_one() -> f64 {
    1f64.exp_m1().ln()
}

struct Softplus;

impl CustomOp1 for Softplus {
    fn name(&self) -> &'static str {
        "softplus"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op: "softplus" })?;
        let y = match x {
            CpuStorage::F32(x) => {
                CpuStorage::F32(x[start..end].iter().map(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()).collect())
            }
            CpuStorage::F64(x) => {
                CpuStorage::F64(x[start..end].iter().map(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()).collect())
            }
            other => return Err(Error::UnsupportedDTypeForOp(other.dtype(), "softplus").bt()),
        };
        Ok((y, layout.shape().clone()))
    }

    no_accelerators!(CustomOp1: s1);

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((candle_nn::ops::sigmoid(x)? * grad_y)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    #[test]
    fn softplus_is_exact_far_out_and_its_gradient_is_a_sigmoid() {
        let x =
            Var::new(&[-80f32, -20., 0., 20., 100., inverse_softplus_of_one() as f32], &Device::Cpu).unwrap();
        let y = softplus(&x).unwrap();
        let gradient = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec1::<f32>().unwrap();
        let y = y.to_vec1::<f32>().unwrap();
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() <= 2e-7 * b;
        assert!(close(y[0], (-80f64).exp()) && close(y[1], (-20f64).exp()), "{y:?}");
        assert!(close(y[2], 2f64.ln()) && close(y[3], 20.0) && y[4] == 100.0 && close(y[5], 1.0), "{y:?}");
        assert!(close(gradient[0], (-80f64).exp()) && close(gradient[1], (-20f64).exp()), "{gradient:?}");
        assert!(gradient[2] == 0.5 && gradient[4] == 1.0, "{gradient:?}");
    }

    #[test]
    fn softplus_of_integers_is_refused() {
        let x = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
        assert!(softplus(&x).unwrap_err().to_string().contains("U32"));
    }
}
