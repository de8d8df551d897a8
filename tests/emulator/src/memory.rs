//! The allocations of a device. Device memory is memory of this process, and a device pointer its address.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::driver::code::{self, Code};
use crate::interface::{Allocation, Memory, Space};

/// Larger allocations are mapped without being touched and without a record of what was written, so that tests may
/// allocate more than the machine has.
const TRACKED: usize = 64 << 20;

/// Freed allocations that are kept, to tell a use after free from a wild access.
const QUARANTINE: usize = 64;

/// What fresh memory holds: NaN in every floating-point type.
const POISON: u8 = 0xff;

pub(crate) struct Table {
    live: BTreeMap<usize, Allocation>,
    freed: BTreeMap<usize, Allocation>,
    freed_order: VecDeque<usize>,
    bytes: u64,
    next: u64,
    pub(crate) limit: Option<u64>,
}

impl Default for Table {
    fn default() -> Self {
        let (live, freed, freed_order) = Default::default();
        Self { live, freed, freed_order, bytes: 0, next: 1, limit: None }
    }
}

impl Table {
    pub(crate) fn allocate(&mut self, len: usize, space: Space) -> Result<usize, Code> {
        if self.limit.is_some_and(|limit| self.bytes + len as u64 > limit) {
            return Err(code::OUT_OF_MEMORY);
        }
        // SAFETY: a fresh private mapping, of nobody else's addresses.
        let base = unsafe {
            let (protection, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            );
            libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(code::OUT_OF_MEMORY);
        }
        let tracked = len <= TRACKED;
        if tracked {
            // SAFETY: the mapping has this length.
            unsafe { base.cast::<u8>().write_bytes(POISON, len) };
        }
        let written =
            (tracked && space == Space::Device).then(|| (0..len).map(|_| AtomicU8::new(0)).collect());
        let allocation =
            Allocation { base: base as usize, len, space, number: self.next, freed: false, written };
        self.next += 1;
        self.bytes += len as u64;
        // The address may be one that was unmapped before.
        self.forget(base as usize, len);
        self.live.insert(base as usize, allocation);
        Ok(base as usize)
    }

    /// Drops what the quarantine knows of these addresses.
    fn forget(&mut self, base: usize, len: usize) {
        let overlapping: Vec<usize> = self.freed.range(..base + len).map(|(&b, _)| b).collect();
        for freed in overlapping {
            if freed + self.freed[&freed].len > base {
                self.freed.remove(&freed);
            }
        }
    }

    /// Frees the allocation that starts at `base`.
    pub(crate) fn free(&mut self, base: usize, space: Space) -> Result<(), String> {
        match self.live.get(&base) {
            None if self.freed.contains_key(&base) => {
                return Err(format!("double free of allocation {}", self.freed[&base].number));
            }
            None => return Err(format!("free of {base:#x}, which is not the start of an allocation")),
            Some(allocation) if allocation.space != space => {
                return Err(format!(
                    "allocation {} is freed by the function of another kind of memory",
                    allocation.number
                ));
            }
            Some(_) => {}
        }
        let mut allocation = self.live.remove(&base).expect("found above");
        self.bytes -= allocation.len as u64;
        allocation.freed = true;
        if allocation.len <= TRACKED {
            // SAFETY: still mapped.
            unsafe { (base as *mut u8).write_bytes(POISON, allocation.len) };
        } else {
            // SAFETY: gives the pages back; the addresses stay reserved until they leave the quarantine.
            unsafe { libc::madvise(base as *mut libc::c_void, allocation.len, libc::MADV_DONTNEED) };
        }
        self.freed.insert(base, allocation);
        self.freed_order.push_back(base);
        while self.freed_order.len() > QUARANTINE {
            let oldest = self.freed_order.pop_front().expect("not empty");
            if let Some(allocation) = self.freed.remove(&oldest) {
                unmap(&allocation);
            }
        }
        Ok(())
    }

    /// The live allocation that holds all of a range.
    pub(crate) fn range(&self, address: usize, len: usize) -> Result<&Allocation, String> {
        let found = self.live.range(..=address).next_back().map(|(_, allocation)| allocation);
        match found {
            Some(a) if address + len <= a.base + a.len => Ok(a),
            Some(a) if address < a.base + a.len => Err(format!(
                "{len} bytes from offset {} of allocation {}, which has {}",
                address - a.base,
                a.number,
                a.len
            )),
            _ => Err(format!("{len} bytes at {address:#x}, which is in no live allocation")),
        }
    }

    /// Whether an address is in pinned host memory.
    pub(crate) fn is_pinned(&self, address: usize) -> bool {
        self.range(address, 1).is_ok_and(|a| a.space == Space::Mapped)
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Allocation> {
        self.live.values()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Trusts everything that is there: the fast build keeps no record of what it writes.
    pub(crate) fn mark_all_written(&self) {
        for byte in self.live.values().flat_map(|a| a.written.iter()).flat_map(|w| w.iter()) {
            byte.store(1, Ordering::Relaxed);
        }
    }
}

impl Memory for Table {
    fn find(&self, address: usize) -> Option<&Allocation> {
        let before =
            |table: &'_ BTreeMap<usize, Allocation>| table.range(..=address).next_back().map(|(&b, _)| b);
        let nearest = before(&self.live).map(|base| &self.live[&base]);
        if nearest.is_some_and(|a| address < a.base + a.len) {
            return nearest;
        }
        let freed = before(&self.freed).map(|base| &self.freed[&base]);
        freed.filter(|a| address < a.base + a.len).or(nearest)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.live.values().chain(self.freed.values()).for_each(unmap);
    }
}

fn unmap(allocation: &Allocation) {
    // SAFETY: mapped with this length by `allocate`, and unmapped once.
    unsafe { libc::munmap(allocation.base as *mut libc::c_void, allocation.len) };
}
