//! The devices. All state belongs to one of them, so that tests on different devices do not see each other.

use std::array;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::function::{Function, NAMES};
use super::settings::settings;
use super::state::State;
use super::status::{Outcome, Status};

/// An emulated device.
pub(crate) struct Device {
    /// How often each function was called.
    counts: [AtomicU64; NAMES.len()],
    /// The call that is to fail; 0 for none. The upper half is the number of its function, from 1, and the
    /// lower half how many calls of it until then.
    failing: AtomicU64,
    state: Mutex<State>,
}

/// All devices.
pub(crate) fn all() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let device = |ordinal| Device {
            counts: array::from_fn(|_| AtomicU64::new(0)),
            failing: AtomicU64::new(0),
            state: Mutex::new(State::new(ordinal)),
        };
        (0..settings().devices).map(device).collect()
    })
}

/// The device of an ordinal.
pub(crate) fn get(ordinal: c_int) -> Outcome<&'static Device> {
    usize::try_from(ordinal).ok().and_then(|i| all().get(i)).ok_or(Status::INVALID_DEVICE)
}

/// The device that a handle names.
pub(crate) fn at(ordinal: usize) -> Outcome<&'static Device> {
    all().get(ordinal).ok_or(Status::INVALID_HANDLE)
}

impl Device {
    /// The state, for one caller at a time. A panic on another thread leaves it usable: what a failed test
    /// left is forgotten by a reset.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; a test may have asked that this one fails.
    pub(crate) fn count(&self, function: Function) -> Outcome {
        self.counts[function as usize].fetch_add(1, Ordering::Relaxed);
        let is_it = |failing: u64| failing >> 32 == function as u64 + 1;
        let next = |failing: u64| is_it(failing).then(|| if failing as u32 <= 1 { 0 } else { failing - 1 });
        match self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(before) if before as u32 <= 1 => Err(Status::UNKNOWN),
            _ => Ok(()),
        }
    }

    /// Makes the n-th call of a function from now fail, once; none where there is no such function.
    pub(crate) fn fail_call(&self, name: &str, nth: u32) {
        let number = NAMES.iter().position(|known| *known == name).map_or(0, |i| i as u64 + 1);
        let failing = if number == 0 { 0 } else { number << 32 | u64::from(nth) };
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// The functions that were called, and how often.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        NAMES.iter().copied().zip(counts).filter(|&(_, count)| count > 0)
    }

    /// Forgets the calls.
    pub(crate) fn reset_calls(&self) {
        for count in &self.counts {
            count.store(0, Ordering::Relaxed);
        }
    }
}
