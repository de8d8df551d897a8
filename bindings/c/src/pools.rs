//! The threads of the CPU backend: a pool for each number of threads but one, made when a call first needs
//! it, and kept as long as the process lives.
//!
//! A process that is forked has none of its parent's threads, and whatever lock one of them held stays locked
//! in it. So everything here hangs on a registry that belongs to a process by its id. A child makes one of
//! its own, and never looks at its parent's.

use std::num::NonZero;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use hyperscatter::cpu;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Failure, Result};

struct Registry {
    process: u32,
    pools: Mutex<Vec<(usize, &'static ThreadPool)>>,
}

static REGISTRY: AtomicPtr<Registry> = AtomicPtr::new(std::ptr::null_mut());

/// What workspaces get; 0 for as many as the process may run at once.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// More than any machine has: a number that is larger is a mistake.
pub(crate) const MOST_THREADS: usize = 1 << 16;

/// Sets the number of threads of workspaces that are made from now on.
pub(crate) fn set_threads(threads: usize) {
    THREADS.store(threads, Ordering::Relaxed);
}

/// The number of threads of workspaces that are made now.
pub(crate) fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    }
}

/// The registry of this process.
fn registry() -> &'static Registry {
    let process = std::process::id();
    let mut found = REGISTRY.load(Ordering::Acquire);
    loop {
        // SAFETY: a registry is never freed.
        if let Some(registry) = unsafe { found.as_ref() }
            && registry.process == process
        {
            return registry;
        }
        let new = Box::into_raw(Box::new(Registry { process, pools: Mutex::default() }));
        match REGISTRY.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it was just made, and is never freed from here on.
            Ok(_) => return unsafe { &*new },
            Err(other) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                found = other;
            }
        }
    }
}

/// Calls `f` on so many threads: on this one, if one will do.
///
/// # Errors
/// [`Failure::Threads`] where they cannot be started.
pub(crate) fn on_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> Result<R> {
    match threads {
        1 => Ok(cpu::on_this_thread(f)),
        _ => Ok(pool(threads)?.install(f)),
    }
}

/// The pool of so many threads.
fn pool(threads: usize) -> Result<&'static ThreadPool> {
    let mut pools = registry().pools.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, pool)) = pools.iter().find(|(n, _)| *n == threads) {
        return Ok(pool);
    }
    let name = |i| format!("hyperscatter-{i}");
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build();
    let pool: &'static ThreadPool = Box::leak(Box::new(pool.map_err(|_| Failure::Threads(threads))?));
    pools.push((threads, pool));
    Ok(pool)
}
