//! The memory of a device: host memory, with a table that knows the bounds and the life of each allocation.

use std::alloc::{self, Layout};
use std::collections::{BTreeMap, VecDeque};
use std::iter;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::interface::{Allocation, Memory, Space};

/// Larger allocations are mapped lazily, neither poisoned nor tracked, so that a test may have a tensor of
/// more elements than 32 bits count and touch a few of them.
const LAZY_BYTES: usize = 64 << 20;

/// What fresh and freed memory holds: NaN in every floating-point type.
const POISON: u8 = 0xff;

/// How many freed allocations, and bytes of them, are kept. While an address is not given again, a use after
/// free cannot be taken for a use of the next allocation.
const QUARANTINE_ALLOCATIONS: usize = 1024;
const QUARANTINE_BYTES: usize = 64 << 20;

/// The alignment that CUDA promises for device memory.
const DEVICE_ALIGN: usize = 256;

/// Pinned host memory consists of pages.
const PAGE: usize = 4096;

/// The allocations of a device, pinned host memory included.
#[derive(Default)]
pub(crate) struct Heap {
    /// By first address; the freed ones that are still kept too.
    blocks: BTreeMap<usize, Block>,
    /// The freed ones, oldest first.
    quarantine: VecDeque<usize>,
    quarantine_bytes: usize,
    allocated: u64,
    live_device_bytes: u64,
}

struct Block {
    allocation: Allocation,
    /// Whether a stream will free it, so that nothing new may use it.
    freeing: bool,
    backing: Backing,
}

/// Owns the bytes.
enum Backing {
    Heap { base: *mut u8, layout: Layout },
    Lazy { base: *mut u8, len: usize },
}

// SAFETY: it is the only owner of the bytes.
unsafe impl Send for Backing {}

impl Backing {
    fn new(len: usize, align: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len, align).ok()?;
        if len <= LAZY_BYTES {
            // SAFETY: the caller asks for at least one byte.
            let base = unsafe { alloc::alloc(layout) };
            if base.is_null() {
                return None;
            }
            // SAFETY: these are the bytes just allocated.
            unsafe { base.write_bytes(POISON, len) };
            return Some(Self::Heap { base, layout });
        }
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping, wherever the system wants it.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
        (base != libc::MAP_FAILED).then_some(Self::Lazy { base: base.cast(), len })
    }

    fn base(&self) -> *mut u8 {
        match self {
            Self::Heap { base, .. } | Self::Lazy { base, .. } => *base,
        }
    }

    /// Takes the contents away and keeps the addresses. Returns how many bytes it still costs.
    fn retire(&self) -> usize {
        match self {
            Self::Heap { base, layout } => {
                // SAFETY: the bytes are owned; nobody else may use them any more.
                unsafe { base.write_bytes(POISON, layout.size()) };
                layout.size()
            }
            Self::Lazy { base, len } => {
                // SAFETY: the pages are owned; they read as zeros afterwards.
                unsafe { libc::madvise(base.cast(), *len, libc::MADV_DONTNEED) };
                0
            }
        }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        match self {
            // SAFETY: allocated with this layout, and not yet freed.
            Self::Heap { base, layout } => unsafe { alloc::dealloc(*base, *layout) },
            Self::Lazy { base, len } => {
                // SAFETY: mapped with this length, and not yet unmapped.
                unsafe { libc::munmap(base.cast(), *len) };
            }
        }
    }
}

/// Zeros without touching their pages.
fn untouched_flags(len: usize) -> Box<[AtomicU8]> {
    let flags = Box::into_raw(vec![0u8; len].into_boxed_slice());
    // SAFETY: `AtomicU8` has the layout of `u8`, and the box was just taken apart.
    unsafe { Box::from_raw(flags as *mut [AtomicU8]) }
}

impl Heap {
    /// Allocates at least one byte. `None` where the host has no memory.
    pub(crate) fn allocate(&mut self, len: usize, space: Space) -> Option<usize> {
        let align = if space == Space::Device { DEVICE_ALIGN } else { PAGE };
        let backing = Backing::new(len, align)?;
        let base = backing.base() as usize;
        let tracked = space == Space::Device && len <= LAZY_BYTES;
        let written = tracked.then(|| untouched_flags(len));
        self.allocated += 1;
        let allocation = Allocation { base, len, space, number: self.allocated, freed: false, written };
        if space == Space::Device {
            self.live_device_bytes += len as u64;
        }
        self.blocks.insert(base, Block { allocation, freeing: false, backing });
        Some(base)
    }

    /// How many bytes of device memory are allocated.
    pub(crate) fn live_device_bytes(&self) -> u64 {
        self.live_device_bytes
    }

    /// The live allocations that no stream will free.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Allocation> {
        self.blocks.values().filter(|b| !b.allocation.freed && !b.freeing).map(|b| &b.allocation)
    }

    /// Announces that a stream will free an allocation.
    ///
    /// # Errors
    /// Why there is nothing to free.
    pub(crate) fn begin_free(&mut self, base: usize, space: Space) -> Result<(), String> {
        self.freeable(base, space)?;
        if let Some(block) = self.blocks.get_mut(&base) {
            block.freeing = true;
        }
        Ok(())
    }

    /// Frees what was announced.
    pub(crate) fn finish_free(&mut self, base: usize) {
        let Some(block) = self.blocks.get_mut(&base) else { return };
        let allocation = &mut block.allocation;
        allocation.freed = true;
        allocation.written = None;
        if allocation.space == Space::Device {
            self.live_device_bytes -= allocation.len as u64;
        }
        self.quarantine.push_back(base);
        self.quarantine_bytes += block.backing.retire();
        while self.quarantine.len() > QUARANTINE_ALLOCATIONS || self.quarantine_bytes > QUARANTINE_BYTES {
            let Some(oldest) = self.quarantine.pop_front() else { break };
            if let Some(Backing::Heap { layout, .. }) =
                self.blocks.remove(&oldest).map(|b| b.backing).as_ref()
            {
                self.quarantine_bytes -= layout.size();
            }
        }
    }

    fn freeable(&self, base: usize, space: Space) -> Result<(), String> {
        match self.blocks.get(&base) {
            Some(Block { allocation, freeing, .. }) if allocation.space == space => {
                if allocation.freed || *freeing {
                    return Err(format!("double free of {}", describe(allocation)));
                }
                Ok(())
            }
            _ => Err(format!("free of {}", self.place(base))),
        }
    }

    /// Whether a new operation may use the bytes: they belong to one live allocation, and no stream will free
    /// it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn usable(&self, address: usize, len: usize) -> Result<(), String> {
        let allocation = self.present(address, len)?;
        match allocation.is_some_and(|a| self.blocks[&a.base].freeing) {
            true => Err(format!("{} is used after the call that frees it", self.place(address))),
            false => Ok(()),
        }
    }

    /// Why no new operation may be given this address: it lies in an allocation that has been freed, or will
    /// be.
    pub(crate) fn dangling(&self, address: usize) -> Option<String> {
        let (_, block) = self.blocks.range(..=address).next_back()?;
        (contains(&block.allocation, address) && (block.freeing || block.allocation.freed))
            .then(|| "is used after the call that frees it".to_owned())
    }

    /// The live allocation that has all of the bytes; `None` for no bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn present(&self, address: usize, len: usize) -> Result<Option<&Allocation>, String> {
        if len == 0 {
            return Ok(None);
        }
        match self.find(address) {
            Some(a) if !a.freed && contains(a, address) && len <= a.base + a.len - address => Ok(Some(a)),
            _ => Err(format!("{len} bytes at {}", self.place(address))),
        }
    }

    /// Whether the bytes are pinned host memory.
    pub(crate) fn is_pinned(&self, address: usize, len: usize) -> bool {
        matches!(self.present(address, len), Ok(Some(a)) if a.space == Space::Mapped)
    }

    /// What lies at an address, for messages.
    pub(crate) fn place(&self, address: usize) -> String {
        match self.find(address) {
            Some(a) if contains(a, address) => {
                let freed = if a.freed { ", which has been freed" } else { "" };
                format!("{address:#x} (byte {} of {}{freed})", address - a.base, describe(a))
            }
            Some(a) => {
                format!("{address:#x} ({} bytes behind the end of {})", address - a.base - a.len, describe(a))
            }
            None => format!("{address:#x} (no allocation of this device)"),
        }
    }

    /// Fills bytes with copies of a pattern.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub(crate) fn fill(&self, to: usize, pattern: &[u8], count: usize) -> Result<(), String> {
        let len = pattern.len() * count;
        let Some(target) = self.present(to, len)? else { return Ok(()) };
        if let &[byte] = pattern {
            // SAFETY: `present` says that the bytes are live; only operations of this device write to them.
            unsafe { (to as *mut u8).write_bytes(byte, len) };
        } else {
            for i in 0..count {
                let to = (to + i * pattern.len()) as *mut u8;
                // SAFETY: as above.
                unsafe { to.copy_from_nonoverlapping(pattern.as_ptr(), pattern.len()) };
            }
        }
        target.mark_written(to - target.base, len);
        Ok(())
    }

    /// Copies bytes from outside.
    ///
    /// # Errors
    /// What is wrong with the target.
    pub(crate) fn write(&self, to: usize, bytes: &[u8]) -> Result<(), String> {
        let Some(target) = self.present(to, bytes.len())? else { return Ok(()) };
        // SAFETY: `present` says that the bytes are live; the source is a separate object.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        target.mark_written(to - target.base, bytes.len());
        Ok(())
    }

    /// Copies bytes to memory that the table does not know.
    ///
    /// # Errors
    /// What is wrong with the source.
    ///
    /// # Safety
    /// `to` has room for `len` bytes.
    pub(crate) unsafe fn read(&self, from: usize, to: *mut u8, len: usize) -> Result<(), String> {
        if self.present(from, len)?.is_some() {
            // SAFETY: `present` says that the source is live; the caller answers for the target.
            unsafe { to.copy_from(from as *const u8, len) };
        }
        Ok(())
    }

    /// Copies bytes between allocations, and with them whether they have been written.
    ///
    /// # Errors
    /// What is wrong with either side.
    pub(crate) fn copy(&self, from: usize, to: usize, len: usize) -> Result<(), String> {
        let (Some(source), Some(target)) = (self.present(from, len)?, self.present(to, len)?) else {
            return Ok(());
        };
        // SAFETY: `present` says that both are live.
        unsafe { (to as *mut u8).copy_from(from as *const u8, len) };
        let offset = to - target.base;
        match (&source.written, &target.written) {
            (Some(source_flags), Some(target_flags)) => {
                let start = from - source.base;
                let flags: Vec<u8> = source_flags[start..start + len]
                    .iter()
                    .map(|flag| flag.load(Ordering::Relaxed))
                    .collect();
                for (to, flag) in target_flags[offset..].iter().zip(flags) {
                    to.store(flag, Ordering::Relaxed);
                }
            }
            _ => target.mark_written(offset, len),
        }
        Ok(())
    }
}

fn contains(allocation: &Allocation, address: usize) -> bool {
    (allocation.base..allocation.base + allocation.len).contains(&address)
}

/// An allocation in words.
pub(crate) fn describe(allocation: &Allocation) -> String {
    let space = if allocation.space == Space::Device { "device" } else { "pinned host" };
    format!("allocation {} ({} bytes of {space} memory)", allocation.number, allocation.len)
}

impl Memory for Heap {
    fn find(&self, address: usize) -> Option<&Allocation> {
        let mut before = self.blocks.range(..=address).rev().map(|(_, block)| &block.allocation);
        let nearest = before.next()?;
        if contains(nearest, address) {
            return Some(nearest);
        }
        iter::once(nearest).chain(before).find(|a| !a.freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_its_allocation_and_else_behind_the_nearest_live_one() {
        let mut heap = Heap::default();
        assert!(heap.find(0x1000).is_none());
        let bases: Vec<usize> = (0..100).map(|_| heap.allocate(10, Space::Device).unwrap()).collect();
        for (number, &base) in (1..).zip(&bases) {
            assert_eq!(heap.find(base + 9).unwrap().number, number);
            assert_eq!(heap.find(base + 10).unwrap().number, number, "one behind the end");
        }
        let mut sorted = bases.clone();
        sorted.sort_unstable();
        heap.begin_free(sorted[50], Space::Device).unwrap();
        heap.finish_free(sorted[50]);
        assert!(heap.find(sorted[50] + 9).unwrap().freed);
        assert_eq!(heap.find(sorted[50] + 10).unwrap().base, sorted[49]);
    }

    #[test]
    fn freed_memory_is_kept_for_a_while_and_not_for_ever() {
        let mut heap = Heap::default();
        let mut free_one = |len| {
            let base = heap.allocate(len, Space::Device).unwrap();
            heap.begin_free(base, Space::Device).unwrap();
            heap.finish_free(base);
            (base, heap.blocks.len(), heap.quarantine_bytes)
        };
        let mut bases: Vec<usize> = (0..QUARANTINE_ALLOCATIONS).map(|_| free_one(1).0).collect();
        bases.sort_unstable();
        bases.dedup();
        assert_eq!(bases.len(), QUARANTINE_ALLOCATIONS, "no address was given twice");
        assert_eq!(free_one(1).1, QUARANTINE_ALLOCATIONS);
        let (_, blocks, bytes) = free_one(QUARANTINE_BYTES);
        assert_eq!((blocks, bytes), (1, QUARANTINE_BYTES));
        assert_eq!(heap.live_device_bytes(), 0);
    }

    #[test]
    fn a_copy_takes_along_what_has_been_written() {
        let mut heap = Heap::default();
        let from = heap.allocate(8, Space::Device).unwrap();
        let to = heap.allocate(8, Space::Device).unwrap();
        heap.write(from + 2, &[1, 2]).unwrap();
        heap.copy(from, to + 1, 4).unwrap();
        let target = heap.find(to).unwrap();
        let unwritten: Vec<usize> = (0..8).filter(|&i| target.first_unwritten(i, 1).is_some()).collect();
        assert_eq!(unwritten, [0, 1, 2, 5, 6, 7]);
    }

    #[test]
    fn ranges_have_to_lie_in_one_live_allocation() {
        let mut heap = Heap::default();
        let base = heap.allocate(8, Space::Device).unwrap();
        assert!(heap.usable(base, 8).is_ok() && heap.usable(base + 8, 0).is_ok());
        assert!(heap.usable(base, 9).is_err() && heap.usable(base + 8, 1).is_err());
        assert!(heap.usable(base, usize::MAX).is_err());
        heap.begin_free(base, Space::Device).unwrap();
        assert!(heap.usable(base, 8).is_err(), "a stream will free it");
        assert!(heap.present(base, 8).is_ok(), "it has not yet");
        heap.finish_free(base);
        assert!(heap.present(base, 8).is_err());
    }
}
