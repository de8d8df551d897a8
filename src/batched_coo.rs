//! A batch from an index that is batched already, with every incidence checked against the graph that owns
//! it.

use crate::axis::Axis;
use crate::batch::Batch;
use crate::diagnosis::{self, Suspect};
use crate::distinct::Distinct;
use crate::error::{Error, Result, fits_u32, try_with_capacity};
use crate::incidence::{Graphs, Parts, Repeats, check_coo_lengths, locate_repeat};
use crate::index::{Index, below};
use crate::misbatching::Misbatching;
use crate::owners::{Owners, graph_of, owner_of, range, starts, total};

/// What to do with an already batched index that looks as if nobody had shifted it: all incidences are in the
/// first graph that owns both vertices and hyperedges, later graphs own both, too, and all ids may be local
/// ones. Unshifted ids of graphs that have the same size look like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AllInFirst {
    /// Refuse it with [`Error::AllInFirstGraph`]. The choice where every graph may have incidences.
    Reject,
    /// It is meant: the vertices of later graphs are isolated, and their hyperedges empty.
    Accept,
}

impl Batch {
    /// From an already batched `hyperedge_index`: incidence `i` puts vertex `vertices[i]` into hyperedge
    /// `hyperedges[i]`. Both are numbered over the whole batch, and incidences stand in any order. The result
    /// is a table of `n_graphs` instances. Graphs with equal incidences share one stored topology, and all
    /// topologies share one allocation.
    ///
    /// Owners state every vertex and every hyperedge, so empty hyperedges (trailing ones too), isolated
    /// vertices and empty graphs keep their places. The four arrays may have different integer types.
    ///
    /// Since topologies share one allocation, a clone of one of them keeps that of all: see
    /// [`Incidence`](crate::Incidence) for how to copy one out.
    ///
    /// # Cost
    /// For many small graphs, in multiples of one [`from_coo`](crate::Incidence::from_coo) of the same index:
    ///
    /// | order of the incidences | cost |
    /// |---|---|
    /// | hyperedge after hyperedge | 1.3 |
    /// | vertex after vertex, the hyperedges of each ascending | 1.5 |
    /// | any other, graph after graph | 2 |
    /// | graphs are mixed, so that each incidence looks for its graph | 12 |
    ///
    /// These are the largest ratios of `benches/cpu.rs`, on one core of an AMD EPYC, for 16,384 graphs of 8
    /// vertices and 14 hyperedges.
    ///
    /// # What is refused, and what cannot be told
    /// An index is refused if an incidence joins a vertex and a hyperedge of different graphs, or names one
    /// that does not exist. By [`AllInFirst::Reject`] it is also refused if it looks as if nobody had shifted
    /// it. Where the whole index is what a mistake of a loader leaves, the error says which, see
    /// [`Misbatching`].
    ///
    /// A wrong index that keeps every incidence within one graph is a right index of other graphs, and
    /// passes:
    ///
    /// * where the wrong shift is equal to the right one: by vertices instead of hyperedges, or rows
    ///   exchanged, where each graph has as many of one as of the other; by the largest id + 1 where only the
    ///   last graphs end with isolated vertices or empty hyperedges; a forgotten shift of a row whose owners
    ///   are all in one graph. These are right;
    /// * where ids are off by no more than the empty hyperedges (or isolated vertices) at the ends of the
    ///   graphs, so that each stays in its graph: ids that start at 1 and never reach the last vertex and
    ///   hyperedge of a graph, or a wrong shift between graphs that begin with empty hyperedges;
    /// * where nothing was shifted, and the graphs differ in size so that local ids fall into several of the
    ///   first graphs without ever joining two. [`Repeats::Reject`] notices most of that;
    /// * where the owners of both rows make the same mistake: graph ids that start at 1 while the last graph
    ///   owns nothing; numbers of vertices and of hyperedges that are legal graph ids (or the reverse) and
    ///   fit the index by chance.
    ///
    /// # Errors
    /// [`Error::CrossGraphIncidence`] where an incidence joins a vertex and a hyperedge of different graphs,
    /// [`Error::VertexOutOfRange`], [`Error::HyperedgeOutOfRange`], [`Error::AllInFirstGraph`],
    /// [`Error::RepeatedIncidence`] (as numbered in the batch), [`Error::LengthMismatch`]. For owners
    /// [`Error::GraphIdsNotSorted`], [`Error::GraphOutOfRange`], [`Error::CountsLength`],
    /// [`Error::NegativeCount`]. [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn from_batched_coo<V: Index, E: Index, N: Index, M: Index>(
        n_graphs: usize,
        vertices: &[V],
        hyperedges: &[E],
        vertex_owners: Owners<'_, N>,
        hyperedge_owners: Owners<'_, M>,
        repeats: Repeats,
        all_in_first: AllInFirst,
    ) -> Result<Self> {
        check_coo_lengths(vertices.len(), hyperedges.len())?;
        fits_u32("the number of graphs", n_graphs)?;
        fits_u32("the number of incidences", vertices.len())?;
        let looks_like =
            || diagnosis::of_owners(n_graphs, vertices, hyperedges, vertex_owners, hyperedge_owners);
        let vertex_starts = starts(Axis::Vertex, n_graphs, vertex_owners, looks_like)?;
        let hyperedge_starts = starts(Axis::Hyperedge, n_graphs, hyperedge_owners, looks_like)?;
        let index = BatchedIndex {
            suspect: Suspect {
                vertices,
                hyperedges,
                vertex_starts: &vertex_starts,
                hyperedge_starts: &hyperedge_starts,
            },
            n_graphs,
            vertex_owners,
            hyperedge_owners,
        };
        let mut graphs = Graphs::new(&vertex_starts, &hyperedge_starts, vertices.len())?;
        let Parts { edge_pointers, vertex_pointers, .. } = graphs.parts();
        index.count(edge_pointers, vertex_pointers)?;
        if all_in_first == AllInFirst::Reject {
            index.check_later_graphs(edge_pointers)?;
        }
        graphs.fill(vertices, hyperedges, repeats).map_err(|error| index.locate_repeat(error))?;

        let mut distinct = Distinct::with_capacity(n_graphs)?;
        let mut ids = try_with_capacity("topology_ids", n_graphs)?;
        ids.extend((0..n_graphs).map(|graph| distinct.id(graph, |graph| graphs.rows(graph))));
        let topologies = graphs.topologies(&distinct.into_firsts())?;
        Self::with_starts(topologies, ids, [vertex_starts, hyperedge_starts])
    }
}

/// A batched index and the graphs of its vertices and hyperedges.
struct BatchedIndex<'a, V, E, N, M> {
    suspect: Suspect<'a, V, E>,
    n_graphs: usize,
    vertex_owners: Owners<'a, N>,
    hyperedge_owners: Owners<'a, M>,
}

impl<V: Index, E: Index, N: Index, M: Index> BatchedIndex<'_, V, E, N, M> {
    /// Counts the incidences of each hyperedge and vertex, each behind it as in [`Parts`], if every incidence
    /// joins a vertex and a hyperedge of the same graph.
    fn count(&self, edge_pointers: &mut [u32], vertex_pointers: &mut [u32]) -> Result<()> {
        let Suspect { vertices, hyperedges, vertex_starts, hyperedge_starts } = self.suspect;
        let bound = total(vertex_starts);
        let (mut graph, mut own_vertices, mut own_hyperedges) = (0, 0..0, 0..0);
        for (position, (&vertex, &edge)) in vertices.iter().zip(hyperedges).enumerate() {
            let Some(vertex) = below(vertex, bound) else { return Err(self.refuse(position)) };
            if !own_vertices.contains(&vertex) {
                graph = graph_of(vertex_starts, graph, vertex);
                own_vertices = range(vertex_starts, graph);
                own_hyperedges = range(hyperedge_starts, graph);
            }
            match below(edge, own_hyperedges.end) {
                Some(edge) if edge >= own_hyperedges.start => {
                    edge_pointers[edge + graph + 1] += 1;
                    vertex_pointers[vertex + graph + 1] += 1;
                }
                _ => return Err(self.refuse(position)),
            }
        }
        Ok(())
    }

    /// Refuses an index all of whose incidences are in the first graph that owns vertices and hyperedges,
    /// though a later one does, too, if it may be one that nobody shifted.
    fn check_later_graphs(&self, edge_pointers: &[u32]) -> Result<()> {
        let Suspect { vertices, vertex_starts, hyperedge_starts, .. } = self.suspect;
        let of_graph = |graph| (range(vertex_starts, graph), range(hyperedge_starts, graph));
        let mut owners_of_both = (0..self.n_graphs).filter(|&graph| {
            let (vertices, hyperedges) = of_graph(graph);
            !vertices.is_empty() && !hyperedges.is_empty()
        });
        let (Some(graph), Some(later)) = (owners_of_both.next(), owners_of_both.next()) else {
            return Ok(());
        };
        let (_, hyperedges) = of_graph(graph);
        let counts = &edge_pointers[hyperedges.start + graph..=hyperedges.end + graph];
        let incidences = counts.iter().sum::<u32>() as usize;
        // A graph that does not start at 0 may well have them all by right ids.
        if incidences == 0 || incidences < vertices.len() || !self.suspect.is_not_shifted() {
            return Ok(());
        }
        let (vertices, hyperedges) = of_graph(later);
        let looks_like = Misbatching::NotShifted;
        Err(Error::AllInFirstGraph { incidences, graph, later, vertices, hyperedges, looks_like })
    }

    /// The error for the incidence at `position`, which joins no vertex and hyperedge of one graph.
    fn refuse(&self, position: usize) -> Error {
        let Suspect { vertices, hyperedges, vertex_starts, hyperedge_starts } = self.suspect;
        let looks_like = self.looks_like();
        let (vertex, hyperedge) = (vertices[position].value(), hyperedges[position].value());
        match (owner_of(vertex_starts, vertex), owner_of(hyperedge_starts, hyperedge)) {
            (None, _) => self.suspect.out_of_range(position, true, looks_like),
            (_, None) => self.suspect.out_of_range(position, false, looks_like),
            (Some(vertex_graph), Some(hyperedge_graph)) => Error::CrossGraphIncidence {
                position,
                // Both are below a total.
                vertex: vertex as usize,
                vertex_graph,
                hyperedge: hyperedge as usize,
                hyperedge_graph,
                bound: range(hyperedge_starts, vertex_graph),
                looks_like,
            },
        }
    }

    /// What the index, or with it the owners, look like.
    fn looks_like(&self) -> Option<Misbatching> {
        let Suspect { vertices, hyperedges, .. } = self.suspect;
        let (n, m) = (self.vertex_owners, self.hyperedge_owners);
        let of_owners = || diagnosis::of_owners(self.n_graphs, vertices, hyperedges, n, m);
        self.suspect.looks_like().or_else(of_owners)
    }

    /// A repeat that was found in a graph, as numbered in the batch.
    fn locate_repeat(&self, error: Error) -> Error {
        let Suspect { vertices, hyperedges, vertex_starts, hyperedge_starts } = self.suspect;
        let mut error = error;
        if let Error::RepeatedIncidence { vertex, hyperedge, looks_like, .. } = &mut error {
            *vertex += owner_of(hyperedge_starts, *hyperedge as i128).map_or(0, |graph| vertex_starts[graph]);
            *looks_like = self.suspect.is_not_shifted().then_some(Misbatching::NotShifted);
        }
        locate_repeat(error, vertices, hyperedges)
    }
}
