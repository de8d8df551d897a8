//! The mistakes that data loaders make when they put graphs together.

/// A mistake that explains a wrong index: the whole index is just what this mistake leaves. It is a likely
/// cause, not a proof, since several mistakes may leave the same index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Misbatching {
    /// The ids of all graphs are local: neither row was shifted.
    NotShifted,
    /// Both rows were shifted by the number of *vertices* of the graphs before: what PyTorch Geometric's
    /// plain `Data` does with `hyperedge_index` when it collates.
    ShiftedByVertices,
    /// Both rows were shifted by the number of *hyperedges* of the graphs before.
    ShiftedByHyperedges,
    /// The vertex row was shifted, the hyperedge row was not.
    HyperedgesNotShifted,
    /// The hyperedge row was shifted, the vertex row was not.
    VerticesNotShifted,
    /// The vertex row was shifted by numbers of hyperedges, and the hyperedge row by numbers of vertices.
    ExchangedShifts,
    /// The hyperedge row was shifted by the largest hyperedge id + 1 of each graph before, which leaves out
    /// empty hyperedges after the last that has a vertex: what PyTorch Geometric's `HyperGraphData` does.
    HyperedgesShiftedByLargestId,
    /// The vertex row was shifted by the largest vertex id + 1 of each graph before, which leaves out
    /// isolated vertices after the last that is in a hyperedge.
    VerticesShiftedByLargestId,
    /// Both rows were shifted by the size of the largest graph for each graph before: ids of a padded batch.
    PaddedToLargest,
    /// Both rows were shifted by one graph too many: the sums of the sizes include the graph itself.
    ShiftedPastOwnGraph,
    /// The two rows of the index (or the owners of its vertices and of its hyperedges) are exchanged.
    RowsExchanged,
    /// Vertex and hyperedge ids start at 1.
    OneBased,
    /// Vertex ids start at 1.
    OneBasedVertices,
    /// Hyperedge ids start at 1.
    OneBasedHyperedges,
    /// Negative ids stand for places that are not used.
    NegativePadding,
    /// The numbers of vertices (or hyperedges) of the graphs were given as
    /// [`Owners::GraphIds`](crate::Owners::GraphIds).
    CountsAsGraphIds,
    /// The graph ids of the vertices (or hyperedges) were given as [`Owners::Counts`](crate::Owners::Counts).
    GraphIdsAsCounts,
    /// Where the vertices (or hyperedges) of each graph start, and their total, were given as owners: PyTorch
    /// Geometric's `ptr`.
    StartsAsOwners,
    /// Graph ids start at 1.
    OneBasedGraphIds,
}

impl Misbatching {
    /// What the index looks like, and what to do.
    fn text(self) -> &'static str {
        match self {
            Self::NotShifted => {
                "the ids of every graph start at 0, as they do before graphs are put together; add the \
                 number of vertices of all graphs before to the vertex row, and their number of hyperedges \
                 to the hyperedge row"
            }
            Self::ShiftedByVertices => {
                "the hyperedge row is shifted by the number of vertices of the graphs before it, which is \
                 what PyTorch Geometric's plain `Data` batching does to `hyperedge_index`; it must be \
                 shifted by their number of hyperedges"
            }
            Self::ShiftedByHyperedges => {
                "the vertex row is shifted by the number of hyperedges of the graphs before it; it must be \
                 shifted by their number of vertices"
            }
            Self::HyperedgesNotShifted => {
                "the vertex row is shifted and the hyperedge row is not; add the number of hyperedges of all \
                 graphs before to the hyperedge row"
            }
            Self::VerticesNotShifted => {
                "the hyperedge row is shifted and the vertex row is not; add the number of vertices of all \
                 graphs before to the vertex row"
            }
            Self::ExchangedShifts => {
                "the vertex row is shifted by numbers of hyperedges and the hyperedge row by numbers of \
                 vertices; exchange the two"
            }
            Self::HyperedgesShiftedByLargestId => {
                "the hyperedge row is shifted by the largest hyperedge id + 1 of each graph, which is what \
                 PyTorch Geometric's `HyperGraphData` does; it must be shifted by the number of hyperedges, \
                 empty ones at the end included"
            }
            Self::VerticesShiftedByLargestId => {
                "the vertex row is shifted by the largest vertex id + 1 of each graph; it must be shifted by \
                 the number of vertices, isolated ones at the end included"
            }
            Self::PaddedToLargest => {
                "both rows are shifted by the size of the largest graph, as in a padded batch; shift by the \
                 sizes of the graphs before, or give every graph the size of the largest in the owners"
            }
            Self::ShiftedPastOwnGraph => {
                "both rows are shifted by one graph too many; shift by the sizes of the graphs before, \
                 without that of the graph itself"
            }
            Self::RowsExchanged => {
                "the two rows of the index (or the sizes of vertices and of hyperedges) are exchanged; \
                 vertices come first, then hyperedges"
            }
            Self::OneBased => "vertex and hyperedge ids start at 1; subtract 1 from both rows",
            Self::OneBasedVertices => "vertex ids start at 1; subtract 1 from them",
            Self::OneBasedHyperedges => "hyperedge ids start at 1; subtract 1 from them",
            Self::NegativePadding => "negative ids are padding; leave them out",
            Self::CountsAsGraphIds => "these are numbers of each graph, not graph ids; use Owners::Counts",
            Self::GraphIdsAsCounts => "these are graph ids, not numbers of each graph; use Owners::GraphIds",
            Self::StartsAsOwners => {
                "these are starts, with the total at the end; take the differences of neighbours and use \
                 Owners::Counts"
            }
            Self::OneBasedGraphIds => "graph ids start at 1; subtract 1 from them",
        }
    }
}

impl std::fmt::Display for Misbatching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}
