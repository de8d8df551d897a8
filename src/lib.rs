#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod batch;
mod batched_coo;
mod buffer;
mod conv;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod direction;
mod distinct;
mod element;
mod error;
mod groups;
mod incidence;
mod index;
mod misbatching;
mod rows;
mod summation;
mod windows;

pub use batch::Batch;
pub use batched_coo::{AllInFirst, Owners};
pub use buffer::Buffer;
pub use conv::{Conv, Normalization, Reduce, WeightUse};
pub use element::{Accumulator, Element};
pub use error::{Error, Result};
pub use half;
pub use incidence::{Csr, Incidence, Repeats, SelfLoops};
pub use index::Index;
pub use misbatching::Misbatching;
pub use rows::{Out, RowLayout, Rows};
pub use windows::{Weights, WindowTable, Windows};
