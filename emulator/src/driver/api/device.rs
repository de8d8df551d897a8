//! Initialisation, error names and devices.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::driver::device;
use crate::driver::entry::{Out, exports};
use crate::driver::module::SHARED_BYTES;
use crate::driver::settings::settings;
use crate::driver::status::{Outcome, Status};

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// A device, once the driver is initialised.
pub(super) fn initialised(ordinal: c_int) -> Outcome<&'static device::Device> {
    if !INITIALISED.load(Ordering::Relaxed) {
        return Err(Status::NOT_INITIALIZED);
    }
    device::get(ordinal)
}

fn error_text(code: c_uint, find: fn(Status) -> Option<&'static CStr>, text: Out<*const c_char>) -> Outcome {
    match find(Status(code)) {
        Some(found) => text.set(found.as_ptr()),
        None => {
            text.set(ptr::null())?;
            Err(Status::INVALID_VALUE)
        }
    }
}

/// Sixteen bytes that tell a device from others.
fn uuid(ordinal: c_int) -> [u8; 16] {
    let mut bytes = *b"emulated....GPU.";
    bytes[8..12].copy_from_slice(&ordinal.to_be_bytes());
    bytes
}

/// The attributes that are not 0, by the numbers of `cuda.h`: those of an H100.
fn attribute(ordinal: c_int, number: c_uint) -> Outcome<u32> {
    let state = initialised(ordinal)?.lock();
    let (major, minor) = state.options.compute_capability;
    Ok(match number {
        // Threads of a block; its dimensions; those of a grid.
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX as u32,
        6 | 7 => 65_535,
        // Shared memory of a block without asking, with asking, of a multiprocessor; what the system takes of
        // it.
        8 => SHARED_BYTES,
        97 => state.shared_bytes_opt_in(),
        81 => state.shared_bytes_opt_in() + 1024,
        111 => 1024,
        // Threads of a warp; registers of a block and of a multiprocessor.
        10 => 32,
        12 | 82 => 65_536,
        // Multiprocessors; threads and blocks of one.
        16 => 132,
        39 => 2048,
        106 => 32,
        // Memory bus, in bits; second-level cache, in bytes; copy engines.
        37 => 5120,
        38 => 50 << 20,
        40 => 3,
        // Can map host memory, runs kernels side by side, has one address space, has stream priorities.
        19 | 31 | 41 | 78 => 1,
        75 => major,
        76 => minor,
        115 => u32::from(settings().async_alloc),
        _ if (1..=130).contains(&number) => 0,
        _ => return Err(Status::INVALID_VALUE),
    })
}

exports! {
    /// Initialises the driver.
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if device::all().is_empty() {
            return Err(Status::NO_DEVICE);
        }
        INITIALISED.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The newest CUDA that the driver knows.
    fn cuDriverGetVersion(version: Out<c_int>) {
        version.set(settings().driver_version as c_int)
    }

    /// The name of a result code.
    fn cuGetErrorName(code: c_uint, name: Out<*const c_char>) {
        error_text(code, Status::name, name)
    }

    /// The description of a result code.
    fn cuGetErrorString(code: c_uint, text: Out<*const c_char>) {
        error_text(code, Status::text, text)
    }

    /// The device of an ordinal: the ordinal itself.
    fn cuDeviceGet(device: Out<c_int>, ordinal: c_int) of ordinal {
        initialised(ordinal)?;
        device.set(ordinal)
    }

    /// How many devices there are.
    fn cuDeviceGetCount(count: Out<c_int>) {
        count.set(device::all().len() as c_int)
    }

    /// The name of a device.
    fn cuDeviceGetName(name: Out<c_char>, room: c_int, ordinal: c_int) of ordinal {
        initialised(ordinal)?;
        let text = format!("Emulated GPU {ordinal}");
        let room = usize::try_from(room).ok().filter(|&room| room > 0).ok_or(Status::INVALID_VALUE)?;
        let kept = &text.as_bytes()[..text.len().min(room - 1)];
        if name.pointer().is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller gives room for `room` characters; the text and its zero byte are no more.
        unsafe {
            name.pointer().cast::<u8>().copy_from_nonoverlapping(kept.as_ptr(), kept.len());
            name.pointer().add(kept.len()).write(0);
        }
        Ok(())
    }

    /// An attribute of a device.
    fn cuDeviceGetAttribute(value: Out<c_int>, number: c_uint, ordinal: c_int) of ordinal {
        value.set(attribute(ordinal, number)? as c_int)
    }

    /// What tells a device from others.
    fn cuDeviceGetUuid(id: Out<[u8; 16]>, ordinal: c_int) of ordinal {
        initialised(ordinal)?;
        id.set(uuid(ordinal))
    }

    /// What tells a device from others.
    fn cuDeviceGetUuid_v2(id: Out<[u8; 16]>, ordinal: c_int) of ordinal {
        initialised(ordinal)?;
        id.set(uuid(ordinal))
    }

    /// How much memory a device has.
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, ordinal: c_int) of ordinal {
        bytes.set(initialised(ordinal)?.lock().total_bytes() as usize)
    }
}
