//! The integration tests: one binary, one module a promise.

mod calls;
mod common;
mod constructors;
mod errors;
mod golden;
mod gradients;
mod invariants;
mod layouts;
mod misalignment;
mod properties;
mod reference;
