//! The exported functions, by subject. Each exists in the driver of CUDA 12.0, so that code which needs a
//! newer one fails in tests.

mod context;
mod device;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod stream;
mod transfer;
