//! The integration tests: one binary, one module a promise.

mod allocator;
mod backend;
mod calls;
mod common;
mod constructors;
mod convolutions;
#[cfg(feature = "cuda")]
mod cuda;
mod errors;
mod golden;
mod gradients;
mod hashes;
mod invariants;
mod kept_z;
mod layouts;
mod memory;
mod messages;
mod misalignment;
mod misbatching;
mod operands;
mod orders;
mod reference;
mod spelling;
mod steps;
mod weight_scale;
