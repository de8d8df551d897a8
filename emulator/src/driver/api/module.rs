//! Modules, functions and what they say of themselves.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::driver::entry::{Out, exports, release_object, with_current, with_object};
use crate::driver::handle::{Handle, Kind};
use crate::driver::module::image;
use crate::driver::status::{Outcome, Status};

/// The threads of a multiprocessor, and how many blocks it holds at most.
const THREADS: u32 = 2048;
const BLOCKS: u32 = 32;

fn load(module: Out<Handle>, image: &[u8]) -> Outcome {
    with_current(|state| {
        let serial = state.load_module(image)?;
        module.set(state.handle(Kind::Module, serial))
    })
}

/// A string of the caller.
///
/// # Safety
/// It ends with a zero byte.
unsafe fn string<'a>(text: *const c_char) -> Outcome<&'a CStr> {
    if text.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: the caller answers for the zero byte.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// How many blocks fit, by threads and shared memory; registers are not known.
fn occupancy(count: Out<c_int>, function: Handle, threads: c_int, dynamic: usize) -> Outcome {
    with_object(function, Kind::Function, |state, function| {
        let threads = u32::try_from(threads).ok().filter(|&n| n > 0).ok_or(Status::INVALID_VALUE)?;
        let shared = state.shared_bytes_opt_in() as usize + 1024;
        let limit = state.function(function)?.dynamic_shared as usize;
        if threads > 1024 || dynamic > limit {
            return count.set(0);
        }
        let by_shared = u32::try_from(shared / (dynamic + 1024)).unwrap_or(BLOCKS);
        count.set(BLOCKS.min(THREADS / threads.next_multiple_of(32)).min(by_shared) as c_int)
    })
}

exports! {
    /// Loads a module from a file.
    fn cuModuleLoad(module: Out<Handle>, path: *const c_char) {
        // SAFETY: the C interface demands a string.
        let path = unsafe { string(path)? };
        let image = fs::read(OsStr::from_bytes(path.to_bytes())).map_err(|_| Status::FILE_NOT_FOUND)?;
        load(module, &image)
    }

    /// Loads a module from memory.
    fn cuModuleLoadData(module: Out<Handle>, start: *const u8) {
        // SAFETY: the C interface demands an image.
        load(module, unsafe { image(start)? })
    }

    /// Loads a module from memory; the options are for the driver's compiler, and change nothing here.
    fn cuModuleLoadDataEx(
        module: Out<Handle>,
        start: *const u8,
        _count: c_uint,
        _options: *const c_uint,
        _values: *const *const c_void,
    ) {
        // SAFETY: the C interface demands an image.
        load(module, unsafe { image(start)? })
    }

    /// Unloads a module, and with it its functions.
    fn cuModuleUnload(module: Handle) {
        release_object(module, Kind::Module, |state, module| {
            state.modules.remove(&module).ok_or(Status::INVALID_HANDLE)?;
            state.functions.retain(|_, function| function.module != module);
            Ok(())
        })
    }

    /// Finds a kernel of a module.
    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: *const c_char) {
        // SAFETY: the C interface demands a string.
        let name = unsafe { string(name)? }.to_str().map_err(|_| Status::NOT_FOUND)?;
        with_object(module, Kind::Module, |state, module| {
            let serial = state.module_function(module, name)?;
            function.set(state.handle(Kind::Function, serial))
        })
    }

    /// Finds a variable of a module; kernels here have none.
    fn cuModuleGetGlobal_v2(_address: Out<usize>, _bytes: Out<usize>, module: Handle, _name: *const c_char) {
        with_object(module, Kind::Module, |_, _| Err(Status::NOT_FOUND))
    }

    /// An attribute of a function, by the numbers of `cuda.h`.
    fn cuFuncGetAttribute(value: Out<c_int>, attribute: c_uint, function: Handle) {
        with_object(function, Kind::Function, |state, function| {
            let (major, minor) = state.options.compute_capability;
            let function = state.function(function)?;
            let (dynamic, module) = (function.dynamic_shared, function.module);
            let version = state.modules.get(&module).map_or((0, 0), |module| module.ptx.target);
            let found = match attribute {
                // Threads of a block; PTX and binary version; dynamic shared memory.
                0 => 1024,
                5 => version.0 * 10 + version.1,
                6 => major * 10 + minor,
                8 => dynamic,
                // Static shared memory, constants, local memory, registers and cache are not known.
                1..=9 => 0,
                _ => return Err(Status::INVALID_VALUE),
            };
            value.set(found as c_int)
        })
    }

    /// Sets how much dynamic shared memory a launch may have, or how much of the cache is preferred for it.
    fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) {
        with_object(function, Kind::Function, |state, function| {
            let most = state.shared_bytes_opt_in();
            match (attribute, u32::try_from(value)) {
                (8, Ok(bytes)) if bytes <= most => state.function(function)?.dynamic_shared = bytes,
                (9, _) if (-1..=100).contains(&value) => {}
                _ => return Err(Status::INVALID_VALUE),
            }
            Ok(())
        })
    }

    /// Divides the cache, which changes nothing here.
    fn cuFuncSetCacheConfig(function: Handle, _config: c_uint) {
        with_object(function, Kind::Function, |state, function| state.function(function).map(drop))
    }

    /// How many blocks of a kernel a multiprocessor holds.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        count: Out<c_int>,
        function: Handle,
        threads: c_int,
        dynamic: usize,
    ) {
        occupancy(count, function, threads, dynamic)
    }

    /// How many blocks of a kernel a multiprocessor holds.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        count: Out<c_int>,
        function: Handle,
        threads: c_int,
        dynamic: usize,
        _flags: c_uint,
    ) {
        occupancy(count, function, threads, dynamic)
    }

    /// How much dynamic shared memory each of so many blocks may have.
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>,
        function: Handle,
        blocks: c_int,
        _threads: c_int,
    ) {
        with_object(function, Kind::Function, |state, function| {
            state.function(function)?;
            let blocks = usize::try_from(blocks).ok().filter(|&n| n > 0).ok_or(Status::INVALID_VALUE)?;
            bytes.set((state.shared_bytes_opt_in() as usize + 1024) / blocks - 1024)
        })
    }
}
