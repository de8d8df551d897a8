//! The operators and the layer against dense references, over layouts, types and windows.

use hyperscatter_candle::{candle_core, candle_nn, hyperscatter};

mod empty;
mod errors;
mod gradients;
mod layer;
mod layouts;
mod masks;
mod names;
mod reference;
mod second_derivatives;
