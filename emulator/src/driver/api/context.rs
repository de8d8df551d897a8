//! Primary contexts and the current context of a thread.

use std::ffi::{c_int, c_uint};

use super::device::initialised;
use crate::driver::device;
use crate::driver::entry::{Out, contexts, current_context, current_device, exports, with_current};
use crate::driver::handle::{Handle, Kind};
use crate::driver::status::{Outcome, Status};

/// The only serial of a context: a device has no other than its primary one, and retaining it again gives the
/// same.
const PRIMARY: u64 = 1;

/// The least and the greatest priority of a stream.
pub(super) const PRIORITIES: (c_int, c_int) = (0, -5);

/// The handle of a device's primary context.
pub(super) fn primary(ordinal: usize) -> Handle {
    Handle::new(Kind::Context, ordinal, PRIMARY)
}

/// Passes for a context, and for null, which stands for none.
fn check(context: Handle) -> Outcome {
    if context == Handle::NULL {
        return Ok(());
    }
    let (ordinal, serial) = context.open(Kind::Context).map_err(|_| Status::INVALID_CONTEXT)?;
    let device = device::at(ordinal).map_err(|_| Status::INVALID_CONTEXT)?;
    if serial != PRIMARY || device.lock().references == 0 {
        return Err(Status::INVALID_CONTEXT);
    }
    Ok(())
}

exports! {
    /// Takes a reference to the primary context.
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, ordinal: c_int) of ordinal {
        let mut state = initialised(ordinal)?.lock();
        state.references += 1;
        context.set(primary(state.ordinal))
    }

    /// Gives a reference back; the context ends with the last.
    fn cuDevicePrimaryCtxRelease_v2(ordinal: c_int) of ordinal {
        initialised(ordinal)?.lock().release()
    }

    /// Sets how a thread waits, which changes nothing here.
    fn cuDevicePrimaryCtxSetFlags_v2(ordinal: c_int, _flags: c_uint) of ordinal {
        initialised(ordinal).map(drop)
    }

    /// Whether the primary context lives.
    fn cuDevicePrimaryCtxGetState(ordinal: c_int, flags: Out<c_uint>, active: Out<c_int>) of ordinal {
        let state = initialised(ordinal)?.lock();
        flags.set(0)?;
        active.set(c_int::from(state.references > 0))
    }

    /// Destroys all that the primary context has. A kernel's failure stays: only a new process, or the
    /// control of a test, gets rid of it.
    fn cuDevicePrimaryCtxReset_v2(ordinal: c_int) of ordinal {
        initialised(ordinal)?.lock().destroy_context();
        Ok(())
    }

    /// The current context, or null.
    fn cuCtxGetCurrent(context: Out<Handle>) {
        context.set(current_context().unwrap_or(Handle::NULL))
    }

    /// Replaces the current context.
    fn cuCtxSetCurrent(context: Handle) {
        check(context)?;
        contexts(|stack| {
            stack.pop();
            stack.push(context);
        });
        Ok(())
    }

    /// Makes a context current until it is popped.
    fn cuCtxPushCurrent_v2(context: Handle) {
        check(context)?;
        contexts(|stack| stack.push(context));
        Ok(())
    }

    /// Goes back to the context before.
    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        let popped = contexts(Vec::pop).ok_or(Status::INVALID_CONTEXT)?;
        context.offer(popped)
    }

    /// The device of the current context.
    fn cuCtxGetDevice(device: Out<c_int>) {
        device.set(current_device()?.lock().ordinal as c_int)
    }

    /// Waits for everything.
    fn cuCtxSynchronize() {
        with_current(|state| {
            state.refuse_any_capture()?;
            state.run_all();
            Ok(())
        })
    }

    /// A limit; none of them matters here.
    fn cuCtxGetLimit(value: Out<usize>, limit: c_uint) {
        with_current(|_| if limit < 7 { value.set(0) } else { Err(Status::UNSUPPORTED_LIMIT) })
    }

    /// Sets a limit; none of them matters here.
    fn cuCtxSetLimit(limit: c_uint, _value: usize) {
        with_current(|_| if limit < 7 { Ok(()) } else { Err(Status::UNSUPPORTED_LIMIT) })
    }

    /// How the cache is divided: without a preference.
    fn cuCtxGetCacheConfig(config: Out<c_uint>) {
        with_current(|_| config.set(0))
    }

    /// Divides the cache, which changes nothing here.
    fn cuCtxSetCacheConfig(_config: c_uint) {
        with_current(|_| Ok(()))
    }

    /// The priorities that a stream may have.
    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) {
        with_current(|_| {
            least.offer(PRIORITIES.0)?;
            greatest.offer(PRIORITIES.1)
        })
    }

    /// Starts the profiler, which changes nothing here.
    fn cuProfilerStart() {
        with_current(|_| Ok(()))
    }

    /// Stops the profiler, which changes nothing here.
    fn cuProfilerStop() {
        with_current(|_| Ok(()))
    }
}
