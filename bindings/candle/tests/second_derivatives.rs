//! Second derivatives, in a process where candle keeps the graph of gradients. Candle asks the environment
//! once in a thread, so the process has to be another one: one test starts it.

use std::process::Command;
use std::sync::Arc;

use hyperscatter_candle::{
    HyperedgeWeight, HypergraphConv, Operators, TensorStep, TensorWeights, TensorWindows,
};

use crate::candle_core::{DType, Module, Result, Tensor, Var};
use crate::hyperscatter::{Batch, Conv, Incidence, Normalization, Reduce, WeightUse, WindowTable};
use crate::reference::*;

const SWITCH: &str = "CANDLE_GRAD_DO_NOT_DETACH";

/// Whether this process keeps graphs. The tests of second derivatives mean nothing where it does not.
fn keeps_graph() -> bool {
    std::env::var_os(SWITCH).is_some_and(|value| value == "1")
}

#[test]
fn all_tests_pass_where_candle_keeps_the_graph_and_then_second_derivatives_too() {
    if keeps_graph() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap()).env(SWITCH, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("test result: ok"), "{said}");
}

#[test]
fn variables_lead_to_gradients_where_the_keeps_graph_and_nowhere_else() {
    let operators = Operators::new(&Batch::replicate(odd_topology()), Conv::default());
    let (x, w) = (random(&[2, 5, 2], 1), var(&positive(&[4], 2, DType::F64)));
    let scale = || Some(TensorWeights::shared(&w));
    let mean = TensorStep::mean().hyperedge_scale(scale());
    let results = [
        operators.conv(&x, TensorWeights::shared(&w)).unwrap(),
        operators.vertex_to_hyperedge(&x, mean).unwrap(),
    ];
    for result in results {
        // Also where another thread computes the gradients.
        let there = std::thread::scope(|s| s.spawn(|| result.sum_all().unwrap().backward().unwrap()).join());
        for gradients in [result.sum_all().unwrap().backward().unwrap(), there.unwrap()] {
            for var in [&x, &w] {
                assert_eq!(gradients.get(var).unwrap().track_op(), keeps_graph());
            }
        }
    }
}

/// The first gradients of a loss, weighted and summed to a number.
fn weighted_gradients(loss: &Tensor, of: &[&Var]) -> Result<Tensor> {
    let gradients = loss.backward()?;
    let mut sum = loss.zeros_like()?.detach();
    for (i, var) in of.iter().enumerate() {
        let gradient = gradients.get(var).expect("a first gradient");
        let weighting = signed(var.dims(), 100 + i as u64, DType::F64);
        sum = (sum + (gradient * weighting)?.sum_all()?)?;
    }
    Ok(sum)
}

/// Compares the derivatives of all weighted first gradients, by each variable, with difference quotients.
#[track_caller]
fn assert_second_derivatives(what: &str, vars: &[&Var], loss: impl Fn() -> Tensor) {
    const STEP: f64 = 1e-6;
    let second = weighted_gradients(&loss(), vars).unwrap().backward().unwrap();
    for (i, var) in vars.iter().enumerate() {
        let start = values(var);
        let at = |element: usize, step: f64| {
            let mut moved = start.clone();
            moved[element] += step;
            var.set(&Tensor::from_vec(moved, var.shape(), var.device()).unwrap()).unwrap();
            values(&weighted_gradients(&loss(), vars).unwrap())[0]
        };
        let quotients: Vec<f64> =
            (0..start.len()).map(|e| (at(e, STEP) - at(e, -STEP)) / (2.0 * STEP)).collect();
        var.set(&Tensor::from_vec(start.clone(), var.shape(), var.device()).unwrap()).unwrap();
        let quotients = Tensor::from_vec(quotients, var.shape(), var.device()).unwrap();
        let found = second.get(var).unwrap_or_else(|| panic!("{what}: no second derivative by variable {i}"));
        assert_close(found, &quotients, 1e-6, &format!("{what}, variable {i}"));
    }
}

fn random(shape: &[usize], seed: u64) -> Var {
    var(&signed(shape, seed, DType::F64))
}

fn table_batch() -> Batch {
    let topologies = vec![Incidence::subsets(3, 2).unwrap(), odd_topology()];
    Batch::from_table(topologies, &[1, 0, 1]).unwrap()
}

#[test]
fn the_convolution_differentiates_twice() {
    if !keeps_graph() {
        return;
    }
    for (normalization, weight_use) in NORMALIZATIONS.into_iter().flat_map(|n| WEIGHT_USES.map(|u| (n, u))) {
        let copies = Batch::replicate(odd_topology());
        let table = |batch: &Batch, offsets: &[usize]| {
            TensorWindows::Table(Arc::new(WindowTable::new(batch, offsets).unwrap()))
        };
        let instances = table_batch();
        let cases: [(&Batch, TensorWindows, &[usize], &[usize]); 6] = [
            (&copies, TensorWindows::Shared, &[4], &[2, 5, 2]),
            (&copies, TensorWindows::Consecutive, &[2, 4], &[2, 5, 2]),
            (&copies, table(&copies, &[3, 1]), &[8], &[2, 5, 2]),
            (&instances, TensorWindows::Shared, &[4], &[13, 2]),
            (&instances, TensorWindows::Consecutive, &[11], &[13, 2]),
            (&instances, table(&instances, &[2, 0, 1]), &[6], &[13, 2]),
        ];
        for (batch, windows, weights, shape) in cases {
            let what = format!("{normalization:?} {weight_use:?} {windows:?} {shape:?}");
            let operators = Operators::new(batch, Conv::new(normalization, weight_use));
            let (x, w, g) = (random(shape, 1), var(&positive(weights, 2, DType::F64)), random(shape, 3));
            assert_second_derivatives(&what, &[&x, &w, &g], || {
                let y = operators.conv(&x, TensorWeights::new(&w, windows.clone())).unwrap();
                // Linear and not: gradients that no variable leads to, and others, arrive at the operator.
                ((&y * g.as_tensor()).unwrap() + y.sqr().unwrap()).unwrap().sum_all().unwrap()
            });
            assert_second_derivatives(&what, &[&x, &w], || {
                let windows = windows.clone();
                operators.conv(&x, TensorWeights::new(&w, windows)).unwrap().sum_all().unwrap()
            });
        }
    }
}

#[test]
fn the_steps_differentiate_twice() {
    if !keeps_graph() {
        return;
    }
    for bits in 0..32u32 {
        let batch = if bits & 16 == 0 { Batch::replicate(odd_topology()) } else { table_batch() };
        let operators = Operators::new(&batch, Conv::default());
        let reduce = if bits & 2 == 0 { Reduce::Sum } else { Reduce::Mean };
        let (n, m) = if bits & 16 == 0 { (5, 4) } else { (13, 11) };
        let (r, s) = (random(&[n], 2), random(&[m], 3));
        let of = |rows| if bits & 16 == 0 { vec![2, rows, 2] } else { vec![rows, 2] };
        let (from, to) = if bits & 1 == 0 { (n, m) } else { (m, n) };
        let (x, g) = (random(&of(from), 1), random(&of(to), 4));
        let windows = || if bits & 16 == 0 { TensorWindows::Shared } else { TensorWindows::Consecutive };
        let mut vars = vec![&x, &g];
        vars.extend((bits & 4 != 0).then_some(&r));
        vars.extend((bits & 8 != 0).then_some(&s));
        assert_second_derivatives(&format!("case {bits:05b}"), &vars, || {
            let step = TensorStep::new(reduce)
                .vertex_scale((bits & 4 != 0).then(|| TensorWeights::new(&r, windows())))
                .hyperedge_scale((bits & 8 != 0).then(|| TensorWeights::new(&s, windows())));
            let y = match bits & 1 {
                0 => operators.vertex_to_hyperedge(&x, step).unwrap(),
                _ => operators.hyperedge_to_vertex(&x, step).unwrap(),
            };
            ((&y * g.as_tensor()).unwrap() + y.sqr().unwrap()).unwrap().sum_all().unwrap()
        });
    }
}

#[test]
fn a_layer_differentiates_twice() {
    if !keeps_graph() {
        return;
    }
    let (lin, bias, raw) = (random(&[2, 3], 1), random(&[2], 2), random(&[4], 3));
    let x = random(&[2, 5, 3], 4);
    for conv in NORMALIZATIONS.into_iter().flat_map(|n| WEIGHT_USES.map(|u| Conv::new(n, u))) {
        let layer = HypergraphConv::new(
            Operators::new(&Batch::replicate(odd_topology()), conv),
            lin.as_tensor().clone(),
            Some(bias.as_tensor().clone()),
            HyperedgeWeight::Softplus(raw.as_tensor().clone()),
        )
        .unwrap();
        let vars = [&x, &lin, &bias, &raw];
        assert_second_derivatives(&format!("{conv:?}"), &vars, || {
            let y = layer.forward(&x).unwrap();
            (y.sqr().unwrap() * 0.5).unwrap().sum_all().unwrap()
        });
    }
}

#[test]
fn third_derivatives_are_those_of_the_dense_matrix() {
    if !keeps_graph() {
        return;
    }
    let conv = Conv::default();
    let operators = Operators::new(&Batch::replicate(odd_topology()), conv);
    let (x, w) = (random(&[2, 5, 2], 1), var(&positive(&[4], 2, DType::F64)));
    let third = |y: Tensor| {
        let loss = (y.sqr().unwrap() * &y).unwrap().sum_all().unwrap();
        let second = weighted_gradients(&loss, &[&x, &w]).unwrap();
        let third = weighted_gradients(&second, &[&x, &w]).unwrap().backward().unwrap();
        [&x, &w].map(|var| third.get(var).unwrap().clone())
    };
    let found = third(operators.conv(&x, TensorWeights::shared(&w)).unwrap());
    let dense = dense_conv(&odd_topology(), conv, &w).unwrap();
    for (found, expected) in found.iter().zip(third(dense.broadcast_matmul(&x).unwrap())) {
        assert_close(found, &expected, 1e-10, "a third derivative");
    }
}

#[test]
fn second_derivatives_of_narrow_types_are_those_of_f64() {
    if !keeps_graph() {
        return;
    }
    let operators = Operators::new(&Batch::replicate(odd_topology()), Conv::default());
    let second = |dtype: DType, weights: DType| {
        let x = var(&signed(&[2, 5, 2], 1, DType::BF16).to_dtype(dtype).unwrap());
        let w = var(&positive(&[4], 2, DType::BF16).to_dtype(weights).unwrap());
        let y = operators.conv(&x, TensorWeights::shared(&w)).unwrap();
        let gradients = y.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let of = |var: &Var| gradients.get(var).unwrap().to_dtype(DType::F64).unwrap().sum_all().unwrap();
        let second = (of(&x) + of(&w)).unwrap().backward().unwrap();
        [&x, &w].map(|var| second.get(var).unwrap().to_dtype(DType::F64).unwrap())
    };
    let expected = second(DType::F64, DType::F64);
    for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
        for (found, expected) in second(dtype, DType::F32).iter().zip(&expected) {
            assert_close(found, expected, tolerance, &format!("{dtype:?}"));
        }
    }
}

/// The scale of the weights cancels, or is a power of two in the result that the loss takes out again; so
/// every derivative by weights of an ordinary scale is the same, whatever the scale in between.
#[test]
fn second_derivatives_stay_in_range_where_degrees_are_very_small_or_very_large() {
    if !keeps_graph() {
        return;
    }
    for (normalization, weight_use) in NORMALIZATIONS.into_iter().flat_map(|n| WEIGHT_USES.map(|u| (n, u))) {
        let operators =
            Operators::new(&Batch::replicate(odd_topology()), Conv::new(normalization, weight_use));
        let second = |exponent: i32| {
            let scale = 2f64.powi(exponent);
            let scale_of_loss = match (normalization, weight_use) {
                (Normalization::None, WeightUse::DegreeOnly) => 1.0,
                (Normalization::Row | Normalization::Symmetric, WeightUse::Documented) => 1.0,
                (_, WeightUse::DegreeOnly) => scale,
                _ => scale.recip(),
            };
            let (x, w) = (random(&[2, 5, 2], 1), var(&positive(&[4], 2, DType::F64)));
            let scaled = (w.as_tensor() * scale).unwrap();
            let y = operators.conv(&x, TensorWeights::shared(&scaled)).unwrap();
            let loss = (y * scale_of_loss).unwrap().sqr().unwrap().sum_all().unwrap();
            let second = weighted_gradients(&loss, &[&x, &w]).unwrap().backward().unwrap();
            [&x, &w].map(|var| second.get(var).unwrap().clone())
        };
        let expected = second(0);
        for exponent in [-1000, -700, -520, 520, 700, 1000] {
            for (found, expected) in second(exponent).iter().zip(&expected) {
                let what = format!("{normalization:?} {weight_use:?} 2^{exponent}");
                assert_close(found, expected, 1e-13, &what);
            }
        }
    }
}

#[test]
fn weights_that_play_no_part_have_second_derivatives_of_zero() {
    if !keeps_graph() {
        return;
    }
    let operators = Operators::new(&pairs(3), Conv::new(Normalization::None, WeightUse::DegreeOnly));
    for copies in [0, 2] {
        let (x, w) = (random(&[copies, 3, 2], 1), var(&positive(&[3], 2, DType::F64)));
        let y = operators.conv(&x, TensorWeights::shared(&w)).unwrap();
        let second = weighted_gradients(&y.sqr().unwrap().sum_all().unwrap(), &[&x, &w]).unwrap();
        let second = second.backward().unwrap();
        assert_eq!(second.get(&w).expect("zeros").to_vec1::<f64>().unwrap(), [0.0; 3]);
        assert_eq!(second.get(&x).expect("a derivative").dims(), x.dims());
    }
}

#[test]
fn second_derivatives_of_masked_weights_are_those_of_f64() {
    if !keeps_graph() {
        return;
    }
    for conv in [Normalization::Row, Normalization::Symmetric].map(|n| Conv::new(n, WeightUse::Documented)) {
        let second = |dtype: DType| {
            let x = signed(&[2, 3, 2], 1, DType::F32).to_dtype(dtype).unwrap();
            let logits = var(&Tensor::new(&[0f32, -90., -91.], x.device()).unwrap().to_dtype(dtype).unwrap());
            let layer = HypergraphConv::new(
                Operators::new(&pairs(3), conv),
                Tensor::eye(2, dtype, x.device()).unwrap(),
                None,
                HyperedgeWeight::Softplus(logits.as_tensor().clone()),
            )
            .unwrap();
            let loss = layer.forward(&x).unwrap().sqr().unwrap().sum_all().unwrap();
            let first = loss.backward().unwrap().get(&logits).unwrap().clone();
            let weighting = signed(&[3], 2, dtype);
            let second = (first * weighting).unwrap().sum_all().unwrap().backward().unwrap();
            second.get(&logits).unwrap().to_dtype(DType::F64).unwrap()
        };
        let (found, expected) = (second(DType::F32), second(DType::F64));
        assert!(
            values(&expected).iter().all(|x| x.is_finite()) && values(&found).iter().all(|x| x.is_finite())
        );
        assert_close(&found, &expected, 1e-5, &format!("{conv:?}"));
    }
}
