//! Which kernels compute y of an instance: those of the gathers, or those of a class of dense operators.

use super::args::Kernel;
use crate::incidence::Incidence;
use crate::path::Path;

/// The numbers of vertices that dense kernels are compiled for. A topology is in the smallest class that has
/// room for its vertices: kernels keep the rows of all in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DenseClass {
    Of4,
    Of8,
    Of16,
    Of32,
}

impl DenseClass {
    pub(super) const ALL: &[Self] = &[Self::Of4, Self::Of8, Self::Of16, Self::Of32];

    /// The class of a topology with a dense operator.
    pub(super) fn of(n_vertices: usize) -> Self {
        let has_room = |class: &&Self| n_vertices <= class.vertices();
        Self::ALL.iter().find(has_room).copied().unwrap_or(Self::Of32)
    }

    /// The most vertices of its topologies, and so the entries of a row of M.
    pub(super) const fn vertices(self) -> usize {
        match self {
            Self::Of4 => 4,
            Self::Of8 => 8,
            Self::Of16 => 16,
            Self::Of32 => 32,
        }
    }

    /// Its kernel.
    pub(super) fn kernel(self) -> Kernel {
        match self {
            Self::Of4 => Kernel::Dense4Conv,
            Self::Of8 => Kernel::Dense8Conv,
            Self::Of16 => Kernel::Dense16Conv,
            Self::Of32 => Kernel::Dense32Conv,
        }
    }

    /// The shared memory of an instance whose sums have `size` bytes each: `DenseInstance` of
    /// `kernels/dense.cuh`, which asserts it.
    pub(super) const fn instance_bytes(self, size: usize) -> usize {
        let n = self.vertices();
        // M and scales; terms, degrees and shifts; and what is known of the instance.
        (n * n + n) * size + n * (8 + size) + 48
    }
}

/// A set of kernels for the instances of some topologies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Gather,
    Dense(DenseClass),
}

impl Route {
    /// The route of a topology on this path.
    pub(super) fn of(path: Path, topology: &Incidence) -> Self {
        match path {
            Path::Gather => Self::Gather,
            Path::Dense => Self::Dense(DenseClass::of(topology.n_vertices())),
        }
    }
}
