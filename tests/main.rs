//! The integration tests: one binary, one module a subject. README.md says which test proves what.

// What compares another backend with the CPU has nothing to do without one.
#![cfg_attr(not(feature = "cuda"), allow(dead_code, unused_imports))]

mod allocator;
mod backend;
mod calls;
mod common;
mod constructors;
mod convolutions;
#[cfg(feature = "cuda")]
mod cuda;
mod epilogue;
mod errors;
mod golden;
mod gradients;
mod hashes;
mod invariants;
mod layer;
mod layouts;
mod matrix;
mod memory;
mod messages;
mod misalignment;
mod misbatching;
#[cfg(feature = "cuda")]
mod names;
mod operands;
mod orders;
mod per_backend;
mod reference;
mod saved_z;
mod spelling;
mod steps;
mod weight_scale;
