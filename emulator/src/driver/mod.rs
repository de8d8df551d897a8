//! The driver: state of the devices, and the functions that it exports.
//!
//! The exported functions are in `api`; they check what the C interface hands them and work on the
//! [`state::State`] of a device. Streams ([`stream`]) are queues of operations ([`operation`]) that run late.

mod api;
mod capture;
mod control;
mod device;
mod entry;
mod event;
mod function;
mod graph;
mod handle;
mod module;
mod operation;
mod ptx;
mod settings;
mod state;
mod status;
mod stream;

pub(crate) use control::{Control, SEPARATOR};
