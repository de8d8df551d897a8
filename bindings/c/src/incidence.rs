//! Topologies of hypergraphs.

use hyperscatter::{Axis, Incidence, Repeats, SelfLoops};

use crate::arguments::{choice, give, hs_indices, indices, make, reference, with_indices};
use crate::error::{Failure, entry, quietly};

/// A vertex that a hyperedge lists more than once counts each time, as in PyTorch Geometric.
pub const HS_REPEATS_KEEP: u32 = 0;
/// Such a hypergraph is refused: `HS_ERROR_REPEATED_INCIDENCE`.
pub const HS_REPEATS_REJECT: u32 = 1;
/// The first occurrence alone is kept.
pub const HS_REPEATS_MERGE: u32 = 2;

/// No vertex gets a hyperedge of its own.
pub const HS_SELF_LOOPS_NONE: u32 = 0;
/// Each vertex without a hyperedge gets one.
pub const HS_SELF_LOOPS_ISOLATED: u32 = 1;
/// Each vertex gets one.
pub const HS_SELF_LOOPS_ALL: u32 = 2;

/// Along vertices.
pub const HS_VERTEX: u32 = 0;
/// Along hyperedges.
pub const HS_HYPEREDGE: u32 = 1;

/// The incidences of one hypergraph, validated. It never changes, and any number of threads may use it.
#[allow(non_camel_case_types)]
pub struct hs_incidence(pub(crate) Incidence);

pub(crate) fn repeats(number: u32) -> crate::error::Result<Repeats> {
    choice("repeats", number, &[Repeats::Keep, Repeats::Reject, Repeats::Merge])
}

pub(crate) fn axis(number: u32) -> crate::error::Result<Axis> {
    choice("axis", number, &[Axis::Vertex, Axis::Hyperedge])
}

/// The sizes of a hypergraph.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct hs_incidence_sizes {
    /// The number of vertices, isolated ones included.
    pub vertices: usize,
    /// The number of hyperedges, empty ones included.
    pub hyperedges: usize,
    /// The number of incidences.
    pub incidences: usize,
}

/// A hypergraph from compressed sparse rows by hyperedge: hyperedge `e` holds
/// `edge_vertices[edge_ptr[e]]` up to before `edge_vertices[edge_ptr[e + 1]]`. There is one pointer more than
/// there are hyperedges. Both arrays are copied.
///
/// Errors: `HS_ERROR_NO_POINTERS`, `HS_ERROR_FIRST_POINTER_NOT_ZERO`, `HS_ERROR_POINTERS_NOT_MONOTONE`,
/// `HS_ERROR_LAST_POINTER`, `HS_ERROR_VERTEX_OUT_OF_RANGE`, `HS_ERROR_REPEATED_INCIDENCE`,
/// `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.
///
/// # Safety
/// Pointers are null or point to what they say, and arrays have as many elements as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_incidence_from_csr(
    vertices: usize,
    edge_ptr: *const hs_indices,
    edge_vertices: *const hs_indices,
    repeats: u32,
    incidence: *mut *mut hs_incidence,
) -> i32 {
    entry(|| {
        let of = || {
            let repeats = self::repeats(repeats)?;
            // SAFETY: the caller's promise, here and below.
            let (pointers, members) =
                unsafe { (indices("edge_ptr", edge_ptr)?, indices("edge_vertices", edge_vertices)?) };
            let incidence = with_indices!(pointers, pointers => with_indices!(members, members => {
                Incidence::from_csr(vertices, pointers, members, repeats)
            }));
            Ok(hs_incidence(incidence?))
        };
        // SAFETY: as above.
        unsafe { make("incidence", incidence, of) }
    })
}

/// A hypergraph from coordinates: incidence `i` puts vertex `edge_vertices[i]` into hyperedge
/// `hyperedges[i]`, in any order. These are the two rows of PyTorch Geometric's `hyperedge_index`. The number
/// of hyperedges is `n_hyperedges`, so that empty ones at the end count. Both arrays are copied.
///
/// Errors: `HS_ERROR_LENGTH_MISMATCH`, `HS_ERROR_VERTEX_OUT_OF_RANGE`, `HS_ERROR_HYPEREDGE_OUT_OF_RANGE`,
/// `HS_ERROR_REPEATED_INCIDENCE`, `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_ARGUMENT`,
/// `HS_ERROR_NULL`.
///
/// # Safety
/// Pointers are null or point to what they say, and arrays have as many elements as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_incidence_from_coo(
    n_vertices: usize,
    n_hyperedges: usize,
    vertices: *const hs_indices,
    hyperedges: *const hs_indices,
    repeats: u32,
    incidence: *mut *mut hs_incidence,
) -> i32 {
    entry(|| {
        let of = || {
            let repeats = self::repeats(repeats)?;
            // SAFETY: the caller's promise, here and below.
            let (vertices, hyperedges) =
                unsafe { (indices("vertices", vertices)?, indices("hyperedges", hyperedges)?) };
            let incidence = with_indices!(vertices, vertices => with_indices!(hyperedges, hyperedges => {
                Incidence::from_coo(n_vertices, n_hyperedges, vertices, hyperedges, repeats)
            }));
            Ok(hs_incidence(incidence?))
        };
        // SAFETY: as above.
        unsafe { make("incidence", incidence, of) }
    })
}

/// A hypergraph of all subsets of `k` of `n` vertices, in lexicographic order: with `k` = 2 all pairs.
///
/// Errors: `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_NULL`.
///
/// # Safety
/// `incidence` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_incidence_subsets(n: usize, k: usize, incidence: *mut *mut hs_incidence) -> i32 {
    // SAFETY: the caller's promise.
    entry(|| unsafe { make("incidence", incidence, || Ok(hs_incidence(Incidence::subsets(n, k)?))) })
}

/// The same hypergraph with further hyperedges of one vertex each behind the others, in ascending order:
/// for no vertex, for those without a hyperedge, or for all (`HS_SELF_LOOPS_*`).
///
/// Errors: `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.
///
/// # Safety
/// `of` is null or a living handle; `incidence` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_incidence_with_self_loops(
    of: *const hs_incidence,
    self_loops: u32,
    incidence: *mut *mut hs_incidence,
) -> i32 {
    entry(|| {
        let looped = || {
            let choices = [SelfLoops::None, SelfLoops::Isolated, SelfLoops::All];
            let loops = choice("self_loops", self_loops, &choices)?;
            // SAFETY: the caller's promise, here and below.
            let of = unsafe { reference("of", of)? };
            Ok(hs_incidence(of.0.clone().with_self_loops(loops)?))
        };
        // SAFETY: as above.
        unsafe { make("incidence", incidence, looped) }
    })
}

/// How many vertices, hyperedges and incidences there are.
///
/// Errors: `HS_ERROR_NULL`.
///
/// # Safety
/// `incidence` is null or a living handle; `sizes` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_incidence_get_sizes(
    incidence: *const hs_incidence,
    sizes: *mut hs_incidence_sizes,
) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise, here and below.
        let incidence = unsafe { &reference("incidence", incidence)?.0 };
        let found = hs_incidence_sizes {
            vertices: incidence.n_vertices(),
            hyperedges: incidence.n_hyperedges(),
            incidences: incidence.n_incidences(),
        };
        // SAFETY: as above.
        unsafe { give("sizes", sizes, found) }
    })
}

/// The incidences as compressed sparse rows by hyperedge, as `hs_incidence_from_csr` takes them: writes one
/// more pointer than there are hyperedges to `edge_ptr`, and as many vertices as there are incidences to
/// `edge_vertices` (which may be null where there are none).
///
/// Errors: `HS_ERROR_NULL`.
///
/// # Safety
/// `incidence` is null or a living handle; the arrays are null or have room for what `hs_incidence_get_sizes`
/// tells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_incidence_get_csr(
    incidence: *const hs_incidence,
    edge_ptr: *mut i64,
    edge_vertices: *mut i64,
) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise, here and below.
        let csr = unsafe { &reference("incidence", incidence)?.0 }.by_edge();
        let arrays = [("edge_ptr", edge_ptr, csr.pointers), ("edge_vertices", edge_vertices, csr.indices)];
        for (what, array, words) in arrays {
            if array.is_null() && !words.is_empty() {
                return Err(Failure::Null(what));
            }
        }
        for (_, array, words) in arrays {
            for (i, &word) in words.iter().enumerate() {
                // SAFETY: as above. An array may be aligned less than Rust's are.
                unsafe { array.add(i).write_unaligned(word.into()) };
            }
        }
        Ok(())
    })
}

/// Frees a handle, or does nothing for null. Batches that were made of it keep what they need.
///
/// # Safety
/// `incidence` is null or a living handle, which nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_incidence_free(incidence: *mut hs_incidence) {
    // SAFETY: the caller's promise; handles are boxes.
    quietly(|| drop((!incidence.is_null()).then(|| unsafe { Box::from_raw(incidence) })));
}
