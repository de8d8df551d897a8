//! Public names: those of this crate and of the core fit in one scope. A name that both have for two things
//! does not compile here.
#![deny(ambiguous_glob_imports)]

mod both {
    pub(super) use hyperscatter::*;
    pub(super) use hyperscatter_candle::*;

    /// The crates themselves, by their names and as they are re-exported.
    pub(super) fn same(batch: hyperscatter::Batch) -> Batch {
        batch
    }
}

mod both_on_slices {
    pub(super) use hyperscatter::cpu::*;
    pub(super) use hyperscatter_candle::*;
}

#[test]
fn a_batch_of_one_crate_is_one_of_the_other() {
    assert!(both::same(crate::reference::pairs(3)).is_replicated());
}

/// A name that the core gets later belongs into the list below, where a collision shows.
#[test]
fn every_public_name_of_the_core_is_named_here() {
    let (core, here) = (include_str!("../../../src/lib.rs"), include_str!("names.rs"));
    let words = |text: &'static str| text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let exports = core.split("\npub use ").skip(1).filter_map(|rest| rest.split(';').next());
    let names = exports.flat_map(|path| words(path.rsplit("::").next().unwrap_or(path)));
    let list = here.rsplit("mod named {").next().unwrap();
    let missing: Vec<_> = names.filter(|name| !words(list).any(|word| word == *name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

mod named {
    #[expect(unused_imports, reason = "that they can be named is the test")]
    use super::both::{
        Accumulator, Activation, AllInFirst, Axis, Batch, Buffer, Conv, Csr, Direction, Element, Epilogue,
        EpilogueGradients, Error, HyperedgeWeight, HypergraphConv, HypergraphConvConfig, Incidence, Index,
        LayerGradients, Misbatching, Normalization, Operator, Operators, Out, Owners, Path, Precision,
        Reduce, Repeats, Result, RowLayout, Rows, SelfLoops, Step, StepGradients, TensorStep, TensorWeights,
        TensorWindows, WeightParametrization, WeightUse, Weights, WindowTable, Windows, core_error, cpu,
        half, hypergraph_conv,
    };
}

mod named_on_slices {
    #[expect(unused_imports, reason = "that they can be named is the test")]
    use super::both_on_slices::{
        Epilogue, EpilogueGradients, HyperedgeWeight, HypergraphConv, Operators, Plan, Step, StepGradients,
        TensorStep, TensorWeights, TensorWindows, Weights, Workspace,
    };
}
