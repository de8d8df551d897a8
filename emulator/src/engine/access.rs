//! The checks of one load or store: does it lie in memory that the kernel may touch, is it aligned, were the
//! bytes written, and does another thread touch them without order.

use std::cell::{Cell, RefCell};

use super::failure::{Event, Failure, Site};
use super::library::{Library, SharedRanges};
use super::races::{Conflict, Races};
use super::scheduler::Scheduler;
use crate::interface::{Allocation, FaultKind, Memory, Space};

/// Kinds of accesses, as in `shim/bridge.h`.
pub(super) const READ: u32 = 1;
pub(super) const WRITE: u32 = 2;

/// A load or store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub(super) address: usize,
    pub(super) size: usize,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) atomic: bool,
    /// Whether the address must be a multiple of the size.
    aligned: bool,
    pc: usize,
}

impl Access {
    /// `kind` as in `shim/bridge.h`.
    pub(super) fn new(address: usize, size: usize, kind: u32, pc: usize) -> Self {
        let has = |flag| kind & flag != 0;
        Self { address, size, read: has(READ), write: has(WRITE), atomic: has(4), aligned: !has(8), pc }
    }

    fn name(&self) -> String {
        let verb = match (self.read, self.write, self.atomic) {
            (true, true, _) => "an atomic access to",
            (_, true, false) => "a write of",
            (_, true, true) => "an atomic write of",
            (_, false, false) => "a read of",
            (_, false, true) => "an atomic read of",
        };
        format!("{verb} {} bytes", self.size)
    }
}

/// How many allocations are found without a question to the device's memory.
const RECENT: usize = 4;

/// What the checked build knows of the memory, during one launch.
pub(super) struct Checks<'a> {
    memory: &'a dyn Memory,
    library: &'a Library,
    shared: SharedRanges,
    /// How much of the dynamic shared memory the launch has.
    dynamic_bytes: usize,
    /// For each byte of shared memory, whether the block has written it.
    shared_written: RefCell<Vec<bool>>,
    recent: [Cell<Option<&'a Allocation>>; RECENT],
    replace: Cell<usize>,
    races: Option<RefCell<Races>>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(
        memory: &'a dyn Memory,
        library: &'a Library,
        shared: SharedRanges,
        dynamic_bytes: usize,
        detect_races: bool,
    ) -> Self {
        let shared_written = RefCell::new(vec![false; shared.all.len()]);
        Self {
            memory,
            library,
            shared,
            dynamic_bytes,
            shared_written,
            recent: Default::default(),
            replace: Cell::new(0),
            races: detect_races.then(|| RefCell::new(Races::new())),
        }
    }

    /// Begins a block, which finds its shared memory unwritten.
    pub(super) fn begin_block(&self) {
        let mut written = self.shared_written.borrow_mut();
        let start = self.shared.all.start;
        let dynamic = self.shared.dynamic.start - start;
        // The unused part of the dynamic shared memory is large, and never written.
        written[..dynamic].fill(false);
        written[dynamic..dynamic + self.dynamic_bytes].fill(false);
        written[self.shared.dynamic.end - start..].fill(false);
    }

    /// Makes bytes of shared memory unwritten.
    pub(super) fn forget(&self, address: usize, size: usize) {
        let offset = address - self.shared.all.start;
        self.shared_written.borrow_mut()[offset..offset + size].fill(false);
    }

    /// Checks an access of a thread and notes it.
    pub(super) fn access(
        &self,
        scheduler: &Scheduler,
        thread: u32,
        access: Access,
    ) -> Result<(), Box<Failure>> {
        let shared = self.shared.all.contains(&access.address);
        let allowed = if shared { self.in_shared(access) } else { self.in_global(access) };
        let Err(found) = allowed.and_then(|()| self.in_order(scheduler, thread, access, shared)) else {
            return Ok(());
        };
        Err(self.report(scheduler, thread, access, found))
    }

    fn in_shared(&self, access: Access) -> Result<(), Found<'a>> {
        let Access { address, size, .. } = access;
        if access.aligned && !address.is_multiple_of(size) {
            return Err(Found::Misaligned);
        }
        let end = address + size;
        if self.shared.dynamic.contains(&address) && end > self.shared.dynamic.start + self.dynamic_bytes {
            return Err(Found::BehindDynamic(address - self.shared.dynamic.start));
        }
        if end > self.shared.all.end {
            return Err(Found::BehindShared);
        }
        let offset = address - self.shared.all.start;
        let written = &mut self.shared_written.borrow_mut()[offset..offset + size];
        if access.read && !written.iter().all(|&w| w) {
            return Err(Found::UnwrittenShared);
        }
        if access.write {
            written.fill(true);
        }
        Ok(())
    }

    fn in_global(&self, access: Access) -> Result<(), Found<'a>> {
        // Constants and global variables of the kernel file are not tracked.
        if self.library.contains(access.address) {
            return Ok(());
        }
        let Some(allocation) = self.allocation(access.address) else { return Err(Found::Nowhere) };
        let offset = access.address.wrapping_sub(allocation.base);
        if offset > allocation.len || access.size > allocation.len - offset {
            return Err(Found::Outside(allocation));
        }
        if allocation.freed {
            return Err(Found::Freed(allocation));
        }
        if access.aligned && !access.address.is_multiple_of(access.size) {
            return Err(Found::Misaligned);
        }
        if access.read
            && let Some(unwritten) = allocation.first_unwritten(offset, access.size)
        {
            return Err(Found::Unwritten(allocation, unwritten));
        }
        if access.write {
            allocation.mark_written(offset, access.size);
        }
        Ok(())
    }

    /// The allocation that contains an address, or one near it.
    fn allocation(&self, address: usize) -> Option<&'a Allocation> {
        let contains = |a: &Allocation| address.wrapping_sub(a.base) < a.len && !a.freed;
        if let Some(known) = self.recent.iter().filter_map(Cell::get).find(|a| contains(a)) {
            return Some(known);
        }
        let found = self.memory.find(address)?;
        if contains(found) {
            let place = self.replace.get();
            self.recent[place].set(Some(found));
            self.replace.set((place + 1) % RECENT);
        }
        Some(found)
    }

    fn in_order(
        &self,
        scheduler: &Scheduler,
        thread: u32,
        access: Access,
        shared: bool,
    ) -> Result<(), Found<'a>> {
        let Some(races) = &self.races else { return Ok(()) };
        let view = scheduler.clock.view(thread);
        let Site::Code(pc) = self.site(access) else { return Ok(()) };
        races
            .borrow_mut()
            .access(&view, access, pc, shared)
            .map_or(Ok(()), |conflict| Err(Found::Race(conflict)))
    }

    /// Where in shared memory an address lies.
    fn in_shared_words(&self, address: usize) -> String {
        if self.shared.dynamic.contains(&address) {
            format!(", byte {} of the dynamic shared memory", address - self.shared.dynamic.start)
        } else {
            " of static shared memory".into()
        }
    }

    fn site(&self, access: Access) -> Site {
        self.library.site(access.pc as *const _)
    }

    fn report(&self, scheduler: &Scheduler, thread: u32, access: Access, found: Found<'_>) -> Box<Failure> {
        let (kind, details) = self.details(access, &found);
        let what = format!("{} at {:#x}{details}", access.name(), access.address);
        let failure = Failure::new(kind, thread, self.site(access), what);
        let Found::Race(conflict) = found else { return failure };
        let mut failure = failure;
        failure.others.push(Event {
            what: format!("unordered with {}", conflict.what),
            site: Site::Code(conflict.pc),
            block: Some(scheduler.clock.block_at(conflict.stamp)),
            thread: Some(conflict.thread),
        });
        failure
    }

    /// The kind of a fault, and the part of its text behind the address.
    fn details(&self, access: Access, found: &Found<'_>) -> (FaultKind, String) {
        match *found {
            Found::Misaligned => {
                (FaultKind::Misaligned, format!(", which is not a multiple of {},", access.size))
            }
            Found::BehindDynamic(offset) => (
                FaultKind::OutOfBounds,
                format!(
                    ", byte {offset} of the dynamic shared memory, of which the launch has {} bytes,",
                    self.dynamic_bytes
                ),
            ),
            Found::BehindShared => (FaultKind::OutOfBounds, ", behind the shared memory,".into()),
            Found::UnwrittenShared => (
                FaultKind::Uninitialised,
                format!("{}, which the block has not written,", self.in_shared_words(access.address)),
            ),
            Found::Nowhere => (FaultKind::OutOfBounds, ", where there is no allocation,".into()),
            Found::Outside(allocation) => (FaultKind::OutOfBounds, near(access, allocation)),
            Found::Freed(allocation) => (
                FaultKind::UseAfterFree,
                format!(
                    ", byte {} of {}, which has been freed,",
                    access.address - allocation.base,
                    name(allocation)
                ),
            ),
            Found::Unwritten(allocation, unwritten) => (
                FaultKind::Uninitialised,
                format!(", byte {unwritten} of {}, which was never written,", name(allocation)),
            ),
            Found::Race(_) => match self.allocation(access.address) {
                Some(a) if !self.shared.all.contains(&access.address) => (
                    FaultKind::Race,
                    format!(", byte {} of {},", access.address.wrapping_sub(a.base), name(a)),
                ),
                _ => (FaultKind::Race, format!("{},", self.in_shared_words(access.address))),
            },
        }
    }
}

/// What is wrong with an access.
enum Found<'a> {
    Misaligned,
    /// So many bytes from the start of the dynamic shared memory.
    BehindDynamic(usize),
    BehindShared,
    UnwrittenShared,
    Nowhere,
    Outside(&'a Allocation),
    Freed(&'a Allocation),
    Unwritten(&'a Allocation, usize),
    Race(Conflict),
}

fn name(allocation: &Allocation) -> String {
    let space = if allocation.space == Space::Mapped { "mapped allocation" } else { "allocation" };
    format!("{space} {} ({} bytes)", allocation.number, allocation.len)
}

/// Where an access lies that is not, or not with all its bytes, in an allocation.
fn near(access: Access, allocation: &Allocation) -> String {
    let (start, end) = (allocation.base, allocation.base + allocation.len);
    let name = name(allocation);
    if access.address >= end {
        format!(", {} bytes behind the end of {name},", access.address - end)
    } else if access.address < start {
        format!(", {} bytes before the start of {name},", start - access.address)
    } else {
        format!(", byte {} of {name}, whose end it crosses,", access.address - start)
    }
}
