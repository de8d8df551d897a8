//! Every variable that an operator or a layer reads has a gradient, also where nothing depends on it.

use hyperscatter_candle::{
    HypergraphConvConfig, Operators, TensorStep, TensorWeights, WeightParametrization, hypergraph_conv,
};

use crate::candle_core::{DType, Device, Module, Tensor, Var};
use crate::candle_nn::{VarBuilder, VarMap};
use crate::hyperscatter::{Axis, Batch, Conv, Incidence, Repeats};
use crate::reference::*;

fn no_edges(n: usize) -> Batch {
    Batch::replicate(Incidence::from_edges(n, &Vec::<Vec<usize>>::new(), Repeats::Keep).unwrap())
}

fn layer_vars(
    batch: &Batch,
    in_dim: usize,
    out_dim: usize,
    config: HypergraphConvConfig,
    x: &Tensor,
) -> (Tensor, Tensor, Vec<(String, Var)>) {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, x.dtype(), &Device::Cpu);
    let layer = hypergraph_conv(batch, in_dim, out_dim, config, vb).unwrap();
    let (y, degrees) = (layer.forward(x).unwrap(), layer.degrees().unwrap());
    let vars = vars.data().lock().unwrap();
    (y, degrees, vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect())
}

#[test]
fn every_parameter_of_a_layer_has_a_gradient_over_any_batch_and_width() {
    let table = |ids: &[usize]| {
        Batch::from_table(vec![Incidence::subsets(4, 2).unwrap(), odd_topology()], ids).unwrap()
    };
    let cases = [
        (pairs(4), vec![0, 4, 5], 5, 3),
        (pairs(4), vec![2, 0, 4, 5], 5, 3),
        (pairs(4), vec![2, 4, 0], 0, 3),
        (pairs(4), vec![2, 4, 5], 5, 0),
        (pairs(0), vec![2, 0, 5], 5, 3),
        (no_edges(3), vec![2, 3, 5], 5, 3),
        (no_edges(0), vec![2, 0, 5], 5, 3),
        (table(&[]), vec![0, 5], 5, 3),
        (table(&[0, 1]), vec![9, 5], 5, 3),
    ];
    for (batch, shape, in_dim, out_dim) in cases {
        for (normalization, weight_use) in
            NORMALIZATIONS.into_iter().flat_map(|n| WEIGHT_USES.map(|u| (n, u)))
        {
            for weights in [WeightParametrization::Softplus, WeightParametrization::Raw] {
                for dtype in [DType::F64, DType::BF16] {
                    let conv = Conv::new(normalization, weight_use);
                    let config = HypergraphConvConfig::default().conv(conv).weights(weights);
                    let x = signed(&shape, 1, dtype);
                    let what =
                        format!("{shape:?}, {out_dim} out, {normalization:?} {weight_use:?} {weights:?}");
                    let (y, degrees, vars) = layer_vars(&batch, in_dim, out_dim, config, &x);
                    let found = y.sum_all().unwrap().backward().unwrap();
                    for (name, var) in &vars {
                        let gradient =
                            found.get(var).unwrap_or_else(|| panic!("{what}: no gradient of {name}"));
                        assert_eq!((gradient.dims(), gradient.dtype()), (var.dims(), var.dtype()), "{what}");
                        if y.elem_count() == 0 {
                            assert!(values(gradient).iter().all(|&g| g == 0.0), "{what}: {name}");
                        }
                    }
                    let found = degrees.sum_all().unwrap().backward().unwrap();
                    for (name, var) in vars.iter().filter(|(name, _)| name == "hyperedge_weight") {
                        assert!(found.get(var).is_some(), "{what}: no gradient of {name} by the degrees");
                    }
                }
            }
        }
    }
}

#[test]
fn every_operand_of_an_operator_has_a_gradient_over_any_batch_and_width() {
    let cases = [
        (pairs(4), 0, 3),
        (pairs(4), 2, 0),
        (pairs(0), 2, 3),
        (no_edges(3), 2, 3),
        (no_edges(0), 2, 3),
        (no_edges(0), 0, 0),
    ];
    for (batch, copies, features) in cases {
        let (n, m) = (batch.largest(Axis::Vertex), batch.largest(Axis::Hyperedge));
        let operators = Operators::new(&batch, Conv::default());
        let what = format!("{n} vertices, {m} hyperedges, {copies} copies, {features} features");
        let x = var(&signed(&[copies, n, features], 1, DType::F32));
        let z = var(&signed(&[copies, m, features], 2, DType::F32));
        let (r, s) = (var(&positive(&[n], 3, DType::F32)), var(&positive(&[m], 4, DType::F32)));
        let step = || {
            TensorStep::mean()
                .vertex_scale(TensorWeights::shared(&r))
                .hyperedge_scale(TensorWeights::shared(&s))
        };
        let results = [
            (operators.conv(&x, TensorWeights::shared(&s)).unwrap(), vec![&x, &s]),
            (operators.vertex_to_hyperedge(&x, step()).unwrap(), vec![&x, &r, &s]),
            (operators.hyperedge_to_vertex(&z, step()).unwrap(), vec![&z, &r, &s]),
            (operators.vertex_to_hyperedge(&x, TensorStep::sum()).unwrap(), vec![&x]),
            (operators.degrees(TensorWeights::shared(&s)).unwrap(), vec![&s]),
        ];
        for (i, (result, operands)) in results.iter().enumerate() {
            let found = result.sum_all().unwrap().backward().unwrap();
            for (j, operand) in operands.iter().enumerate() {
                let gradient =
                    found.get(operand).unwrap_or_else(|| panic!("{what}: result {i}, operand {j}"));
                assert_eq!(gradient.dims(), operand.dims(), "{what}");
                if result.elem_count() == 0 {
                    assert!(values(gradient).iter().all(|&g| g == 0.0), "{what}: result {i}, operand {j}");
                }
            }
        }
    }
}
