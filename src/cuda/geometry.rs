//! How rows and features are shared out to blocks, warps and lanes. `kernels/abi.cuh` has the same numbers.

use crate::summation;
pub(super) use crate::summation::{SEGMENT, VECTOR_BYTES};

/// The threads of a block; any multiple of a warp would do.
pub(super) const THREADS: u32 = 128;
pub(super) const WARP: u32 = summation::LANES as u32;
pub(super) const WARPS_OF_BLOCK: u64 = (THREADS / WARP) as u64;

/// The largest grid in x and in y.
pub(super) const MAX_GRID_X: u64 = (1 << 31) - 1;
pub(super) const MAX_GRID_Y: u32 = 65_535;

/// The most incidences of a short row: a quarter of a warp loads them at once.
pub(super) const SHORT_ROW: usize = 8;

/// Each lane of a warp loads one index of a short row.
pub(super) const ROWS_OF_SHORT_TILE: u64 = WARP as u64 / SHORT_ROW as u64;

/// The lanes that compute a row together: as many as its features fill, at least a quarter of a warp.
pub(super) fn lanes(features: usize, size: usize) -> u32 {
    match features.div_ceil(VECTOR_BYTES / size) {
        0..=8 => 8,
        9..=16 => 16,
        _ => 32,
    }
}

/// The blocks that the features of a row are cut into, one for all lanes of a group.
pub(super) fn feature_blocks(features: usize, size: usize) -> usize {
    features.div_ceil(lanes(features, size) as usize * (VECTOR_BYTES / size))
}

/// Whether rows of this many features can be read 16 bytes at a time, if addresses and strides allow it.
pub(super) fn whole_vectors(features: usize, size: usize) -> bool {
    (features * size).is_multiple_of(VECTOR_BYTES)
}
