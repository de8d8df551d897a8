//! The two scatter steps as candle operations on features and scales.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use hyperscatter::cpu::{self, StepGradients};
use hyperscatter::{Direction, Out, Reduce};

use crate::custom::{in_graph, keeps_graph, no_accelerators, on_cpu, wanted};
use crate::dtype::dispatch;
use crate::error::Operands;
use crate::expression::Expression;
use crate::pool::Feature;
use crate::rows::{Size, placeable, rows};
use crate::shared::Shared;
use crate::weights::{TensorWindows, weights};

/// A step that is no plain sum. Its tensors are the features, then the scales for which there are windows,
/// vertices first.
pub(crate) struct StepOp {
    pub(crate) operands: Operands,
    pub(crate) shared: Shared,
    pub(crate) direction: Direction,
    pub(crate) reduce: Reduce,
    pub(crate) vertex_windows: Option<TensorWindows>,
    pub(crate) hyperedge_windows: Option<TensorWindows>,
}

impl StepOp {
    /// The step of the core, with scales in the order of the tensors.
    fn step<'a, T: Feature>(&'a self, scales: &[(&'a CpuStorage, &Layout)]) -> Result<cpu::Step<'a, T::Acc>> {
        let mut scales = scales.iter();
        let mut scale = |windows: &'a Option<TensorWindows>| -> Result<Option<cpu::Weights<'a, T::Acc>>> {
            let Some(windows) = windows else { return Ok(None) };
            scales.next().map(|(storage, layout)| weights(storage, layout, windows)).transpose()
        };
        let vertex_scale = scale(&self.vertex_windows)?;
        let hyperedge_scale = scale(&self.hyperedge_windows)?;
        Ok(cpu::Step::new(self.reduce).vertex_scale(vertex_scale).hyperedge_scale(hyperedge_scale))
    }

    fn forward<T: Feature>(
        &self,
        x: (&CpuStorage, &Layout),
        scales: &[(&CpuStorage, &Layout)],
    ) -> Result<(CpuStorage, Shape)> {
        let step = self.step::<T>(scales)?;
        self.shared.step::<T>(&self.operands, self.direction, &step, x)
    }

    /// The gradients of the features and of `N` scales, those that are wanted.
    fn backward<T: Feature, const N: usize>(
        &self,
        x: &Tensor,
        scales: [&Tensor; N],
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, [Option<Tensor>; N])> {
        let batch = self.shared.batch();
        let size = Size::of(batch, x.dims());
        let grad_y = placeable(batch, grad_y)?;
        let mut grad_x = wanted::<T>(x);
        let mut grad_scales = scales.map(wanted::<T::Acc>);
        on_cpu([x, &grad_y], |[(x, x_layout), (grad_y, grad_y_layout)]| {
            on_cpu(scales, |scale_storages| {
                let x = rows::<T>(batch, x, x_layout)?;
                let grad_y = rows::<T>(batch, grad_y, grad_y_layout)?;
                let step = self.step::<T>(&scale_storages)?;
                let mut scales = grad_scales.iter_mut();
                let mut scale = |windows: &Option<TensorWindows>| match windows {
                    None => Out::Skip,
                    Some(_) => match scales.next() {
                        Some(Some(gradient)) => Out::Overwrite(&mut gradient[..]),
                        _ => Out::Skip,
                    },
                };
                let gradients = StepGradients::none()
                    .rows(grad_x.as_mut().map_or(Out::Skip, |g| Out::Overwrite(size.rows(batch, g))))
                    .vertex_scale(scale(&self.vertex_windows))
                    .hyperedge_scale(scale(&self.hyperedge_windows));
                self.shared.call::<T, _>(&self.operands, size, |workspace| match self.direction {
                    Direction::VertexToHyperedge => {
                        workspace.vertex_to_hyperedge_backward(&step, x, grad_y, gradients)
                    }
                    Direction::HyperedgeToVertex => {
                        workspace.hyperedge_to_vertex_backward(&step, x, grad_y, gradients)
                    }
                })
            })
        })?;
        if keeps_graph()? {
            let (by_x, by_scales) = self.expression(size, x, scales, &grad_y)?;
            let operands: Vec<&Tensor> = [x].into_iter().chain(scales).collect();
            let tensor_x = grad_x.map(|g| in_graph(g, x.shape(), Some(&by_x), &operands)).transpose()?;
            let mut tensors = [const { None }; N];
            let found = grad_scales.into_iter().zip(scales).zip(by_scales.iter().flatten());
            for (tensor, ((gradient, scale), by_scale)) in tensors.iter_mut().zip(found) {
                let gradient = gradient.map(|g| in_graph(g, scale.shape(), Some(by_scale), &operands));
                *tensor = gradient.transpose()?;
            }
            return Ok((tensor_x, tensors));
        }
        let tensor_x = grad_x.map(|g| Tensor::from_vec(g, x.shape(), x.device())).transpose()?;
        let mut tensors = [const { None }; N];
        for ((tensor, gradient), scale) in tensors.iter_mut().zip(grad_scales).zip(scales) {
            *tensor = gradient.map(|g| Tensor::from_vec(g, scale.shape(), scale.device())).transpose()?;
        }
        Ok((tensor_x, tensors))
    }

    /// The gradients as expressions, those of scales where there are windows.
    fn expression<const N: usize>(
        &self,
        size: Size,
        x: &Tensor,
        scales: [&Tensor; N],
        grad_y: &Tensor,
    ) -> Result<(Tensor, [Option<Tensor>; 2])> {
        let mut scales = scales.into_iter();
        let of = [&self.vertex_windows, &self.hyperedge_windows]
            .map(|windows| windows.as_ref().and_then(|windows| Some((scales.next()?, windows))));
        Expression::new(&self.shared, size).step(self.direction, self.reduce, x, of, grad_y)
    }
}

impl CustomOp1 for StepOp {
    fn name(&self) -> &'static str {
        self.operands.op
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!(self.operands.op, x.dtype(), T => self.forward::<T>((x, lx), &[]))
    }

    no_accelerators!(CustomOp1: s1);

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        dispatch!(self.operands.op, x.dtype(), T => self.backward::<T, 0>(x, [], grad_y)).map(|(x, [])| x)
    }
}

impl CustomOp2 for StepOp {
    fn name(&self) -> &'static str {
        self.operands.op
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        s: &CpuStorage,
        ls: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!(self.operands.op, x.dtype(), T => self.forward::<T>((x, lx), &[(s, ls)]))
    }

    no_accelerators!(CustomOp2: s1, s2);

    fn bwd(
        &self,
        x: &Tensor,
        s: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradients = dispatch!(self.operands.op, x.dtype(), T => self.backward::<T, 1>(x, [s], grad_y));
        gradients.map(|(x, [s])| (x, s))
    }
}

impl CustomOp3 for StepOp {
    fn name(&self) -> &'static str {
        self.operands.op
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        r: &CpuStorage,
        lr: &Layout,
        s: &CpuStorage,
        ls: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!(self.operands.op, x.dtype(), T => self.forward::<T>((x, lx), &[(r, lr), (s, ls)]))
    }

    no_accelerators!(CustomOp3: s1, s2, s3);

    fn bwd(
        &self,
        x: &Tensor,
        r: &Tensor,
        s: &Tensor,
        _y: &Tensor,
        grad_y: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradients = dispatch!(self.operands.op, x.dtype(), T => self.backward::<T, 2>(x, [r, s], grad_y));
        gradients.map(|(x, [r, s])| (x, r, s))
    }
}
