//! The library in the Python package: all of the C interface, and nothing else.

pub use hyperscatter_c::*;
