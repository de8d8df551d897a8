//! The CUDA backend, on the emulated driver or on a real GPU.

mod calls;
mod captures;
mod corrupted;
mod determinism;
mod errors;
pub mod gpu;
mod graphs;
mod launches;
mod layer;
mod lent;
mod lifetimes;
mod model;
mod operators;
mod paths;
mod raw;
mod shipping;
mod spelling;
mod unvalidated;
mod window_tables;
