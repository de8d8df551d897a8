//! How the sums of the dense path's backward are cut, on both backends: with that the bits of ∂x and ∂w.
//!
//! Γ_uv = ⟨g_u, x_v⟩ is a sum over features, and where all instances of a batch read one window, over
//! instances. A *slice* is as many consecutive features as a thread of a GPU has. *Slots* add slices: slot s
//! of `slots` those whose number is s modulo `slots`, one by one, feature by feature, one fused multiply-add
//! each. Four runs add the slots in `f64`, run r those that are r modulo 4, ascending, and
//! Γ = (run 0 + run 1) + (run 2 + run 3), which is rounded to the accumulation type.
//!
//! A sum over the vertices, ∂x_v = Σ M_uv g_u, is cut into *parts* of up to [`PART`] vertices. Each starts at
//! 0 and adds its vertices in order. Two parts are added, and of four first those that are two apart.

/// The threads of a block, among which the pairs of parts and the slots are shared out.
const THREADS: usize = 128;

/// The vertices of a part.
pub(crate) const PART: usize = 8;

/// The slices that a chunk of instances has, where they share one window: so many that what a block does once
/// counts little, and so few that blocks fill a device evenly.
const SLICES_OF_CHUNK: usize = 512;

/// The most instances of such a chunk.
const INSTANCES_OF_CHUNK: usize = 64;

/// The parts of the vertices of a topology: 1, 2 or 4.
pub(crate) const fn parts(n_vertices: usize) -> usize {
    match n_vertices {
        0..=PART => 1,
        _ if n_vertices <= 2 * PART => 2,
        _ => 4,
    }
}

/// The features of a slice, of elements of this size: 16 bytes, or 8 of 16-bit types.
pub(crate) const fn features_of_slice(size: usize) -> usize {
    if size == 8 { 2 } else { 4 }
}

/// The slices of a row; the last one may be cut short.
pub(crate) const fn slices(features: usize, size: usize) -> usize {
    features.div_ceil(features_of_slice(size))
}

/// The most slots of a topology with this number of vertices.
pub(crate) const fn most_slots(n_vertices: usize) -> usize {
    let parts = parts(n_vertices);
    THREADS / (parts * parts)
}

/// The slots of an instance alone, whose rows have so many slices: a power of two.
pub(crate) fn slots(n_vertices: usize, slices: usize) -> usize {
    slices.next_power_of_two().min(most_slots(n_vertices))
}

/// The instances of a chunk, where all read one window: a power of two, so that chunks and the tree over them
/// are aligned to powers of two of an instance's number. It depends on F and the type alone.
pub(crate) fn chunk_len(slices: usize) -> usize {
    let most = (SLICES_OF_CHUNK / slices.max(1)).clamp(1, INSTANCES_OF_CHUNK);
    1 << most.ilog2()
}
