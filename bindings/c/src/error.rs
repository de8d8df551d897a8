//! Errors on their way to C: a status as the result, and the facts of the last one on each thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use hyperscatter::Error;

use crate::facts::Facts;
use crate::status;

/// What was wrong with the last call of a thread that failed. Numbers that do not fit are the nearest that
/// do. Strings are valid until another call on the same thread fails, and are null where there is nothing to
/// tell.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_error {
    /// `sizeof(hs_error)`, set by the caller.
    pub size: usize,
    /// The status that the call returned; `HS_OK` where none has failed yet.
    pub status: i32,
    /// Which of the numbers below tell something: a sum of `HS_FACT_*`.
    pub facts: u32,
    /// The name of the status.
    pub name: *const c_char,
    /// What is wrong and what to do, in English.
    pub message: *const c_char,
    /// The operand, table, argument, operator or call at fault.
    pub what: *const c_char,
    /// What sets the bound, or the second operand at fault.
    pub other: *const c_char,
    /// The instance; for tables of graphs the graph, for lists of members the list.
    pub instance: i64,
    /// The position in the table; for topologies the topology, for degrees the vertex.
    pub position: i64,
    /// The value that was found.
    pub value: i64,
    /// The bound that it broke.
    pub bound: i64,
    /// The degree that is negative.
    pub degree: f64,
}

/// Why a call failed.
pub(crate) enum Failure {
    Core(Error),
    /// A null pointer.
    Null(&'static str),
    /// A number that stands for nothing.
    Argument {
        what: &'static str,
        value: u64,
        bound: u64,
    },
    /// An output that is always overwritten.
    NotOverwritten(&'static str),
    /// Arrays of different integer types where they must be of one.
    MixedIntegers,
    Abi {
        what: &'static str,
        value: u64,
        bound: u64,
    },
    Busy,
    Capacity {
        what: &'static str,
        value: usize,
        bound: usize,
    },
    Backend(&'static str),
    /// So many threads could not be started.
    Threads(usize),
    Panic(String),
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Core(error)
    }
}

impl Failure {
    fn facts(&self) -> Facts {
        let facts = Facts::new;
        match *self {
            Self::Core(ref error) => status::facts_of(error),
            Self::Null(what) => facts(status::HS_ERROR_NULL).what(what),
            Self::Argument { what, value, bound } => {
                facts(status::HS_ERROR_ARGUMENT).what(what).value(value).bound(bound)
            }
            Self::NotOverwritten(what) => facts(status::HS_ERROR_ARGUMENT).what(what),
            Self::MixedIntegers => facts(status::HS_ERROR_ARGUMENT).what("integers"),
            Self::Abi { what, value, bound } => {
                facts(status::HS_ERROR_ABI).what(what).value(value).bound(bound)
            }
            Self::Busy => facts(status::HS_ERROR_BUSY).what("workspace"),
            Self::Capacity { what, value, bound } => {
                facts(status::HS_ERROR_CAPACITY).what(what).value(value).bound(bound)
            }
            Self::Backend(what) => facts(status::HS_ERROR_BACKEND).what(what),
            Self::Threads(value) => facts(status::HS_ERROR_OUT_OF_MEMORY).what("threads").value(value),
            Self::Panic(_) => facts(status::HS_ERROR_PANIC),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Core(error) => error.to_string(),
            Self::Null(what) => format!("{what} is null, but must point to something"),
            Self::Argument { what, value, bound } => {
                format!("{what} is {value}, but must be below {bound}: use the constants of hyperscatter.h")
            }
            Self::NotOverwritten(what) => format!("{what} is always overwritten: give it HS_OVERWRITE"),
            Self::MixedIntegers => "the arrays have different integer types, but must have one".into(),
            Self::Abi { what, value, bound } => format!(
                "{what} is {value} for the caller and {bound} for the library: compile against the header \
                 that came with the library"
            ),
            Self::Busy => "another thread is in a call of this workspace: give each thread its own".into(),
            Self::Capacity { what, value, bound } => {
                format!("{what} has {value} bytes, but the text takes {bound}: give a larger one")
            }
            Self::Backend(what) => format!(
                "{what} was made for another plan's backend or device: make it for a plan on the same \
                 device (or for one on the CPU)"
            ),
            Self::Threads(threads) => {
                format!("{threads} threads could not be started: ask for fewer by hs_set_num_threads")
            }
            Self::Panic(message) => {
                format!("this is a mistake of hyperscatter, please report it: {message}")
            }
        }
    }
}

/// What a thread remembers of its last failure.
struct Last {
    facts: Facts,
    message: CString,
    what: Option<CString>,
    other: Option<CString>,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// A text for C. It ends where it has a zero, which texts of this library do not have.
fn text(of: impl Into<Vec<u8>>) -> CString {
    let bytes = of.into().into_iter().take_while(|&byte| byte != 0).collect::<Vec<_>>();
    CString::new(bytes).unwrap_or_default()
}

fn remember(failure: &Failure) -> i32 {
    let facts = failure.facts();
    let status = facts.status;
    let [what, other] = [facts.what, facts.other].map(|word| word.map(text));
    let last = Last { facts, message: text(failure.message()), what, other };
    // A thread that is being torn down remembers nothing.
    let _ = LAST.try_with(|slot| slot.replace(Some(last)));
    status
}

/// What a panic says.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// The body of every function that returns a status: no panic leaves it, and what fails is remembered.
pub(crate) fn entry(body: impl FnOnce() -> Result<()>) -> i32 {
    let run = || match body() {
        Ok(()) => status::HS_OK,
        Err(failure) => remember(&failure),
    };
    // What a panic leaves behind is only freed, as `HS_ERROR_PANIC` says.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let failure = Failure::Panic(words_of(&*panic));
        // The panic may have come from a destructor of what was remembered, so this one is caught, too.
        catch_unwind(AssertUnwindSafe(|| remember(&failure))).unwrap_or(status::HS_ERROR_PANIC)
    })
}

/// What a function of the interface returns if its body is `body`: for tests, which have no other panic.
#[doc(hidden)]
pub fn status_of(body: impl FnOnce()) -> i32 {
    entry(|| {
        body();
        Ok(())
    })
}

/// The same for functions that return nothing.
pub(crate) fn quietly(body: impl FnOnce()) {
    status_of(body);
}

/// Tells what was wrong with the last call of this thread that failed. Calls that succeed leave it.
///
/// Returns `HS_ERROR_NULL` for a null pointer, `HS_ERROR_MISALIGNED` for one that cannot be to an `hs_error`,
/// and `HS_ERROR_ABI` where `error->size` is not the size of `hs_error`: set it before the call. None of
/// these is remembered, and nothing is written then.
///
/// # Safety
/// `error` is null or points to an `hs_error` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_last_error(error: *mut hs_error) -> i32 {
    if error.is_null() {
        return status::HS_ERROR_NULL;
    }
    if !error.is_aligned() {
        return status::HS_ERROR_MISALIGNED;
    }
    // SAFETY: the caller's promise. Only the field is read: the rest may be unwritten.
    if unsafe { (&raw const (*error).size).read() } != size_of::<hs_error>() {
        return status::HS_ERROR_ABI;
    }
    // A thread that is being torn down remembers nothing.
    let facts = LAST.try_with(|last| told(last.borrow().as_ref())).unwrap_or_else(|_| told(None));
    // SAFETY: the caller's promise.
    unsafe { error.write(facts) };
    status::HS_OK
}

fn told(last: Option<&Last>) -> hs_error {
    let nothing = Facts::new(status::HS_OK);
    let facts = last.map_or(&nothing, |last| &last.facts);
    let pointer = |text: Option<&CString>| text.map_or(ptr::null(), |text| text.as_ptr());
    let [instance, position, value, bound] = facts.numbers;
    hs_error {
        size: size_of::<hs_error>(),
        status: facts.status,
        facts: facts.known,
        name: status::name(facts.status).map_or(ptr::null(), CStr::as_ptr),
        message: last.map_or(c"".as_ptr(), |last| last.message.as_ptr()),
        what: pointer(last.and_then(|last| last.what.as_ref())),
        other: pointer(last.and_then(|last| last.other.as_ref())),
        instance,
        position,
        value,
        bound,
        degree: facts.degree,
    }
}
