//! Initialisation, errors, devices and contexts.

use std::ffi::{c_char, c_int, c_uint};

use super::code::{self, Code};
use super::{driver, put};
use crate::handle::{Kind, pack, unpack};
use crate::state::{CURRENT, DEVICES, Device, SETTINGS, State, current};

/// The multiprocessors, and other attributes that somebody asks for: those of an H100.
fn attribute(attribute: c_int, state: &State) -> Result<c_int, Code> {
    Ok(match attribute {
        1 => 1024, // threads of a block
        2 | 3 => 1024,
        4 => 64,
        5 => c_int::MAX, // grid
        6 | 7 => 65_535,
        8 => 48 << 10, // shared memory of a block
        10 => 32,
        12 => 65_536, // registers
        16 => 132,
        19 => 1,        // host memory can be mapped
        38 => 50 << 20, // L2
        41 => 1,        // unified addressing
        75 => state.options.capability.0 as c_int,
        76 => state.options.capability.1 as c_int,
        97 => 227 << 10,
        115 => SETTINGS.async_alloc.into(),
        _ => 0,
    })
}

fn device(ordinal: c_int) -> Result<&'static Device, Code> {
    usize::try_from(ordinal).ok().and_then(|o| DEVICES.get(o)).ok_or(code::INVALID_DEVICE)
}

driver! {
    fn cuInit(_flags: c_uint) {
        if DEVICES.is_empty() { Err(code::NO_DEVICE) } else { Ok(()) }
    }

    fn cuDriverGetVersion(version: *mut c_int) {
        put(version, SETTINGS.driver_version)
    }

    fn cuGetErrorName(error: Code, text: *mut *const c_char) {
        let name = code::name(error).ok_or(code::INVALID_VALUE)?;
        put(text, name.as_ptr().cast())
    }

    fn cuGetErrorString(error: Code, text: *mut *const c_char) {
        let name = code::name(error).ok_or(code::INVALID_VALUE)?;
        put(text, name.as_ptr().cast())
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        put(count, DEVICES.len() as c_int)
    }

    fn cuDeviceGet(to: *mut c_int, ordinal: c_int) {
        device(ordinal)?;
        put(to, ordinal)
    }

    fn cuDeviceGetName(name: *mut c_char, len: c_int, ordinal: c_int) {
        device(ordinal)?;
        let text = b"hyperscatter's emulated device\0";
        let len = (len.max(0) as usize).min(text.len());
        for (i, &byte) in text[..len].iter().enumerate() {
            // SAFETY: the caller's buffer has `len` characters.
            unsafe { name.add(i).write(byte as c_char) };
        }
        Ok(())
    }

    fn cuDeviceGetUuid(uuid: *mut [u8; 16], ordinal: c_int) {
        device(ordinal)?;
        put(uuid, [ordinal as u8; 16])
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, ordinal: c_int) {
        device(ordinal)?;
        put(bytes, 80 << 30)
    }

    fn cuDeviceGetAttribute(value: *mut c_int, which: c_int, ordinal: c_int) {
        let value_of = attribute(which, &device(ordinal)?.lock())?;
        put(value, value_of)
    }

    fn cuDevicePrimaryCtxRetain(context: *mut usize, ordinal: c_int) {
        let mut state = device(ordinal)?.lock();
        state.create()?;
        state.retained += 1;
        put(context, pack(Kind::Context, ordinal as usize, 0))
    }

    fn cuDevicePrimaryCtxRelease_v2(ordinal: c_int) {
        let mut state = device(ordinal)?.lock();
        state.retained = state.retained.checked_sub(1).ok_or(code::INVALID_CONTEXT)?;
        if state.retained == 0 {
            state.run_all();
            let live = state.live();
            state.reports.extend(live.into_iter().map(|what| format!("left behind in the destroyed context: {what}")));
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(ordinal: c_int, _flags: c_uint) {
        device(ordinal).map(drop)
    }

    fn cuCtxGetCurrent(context: *mut usize) {
        put(context, CURRENT.get().map_or(0, |ordinal| pack(Kind::Context, ordinal, 0)))
    }

    fn cuCtxSetCurrent(context: usize) {
        if context == 0 {
            CURRENT.set(None);
            return Ok(());
        }
        let (ordinal, _) = unpack(Kind::Context, context).map_err(|_| code::INVALID_CONTEXT)?;
        if DEVICES[ordinal].lock().retained == 0 {
            return Err(code::INVALID_CONTEXT);
        }
        CURRENT.set(Some(ordinal));
        Ok(())
    }

    fn cuCtxGetDevice(ordinal: *mut c_int) {
        put(ordinal, CURRENT.get().ok_or(code::INVALID_CONTEXT)? as c_int)
    }

    fn cuCtxSynchronize() {
        let mut state = current()?.lock();
        state.not_while_capturing()?;
        state.run_all();
        state.sticky()
    }
}
