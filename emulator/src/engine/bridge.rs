//! The functions that kernels call, with the layout of `shim/bridge.h`.

use std::ffi::{CStr, c_char, c_void};

use super::access::Access;
use super::copies::Copy;
use super::failure::{Failure, Site};
use super::lane::Lane;
use super::matrices::{self, Elements, Words};
use super::warp::{Operation, Request};
use crate::interface::FaultKind;

#[repr(C)]
pub(super) struct Bridge {
    access: unsafe extern "C" fn(*const Lane, *const c_void, usize, u32, *const c_void),
    barrier: unsafe extern "C" fn(*const Lane, u32, *const c_char, u32) -> u64,
    warp: unsafe extern "C" fn(*const Lane, u32, u32, u64, u32, *const c_char, u32) -> u64,
    mistake: unsafe extern "C" fn(*const Lane, u32, *const c_char, *const c_char, u32, *const c_void),
    timeout: unsafe extern "C" fn(*const Lane, *const c_void),
    begin_copy: unsafe extern "C" fn(*const Lane, *mut c_void, *const c_void, usize, usize, *const c_void),
    commit_copies: unsafe extern "C" fn(*const Lane),
    land_copies: unsafe extern "C" fn(*const Lane, u32),
    multiply: unsafe extern "C" fn(
        *const Lane,
        u32,
        *mut [f32; 4],
        *const [u32; 4],
        *const [u32; 2],
        *const c_char,
        u32,
    ),
    load_matrices: unsafe extern "C" fn(
        *const Lane,
        *mut [u32; 4],
        *const c_void,
        u32,
        *const c_char,
        u32,
        *const c_void,
    ),
    transpose_matrix: unsafe extern "C" fn(*const Lane, u32, *const c_char, u32) -> u32,
}

pub(super) static BRIDGE: Bridge = Bridge {
    access,
    barrier,
    warp,
    mistake,
    timeout,
    begin_copy,
    commit_copies,
    land_copies,
    multiply,
    load_matrices,
    transpose_matrix,
};

unsafe extern "C" fn access(
    lane: *const Lane,
    address: *const c_void,
    size: usize,
    kind: u32,
    pc: *const c_void,
) {
    // SAFETY: the control block of the fiber that calls.
    let lane = unsafe { &*lane };
    let running = lane.running();
    if running.preempts() {
        wait(lane);
    }
    let access = Access::new(address as usize, size, kind, pc as usize);
    if let Err(failure) = running.check(lane.index(), access) {
        running.fail(lane, failure);
    }
}

unsafe extern "C" fn barrier(lane: *const Lane, predicate: u32, file: *const c_char, line: u32) -> u64 {
    // SAFETY: the control block of the fiber that calls, and a string of its library.
    let (lane, site) = unsafe { (&*lane, Site::line(file, line)) };
    let running = lane.running();
    let arrived = running.scheduler.borrow_mut().barrier(lane.index(), site, predicate != 0);
    if let Err(failure) = arrived {
        running.fail(lane, failure);
    }
    pay(lane, site);
    lane.suspend();
    running.scheduler.borrow().result(lane.index())
}

unsafe extern "C" fn warp(
    lane: *const Lane,
    mask: u32,
    operation: u32,
    value: u64,
    source: u32,
    file: *const c_char,
    line: u32,
) -> u64 {
    // SAFETY: the control block of the fiber that calls, and a string of its library.
    let (lane, site) = unsafe { (&*lane, Site::line(file, line)) };
    let running = lane.running();
    let request = Request { mask, operation: Operation::from_number(operation), value, source, site };
    let arrived = running.scheduler.borrow_mut().warp(lane.index(), request);
    if let Err(failure) = arrived {
        running.fail(lane, failure);
    }
    pay(lane, site);
    lane.suspend();
    running.scheduler.borrow().result(lane.index())
}

unsafe extern "C" fn mistake(
    lane: *const Lane,
    mistake: u32,
    text: *const c_char,
    file: *const c_char,
    line: u32,
    pc: *const c_void,
) {
    // SAFETY: the control block of the fiber that calls, and strings that live until this returns.
    let (lane, text, site) = unsafe { (&*lane, CStr::from_ptr(text), Site::line(file, line)) };
    let running = lane.running();
    let kind = match mistake {
        1 => FaultKind::OutOfBounds,
        2 => FaultKind::Misaligned,
        _ => FaultKind::Undefined,
    };
    // A mistake inside of the shim belongs to the line that called it, which the machine code tells.
    let site = if pc.is_null() { site } else { running.entry.library.site(pc) };
    running.fail(lane, Failure::new(kind, lane.index(), site, text.to_string_lossy()));
}

unsafe extern "C" fn timeout(lane: *const Lane, pc: *const c_void) {
    // SAFETY: the control block of the fiber that calls.
    let lane = unsafe { &*lane };
    out_of_time(lane, lane.running().entry.library.site(pc));
}

unsafe extern "C" fn begin_copy(
    lane: *const Lane,
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    read: usize,
    pc: *const c_void,
) {
    // SAFETY: the control block of the fiber that calls.
    let lane = unsafe { &*lane };
    let running = lane.running();
    if running.preempts() {
        wait(lane);
    }
    let copy = Copy::new(to as usize, from as usize, bytes, read, pc as usize);
    if let Err(failure) = running.begin_copy(lane, copy) {
        running.fail(lane, failure);
    }
}

unsafe extern "C" fn commit_copies(lane: *const Lane) {
    // SAFETY: the control block of the fiber that calls.
    let lane = unsafe { &*lane };
    lane.running().copies.borrow_mut().commit(lane.index());
}

unsafe extern "C" fn land_copies(lane: *const Lane, left: u32) {
    // SAFETY: the control block of the fiber that calls.
    let lane = unsafe { &*lane };
    let running = lane.running();
    if running.preempts() {
        wait(lane);
    }
    if let Err(failure) = running.land_copies(lane, left) {
        running.fail(lane, failure);
    }
}

unsafe extern "C" fn multiply(
    lane: *const Lane,
    elements: u32,
    c: *mut [f32; 4],
    a: *const [u32; 4],
    b: *const [u32; 2],
    file: *const c_char,
    line: u32,
) {
    // SAFETY: the control block of the fiber that calls, a string of its library, and fragments on its stack.
    let (lane, site, c, a, b) = unsafe { (&*lane, Site::line(file, line), &mut *c, &*a, &*b) };
    let of_lanes = exchange(lane, site, matrices::fragments(a, b));
    matrices::multiply(Elements::from_number(elements), c, &of_lanes, lane.index() % 32);
}

unsafe extern "C" fn load_matrices(
    lane: *const Lane,
    to: *mut [u32; 4],
    row: *const c_void,
    transposed: u32,
    file: *const c_char,
    line: u32,
    pc: *const c_void,
) {
    // SAFETY: the control block of the fiber that calls, a string of its library, and words on its stack.
    let (lane, site, to) = unsafe { (&*lane, Site::line(file, line), &mut *to) };
    let running = lane.running();
    if running.preempts() {
        wait(lane);
    }
    match running.matrix_row(lane, row as usize, pc as usize) {
        Ok(row) => *to = matrices::load(&exchange(lane, site, row), transposed != 0, lane.index() % 32),
        Err(failure) => running.fail(lane, failure),
    }
}

unsafe extern "C" fn transpose_matrix(
    lane: *const Lane,
    elements: u32,
    file: *const c_char,
    line: u32,
) -> u32 {
    // SAFETY: the control block of the fiber that calls, and a string of its library.
    let (lane, site) = unsafe { (&*lane, Site::line(file, line)) };
    let of_lanes = exchange(lane, site, matrices::elements(elements));
    matrices::transpose(&of_lanes, lane.index() % 32)
}

/// Waits for all lanes of the warp; gives the words of all.
fn exchange(lane: &Lane, site: Site, words: Words) -> [Words; 32] {
    let running = lane.running();
    let arrived = running.scheduler.borrow_mut().exchange(lane.index(), site, words);
    if let Err(failure) = arrived {
        running.fail(lane, failure);
    }
    pay(lane, site);
    lane.suspend();
    running.scheduler.borrow().exchanged(lane.index())
}

/// Lets other threads run first.
fn wait(lane: &Lane) {
    lane.running().scheduler.borrow_mut().preempt(lane.index());
    lane.suspend();
}

fn pay(lane: &Lane, site: Site) {
    if !lane.pay_for_wait() {
        out_of_time(lane, site);
    }
}

fn out_of_time(lane: &Lane, site: Site) -> ! {
    let what = "the thread took too many steps: an endless loop";
    lane.running().fail(lane, Failure::new(FaultKind::Timeout, lane.index(), site, what))
}
