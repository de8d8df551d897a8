//! How the convolution of one topology's instances is computed, chosen in one place for both backends.

use crate::element::Element;
use crate::error::{Error, Result, try_with_capacity};
use crate::incidence::Incidence;
use crate::pairs::{Obstacle, Pairs};

/// A way to compute the convolution and its backward for the instances of one topology.
///
/// A plan chooses one for each topology, by the topology and the element type alone. The steps are
/// gather-reductions on every path, and so is z where it is saved. Each path has bits of its own, which are
/// the same on all backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// Gather-reduce, from vertices to hyperedges and back. Rows of hyperedges are in scratch memory.
    Gather,
    /// The n × n operator M = L H U B⁻¹ Hᵀ R is formed from the weights and applied to the rows of an
    /// instance: each is read once and written once. Its transpose gives ∂x, and the products ⟨g_u, x_v⟩ give
    /// the gradients of weights. For topologies of up to 32 vertices, each of which is in up to 512
    /// hyperedges and in none of them often.
    Dense,
}

/// Topologies of up to so many vertices are always faster by their dense operator. Prototypes of the kernels
/// were, against the gathers of this crate (commit 53b54328de00), on an H100 on 2026-11-26, in `f32` and
/// `bf16`, with all pairs and with hyperedges of four. The kernels themselves have not been timed on a GPU.
const DENSE_VERTICES: usize = 16;

/// The incidences for each vertex from which on larger ones are, too. In that comparison hyperedges of four
/// with 8 incidences a vertex took as long on either path in 16-bit types with 24 vertices, and less on the
/// dense path with 32 vertices in `f32`.
fn dense_incidences<T: Element>() -> usize {
    if size_of::<T>() == 2 { 12 } else { 7 }
}

impl Path {
    /// All paths.
    pub const ALL: &'static [Self] = &[Self::Gather, Self::Dense];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gather => "gather-reduce",
            Self::Dense => "dense operator",
        }
    }

    /// The path of a topology.
    pub(crate) fn choose<T: Element>(topology: &Incidence) -> Self {
        let n = topology.n_vertices();
        let is_dense = n <= DENSE_VERTICES || topology.n_incidences() >= dense_incidences::<T>() * n;
        if is_dense && Pairs::obstacle_on_path(topology).is_none() { Self::Dense } else { Self::Gather }
    }

    /// Why a topology cannot be on this path.
    fn obstacle(self, topology: &Incidence) -> Option<Obstacle> {
        match self {
            Self::Gather => None,
            Self::Dense => Pairs::obstacle_on_path(topology),
        }
    }
}

/// What a plan of the CPU makes ready for a topology on its path.
#[derive(Debug)]
pub(crate) enum Prepared {
    Gather {
        /// What M is formed from, for the operators with a matrix for each instance.
        matrix: Option<Pairs>,
    },
    Dense(Pairs),
}

impl Prepared {
    /// For a topology on this path; `has_matrix` says whether M itself may be asked for.
    pub(crate) fn new(path: Path, topology: &Incidence, has_matrix: bool) -> Result<Self> {
        Ok(match path {
            Path::Gather if has_matrix => Self::Gather { matrix: Some(Pairs::new(topology)?) },
            Path::Gather => Self::Gather { matrix: None },
            Path::Dense => Self::Dense(Pairs::new(topology)?),
        })
    }

    /// What M is formed from, if the topology has one.
    pub(crate) fn pairs(&self) -> Option<&Pairs> {
        match self {
            Self::Gather { matrix } => matrix.as_ref(),
            Self::Dense(pairs) => Some(pairs),
        }
    }

    /// Whether a task may have the instances of several windows, whose operators are formed together.
    pub(crate) fn has_several_windows(&self) -> bool {
        match self {
            Self::Gather { .. } => false,
            Self::Dense(_) => true,
        }
    }

    /// Whether it has rows of hyperedges in scratch memory.
    pub(crate) fn has_edge_rows(&self) -> bool {
        match self {
            Self::Gather { .. } => true,
            Self::Dense(_) => false,
        }
    }
}

/// The paths of the topologies of a plan.
#[derive(Debug)]
pub(crate) struct Paths(Vec<Path>);

impl Paths {
    /// The paths that the caller gives, or else those that are chosen.
    pub(crate) fn new<T: Element>(topologies: &[Incidence], given: Option<&[Path]>) -> Result<Self> {
        let mut paths = try_with_capacity("the path of each topology", topologies.len())?;
        let Some(given) = given else {
            paths.extend(topologies.iter().map(|topology| Path::choose::<T>(topology)));
            return Ok(Self(paths));
        };
        if given.len() != topologies.len() {
            return Err(Error::PathsMismatch { value: given.len(), bound: topologies.len() });
        }
        for (topology, (incidence, path)) in topologies.iter().zip(given).enumerate() {
            if let Some(Obstacle { what, value, bound }) = path.obstacle(incidence) {
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
}
