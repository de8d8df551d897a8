//! Hyperedge weights of very negative and very large parameters: what the layer makes of them, and what is
//! learned.

use hyperscatter_candle::{HyperedgeWeight, HypergraphConv, Operators, TensorWeights};

use crate::candle_core::{DType, Device, Module, Result, Tensor, Var};
use crate::candle_nn::{AdamW, Optimizer, ParamsAdamW};
use crate::hyperscatter::{Batch, Conv, Incidence, Normalization, Repeats, WeightUse};
use crate::reference::*;

const DOCUMENTED: [Normalization; 2] = [Normalization::Row, Normalization::Symmetric];

/// Three vertices; the last one stands in the hyperedges 1 and 2 only.
fn masked() -> Incidence {
    Incidence::from_edges(3, &[vec![0, 1], vec![1, 2], vec![0, 2]], Repeats::Reject).unwrap()
}

fn layer(normalization: Normalization, logits: &Var, features: usize) -> HypergraphConv {
    let conv = Conv::new(normalization, WeightUse::Documented);
    let identity = Tensor::eye(features, logits.dtype(), &Device::Cpu).unwrap();
    let weight = HyperedgeWeight::Softplus(logits.as_tensor().clone());
    HypergraphConv::new(Operators::new(&Batch::replicate(masked()), conv), identity, None, weight).unwrap()
}

/// The result and the gradients of x and of the logits.
fn run(normalization: Normalization, logits: &[f64], dtype: DType) -> Result<Vec<Tensor>> {
    let logits = var(&Tensor::new(logits, &Device::Cpu)?.to_dtype(dtype)?);
    let (x, g) =
        (var(&signed(&[2, 3, 2], 1, DType::F32).to_dtype(dtype)?), signed(&[2, 3, 2], 2, DType::F32));
    let y = layer(normalization, &logits, 2).forward(&x)?;
    let found = gradients(&y, &g.to_dtype(dtype)?, &[&x, &logits]);
    [y].into_iter().chain(found).map(|t| t.to_dtype(DType::F64)).collect()
}

#[test]
fn weights_of_masked_hyperedges_give_the_results_and_gradients_of_f64() {
    for normalization in DOCUMENTED {
        for logits in [[0., -60., -61.], [0., -90., -91.], [-90., -90.5, -91.], [2., -103., -104.]] {
            let found = run(normalization, &logits, DType::F32).unwrap();
            let expected = run(normalization, &logits, DType::F64).unwrap();
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{normalization:?} {logits:?}, result {i}");
                assert!(values(expected).iter().all(|x| x.is_finite()), "{what}");
                assert_close(found, expected, 2e-5, &what);
            }
            // Row-normalized, the only two hyperedges of a vertex compete, however small both are.
            let competes = values(&expected[2])[1].abs() > 0.01;
            assert!(competes || normalization != Normalization::Row, "{logits:?}: {}", expected[2]);
        }
    }
}

#[test]
fn no_finite_parameter_makes_a_result_that_is_not_finite() {
    for normalization in DOCUMENTED {
        for logits in [[0., -110., -120.], [-1e4, -2e4, -1e30], [1e38, 2e38, 3e38], [1e38, -90., -91.]] {
            for result in run(normalization, &logits, DType::F32).unwrap() {
                assert!(
                    values(&result).iter().all(|x| x.is_finite()),
                    "{normalization:?} {logits:?}: {result}"
                );
            }
        }
        // The only hyperedges of the last vertex are masked out entirely.
        let found = run(normalization, &[0., f64::NEG_INFINITY, f64::NEG_INFINITY], DType::F32).unwrap();
        assert_eq!(values(&found[0])[4..6], [0.0; 2]);
        assert_eq!(values(&found[2])[1..], [0.0; 2]);
    }
}

#[test]
fn a_layer_with_masks_trains() {
    for normalization in DOCUMENTED {
        for start in [[0f32, -90., -91.], [0., -150., -160.], [-90., -90., -90.]] {
            let logits = Var::new(&start[..], &Device::Cpu).unwrap();
            let layer = layer(normalization, &logits, 2);
            let (x, target) = (signed(&[8, 3, 2], 1, DType::F32), signed(&[8, 3, 2], 2, DType::F32));
            let params = ParamsAdamW { lr: 0.1, weight_decay: 0.0, ..Default::default() };
            let mut optimizer = AdamW::new(vec![logits.clone()], params).unwrap();
            let loss = || (layer.forward(&x).unwrap() - &target).unwrap().sqr().unwrap().mean_all().unwrap();
            let first = values(&loss())[0];
            for _ in 0..30 {
                optimizer.backward_step(&loss()).unwrap();
            }
            let (last, now) = (values(&loss())[0], values(&logits));
            assert!(
                last <= first && now.iter().all(|x| x.is_finite()),
                "{start:?}: {first} to {last}, {now:?}"
            );
        }
    }
}

#[test]
fn the_scale_of_weights_in_the_layer_changes_no_bit() {
    for normalization in DOCUMENTED {
        let logits = Var::new(&[-5f32, 0.3, 7.], &Device::Cpu).unwrap();
        let layer = layer(normalization, &logits, 4);
        let x = signed(&[5, 3, 4], 1, DType::F32);
        let plain = layer.operators().conv(&x, TensorWeights::shared(&layer.weights().unwrap())).unwrap();
        let scaled = layer.forward(&x).unwrap();
        assert_same(&scaled, &plain, &format!("{normalization:?}"));
        let gradient = |y: &Tensor| y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let (scaled, plain) = (gradient(&scaled), gradient(&plain));
        assert_same(scaled.get(&logits).unwrap(), plain.get(&logits).unwrap(), &format!("{normalization:?}"));
    }
}
