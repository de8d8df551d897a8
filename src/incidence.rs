//! One hypergraph's topology: which vertices stand in which hyperedge. Structure without values, validated once.

use crate::error::{Error, Result, fits_u32, try_with_capacity, try_zeroed};
use crate::index::{Index, below};

/// What to do with a vertex that a hyperedge lists more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OwnedCsr {
    pointers: Vec<u32>,
    indices: Vec<u32>,
}

impl OwnedCsr {
    fn view(&self) -> Csr<'_> {
        Csr { pointers: &self.pointers, indices: &self.indices }
    }
}

/// The incidences of one hypergraph with `n` vertices and `m` hyperedges: CSR by hyperedge, and its transpose by
/// vertex.
///
/// Vertices and hyperedges are never renumbered, and the members of a hyperedge keep the order in which they were
/// given: it is the order of summation. Empty hyperedges and isolated vertices keep their places.
///
/// Invariants, always checked by the constructors:
/// * `by_edge().pointers` has `m + 1` entries, starts at 0, does not decrease, ends at the number of incidences;
///   `by_vertex().pointers` likewise, with `n + 1`;
/// * every entry of `by_edge().indices` is below `n`, every entry of `by_vertex().indices` below `m`;
/// * `by_vertex()` holds the same incidences as `by_edge()`, each vertex's hyperedges ascending;
/// * `n`, `m` and the number of incidences fit in a `u32`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incidence {
    by_edge: OwnedCsr,
    by_vertex: OwnedCsr,
}

impl std::hash::Hash for Incidence {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // The transpose follows from these two.
        self.n_vertices().hash(state);
        self.by_edge.hash(state);
    }
}

impl Incidence {
    /// From the members of each hyperedge, in order. The number of hyperedges is `edges.len()`.
    ///
    /// # Errors
    /// [`Error::VertexOutOfRange`] (its position counts over all lists), [`Error::RepeatedIncidence`],
    /// [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn from_edges<E: AsRef<[I]>, I: Index>(
        n_vertices: usize,
        edges: &[E],
        repeats: Repeats,
    ) -> Result<Self> {
        let n_incidences = edges.iter().map(|e| e.as_ref().len()).sum();
        let mut pointers = try_with_capacity("edge_ptr", edges.len().saturating_add(1))?;
        let mut indices = try_with_capacity("edge_vertices", n_incidences)?;
        fits_u32("the number of vertices", n_vertices)?;
        fits_u32("the number of incidences", n_incidences)?;
        pointers.push(0);
        for edge in edges {
            for &vertex in edge.as_ref() {
                indices.push(vertex_id("edges", indices.len(), vertex, n_vertices)?);
            }
            pointers.push(indices.len() as u32);
        }
        Self::finish("edges", n_vertices, pointers, indices, repeats)
    }

    /// From compressed sparse rows by hyperedge: hyperedge `e` holds `edge_vertices[edge_ptr[e] .. edge_ptr[e + 1]]`.
    /// The number of hyperedges is `edge_ptr.len() - 1`.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] where `edge_ptr` is empty or does not end at `edge_vertices.len()`,
    /// [`Error::FirstPointerNotZero`], [`Error::PointersNotMonotone`], [`Error::VertexOutOfRange`],
    /// [`Error::RepeatedIncidence`], [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn from_csr<P: Index, I: Index>(
        n_vertices: usize,
        edge_ptr: &[P],
        edge_vertices: &[I],
        repeats: Repeats,
    ) -> Result<Self> {
        let table = "edge_ptr";
        let (Some(first), Some(last)) = (edge_ptr.first(), edge_ptr.last()) else {
            let bound_of = "the first pointer, 0";
            return Err(Error::LengthMismatch { table, value: 0, bound: 1, bound_of });
        };
        if first.value() != 0 {
            return Err(Error::FirstPointerNotZero { table, value: first.value() });
        }
        if let Some(i) = edge_ptr.windows(2).position(|p| p[1].value() < p[0].value()) {
            let (previous, value) = (edge_ptr[i].value(), edge_ptr[i + 1].value());
            return Err(Error::PointersNotMonotone { table, position: i + 1, value, previous });
        }
        if last.value() != edge_vertices.len() as i128 {
            // Not negative: the pointers start at 0 and do not decrease.
            let value = usize::try_from(last.value()).unwrap_or(usize::MAX);
            let bound_of = "edge_vertices";
            return Err(Error::LengthMismatch { table, value, bound: edge_vertices.len(), bound_of });
        }
        fits_u32("the number of vertices", n_vertices)?;
        fits_u32("the number of incidences", edge_vertices.len())?;
        let mut pointers = try_with_capacity(table, edge_ptr.len())?;
        pointers.extend(edge_ptr.iter().map(|p| p.value() as u32));
        let mut indices = try_with_capacity("edge_vertices", edge_vertices.len())?;
        for (position, &vertex) in edge_vertices.iter().enumerate() {
            indices.push(vertex_id("edge_vertices", position, vertex, n_vertices)?);
        }
        Self::finish("edge_vertices", n_vertices, pointers, indices, repeats)
    }

    /// From coordinates, in any order: incidence `i` puts vertex `vertices[i]` into hyperedge `hyperedges[i]`. These
    /// are the two rows of PyTorch Geometric's `hyperedge_index`. The members of a hyperedge keep the order of the
    /// incidences.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`], [`Error::VertexOutOfRange`], [`Error::HyperedgeOutOfRange`],
    /// [`Error::RepeatedIncidence`], [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn from_coo<I: Index>(
        n_vertices: usize,
        n_hyperedges: usize,
        vertices: &[I],
        hyperedges: &[I],
        repeats: Repeats,
    ) -> Result<Self> {
        check_coo_lengths(vertices.len(), hyperedges.len())?;
        fits_u32("the number of vertices", n_vertices)?;
        fits_u32("the number of hyperedges", n_hyperedges)?;
        fits_u32("the number of incidences", vertices.len())?;
        let mut vertex_ids = try_with_capacity("vertices", vertices.len())?;
        let mut edge_ids = try_with_capacity("hyperedges", hyperedges.len())?;
        for (position, (&vertex, &edge)) in vertices.iter().zip(hyperedges).enumerate() {
            vertex_ids.push(vertex_id("vertices", position, vertex, n_vertices)?);
            edge_ids.push(hyperedge_id("hyperedges", position, edge, n_hyperedges)? as u32);
        }
        let (pointers, order) = sort_by_key("edge_ptr", n_hyperedges, &edge_ids)?;
        let indices = order.iter().map(|&i| vertex_ids[i as usize]).collect();
        Self::finish("vertices", n_vertices, pointers, indices, repeats).map_err(|error| match error {
            Error::RepeatedIncidence { table, position, vertex, hyperedge } => {
                Error::RepeatedIncidence { table, position: order[position] as usize, vertex, hyperedge }
            }
            other => other,
        })
    }

    /// All `k`-subsets of `n` vertices as hyperedges, in lexicographic order (that of Python's
    /// `itertools.combinations(range(n), k)`): `subsets(3, 2)` is `{0,1} {0,2} {1,2}`. For `k > n` there are none, for
    /// `k = 0` there is one empty hyperedge.
    ///
    /// # Errors
    /// [`Error::TooLarge`], before anything is enumerated, and [`Error::OutOfMemory`].
    pub fn subsets(n: usize, k: usize) -> Result<Self> {
        fits_u32("the number of vertices", n)?;
        let (n_hyperedges, n_incidences) = count_subsets(n, k)?;
        let mut pointers = try_with_capacity("edge_ptr", n_hyperedges + 1)?;
        let mut indices: Vec<u32> = try_with_capacity("edge_vertices", n_incidences)?;
        pointers.extend((0..=n_hyperedges).map(|e| (e * k) as u32));
        if n_hyperedges > 0 {
            let mut subset: Vec<u32> = (0..k as u32).collect();
            loop {
                indices.extend_from_slice(&subset);
                // The last place that is not yet at its largest value moves on; those behind it follow it closely.
                let Some(i) = (0..k).rev().find(|&i| (subset[i] as usize) < n - k + i) else { break };
                let next = subset[i] + 1;
                for (place, vertex) in subset[i..].iter_mut().zip(next..) {
                    *place = vertex;
                }
            }
        }
        Self::finish("edge_vertices", n, pointers, indices, Repeats::Keep)
    }

    /// This hypergraph with further hyperedges `{v}` at the end, in ascending order of `v`, so that they have weights
    /// of their own behind those of the other hyperedges.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn with_self_loops(self, loops: SelfLoops) -> Result<Self> {
        let chosen: Vec<u32> = match loops {
            SelfLoops::None => return Ok(self),
            SelfLoops::All => (0..self.n_vertices() as u32).collect(),
            SelfLoops::Isolated => {
                let isolated = self.by_vertex().rows().zip(0u32..).filter(|(edges, _)| edges.is_empty());
                isolated.map(|(_, v)| v).collect()
            }
        };
        let n_vertices = self.n_vertices();
        fits_u32("the number of hyperedges", self.n_hyperedges() + chosen.len())?;
        fits_u32("the number of incidences", self.n_incidences() + chosen.len())?;
        let OwnedCsr { mut pointers, mut indices } = self.by_edge;
        let end = indices.len() as u32;
        pointers.extend((1..=chosen.len() as u32).map(|i| end + i));
        indices.extend_from_slice(&chosen);
        Self::finish("edge_vertices", n_vertices, pointers, indices, Repeats::Keep)
    }

    /// The number of vertices, `n`, isolated ones included.
    #[inline]
    pub fn n_vertices(&self) -> usize {
        self.by_vertex().len()
    }

    /// The number of hyperedges, `m`, empty ones included.
    #[inline]
    pub fn n_hyperedges(&self) -> usize {
        self.by_edge().len()
    }

    /// The number of incidences, repeated ones included.
    #[inline]
    pub fn n_incidences(&self) -> usize {
        self.by_edge.indices.len()
    }

    /// The vertices of each hyperedge, in the order of summation.
    #[inline]
    pub fn by_edge(&self) -> Csr<'_> {
        self.by_edge.view()
    }

    /// The hyperedges of each vertex, ascending.
    #[inline]
    pub fn by_vertex(&self) -> Csr<'_> {
        self.by_vertex.view()
    }

    /// The incidences as pairs (vertex, hyperedge), hyperedge after hyperedge.
    pub fn incidences(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.by_edge().rows().zip(0u32..).flat_map(|(members, e)| members.iter().map(move |&v| (v, e)))
    }

    /// Applies `repeats` and adds the transpose. The arguments satisfy the invariants of `by_edge`, but for the number
    /// of hyperedges, which is checked here.
    fn finish(
        table: &'static str,
        n_vertices: usize,
        mut pointers: Vec<u32>,
        mut indices: Vec<u32>,
        repeats: Repeats,
    ) -> Result<Self> {
        fits_u32("the number of hyperedges", pointers.len() - 1)?;
        if repeats != Repeats::Keep {
            drop_repeats(table, n_vertices, &mut pointers, &mut indices, repeats)?;
        }
        let (vertex_pointers, order) = sort_by_key("vertex_ptr", n_vertices, &indices)?;
        let mut edge_of = try_with_capacity("the hyperedge of each incidence", indices.len())?;
        for (e, p) in pointers.windows(2).enumerate() {
            edge_of.resize(edge_of.len() + (p[1] - p[0]) as usize, e as u32);
        }
        let vertex_edges = order.iter().map(|&i| edge_of[i as usize]).collect();
        Ok(Self {
            by_edge: OwnedCsr { pointers, indices },
            by_vertex: OwnedCsr { pointers: vertex_pointers, indices: vertex_edges },
        })
    }
}

/// `vertices.len() == hyperedges.len()`, or [`Error::LengthMismatch`].
pub(crate) fn check_coo_lengths(vertices: usize, hyperedges: usize) -> Result<()> {
    if vertices != hyperedges {
        let bound_of = "vertices";
        return Err(Error::LengthMismatch {
            table: "hyperedges",
            value: hyperedges,
            bound: vertices,
            bound_of,
        });
    }
    Ok(())
}

fn vertex_id<I: Index>(table: &'static str, position: usize, vertex: I, bound: usize) -> Result<u32> {
    let id = below(vertex, bound).map(|v| v as u32);
    id.ok_or(Error::VertexOutOfRange { table, position, value: vertex.value(), bound })
}

fn hyperedge_id<I: Index>(table: &'static str, position: usize, edge: I, bound: usize) -> Result<usize> {
    below(edge, bound).ok_or(Error::HyperedgeOutOfRange { table, position, value: edge.value(), bound })
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

/// A stable counting sort of the positions `0 .. keys.len()` by key: (start of each key's positions, positions). Keys
/// are below `n_keys`, and there are fewer than 2³² of them.
pub(crate) fn sort_by_key(what: &'static str, n_keys: usize, keys: &[u32]) -> Result<(Vec<u32>, Vec<u32>)> {
    let mut starts: Vec<u32> = try_zeroed(what, n_keys.saturating_add(1))?;
    let mut order: Vec<u32> = try_zeroed(what, keys.len())?;
    for &key in keys {
        starts[key as usize + 1] += 1;
    }
    for i in 0..n_keys {
        starts[i + 1] += starts[i];
    }
    for (position, &key) in keys.iter().enumerate() {
        order[starts[key as usize] as usize] = position as u32;
        starts[key as usize] += 1;
    }
    // Each start has moved to its end, which is the start of the key behind it.
    starts.copy_within(..n_keys, 1);
    starts[0] = 0;
    Ok((starts, order))
}

/// Removes the second and later occurrences of a vertex in a hyperedge, or refuses them.
fn drop_repeats(
    table: &'static str,
    n_vertices: usize,
    pointers: &mut [u32],
    indices: &mut Vec<u32>,
    repeats: Repeats,
) -> Result<()> {
    // last_seen[v] = 1 + the last hyperedge that was seen to hold v
    let mut last_seen: Vec<usize> = try_zeroed("the search for repeats", n_vertices)?;
    let mut kept = 0;
    let mut start = 0;
    for hyperedge in 0..pointers.len() - 1 {
        let end = pointers[hyperedge + 1] as usize;
        for position in start..end {
            let vertex = indices[position] as usize;
            if last_seen[vertex] == hyperedge + 1 {
                if repeats == Repeats::Reject {
                    return Err(Error::RepeatedIncidence { table, position, vertex, hyperedge });
                }
                continue;
            }
            last_seen[vertex] = hyperedge + 1;
            indices[kept] = indices[position];
            kept += 1;
        }
        start = end;
        pointers[hyperedge + 1] = kept as u32;
    }
    indices.truncate(kept);
    Ok(())
}
