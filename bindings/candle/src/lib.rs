#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod conv;
mod custom;
mod dtype;
mod error;
mod expression;
mod layer;
mod operators;
mod pool;
mod rows;
mod shared;
mod softplus;
mod step;
mod sum;
mod weights;

pub use error::core_error;
pub use layer::{
    HyperedgeWeight, HypergraphConv, HypergraphConvConfig, WeightParametrization, hypergraph_conv,
};
pub use operators::Operators;
pub use weights::{TensorStep, TensorWeights, TensorWindows};

pub use candle_core;
pub use candle_nn;
pub use hyperscatter;
