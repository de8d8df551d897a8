//! What the custom operations have in common.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, WithDType};

/// Runs an expression with `$T` as the feature type of a dtype.
macro_rules! dispatch {
    ($op:expr, $dtype:expr, $T:ident => $call:expr) => {{
        macro_rules! with {
            ($t:ty) => {{
                type $T = $t;
                $call
            }};
        }
        match $dtype {
            candle_core::DType::F32 => with!(f32),
            candle_core::DType::F64 => with!(f64),
            candle_core::DType::F16 => with!(hyperscatter::half::f16),
            candle_core::DType::BF16 => with!(hyperscatter::half::bf16),
            other => Err($crate::error::unsupported_features($op, "a tensor", other)),
        }
    }};
}
pub(crate) use dispatch;

/// `cuda_fwd` and `metal_fwd` of an operation (on as many tensors as there are names), which say that there is none.
macro_rules! no_accelerators {
    ($op:ident: $($s:ident),+) => {
        fn cuda_fwd(
            &self,
            $($s: &candle_core::CudaStorage, _: &candle_core::Layout),+
        ) -> candle_core::Result<(candle_core::CudaStorage, candle_core::Shape)> {
            $(let _ = $s;)+
            Err(candle_core::Error::Cuda($crate::error::not_on_cpu(candle_core::$op::name(self)).into()))
        }

        fn metal_fwd(
            &self,
            $($s: &candle_core::MetalStorage, _: &candle_core::Layout),+
        ) -> candle_core::Result<(candle_core::MetalStorage, candle_core::Shape)> {
            $(let _ = $s;)+
            Err(candle_core::Error::Metal($crate::error::not_on_cpu(candle_core::$op::name(self)).into()))
        }
    };
}
pub(crate) use no_accelerators;

/// Room for the gradient of a tensor, `None` where no variable leads to it: nobody can ask for its gradient then.
pub(crate) fn wanted<A: WithDType>(tensor: &Tensor) -> Option<Vec<A>> {
    tensor.track_op().then(|| vec![A::zero(); tensor.elem_count()])
}

/// Calls `f` with the storages and layouts of tensors on the CPU.
pub(crate) fn on_cpu<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([(&CpuStorage, &Layout); N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut storages = Vec::with_capacity(N);
    for (guard, layout) in &guards {
        match &**guard {
            Storage::Cpu(storage) => storages.push((storage, *layout)),
            _ => return Err(candle_core::Error::msg(crate::error::not_on_cpu("the backward"))),
        }
    }
    let Ok(storages) = storages.try_into() else { unreachable!("as many storages as tensors") };
    f(storages)
}
