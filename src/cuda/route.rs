//! Which kernels compute the convolution of an instance, and its backward: those of the gathers, or those of
//! a class of dense operators.

use super::args::Kernel;
use crate::incidence::Incidence;
use crate::pairs::MOST_ON_PATH;
use crate::path::Path;

/// The numbers of vertices that dense kernels are compiled for. A topology is in the smallest class that has
/// room for its vertices: kernels keep the rows of all in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DenseClass {
    Of8,
    Of16,
    Of32,
    /// For matrices of instances alone: the path has no topology of it, and so no kernels.
    Of64,
}

impl DenseClass {
    pub(super) const ALL: &[Self] = &[Self::Of8, Self::Of16, Self::Of32, Self::Of64];

    /// The class of a topology with a dense operator.
    pub(super) fn of(n_vertices: usize) -> Self {
        let has_room = |class: &&Self| n_vertices <= class.vertices();
        Self::ALL.iter().find(has_room).copied().unwrap_or(Self::Of64)
    }

    /// The most vertices of its topologies, and so the entries of a row of M.
    pub(super) const fn vertices(self) -> usize {
        match self {
            Self::Of8 => 8,
            Self::Of16 => 16,
            Self::Of32 => 32,
            Self::Of64 => 64,
        }
    }

    /// The entries of an operator in scratch memory, and its words: see `DenseOperatorsArgs`.
    pub(super) const fn entries(self) -> usize {
        let n = self.vertices();
        n * n + 2 * n
    }

    pub(super) const fn words(self) -> usize {
        3 * self.vertices()
    }

    /// Whether the path of dense operators has kernels of this class.
    pub(super) const fn is_on_path(self) -> bool {
        self.vertices() <= MOST_ON_PATH
    }

    /// The kernel of its forward.
    pub(super) fn conv(self) -> Kernel {
        match self {
            Self::Of8 => Kernel::Dense8Conv,
            Self::Of16 => Kernel::Dense16Conv,
            Self::Of32 | Self::Of64 => Kernel::Dense32Conv,
        }
    }

    /// The kernel of its backward.
    pub(super) fn backward(self) -> Kernel {
        match self {
            Self::Of8 => Kernel::Dense8Backward,
            Self::Of16 => Kernel::Dense16Backward,
            Self::Of32 | Self::Of64 => Kernel::Dense32Backward,
        }
    }
}

/// A set of kernels for the instances of some topologies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Gather,
    Dense(DenseClass),
}

impl Route {
    /// Whether its kernels have all rows of an instance at hand, and registers for their mean.
    pub(super) fn makes_readouts(self) -> bool {
        match self {
            Self::Gather | Self::Dense(DenseClass::Of32 | DenseClass::Of64) => false,
            Self::Dense(DenseClass::Of8 | DenseClass::Of16) => true,
        }
    }

    /// Whether its kernels read the inverse degrees of vertices that other kernels leave in scratch memory.
    pub(super) fn reads_degrees(self) -> bool {
        match self {
            Self::Gather => true,
            Self::Dense(_) => false,
        }
    }

    /// Whether its kernels make whole gradients of weights, and add those of copies that share a window. If
    /// not, they make those of each instance alone, and where weights are in the message alone, a number for
    /// each block of features.
    pub(super) fn makes_weight_gradients(self) -> bool {
        match self {
            Self::Gather => false,
            Self::Dense(_) => true,
        }
    }

    /// The class of a dense operator, if that is what it computes by.
    pub(super) fn class(self) -> Option<DenseClass> {
        match self {
            Self::Gather => None,
            Self::Dense(class) => Some(class),
        }
    }

    /// The route of a topology on this path.
    pub(super) fn of(path: Path, topology: &Incidence) -> Self {
        match path {
            Path::Gather => Self::Gather,
            Path::Dense => Self::Dense(DenseClass::of(topology.n_vertices())),
        }
    }
}
