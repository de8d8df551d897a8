//! The C interface, from C, C++ and Rust, on both backends.

#[allow(dead_code)]
#[path = "../../../tests/allocator.rs"]
mod allocator;
mod header;
mod layers;
mod operators;
mod packages;
mod paths;
mod programs;
mod status;
