//! What the generic suite asks of a backend: its operators, on host arrays and in the words of the CPU
//! backend.

use hyperscatter::{Batch, Conv, Operator, Out, Path, Reduce, Result, Rows, cpu};
use proptest::prelude::*;

use crate::common::TestElement;

/// One of the two steps.
#[derive(Debug, Clone, Copy)]
pub struct StepKind {
    pub to_hyperedges: bool,
    pub reduce: Reduce,
}

impl StepKind {
    pub fn any() -> impl Strategy<Value = Self> {
        let reduce = prop_oneof![Just(Reduce::Sum), Just(Reduce::Mean)];
        (any::<bool>(), reduce).prop_map(|(to_hyperedges, reduce)| Self { to_hyperedges, reduce })
    }
}

/// The operators of one plan, with scratch memory for some number of instances. Each runs to its end: the
/// outputs hold the results then.
pub trait Operators<T: TestElement> {
    /// The step to the hyperedges, or the one to the vertices.
    fn step(
        &mut self,
        to_hyperedges: bool,
        step: cpu::Step<'_, T::Acc>,
        x: Rows<&[T]>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()>;

    fn step_backward(
        &mut self,
        to_hyperedges: bool,
        step: cpu::Step<'_, T::Acc>,
        x: Rows<&[T]>,
        grad_y: Rows<&[T]>,
        gradients: cpu::StepGradients<'_, T>,
    ) -> Result<()>;

    /// The convolution; `z` is saved where it is given.
    fn conv(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        z: Option<Rows<&mut [T::Acc]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()>;

    /// The backward of the convolution, from the saved `z` where it is given.
    fn conv_backward(
        &mut self,
        x: Rows<&[T]>,
        z: Option<Rows<&[T::Acc]>>,
        weights: cpu::Weights<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        grad_x: Out<Rows<&mut [T]>>,
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()>;

    fn conv_epilogue(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()>;

    fn conv_epilogue_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        gradients: cpu::EpilogueGradients<'_, T>,
    ) -> Result<()>;

    fn conv_readout(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        readout: Out<&mut [T]>,
    ) -> Result<()>;

    fn conv_readout_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_readout: &[T],
        gradients: cpu::EpilogueGradients<'_, T>,
    ) -> Result<()>;

    fn conv_matrix(&mut self, weights: cpu::Weights<'_, T::Acc>, matrix: Out<&mut [T::Acc]>) -> Result<()>;

    fn conv_matrix_backward(
        &mut self,
        weights: cpu::Weights<'_, T::Acc>,
        grad_matrix: &[T::Acc],
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()>;

    fn gram(&mut self, x: Rows<&[T]>, gram: Out<&mut [T::Acc]>) -> Result<()>;

    fn gram_backward(
        &mut self,
        x: Rows<&[T]>,
        grad_gram: &[T::Acc],
        grad_x: Out<Rows<&mut [T]>>,
    ) -> Result<()>;

    /// A layer, of operators that [`Backend::layers_on`] has made.
    fn layer(
        &mut self,
        x: Rows<&[T]>,
        theta: &[T],
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()>;

    fn layer_backward(
        &mut self,
        x: Rows<&[T]>,
        theta: &[T],
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        gradients: cpu::LayerGradients<'_, T>,
    ) -> Result<()>;
}

/// A backend.
pub trait Backend<T>: Sync {
    /// Whether a test may take as many calls as it likes of so many instances times features.
    fn affords(&self, elements: usize) -> bool;

    /// The operators, with a path for each topology if some are given.
    fn operators_on(
        &self,
        batch: &Batch,
        features: usize,
        conv: Conv,
        max_instances: usize,
        paths: Option<&[Path]>,
    ) -> Result<Box<dyn Operators<T>>>;

    fn operators(
        &self,
        batch: &Batch,
        features: usize,
        conv: Conv,
        max_instances: usize,
    ) -> Result<Box<dyn Operators<T>>> {
        self.operators_on(batch, features, conv, max_instances, None)
    }

    /// The same with layers, of so many inputs and features.
    fn layers_on(
        &self,
        batch: &Batch,
        widths: (usize, usize),
        conv: Conv,
        max_instances: usize,
        paths: Option<&[Path]>,
    ) -> Result<Box<dyn Operators<T>>>;
}

/// The operators on slices.
pub struct Cpu;

struct OnCpu<T: TestElement>(cpu::Workspace<T>);

impl<T: TestElement> Backend<T> for Cpu {
    fn affords(&self, _elements: usize) -> bool {
        !cfg!(miri)
    }

    fn operators_on(
        &self,
        batch: &Batch,
        features: usize,
        conv: Conv,
        max_instances: usize,
        paths: Option<&[Path]>,
    ) -> Result<Box<dyn Operators<T>>> {
        let plan = cpu::Plan::<T>::builder(batch, features).conv(conv);
        let plan = paths.map_or(plan.clone(), |paths| plan.paths(paths)).build()?;
        Ok(Box::new(OnCpu(plan.workspace(max_instances)?)))
    }

    fn layers_on(
        &self,
        batch: &Batch,
        (inputs, features): (usize, usize),
        conv: Conv,
        max_instances: usize,
        paths: Option<&[Path]>,
    ) -> Result<Box<dyn Operators<T>>> {
        let plan = cpu::Plan::<T>::builder(batch, features).inputs(inputs).conv(conv);
        let plan = paths.map_or(plan.clone(), |paths| plan.paths(paths)).build()?;
        Ok(Box::new(OnCpu(plan.workspace_for(max_instances, Operator::ALL)?)))
    }
}

impl<T: TestElement> Operators<T> for OnCpu<T> {
    fn step(
        &mut self,
        to_hyperedges: bool,
        step: cpu::Step<'_, T::Acc>,
        x: Rows<&[T]>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        match to_hyperedges {
            true => self.0.vertex_to_hyperedge(&step, x, y),
            false => self.0.hyperedge_to_vertex(&step, x, y),
        }
    }

    fn step_backward(
        &mut self,
        to_hyperedges: bool,
        step: cpu::Step<'_, T::Acc>,
        x: Rows<&[T]>,
        grad_y: Rows<&[T]>,
        gradients: cpu::StepGradients<'_, T>,
    ) -> Result<()> {
        match to_hyperedges {
            true => self.0.vertex_to_hyperedge_backward(&step, x, grad_y, gradients),
            false => self.0.hyperedge_to_vertex_backward(&step, x, grad_y, gradients),
        }
    }

    fn conv(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        z: Option<Rows<&mut [T::Acc]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        match z {
            Some(z) => self.0.conv_saving_z(x, weights, z, y),
            None => self.0.conv(x, weights, y),
        }
    }

    fn conv_backward(
        &mut self,
        x: Rows<&[T]>,
        z: Option<Rows<&[T::Acc]>>,
        weights: cpu::Weights<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        grad_x: Out<Rows<&mut [T]>>,
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()> {
        match z {
            Some(z) => self.0.conv_backward_from_z(x, z, weights, grad_y, grad_x, grad_weights),
            None => self.0.conv_backward(x, weights, grad_y, grad_x, grad_weights),
        }
    }

    fn conv_epilogue(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.0.conv_epilogue(x, weights, epilogue, residual, y)
    }

    fn conv_epilogue_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        gradients: cpu::EpilogueGradients<'_, T>,
    ) -> Result<()> {
        self.0.conv_epilogue_backward(x, weights, epilogue, grad_y, gradients)
    }

    fn conv_readout(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        readout: Out<&mut [T]>,
    ) -> Result<()> {
        self.0.conv_readout(x, weights, epilogue, residual, readout)
    }

    fn conv_readout_backward(
        &mut self,
        x: Rows<&[T]>,
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_readout: &[T],
        gradients: cpu::EpilogueGradients<'_, T>,
    ) -> Result<()> {
        self.0.conv_readout_backward(x, weights, epilogue, grad_readout, gradients)
    }

    fn conv_matrix(&mut self, weights: cpu::Weights<'_, T::Acc>, matrix: Out<&mut [T::Acc]>) -> Result<()> {
        self.0.conv_matrix(weights, matrix)
    }

    fn conv_matrix_backward(
        &mut self,
        weights: cpu::Weights<'_, T::Acc>,
        grad_matrix: &[T::Acc],
        grad_weights: Out<&mut [T::Acc]>,
    ) -> Result<()> {
        self.0.conv_matrix_backward(weights, grad_matrix, grad_weights)
    }

    fn gram(&mut self, x: Rows<&[T]>, gram: Out<&mut [T::Acc]>) -> Result<()> {
        self.0.gram(x, gram)
    }

    fn gram_backward(
        &mut self,
        x: Rows<&[T]>,
        grad_gram: &[T::Acc],
        grad_x: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.0.gram_backward(x, grad_gram, grad_x)
    }

    fn layer(
        &mut self,
        x: Rows<&[T]>,
        theta: &[T],
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        residual: Option<Rows<&[T]>>,
        y: Out<Rows<&mut [T]>>,
    ) -> Result<()> {
        self.0.layer(x, theta, weights, epilogue, residual, y)
    }

    fn layer_backward(
        &mut self,
        x: Rows<&[T]>,
        theta: &[T],
        weights: cpu::Weights<'_, T::Acc>,
        epilogue: &cpu::Epilogue<'_, T::Acc>,
        grad_y: Rows<&[T]>,
        gradients: cpu::LayerGradients<'_, T>,
    ) -> Result<()> {
        self.0.layer_backward(x, theta, weights, epilogue, grad_y, gradients)
    }
}

/// What a call is asked to do with an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Overwrite,
    Accumulate,
    Skip,
}

impl Write {
    pub fn any() -> impl Strategy<Value = Self> {
        prop_oneof![Just(Self::Overwrite), Just(Self::Accumulate), Just(Self::Skip)]
    }

    pub fn to<B>(self, buffer: B) -> Out<B> {
        match self {
            Self::Overwrite => Out::Overwrite(buffer),
            Self::Accumulate => Out::Accumulate(buffer),
            Self::Skip => Out::Skip,
        }
    }
}
