//! The frame of every exported function: it counts the call, finds the context, and keeps panics from
//! crossing the C interface.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::panic::{self, AssertUnwindSafe};

use super::device::{self, Device};
use super::handle::{Handle, Kind};
use super::state::State;
use super::status::{Outcome, Status};
use super::stream::default_stream;

thread_local! {
    /// The contexts that are current to the thread, the innermost last.
    static CONTEXTS: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    /// Whether the thread runs a host function of a stream, which may not call the driver.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// An out parameter of a C function.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// The place that an untyped pointer points to.
    pub(crate) fn at(place: *mut c_void) -> Self {
        Self(place.cast())
    }

    /// Hands a value to the caller.
    pub(crate) fn set(self, value: T) -> Outcome {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the C interface demands that out parameters point to a place for a value.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// As `set`, where the caller may decline the value.
    pub(crate) fn offer(self, value: T) -> Outcome {
        if self.0.is_null() { Ok(()) } else { self.set(value) }
    }

    /// The place itself.
    pub(crate) fn pointer(self) -> *mut T {
        self.0
    }
}

/// Defines exported functions. Each is counted on the device that it names (`of ordinal`), else on the device
/// of the current context.
macro_rules! exports {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(of $ordinal:ident)? $body:block
    )*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($($arg: $type),*) -> $crate::driver::status::Status {
            let ordinal: Option<std::ffi::c_int> = None $(.or(Some($ordinal)))?;
            $crate::driver::entry::enter($crate::driver::function::Function::$name, ordinal, || $body)
        }
    )*};
}
pub(crate) use exports;

/// Runs the body of an exported function.
pub(crate) fn enter(
    function: super::function::Function,
    ordinal: Option<std::ffi::c_int>,
    body: impl FnOnce() -> Outcome,
) -> Status {
    if IN_HOST_FUNCTION.get() {
        return Status::NOT_PERMITTED;
    }
    let counted = match ordinal {
        Some(ordinal) => device::get(ordinal),
        None => current_device(),
    };
    if let Ok(device) = counted
        && let Err(status) = device.count(function)
    {
        return status;
    }
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        // The panic's message has already been printed.
        Err(_) => Status::UNKNOWN,
    }
}

/// Runs a host function of a stream.
pub(crate) fn host_function(run: impl FnOnce()) {
    let before = IN_HOST_FUNCTION.replace(true);
    run();
    IN_HOST_FUNCTION.set(before);
}

/// The context that is current to the thread.
pub(crate) fn current_context() -> Outcome<Handle> {
    // A thread that ends may still drop handles, after its own variables are gone.
    CONTEXTS
        .try_with(|stack| stack.borrow().last().copied())
        .ok()
        .flatten()
        .filter(|context| *context != Handle::NULL)
        .ok_or(Status::INVALID_CONTEXT)
}

/// Changes the stack of contexts of the thread.
pub(crate) fn contexts<R>(change: impl FnOnce(&mut Vec<Handle>) -> R) -> R {
    CONTEXTS.with_borrow_mut(change)
}

/// The device of the current context.
pub(crate) fn current_device() -> Outcome<&'static Device> {
    device::at(current_context()?.open(Kind::Context)?.0)
}

/// Whether a call works on a context whose kernel has failed. It returns the failure in any case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterFailure {
    Refuse,
    /// For calls that give something back: their owners do not ask again.
    Work,
}

/// Works on the state of the current context's device.
pub(crate) fn with_current<R>(work: impl FnOnce(&mut State) -> Outcome<R>) -> Outcome<R> {
    with_device(current_device()?, AfterFailure::Refuse, work)
}

/// As `with_current`, for calls that give something back.
pub(crate) fn release_in_current(work: impl FnOnce(&mut State) -> Outcome) -> Outcome {
    with_device(current_device()?, AfterFailure::Work, work)
}

/// Works on the state of the device of an object.
pub(crate) fn with_object<R>(
    handle: Handle,
    kind: Kind,
    work: impl FnOnce(&mut State, u64) -> Outcome<R>,
) -> Outcome<R> {
    let (ordinal, serial) = handle.open(kind)?;
    with_device(device::at(ordinal)?, AfterFailure::Refuse, |state| work(state, serial))
}

/// As `with_object`, for calls that give the object back.
pub(crate) fn release_object(
    handle: Handle,
    kind: Kind,
    work: impl FnOnce(&mut State, u64) -> Outcome,
) -> Outcome {
    let (ordinal, serial) = handle.open(kind)?;
    with_device(device::at(ordinal)?, AfterFailure::Work, |state| work(state, serial))
}

/// Works on the state of a stream's device; the default streams belong to the current context.
pub(crate) fn with_stream<R>(handle: Handle, work: impl FnOnce(&mut State, u64) -> Outcome<R>) -> Outcome<R> {
    with_stream_after(handle, AfterFailure::Refuse, work)
}

/// As `with_stream`, for calls that give something back.
pub(crate) fn release_in_stream(handle: Handle, work: impl FnOnce(&mut State, u64) -> Outcome) -> Outcome {
    with_stream_after(handle, AfterFailure::Work, work)
}

fn with_stream_after<R>(
    handle: Handle,
    failure: AfterFailure,
    work: impl FnOnce(&mut State, u64) -> Outcome<R>,
) -> Outcome<R> {
    let (device, serial) = match default_stream(handle) {
        Some(serial) => (current_device()?, serial),
        None => {
            let (ordinal, serial) = handle.open(Kind::Stream)?;
            (device::at(ordinal)?, serial)
        }
    };
    with_device(device, failure, |state| {
        if state.streams.get(&serial).is_none_or(|stream| stream.destroyed) {
            return Err(Status::INVALID_HANDLE);
        }
        work(state, serial)
    })
}

fn with_device<R>(
    device: &Device,
    failure: AfterFailure,
    work: impl FnOnce(&mut State) -> Outcome<R>,
) -> Outcome<R> {
    let mut state = device.lock();
    if state.references == 0 {
        return Err(Status::CONTEXT_IS_DESTROYED);
    }
    if failure == AfterFailure::Refuse {
        state.healthy()?;
    }
    let result = work(&mut state)?;
    state.healthy()?;
    Ok(result)
}
