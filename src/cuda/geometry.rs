//! How rows and features are shared out to blocks, warps and lanes. `kernels/abi.cuh` has the same numbers.

use crate::summation;
pub(super) use crate::summation::{SEGMENT, VECTOR_BYTES};

/// The threads of a block. How sums of the dense path are cut hangs on it, see `src/dense.rs`.
pub(super) const THREADS: u32 = 128;
pub(super) const WARP: u32 = summation::LANES as u32;
const WARPS_OF_BLOCK: u64 = (THREADS / WARP) as u64;

/// The nodes of a tree that a thread adds, at most.
pub(super) const MOST_NODES: u64 = 128;

/// The largest grid in x and in y.
const MAX_GRID_X: u64 = (1 << 31) - 1;
const MAX_GRID_Y: u32 = 65_535;

/// The most incidences of a short row: a quarter of a warp loads them at once.
pub(super) const SHORT_ROW: usize = 8;

/// Each lane of a warp loads one index of a short row.
pub(super) const ROWS_OF_SHORT_TILE: u64 = WARP as u64 / SHORT_ROW as u64;

/// The lanes that compute a row together: as many as its features fill, at least a quarter of a warp.
#[inline]
pub(super) fn lanes(features: usize, size: usize) -> u32 {
    match features.div_ceil(VECTOR_BYTES / size) {
        0..=8 => 8,
        9..=16 => 16,
        _ => 32,
    }
}

/// The blocks that the features of a row are cut into, one for all lanes of a group.
#[inline]
pub(super) fn feature_blocks(features: usize, size: usize) -> usize {
    features.div_ceil(lanes(features, size) as usize * (VECTOR_BYTES / size))
}

/// Whether rows of this many features can be read 16 bytes at a time, if addresses and strides allow it.
#[inline]
pub(super) fn whole_vectors(features: usize, size: usize) -> bool {
    (features * size).is_multiple_of(VECTOR_BYTES)
}

/// How many blocks a launch has, and the threads and the shared memory of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// In x: what is shared out, which kernels walk through in steps of the grid.
    blocks: u64,
    /// In y: blocks of features, likewise.
    feature_blocks: u32,
    threads: u32,
    shared_bytes: u32,
}

impl Grid {
    /// This many warps.
    #[inline]
    pub(super) fn of_warps(warps: u64) -> Self {
        Self::of_blocks(warps.div_ceil(WARPS_OF_BLOCK))
    }

    /// This many blocks.
    #[inline]
    pub(super) fn of_blocks(blocks: u64) -> Self {
        Self { blocks, feature_blocks: 1, threads: THREADS, shared_bytes: 0 }
    }

    /// All of it for each of some blocks of features.
    #[inline]
    pub(super) fn times_feature_blocks(self, feature_blocks: u32) -> Self {
        Self { feature_blocks, ..self }
    }

    /// Blocks of so many threads.
    #[inline]
    pub(super) fn with_threads(self, threads: u32) -> Self {
        Self { threads, ..self }
    }

    /// Bytes of shared memory that the launch gives to each block.
    #[inline]
    pub(super) fn with_shared_bytes(self, shared_bytes: u32) -> Self {
        Self { shared_bytes, ..self }
    }

    /// Whether there is nothing to do.
    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.blocks == 0 || self.feature_blocks == 0
    }

    /// The blocks in x, y and z, as many as a launch may have.
    #[inline]
    pub(super) fn dimensions(self) -> (u32, u32, u32) {
        (self.blocks.min(MAX_GRID_X) as u32, self.feature_blocks.min(MAX_GRID_Y), 1)
    }

    #[inline]
    pub(super) fn threads(self) -> u32 {
        self.threads
    }

    #[inline]
    pub(super) fn shared_bytes(self) -> u32 {
        self.shared_bytes
    }
}
