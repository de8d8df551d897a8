//! The layer: parameters, values, training.

use std::sync::Arc;

use hyperscatter_candle::{
    HyperedgeWeight, HypergraphConv, HypergraphConvConfig, Operators, TensorWeights, TensorWindows,
    WeightParametrization, core_error, hypergraph_conv,
};

use crate::candle_core::{DType, Device, Module, Tensor};
use crate::candle_nn::{AdamW, Init, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use crate::hyperscatter::{Axis, Batch, Conv, Error, Incidence, Normalization, WeightUse, WindowTable};
use crate::reference::*;

fn layer(config: HypergraphConvConfig, dtype: DType) -> (HypergraphConv, VarMap) {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, dtype, &Device::Cpu);
    (hypergraph_conv(&pairs(4), 5, 3, config, vb).unwrap(), vars)
}

#[test]
fn parameters_are_named_as_in_pytorch_geometric_and_weights_start_at_one() {
    for weights in [WeightParametrization::Softplus, WeightParametrization::Raw, WeightParametrization::Ones]
    {
        let (layer, vars) = layer(HypergraphConvConfig::default().weights(weights), DType::F32);
        let vars = vars.data().lock().unwrap();
        let mut names: Vec<_> = vars.iter().map(|(name, var)| (name.as_str(), var.dims().to_vec())).collect();
        names.sort();
        let mut expected = vec![("bias", vec![3]), ("hyperedge_weight", vec![6]), ("lin.weight", vec![3, 5])];
        expected.retain(|(name, _)| *name != "hyperedge_weight" || weights != WeightParametrization::Ones);
        assert_eq!(names, expected);
        let ones = Tensor::ones(6, DType::F32, &Device::Cpu).unwrap();
        assert_close(&layer.weights().unwrap(), &ones, 1e-6, "weights");
        assert_close(
            &layer.degrees().unwrap(),
            &(ones.narrow(0, 0, 4).unwrap() * 3.0).unwrap(),
            1e-6,
            "degrees",
        );
        assert_eq!(layer.bias().unwrap().to_vec1::<f32>().unwrap(), [0.0; 3]);
        assert!(values(layer.lin_weight()).iter().all(|w| w.abs() <= (6f64 / 8.0).sqrt()));
    }
    let init = Some(Init::Const(-2.0));
    let (without_bias, vars) = layer(
        HypergraphConvConfig::default()
            .bias(false)
            .weights(WeightParametrization::Raw)
            .weight_init(init)
            .conv(Conv::new(Normalization::Row, WeightUse::MessageOnly)),
        DType::F32,
    );
    assert!(without_bias.bias().is_none() && !vars.data().lock().unwrap().contains_key("bias"));
    assert_eq!(without_bias.weights().unwrap().to_vec1::<f32>().unwrap(), [-2.0; 6]);
    assert_eq!(without_bias.degrees().unwrap().to_vec1::<f32>().unwrap(), [3.0; 4]);
}

#[test]
fn the_layer_is_the_dense_formula() {
    let topology = odd_topology();
    let conv = Conv::new(Normalization::Symmetric, WeightUse::Documented);
    let operators = Operators::new(&Batch::replicate(topology.clone()), conv);
    let (lin, bias) = (var(&signed(&[3, 6], 1, DType::F64)), var(&signed(&[3], 2, DType::F64)));
    let raw = var(&signed(&[4], 3, DType::F64));
    let weight = HyperedgeWeight::Softplus(raw.as_tensor().clone());
    let layer =
        HypergraphConv::new(operators, lin.as_tensor().clone(), Some(bias.as_tensor().clone()), weight)
            .unwrap();
    let dense = |x: &Tensor| {
        let w = raw.exp().unwrap().affine(1.0, 1.0).unwrap().log().unwrap();
        let x = x.contiguous().unwrap().broadcast_matmul(&lin.t().unwrap()).unwrap();
        dense_conv(&topology, conv, &w).unwrap().broadcast_matmul(&x).unwrap().broadcast_add(&bias).unwrap()
    };
    let vertex_major = signed(&[5, 7, 6], 4, DType::F64);
    let inputs = [
        vertex_major.transpose(0, 1).unwrap().contiguous().unwrap(),
        vertex_major.transpose(0, 1).unwrap(),
        vertex_major.narrow(1, 0, 1).unwrap().squeeze(1).unwrap(),
        signed(&[2, 3, 5, 6], 5, DType::F64),
        signed(&[3, 2, 6, 5], 5, DType::F64).permute([1, 0, 3, 2]).unwrap(),
    ];
    for x in inputs {
        let what = format!("{:?}", x.layout());
        assert_close(&layer.forward(&x).unwrap(), &dense(&x), 1e-12, &what);
    }
    let x = var(&vertex_major);
    let g = signed(&[7, 5, 3], 6, DType::F64);
    let view = x.transpose(0, 1).unwrap();
    let vars = [&x, &lin, &bias, &raw];
    let found = gradients(&layer.forward(&view).unwrap(), &g, &vars);
    for (i, (found, expected)) in found.iter().zip(gradients(&dense(&view), &g, &vars)).enumerate() {
        assert_close(found, &expected, 1e-12, &format!("gradient {i}"));
    }
}

#[test]
fn the_layer_trains() {
    for weights in [WeightParametrization::Softplus, WeightParametrization::Raw, WeightParametrization::Ones]
    {
        for dtype in [DType::F32, DType::F64] {
            let (layer, vars) = layer(HypergraphConvConfig::default().weights(weights), dtype);
            // Glorot's values come from candle's generator; those of the test do not.
            vars.data().lock().unwrap()["lin.weight"].set(&signed(&[3, 5], 1, dtype)).unwrap();
            let (x, target) = (signed(&[16, 4, 5], 2, dtype), signed(&[16, 4, 3], 3, dtype));
            let loss = || (layer.forward(&x).unwrap() - &target).unwrap().sqr().unwrap().mean_all().unwrap();
            let mut optimizer =
                AdamW::new(vars.all_vars(), ParamsAdamW { lr: 0.03, ..Default::default() }).unwrap();
            let first = loss();
            let gradients = first.backward().unwrap();
            for (name, var) in vars.data().lock().unwrap().iter() {
                let gradient = values(gradients.get(var).expect("every parameter has a gradient"));
                assert!(gradient.iter().any(|&g| g != 0.0), "{name}");
            }
            for _ in 0..15 {
                optimizer.backward_step(&loss()).unwrap();
            }
            let (first, last) = (values(&first)[0], values(&loss())[0]);
            assert!(last < 0.95 * first, "{weights:?} {dtype:?}: {first} to {last}");
        }
    }
}

#[test]
fn a_16_bit_layer_keeps_its_weights_in_f32() {
    for dtype in [DType::F16, DType::BF16] {
        let (layer, vars) = layer(HypergraphConvConfig::default(), dtype);
        let y = layer.forward(&signed(&[2, 4, 5], 1, dtype)).unwrap();
        assert_eq!((y.dims(), y.dtype()), (&[2, 4, 3][..], dtype));
        let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let vars = vars.data().lock().unwrap();
        assert_eq!(vars["hyperedge_weight"].dtype(), DType::F32);
        assert_eq!(gradients.get(&vars["hyperedge_weight"]).unwrap().dtype(), DType::F32);
        assert_eq!(gradients.get(&vars["lin.weight"]).unwrap().dtype(), dtype);
    }
}

#[test]
fn weights_of_several_topologies_stand_where_the_windows_say() {
    let topologies = vec![Incidence::subsets(4, 2).unwrap(), Incidence::subsets(3, 2).unwrap()];
    let batch = Batch::from_table(topologies, &[0, 1, 0]).unwrap();
    let w = positive(&[9], 1, DType::F32);
    let table = || TensorWindows::Table(Arc::new(WindowTable::new(&batch, &[0, 6, 0]).unwrap()));
    let operators = Operators::new(&batch, Conv::default());
    let identity = Tensor::eye(2, DType::F32, &Device::Cpu).unwrap();
    let layer =
        HypergraphConv::new(operators.clone(), identity, None, HyperedgeWeight::Raw(w.clone())).unwrap();
    let layer = layer.with_windows(table());
    let x = signed(&[11, 2], 2, DType::F32);
    let expected = operators.conv(&x, TensorWeights::new(&w, table())).unwrap();
    assert_close(&layer.forward(&x).unwrap(), &expected, 1e-6, "y");
    assert_eq!(layer.degrees().unwrap().dims(), [11]);
}

#[test]
fn no_copies_pass_through_the_layer() {
    let (layer, vars) = layer(HypergraphConvConfig::default(), DType::F32);
    let y = layer.forward(&Tensor::zeros((0, 4, 5), DType::F32, &Device::Cpu).unwrap()).unwrap();
    assert_eq!(y.dims(), [0, 4, 3]);
    let gradients = y.sum_all().unwrap().backward().unwrap();
    let weight = &vars.data().lock().unwrap()["hyperedge_weight"];
    assert_eq!(gradients.get(weight).unwrap().to_vec1::<f32>().unwrap(), [0.0; 6]);
}

#[test]
fn wrong_features_and_shapes_say_what_is_needed() {
    let (layer, _) = layer(HypergraphConvConfig::default(), DType::F32);
    let error = |shape: &[usize], dtype| {
        layer.forward(&Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()).unwrap_err().to_string()
    };
    let says = |message: String, facts: &[&str]| {
        assert!(facts.iter().all(|fact| message.contains(fact)), "{message}");
    };
    let features = layer.forward(&Tensor::zeros((2, 4, 6), DType::F32, &Device::Cpu).unwrap()).unwrap_err();
    let expected = Error::FeaturesMismatch { operand: "x", value: 6, bound: 5 };
    assert_eq!(core_error(&features), Some(&expected), "{features}");
    assert!(!features.to_string().contains("plan"), "{features}");
    // The features as they were passed, not those behind Θ.
    let needed = "[…, 4 vertices, 5 features] is needed";
    says(
        error(&[2, 4, 6], DType::F32),
        &["x has 6 features, but lin.weight takes 5", "x has shape [2, 4, 6]", needed],
    );
    says(
        error(&[2, 3, 5], DType::F32),
        &["x has 3 rows, but must have 4, one for each of the vertices", "[2, 3, 5]", needed],
    );
    says(error(&[5], DType::F32), &["x has shape [5]", needed]);
    says(error(&[2, 4, 5], DType::F64), &["x has dtype F64, but lin.weight has F32"]);
    let table = Batch::concat(vec![Incidence::subsets(3, 2).unwrap(), Incidence::subsets(4, 2).unwrap()]);
    let over_table = layer.over(&table.unwrap());
    let message = over_table.forward(&signed(&[1, 7, 5], 1, DType::F32)).unwrap_err().to_string();
    says(
        message,
        &["x has shape [1, 7, 5]", "[7 vertices, 5 features] is needed for the instances of a table"],
    );
    // Weights by the name of the parameter.
    let more = layer.over(&pairs(5)).forward(&signed(&[2, 5, 5], 1, DType::F32)).unwrap_err().to_string();
    says(more, &["x of shape [2, 5, 5], hyperedge_weight of shape [6]", "weights has 6 values", "n_weights"]);
    let bias = Some(Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
    let new = HypergraphConv::new(
        layer.operators().clone(),
        layer.lin_weight().clone(),
        bias,
        layer.hyperedge_weight().clone(),
    );
    says(
        new.unwrap_err().to_string(),
        &["bias has shape [2], but [3] is needed", "lin.weight of shape [3, 5]"],
    );
    let new = |lin: &[usize], bias| {
        let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
        let bias = Some(zeros(&[3], bias));
        let lin = zeros(lin, DType::F32);
        let operators = layer.operators().clone();
        HypergraphConv::new(operators, lin, bias, HyperedgeWeight::Ones).unwrap_err().to_string()
    };
    says(new(&[3, 5], DType::F64), &["bias has dtype F64, but F32 is needed"]);
    says(new(&[15], DType::F32), &["lin.weight has shape [15], but [out, in] is needed"]);
}

#[test]
fn a_layer_takes_other_batches_and_keeps_its_variables() {
    let topologies =
        vec![Incidence::subsets(3, 2).unwrap(), odd_topology(), Incidence::subsets(4, 2).unwrap()];
    let ids: [&[usize]; 4] = [&[0], &[1, 0], &[2, 1, 2, 0], &[]];
    for weights in [WeightParametrization::Softplus, WeightParametrization::Raw, WeightParametrization::Ones]
    {
        let batch = |ids: &[usize]| Batch::from_table(topologies.clone(), ids).unwrap();
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
        let config = HypergraphConvConfig::default().weights(weights).n_weights(6);
        let layer = hypergraph_conv(&batch(ids[0]), 3, 2, config, vb.clone()).unwrap();
        for ids in ids {
            let batch = batch(ids);
            let x = signed(&[batch.start(Axis::Vertex, ids.len()), 3], 1, DType::F64);
            let other = layer.over(&batch);
            let y = other.forward(&x).unwrap();
            assert_eq!(other.degrees().unwrap().dims(), [x.dim(0).unwrap()]);
            // As a layer of the same variables that was made for this batch.
            let mut one_by_one = Vec::new();
            for (i, &id) in ids.iter().enumerate() {
                let single = layer.over(&Batch::replicate(topologies[id].clone()));
                let rows = batch.start(Axis::Vertex, i + 1) - batch.start(Axis::Vertex, i);
                one_by_one
                    .push(single.forward(&x.narrow(0, batch.start(Axis::Vertex, i), rows).unwrap()).unwrap());
            }
            if !ids.is_empty() {
                assert_same(&y, &Tensor::cat(&one_by_one, 0).unwrap(), &format!("{weights:?} {ids:?}"));
            }
            let found = y.sum_all().unwrap().backward().unwrap();
            for (name, var) in vars.data().lock().unwrap().iter() {
                let gradient = found.get(var).unwrap_or_else(|| panic!("{name}: {weights:?} {ids:?}"));
                assert_eq!(gradient.dims(), var.dims());
            }
        }
    }
}

#[test]
fn a_layer_of_given_tensors_holds_more_weights_than_its_first_batch_reads() {
    let topologies = [3, 4].map(|n| Incidence::subsets(n, 2).unwrap());
    let [small, large] = topologies.map(Batch::replicate);
    let (w, lin) = (var(&positive(&[6], 1, DType::F32)), Tensor::eye(2, DType::F32, &Device::Cpu).unwrap());
    for weight in [HyperedgeWeight::Raw, HyperedgeWeight::Softplus] {
        let weight = weight(w.as_tensor().clone());
        let layer = |batch: &Batch| {
            let operators = Operators::new(batch, Conv::default());
            HypergraphConv::new(operators, lin.clone(), None, weight.clone()).unwrap()
        };
        // Nobody said so: perhaps they are weights of two instances.
        let x = signed(&[2, 3, 2], 2, DType::F32);
        let error = layer(&small).forward(&x).unwrap_err();
        assert!(
            matches!(core_error(&error), Some(Error::UnreadWeights { value: 6, bound: 3, .. })),
            "{error}"
        );
        let message = error.to_string();
        let facts = [
            "with_n_weights",
            "with_windows",
            "called with x of shape [2, 3, 2], hyperedge_weight of shape [6]",
        ];
        assert!(facts.iter().all(|fact| message.contains(fact)), "{message}");
        assert!(!message.contains("say Weights::"), "{message}");
        let message = layer(&small).degrees().unwrap_err().to_string();
        assert!(message.contains("with_n_weights"), "{message}");

        let first = layer(&small).with_n_weights(6);
        let y = first.forward(&x).unwrap();
        let same = layer(&large).over(&small).forward(&x).unwrap();
        assert_same(&y, &same, "a layer that was made over the larger batch");
        let gradient = &gradients(&y, &signed(&[2, 3, 2], 3, DType::F32), &[&w])[0];
        assert_eq!(values(gradient)[3..], [0.0; 3]);
        assert!(values(gradient)[..3].iter().all(|&g| g != 0.0));
        assert_eq!(first.degrees().unwrap().dims(), [3]);
        let x = signed(&[2, 4, 2], 2, DType::F32);
        let y = first.over(&large).forward(&x).unwrap();
        assert_same(&y, &layer(&large).forward(&x).unwrap(), "over the larger batch");
    }
}

#[test]
fn windows_may_read_more_weights_than_one_topology_has() {
    let topologies = vec![Incidence::subsets(4, 2).unwrap(), Incidence::subsets(3, 2).unwrap()];
    let batch = Batch::from_table(topologies.clone(), &[0, 1, 0]).unwrap();
    let windows =
        |batch, offsets: &[usize]| TensorWindows::Table(Arc::new(WindowTable::new(batch, offsets).unwrap()));
    // Parameters as they come from a file: a weight for each hyperedge of each topology.
    let stored = positive(&[9], 1, DType::F32);
    let vb = VarBuilder::from_tensors(
        [
            ("lin.weight".to_owned(), signed(&[2, 3], 2, DType::F32)),
            ("bias".to_owned(), signed(&[2], 3, DType::F32)),
            ("hyperedge_weight".to_owned(), stored.clone()),
        ]
        .into(),
        DType::F32,
        &Device::Cpu,
    );
    let config = HypergraphConvConfig::default().weights(WeightParametrization::Raw);
    let message = hypergraph_conv(&batch, 3, 2, config, vb.clone()).unwrap_err().to_string();
    assert!(message.contains("hyperedge_weight") && message.contains("n_weights"), "{message}");
    let config = config.n_weights(9);
    let layer = hypergraph_conv(&batch, 3, 2, config, vb).unwrap().with_windows(windows(&batch, &[0, 6, 0]));
    let x = signed(&[11, 3], 4, DType::F32);
    let y = layer.forward(&x).unwrap();
    let next = Batch::from_table(topologies, &[1]).unwrap();
    let z =
        layer.over(&next).with_windows(windows(&next, &[6])).forward(&x.narrow(0, 4, 3).unwrap()).unwrap();
    assert_same(&y.narrow(0, 4, 3).unwrap(), &z, "the instance in the middle");
    // A table of the old batch is not quietly used for the new one.
    let error = layer.over(&next).forward(&x.narrow(0, 4, 3).unwrap()).unwrap_err();
    assert!(matches!(core_error(&error), Some(Error::WindowTableMismatch { .. })), "{error}");
    let message = error.to_string();
    assert!(message.contains("HypergraphConv::with_windows") && !message.contains("plan"), "{message}");
}

#[test]
fn a_layer_over_a_table_has_weights_for_the_topologies_in_use() {
    let (pairs, unused) = (Incidence::subsets(4, 2).unwrap(), Incidence::subsets(8, 2).unwrap());
    let batch = Batch::from_table(vec![pairs, unused], &[0, 0]).unwrap();
    for weights in [WeightParametrization::Softplus, WeightParametrization::Raw, WeightParametrization::Ones]
    {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let config = HypergraphConvConfig::default().weights(weights);
        let layer = hypergraph_conv(&batch, 3, 2, config, vb).unwrap();
        assert_eq!(layer.weights().unwrap().dims(), [6]);
        let x = Tensor::ones((8, 3), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(layer.forward(&x).unwrap().dims(), [8, 2]);
    }
}
