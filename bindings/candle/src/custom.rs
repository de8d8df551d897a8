//! What the custom operations have in common.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Storage, Tensor, Var, WithDType};

/// `cuda_fwd` and `metal_fwd` of an operation (on as many tensors as there are names), which say that there
/// is none.
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

/// Room for the gradient of a tensor, `None` where no variable leads to it: nobody can ask for its gradient
/// then.
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

/// Whether candle keeps the graph of the gradients that it computes on this thread
/// (`CANDLE_GRAD_DO_NOT_DETACH`), so that they can be differentiated again.
///
/// Candle asks the environment once in a thread and does not tell, so this asks candle: the gradient of a
/// variable behind two operations is in a graph only if the gradient between them was not detached.
pub(crate) fn keeps_graph() -> Result<bool> {
    thread_local! {
        static ANSWER: Cell<Option<bool>> = const { Cell::new(None) };
    }
    if let Some(answer) = ANSWER.get() {
        return Ok(answer);
    }
    let variable = Var::new(1f32, &candle_core::Device::Cpu)?;
    let gradients = variable.neg()?.sqr()?.backward()?;
    let answer = gradients.get(&variable).is_some_and(Tensor::track_op);
    ANSWER.set(Some(answer));
    Ok(answer)
}

/// A tensor of these values in candle's graph: its gradient goes on to `expression`, a tensor of the same
/// shape and type that stands for the same function of its variables, and each of `operands` has at least a
/// gradient of zeros.
pub(crate) fn in_graph<T: WithDType>(
    values: Vec<T>,
    shape: &Shape,
    expression: Option<&Tensor>,
    operands: &[&Tensor],
) -> Result<Tensor> {
    let mut zero = Tensor::zeros((), candle_core::DType::F64, &candle_core::Device::Cpu)?;
    for operand in operands.iter().filter(|operand| operand.track_op()) {
        zero = (zero + operand.apply_op1(Unused)?)?;
    }
    let values = Values { storage: Mutex::new(Some(T::to_cpu_storage_owned(values))), shape: shape.clone() };
    match expression {
        Some(expression) => expression.apply_op2(&zero, values),
        None => zero.apply_op1(values),
    }
}

/// 0, whatever the tensor: its gradient is zeros, where candle's own operations would leave it without one.
struct Unused;

impl CustomOp1 for Unused {
    fn name(&self) -> &'static str {
        "unused"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F64(vec![0.0]), Shape::from(())))
    }

    no_accelerators!(CustomOp1: s1);

    fn bwd(&self, operand: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        operand.zeros_like().map(Some)
    }
}

/// Values that were computed already, in place of an expression and of zeros from [`Unused`].
struct Values {
    /// Taken by the only forward that there is.
    storage: Mutex<Option<CpuStorage>>,
    shape: Shape,
}

impl Values {
    fn take(&self, name: &'static str) -> Result<(CpuStorage, Shape)> {
        let storage = self.storage.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || candle_core::Error::msg(format!("{name}: the values were taken already"));
        Ok((storage.ok_or_else(gone)?, self.shape.clone()))
    }
}

impl CustomOp1 for Values {
    fn name(&self) -> &'static str {
        "values"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take("values")
    }

    no_accelerators!(CustomOp1: s1);

    fn bwd(&self, zero: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        zero.zeros_like().map(Some)
    }
}

impl CustomOp2 for Values {
    fn name(&self) -> &'static str {
        "values"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take("values")
    }

    no_accelerators!(CustomOp2: s1, s2);

    fn bwd(
        &self,
        _: &Tensor,
        zero: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(zero.zeros_like()?)))
    }
}
