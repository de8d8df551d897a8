//! Results and gradients against dense references and finite differences.

use hyperscatter_candle::{Operators, TensorStep, TensorWeights};

use crate::candle_core::{DType, Tensor, Var, WithDType};
use crate::hyperscatter::half::bf16;
use crate::hyperscatter::{Axis, Batch, Conv, Element, Out, Reduce, RowLayout, Rows, cpu};
use crate::reference::*;

fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-12 } else { 1e-5 }
}

#[test]
fn the_convolution_and_its_gradients_are_those_of_the_dense_matrix() {
    let topology = odd_topology();
    let batch = Batch::replicate(topology.clone());
    for dtype in [DType::F32, DType::F64] {
        for (normalization, weight_use) in
            NORMALIZATIONS.into_iter().flat_map(|n| WEIGHT_USES.map(|u| (n, u)))
        {
            let what = format!("{normalization:?} {weight_use:?} {dtype:?}");
            let conv = Conv::new(normalization, weight_use);
            let (x, w) = (var(&signed(&[3, 5, 7], 1, dtype)), var(&positive(&[4], 2, dtype)));
            let g = signed(&[3, 5, 7], 3, dtype);
            let y = Operators::new(&batch, conv).conv(&x, TensorWeights::shared(&w)).unwrap();
            let expected = dense_conv(&topology, conv, &w).unwrap().broadcast_matmul(&x).unwrap();
            assert_close(&y, &expected, tolerance(dtype), &what);
            let found = gradients(&y, &g, &[&x]);
            let grad_w = y.mul(&g).unwrap().sum_all().unwrap().backward().unwrap().get(&w).unwrap().clone();
            assert_close(&found[0], &gradients(&expected, &g, &[&x])[0], tolerance(dtype), &what);
            let expected = expected.mul(&g).unwrap().sum_all().unwrap().backward().unwrap();
            // Without normalization the dense reference does not use weights that are only in the degree.
            let zeros = w.zeros_like().unwrap();
            assert_close(&grad_w, expected.get(&w).unwrap_or(&zeros), tolerance(dtype), &what);
        }
    }
}

/// A step in both forms: the operator's, and the dense matrix's.
struct StepCase {
    to_hyperedges: bool,
    reduce: Reduce,
    /// Of vertices and of hyperedges.
    scaled: [bool; 2],
}

impl StepCase {
    fn all() -> impl Iterator<Item = Self> {
        (0..16).map(|bits: u32| Self {
            to_hyperedges: bits & 1 == 0,
            reduce: if bits & 2 == 0 { Reduce::Sum } else { Reduce::Mean },
            scaled: [bits & 4 != 0, bits & 8 != 0],
        })
    }

    fn name(&self) -> String {
        let Self { to_hyperedges, reduce, scaled } = self;
        format!("to hyperedges: {to_hyperedges}, {reduce:?}, scales of vertices and hyperedges: {scaled:?}")
    }

    /// Features of sources, scales of the 5 vertices and of the 4 hyperedges, and a weighting of the result.
    fn operands(&self, dtype: DType) -> (Var, Var, Var, Tensor) {
        let (from, to) = if self.to_hyperedges { (5, 4) } else { (4, 5) };
        let features = var(&signed(&[2, 2, from, 3], 1, dtype));
        let (r, s) = (var(&signed(&[5], 2, dtype)), var(&signed(&[4], 3, dtype)));
        (features, r, s, signed(&[2, 2, to, 3], 4, dtype))
    }

    fn run(&self, operators: &Operators, features: &Tensor, r: &Tensor, s: &Tensor) -> Tensor {
        let step = TensorStep::new(self.reduce)
            .vertex_scale(self.scaled[0].then(|| TensorWeights::shared(r)))
            .hyperedge_scale(self.scaled[1].then(|| TensorWeights::shared(s)));
        match self.to_hyperedges {
            true => operators.vertex_to_hyperedge(features, step).unwrap(),
            false => operators.hyperedge_to_vertex(features, step).unwrap(),
        }
    }

    fn dense(&self, features: &Tensor, r: &Tensor, s: &Tensor) -> Tensor {
        let h = dense_incidence(&odd_topology(), features.dtype());
        let r = if self.scaled[0] { r } else { &r.ones_like().unwrap() };
        let s = if self.scaled[1] { s } else { &s.ones_like().unwrap() };
        let matrix = match self.to_hyperedges {
            true => dense_step(&h.t().unwrap(), self.reduce, s, r),
            false => dense_step(&h, self.reduce, r, s),
        };
        matrix.unwrap().broadcast_matmul(features).unwrap()
    }

    fn vars<'v>(&self, features: &'v Var, r: &'v Var, s: &'v Var) -> Vec<&'v Var> {
        let scales = [r, s].into_iter().zip(self.scaled).filter(|&(_, scaled)| scaled).map(|(var, _)| var);
        [features].into_iter().chain(scales).collect()
    }
}

#[test]
fn the_steps_and_their_gradients_are_those_of_the_dense_matrix() {
    let operators = Operators::new(&Batch::replicate(odd_topology()), Conv::default());
    for dtype in [DType::F32, DType::F64] {
        for case in StepCase::all() {
            let (features, r, s, g) = case.operands(dtype);
            let found = case.run(&operators, &features, &r, &s);
            let expected = case.dense(&features, &r, &s);
            assert_close(&found, &expected, tolerance(dtype), &case.name());
            let vars = case.vars(&features, &r, &s);
            let (found, expected) = (gradients(&found, &g, &vars), gradients(&expected, &g, &vars));
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(found, expected, tolerance(dtype), &case.name());
            }
        }
    }
}

/// ∂ Σ f · g by central differences, for each element of a variable.
fn finite_differences(variable: &Var, loss: impl Fn() -> Tensor) -> Tensor {
    const STEP: f64 = 1e-6;
    let (start, shape) = (values(variable), variable.shape().clone());
    let at = |i: usize, step: f64| {
        let mut moved = start.clone();
        moved[i] += step;
        variable.set(&Tensor::from_vec(moved, &shape, variable.device()).unwrap()).unwrap();
        values(&loss().sum_all().unwrap())[0]
    };
    let differences: Vec<f64> =
        (0..start.len()).map(|i| (at(i, STEP) - at(i, -STEP)) / (2.0 * STEP)).collect();
    variable.set(&Tensor::from_vec(start.clone(), &shape, variable.device()).unwrap()).unwrap();
    Tensor::from_vec(differences, shape, variable.device()).unwrap()
}

#[test]
fn the_gradients_of_scaled_steps_are_finite_differences() {
    let operators = Operators::new(&Batch::replicate(odd_topology()), Conv::default());
    for case in StepCase::all().filter(|case| case.scaled == [true, true]) {
        let (features, r, s, g) = case.operands(DType::F64);
        let run = || case.run(&operators, &features, &r, &s);
        let vars = case.vars(&features, &r, &s);
        for (variable, gradient) in vars.iter().zip(gradients(&run(), &g, &vars)) {
            let differences = finite_differences(variable, || run().mul(&g).unwrap());
            assert_close(&gradient, &differences, 1e-7, &case.name());
        }
    }
}

#[test]
fn the_gradients_of_the_convolution_are_finite_differences() {
    let batch = Batch::replicate(odd_topology());
    for (normalization, weight_use) in NORMALIZATIONS.into_iter().flat_map(|n| WEIGHT_USES.map(|u| (n, u))) {
        let operators = Operators::new(&batch, Conv::new(normalization, weight_use));
        let (x, w) = (var(&signed(&[2, 5, 3], 1, DType::F64)), var(&positive(&[4], 2, DType::F64)));
        let g = signed(&[2, 5, 3], 3, DType::F64);
        let run = || operators.conv(&x, TensorWeights::shared(&w)).unwrap();
        for (variable, gradient) in [&x, &w].iter().zip(gradients(&run(), &g, &[&x, &w])) {
            let differences = finite_differences(variable, || run().mul(&g).unwrap());
            assert_close(&gradient, &differences, 1e-7, &format!("{normalization:?} {weight_use:?}"));
        }
    }
}

#[test]
fn features_of_16_bits_are_the_rounded_results_of_f32() {
    let operators = Operators::new(&Batch::replicate(odd_topology()), Conv::default());
    let w = var(&positive(&[4], 2, DType::F32));
    for dtype in [DType::F16, DType::BF16] {
        let (x, g) = (var(&signed(&[3, 5, 8], 1, dtype)), signed(&[3, 5, 8], 3, dtype));
        let (wide_x, wide_g) = (var(&x.to_dtype(DType::F32).unwrap()), g.to_dtype(DType::F32).unwrap());
        let y = operators.conv(&x, TensorWeights::shared(&w)).unwrap();
        let wide_y = operators.conv(&wide_x, TensorWeights::shared(&w)).unwrap();
        assert_same(&y, &wide_y.to_dtype(dtype).unwrap(), "y");
        let (found, wide) = (gradients(&y, &g, &[&x, &w]), gradients(&wide_y, &wide_g, &[&wide_x, &w]));
        assert_same(&found[0], &wide[0].to_dtype(dtype).unwrap(), "the gradient of x");
        assert_same(&found[1], &wide[1], "the gradient of the weights");

        let step = || TensorStep::mean().hyperedge_scale(TensorWeights::shared(&w));
        let z = operators.vertex_to_hyperedge(&x, step()).unwrap();
        let wide_z = operators.vertex_to_hyperedge(&wide_x, step()).unwrap();
        assert_same(&z, &wide_z.to_dtype(dtype).unwrap(), "z");
        assert_eq!(operators.hyperedge_to_vertex(&z, step()).unwrap().dtype(), dtype);
    }
}

#[test]
fn tensors_that_no_variable_leads_to_get_no_gradient_and_do_not_disturb_the_others() {
    let operators = Operators::new(&pairs(4), Conv::default());
    let (x, w) = (var(&signed(&[3, 4, 2], 1, DType::F32)), var(&positive(&[6], 2, DType::F32)));
    let g = signed(&[3, 4, 2], 3, DType::F32);
    let both = gradients(&operators.conv(&x, TensorWeights::shared(&w)).unwrap(), &g, &[&x, &w]);
    let (fixed_x, fixed_w) = (x.as_detached_tensor(), w.as_detached_tensor());
    let loss = |y: Tensor| y.mul(&g).unwrap().sum_all().unwrap().backward().unwrap();
    let only_x = loss(operators.conv(&x, TensorWeights::shared(&fixed_w)).unwrap());
    assert_same(only_x.get(&x).unwrap(), &both[0], "x");
    assert!(only_x.get(&fixed_w).is_none());
    let only_w = loss(operators.conv(&fixed_x, TensorWeights::shared(&w)).unwrap());
    assert_same(only_w.get(&w).unwrap(), &both[1], "w");
    assert!(only_w.get(&fixed_x).is_none());
    assert!(!operators.conv(&fixed_x, TensorWeights::shared(&fixed_w)).unwrap().track_op());
}

#[test]
fn degrees_are_sums_of_weights_with_gradients() {
    let operators = Operators::new(&Batch::replicate(odd_topology()), Conv::default());
    let w = var(&Tensor::new(&[1f32, 2., 4., 8.], &crate::candle_core::Device::Cpu).unwrap());
    let degrees = operators.degrees(TensorWeights::shared(&w)).unwrap();
    assert_eq!(degrees.to_vec1::<f32>().unwrap(), [9., 3., 2., 18., 0.]);
    let gradient = &gradients(&degrees, &degrees.ones_like().unwrap(), &[&w])[0];
    assert_eq!(gradient.to_vec1::<f32>().unwrap(), [2., 3., 0., 3.]);
}

/// The gradients of the core itself, of the convolution and of a plain sum.
fn gradients_of_the_core<T: Element<Acc = f32> + WithDType>(
    batch: &Batch,
    conv: Conv,
    x: &Tensor,
    w: &Tensor,
    g: &Tensor,
) -> [Tensor; 3] {
    let (copies, _, features) = x.dims3().unwrap();
    let plan = cpu::Plan::<T>::builder(batch, features).conv(conv).build().unwrap();
    let mut workspace = plan.workspace(copies).unwrap();
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<T>().unwrap();
    let (x_values, g_values, w_values) = (flat(x), flat(g), w.to_vec1::<f32>().unwrap());
    let (mut grad_x, mut grad_w) = (x_values.clone(), w_values.clone());
    let rows = |values| Rows::new(values, RowLayout::contiguous(features).instances(copies));
    let out = Out::Overwrite(Rows::new(&mut grad_x[..], RowLayout::contiguous(features).instances(copies)));
    let weights = cpu::Weights::shared(&w_values[..]);
    workspace
        .conv_backward(
            rows(&x_values[..]),
            weights,
            rows(&g_values[..]),
            out,
            Out::Overwrite(&mut grad_w[..]),
        )
        .unwrap();
    // The gradient of a sum into hyperedges, for a gradient that is 1 everywhere.
    let ones = vec![T::one(); copies * batch.largest(Axis::Hyperedge) * features];
    let mut grad_of_sum = x_values.clone();
    let out =
        Out::Overwrite(Rows::new(&mut grad_of_sum[..], RowLayout::contiguous(features).instances(copies)));
    let step = cpu::Step::new(Reduce::Sum);
    workspace.hyperedge_to_vertex(&step, rows(&ones[..]), out).unwrap();
    let tensor = |values: Vec<T>| Tensor::from_vec(values, x.shape(), x.device()).unwrap();
    [tensor(grad_x), Tensor::from_vec(grad_w, w.shape(), w.device()).unwrap(), tensor(grad_of_sum)]
}

/// Also in the process that keeps the graph, where expressions stand behind the gradients.
#[test]
fn gradients_have_the_bits_of_the_core() {
    fn check<T: Element<Acc = f32> + WithDType>() {
        let batch = Batch::replicate(odd_topology());
        for conv in NORMALIZATIONS.into_iter().flat_map(|n| WEIGHT_USES.map(|u| Conv::new(n, u))) {
            let operators = Operators::new(&batch, conv);
            let (x, g) = (var(&signed(&[9, 5, 6], 1, T::DTYPE)), signed(&[9, 5, 6], 2, T::DTYPE));
            let w = var(&positive(&[4], 3, DType::F32));
            let expected = gradients_of_the_core::<T>(&batch, conv, &x, &w, &g);
            let y = operators.conv(&x, TensorWeights::shared(&w)).unwrap();
            let found = gradients(&y, &g, &[&x, &w]);
            let z = operators.vertex_to_hyperedge(&x, TensorStep::sum()).unwrap();
            let of_sum = z.sum_all().unwrap().backward().unwrap().remove(&x).unwrap();
            for (i, (found, expected)) in found.iter().chain([&of_sum]).zip(&expected).enumerate() {
                assert_same(found, expected, &format!("{:?}, {conv:?}, gradient {i}", T::DTYPE));
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}
