//! The launch of a kernel, with the checks that it passes before it is queued.

use std::ffi::{c_uint, c_void};
use std::ptr;
use std::slice;
use std::sync::Arc;

use crate::driver::entry::{current_device, exports, with_stream};
use crate::driver::handle::{Handle, Kind};
use crate::driver::operation::{KernelCall, Operation};
use crate::driver::state::State;
use crate::driver::status::{Outcome, Status};
use crate::interface::{KernelInfo, ParamInfo};

/// The most blocks of a grid and threads of a block, by dimension, and the most threads of a block.
const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
const BLOCK: [u32; 3] = [1024, 1024, 64];
const THREADS: u64 = 1024;

fn within(size: [u32; 3], most: [u32; 3]) -> bool {
    size.iter().zip(most).all(|(&n, most)| (1..=most).contains(&n))
}

/// Where the parameters are.
///
/// # Safety
/// The list has a pointer for each parameter, to as many bytes as it has.
unsafe fn places<'a>(
    state: &mut State,
    kernel: &KernelInfo,
    list: *const *const u8,
) -> Outcome<&'a [*const u8]> {
    let count = kernel.params.len();
    if count == 0 {
        return Ok(&[]);
    }
    if list.is_null() {
        return state.mistake(format!("launch of {}: no list of parameters", kernel.name));
    }
    // SAFETY: the caller answers for the list.
    let places = unsafe { slice::from_raw_parts(list, count) };
    match places.iter().position(|place| place.is_null()) {
        Some(i) => state.mistake(format!("launch of {}: parameter {i} is null", kernel.name)),
        None => Ok(places),
    }
}

/// Checks a parameter that is a pointer.
fn check_pointer(
    state: &mut State,
    kernel: &KernelInfo,
    i: usize,
    param: &ParamInfo,
    value: usize,
) -> Outcome {
    let problem = if !value.is_multiple_of(param.pointee_align) {
        format!("is not aligned to {} bytes", param.pointee_align)
    } else if let Some(why) = state.memory.dangling(value) {
        why
    } else {
        return Ok(());
    };
    let place = state.memory.place(value);
    state.mistake(format!("launch of {}: parameter {i}, {place}, {problem}", kernel.name))
}

exports! {
    /// Launches a kernel.
    fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        dynamic_shared: c_uint,
        stream: Handle,
        params: *const *const u8,
        extra: *const *const c_void,
    ) {
        let (ordinal, serial) = function.open(Kind::Function)?;
        let current = current_device()?;
        if !ptr::eq(current, crate::driver::device::at(ordinal)?) {
            return Err(Status::INVALID_HANDLE);
        }
        with_stream(stream, |state, stream| {
            if state.ordinal != ordinal {
                return Err(Status::INVALID_HANDLE);
            }
            let function = state.function(serial)?;
            let (kernel, shared_limit) = (function.info, function.dynamic_shared);
            let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
            let threads: u64 = block.iter().copied().map(u64::from).product();
            if !within(grid, GRID) || !within(block, BLOCK) || threads > THREADS {
                return state.mistake(format!(
                    "launch of {}: a grid of {grid:?} blocks of {block:?} threads",
                    kernel.name
                ));
            }
            if dynamic_shared > shared_limit {
                return state.mistake(format!(
                    "launch of {}: {dynamic_shared} bytes of dynamic shared memory, but {shared_limit} are allowed",
                    kernel.name
                ));
            }
            if !extra.is_null() {
                return Err(Status::NOT_SUPPORTED);
            }
            // SAFETY: the C interface demands a list of the kernel's parameters.
            let places = unsafe { places(state, kernel, params)? };
            for (i, (param, &place)) in kernel.params.iter().zip(places).enumerate() {
                if param.is_pointer {
                    // SAFETY: as above; a pointer is as large as an address.
                    let value = unsafe { place.cast::<usize>().read_unaligned() };
                    check_pointer(state, kernel, i, param, value)?;
                }
            }
            if !state.launched.contains(&kernel.name) {
                state.launched.push(kernel.name);
            }
            if !state.options.execute {
                return Ok(());
            }
            // SAFETY: as above.
            let bytes = |(param, &place): (&ParamInfo, &*const u8)| unsafe {
                slice::from_raw_parts(place, param.size).to_vec()
            };
            let params = kernel.params.iter().zip(places).map(bytes).collect();
            let call = KernelCall { kernel: kernel.name, grid, block, dynamic_shared, params };
            state.submit(stream, Operation::Kernel(Arc::new(call)))
        })
    }
}
