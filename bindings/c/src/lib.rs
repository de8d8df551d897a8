#![doc = include_str!("../README.md")]

mod abi;
mod arguments;
mod backend;
mod batch;
mod call;
mod device;
mod error;
mod facts;
mod incidence;
mod layers;
mod operands;
mod operators;
mod options;
mod plan;
mod pools;
mod status;
mod versions;
mod windows;
mod workspace;

pub use abi::*;
pub use arguments::{HS_INT32, HS_INT64, HS_UINT32, HS_UINT64, hs_indices};
pub use batch::*;
pub use device::*;
pub use error::*;
pub use facts::*;
pub use incidence::*;
pub use layers::*;
pub use operands::*;
pub use operators::*;
pub use options::*;
pub use plan::*;
pub use status::*;
pub use windows::*;
pub use workspace::*;
