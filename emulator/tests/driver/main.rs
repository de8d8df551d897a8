//! The promises of the emulated driver, kept through the safe interface of cudarc.

mod capture;
mod environment;
mod fixture;
mod launch;
mod memory;
mod module;
mod real_driver;
mod stream;
