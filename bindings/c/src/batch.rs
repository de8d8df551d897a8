//! Batches of hypergraphs.

use std::sync::Mutex;

use hyperscatter::cuda::DeviceBatch;
use hyperscatter::{AllInFirst, Axis, Batch, Error, Incidence, Owners};

use crate::arguments::{choice, give, hs_indices, indices, make, reference, slice, with_indices};
use crate::error::{Failure, Result, entry, quietly};
use crate::incidence::{axis, hs_incidence, repeats};

/// An already batched index in which all incidences are in the first graph is refused:
/// `HS_ERROR_ALL_IN_FIRST_GRAPH`.
pub const HS_ALL_IN_FIRST_REJECT: u32 = 0;
/// It is meant.
pub const HS_ALL_IN_FIRST_ACCEPT: u32 = 1;

/// Hypergraphs that are computed together: any number of copies of one, or a table of instances. It never
/// changes, and any number of threads may use it.
#[allow(non_camel_case_types)]
pub struct hs_batch {
    pub(crate) batch: Batch,
    /// What plans have uploaded, once for each device.
    pub(crate) uploads: Mutex<Vec<DeviceBatch>>,
}

impl From<Batch> for hs_batch {
    fn from(batch: Batch) -> Self {
        Self { batch, uploads: Mutex::default() }
    }
}

/// What a batch is.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct hs_batch_sizes {
    /// 1 for any number of copies of one hypergraph, 0 for a table of instances.
    pub is_replicated: u32,
    /// The number of different hypergraphs.
    pub topologies: usize,
    /// The number of instances of a table; 0 for copies, whose calls tell it.
    pub instances: usize,
    /// The vertices of the largest hypergraph in use: the `n` of padded operands.
    pub largest_vertices: usize,
    /// Its hyperedges, if it has the most: the weights that shared windows read.
    pub largest_hyperedges: usize,
}

/// Any number of copies of one hypergraph. Each call tells how many.
///
/// Errors: `HS_ERROR_NULL`.
///
/// # Safety
/// `incidence` is null or a living handle; `batch` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_batch_copies(incidence: *const hs_incidence, batch: *mut *mut hs_batch) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise, here and below.
        let of = || Ok(Batch::replicate(unsafe { reference("incidence", incidence)? }.0.clone()).into());
        // SAFETY: as above.
        unsafe { make("batch", batch, of) }
    })
}

/// # Safety
/// The pointer is null, or points to `len` handles, each null or living.
unsafe fn topologies(handles: *const *const hs_incidence, len: usize) -> Result<Vec<Incidence>> {
    // SAFETY: the caller's promise, here and below.
    let handles = unsafe { slice("incidences", handles, len)? };
    let mut topologies = Vec::new();
    let bytes = len as u128 * size_of::<Incidence>() as u128;
    let no_memory = |_| Error::OutOfMemory { what: "topologies", bytes };
    topologies.try_reserve_exact(len).map_err(no_memory)?;
    for &handle in handles {
        // SAFETY: as above.
        topologies.push(unsafe { reference("incidences[]", handle)? }.0.clone());
    }
    Ok(topologies)
}

/// A table of instances: instance `g` is a copy of `incidences[topology_ids[g]]`.
///
/// Errors: `HS_ERROR_TOPOLOGY_OUT_OF_RANGE`, `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`,
/// `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.
///
/// # Safety
/// Pointers are null or point to what they say; `incidences` has `n_incidences` handles, each null or living.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_batch_from_table(
    incidences: *const *const hs_incidence,
    n_incidences: usize,
    topology_ids: *const hs_indices,
    batch: *mut *mut hs_batch,
) -> i32 {
    entry(|| {
        let of = || {
            // SAFETY: the caller's promise, here and below.
            let (topologies, ids) =
                unsafe { (topologies(incidences, n_incidences)?, indices("topology_ids", topology_ids)?) };
            Ok(with_indices!(ids, ids => Batch::from_table(topologies, ids))?.into())
        };
        // SAFETY: as above.
        unsafe { make("batch", batch, of) }
    })
}

/// A table with one instance of each of these hypergraphs, in order.
///
/// Errors: `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_NULL`.
///
/// # Safety
/// Pointers are null or point to what they say; `incidences` has `n_incidences` handles, each null or living.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_batch_concat(
    incidences: *const *const hs_incidence,
    n_incidences: usize,
    batch: *mut *mut hs_batch,
) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise, here and below.
        let of = || Ok(Batch::concat(unsafe { topologies(incidences, n_incidences)? })?.into());
        // SAFETY: as above.
        unsafe { make("batch", batch, of) }
    })
}

/// A table of `n_graphs` instances from an already batched index: incidence `i` puts vertex `vertices[i]`
/// into hyperedge `hyperedges[i]`, both numbered over the whole batch. `vertex_counts` and `hyperedge_counts`
/// have for each graph the vertices and hyperedges that it owns, in order. Each incidence is checked against
/// them, so that an index that was shifted wrongly is refused.
///
/// All four arrays have the same integer type.
///
/// Errors: `HS_ERROR_CROSS_GRAPH_INCIDENCE`, `HS_ERROR_ALL_IN_FIRST_GRAPH`, `HS_ERROR_VERTEX_OUT_OF_RANGE`,
/// `HS_ERROR_HYPEREDGE_OUT_OF_RANGE`, `HS_ERROR_REPEATED_INCIDENCE`, `HS_ERROR_LENGTH_MISMATCH`,
/// `HS_ERROR_COUNTS_LENGTH`, `HS_ERROR_NEGATIVE_COUNT`, `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`,
/// `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`. Messages say what mistake of a loader the index looks like.
///
/// # Safety
/// Pointers are null or point to what they say, and arrays have as many elements as they say.
#[allow(clippy::too_many_arguments)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_batch_from_batched_coo(
    n_graphs: usize,
    vertices: *const hs_indices,
    hyperedges: *const hs_indices,
    vertex_counts: *const hs_indices,
    hyperedge_counts: *const hs_indices,
    repeats: u32,
    all_in_first: u32,
    batch: *mut *mut hs_batch,
) -> i32 {
    entry(|| {
        let of = || {
            let repeats = self::repeats(repeats)?;
            let choices = [AllInFirst::Reject, AllInFirst::Accept];
            let all_in_first = choice("all_in_first", all_in_first, &choices)?;
            // SAFETY: the caller's promise, here and below.
            let (vertices, hyperedges, of_vertices, of_hyperedges) = unsafe {
                (
                    indices("vertices", vertices)?,
                    indices("hyperedges", hyperedges)?,
                    indices("vertex_counts", vertex_counts)?,
                    indices("hyperedge_counts", hyperedge_counts)?,
                )
            };
            use crate::arguments::Indices::{I32, I64, U32, U64};
            macro_rules! of_type {
                ($($variant:ident)*) => {
                    match (vertices, hyperedges, of_vertices, of_hyperedges) {
                        $(($variant(v), $variant(e), $variant(nv), $variant(ne)) => {
                            let owners = (Owners::Counts(nv), Owners::Counts(ne));
                            Batch::from_batched_coo(n_graphs, v, e, owners.0, owners.1, repeats, all_in_first)
                        })*
                        _ => {
                            return Err(Failure::MixedIntegers);
                        }
                    }
                };
            }
            Ok(of_type!(I32 I64 U32 U64)?.into())
        };
        // SAFETY: as above.
        unsafe { make("batch", batch, of) }
    })
}

/// What a batch is, and how large.
///
/// Errors: `HS_ERROR_NULL`.
///
/// # Safety
/// `batch` is null or a living handle; `sizes` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_batch_get_sizes(batch: *const hs_batch, sizes: *mut hs_batch_sizes) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise, here and below.
        let batch = unsafe { &reference("batch", batch)?.batch };
        let found = hs_batch_sizes {
            is_replicated: batch.is_replicated().into(),
            topologies: batch.topologies().len(),
            instances: batch.n_instances().unwrap_or(0),
            largest_vertices: batch.largest(Axis::Vertex),
            largest_hyperedges: batch.largest(Axis::Hyperedge),
        };
        // SAFETY: as above.
        unsafe { give("sizes", sizes, found) }
    })
}

/// Where the rows of an instance start among those of all instances along an axis (`HS_VERTEX` or
/// `HS_HYPEREDGE`), in rows. With the number of instances it is the number of all rows.
///
/// Errors: `HS_ERROR_TOO_MANY_INSTANCES` where a table has fewer, `HS_ERROR_TOO_LARGE`, `HS_ERROR_ARGUMENT`,
/// `HS_ERROR_NULL`.
///
/// # Safety
/// `batch` is null or a living handle; `start` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_batch_get_start(
    batch: *const hs_batch,
    axis: u32,
    instance: usize,
    start: *mut usize,
) -> i32 {
    entry(|| {
        let axis = self::axis(axis)?;
        // SAFETY: the caller's promise, here and below.
        let batch = unsafe { &reference("batch", batch)?.batch };
        if let Some(bound) = batch.n_instances().filter(|&n| instance > n) {
            return Err(Error::TooManyInstances { value: instance, bound }.into());
        }
        let found = batch.start(axis, instance);
        // The library's own number is the largest that there is then.
        let (value, bound) = (batch.largest(axis) as u128 * instance as u128, usize::MAX as u128);
        if batch.is_replicated() && value > bound {
            return Err(Error::TooLarge { what: "start", value, bound }.into());
        }
        // SAFETY: as above.
        unsafe { give("start", start, found) }
    })
}

/// Frees a handle, or does nothing for null. Plans keep what they need.
///
/// # Safety
/// `batch` is null or a living handle, which nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_batch_free(batch: *mut hs_batch) {
    // SAFETY: the caller's promise; handles are boxes.
    quietly(|| drop((!batch.is_null()).then(|| unsafe { Box::from_raw(batch) })));
}
