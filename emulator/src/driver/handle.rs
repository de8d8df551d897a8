//! The opaque pointers that the driver gives out. They point to nothing: each names an object of a device by
//! a number that is never given twice, so that a stale one is an error instead of a crash.

use super::status::{Outcome, Status};

/// What a handle names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Graph,
    Executable,
    Node,
}

/// A handle, as it crosses the C interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Handle(pub(crate) usize);

const KIND_BITS: u32 = 4;
const DEVICE_BITS: u32 = 12;

impl Handle {
    /// No object.
    pub(crate) const NULL: Self = Self(0);

    /// The handle of an object.
    pub(crate) fn new(kind: Kind, device: usize, serial: u64) -> Self {
        Self(((serial as usize) << DEVICE_BITS | device) << KIND_BITS | kind as usize)
    }

    /// The device and the number of the object.
    ///
    /// # Errors
    /// `INVALID_HANDLE` where it names something else.
    pub(crate) fn open(self, kind: Kind) -> Outcome<(usize, u64)> {
        if self.0 & ((1 << KIND_BITS) - 1) != kind as usize {
            return Err(Status::INVALID_HANDLE);
        }
        let rest = self.0 >> KIND_BITS;
        Ok((rest & ((1 << DEVICE_BITS) - 1), (rest >> DEVICE_BITS) as u64))
    }
}
