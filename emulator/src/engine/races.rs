//! Races: two accesses to the same byte, one of them a plain write, that nothing orders.
//!
//! The last write and the last reads of every word are remembered in pages that are made when they are first
//! touched. A page keeps one cell for four bytes until a smaller access needs a finer one.

use std::collections::HashMap;

use super::access::Access;
use super::clock::View;

/// How much memory a page covers, as a power of two.
const PAGE_BITS: u32 = 12;
const PAGE_BYTES: usize = 1 << PAGE_BITS;

/// How many pages are found without a look into the table.
const RECENT: usize = 64;

/// The access was atomic (or volatile).
const ATOMIC: u16 = 1;
/// Several warps of the block have done the same in this phase.
const MANY_WARPS: u16 = 2;
/// Earlier blocks have done the same.
const OTHER_BLOCK: u16 = 4;

/// The last write; none where the stamp is 0.
#[derive(Clone, Copy, Default)]
struct Write {
    stamp: u32,
    pc: u32,
    thread: u16,
    flags: u16,
}

/// The last plain reads, of one warp.
#[derive(Clone, Copy, Default)]
struct Reads {
    stamp: u32,
    pc: u32,
    lanes: u32,
    warp: u16,
    flags: u16,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Write,
    reads: Reads,
}

/// What an access conflicts with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conflict {
    pub(super) what: &'static str,
    pub(super) pc: u32,
    pub(super) stamp: u32,
    pub(super) thread: u32,
}

struct Page {
    /// How many bytes a cell stands for, as a power of two.
    cell_bits: u32,
    cells: Vec<Cell>,
}

impl Page {
    fn new(cell_bits: u32) -> Self {
        Self { cell_bits, cells: vec![Cell::default(); PAGE_BYTES >> cell_bits] }
    }

    /// Splits the cells, so that one stands for `1 << cell_bits` bytes.
    fn refine(&mut self, cell_bits: u32) {
        let copies = 1 << (self.cell_bits - cell_bits);
        self.cells = self.cells.iter().flat_map(|&cell| std::iter::repeat_n(cell, copies)).collect();
        self.cell_bits = cell_bits;
    }
}

/// The history of the accesses of a launch.
pub(super) struct Races {
    pages: Vec<Page>,
    index: HashMap<usize, u32>,
    /// Page numbers and places of pages, by the last bits of the number.
    recent: [(usize, u32); RECENT],
}

impl Races {
    pub(super) fn new() -> Self {
        Self { pages: Vec::new(), index: HashMap::new(), recent: [(usize::MAX, 0); RECENT] }
    }

    /// Notes an access; `shared` where the bytes are the running block's own.
    pub(super) fn access(
        &mut self,
        view: &View<'_>,
        access: Access,
        pc: u32,
        shared: bool,
    ) -> Option<Conflict> {
        let end = access.address + access.size;
        let mut start = access.address;
        while start < end {
            let stop = end.min((start | (PAGE_BYTES - 1)) + 1);
            let fineness = (start | stop).trailing_zeros().min(2);
            let page = self.page(start >> PAGE_BITS, fineness);
            let offset = start % PAGE_BYTES;
            let (first, last) = (offset >> page.cell_bits, (offset + (stop - start) - 1) >> page.cell_bits);
            for cell in &mut page.cells[first..=last] {
                if let Some(conflict) = cell.access(view, access, pc, shared) {
                    return Some(conflict);
                }
            }
            start = stop;
        }
        None
    }

    /// A page, with cells of at most `1 << fineness` bytes.
    fn page(&mut self, number: usize, fineness: u32) -> &mut Page {
        let recent = &mut self.recent[number % RECENT];
        if recent.0 != number {
            let pages = &mut self.pages;
            let place = *self.index.entry(number).or_insert_with(|| {
                pages.push(Page::new(fineness));
                pages.len() as u32 - 1
            });
            *recent = (number, place);
        }
        let page = &mut self.pages[recent.1 as usize];
        if page.cell_bits > fineness {
            page.refine(fineness);
        }
        page
    }
}

impl Cell {
    fn access(&mut self, view: &View<'_>, access: Access, pc: u32, shared: bool) -> Option<Conflict> {
        if shared {
            // What an earlier block left there is not this block's shared memory.
            if view.other_block(self.write.stamp) {
                self.write = Write::default();
            }
            if view.other_block(self.reads.stamp) {
                self.reads = Reads::default();
            }
        }
        let conflict = self.write.conflict(view, access.atomic);
        if conflict.is_some() {
            return conflict;
        }
        if !access.write && !access.atomic {
            self.reads.add(view, pc);
            return None;
        }
        let conflict = self.reads.conflict(view);
        if conflict.is_some() {
            return conflict;
        }
        // A volatile read is not remembered: it is no race with atomics, and with a plain write it was one
        // above or will be one if the kernel also writes in this way.
        if access.write {
            self.write = self.write.followed_by(view, access.atomic, pc);
            self.reads = Reads::default();
        }
        None
    }
}

impl Write {
    fn conflict(&self, view: &View<'_>, atomic: bool) -> Option<Conflict> {
        let both_atomic = atomic && self.flags & ATOMIC != 0;
        if self.stamp == 0 || both_atomic {
            return None;
        }
        let races = view.other_block(self.stamp)
            || self.flags & OTHER_BLOCK != 0
            || view.this_phase(self.stamp)
                && (self.flags & MANY_WARPS != 0 || !view.knows(self.thread.into(), self.stamp));
        let what = if self.flags & ATOMIC != 0 { "an atomic access" } else { "a write" };
        races.then_some(Conflict { what, pc: self.pc, stamp: self.stamp, thread: self.thread.into() })
    }

    /// The record after a write that does not conflict with this one.
    fn followed_by(&self, view: &View<'_>, atomic: bool, pc: u32) -> Self {
        let mut flags = 0;
        if atomic {
            flags |= ATOMIC;
            if self.flags & ATOMIC != 0 {
                if view.other_block(self.stamp) {
                    flags |= OTHER_BLOCK;
                } else if view.this_phase(self.stamp) && u32::from(self.thread) / 32 != view.warp() {
                    flags |= MANY_WARPS;
                }
                if view.this_phase(self.stamp) {
                    flags |= self.flags & MANY_WARPS;
                }
                flags |= self.flags & OTHER_BLOCK;
            }
        }
        Self { stamp: view.now, pc, thread: view.thread as u16, flags }
    }
}

impl Reads {
    /// With a write that comes now.
    fn conflict(&self, view: &View<'_>) -> Option<Conflict> {
        if self.stamp == 0 {
            return None;
        }
        let conflict = |lanes: u32| Conflict {
            what: "a read",
            pc: self.pc,
            stamp: self.stamp,
            thread: u32::from(self.warp) * 32 + lanes.trailing_zeros(),
        };
        if view.other_block(self.stamp) || self.flags & OTHER_BLOCK != 0 {
            return Some(conflict(self.lanes));
        }
        if !view.this_phase(self.stamp) {
            return None;
        }
        let unknown = self.unknown(view);
        (self.flags & MANY_WARPS != 0 || unknown != 0)
            .then(|| conflict(if unknown != 0 { unknown } else { self.lanes }))
    }

    /// The lanes whose reads did not come before what the thread does now.
    fn unknown(&self, view: &View<'_>) -> u32 {
        let first = u32::from(self.warp) * 32;
        super::warp::lanes(self.lanes)
            .filter(|lane| !view.knows(first + lane, self.stamp))
            .fold(0, |mask, lane| mask | 1 << lane)
    }

    fn add(&mut self, view: &View<'_>, pc: u32) {
        let lane = 1 << (view.thread % 32);
        let warp = view.warp() as u16;
        if self.stamp != 0 && view.this_phase(self.stamp) {
            if self.warp != warp {
                self.flags |= MANY_WARPS;
                return;
            }
            if self.stamp == view.now {
                self.lanes |= lane;
                return;
            }
            // Reads that came before this one are covered by it. The others keep the older stamp, which may
            // hide a race but never invents one.
            self.lanes = self.unknown(view) & !lane;
            let stamp = if self.lanes == 0 { view.now } else { self.stamp };
            *self = Self { stamp, pc, lanes: self.lanes | lane, ..*self };
            return;
        }
        let earlier = self.stamp != 0 && (view.other_block(self.stamp) || self.flags & OTHER_BLOCK != 0);
        let flags = if earlier { OTHER_BLOCK } else { 0 };
        *self = Self { stamp: view.now, pc, lanes: lane, warp, flags };
    }
}

#[cfg(test)]
mod tests;
