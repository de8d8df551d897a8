//! The convolution as a candle operation on features and weights.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use hyperscatter::Out;

use crate::custom::{in_graph, keeps_graph, no_accelerators, on_cpu, wanted};
use crate::dtype::dispatch;
use crate::error::Operands;
use crate::expression::Expression;
use crate::pool::Feature;
use crate::rows::{Size, placeable, rows};
use crate::shared::Shared;
use crate::weights::{TensorWindows, weights};

pub(crate) struct ConvOp {
    pub(crate) operands: Operands,
    pub(crate) shared: Shared,
    pub(crate) windows: TensorWindows,
}

impl ConvOp {
    fn forward<T: Feature>(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (w, w_layout): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let batch = self.shared.batch();
        let size = Size::of(batch, x_layout.dims());
        let x = rows::<T>(batch, x, x_layout)?;
        let weights = weights(w, w_layout, &self.windows)?;
        let mut y = vec![T::default(); x_layout.shape().elem_count()];
        self.shared.call::<T, _>(&self.operands, size, |workspace| {
            workspace.conv(x, weights, Out::Overwrite(size.rows(batch, &mut y)))
        })?;
        Ok((T::to_cpu_storage_owned(y), x_layout.shape().clone()))
    }

    fn backward<T: Feature>(&self, x: &Tensor, w: &Tensor, grad_y: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let batch = self.shared.batch();
        let size = Size::of(batch, x.dims());
        let grad_y = placeable(batch, grad_y)?;
        let mut grad_x = wanted::<T>(x);
        let mut grad_w = wanted::<T::Acc>(w);
        on_cpu([x, w, &grad_y], |[(x, x_layout), (w, w_layout), (grad_y, grad_y_layout)]| {
            let x = rows::<T>(batch, x, x_layout)?;
            let weights = weights(w, w_layout, &self.windows)?;
            let grad_y = rows::<T>(batch, grad_y, grad_y_layout)?;
            let out_x = grad_x.as_mut().map_or(Out::Skip, |g| Out::Overwrite(size.rows(batch, g)));
            let out_w = grad_w.as_mut().map_or(Out::Skip, |g| Out::Overwrite(&mut g[..]));
            self.shared.call::<T, _>(&self.operands, size, |workspace| {
                workspace.conv_backward(x, weights, grad_y, out_x, out_w)
            })
        })?;
        if keeps_graph()? {
            let [by_x, by_w] = Expression::new(&self.shared, size).conv(&self.windows, x, w, &grad_y)?;
            let tensor_x = grad_x.map(|g| in_graph(g, x.shape(), Some(&by_x), &[x, w])).transpose()?;
            let tensor_w = grad_w.map(|g| in_graph(g, w.shape(), Some(&by_w), &[x, w])).transpose()?;
            return Ok([tensor_x, tensor_w]);
        }
        let tensor_x = grad_x.map(|g| Tensor::from_vec(g, x.shape(), x.device())).transpose()?;
        let tensor_w = grad_w.map(|g| Tensor::from_vec(g, w.shape(), w.device())).transpose()?;
        Ok([tensor_x, tensor_w])
    }
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        self.operands.op
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!(self.operands.op, x.dtype(), T => self.forward::<T>((x, lx), (w, lw)))
    }

    no_accelerators!(CustomOp2: s1, s2);

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        dispatch!(self.operands.op, x.dtype(), T => self.backward::<T>(x, w, grad_y)).map(|[x, w]| (x, w))
    }
}
