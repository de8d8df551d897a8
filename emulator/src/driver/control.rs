//! The side door for tests: one exported function that takes commands in words and answers in words.
//!
//! Text crosses the boundary, as the driver and the test each have their own copy of this crate, and with it
//! of every static and allocator.

use std::ffi::c_void;
use std::slice;
use std::str::SplitWhitespace;

use super::device::{self, Device};
use crate::interface::{Build, Order};

/// Separates the items of an answer.
pub(crate) const SEPARATOR: char = '\u{1e}';

/// Takes the bytes of an answer.
pub(crate) type Reply = extern "C" fn(*mut c_void, *const u8, usize);

/// The type of the exported function.
pub(crate) type Control = unsafe extern "C" fn(usize, *const u8, usize, Reply, *mut c_void) -> bool;

/// Carries out a command on a device. False where it is not understood.
///
/// # Safety
/// `command` has `len` bytes; `reply` may be called with `to`.
#[unsafe(no_mangle)]
unsafe extern "C" fn hyperscatter_emulator_control(
    ordinal: usize,
    command: *const u8,
    len: usize,
    reply: Reply,
    to: *mut c_void,
) -> bool {
    // SAFETY: the caller says so.
    let command = unsafe { slice::from_raw_parts(command, len) };
    let Ok(command) = str::from_utf8(command) else { return false };
    let answer = if command == "devices" {
        Some(device::all().len().to_string())
    } else {
        device::all().get(ordinal).and_then(|device| obey(device, command))
    };
    if let Some(answer) = &answer {
        reply(to, answer.as_ptr(), answer.len());
    }
    answer.is_some()
}

fn obey(device: &Device, command: &str) -> Option<String> {
    let mut words = command.split_whitespace();
    let verb = words.next()?;
    let mut state = device.lock();
    match verb {
        "reset" => {
            device.reset_calls();
            device.fail_call("none", 0);
            state.reset();
        }
        "build" => {
            state.options.build = match words.next()? {
                "fast" => Build::Fast,
                "checked" => Build::Checked,
                _ => return None,
            }
        }
        "order" => state.options.order = order(&mut words)?,
        "deferred" => {
            state.options.deferred = words.next()?.parse().ok()?;
            if !state.options.deferred {
                state.run_all();
            }
        }
        "detect_races" => state.options.detect_races = words.next()?.parse().ok()?,
        "fill_memory" => state.options.fill_memory = words.next()?.parse().ok()?,
        "execute" => state.options.execute = words.next()?.parse().ok()?,
        "fail_call" => device.fail_call(words.next()?, words.next()?.parse().ok()?),
        "fail_creation" => state.options.fail_creation = optional(&mut words)?,
        "memory_limit" => state.options.memory_limit = optional(&mut words)?,
        "compute_capability" => {
            state.options.compute_capability = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        }
        "creations" => return Some(state.creations.to_string()),
        "pending" => return Some(state.pending().to_string()),
        "calls" => return Some(list(device.calls().map(|(name, count)| format!("{name} {count}")))),
        "launched" => return Some(list(state.launched.iter().map(|&name| name.to_owned()))),
        "reset_calls" => {
            device.reset_calls();
            state.launched.clear();
        }
        "take_reports" => return Some(list(std::mem::take(&mut state.reports))),
        "live" => return Some(list(state.live())),
        _ => return None,
    }
    Some(String::new())
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().map(|item| item + &SEPARATOR.to_string()).collect()
}

fn optional(words: &mut SplitWhitespace<'_>) -> Option<Option<u64>> {
    match words.next()? {
        "none" => Some(None),
        number => Some(Some(number.parse().ok()?)),
    }
}

fn order(words: &mut SplitWhitespace<'_>) -> Option<Order> {
    let order = words.next()?;
    let seed = words.next().map(str::parse);
    match (order, seed) {
        ("forward", None) => Some(Order::Forward),
        ("reverse", None) => Some(Order::Reverse),
        ("shuffled", Some(Ok(seed))) => Some(Order::Shuffled(seed)),
        ("preempting", Some(Ok(seed))) => Some(Order::Preempting(seed)),
        _ => None,
    }
}
