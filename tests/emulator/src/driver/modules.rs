//! Modules and functions. An image is PTX text, of which version, target and entries are read.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::code::{self, Code};
use super::{driver, put};
use crate::engine;
use crate::handle::{Kind, pack, unpack};
use crate::interface::Build;
use crate::state::{CURRENT, Function, SETTINGS, State, current};

/// The number that follows `key` at the start of a line, such as `8.0` or `sm_75`.
fn directive<'a>(ptx: &'a str, key: &str) -> Option<&'a str> {
    ptx.lines().find_map(|line| line.trim().strip_prefix(key)?.split_whitespace().next())
}

/// The largest PTX version that a driver compiles: 7.8 for CUDA 11.8, 8.0 for 12.0 and one more for each release.
fn newest_ptx(driver_version: i32) -> (u32, u32) {
    let (major, minor) = ((driver_version / 1000) as u32, (driver_version % 1000 / 10) as u32);
    match major {
        0..=11 => (7, minor),
        _ => (8 + (major - 12), minor),
    }
}

fn entries(ptx: &str, state: &State) -> Result<Vec<String>, Code> {
    let version = directive(ptx, ".version").and_then(|v| v.split_once('.')).ok_or(code::INVALID_PTX)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| code::INVALID_PTX);
    if (number(version.0)?, number(version.1)?) > newest_ptx(SETTINGS.driver_version) {
        return Err(code::UNSUPPORTED_PTX_VERSION);
    }
    let target = directive(ptx, ".target").and_then(|t| t.strip_prefix("sm_")).ok_or(code::INVALID_PTX)?;
    let digits: String = target.chars().take_while(char::is_ascii_digit).collect();
    let (major, minor) = state.options.capability;
    if number(&digits)? > major * 10 + minor {
        return Err(code::NO_BINARY_FOR_GPU);
    }
    let names = ptx.lines().filter_map(|line| {
        let rest = line.trim().trim_start_matches(".visible").trim_start().strip_prefix(".entry")?;
        Some(rest.trim().split(['(', ' ']).next()?.to_string())
    });
    Ok(names.collect())
}

driver! {
    fn cuModuleLoadData(to: *mut usize, image: *const c_void) {
        let ordinal = CURRENT.get().ok_or(code::INVALID_CONTEXT)?;
        let mut state = current()?.lock();
        state.not_while_capturing()?;
        state.create()?;
        if image.is_null() {
            return Err(code::INVALID_VALUE);
        }
        // SAFETY: the interface's contract: an image of PTX ends with a zero.
        let ptx = unsafe { CStr::from_ptr(image.cast()) }.to_str().map_err(|_| code::INVALID_IMAGE)?;
        let entries = entries(ptx, &state)?;
        let id = state.new_id();
        state.modules.insert(id, entries);
        put(to, pack(Kind::Module, ordinal, id))
    }

    fn cuModuleUnload(module: usize) {
        let mut state = current()?.lock();
        let (_, id) = unpack(Kind::Module, module)?;
        if state.pending() > 0 {
            // The driver waits for kernels of the module.
            state.run_all();
        }
        state.functions.retain(|_, function| function.module != id);
        state.modules.remove(&id).map(drop).ok_or(code::INVALID_HANDLE)
    }

    fn cuModuleGetFunction(to: *mut usize, module: usize, name: *const c_char) {
        let mut state = current()?.lock();
        state.create()?;
        let (ordinal, module) = unpack(Kind::Module, module)?;
        // SAFETY: the interface's contract: a string that ends with a zero.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| code::INVALID_VALUE)?;
        let entries = state.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
        if !entries.iter().any(|entry| entry == name) {
            return Err(code::NOT_FOUND);
        }
        let Some(kernel) = engine::kernel(Build::Fast, name) else {
            state.reports.push(format!("the image has an entry {name}, but no such kernel was compiled"));
            return Err(code::NOT_FOUND);
        };
        let id = state.new_id();
        state.functions.insert(id, Function { name: kernel.name, module, max_dynamic_shared: 48 << 10 });
        put(to, pack(Kind::Function, ordinal, id))
    }

    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: usize) {
        let state = current()?.lock();
        let (_, id) = unpack(Kind::Function, function)?;
        let function = state.functions.get(&id).ok_or(code::INVALID_HANDLE)?;
        let kernel = engine::kernel(state.options.build, function.name).ok_or(code::NOT_FOUND)?;
        put(value, match attribute {
            0 => 1024,
            1 => kernel.static_shared as c_int,
            8 => function.max_dynamic_shared as c_int,
            _ => 0,
        })
    }

    fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) {
        let mut state = current()?.lock();
        let (_, id) = unpack(Kind::Function, function)?;
        let function = state.functions.get_mut(&id).ok_or(code::INVALID_HANDLE)?;
        if attribute == 8 {
            if !(0..=227 << 10).contains(&value) {
                return Err(code::INVALID_VALUE);
            }
            function.max_dynamic_shared = value as u32;
        }
        Ok(())
    }
}
