//! An emulated CUDA driver that runs the kernels of hyperscatter on the CPU, for its tests.
//!
//! The shared library that is built from this crate has the name of the real driver's. A test that loads it first
//! ([`install`]) gets it wherever `cudarc` asks for the driver. See README.md for what it checks and what it cannot show.

mod control;
mod driver;
pub mod engine;
mod handle;
pub mod interface;
mod memory;
mod queue;
mod state;

pub use control::{DeviceControl, Emulator, install};
pub use interface::{Build, Order};
