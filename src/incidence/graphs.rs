//! The topologies of many small graphs, made together in one allocation.

use std::sync::Arc;

use super::{
    ByEdge, Csr, Incidence, Place, Repeats, count_rows, drop_repeats, n_words, starts_of_rows, transpose,
};
use crate::error::{Result, try_with_capacity, try_zeroed};
use crate::index::Index;
use crate::owners::graph_of;

/// The topologies of many graphs on the way, in one allocation: the pointers by hyperedge of all graphs, then
/// the members of all their hyperedges, the pointers by vertex, and the hyperedges of all vertices. Each
/// graph's pointers start at 0.
pub(crate) struct Graphs<'a> {
    words: Vec<u32>,
    /// Graphs + 1 starts, the last of which is the total.
    vertex_starts: &'a [usize],
    hyperedge_starts: &'a [usize],
    incidence_starts: Vec<usize>,
    n_incidences: usize,
}

/// The four parts of [`Graphs`].
pub(crate) struct Parts<'a> {
    /// That of hyperedge `e` of graph `g` (numbered over all graphs) ends at `e + g + 1`.
    pub(crate) edge_pointers: &'a mut [u32],
    members: &'a mut [u32],
    /// That of vertex `v` of graph `g` ends at `v + g + 1`.
    pub(crate) vertex_pointers: &'a mut [u32],
    edges: &'a mut [u32],
}

impl<'a> Graphs<'a> {
    /// Graphs that have these ranges of vertices and hyperedges, and room for the incidences of all together.
    /// All pointers are zero.
    pub(crate) fn new(
        vertex_starts: &'a [usize],
        hyperedge_starts: &'a [usize],
        n_incidences: usize,
    ) -> Result<Self> {
        let n_graphs = vertex_starts.len() - 1;
        let rows = [vertex_starts[n_graphs], hyperedge_starts[n_graphs], n_graphs, n_graphs];
        let n_words = rows.iter().chain(&[n_incidences; 2]).fold(0usize, |sum, &n| sum.saturating_add(n));
        let words = try_zeroed("the topologies", n_words)?;
        let incidence_starts = try_with_capacity("the starts of the topologies", n_graphs)?;
        Ok(Self { words, vertex_starts, hyperedge_starts, incidence_starts, n_incidences })
    }

    fn n_graphs(&self) -> usize {
        self.vertex_starts.len() - 1
    }

    /// Where the four parts start.
    fn starts(&self) -> [usize; 4] {
        let n_graphs = self.n_graphs();
        let members = self.hyperedge_starts[n_graphs] + n_graphs;
        let vertex_pointers = members + self.n_incidences;
        [0, members, vertex_pointers, vertex_pointers + self.vertex_starts[n_graphs] + n_graphs]
    }

    pub(crate) fn parts(&mut self) -> Parts<'_> {
        let [_, members, vertex_pointers, edges] = self.starts();
        let (rest, edges) = self.words.split_at_mut(edges);
        let (rest, vertex_pointers) = rest.split_at_mut(vertex_pointers);
        let (edge_pointers, members) = rest.split_at_mut(members);
        Parts { edge_pointers, members, vertex_pointers, edges }
    }

    /// Writes the incidences of an index that was checked, and whose sizes of rows were counted into the
    /// pointers, each where its row ends. A repeat is an error as [`drop_repeats`] finds it, with a vertex
    /// that is numbered in its graph.
    pub(crate) fn fill<V: Index, E: Index>(
        &mut self,
        vertices: &[V],
        hyperedges: &[E],
        repeats: Repeats,
    ) -> Result<()> {
        let (vertex_starts, hyperedge_starts) = (self.vertex_starts, self.hyperedge_starts);
        let mut starts = std::mem::take(&mut self.incidence_starts);
        let n_graphs = self.n_graphs();
        let own = |starts: &[usize], graph: usize| starts[graph] + graph..starts[graph + 1] + graph + 1;
        let Parts { edge_pointers, members, vertex_pointers, edges } = self.parts();
        let order = Order::of(vertices, hyperedges);
        let mut start = 0;
        for graph in 0..n_graphs {
            starts.push(start);
            let pointers = &mut edge_pointers[own(hyperedge_starts, graph)];
            let by_vertex = &mut vertex_pointers[own(vertex_starts, graph)];
            let (n_edges, n_vertices) = match order {
                Order::ByHyperedge => (ends_of_rows(pointers), starts_of_rows(by_vertex)),
                Order::ByVertex => (starts_of_rows(pointers), ends_of_rows(by_vertex)),
                Order::Other => (starts_of_rows(pointers), starts_of_rows(by_vertex)),
            };
            debug_assert_eq!(n_edges, n_vertices);
            let range = start..start + n_edges;
            start = range.end;
            let (v0, e0) = (vertex_starts[graph], hyperedge_starts[graph]);
            let local = vertices[range.clone()].iter().zip(&hyperedges[range.clone()]);
            let local =
                local.map(|(v, e)| ((v.value() as usize - v0) as u32, (e.value() as usize - e0) as u32));
            let (members, edges) = (&mut members[range.clone()], &mut edges[range]);
            match order {
                Order::ByHyperedge => fill_both(local.map(|(v, e)| (e, v)), members, by_vertex, edges),
                Order::ByVertex => fill_both(local, edges, pointers, members),
                Order::Other => {}
            }
        }
        if order == Order::Other {
            let (mut graph, mut own_edges) = (0, 0..0);
            for (vertex, edge) in vertices.iter().zip(hyperedges) {
                let (vertex, edge) = (vertex.value() as usize, edge.value() as usize);
                if !own_edges.contains(&edge) {
                    graph = graph_of(hyperedge_starts, graph, edge);
                    own_edges = hyperedge_starts[graph]..hyperedge_starts[graph + 1];
                }
                let place = &mut edge_pointers[edge + graph + 1];
                members[starts[graph] + *place as usize] = (vertex - vertex_starts[graph]) as u32;
                *place += 1;
            }
        }

        let largest = match repeats {
            Repeats::Keep => 0,
            _ => vertex_starts.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0),
        };
        let mut last_seen = try_zeroed("the search for repeats", largest)?;
        for graph in 0..n_graphs {
            let pointers = &mut edge_pointers[own(hyperedge_starts, graph)];
            let by_vertex = &mut vertex_pointers[own(vertex_starts, graph)];
            let all = pointers[pointers.len() - 1] as usize;
            let members = &mut members[starts[graph]..][..all];
            let mut kept = all;
            if repeats != Repeats::Keep {
                let first = hyperedge_starts[graph];
                kept = drop_repeats("vertices", first, pointers, members, &mut last_seen, repeats)?;
            }
            let members = &members[..kept];
            if kept < all {
                by_vertex.fill(0);
                count_rows(by_vertex, members);
                starts_of_rows(by_vertex);
            }
            if kept < all || order == Order::Other {
                transpose(pointers, members, by_vertex, &mut edges[starts[graph]..][..kept]);
            }
        }
        self.incidence_starts = starts;
        Ok(())
    }

    /// The rows by hyperedge of a graph.
    pub(crate) fn rows(&self, graph: usize) -> ByEdge<'_> {
        let start = self.hyperedge_starts[graph] + graph;
        let pointers = &self.words[start..=self.hyperedge_starts[graph + 1] + graph];
        let [_, members, ..] = self.starts();
        let members = &self.words[members + self.incidence_starts[graph]..];
        let n_vertices = self.vertex_starts[graph + 1] - self.vertex_starts[graph];
        ByEdge { n_vertices, pointers, members: &members[..pointers[pointers.len() - 1] as usize] }
    }

    /// The topologies of these graphs, ascending. If they are not all, in an allocation of their own.
    pub(crate) fn topologies(self, graphs: &[usize]) -> Result<Vec<Incidence>> {
        let mut topologies = try_with_capacity("the topologies", graphs.len())?;
        let [_, members, vertex_pointers, edges] = self.starts();
        let are_all = graphs.len() == self.n_graphs();
        let Self { words, vertex_starts, hyperedge_starts, incidence_starts, .. } = self;
        let words = Arc::new(words);
        for &graph in graphs {
            let [n_vertices, n_hyperedges] =
                [vertex_starts, hyperedge_starts].map(|starts| (starts[graph + 1] - starts[graph]) as u32);
            let (vertices, hyperedges) = (vertex_starts[graph] + graph, hyperedge_starts[graph] + graph);
            let start = incidence_starts[graph];
            topologies.push(Incidence {
                by_edge: Place { pointers: hyperedges, indices: members + start },
                by_vertex: Place { pointers: vertex_pointers + vertices, indices: edges + start },
                n_vertices,
                n_hyperedges,
                // The last pointer.
                n_incidences: words[hyperedges + n_hyperedges as usize],
                words: words.clone(),
            });
        }
        if !are_all {
            compact(&mut topologies)?;
        }
        Ok(topologies)
    }
}

/// Moves topologies into one allocation that holds nothing else.
fn compact(topologies: &mut [Incidence]) -> Result<()> {
    let size = |t: &Incidence| n_words(t.n_vertices(), t.n_hyperedges(), t.n_incidences());
    let mut words: Vec<u32> = try_with_capacity("the topologies", topologies.iter().map(size).sum())?;
    for topology in topologies.iter_mut() {
        let mut moved = |csr: Csr<'_>| {
            let pointers = words.len();
            words.extend_from_slice(csr.pointers);
            words.extend_from_slice(csr.indices);
            Place { pointers, indices: pointers + csr.pointers.len() }
        };
        let (by_edge, by_vertex) = (moved(topology.by_edge()), moved(topology.by_vertex()));
        (topology.by_edge, topology.by_vertex) = (by_edge, by_vertex);
    }
    let words = Arc::new(words);
    topologies.iter_mut().for_each(|topology| topology.words = words.clone());
    Ok(())
}

/// How the incidences of an index stand.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// Hyperedge after hyperedge, as most are: the members are in their places already.
    ByHyperedge,
    /// Vertex after vertex, and each vertex's hyperedges ascending: the transpose is in its place already.
    ByVertex,
    Other,
}

impl Order {
    fn of<V: Index, E: Index>(vertices: &[V], hyperedges: &[E]) -> Self {
        if hyperedges.is_sorted_by_key(|e| e.value()) {
            return Self::ByHyperedge;
        }
        let pairs = vertices.iter().zip(hyperedges).map(|(v, e)| (v.value(), e.value()));
        if pairs.is_sorted() { Self::ByVertex } else { Self::Other }
    }
}

/// Writes entries that come row after row, and their transpose, whose rows start where `pointers` say at one
/// behind them. `pairs` are rows and entries.
fn fill_both(
    pairs: impl Iterator<Item = (u32, u32)>,
    entries: &mut [u32],
    pointers: &mut [u32],
    transposed: &mut [u32],
) {
    for ((row, entry), place) in pairs.zip(entries) {
        *place = entry;
        let place = &mut pointers[entry as usize + 1];
        transposed[*place as usize] = row;
        *place += 1;
    }
}

/// As [`starts_of_rows`], for entries that are in their places already: the number of entries of row `i`
/// becomes its end.
fn ends_of_rows(pointers: &mut [u32]) -> usize {
    let mut end = 0;
    for pointer in &mut pointers[1..] {
        end += *pointer;
        *pointer = end;
    }
    end as usize
}
