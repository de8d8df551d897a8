#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

#[macro_use]
mod compiled;

mod activation;
mod axis;
mod batch;
mod batched_coo;
mod buffer;
mod chunks;
mod conv;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dense;
mod diagnosis;
mod direction;
mod distinct;
mod element;
mod epilogue;
mod error;
mod incidence;
mod index;
mod layer;
mod misbatching;
mod operands;
mod operator;
mod owners;
mod pairs;
mod path;
mod rows;
mod step;
mod summation;
mod vectors;
mod windows;

pub use activation::Activation;
pub use axis::Axis;
pub use batch::Batch;
pub use batched_coo::AllInFirst;
pub use buffer::Buffer;
pub use conv::{Conv, Normalization, Reduce, WeightUse};
pub use direction::Direction;
pub use element::{Accumulator, Element};
pub use epilogue::{Epilogue, EpilogueGradients};
pub use error::{Error, Result};
pub use half;
pub use incidence::{Csr, Incidence, Repeats, SelfLoops};
pub use index::Index;
pub use layer::{LayerGradients, Precision};
pub use misbatching::Misbatching;
pub use operator::Operator;
pub use owners::Owners;
pub use path::Path;
pub use rows::{Out, RowLayout, Rows};
pub use step::{Step, StepGradients};
pub use windows::{Weights, WindowTable, Windows};
