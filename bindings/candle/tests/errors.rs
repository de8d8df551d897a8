//! What a caller learns from a wrong call.

use std::sync::Arc;

use hyperscatter_candle::{Operators, TensorStep, TensorWeights, core_error};

use crate::candle_core::{self, Context, DType, Device, Tensor};
use crate::hyperscatter::{Batch, Conv, Error, Incidence, Normalization, WeightUse, WindowTable};
use crate::reference::*;

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

fn conv_error(batch: &Batch, x: &Tensor, weights: &Tensor) -> candle_core::Error {
    Operators::new(batch, Conv::default()).conv(x, TensorWeights::shared(weights)).unwrap_err()
}

#[track_caller]
fn assert_says(error: &candle_core::Error, facts: &[&str]) {
    let message = error.to_string();
    assert!(facts.iter().all(|fact| message.contains(fact)), "{message}");
}

#[test]
fn a_wrong_number_of_vertices_or_hyperedges_is_an_error_of_the_core() {
    let weights = zeros(&[6], DType::F32);
    let error = conv_error(&pairs(4), &zeros(&[2, 5, 3], DType::F32), &weights);
    let shapes = "x has shape [2, 5, 3], but […, 4 vertices, features] is needed";
    assert_says(
        &error,
        &["x has 5 rows, but must have 4, one for each of the vertices", shapes, "hypergraph_conv"],
    );
    assert!(matches!(core_error(&error), Some(Error::RowsMismatch { operand: "x", value: 5, bound: 4, .. })));

    let operators = Operators::new(&pairs(4), Conv::default());
    let error = operators.hyperedge_to_vertex(&zeros(&[2, 4, 3], DType::F32), TensorStep::sum()).unwrap_err();
    assert_says(
        &error,
        &["z has 4 rows, but must have 6, one for each of the hyperedges", "hyperedge_to_vertex"],
    );

    let table =
        Batch::concat(vec![Incidence::subsets(3, 2).unwrap(), Incidence::subsets(4, 2).unwrap()]).unwrap();
    let error = conv_error(&table, &zeros(&[8, 3], DType::F32), &weights);
    assert_says(&error, &["x has 8 rows, but must have 7, one for each of the vertices"]);
}

#[test]
fn errors_of_the_core_are_found_through_context() {
    let error = conv_error(&pairs(4), &zeros(&[2, 4, 3], DType::F32), &zeros(&[5], DType::F32));
    let is_window = |error: &candle_core::Error| {
        matches!(core_error(error), Some(Error::WindowOutOfRange { table: "weights", bound: 5, .. }))
    };
    assert!(is_window(&error), "{error}");
    assert_says(
        &error,
        &["instance 0 reads weights[0 .. 6]", "weights has 5 values", "weights of shape [5]"],
    );
    let error = error.context("outer").with_path("model");
    assert!(is_window(&error), "{error}");
    let error = Err::<(), _>(error).context("further out").unwrap_err();
    assert!(is_window(&error), "{error}");
    assert!(core_error(&candle_core::Error::msg("other")).is_none());
}

#[test]
fn wrong_types_name_the_operand_and_what_is_needed() {
    let (batch, weights) = (pairs(4), zeros(&[6], DType::F32));
    let error = conv_error(&batch, &zeros(&[2, 4, 3], DType::U32), &weights);
    assert_says(&error, &["x has dtype U32", "F32, F64, F16 or BF16"]);
    for (features, given, needed) in
        [(DType::F64, DType::F32, "F64"), (DType::BF16, DType::BF16, "F32"), (DType::F32, DType::F64, "F32")]
    {
        let error = conv_error(&batch, &zeros(&[2, 4, 3], features), &zeros(&[6], given));
        let facts =
            [format!("weights have dtype {given:?}"), format!("{needed} is needed"), "features of".into()];
        assert_says(&error, &facts.each_ref().map(String::as_str));
    }
    let operators = Operators::new(&batch, Conv::default());
    let scale = zeros(&[4], DType::F16);
    let step = TensorStep::sum().vertex_scale(TensorWeights::shared(&scale));
    let error = operators.vertex_to_hyperedge(&zeros(&[2, 4, 3], DType::F16), step).unwrap_err();
    assert_says(&error, &["vertex scales have dtype F16, but F32 is needed"]);
}

#[test]
fn wrong_ranks_name_the_shape_that_is_needed() {
    let weights = zeros(&[6], DType::F32);
    let error = conv_error(&pairs(4), &zeros(&[4], DType::F32), &weights);
    assert_says(
        &error,
        &["x has shape [4]", "[…, 4 vertices, features] is needed for copies of one topology"],
    );
    let table = Batch::concat(vec![Incidence::subsets(4, 2).unwrap()]).unwrap();
    let error = conv_error(&table, &zeros(&[1, 4, 2], DType::F32), &weights);
    assert_says(
        &error,
        &["x has shape [1, 4, 2]", "[4 vertices, features] is needed for the instances of a table"],
    );
}

#[test]
fn a_window_table_of_another_batch_or_too_few_offsets_is_refused() {
    let (batch, weights) = (pairs(4), zeros(&[6], DType::F32));
    let operators = Operators::new(&batch, Conv::default());
    let x = zeros(&[3, 4, 2], DType::F32);
    let error = |table| operators.conv(&x, TensorWeights::table(&weights, Arc::new(table))).unwrap_err();
    let other = error(WindowTable::new(&pairs(4), &[0, 0, 0]).unwrap());
    assert!(matches!(core_error(&other), Some(Error::WindowTableMismatch { .. })), "{other}");
    let few = error(WindowTable::new(&batch, &[0, 0]).unwrap());
    assert!(matches!(core_error(&few), Some(Error::WindowTableLength { value: 2, bound: 3, .. })), "{few}");
}

/// The core's own sentences about these errors name what there is only on slices.
#[test]
fn messages_name_what_a_caller_of_the_operators_has() {
    let (batch, x) = (pairs(4), zeros(&[3, 4, 2], DType::F32));
    let operators = Operators::new(&batch, Conv::default());
    let says = |weights: TensorWeights<'_>, facts: &[&str]| {
        let error = operators.conv(&x, weights).unwrap_err();
        assert_says(&error, facts);
        assert!(!error.to_string().contains("say Weights::"), "{error}");
        assert!(!error.to_string().contains("plan"), "{error}");
        error
    };
    let too_many = zeros(&[24], DType::F32);
    let facts =
        ["weights has length 24, of which shared windows read 6", "TensorWeights::consecutive", "shape [24]"];
    let error = says(TensorWeights::shared(&too_many), &facts);
    let expected =
        Error::UnreadWeights { table: "weights", value: 24, bound: 6, windows: "shared", what: "hyperedges" };
    assert_eq!(core_error(&error), Some(&expected));
    let facts = ["weights has length 24, of which consecutive windows read 18", "TensorWeights::shared"];
    says(TensorWeights::consecutive(&too_many), &facts);
    let other = Arc::new(WindowTable::new(&pairs(4), &[0, 0, 0]).unwrap());
    let facts = ["weights: this window table was made for another batch", "Operators::batch"];
    says(TensorWeights::table(&zeros(&[6], DType::F32), other), &facts);
    // Scales are named as they are called.
    let scale = TensorStep::sum().vertex_scale(TensorWeights::shared(&too_many));
    let error = operators.vertex_to_hyperedge(&x, scale).unwrap_err();
    assert_says(&error, &["has length 24, of which shared windows read 4, one for each of the vertices"]);
}

#[test]
fn a_negative_degree_under_symmetric_normalization_is_reported() {
    let operators = Operators::new(&pairs(3), Conv::new(Normalization::Symmetric, WeightUse::Documented));
    let weights = Tensor::new(&[1f32, -2., 1.], &Device::Cpu).unwrap();
    let error = operators.conv(&zeros(&[2, 3, 1], DType::F32), TensorWeights::shared(&weights)).unwrap_err();
    let expected = Error::NegativeDegree { instance: 0, vertex: 0, value: -1.0 };
    assert_eq!(core_error(&error), Some(&expected));
    assert_says(&error, &[&expected.to_string()]);
}
