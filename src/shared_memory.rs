//! What an instance needs of a GPU's shared memory where one block computes it. The CPU backend has no such limit, but
//! chooses the same path, so that both explain the same.

/// The most that a block may have: as much as every GPU gives without being asked to share out its cache in another way.
pub(crate) const SHARED_BYTES: usize = 48 << 10;

/// The bytes of shared memory that an instance takes on the single-block path, with sums of `size_of_acc` bytes: its rows
/// of z, M · F sums, and for each of its N vertices 1/D and a shift of 4 bytes.
pub(crate) const fn shared_bytes(
    n_vertices: usize,
    n_hyperedges: usize,
    features: usize,
    size_of_acc: usize,
) -> usize {
    let z = n_hyperedges.saturating_mul(features).saturating_mul(size_of_acc);
    z.saturating_add(n_vertices.saturating_mul(size_of_acc + size_of::<i32>()))
}
