//! A batch of hypergraphs: topologies, and which instance uses which. Starts of vertices and hyperedges are
//! derived here and never given by a caller, so they cannot fall out of step.

use std::sync::Arc;

use crate::axis::Axis;
use crate::chunks::Chunks;
use crate::distinct::Distinct;
use crate::error::{Error, Result, fits_u32, try_with_capacity};
use crate::incidence::Incidence;
use crate::index::{Index, below};

/// Hypergraph instances that are computed together. There are two kinds:
///
/// * *replicated*: any number of copies of one topology. Each call tells how many, so a batch costs the same
///   for 1 and for 24,576 copies, and nothing is built again for a smaller last batch;
/// * a *table*: instances over several topologies. Their number is fixed.
///
/// The vertices of instance `g` follow those of instance `g - 1`, and so do its hyperedges. Feature rows,
/// results and weights of [`Windows::Consecutive`](crate::Windows::Consecutive) are in that order. A clone is
/// cheap and is the same batch.
#[derive(Debug, Clone)]
pub struct Batch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    topologies: Vec<Incidence>,
    /// The rows of the largest topology in use, for each axis.
    largest: [usize; 2],
    table: Option<Table>,
}

#[derive(Debug)]
struct Table {
    topology_ids: Vec<u32>,
    /// Instances + 1 starts for each axis; the last is the total.
    starts: [Vec<usize>; 2],
    /// For shared windows along each axis.
    chunks: [Chunks; 2],
}

impl Batch {
    /// Any number of copies of one topology.
    pub fn replicate(topology: Incidence) -> Self {
        let largest = [topology.n_vertices(), topology.n_hyperedges()];
        Self(Arc::new(Inner { topologies: vec![topology], largest, table: None }))
    }

    /// A table with one instance for each entry of `topology_ids`, which are positions in `topologies`. A
    /// topology may serve any number of instances, or none.
    ///
    /// # Errors
    /// [`Error::TopologyOutOfRange`], [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn from_table<I: Index>(topologies: Vec<Incidence>, topology_ids: &[I]) -> Result<Self> {
        let mut ids = try_with_capacity("topology_ids", topology_ids.len())?;
        let bound = topologies.len();
        for (instance, &id) in topology_ids.iter().enumerate() {
            let table = "topology_ids";
            let topology = below(id, bound);
            ids.push(topology.ok_or(Error::TopologyOutOfRange {
                table,
                instance,
                value: id.value(),
                bound,
            })? as u32);
        }
        Self::of(topologies, ids)
    }

    /// A table with one instance of each topology, in order. Equal topologies are stored once.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn concat(topologies: Vec<Incidence>) -> Result<Self> {
        let mut distinct = Distinct::with_capacity(topologies.len())?;
        let mut ids = try_with_capacity("topology_ids", topologies.len())?;
        for i in 0..topologies.len() {
            ids.push(distinct.id(i, |i| topologies[i].rows()));
        }
        let mut firsts = distinct.into_firsts().into_iter().peekable();
        let mut kept = topologies;
        let mut i = 0;
        kept.retain(|_| {
            i += 1;
            firsts.next_if_eq(&(i - 1)).is_some()
        });
        Self::of(kept, ids)
    }

    /// A table of instances whose ids are below the number of topologies.
    fn of(topologies: Vec<Incidence>, ids: Vec<u32>) -> Result<Self> {
        let starts = [starts(&topologies, &ids, Axis::Vertex)?, starts(&topologies, &ids, Axis::Hyperedge)?];
        Self::with_starts(topologies, ids, starts)
    }

    /// The same where the starts along both axes are known already.
    pub(crate) fn with_starts(
        topologies: Vec<Incidence>,
        ids: Vec<u32>,
        starts: [Vec<usize>; 2],
    ) -> Result<Self> {
        fits_u32("the number of topologies", topologies.len())?;
        fits_u32("the number of instances", ids.len())?;
        let along = |axis| Chunks::new(&topologies, axis, &ids, |_| 0);
        let chunks = [along(Axis::Vertex)?, along(Axis::Hyperedge)?];
        let used = || ids.iter().map(|&id| &topologies[id as usize]);
        let largest =
            [Axis::Vertex, Axis::Hyperedge].map(|axis| used().map(|t| t.size(axis)).max().unwrap_or(0));
        let table = Some(Table { topology_ids: ids, starts, chunks });
        Ok(Self(Arc::new(Inner { topologies, largest, table })))
    }

    /// The distinct topologies, by topology id.
    pub fn topologies(&self) -> &[Incidence] {
        &self.0.topologies
    }

    /// The number of instances of a table; `None` for a replicated batch, whose calls tell it.
    pub fn n_instances(&self) -> Option<usize> {
        self.0.table.as_ref().map(|t| t.topology_ids.len())
    }

    /// Whether this is any number of copies of one topology.
    pub fn is_replicated(&self) -> bool {
        self.0.table.is_none()
    }

    /// The topology id of an instance.
    ///
    /// # Panics
    /// If `instance` is not below the number of instances of a table.
    #[inline]
    pub fn topology_id(&self, instance: usize) -> usize {
        self.0.table.as_ref().map_or(0, |t| t.topology_ids[instance] as usize)
    }

    /// The topology of an instance.
    ///
    /// # Panics
    /// If `instance` is not below the number of instances of a table.
    #[inline]
    pub fn topology(&self, instance: usize) -> &Incidence {
        &self.0.topologies[self.topology_id(instance)]
    }

    /// The rows of all instances before `instance` along an axis: where its rows start in the batch.
    /// `start(axis, n_instances)` is the total.
    ///
    /// # Panics
    /// If `instance` is above the number of instances of a table.
    #[inline]
    pub fn start(&self, axis: Axis, instance: usize) -> usize {
        match &self.0.table {
            Some(table) => table.starts[axis as usize][instance],
            None => instance.saturating_mul(self.largest(axis)),
        }
    }

    /// The rows of the largest topology that an instance uses. Along hyperedges that is the number of weights
    /// that shared windows read.
    #[inline]
    pub fn largest(&self, axis: Axis) -> usize {
        self.0.largest[axis as usize]
    }

    /// The rows of all instances.
    pub(crate) fn total(&self, axis: Axis, instances: usize) -> Result<usize> {
        match &self.0.table {
            Some(table) => Ok(*table.starts[axis as usize].last().unwrap_or(&0)),
            None => {
                let total = self.largest(axis) as u128 * instances as u128;
                usize::try_from(total).map_err(|_| too_many_rows(axis, total))
            }
        }
    }

    /// The chunks of a table's instances, as they read shared windows along `axis`.
    pub(crate) fn chunks(&self, axis: Axis) -> Option<&Chunks> {
        self.0.table.as_ref().map(|t| &t.chunks[axis as usize])
    }

    /// Whether this is a clone of `other`.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<Incidence> for Batch {
    /// [`Batch::replicate`].
    fn from(topology: Incidence) -> Self {
        Self::replicate(topology)
    }
}

fn starts(topologies: &[Incidence], ids: &[u32], axis: Axis) -> Result<Vec<usize>> {
    let mut starts = try_with_capacity("starts of the instances", ids.len() + 1)?;
    let mut end: usize = 0;
    starts.push(0);
    for &id in ids {
        let size = topologies[id as usize].size(axis);
        end = end.checked_add(size).ok_or_else(|| too_many_rows(axis, end as u128 + size as u128))?;
        starts.push(end);
    }
    Ok(starts)
}

fn too_many_rows(axis: Axis, value: u128) -> Error {
    Error::TooLarge { what: axis.total(), value, bound: usize::MAX as u128 }
}
