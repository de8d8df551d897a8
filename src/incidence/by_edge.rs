//! What decides whether two topologies are equal.

/// The rows of one topology by hyperedge, from which those by vertex follow.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct ByEdge<'a> {
    pub(crate) n_vertices: usize,
    pub(crate) pointers: &'a [u32],
    pub(crate) members: &'a [u32],
}
