//! Whether a caller was compiled for this version of the interface.

use crate::abi::{HS_ABI_VERSION, hs_abi};
use crate::error::{Failure, Result, hs_error};
use crate::operands::{
    hs_epilogue, hs_epilogue_gradients, hs_layer_gradients, hs_out_rows, hs_out_values, hs_rows, hs_step,
    hs_step_gradients, hs_values, hs_weights,
};
use crate::options::{hs_plan_options, hs_workspace_options};

/// What this library takes it for.
const OWN: hs_abi = hs_abi {
    version: HS_ABI_VERSION,
    rows: (size_of::<hs_rows>() + size_of::<hs_out_rows>()) as u32,
    values: (size_of::<hs_values>() + size_of::<hs_out_values>() + size_of::<hs_weights>()) as u32,
    steps: (size_of::<hs_step>()
        + size_of::<hs_step_gradients>()
        + size_of::<hs_epilogue>()
        + size_of::<hs_epilogue_gradients>()
        + size_of::<hs_layer_gradients>()) as u32,
    options: (size_of::<hs_plan_options>() + size_of::<hs_workspace_options>() + size_of::<hs_error>())
        as u32,
};

pub(crate) fn check(abi: &hs_abi) -> Result<()> {
    let pairs = [
        ("abi.version", abi.version, OWN.version),
        ("abi.rows", abi.rows, OWN.rows),
        ("abi.values", abi.values, OWN.values),
        ("abi.steps", abi.steps, OWN.steps),
        ("abi.options", abi.options, OWN.options),
    ];
    match pairs.into_iter().find(|(_, theirs, own)| theirs != own) {
        None => Ok(()),
        Some((what, value, bound)) => Err(Failure::Abi { what, value: value.into(), bound: bound.into() }),
    }
}
