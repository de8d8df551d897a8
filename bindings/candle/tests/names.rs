//! Public names: those of this crate and of the core fit in one scope. A name that both have for two things
//! does not compile here.
#![deny(ambiguous_glob_imports)]

mod both {
    pub(super) use hyperscatter_candle::hyperscatter::*;
    pub(super) use hyperscatter_candle::*;
}

mod both_on_slices {
    pub(super) use hyperscatter_candle::hyperscatter::cpu::*;
    pub(super) use hyperscatter_candle::*;
}

mod named {
    #[expect(unused_imports, reason = "that they can be named is the test")]
    use super::both::{
        Accumulator, Batch, Conv, Csr, Element, Error, HyperedgeWeight, HypergraphConv, HypergraphConvConfig,
        Incidence, Index, Misbatching, Normalization, Operators, Out, Owners, Reduce, Repeats, Result, RowLayout,
        Rows, SelfLoops, TensorStep, TensorWeights, TensorWindows, WeightParametrization, WeightUse, Weights,
        WindowTable, Windows, core_error, cpu, half, hypergraph_conv,
    };
}

mod named_on_slices {
    #[expect(unused_imports, reason = "that they can be named is the test")]
    use super::both_on_slices::{
        HyperedgeWeight, HypergraphConv, Operators, Plan, Step, StepGradients, TensorStep, TensorWeights,
        TensorWindows, Weights, Workspace,
    };
}
