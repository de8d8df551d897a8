//! The room that dense operators, and the products of rows, take.

use crate::incidence::Incidence;

/// The room that the instances of a topology take.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    pub(super) vertices: usize,
    /// The windows whose operators are formed at once, and the numbers of all pairs of vertices, of all
    /// vertices and of all hyperedges, for each of them.
    pub(super) lanes: usize,
    pub(super) pairs: usize,
    pub(super) of_vertices: usize,
    pub(super) of_hyperedges: usize,
    /// What products are formed from: the elements of the items of a block, and the sums of slots.
    pub(super) items: usize,
    pub(super) slots: usize,
}

impl Room {
    /// For the operators of up to so many windows at once.
    pub(crate) fn of_operators(topology: &Incidence, lanes: usize) -> Self {
        let n = topology.n_vertices();
        // One window is read where it is.
        let of_hyperedges = if lanes > 1 { topology.n_hyperedges() * lanes } else { 0 };
        let (pairs, of_vertices) = (n * n * lanes, n * lanes);
        Self { vertices: n, lanes, pairs, of_vertices, of_hyperedges, ..Self::default() }
    }

    /// For both.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            vertices: self.vertices.max(other.vertices),
            lanes: self.lanes.max(other.lanes),
            pairs: self.pairs.max(other.pairs),
            of_vertices: self.of_vertices.max(other.of_vertices),
            of_hyperedges: self.of_hyperedges.max(other.of_hyperedges),
            items: self.items.max(other.items),
            slots: self.slots.max(other.slots),
        }
    }

    /// The elements of a matrix for each lane.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }
}
