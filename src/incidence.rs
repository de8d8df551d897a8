//! One hypergraph's topology: which vertices stand in which hyperedge. Structure without values, validated
//! once.

mod by_edge;
mod graphs;

use std::sync::Arc;

pub(crate) use by_edge::ByEdge;
pub(crate) use graphs::{Graphs, Parts};

use crate::axis::Axis;
use crate::diagnosis::{self, Suspect};
use crate::error::{Error, Result, fits_u32, try_with_capacity};
use crate::index::{Index, below};

/// What to do with a vertex that a hyperedge lists more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Repeats {
    /// Keep every occurrence: it counts in sums, sizes and degrees each time, as in PyTorch Geometric.
    Keep,
    /// Refuse the hypergraph with [`Error::RepeatedIncidence`].
    Reject,
    /// Keep the first occurrence only.
    Merge,
}

/// Which vertices get a hyperedge of their own, `{v}`, by [`Incidence::with_self_loops`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SelfLoops {
    /// None: the hypergraph stays as it is.
    None,
    /// Every vertex that stands in no hyperedge.
    Isolated,
    /// Every vertex.
    All,
}

/// A view of one direction of an incidence structure in compressed sparse row form: row `i` holds
/// `indices[pointers[i] .. pointers[i + 1]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Csr<'a> {
    /// Rows + 1 positions in `indices`, from 0 to its length, not decreasing.
    pub pointers: &'a [u32],
    /// The entries of all rows, row after row.
    pub indices: &'a [u32],
}

impl<'a> Csr<'a> {
    /// The number of rows.
    #[inline]
    pub fn len(&self) -> usize {
        self.pointers.len() - 1
    }

    /// Whether there are no rows.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries of row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`len`](Self::len).
    #[inline]
    pub fn row(&self, i: usize) -> &'a [u32] {
        &self.indices[self.pointers[i] as usize..self.pointers[i + 1] as usize]
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [u32]> + use<'a> {
        let Self { pointers, indices } = *self;
        pointers.windows(2).map(move |p| &indices[p[0] as usize..p[1] as usize])
    }
}

/// The incidences of one hypergraph with `n` vertices and `m` hyperedges: CSR by hyperedge, and its transpose
/// by vertex. A clone is cheap and shares them.
///
/// Vertices and hyperedges are never renumbered. The members of a hyperedge keep the order in which they were
/// given, which is the order of summation. Empty hyperedges and isolated vertices keep their places.
///
/// Topologies that were made together by [`Batch::from_batched_coo`](crate::Batch::from_batched_coo) share
/// one allocation: a clone of one of them keeps the memory of all. To copy one out, give its
/// [`by_edge`](Self::by_edge) to [`from_csr`](Self::from_csr).
///
/// Invariants, always checked by the constructors:
/// * `by_edge().pointers` has `m + 1` entries, starts at 0, does not decrease, ends at the number of
///   incidences; `by_vertex().pointers` likewise, with `n + 1`;
/// * every entry of `by_edge().indices` is below `n`, every entry of `by_vertex().indices` below `m`;
/// * `by_vertex()` holds the same incidences as `by_edge()`, each vertex's hyperedges ascending;
/// * `n`, `m` and the number of incidences fit in a `u32`.
#[derive(Clone)]
pub struct Incidence {
    /// All pointers and indices: of this topology, and of others that were made together with it, so that a
    /// batch of many small graphs is one allocation.
    words: Arc<Vec<u32>>,
    by_edge: Place,
    by_vertex: Place,
    n_vertices: u32,
    n_hyperedges: u32,
    n_incidences: u32,
}

/// Where the pointers and indices of one direction start.
#[derive(Clone, Copy)]
struct Place {
    pointers: usize,
    indices: usize,
}

impl PartialEq for Incidence {
    fn eq(&self, other: &Self) -> bool {
        // The transpose follows from these two.
        (self.n_vertices, self.by_edge()) == (other.n_vertices, other.by_edge())
    }
}

impl Eq for Incidence {}

impl std::hash::Hash for Incidence {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let Csr { pointers, indices } = self.by_edge();
        (self.n_vertices, pointers, indices).hash(state);
    }
}

impl std::fmt::Debug for Incidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Incidence");
        shown.field("by_edge", &self.by_edge()).field("by_vertex", &self.by_vertex()).finish()
    }
}

impl Incidence {
    /// From the members of each hyperedge, in order. The number of hyperedges is `edges.len()`.
    ///
    /// # Errors
    /// [`Error::VertexOutOfRange`] and [`Error::RepeatedIncidence`], which tell the list and the place in it;
    /// [`Error::TooLarge`], [`Error::OutOfMemory`]; [`Error::LengthMismatch`] where `as_ref` gives more
    /// members the second time.
    pub fn from_edges<E: AsRef<[I]>, I: Index>(
        n_vertices: usize,
        edges: &[E],
        repeats: Repeats,
    ) -> Result<Self> {
        let n_incidences = edges.iter().fold(0usize, |sum, edge| sum.saturating_add(edge.as_ref().len()));
        let mut words = Words::new(n_vertices, edges.len(), n_incidences)?;
        for (e, edge) in edges.iter().enumerate() {
            let edge = edge.as_ref();
            // Nothing says that `as_ref` gives the same members twice.
            if edge.len() > n_incidences - words.n_incidences() {
                let (table, bound_of) =
                    ("the concatenation of edges", "the members that as_ref gave when they were counted");
                let value = words.n_incidences().saturating_add(edge.len());
                return Err(Error::LengthMismatch { table, value, bound: n_incidences, bound_of });
            }
            for (position, &vertex) in edge.iter().enumerate() {
                let all = || edges.iter().flat_map(|edge| edge.as_ref().iter().map(|v| v.value()));
                words.push_member(vertex_id("edges", Some(e), position, vertex, n_vertices, all)?);
            }
            words.pointers()[e + 1] = words.n_incidences() as u32;
        }
        words.finish("edges", repeats).map_err(|error| match error {
            Error::RepeatedIncidence { table, vertex, hyperedge, looks_like, .. } => {
                let members = edges[hyperedge].as_ref().iter();
                let position = second(members.map(|v| v.value() == vertex as i128));
                let list = Some(hyperedge);
                Error::RepeatedIncidence { table, list, position, vertex, hyperedge, looks_like }
            }
            other => other,
        })
    }

    /// From compressed sparse rows by hyperedge: hyperedge `e` holds
    /// `edge_vertices[edge_ptr[e] .. edge_ptr[e + 1]]`. The number of hyperedges is `edge_ptr.len() - 1`.
    ///
    /// # Errors
    /// [`Error::NoPointers`] where `edge_ptr` is empty, [`Error::FirstPointerNotZero`],
    /// [`Error::PointersNotMonotone`], [`Error::LastPointer`] where it does not end at `edge_vertices.len()`,
    /// [`Error::VertexOutOfRange`], [`Error::RepeatedIncidence`], [`Error::TooLarge`],
    /// [`Error::OutOfMemory`].
    pub fn from_csr<P: Index, I: Index>(
        n_vertices: usize,
        edge_ptr: &[P],
        edge_vertices: &[I],
        repeats: Repeats,
    ) -> Result<Self> {
        let table = "edge_ptr";
        let (Some(first), Some(last)) = (edge_ptr.first(), edge_ptr.last()) else {
            return Err(Error::NoPointers { table });
        };
        if first.value() != 0 {
            return Err(Error::FirstPointerNotZero { table, value: first.value() });
        }
        if let Some(i) = edge_ptr.windows(2).position(|p| p[1].value() < p[0].value()) {
            let (previous, value) = (edge_ptr[i].value(), edge_ptr[i + 1].value());
            return Err(Error::PointersNotMonotone { table, position: i + 1, value, previous });
        }
        if last.value() != edge_vertices.len() as i128 {
            let (value, bound, bound_of) = (last.value(), edge_vertices.len(), "edge_vertices");
            return Err(Error::LastPointer { table, value, bound, bound_of });
        }
        let mut words = Words::new(n_vertices, edge_ptr.len() - 1, edge_vertices.len())?;
        for (word, pointer) in words.pointers().iter_mut().zip(edge_ptr) {
            *word = pointer.value() as u32;
        }
        for (position, &vertex) in edge_vertices.iter().enumerate() {
            let all = || edge_vertices.iter().map(|v| v.value());
            words.push_member(vertex_id("edge_vertices", None, position, vertex, n_vertices, all)?);
        }
        words.finish("edge_vertices", repeats)
    }

    /// From coordinates, in any order: incidence `i` puts vertex `vertices[i]` into hyperedge
    /// `hyperedges[i]`. These are the two rows of PyTorch Geometric's `hyperedge_index`. The members of a
    /// hyperedge keep the order of the incidences.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`]; [`Error::VertexOutOfRange`] and [`Error::HyperedgeOutOfRange`], which say
    /// so where the whole index looks as exchanged rows, ids that start at 1 or padding leave it;
    /// [`Error::RepeatedIncidence`], [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn from_coo<V: Index, E: Index>(
        n_vertices: usize,
        n_hyperedges: usize,
        vertices: &[V],
        hyperedges: &[E],
        repeats: Repeats,
    ) -> Result<Self> {
        check_coo_lengths(vertices.len(), hyperedges.len())?;
        let mut words = Words::new(n_vertices, n_hyperedges, vertices.len())?;
        let pointers = words.pointers();
        for (position, (&vertex, &edge)) in vertices.iter().zip(hyperedges).enumerate() {
            match (below(vertex, n_vertices), below(edge, n_hyperedges)) {
                (Some(_), Some(edge)) => pointers[edge + 1] += 1,
                (vertex, _) => {
                    let (vertex_starts, hyperedge_starts) = ([0, n_vertices], [0, n_hyperedges]);
                    let is_vertex = vertex.is_none();
                    let suspect = Suspect {
                        vertices,
                        hyperedges,
                        vertex_starts: &vertex_starts,
                        hyperedge_starts: &hyperedge_starts,
                    };
                    return Err(suspect.out_of_range(position, is_vertex, suspect.looks_like()));
                }
            }
        }
        starts_of_rows(pointers);
        words.fill_members(vertices, hyperedges);
        words.finish("vertices", repeats).map_err(|error| locate_repeat(error, vertices, hyperedges))
    }

    /// All `k`-subsets of `n` vertices as hyperedges, in lexicographic order (that of Python's
    /// `itertools.combinations(range(n), k)`): `subsets(3, 2)` is `{0,1} {0,2} {1,2}`. For `k > n` there are
    /// none, for `k = 0` there is one empty hyperedge.
    ///
    /// # Errors
    /// [`Error::TooLarge`], before anything is enumerated, and [`Error::OutOfMemory`].
    pub fn subsets(n: usize, k: usize) -> Result<Self> {
        fits_u32("the number of vertices", n)?;
        let (n_hyperedges, n_incidences) = count_subsets(n, k)?;
        let mut words = Words::new(n, n_hyperedges, n_incidences)?;
        for (e, pointer) in words.pointers().iter_mut().enumerate() {
            *pointer = (e * k) as u32;
        }
        if n_hyperedges > 0 {
            (0..k as u32).for_each(|vertex| words.push_member(vertex));
        }
        for _ in 1..n_hyperedges {
            // The last place that is not yet at its largest value moves on; those behind it follow it
            // closely.
            let subset = words.words.len() - k;
            let largest = |i: usize| (n - k + i) as u32;
            let Some(i) = (0..k).rev().find(|&i| words.words[subset + i] < largest(i)) else { break };
            let next = words.words[subset + i] + 1;
            words.words.extend_from_within(subset..subset + i);
            words.words.extend((next..).take(k - i));
        }
        words.finish("edge_vertices", Repeats::Keep)
    }

    /// This hypergraph with further hyperedges `{v}` at the end, in ascending order of `v`, so that they have
    /// weights of their own behind those of the other hyperedges.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn with_self_loops(self, loops: SelfLoops) -> Result<Self> {
        let by_vertex = self.by_vertex();
        let chosen = || {
            let rows = by_vertex.rows().zip(0u32..);
            rows.filter(|(edges, _)| loops == SelfLoops::All || edges.is_empty()).map(|(_, v)| v)
        };
        let n_chosen = match loops {
            SelfLoops::None => return Ok(self),
            _ => chosen().count(),
        };
        let Csr { pointers, indices } = self.by_edge();
        let n_hyperedges = self.n_hyperedges() + n_chosen;
        let mut words = Words::new(self.n_vertices(), n_hyperedges, indices.len() + n_chosen)?;
        let (own, new) = words.pointers().split_at_mut(pointers.len());
        own.copy_from_slice(pointers);
        for (pointer, end) in new.iter_mut().zip(indices.len() as u32 + 1..) {
            *pointer = end;
        }
        words.words.extend_from_slice(indices);
        words.words.extend(chosen());
        words.finish("edge_vertices", Repeats::Keep)
    }

    /// The number of vertices, `n`, isolated ones included.
    #[inline]
    pub fn n_vertices(&self) -> usize {
        self.n_vertices as usize
    }

    /// The number of hyperedges, `m`, empty ones included.
    #[inline]
    pub fn n_hyperedges(&self) -> usize {
        self.n_hyperedges as usize
    }

    /// The number of rows along an axis: [`n_vertices`](Self::n_vertices) or
    /// [`n_hyperedges`](Self::n_hyperedges).
    #[inline]
    pub fn size(&self, axis: Axis) -> usize {
        match axis {
            Axis::Vertex => self.n_vertices(),
            Axis::Hyperedge => self.n_hyperedges(),
        }
    }

    /// The number of incidences, repeated ones included.
    #[inline]
    pub fn n_incidences(&self) -> usize {
        self.n_incidences as usize
    }

    /// The vertices of each hyperedge, in the order of summation.
    #[inline]
    pub fn by_edge(&self) -> Csr<'_> {
        self.csr(self.by_edge, self.n_hyperedges())
    }

    /// The hyperedges of each vertex, ascending.
    #[inline]
    pub fn by_vertex(&self) -> Csr<'_> {
        self.csr(self.by_vertex, self.n_vertices())
    }

    /// The form whose rows are along an axis.
    #[inline]
    pub(crate) fn by(&self, axis: Axis) -> Csr<'_> {
        match axis {
            Axis::Vertex => self.by_vertex(),
            Axis::Hyperedge => self.by_edge(),
        }
    }

    #[inline]
    fn csr(&self, place: Place, n_rows: usize) -> Csr<'_> {
        let pointers = &self.words[place.pointers..][..n_rows + 1];
        Csr { pointers, indices: &self.words[place.indices..][..self.n_incidences()] }
    }

    /// What two equal topologies agree in.
    pub(crate) fn rows(&self) -> ByEdge<'_> {
        let Csr { pointers, indices } = self.by_edge();
        ByEdge { n_vertices: self.n_vertices(), pointers, members: indices }
    }

    /// The incidences as pairs (vertex, hyperedge), hyperedge after hyperedge.
    pub fn incidences(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.by_edge().rows().zip(0u32..).flat_map(|(members, e)| members.iter().map(move |&v| (v, e)))
    }
}

/// The words of a topology on the way: its pointers and members by hyperedge, with room for the transpose.
struct Words {
    words: Vec<u32>,
    n_vertices: usize,
    n_hyperedges: usize,
}

impl Words {
    /// Pointers that are zero, no members, and room for everything.
    fn new(n_vertices: usize, n_hyperedges: usize, n_incidences: usize) -> Result<Self> {
        fits_u32("the number of vertices", n_vertices)?;
        fits_u32("the number of hyperedges", n_hyperedges)?;
        fits_u32("the number of incidences", n_incidences)?;
        let mut words = try_with_capacity("a topology", n_words(n_vertices, n_hyperedges, n_incidences))?;
        words.resize(n_hyperedges + 1, 0);
        Ok(Self { words, n_vertices, n_hyperedges })
    }

    /// The members that there are.
    fn n_incidences(&self) -> usize {
        self.words.len() - (self.n_hyperedges + 1)
    }

    fn pointers(&mut self) -> &mut [u32] {
        &mut self.words[..self.n_hyperedges + 1]
    }

    fn push_member(&mut self, vertex: u32) {
        self.words.push(vertex);
    }

    /// Writes the members of coordinates that were checked, whose rows start where the pointers say.
    fn fill_members<V: Index, E: Index>(&mut self, vertices: &[V], hyperedges: &[E]) {
        self.words.resize(self.n_hyperedges + 1 + vertices.len(), 0);
        let (pointers, members) = self.words.split_at_mut(self.n_hyperedges + 1);
        for (vertex, edge) in vertices.iter().zip(hyperedges) {
            let place = &mut pointers[edge.value() as usize + 1];
            members[*place as usize] = vertex.value() as u32;
            *place += 1;
        }
    }

    /// Applies `repeats` and adds the transpose.
    fn finish(self, table: &'static str, repeats: Repeats) -> Result<Incidence> {
        let Self { mut words, n_vertices, n_hyperedges } = self;
        let first_member = n_hyperedges + 1;
        if repeats != Repeats::Keep {
            // In the room of the transpose.
            let end = words.len();
            words.resize(end + n_vertices, 0);
            let (by_edge, last_seen) = words.split_at_mut(end);
            let (pointers, members) = by_edge.split_at_mut(first_member);
            let kept = drop_repeats(table, 0, pointers, members, last_seen, repeats)?;
            words.truncate(first_member + kept);
        }
        let by_vertex = words.len();
        let n_incidences = by_vertex - first_member;
        words.resize(by_vertex + n_vertices + 1 + n_incidences, 0);
        let (by_edge, transposed) = words.split_at_mut(by_vertex);
        let (pointers, members) = by_edge.split_at(first_member);
        let (starts, edges) = transposed.split_at_mut(n_vertices + 1);
        count_rows(starts, members);
        starts_of_rows(starts);
        transpose(pointers, members, starts, edges);
        Ok(Incidence {
            words: Arc::new(words),
            by_edge: Place { pointers: 0, indices: first_member },
            by_vertex: Place { pointers: by_vertex, indices: by_vertex + n_vertices + 1 },
            n_vertices: n_vertices as u32,
            n_hyperedges: n_hyperedges as u32,
            n_incidences: n_incidences as u32,
        })
    }
}

/// The words of a topology; `usize::MAX`, for which there is no memory, if they are more.
fn n_words(n_vertices: usize, n_hyperedges: usize, n_incidences: usize) -> usize {
    [n_vertices, n_hyperedges, 2, n_incidences, n_incidences].iter().fold(0, |sum, &n| sum.saturating_add(n))
}

/// Counts the entries of row `i` into `pointers[i + 1]`.
fn count_rows(pointers: &mut [u32], rows: &[u32]) {
    for &row in rows {
        pointers[row as usize + 1] += 1;
    }
}

/// The number of entries of row `i`, at `i + 1`, becomes the start of row `i`; returns the number of all.
/// Whoever writes a row's entries moves its start along, and then the pointers are right: it is its end.
fn starts_of_rows(pointers: &mut [u32]) -> usize {
    let mut start = 0;
    for pointer in &mut pointers[1..] {
        start += std::mem::replace(pointer, start);
    }
    start as usize
}

/// Writes the hyperedges of each vertex, whose rows start where `by_vertex` says at one behind it.
fn transpose(pointers: &[u32], members: &[u32], by_vertex: &mut [u32], edges: &mut [u32]) {
    for (edge, row) in pointers.windows(2).enumerate() {
        for &vertex in &members[row[0] as usize..row[1] as usize] {
            let place = &mut by_vertex[vertex as usize + 1];
            edges[*place as usize] = edge as u32;
            *place += 1;
        }
    }
}

/// The error of a repeated incidence with its position in the index, of the second occurrence.
pub(crate) fn locate_repeat<V: Index, E: Index>(error: Error, vertices: &[V], hyperedges: &[E]) -> Error {
    match error {
        Error::RepeatedIncidence { table, list, vertex, hyperedge, looks_like, .. } => {
            let incidence = (vertex as i128, hyperedge as i128);
            let pairs = vertices.iter().zip(hyperedges);
            let position = second(pairs.map(|(v, e)| (v.value(), e.value()) == incidence));
            Error::RepeatedIncidence { table, list, position, vertex, hyperedge, looks_like }
        }
        other => other,
    }
}

/// Where the second one is that is it.
fn second(is_it: impl Iterator<Item = bool>) -> usize {
    is_it.enumerate().filter(|&(_, is_it)| is_it).nth(1).map_or(0, |(position, _)| position)
}

/// `vertices.len() == hyperedges.len()`, or [`Error::LengthMismatch`].
pub(crate) fn check_coo_lengths(vertices: usize, hyperedges: usize) -> Result<()> {
    if vertices != hyperedges {
        let bound_of = "vertices, the other row of the index";
        return Err(Error::LengthMismatch {
            table: "hyperedges",
            value: hyperedges,
            bound: vertices,
            bound_of,
        });
    }
    Ok(())
}

/// A vertex id, or the error where it stands among `all`.
fn vertex_id<I: Index, A: Iterator<Item = i128> + Clone>(
    table: &'static str,
    list: Option<usize>,
    position: usize,
    vertex: I,
    bound: usize,
    all: impl FnOnce() -> A,
) -> Result<u32> {
    let out_of_range = || {
        let looks_like = diagnosis::of_ids(all(), bound);
        Error::VertexOutOfRange { table, list, position, value: vertex.value(), bound, looks_like }
    };
    below(vertex, bound).map(|v| v as u32).ok_or_else(out_of_range)
}

/// The number of `k`-subsets of `n` and of their members, both within `u32`.
fn count_subsets(n: usize, k: usize) -> Result<(usize, usize)> {
    if k > n {
        return Ok((0, 0));
    }
    let bound = u128::from(u32::MAX);
    let too_large = |what, value| Err(Error::TooLarge { what, value, bound });
    let mut count: u128 = 1;
    for i in 0..k.min(n - k) as u128 {
        // C(n, i+1) = C(n, i) (n-i) / (i+1), always whole, and growing up to the middle.
        count = count * (n as u128 - i) / (i + 1);
        if count > bound {
            return too_large("the number of hyperedges (it may be even larger)", count);
        }
    }
    match count * k as u128 {
        incidences if incidences > bound => too_large("the number of incidences", incidences),
        incidences => Ok((count as usize, incidences as usize)),
    }
}

/// Removes the second and later occurrences of a vertex in a hyperedge, or refuses them; returns how many are
/// left. Hyperedges are numbered from `first` on. `last_seen`, a word for each vertex, is zero or has seen
/// smaller numbers only.
fn drop_repeats(
    table: &'static str,
    first: usize,
    pointers: &mut [u32],
    members: &mut [u32],
    last_seen: &mut [u32],
    repeats: Repeats,
) -> Result<usize> {
    // last_seen[v] = 1 + the last hyperedge that was seen to hold v. There are fewer than 2³² hyperedges.
    let mut kept = 0;
    let mut start = 0;
    for row in 0..pointers.len() - 1 {
        let end = pointers[row + 1] as usize;
        let hyperedge = first + row;
        for position in start..end {
            let vertex = members[position];
            let seen = std::mem::replace(&mut last_seen[vertex as usize], hyperedge as u32 + 1);
            if seen == hyperedge as u32 + 1 {
                if repeats == Repeats::Reject {
                    let (list, vertex, looks_like) = (None, vertex as usize, None);
                    return Err(Error::RepeatedIncidence {
                        table,
                        list,
                        position,
                        vertex,
                        hyperedge,
                        looks_like,
                    });
                }
                continue;
            }
            members[kept] = vertex;
            kept += 1;
        }
        start = end;
        pointers[row + 1] = kept as u32;
    }
    Ok(kept)
}
