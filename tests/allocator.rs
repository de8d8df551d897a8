//! The allocator of the tests: it counts what each thread allocates, and refuses what a test says.

#![cfg_attr(not(target_os = "linux"), allow(dead_code))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    /// The large allocations that are still made before one is refused.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The allocations that this thread has made.
pub fn allocations() -> usize {
    ALLOCATIONS.get()
}

/// What is smaller does not count as large: the tables of small inputs are larger.
const LARGE: usize = 1 << 10;

/// What `f` gives if one of this thread's large allocations in it is refused, that behind the first `n`; and
/// whether there was one.
pub fn refusing<T>(n: usize, f: impl FnOnce() -> T) -> (T, bool) {
    LEFT.set(Some(n));
    let result = f();
    (result, LEFT.take().is_none())
}

/// Whether this allocation is the one.
fn refuses(left: &Cell<Option<usize>>, layout: Layout) -> bool {
    match left.get() {
        Some(n) if layout.size() >= LARGE => {
            left.set(n.checked_sub(1));
            n == 0
        }
        _ => false,
    }
}

struct Allocator;

// SAFETY: hands everything on to the system's allocator, or has no memory.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is being torn down has no counter any more, and is not measured.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        if LEFT.try_with(|left| refuses(left, layout)) == Ok(true) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;
