//! The integration tests: one binary, one module a promise.

mod backend;
mod calls;
mod common;
mod constructors;
#[cfg(feature = "cuda")]
mod cuda;
mod errors;
mod golden;
mod gradients;
mod invariants;
mod layouts;
mod misalignment;
mod orders;
mod properties;
mod reference;
mod steps;
