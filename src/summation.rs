//! What decides in which order numbers are added, and with that the bits of results: the same on the CPU, on
//! a GPU, in every batch and on any number of threads. The backward of the dense path has `dense.rs` besides.
//!
//! * A sum of rows adds the incidences of a row in their order, one fused multiply-add each.
//! * A sum of one number for each incidence adds them in [`LANES`] interleaved lanes, which are then added in
//!   halves.
//! * Both cut a row into segments of [`SEGMENT`] incidences, counted from its start, and add the sums of
//!   these in order.
//! * A dot product adds blocks of features in order. Each block is added in lanes of as many consecutive
//!   features as [`VECTOR_BYTES`] hold.
//! * A sum over the rows of an instance, which a readout and the gradient of a bias are, cuts them into
//!   segments of [`SEGMENT_ROWS`], counted from the first, and adds the sums of these in order.
//! * A gradient that belongs to many instances is added chunk by chunk, see `chunks.rs`.
//!
//! `kernels/abi.cuh` has the same numbers, and is generated from them.

/// The incidences that are summed in one go. Segments make the error of a long row grow with its number of
/// segments instead of its length, and let them be summed independently of each other.
pub(crate) const SEGMENT: usize = 512;

/// The lanes of scalar sums and dot products, as many as a warp has.
pub(crate) const LANES: usize = 32;

/// The bytes of a vector access, and so of a lane's features.
pub(crate) const VECTOR_BYTES: usize = 16;

/// The rows of an instance that are added one by one; the sums of such segments are then added in order. As
/// many as a chunk of small instances has, see [`instances_of_bias_chunk`].
pub(crate) const SEGMENT_ROWS: usize = 256;

/// The consecutive instances of a chunk of the gradient of a bias, given the number of vertices of the
/// largest instance of the batch: as many as have no more than [`SEGMENT_ROWS`] rows, and a power of two. A
/// chunk adds its rows one by one, and a binary tree adds the chunks.
pub(crate) const fn instances_of_bias_chunk(largest: usize) -> usize {
    match largest {
        0 => SEGMENT_ROWS,
        1..=SEGMENT_ROWS => 1 << (SEGMENT_ROWS / largest).ilog2(),
        _ => 1,
    }
}
