//! Random accesses, compared with the definition: vector clocks of all threads and a list of all accesses.

use super::super::access::Access;
use super::super::clock::Clock;
use super::super::random::Random;
use super::Races;

const THREADS: usize = 96;
const READ: u32 = 1;
const WRITE: u32 = 2;
const ATOMIC: u32 = READ | WRITE | 4;

/// One access, as the definition needs it.
struct Past {
    block: u64,
    thread: usize,
    /// Which access of its thread it was.
    event: u32,
    bytes: (usize, usize),
    kind: u32,
}

/// The definition. For each thread, up to which access of each other it knows.
struct Definition {
    block: u64,
    known: Vec<[u32; THREADS]>,
    past: Vec<Past>,
}

impl Definition {
    fn new() -> Self {
        Self { block: 0, known: vec![[0; THREADS]; THREADS], past: Vec::new() }
    }

    fn begin_block(&mut self, block: u64) {
        self.block = block;
        self.known = vec![[0; THREADS]; THREADS];
    }

    fn synchronise(&mut self, threads: impl Iterator<Item = usize> + Clone) {
        let mut joined = [0; THREADS];
        for thread in threads.clone() {
            joined.iter_mut().zip(self.known[thread]).for_each(|(j, k)| *j = k.max(*j));
        }
        threads.for_each(|thread| self.known[thread] = joined);
    }

    /// Notes an access; whether it races with an earlier one.
    fn access(&mut self, thread: usize, bytes: (usize, usize), kind: u32, shared: bool) -> bool {
        let races = self.past.iter().any(|past| {
            let overlap = past.bytes.0 < bytes.1 && bytes.0 < past.bytes.1;
            let writes = (past.kind | kind) & WRITE != 0 && !(past.kind == ATOMIC && kind == ATOMIC);
            let ordered =
                if past.block == self.block { self.known[thread][past.thread] >= past.event } else { shared };
            overlap && writes && !ordered
        });
        self.known[thread][thread] += 1;
        let event = self.known[thread][thread];
        self.past.push(Past { block: self.block, thread, event, bytes, kind });
        races
    }
}

/// Which steps a run is made of.
#[derive(Clone, Copy, PartialEq)]
enum Steps {
    /// Plain accesses, and synchronisation of whole warps and blocks.
    Whole,
    /// Also atomics and parts of warps, where a race may be missed.
    Any,
}

/// Random steps until the first race that either side sees; returns what the two say of it, if there is one.
fn run(seed: u64, steps: Steps, shared: bool) -> Option<(bool, bool)> {
    let mut random = Random::new(seed);
    let mut clock = Clock::new(THREADS);
    let mut races = Races::new();
    let mut definition = Definition::new();
    clock.begin_block(0);
    // Few threads and words, so that they meet, on both sides of the edge of a page.
    let threads: Vec<_> = (0..6).map(|_| random.below(THREADS)).collect();
    for step in 0..60 {
        match random.below(20) {
            0 => {
                clock.begin_block(step);
                definition.begin_block(step);
            }
            1..=2 => {
                clock.sync_block();
                definition.synchronise(0..THREADS);
            }
            3..=6 => {
                let first = threads[random.below(threads.len())] / 32 * 32;
                let part = steps == Steps::Any && random.below(2) == 0;
                let mask = if part { 0x0f0f_0f0f << random.below(5) } else { u32::MAX };
                clock.sync_warp(first as u32, mask);
                definition.synchronise(super::super::warp::lanes(mask).map(|lane| first + lane as usize));
            }
            _ => {
                let thread = threads[random.below(threads.len())];
                let size = 1 << random.below(4);
                let address = 3 * 4096 - 8 + random.below(16) / size * size;
                // Reads mostly, or the first race comes at once.
                let kind = match random.below(6) {
                    0 => WRITE,
                    1 if steps == Steps::Any => ATOMIC,
                    _ => READ,
                };
                let access = Access::new(address, size, kind, 0);
                let seen = races.access(&clock.view(thread as u32), access, 0, shared).is_some();
                let right = definition.access(thread, (address, address + size), kind, shared);
                if seen || right {
                    return Some((seen, right));
                }
            }
        }
    }
    None
}

#[test]
fn races_are_exactly_those_of_the_definition() {
    let mut found = 0;
    for seed in 0..20_000 {
        if let Some((seen, right)) = run(seed, Steps::Whole, seed % 2 == 0) {
            assert_eq!(seen, right, "seed {seed}");
            found += 1;
        }
    }
    assert!((1_000..19_900).contains(&found), "{found} of 20000 runs race");
}

#[test]
fn no_race_is_invented_and_few_are_missed_with_atomics_and_parts_of_warps() {
    let mut missed = 0;
    for seed in 0..20_000 {
        if let Some((seen, right)) = run(seed, Steps::Any, seed % 2 == 0) {
            assert!(right, "seed {seed}: invented");
            missed += usize::from(!seen);
        }
    }
    assert!(missed <= 40, "{missed} of 20000 runs");
}
