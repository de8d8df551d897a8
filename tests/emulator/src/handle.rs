//! Opaque handles: each holds its device's ordinal, so that a handle alone leads to the device.

use crate::driver::code::{self, Code};

/// What a handle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Graph,
    GraphExec,
}

/// The number of a thing of one device, unique on it.
pub(crate) type Id = u32;

/// Packs kind, ordinal and id; never null.
pub(crate) fn pack(kind: Kind, ordinal: usize, id: Id) -> usize {
    (kind as usize) << 56 | (ordinal + 1) << 32 | id as usize
}

/// The ordinal and id of a handle of this kind.
pub(crate) fn unpack(kind: Kind, handle: usize) -> Result<(usize, Id), Code> {
    if handle >> 56 != kind as usize || (handle >> 32 & 0xff_ffff) == 0 {
        return Err(code::INVALID_HANDLE);
    }
    Ok(((handle >> 32 & 0xff_ffff) - 1, handle as Id))
}
