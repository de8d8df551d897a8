//! A batch from an index that is batched already, with every incidence checked against the graph that owns it.

use std::ops::Range;

use crate::batch::Batch;
use crate::error::{Error, Misbatching, Result, fits_u32, try_with_capacity, try_zeroed};
use crate::incidence::{Incidence, Repeats, check_coo_lengths, sort_by_key};
use crate::index::{Index, below};

/// Which graph owns each vertex (or hyperedge) of an already batched index. Those of one graph stand together, graph
/// after graph.
#[derive(Debug, Clone, Copy)]
pub enum Owners<'a, I> {
    /// The graph of each vertex (or hyperedge), not decreasing: PyTorch Geometric's `batch` vector.
    GraphIds(&'a [I]),
    /// The number of vertices (or hyperedges) of each graph.
    Counts(&'a [I]),
}

impl Batch {
    /// From an already batched `hyperedge_index`: incidence `i` puts vertex `vertices[i]` into hyperedge
    /// `hyperedges[i]`, both numbered over the whole batch, in any order. The result is a table of `n_graphs` instances;
    /// graphs with equal incidences share one stored topology. Owners state every vertex and every hyperedge, so empty
    /// hyperedges (trailing ones too), isolated vertices and empty graphs keep their places.
    ///
    /// # Errors
    /// [`Error::CrossGraphIncidence`] where an incidence joins a vertex and a hyperedge of different graphs. It says so
    /// where the whole index looks as plain `Data` batching leaves it, also where that shifted ids past the last
    /// hyperedge. Else [`Error::VertexOutOfRange`], [`Error::HyperedgeOutOfRange`], [`Error::GraphIdsNotSorted`],
    /// [`Error::GraphOutOfRange`], [`Error::LengthMismatch`], [`Error::NegativeCount`], [`Error::RepeatedIncidence`]
    /// (as numbered in the batch), [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn from_batched_coo<I: Index>(
        n_graphs: usize,
        vertices: &[I],
        hyperedges: &[I],
        vertex_owners: Owners<'_, I>,
        hyperedge_owners: Owners<'_, I>,
        repeats: Repeats,
    ) -> Result<Self> {
        check_coo_lengths(vertices.len(), hyperedges.len())?;
        fits_u32("the number of graphs", n_graphs)?;
        fits_u32("the number of incidences", vertices.len())?;
        let index = BatchedIndex {
            vertices,
            hyperedges,
            vertex_starts: starts("vertex_owners", n_graphs, vertex_owners)?,
            hyperedge_starts: starts("hyperedge_owners", n_graphs, hyperedge_owners)?,
        };
        let (vertex_ids, edge_ids) = index.check()?;
        let BatchedIndex { vertex_starts, hyperedge_starts, .. } = index;

        let n_hyperedges = hyperedge_starts[n_graphs];
        let (edge_ptr, order) = sort_by_key("hyperedges", n_hyperedges, &edge_ids)?;
        let mut topologies = try_with_capacity("topologies", n_graphs)?;
        for graph in 0..n_graphs {
            let vertices = vertex_starts[graph]..vertex_starts[graph + 1];
            let pointers = &edge_ptr[hyperedge_starts[graph]..=hyperedge_starts[graph + 1]];
            let edges: Vec<Vec<u32>> = pointers
                .windows(2)
                .map(|p| &order[p[0] as usize..p[1] as usize])
                .map(|edge| edge.iter().map(|&i| vertex_ids[i as usize] - vertices.start as u32).collect())
                .collect();
            let topology = Incidence::from_edges(vertices.len(), &edges, repeats);
            topologies.push(topology.map_err(|error| match error {
                Error::RepeatedIncidence { position, vertex, hyperedge, .. } => Error::RepeatedIncidence {
                    table: "vertices",
                    position: order[pointers[0] as usize + position] as usize,
                    vertex: vertices.start + vertex,
                    hyperedge: hyperedge_starts[graph] + hyperedge,
                },
                other => other,
            })?);
        }
        Self::concat(topologies)
    }
}

/// A batched index and the ranges of vertices and hyperedges of its graphs.
struct BatchedIndex<'a, I> {
    vertices: &'a [I],
    hyperedges: &'a [I],
    vertex_starts: Vec<usize>,
    hyperedge_starts: Vec<usize>,
}

impl<I: Index> BatchedIndex<'_, I> {
    /// The ids as `u32`, if every incidence joins a vertex and a hyperedge of the same graph.
    fn check(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let mut vertex_ids = try_with_capacity("vertices", self.vertices.len())?;
        let mut edge_ids = try_with_capacity("hyperedges", self.hyperedges.len())?;
        // Incidences mostly come graph after graph: the last one's graph is tried first.
        let mut graph = 0;
        for (position, (&vertex, &edge)) in self.vertices.iter().zip(self.hyperedges).enumerate() {
            let bound = total(&self.vertex_starts);
            let (table, value) = ("vertices", vertex.value());
            let out_of_range = Error::VertexOutOfRange { table, position, value, bound };
            let vertex = below(vertex, bound).ok_or(out_of_range)?;
            if !range(&self.vertex_starts, graph).contains(&vertex) {
                graph = owner(&self.vertex_starts, vertex);
            }
            match below(edge, total(&self.hyperedge_starts)) {
                Some(edge) if range(&self.hyperedge_starts, graph).contains(&edge) => {
                    vertex_ids.push(vertex as u32);
                    edge_ids.push(edge as u32);
                }
                _ => return Err(self.refuse(position, vertex, graph, edge)),
            }
        }
        Ok((vertex_ids, edge_ids))
    }

    /// The error for the incidence at `position`, whose hyperedge is not one of its vertex's graph.
    fn refuse(&self, position: usize, vertex: usize, vertex_graph: usize, edge: I) -> Error {
        let total = total(&self.hyperedge_starts);
        let looks_like = self.is_shifted_by_vertices().then_some(Misbatching::ShiftedByVertices);
        let hyperedge_graph = below(edge, total).map(|e| owner(&self.hyperedge_starts, e));
        match usize::try_from(edge.value()) {
            Ok(hyperedge) if hyperedge_graph.is_some() || looks_like.is_some() => {
                Error::CrossGraphIncidence {
                    position,
                    vertex,
                    vertex_graph,
                    hyperedge,
                    hyperedge_graph,
                    bound: range(&self.hyperedge_starts, vertex_graph),
                    looks_like,
                }
            }
            _ => Error::HyperedgeOutOfRange {
                table: "hyperedges",
                position,
                value: edge.value(),
                bound: total,
            },
        }
    }

    /// Whether every hyperedge id would be one of its vertex's graph if the ids had been shifted by numbers of vertices.
    fn is_shifted_by_vertices(&self) -> bool {
        self.vertices.iter().zip(self.hyperedges).all(|(&vertex, &edge)| {
            let Some(vertex) = below(vertex, total(&self.vertex_starts)) else { return false };
            let graph = owner(&self.vertex_starts, vertex);
            let local = edge.value() - self.vertex_starts[graph] as i128;
            (0..range(&self.hyperedge_starts, graph).len() as i128).contains(&local)
        })
    }
}

fn total(starts: &[usize]) -> usize {
    starts.last().copied().unwrap_or(0)
}

fn range(starts: &[usize], graph: usize) -> Range<usize> {
    match starts.get(graph..graph + 2) {
        Some(ends) => ends[0]..ends[1],
        None => 0..0,
    }
}

/// The graph that owns `item`, which is below the total.
fn owner(starts: &[usize], item: usize) -> usize {
    starts.partition_point(|&start| start <= item) - 1
}

/// Graphs + 1 starts, the last of which is the total, within `u32`.
fn starts<I: Index>(table: &'static str, n_graphs: usize, owners: Owners<'_, I>) -> Result<Vec<usize>> {
    if let Owners::Counts(counts) = owners
        && counts.len() != n_graphs
    {
        let bound_of = "n_graphs";
        return Err(Error::LengthMismatch { table, value: counts.len(), bound: n_graphs, bound_of });
    }
    let mut starts: Vec<usize> = try_zeroed(table, n_graphs + 1)?;
    match owners {
        Owners::Counts(counts) => {
            for (graph, count) in counts.iter().map(|c| c.value()).enumerate() {
                let count = usize::try_from(count).map_err(|_| Error::NegativeCount {
                    table,
                    graph,
                    value: count,
                })?;
                starts[graph + 1] =
                    fits_u32("the rows of the batch", starts[graph].saturating_add(count))? as usize;
            }
        }
        Owners::GraphIds(ids) => {
            fits_u32("the rows of the batch", ids.len())?;
            let mut previous = 0;
            for (position, &id) in ids.iter().enumerate() {
                let value = id.value();
                let graph = below(id, n_graphs);
                let graph =
                    graph.ok_or(Error::GraphOutOfRange { table, position, value, bound: n_graphs })?;
                if graph < previous {
                    return Err(Error::GraphIdsNotSorted {
                        table,
                        position,
                        value,
                        previous: previous as i128,
                    });
                }
                previous = graph;
                starts[graph + 1] += 1;
            }
            for graph in 0..n_graphs {
                starts[graph + 1] += starts[graph];
            }
        }
    }
    Ok(starts)
}
