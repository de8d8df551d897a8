//! How the convolution of one topology's instances is computed, chosen in one place for both backends.

#[cfg(feature = "cuda")]
use crate::batch::Batch;
use crate::chunks::CHUNK_WORK;
use crate::element::Element;
#[cfg(feature = "cuda")]
use crate::error::try_zeroed;
use crate::error::{Error, Result, try_with_capacity};
use crate::incidence::Incidence;
use crate::summation::SEGMENT;

/// A way to compute the forward of the convolution for the instances of one topology.
///
/// A plan chooses one for each topology, by the topology, the number of features and the element type alone.
/// The backward and the steps are gather-reductions on every path. Both paths have the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// Gather-reduce over the whole batch, a kernel for each stage. Rows of hyperedges are in scratch memory.
    Gather,
    /// Gather-reduce, a block of threads for each instance and one kernel for all stages. Rows of hyperedges
    /// stay in shared memory. For small topologies. On the CPU, which computes small instances one at a time
    /// anyway, it is the same as
    /// [`Gather`](Self::Gather).
    SingleBlock,
}

/// The shared memory that every device gives a block without being asked for more.
const SHARED_BYTES: usize = 48 << 10;

/// The shared memory of an instance on [`Path::SingleBlock`]: rows of sums for the hyperedges, and for each
/// vertex L and its shift; the largest number where that is no number.
pub(crate) const fn shared_bytes(
    n_vertices: usize,
    n_hyperedges: usize,
    features: usize,
    sum_bytes: usize,
) -> usize {
    let rows = n_hyperedges.saturating_mul(features).saturating_mul(sum_bytes);
    rows.saturating_add(n_vertices.saturating_mul(sum_bytes + size_of::<i32>()))
}

/// Why a topology cannot be on a path.
struct Obstacle {
    what: &'static str,
    value: usize,
    bound: usize,
}

impl Path {
    /// All paths.
    pub const ALL: &'static [Self] = &[Self::Gather, Self::SingleBlock];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gather => "gather-reduce",
            Self::SingleBlock => "single-block gather",
        }
    }

    /// The path of a topology.
    pub(crate) fn choose<T: Element>(topology: &Incidence, features: usize) -> Self {
        match Self::SingleBlock.obstacle::<T>(topology, features) {
            None => Self::SingleBlock,
            Some(_) => Self::Gather,
        }
    }

    fn obstacle<T: Element>(self, topology: &Incidence, features: usize) -> Option<Obstacle> {
        if self == Self::Gather {
            return None;
        }
        // A block of its own would leave the rest of a device idle.
        if topology.is_large() {
            let (value, bound) = (topology.work(), CHUNK_WORK);
            return Some(Obstacle { what: "rows and incidences (counted both ways)", value, bound });
        }
        // Longer rows are summed in segments.
        let rows = topology.by_edge().rows().chain(topology.by_vertex().rows());
        let longest = rows.map(<[u32]>::len).max().unwrap_or(0);
        if longest > SEGMENT {
            return Some(Obstacle { what: "incidences of a row", value: longest, bound: SEGMENT });
        }
        let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
        let value = shared_bytes(n, m, features, size_of::<T::Acc>());
        (value > SHARED_BYTES).then_some(Obstacle {
            what: "bytes of shared memory",
            value,
            bound: SHARED_BYTES,
        })
    }
}

/// The paths of the topologies of a plan.
#[derive(Debug)]
pub(crate) struct Paths(Vec<Path>);

impl Paths {
    /// The paths that the caller gives, or else those that are chosen.
    pub(crate) fn new<T: Element>(
        topologies: &[Incidence],
        features: usize,
        given: Option<&[Path]>,
    ) -> Result<Self> {
        let mut paths = try_with_capacity("the path of each topology", topologies.len())?;
        let Some(given) = given else {
            paths.extend(topologies.iter().map(|topology| Path::choose::<T>(topology, features)));
            return Ok(Self(paths));
        };
        if given.len() != topologies.len() {
            return Err(Error::PathsMismatch { value: given.len(), bound: topologies.len() });
        }
        for (topology, (incidence, path)) in topologies.iter().zip(given).enumerate() {
            if let Some(Obstacle { what, value, bound }) = path.obstacle::<T>(incidence, features) {
                return Err(Error::PathUnavailable { path: path.name(), topology, what, value, bound });
            }
            paths.push(*path);
        }
        Ok(Self(paths))
    }

    /// One for each topology.
    pub(crate) fn as_slice(&self) -> &[Path] {
        &self.0
    }

    /// The paths that some instance is on, or for copies of a topology would be.
    #[cfg(feature = "cuda")]
    pub(crate) fn used_by(&self, batch: &Batch) -> Result<Vec<Path>> {
        let mut is_used = try_zeroed::<u8>("the topologies in use", self.0.len())?;
        match batch.n_instances() {
            None => is_used.fill(1),
            Some(instances) => (0..instances).for_each(|g| is_used[batch.topology_id(g)] = 1),
        }
        let has = |path: &Path| self.0.iter().zip(&is_used).any(|(of, &used)| of == path && used == 1);
        Ok(Path::ALL.iter().copied().filter(has).collect())
    }
}
