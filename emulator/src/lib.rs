//! An emulated CUDA driver that runs the kernels on the CPU, for tests on machines without a GPU.
//!
//! A test calls [`control::install`] before it uses CUDA. Bindings that then load `libcuda.so` get the
//! emulated driver. [`control::DeviceControl`] sets how a device behaves and tells what went wrong on it.

pub mod control;
mod driver;
pub mod engine;
pub mod interface;
mod memory;
