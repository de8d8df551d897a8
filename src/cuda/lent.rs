//! Scratch memory that somebody else owns: another framework's allocator, say, which takes it back between
//! calls, or puts it into the pool of a CUDA graph.
//!
//! The parts of a call lie in it one behind the other, each as long as that very call needs it. So a call
//! with fewer instances does with less memory. Nothing is expected of what the memory holds.

#![allow(unsafe_code)]

use cudarc::driver::{result, sys};

use super::args::Address;
use super::driver::failed;
use super::scratch::{Sizes, Slot};
use crate::error::{Error, Result};
use crate::operator::Operator;

/// Where a part may begin: what the driver's own allocations are aligned to, so that kernels find each part
/// as they find memory that the crate owns.
pub(super) const ALIGNMENT: u64 = 256;

/// Memory that was lent to a workspace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) address: Address,
    pub(super) bytes: usize,
}

impl Region {
    /// # Errors
    /// [`Error::ScratchMisaligned`].
    pub(super) fn new(address: Address, bytes: usize) -> Result<Self> {
        match address.is_multiple_of(ALIGNMENT) {
            true => Ok(Self { address, bytes }),
            false => Err(Error::ScratchMisaligned { value: address, bound: ALIGNMENT }),
        }
    }
}

/// Where the slots of one call lie.
pub(super) struct Parts {
    sizes: Sizes,
    starts: [Address; Slot::COUNT],
    /// Which slots have to be zeros at first and are not yet, a bit each.
    to_clear: u32,
    stream: sys::CUstream,
}

impl Parts {
    /// The bytes that slots of these sizes take together.
    pub(super) fn bytes(sizes: &Sizes) -> u128 {
        Slot::ALL.iter().map(|&slot| rounded(sizes.of(slot))).sum()
    }

    /// Lays the slots of a call out in `region`. If instances are on several paths, what is read for all of
    /// them is cleared on `stream` before it is first used.
    ///
    /// # Errors
    /// [`Error::ScratchTooSmall`], and [`Error::NoScratch`] where there is none but some is needed.
    pub(super) fn new(
        sizes: Sizes,
        region: Option<Region>,
        operator: Operator,
        has_several_paths: bool,
        stream: sys::CUstream,
    ) -> Result<Self> {
        let (operator, bytes) = (operator.name(), Self::bytes(&sizes));
        let mut next = match region {
            Some(Region { bytes: value, .. }) if bytes > value as u128 => {
                return Err(Error::ScratchTooSmall { operator, value, bound: bytes });
            }
            None if bytes > 0 => return Err(Error::NoScratch { operator, bytes }),
            Some(region) => region.address,
            None => 0,
        };
        let mut starts = [0; Slot::COUNT];
        for &slot in Slot::ALL {
            starts[slot as usize] = next;
            // Together they are no more than the region, whose length is a `usize`. That its end is an
            // address, too, is the lender's promise.
            next = next.wrapping_add(rounded(sizes.of(slot)) as u64);
        }
        const { assert!(Slot::COUNT <= u32::BITS as usize, "a set of slots has a bit for each") };
        let to_clear = Slot::READ_FOR_ALL.iter().map(|&slot| 1 << slot as u32).sum();
        Ok(Self { sizes, starts, to_clear: if has_several_paths { to_clear } else { 0 }, stream })
    }

    /// Where `bytes` bytes for a slot are; `None` if the slot has fewer.
    #[inline]
    pub(super) fn get(&mut self, slot: Slot, bytes: u128) -> Result<Option<Address>> {
        let (start, size, bit) = (self.starts[slot as usize], self.sizes.of(slot), 1 << slot as u32);
        if bytes > size {
            return Ok(None);
        }
        if self.to_clear & bit != 0 && size > 0 {
            // SAFETY: the slot lies within memory that was lent for the call, and no kernel of the call has
            // been told where it is.
            unsafe { result::memset_d8_async(start, 0, size as usize, self.stream) }
                .map_err(|e| failed("clearing scratch memory", e))?;
            self.to_clear &= !bit;
        }
        Ok(Some(start))
    }
}

/// A slot's size, so that the next slot is aligned.
fn rounded(bytes: u128) -> u128 {
    bytes.next_multiple_of(ALIGNMENT as u128)
}
