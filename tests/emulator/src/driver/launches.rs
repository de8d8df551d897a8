//! Kernel launches: what the driver itself refuses, and the rest into the stream.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use super::code;
use super::driver;
use super::streams::stream_id;
use crate::engine;
use crate::handle::{Kind, unpack};
use crate::queue::Operation;
use crate::state::{CURRENT, current};

driver! {
    fn cuLaunchKernel(
        function: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: usize,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let mut state = current()?.lock();
        state.sticky()?;
        let stream = stream_id(&mut state, stream)?;
        let (ordinal, id) = unpack(Kind::Function, function)?;
        if CURRENT.get() != Some(ordinal) {
            return Err(code::INVALID_CONTEXT);
        }
        let function = state.functions.get(&id).ok_or(code::INVALID_HANDLE)?;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
        let zero = grid.contains(&0) || block.contains(&0);
        let too_large = grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535;
        if zero || too_large || threads > 1024 || block[2] > 64 || shared > function.max_dynamic_shared {
            let name = function.name;
            state.reports.push(format!("{name}: grid {grid:?}, block {block:?}, {shared} bytes of dynamic shared memory"));
            return Err(code::INVALID_VALUE);
        }
        let kernel = engine::kernel(state.options.build, function.name).ok_or(code::NOT_FOUND)?;
        if !extra.is_null() || params.is_null() && !kernel.params.is_empty() {
            return Err(code::INVALID_VALUE);
        }
        if !state.options.execute {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(kernel.params.len());
        for (i, param) in kernel.params.iter().enumerate() {
            // SAFETY: the interface's contract: one pointer for each parameter, to as many bytes as it has.
            let value = unsafe { std::slice::from_raw_parts((*params.add(i)).cast::<u8>(), param.size) }.to_vec();
            if param.is_pointer {
                let address = usize::from_ne_bytes(value[..].try_into().expect("a pointer has this size"));
                if address % param.pointee_align != 0 {
                    state.reports.push(format!("{}: parameter {i} is the misaligned pointer {address:#x}", kernel.name));
                    return Err(code::INVALID_VALUE);
                }
            }
            bytes.push(value);
        }
        let operation = Operation::Kernel { name: kernel.name, grid, block, shared, params: Arc::new(bytes) };
        state.enqueue(stream, operation)
    }
}
