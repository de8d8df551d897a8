//! Which mistake of a loader a wrong index looks like: whether the whole index is what that mistake leaves.

use crate::error::{Error, try_with_capacity, try_zeroed};
use crate::index::Index;
use crate::misbatching::Misbatching;
use crate::owners::{Owners, owner_of, total};

/// Ids that are one row alone, of which there are `bound`, and of which one is out of range.
pub(crate) fn of_ids(ids: impl Iterator<Item = i128> + Clone, bound: usize) -> Option<Misbatching> {
    let bound = bound as i128;
    if ids.clone().all(|id| (1..=bound).contains(&id)) {
        return Some(Misbatching::OneBasedVertices);
    }
    ids.clone().all(|id| id < bound).then_some(Misbatching::NegativePadding)
}

/// What owners look like that are refused by themselves, or do not go with the index: what makes the whole
/// index right if one of them, or both, are read as this mistake says. An empty index tells nothing.
pub(crate) fn of_owners<V: Index, E: Index, N: Index, M: Index>(
    n_graphs: usize,
    vertices: &[V],
    hyperedges: &[E],
    vertex_owners: Owners<'_, N>,
    hyperedge_owners: Owners<'_, M>,
) -> Option<Misbatching> {
    use Misbatching::*;
    if vertices.is_empty() {
        return None;
    }
    let is_right = |n: &Option<Reading<'_, N>>, m: &Option<Reading<'_, M>>| {
        let (Some(n), Some(m)) = (n, m) else { return false };
        vertices.iter().zip(hyperedges).all(|(v, e)| {
            let graph = n.graph_of(v.value());
            graph.is_some() && graph == m.graph_of(e.value())
        })
    };
    let n = Reading::as_given(n_graphs, vertex_owners);
    let m = Reading::as_given(n_graphs, hyperedge_owners);
    [OneBasedGraphIds, CountsAsGraphIds, GraphIdsAsCounts, StartsAsOwners].into_iter().find(|&mistake| {
        let meant_n = Reading::as_meant(n_graphs, vertex_owners, mistake);
        let meant_m = Reading::as_meant(n_graphs, hyperedge_owners, mistake);
        is_right(&meant_n, &m) || is_right(&n, &meant_m) || is_right(&meant_n, &meant_m)
    })
}

/// Owners as they may be meant. None of them has more entries than the owners and one, however many graphs
/// there are said to be.
enum Reading<'a, I> {
    /// Graph ids that do not decrease, and the id of the first graph.
    GraphIds(&'a [I], i128),
    /// Graphs + 1 starts, the last of which is the total.
    Starts(Vec<usize>),
}

impl<'a, I: Index> Reading<'a, I> {
    fn as_given(n_graphs: usize, owners: Owners<'a, I>) -> Option<Self> {
        match owners {
            Owners::GraphIds(ids) => Self::graph_ids(n_graphs, ids, 0),
            Owners::Counts(counts) => Self::counts(n_graphs, counts),
        }
    }

    /// What was meant if it was given by this mistake.
    fn as_meant(n_graphs: usize, owners: Owners<'a, I>, mistake: Misbatching) -> Option<Self> {
        match (mistake, owners) {
            (Misbatching::OneBasedGraphIds, Owners::GraphIds(ids)) => Self::graph_ids(n_graphs, ids, 1),
            (Misbatching::CountsAsGraphIds, Owners::GraphIds(counts)) => Self::counts(n_graphs, counts),
            (Misbatching::GraphIdsAsCounts, Owners::Counts(ids)) => Self::graph_ids(n_graphs, ids, 0),
            (Misbatching::StartsAsOwners, Owners::GraphIds(starts) | Owners::Counts(starts)) => {
                Self::starts(n_graphs, starts)
            }
            _ => None,
        }
    }

    fn graph_ids(n_graphs: usize, ids: &'a [I], first: i128) -> Option<Self> {
        let range = first..first + n_graphs as i128;
        let are_right =
            ids.is_sorted_by_key(|id| id.value()) && ids.iter().all(|id| range.contains(&id.value()));
        are_right.then_some(Self::GraphIds(ids, first))
    }

    fn counts(n_graphs: usize, counts: &[I]) -> Option<Self> {
        if counts.len() != n_graphs {
            return None;
        }
        let mut starts = try_with_capacity(SEARCH, n_graphs + 1).ok()?;
        let mut end: usize = 0;
        starts.push(end);
        for count in counts {
            end = end.checked_add(usize::try_from(count.value()).ok()?)?;
            starts.push(end);
        }
        Some(Self::Starts(starts))
    }

    fn starts(n_graphs: usize, values: &[I]) -> Option<Self> {
        let is_first_zero = values.first().is_some_and(|first| first.value() == 0);
        if !is_first_zero || values.len() - 1 != n_graphs || !values.is_sorted_by_key(|v| v.value()) {
            return None;
        }
        let mut starts = try_with_capacity(SEARCH, values.len()).ok()?;
        for start in values {
            starts.push(usize::try_from(start.value()).ok()?);
        }
        Some(Self::Starts(starts))
    }

    /// The graph of a vertex (or hyperedge).
    fn graph_of(&self, id: i128) -> Option<usize> {
        match self {
            Self::GraphIds(ids, first) => {
                let id = ids.get(usize::try_from(id).ok()?)?;
                usize::try_from(id.value() - first).ok()
            }
            Self::Starts(starts) => owner_of(starts, id),
        }
    }
}

/// What memory is for that the search for a cause takes. There may be none: then the cause stays unknown.
const SEARCH: &str = "a search for the cause of an error";

/// A wrong index of one or more graphs, as it was given.
pub(crate) struct Suspect<'a, V, E> {
    pub(crate) vertices: &'a [V],
    pub(crate) hyperedges: &'a [E],
    /// Graphs + 1 starts, the last of which is the total.
    pub(crate) vertex_starts: &'a [usize],
    pub(crate) hyperedge_starts: &'a [usize],
}

impl<V: Index, E: Index> Suspect<'_, V, E> {
    /// The first mistake that leaves this index, the likeliest first.
    pub(crate) fn looks_like(&self) -> Option<Misbatching> {
        use Misbatching::*;
        let shifts = [
            ShiftedByVertices,
            HyperedgesNotShifted,
            VerticesNotShifted,
            ShiftedByHyperedges,
            HyperedgesShiftedByLargestId,
            VerticesShiftedByLargestId,
            NotShifted,
            ExchangedShifts,
            PaddedToLargest,
        ];
        // The first graph is right under all of these.
        let shifts = if self.n_graphs() > 1 { &shifts[..] } else { &[] };
        let others = [
            RowsExchanged,
            OneBased,
            OneBasedVertices,
            OneBasedHyperedges,
            NegativePadding,
            ShiftedPastOwnGraph,
        ];
        shifts.iter().chain(&others).copied().find(|&mistake| self.is(mistake))
    }

    /// Whether each graph's ids may all be local, graph after graph.
    pub(crate) fn is_not_shifted(&self) -> bool {
        self.n_graphs() > 1 && self.is(Misbatching::NotShifted)
    }

    fn is(&self, mistake: Misbatching) -> bool {
        use Misbatching::*;
        let vertices = |graph: usize| self.vertex_starts[graph] as i128;
        let hyperedges = |graph: usize| self.hyperedge_starts[graph] as i128;
        let nothing = |_| 0;
        match mistake {
            NotShifted => self.is_shifted(nothing, nothing),
            ShiftedByVertices => self.is_shifted(vertices, vertices),
            ShiftedByHyperedges => self.is_shifted(hyperedges, hyperedges),
            HyperedgesNotShifted => self.is_shifted(vertices, nothing),
            VerticesNotShifted => self.is_shifted(nothing, hyperedges),
            ExchangedShifts => self.is_shifted(hyperedges, vertices),
            HyperedgesShiftedByLargestId => {
                let ends = self.largest_ids(self.vertex_starts, self.pairs());
                ends.is_some_and(|ends| self.is_shifted(vertices, |graph| ends[graph]))
            }
            VerticesShiftedByLargestId => {
                let ends = self.largest_ids(self.hyperedge_starts, self.pairs().map(|(v, e)| (e, v)));
                ends.is_some_and(|ends| self.is_shifted(|graph| ends[graph], hyperedges))
            }
            PaddedToLargest => {
                let [n, m] = [self.vertex_starts, self.hyperedge_starts]
                    .map(|starts| starts.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0) as i128);
                self.is_shifted(|graph| graph as i128 * n, |graph| graph as i128 * m)
            }
            ShiftedPastOwnGraph => {
                self.is_shifted(|graph| vertices(graph + 1), |graph| hyperedges(graph + 1))
            }
            RowsExchanged => self.pairs().all(|(v, e)| self.are_of_one_graph(e, v)),
            OneBased => self.pairs().all(|(v, e)| self.are_of_one_graph(v - 1, e - 1)),
            OneBasedVertices => self.pairs().all(|(v, e)| self.are_of_one_graph(v - 1, e)),
            OneBasedHyperedges => self.pairs().all(|(v, e)| self.are_of_one_graph(v, e - 1)),
            NegativePadding => self.pairs().all(|(v, e)| v.min(e) < 0 || self.are_of_one_graph(v, e)),
            // Mistakes of the owners, see `of_owners`.
            CountsAsGraphIds | GraphIdsAsCounts | StartsAsOwners | OneBasedGraphIds => false,
        }
    }

    /// The error for a vertex or hyperedge that is out of range.
    pub(crate) fn out_of_range(
        &self,
        position: usize,
        is_vertex: bool,
        looks_like: Option<Misbatching>,
    ) -> Error {
        if is_vertex {
            let (table, value, bound) =
                ("vertices", self.vertices[position].value(), total(self.vertex_starts));
            return Error::VertexOutOfRange { table, list: None, position, value, bound, looks_like };
        }
        let (table, value, bound) =
            ("hyperedges", self.hyperedges[position].value(), total(self.hyperedge_starts));
        Error::HyperedgeOutOfRange { table, position, value, bound, looks_like }
    }

    fn n_graphs(&self) -> usize {
        self.vertex_starts.len() - 1
    }

    fn pairs(&self) -> impl Iterator<Item = (i128, i128)> + Clone + '_ {
        self.vertices.iter().zip(self.hyperedges).map(|(v, e)| (v.value(), e.value()))
    }

    fn are_of_one_graph(&self, vertex: i128, hyperedge: i128) -> bool {
        let graph = owner_of(self.vertex_starts, vertex);
        graph.is_some() && graph == owner_of(self.hyperedge_starts, hyperedge)
    }

    /// Whether there is a graph for each incidence whose vertex is one of that graph once `vertex_shift` of
    /// the graph is taken off, and its hyperedge once `hyperedge_shift` is. Where neither id tells the graph,
    /// graphs come in order.
    fn is_shifted(
        &self,
        vertex_shift: impl Fn(usize) -> i128,
        hyperedge_shift: impl Fn(usize) -> i128,
    ) -> bool {
        let n_graphs = self.n_graphs();
        let size = |starts: &[usize], graph: usize| (starts[graph + 1] - starts[graph]) as i128;
        let fits = |graph: usize, v: i128, e: i128| {
            (0..size(self.vertex_starts, graph)).contains(&(v - vertex_shift(graph)))
                && (0..size(self.hyperedge_starts, graph)).contains(&(e - hyperedge_shift(graph)))
        };
        // Shifted ids tell their graph if no graph's reach into the next one's.
        let tells = |starts: &[usize], shift: &dyn Fn(usize) -> i128| {
            (1..n_graphs).all(|graph| shift(graph - 1) + size(starts, graph - 1) <= shift(graph))
        };
        let last_from = |shift: &dyn Fn(usize) -> i128, id: i128| {
            let (mut low, mut high) = (0, n_graphs);
            while low < high {
                let middle = low + (high - low) / 2;
                if shift(middle) <= id { low = middle + 1 } else { high = middle }
            }
            low.checked_sub(1)
        };
        if tells(self.vertex_starts, &vertex_shift) {
            return self
                .pairs()
                .all(|(v, e)| last_from(&vertex_shift, v).is_some_and(|graph| fits(graph, v, e)));
        }
        if tells(self.hyperedge_starts, &hyperedge_shift) {
            return self
                .pairs()
                .all(|(v, e)| last_from(&hyperedge_shift, e).is_some_and(|graph| fits(graph, v, e)));
        }
        let mut graph = 0;
        self.pairs().all(|(v, e)| {
            while graph < n_graphs && !fits(graph, v, e) {
                graph += 1;
            }
            graph < n_graphs
        })
    }

    /// For each graph the largest id + 1 of all graphs before, where the first of each pair tells the graph
    /// and the second is the id; 0 for the first graph. `None` if an id tells no graph, or there is no memory
    /// to look for it.
    fn largest_ids(&self, starts: &[usize], pairs: impl Iterator<Item = (i128, i128)>) -> Option<Vec<i128>> {
        let mut ends: Vec<i128> = try_zeroed(SEARCH, starts.len()).ok()?;
        for (of_graph, id) in pairs {
            let end = &mut ends[owner_of(starts, of_graph)? + 1];
            *end = (*end).max(id.saturating_add(1));
        }
        // A graph without incidences moves nothing on.
        for graph in 1..ends.len() {
            ends[graph] = ends[graph].max(ends[graph - 1]);
        }
        Some(ends)
    }
}
