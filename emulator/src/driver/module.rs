//! Modules and their functions. A module's image says which kernels it has; their code is the one compiled
//! for the host.

use std::fmt;
use std::iter;
use std::sync::Arc;

use super::ptx::Ptx;
use super::settings::settings;
use super::state::State;
use super::status::{Outcome, Status};
use crate::engine;
use crate::interface::{Build, KernelInfo};

/// Dynamic shared memory that a launch may have without asking first.
pub(crate) const SHARED_BYTES: u32 = 48 << 10;

/// How images begin that hold machine code: ELF files and fat binaries.
const BINARIES: [&[u8]; 2] = [b"\x7fELF", &0xba55_ed50u32.to_le_bytes()];

/// A loaded image.
pub(crate) struct Module {
    pub(crate) ptx: Arc<Ptx>,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.ptx.entries.join(", "))
    }
}

/// A kernel of a module.
pub(crate) struct Function {
    pub(crate) module: u64,
    pub(crate) info: &'static KernelInfo,
    /// How much dynamic shared memory a launch may have.
    pub(crate) dynamic_shared: u32,
}

impl State {
    /// How much dynamic shared memory a kernel may ask for, by compute capability.
    pub(crate) fn shared_bytes_opt_in(&self) -> u32 {
        let kibibytes = match self.options.compute_capability {
            (7, 0..=4) => 96,
            (7, _) => 64,
            (8, 0 | 7) => 163,
            (8, _) | (12.., _) => 99,
            _ => 227,
        };
        kibibytes << 10
    }

    /// Loads an image.
    pub(crate) fn load_module(&mut self, image: &[u8]) -> Outcome<u64> {
        self.refuse_unsafe_call()?;
        self.create()?;
        let text = std::str::from_utf8(image).map_err(|_| Status::INVALID_IMAGE)?;
        let ptx = Ptx::read(text)?;
        ptx.check(settings().newest_ptx(), self.options.compute_capability)?;
        let serial = self.new_serial();
        self.modules.insert(serial, Module { ptx });
        Ok(serial)
    }

    /// Finds a kernel; one that is found twice is the same function.
    pub(crate) fn module_function(&mut self, module: u64, name: &str) -> Outcome<u64> {
        let loaded = self.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
        let info = loaded
            .ptx
            .entries
            .iter()
            .any(|entry| entry == name)
            .then(|| engine::kernel(Build::Fast, name))
            .flatten()
            .ok_or(Status::NOT_FOUND)?;
        let mut known = self.functions.iter().filter(|(_, f)| f.module == module && f.info.name == name);
        if let Some((&serial, _)) = known.next() {
            return Ok(serial);
        }
        let serial = self.new_serial();
        self.functions.insert(serial, Function { module, info, dynamic_shared: SHARED_BYTES });
        Ok(serial)
    }

    /// A function by number.
    pub(crate) fn function(&mut self, function: u64) -> Outcome<&mut Function> {
        self.functions.get_mut(&function).ok_or(Status::INVALID_HANDLE)
    }
}

/// The bytes of an image in memory, which says itself where it ends.
///
/// # Errors
/// `INVALID_VALUE` where there is none; `NO_BINARY_FOR_GPU` for machine code, which is for hardware.
///
/// # Safety
/// The image is a text that ends with a zero byte, or machine code.
pub(crate) unsafe fn image<'a>(start: *const u8) -> Outcome<&'a [u8]> {
    if start.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // Bytes are read one by one, as the text may end at any of them.
    // SAFETY: up to the zero byte, or to the end of the signature of machine code, which is longer.
    let byte = |i: usize| unsafe { start.add(i).read() };
    if BINARIES.iter().any(|signature| (0..signature.len()).all(|i| byte(i) == signature[i])) {
        return Err(Status::NO_BINARY_FOR_GPU);
    }
    let len = iter::successors(Some(0), |i| Some(i + 1)).take_while(|&i| byte(i) != 0).count();
    // SAFETY: these bytes were just read.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}
