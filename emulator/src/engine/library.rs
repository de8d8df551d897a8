//! The compiled kernel files: what their libraries export, where their shared memory lies, and their lines.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::process::Command;
use std::ptr;
use std::slice;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::failure::Site;
use crate::interface::{Build, KernelInfo, ParamInfo};

include!(concat!(env!("OUT_DIR"), "/libraries.rs"));

/// The symbols of `shim/bridge.h`.
mod exported {
    use super::{c_char, c_void};

    #[repr(C)]
    pub(super) struct Parameter {
        pub(super) size: u32,
        pub(super) is_pointer: u32,
        pub(super) pointee_align: u32,
    }

    #[repr(C)]
    pub(super) struct Kernel {
        pub(super) name: *const c_char,
        pub(super) invoke: Option<unsafe extern "C" fn(*const *const c_void)>,
        pub(super) params: *const Parameter,
        pub(super) param_count: u32,
    }
}

/// The library of one kernel file in one build. Loaded once and never unloaded.
pub(super) struct Library {
    path: &'static str,
    /// Where its code and data were loaded.
    image: Range<usize>,
    /// The address of a byte of this thread's segment of thread-local variables.
    anchor: unsafe extern "C" fn() -> *mut c_void,
    /// Where in that segment the byte lies.
    anchor_offset: usize,
    segment_bytes: usize,
    /// The dynamic shared memory, as a part of the segment; empty where the file has none.
    dynamic: Range<usize>,
}

/// A kernel, ready to run.
pub(super) struct Entry {
    pub(super) info: KernelInfo,
    pub(super) library: &'static Library,
    /// Runs one thread; takes the addresses of the parameters.
    pub(super) invoke: unsafe extern "C" fn(*const *const c_void),
}

/// The shared memory of the calling OS thread: the segment, and the dynamic part of it.
#[derive(Debug, Clone)]
pub(super) struct SharedRanges {
    pub(super) all: Range<usize>,
    pub(super) dynamic: Range<usize>,
}

/// A kernel by name.
pub(super) fn entry(build: Build, name: &str) -> Option<&'static Entry> {
    static FAST: OnceLock<HashMap<&str, Entry>> = OnceLock::new();
    static CHECKED: OnceLock<HashMap<&str, Entry>> = OnceLock::new();
    let table = match build {
        Build::Fast => FAST.get_or_init(|| load(LIBRARIES.iter().map(|l| l.0))),
        Build::Checked => CHECKED.get_or_init(|| load(LIBRARIES.iter().map(|l| l.1))),
    };
    table.get(name)
}

fn load(paths: impl Iterator<Item = &'static str>) -> HashMap<&'static str, Entry> {
    // One build after the other.
    static LOADING: Mutex<()> = Mutex::new(());
    let _loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    paths.flat_map(Library::open).map(|entry| (entry.info.name, entry)).collect()
}

impl Library {
    /// Loads a library and lists its kernels.
    fn open(path: &'static str) -> Vec<Entry> {
        // SAFETY: the build script compiled it: it has no constructors that do anything, and the symbols have
        // the types of `shim/bridge.h` and `shim/register.h`.
        unsafe {
            let library = libloading::Library::new(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            let library = ManuallyDrop::new(library);
            let anchor = *library
                .get::<unsafe extern "C" fn() -> *mut c_void>(b"emulator_anchor\0")
                .unwrap_or_else(|e| panic!("{path}: {e}"));
            let kernels = *library
                .get::<*const exported::Kernel>(b"emulator_kernels\0")
                .unwrap_or_else(|e| panic!("{path}: {e}"));
            // While another thread loads a library, the loader does not know this thread's segment for a
            // moment.
            let (anchor_address, module) = loop {
                let (anchor_address, module) = (anchor() as usize, Module::of(kernels as usize));
                if module.segment.start != 0 {
                    break (anchor_address, module);
                }
                std::thread::yield_now();
            };
            let dynamic = library.get::<*mut c_void>(b"emulator_dynamic_shared\0").ok();
            let dynamic = dynamic.map_or(0..0, |symbol| {
                let start = *symbol as usize - module.segment.start;
                start..start + DYNAMIC_SHARED
            });
            let library: &'static Library = Box::leak(Box::new(Library {
                path,
                image: module.image,
                anchor,
                anchor_offset: anchor_address - module.segment.start,
                segment_bytes: module.segment.len(),
                dynamic,
            }));
            library.entries(kernels)
        }
    }

    /// # Safety
    /// `kernels` is the library's table, which ends with a kernel without a name.
    unsafe fn entries(&'static self, kernels: *const exported::Kernel) -> Vec<Entry> {
        let mut entries = Vec::new();
        for i in 0.. {
            // SAFETY: not behind the entry without a name.
            let kernel = unsafe { &*kernels.add(i) };
            let Some(invoke) = kernel.invoke else { break };
            // SAFETY: constants of a library that stays loaded.
            let (name, params) = unsafe {
                (
                    CStr::from_ptr(kernel.name),
                    slice::from_raw_parts(kernel.params, kernel.param_count as usize),
                )
            };
            let params = params.iter().map(|p| ParamInfo {
                size: p.size as usize,
                is_pointer: p.is_pointer != 0,
                pointee_align: p.pointee_align as usize,
            });
            let info = KernelInfo {
                name: name.to_str().expect("C identifiers are ASCII"),
                params: params.collect(),
                static_shared: self.segment_bytes - self.dynamic.len(),
            };
            entries.push(Entry { info, library: self, invoke });
        }
        entries
    }

    /// Where the shared memory of the calling OS thread lies.
    pub(super) fn shared(&self) -> SharedRanges {
        // SAFETY: the function returns the address of a variable.
        let start = unsafe { (self.anchor)() } as usize - self.anchor_offset;
        SharedRanges {
            all: start..start + self.segment_bytes,
            dynamic: start + self.dynamic.start..start + self.dynamic.end,
        }
    }

    /// Whether an address is one of the code, the constants and the global variables.
    pub(super) fn contains(&self, address: usize) -> bool {
        self.image.contains(&address)
    }

    /// The place in the source from which a call returns to `pc`.
    pub(super) fn site(&self, pc: *const c_void) -> Site {
        Site::Code((pc as usize - self.image.start) as u32)
    }

    /// "file.cu:12"; the address where the line cannot be found.
    pub(super) fn source_line(&self, site: Site) -> String {
        match site {
            Site::Line { file, line } => format!("{}:{line}", file_name(&file.get().to_string_lossy())),
            Site::Code(offset) => {
                self.line_of(offset).unwrap_or_else(|| format!("{}+{offset:#x}", self.path))
            }
        }
    }

    /// Asks the debug information, by binutils, which the compiler needs anyway. Functions of the shim are
    /// inlined into the line of the kernel that calls them, which is the one to name.
    fn line_of(&self, offset: u32) -> Option<String> {
        // The return address may already belong to the next line.
        let address = format!("{:#x}", offset.checked_sub(1)?);
        let output = Command::new("addr2line").args(["-i", "-e", self.path, &address]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let shim = concat!(env!("CARGO_MANIFEST_DIR"), "/shim/");
        let line = text.lines().find(|line| !line.starts_with(shim) && !line.starts_with('?'))?;
        // A "(discriminator 2)" may follow.
        Some(file_name(line.split(' ').next()?).to_owned())
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A loaded library, as the dynamic loader sees it.
struct Module {
    image: Range<usize>,
    /// The calling thread's thread-local variables.
    segment: Range<usize>,
}

impl Module {
    /// The module that contains `address`. Its thread-local variables must have been touched by this thread.
    fn of(address: usize) -> Self {
        struct Search {
            address: usize,
            found: Option<Module>,
        }

        unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> i32 {
            // SAFETY: the loader passes a module of its list and what was given to it below.
            let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
            // SAFETY: as above.
            let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
            let base = info.dlpi_addr as usize;
            let loaded = headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
            let end = loaded.map(|h| base + (h.p_vaddr + h.p_memsz) as usize).max().unwrap_or(base);
            if !(base..end).contains(&search.address) {
                return 0;
            }
            let tls = headers.iter().find(|h| h.p_type == libc::PT_TLS);
            let start = info.dlpi_tls_data as usize;
            let len = tls.map_or(0, |h| h.p_memsz as usize);
            assert!(tls.is_none_or(|h| h.p_filesz == 0), "shared memory cannot be initialised");
            search.found = Some(Module { image: base..end, segment: start..start + len });
            1
        }

        let mut search = Search { address, found: None };
        // SAFETY: the callback gets what it expects.
        unsafe { libc::dl_iterate_phdr(Some(visit), ptr::from_mut(&mut search).cast()) };
        search.found.expect("the library is loaded")
    }
}
