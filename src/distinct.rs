//! Equal topologies found by hashing, so that a batch stores each once.

use std::hash::{BuildHasher, RandomState};

use crate::error::{Result, fits_u32, try_with_capacity, try_zeroed};
use crate::incidence::ByEdge;

/// Numbers items by their topology, in the order in which topologies appear first.
pub(crate) struct Distinct {
    /// For each id the item where it appeared first, and its hash.
    firsts: Vec<usize>,
    hashes: Vec<u64>,
    /// Ids + 1 by hash, open addressing; 0 where there is none.
    buckets: Vec<u32>,
    /// Drawn anew each time, so that nobody can prepare topologies that collide. Ids do not depend on it.
    seed: [u64; 2],
}

impl Distinct {
    /// For up to `items` items, which fit in a `u32`.
    pub(crate) fn with_capacity(items: usize) -> Result<Self> {
        fits_u32("the number of topologies", items)?;
        let what = "the search for equal topologies";
        let state = RandomState::new();
        // At most half full. One more than the ids of `u32::MAX` items cannot be, so ids + 1 fit.
        let buckets = items.saturating_mul(2).checked_next_power_of_two().unwrap_or(usize::MAX);
        Ok(Self {
            firsts: try_with_capacity(what, items)?,
            hashes: try_with_capacity(what, items)?,
            buckets: try_zeroed(what, buckets)?,
            seed: [state.hash_one(0), state.hash_one(1) | 1],
        })
    }

    /// The id of an item's topology. `rows` gives the topology of this and of earlier items; there may be no
    /// more items than there is room for.
    pub(crate) fn id<'a>(&mut self, item: usize, rows: impl Fn(usize) -> ByEdge<'a>) -> u32 {
        let topology = rows(item);
        let hash = self.hash(&topology);
        let mask = self.buckets.len() - 1;
        let mut bucket = hash as usize & mask;
        loop {
            match self.buckets[bucket] {
                0 => break,
                next => {
                    let id = next as usize - 1;
                    if self.hashes[id] == hash && rows(self.firsts[id]) == topology {
                        return id as u32;
                    }
                }
            }
            bucket = (bucket + 1) & mask;
        }
        self.firsts.push(item);
        self.hashes.push(hash);
        self.buckets[bucket] = self.firsts.len() as u32;
        self.firsts.len() as u32 - 1
    }

    /// For each id the item where it appeared first, ascending.
    pub(crate) fn into_firsts(self) -> Vec<usize> {
        self.firsts
    }

    /// By products of 64 bits, both halves of which are kept: several times faster than the hash of the
    /// standard library, which would take most of the time that a small topology takes.
    fn hash(&self, rows: &ByEdge<'_>) -> u64 {
        let [key, seed] = self.seed;
        let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let mix = |state: u64, low: u64, high: u64| {
            let product = u128::from(low ^ key) * u128::from(high ^ state);
            product as u64 ^ (product >> 64) as u64
        };
        let sizes = word(rows.n_vertices as u32, rows.pointers.len() as u32);
        let mut state = mix(seed, sizes, rows.members.len() as u64);
        for words in [rows.pointers, rows.members] {
            let mut fours = words.chunks_exact(4);
            for w in &mut fours {
                state = mix(state, word(w[0], w[1]), word(w[2], w[3]));
            }
            let mut last = [0; 4];
            last[..fours.remainder().len()].copy_from_slice(fours.remainder());
            state = mix(state, word(last[0], last[1]), word(last[2], last[3]));
        }
        state
    }
}
