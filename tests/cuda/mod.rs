//! The CUDA backend, on the emulated driver or on a real GPU.

mod calls;
mod corrupted;
mod determinism;
mod errors;
pub mod gpu;
mod lifetimes;
mod model;
mod shipping;
mod unvalidated;
