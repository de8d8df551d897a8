//! Asynchronous copies to shared memory (`cp.async`), which land when their thread waits for them and not
//! before. Until then their destination counts as unwritten: who reads it is reported, or finds what fresh
//! shared memory holds.

use super::access::{Access, READ, WRITE};
use super::failure::Failure;
use super::lane::Lane;
use super::{POISON, Running};
use crate::interface::FaultKind;

/// A copy that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    to: usize,
    from: usize,
    /// The bytes that become something, and how many of them are read: the others become 0.
    bytes: usize,
    read: usize,
    pc: usize,
}

impl Copy {
    pub(super) fn new(to: usize, from: usize, bytes: usize, read: usize, pc: usize) -> Self {
        Self { to, from, bytes, read, pc }
    }

    /// What it does to memory.
    fn accesses(self) -> impl Iterator<Item = Access> {
        let read = (self.read > 0).then(|| Access::new(self.from, self.read, READ, self.pc));
        read.into_iter().chain([Access::new(self.to, self.bytes, WRITE, self.pc)])
    }

    /// Why there is no such copy.
    fn mistake(self, running: &Running<'_>) -> Option<(FaultKind, String)> {
        let Self { to, from, bytes, read, .. } = self;
        if !matches!(bytes, 4 | 8 | 16) || read > bytes {
            let text = format!("an asynchronous copy of {read} bytes to {bytes}: it takes 4, 8 or 16");
            return Some((FaultKind::Undefined, text));
        }
        if let Some(address) = [to, from].into_iter().find(|address| !address.is_multiple_of(bytes)) {
            let text = format!("an asynchronous copy of {bytes} bytes at {address:#x}, no multiple of them");
            return Some((FaultKind::Misaligned, text));
        }
        let is_shared = running.shared.all.contains(&to);
        let text = || format!("an asynchronous copy to {to:#x}, which is no shared memory");
        (!is_shared).then(|| (FaultKind::OutOfBounds, text()))
    }
}

/// The copies of the threads of a block.
#[derive(Debug, Default)]
pub(super) struct Copies {
    threads: Vec<Thread>,
}

#[derive(Debug, Default)]
struct Thread {
    /// In order, each with the number of its group.
    under_way: Vec<(u32, Copy)>,
    /// The groups that are complete.
    groups: u32,
}

impl Copies {
    fn thread(&mut self, thread: u32) -> &mut Thread {
        let thread = thread as usize;
        if self.threads.len() <= thread {
            self.threads.resize_with(thread + 1, Thread::default);
        }
        &mut self.threads[thread]
    }

    /// Completes the group of the copies that a thread has begun since the last one.
    pub(super) fn commit(&mut self, thread: u32) {
        self.thread(thread).groups += 1;
    }

    /// Says of unwritten bytes that a copy to them is under way. One of another thread is a race: whether it
    /// has landed depends on the order of threads.
    pub(super) fn explain(&self, mut failure: Box<Failure>, thread: u32, access: Access) -> Box<Failure> {
        let threads = (0..).zip(&self.threads);
        let mut copies = threads.flat_map(|(of, its)| its.under_way.iter().map(move |&(_, copy)| (of, copy)));
        let Access { address, size, .. } = access;
        let is_there = |copy: &Copy| copy.to < address + size && address < copy.to + copy.bytes;
        if failure.kind == FaultKind::Uninitialised
            && let Some((of, _)) = copies.find(|(_, copy)| is_there(copy))
        {
            failure.event.what += " and to which a copy is under way,";
            if of != thread {
                failure.kind = FaultKind::Race;
            }
        }
        failure
    }

    /// Takes the copies of all complete groups but the last `left`.
    fn land(&mut self, thread: u32, left: u32) -> Vec<Copy> {
        let Thread { under_way, groups } = self.thread(thread);
        let end = groups.saturating_sub(left);
        let n_landed = under_way.iter().take_while(|(group, _)| *group < end).count();
        under_way.drain(..n_landed).map(|(_, copy)| copy).collect()
    }
}

impl Running<'_> {
    /// Begins a copy.
    pub(super) fn begin_copy(&self, lane: &Lane, copy: Copy) -> Result<(), Box<Failure>> {
        if let Some((kind, what)) = copy.mistake(self) {
            return Err(Failure::new(kind, lane.index(), self.entry.library.site(copy.pc as *const _), what));
        }
        // Both sides may be touched from now on, until it lands.
        copy.accesses().try_for_each(|access| self.check(lane.index(), access))?;
        if let Some(checks) = &self.checks {
            checks.forget(copy.to, copy.bytes);
        }
        // SAFETY: shared memory, as `mistake` has seen, which is aligned to more than the size.
        unsafe { (copy.to as *mut u8).write_bytes(POISON, copy.bytes) };
        let mut copies = self.copies.borrow_mut();
        let thread = copies.thread(lane.index());
        thread.under_way.push((thread.groups, copy));
        Ok(())
    }

    /// Whether a thread that ends has waited for its copies.
    pub(super) fn have_landed(&self, lane: &Lane) -> Result<(), Box<Failure>> {
        let mut copies = self.copies.borrow_mut();
        let Some(&(_, copy)) = copies.thread(lane.index()).under_way.first() else { return Ok(()) };
        let what = "the thread never waited for the asynchronous copy that it began";
        let site = self.entry.library.site(copy.pc as *const _);
        Err(Failure::new(FaultKind::Undefined, lane.index(), site, what))
    }

    /// Lands all copies of a thread but those of its last `left` groups.
    pub(super) fn land_copies(&self, lane: &Lane, left: u32) -> Result<(), Box<Failure>> {
        let landed = self.copies.borrow_mut().land(lane.index(), left);
        for copy in landed {
            copy.accesses().try_for_each(|access| self.check(lane.index(), access))?;
            let (to, from) = (copy.to as *mut u8, copy.from as *const u8);
            // SAFETY: shared memory, of which the copy has `bytes`. What it reads was checked in the checked
            // build, and is the kernel's own promise in the fast one, as for every load of it.
            unsafe {
                from.copy_to_nonoverlapping(to, copy.read);
                to.add(copy.read).write_bytes(0, copy.bytes - copy.read);
            }
        }
        Ok(())
    }
}
