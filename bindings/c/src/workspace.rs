//! Workspaces, and the threads of those on the CPU.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::abi::hs_abi;
use crate::arguments::{choice, give, make, reference};
use crate::backend::{AnyWorkspace, Request, operators};
use crate::call::Call;
use crate::error::{Failure, Result, entry, quietly};
use crate::operands::Reader;
use crate::options::hs_workspace_options;
use crate::plan::hs_plan;
use crate::{pools, versions};

/// The scratch memory of calls. One thread at a time may use it, any thread.
#[allow(non_camel_case_types)]
pub struct hs_workspace {
    workspace: UnsafeCell<Box<dyn AnyWorkspace>>,
    is_busy: AtomicBool,
}

/// Ends the use of a workspace, also by a panic.
struct Use<'a>(&'a AtomicBool);

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl hs_workspace {
    fn with<R>(&self, f: impl FnOnce(&mut dyn AnyWorkspace) -> Result<R>) -> Result<R> {
        if self.is_busy.swap(true, Ordering::Acquire) {
            return Err(Failure::Busy);
        }
        let _use = Use(&self.is_busy);
        // SAFETY: whoever found the flag down has the workspace to itself until it is down again.
        f(unsafe { &mut **self.workspace.get() })
    }
}

/// Makes a call: reads its operands, checks them, and hands them on.
///
/// # Safety
/// The workspace is null or a living handle; what `read` reads is as it says.
pub(crate) unsafe fn call<'a>(
    workspace: *mut hs_workspace,
    stream: *mut c_void,
    read: impl FnOnce(&mut Reader<'_>) -> Result<Call<'a>>,
) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise.
        let workspace = unsafe { reference("workspace", workspace)? };
        workspace.with(|workspace| {
            let sizes = workspace.sizes();
            let mut reader = Reader::new(workspace.batch(), sizes);
            let call = read(&mut reader)?;
            reader.check()?;
            // SAFETY: the caller's promise; and no output shares memory.
            unsafe { workspace.call(&call, stream) }
        })
    })
}

/// A workspace of a plan. On a device its kernels are loaded, which may take seconds the first time. On the
/// CPU it has memory for as many threads as `hs_num_threads` tells now, and its calls run on as many.
///
/// On a device it allocates and waits. CUDA forbids that while a stream is captured, whichever, by any thread
/// in the global mode or by this one in the thread-local mode: this is `HS_ERROR_DRIVER` then, and the
/// capture becomes invalid. Make workspaces before.
///
/// Errors: `HS_ERROR_ABI`, `HS_ERROR_TOO_MANY_INSTANCES` where a table batch has more instances,
/// `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_DRIVER`, `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.
///
/// # Safety
/// `plan` is null or a living handle, `options` is null or as it says, and `workspace` is null or may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_workspace_create(
    plan: *const hs_plan,
    options: *const hs_workspace_options,
    workspace: *mut *mut hs_workspace,
) -> i32 {
    entry(|| {
        let of = || {
            // SAFETY: the caller's promise, here and below. The first member is read alone: a structure of
            // another version may be shorter.
            let abi = unsafe { reference("options", options.cast::<hs_abi>())? };
            versions::check(abi)?;
            // SAFETY: as above.
            let (plan, options) = unsafe { (reference("plan", plan)?, reference("options", options)?) };
            let workspace = UnsafeCell::new(plan.0.workspace(&Request::new(options)?)?);
            Ok(hs_workspace { workspace, is_busy: AtomicBool::new(false) })
        };
        // SAFETY: as above.
        unsafe { make("workspace", workspace, of) }
    })
}

/// The bytes of scratch memory that a call of an operator (`HS_CONV`, …) with so many instances needs at
/// most, whatever its options. On the CPU that is 0. A caller who lends memory for several operators lends
/// the most that any of them needs.
///
/// The driver is not called, also not while a stream is captured. But it takes up to some 100 microseconds,
/// many times what a call takes: keep the number, which depends on plan, operator and instances alone.
///
/// Errors: `HS_ERROR_NOT_MADE_FOR`, `HS_ERROR_TOO_MANY_INSTANCES`, `HS_ERROR_BUSY`, `HS_ERROR_ARGUMENT`,
/// `HS_ERROR_NULL`.
///
/// # Safety
/// `workspace` is null or a living handle; `bytes` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_workspace_scratch_bytes(
    workspace: *const hs_workspace,
    operator: u32,
    instances: usize,
    bytes: *mut usize,
) -> i32 {
    entry(|| {
        let operator = choice("operator", operator, operators())?;
        // SAFETY: the caller's promise, here and below.
        let workspace = unsafe { reference("workspace", workspace)? };
        let needed = workspace.with(|workspace| workspace.scratch_bytes(operator, instances))?;
        // SAFETY: as above.
        unsafe { give("bytes", bytes, needed) }
    })
}

/// Lends scratch memory to a workspace that was made with `HS_SCRATCH_LENT`, instead of what was lent before:
/// `bytes` bytes of device memory from an address on that is a multiple of 256. What it holds does not
/// matter. Null takes it back. On the CPU nothing is needed, and nothing is done.
///
/// It may be lent anew before each call, and costs next to nothing. A CUDA graph keeps the address that was
/// lent when the call was captured. Calls that were lent memory of their own, each, may run at once on
/// several streams, and beside replays: the record of errors is all that they share, and it takes those of
/// all.
///
/// Errors: `HS_ERROR_OWNS_SCRATCH`, `HS_ERROR_SCRATCH_MISALIGNED`, `HS_ERROR_BUSY`, `HS_ERROR_NULL`.
///
/// # Safety
/// `workspace` is null or a living handle. The memory stays alive until the work of all calls that are made
/// with it has ended (of captured calls, until the last replay has), and nobody else uses it while that work
/// runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_workspace_lend_scratch(
    workspace: *mut hs_workspace,
    memory: *mut c_void,
    bytes: usize,
) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise, here and below.
        let workspace = unsafe { reference("workspace", workspace)? };
        // SAFETY: as above.
        workspace.with(|workspace| unsafe { workspace.lend_scratch(memory as usize as u64, bytes) })
    })
}

/// Waits for a stream, then returns and forgets the first error that a kernel found since the last check: a
/// wrong index (with `HS_CHECKS_ON`), or a negative degree under symmetric normalization. After one, outputs
/// since the last successful check are unspecified. On the CPU such errors are results of the calls, and this
/// does nothing.
///
/// It waits for this stream alone: an error of work that runs on another one meanwhile may be lost. While a
/// stream is captured, the same holds as for `hs_workspace_create`; for the captured stream itself this is
/// `HS_ERROR_CAPTURING`, and the capture goes on.
///
/// Errors: `HS_ERROR_INDEX_OUT_OF_BOUNDS`, `HS_ERROR_NEGATIVE_DEGREE`, `HS_ERROR_CAPTURING`,
/// `HS_ERROR_DRIVER`, `HS_ERROR_BUSY`, `HS_ERROR_NULL`.
///
/// # Safety
/// `workspace` is null or a living handle, and `stream` a living stream of its device (null is the default
/// stream).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_workspace_check(workspace: *mut hs_workspace, stream: *mut c_void) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise, here and below.
        let workspace = unsafe { reference("workspace", workspace)? };
        // SAFETY: as above.
        workspace.with(|workspace| unsafe { workspace.check(stream) })
    })
}

/// Frees a handle, or does nothing for null. It may be called while a stream is captured that does not use
/// it.
///
/// # Safety
/// `workspace` is null or a living handle, which nobody uses any more: no call, no work on a device, and no
/// CUDA graph. Wait for the streams of its calls before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_workspace_free(workspace: *mut hs_workspace) {
    // SAFETY: the caller's promise; handles are boxes.
    quietly(|| drop((!workspace.is_null()).then(|| unsafe { Box::from_raw(workspace) })));
}

/// Sets the number of threads that workspaces on the CPU get from now on; 0 for as many as the process may
/// run at once. Workspaces that are there keep theirs. Results do not depend on it.
///
/// Threads are started when a workspace first needs so many, and kept. A forked process starts its own.
///
/// Errors: `HS_ERROR_ARGUMENT` for more than 65,535.
///
/// # Safety
/// It is always safe to call.
#[unsafe(no_mangle)]
pub extern "C" fn hs_set_num_threads(threads: u32) -> i32 {
    entry(|| {
        let (value, bound) = (threads.into(), pools::MOST_THREADS as u64);
        if value >= bound {
            return Err(Failure::Argument { what: "threads", value, bound });
        }
        pools::set_threads(threads as usize);
        Ok(())
    })
}

/// The number of threads that workspaces on the CPU get now.
///
/// # Safety
/// It is always safe to call.
#[unsafe(no_mangle)]
pub extern "C" fn hs_num_threads() -> u32 {
    pools::threads() as u32
}
