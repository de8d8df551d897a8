//! What the calls of a plan do and cost.

use std::time::Duration;

use super::args::Counts;
use super::geometry::{lanes, whole_vectors};
use super::kernels::{Kernel, Kernels};
use super::plan::Plan;
use super::scratch::{Sizes, Uses};
use super::tables::Orientation;
use super::{Checks, DeviceElement};
use crate::batch::Axis;
use crate::conv::{Conv, Normalization};

/// An operator of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operator {
    /// [`vertex_to_hyperedge`](super::Workspace::vertex_to_hyperedge)
    VertexToHyperedge,
    /// [`vertex_to_hyperedge_backward`](super::Workspace::vertex_to_hyperedge_backward)
    VertexToHyperedgeBackward,
    /// [`hyperedge_to_vertex`](super::Workspace::hyperedge_to_vertex)
    HyperedgeToVertex,
    /// [`hyperedge_to_vertex_backward`](super::Workspace::hyperedge_to_vertex_backward)
    HyperedgeToVertexBackward,
    /// [`conv`](super::Workspace::conv)
    Conv,
    /// [`conv_backward`](super::Workspace::conv_backward)
    ConvBackward,
}

impl Operator {
    /// All operators.
    pub const ALL: [Self; 6] = [
        Self::VertexToHyperedge,
        Self::VertexToHyperedgeBackward,
        Self::HyperedgeToVertex,
        Self::HyperedgeToVertexBackward,
        Self::Conv,
        Self::ConvBackward,
    ];

    /// The name of its method.
    pub fn name(self) -> &'static str {
        match self {
            Self::VertexToHyperedge => "vertex_to_hyperedge",
            Self::VertexToHyperedgeBackward => "vertex_to_hyperedge_backward",
            Self::HyperedgeToVertex => "hyperedge_to_vertex",
            Self::HyperedgeToVertexBackward => "hyperedge_to_vertex_backward",
            Self::Conv => "conv",
            Self::ConvBackward => "conv_backward",
        }
    }

    /// The most launches of a call, whatever the batch: those of [`OperatorExplanation::launches`] where both
    /// hyperedges and vertices have more than 512 incidences.
    pub const fn max_launches(self) -> usize {
        match self {
            Self::VertexToHyperedge | Self::HyperedgeToVertex => 2,
            // The factors to pull with, the gradient of the rows (2), the gradients of both scales (2 each, and 2 for the
            // products of the second).
            Self::VertexToHyperedgeBackward | Self::HyperedgeToVertexBackward => 9,
            // Degrees, z and y, 2 each.
            Self::Conv => 6,
            // Degrees and shifts (2 each), the factors to pull with, z, q, ⟨q, z⟩, ∂x and the products with y (2 each), the
            // gradients of the degrees, those of the weights (2), and their sums over the instances (2).
            Self::ConvBackward => 20,
        }
    }

    /// What a workspace has to be made for.
    pub fn uses(self) -> Uses {
        match self {
            Self::Conv => Uses::Conv,
            Self::ConvBackward => Uses::All,
            _ => Uses::Steps,
        }
    }
}

/// What the calls of a plan do and cost. Printing it tells the same in words.
///
/// Numbers of rows and bytes are those of all instances of a table batch, and those of one copy of a replicated batch.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// The element type.
    pub element: &'static str,
    /// The number of features.
    pub features: usize,
    /// The conventions of the convolution.
    pub conv: Conv,
    /// Whether every index is checked.
    pub checks: Checks,
    /// Whether rows are read 16 bytes at a time wherever addresses and strides are multiples of that.
    pub vectors: bool,
    /// The lanes of a warp that compute a row together: 8, 16 or 32.
    pub lanes: u32,
    /// The instances of a table batch; `None` for a replicated batch.
    pub instances: Option<usize>,
    /// The size of the tables on the device.
    pub table_bytes: usize,
    /// The hyperedges, and the vertices, by their number of incidences.
    pub rows: [RowsExplanation; 2],
    /// The operators, in the order of [`Operator::ALL`].
    pub operators: [OperatorExplanation; 6],
}

/// Rows by the number of their incidences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowsExplanation {
    /// Rows of up to 8 incidences.
    pub short: u64,
    /// Rows of 9 to 512 incidences.
    pub medium: u64,
    /// Rows of more than 512 incidences.
    pub long: u64,
    /// The segments of up to 512 incidences that those are cut into.
    pub segments: u64,
}

/// What a call of one operator does and costs, if all of its results are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorExplanation {
    /// The operator.
    pub operator: Operator,
    /// How it is computed.
    pub path: &'static str,
    /// Its kernels, each named once.
    pub kernels: Vec<&'static str>,
    /// The launches of a call with at least one instance, with both scales where it has scales, and with gradients that are
    /// summed over several instances.
    pub launches: usize,
    /// What has to be moved at least: each feature row that is an operand once.
    pub compulsory_bytes: u128,
    /// What is moved without any cache: a feature row for each incidence of each gather, each result once.
    pub gathered_bytes: u128,
    /// The scratch memory of a workspace that is made for it.
    pub workspace_bytes: u128,
}

impl OperatorExplanation {
    /// The time below which the operator cannot be on a device that moves so many bytes a second; `Duration::MAX` where that is
    /// no positive number.
    pub fn floor(&self, bytes_per_second: f64) -> Duration {
        let seconds = self.compulsory_bytes as f64 / bytes_per_second;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Explanation {
    /// One operator's part.
    pub fn of(&self, operator: Operator) -> &OperatorExplanation {
        &self.operators[operator as usize]
    }
}

impl<T: DeviceElement> Plan<T> {
    /// What the calls of this plan do and cost.
    pub fn explain(&self) -> Explanation {
        let batch = self.batch().batch();
        // Of all instances of a table, or of one copy.
        let instances = batch.n_instances().unwrap_or(1);
        let rows = Orientation::ALL.map(|o| {
            let Counts { partial, medium, short_row: short, long_row: long } =
                self.batch().tables().side(o).items(batch, instances);
            RowsExplanation { short, medium, long, segments: partial }
        });
        Explanation {
            element: T::NAME,
            features: self.features(),
            conv: self.conv(),
            checks: self.checks(),
            vectors: whole_vectors(self.features(), size_of::<T>()),
            lanes: lanes(self.features(), size_of::<T>()),
            instances: batch.n_instances(),
            table_bytes: self.batch().bytes(),
            rows,
            operators: Operator::ALL.map(|operator| self.explain_operator(operator, instances, rows)),
        }
    }

    fn explain_operator(
        &self,
        operator: Operator,
        instances: usize,
        rows: [RowsExplanation; 2],
    ) -> OperatorExplanation {
        let batch = self.batch().batch();
        let incidences: u128 = match batch.n_instances() {
            None => batch.topologies()[0].n_incidences() as u128,
            Some(n) => (0..n).map(|g| batch.topology(g).n_incidences() as u128).sum(),
        };
        let features = self.features() as u128;
        let (row, sums) = (features * size_of::<T>() as u128, features * size_of::<T::Acc>() as u128);
        let n = batch.start(Axis::Vertex, instances) as u128;
        let m = batch.start(Axis::Hyperedge, instances) as u128;
        let mut cost = Cost { kernels: self.kernels(), rows, names: vec![], launches: 0 };
        let (to_edges, to_vertices) = (Orientation::ByEdge, Orientation::ByVertex);
        let through_degree = self.conv().weights_in_degree();
        let through_message = self.conv().weight_use.in_message();
        let (compulsory, gathered) = match operator {
            Operator::Conv | Operator::ConvBackward if features == 0 => {
                // Degrees are looked at all the same.
                if self.conv().checks_degrees() {
                    cost.degrees(self.conv());
                }
                (0, 0)
            }
            _ if features == 0 => (0, 0),
            Operator::VertexToHyperedge => {
                cost.gather(Kernel::Gather, to_edges);
                ((n + m) * row, (incidences + m) * row)
            }
            Operator::HyperedgeToVertex => {
                cost.gather(Kernel::Gather, to_vertices);
                ((n + m) * row, (incidences + n) * row)
            }
            Operator::VertexToHyperedgeBackward | Operator::HyperedgeToVertexBackward => {
                let (by_source, by_target, n_sources, n_targets) = match operator {
                    Operator::VertexToHyperedgeBackward => (to_vertices, to_edges, n, m),
                    _ => (to_edges, to_vertices, m, n),
                };
                cost.launch(Kernel::RowScale);
                cost.gather(Kernel::Gather, by_source);
                cost.gradient();
                cost.gather(Kernel::Gather, by_target);
                cost.gradient();
                // The rows, those that they are multiplied with, and the gradient.
                ((2 * n_sources + n_targets) * row, (2 * incidences + 2 * n_sources + n_targets) * row)
            }
            Operator::Conv => {
                cost.degrees(self.conv());
                cost.gather(Kernel::Gather, to_edges);
                cost.gather(Kernel::GatherSums, to_vertices);
                (2 * n * row, incidences * (row + sums) + m * sums + n * row)
            }
            Operator::ConvBackward => {
                cost.degrees(self.conv());
                let mut gathered = incidences * (row + sums) + m * sums + n * row;
                if through_degree || through_message {
                    cost.gather(Kernel::Gather, to_edges);
                    gathered += incidences * row + m * sums;
                }
                if through_degree {
                    cost.sum([Kernel::EdgeShift, Kernel::AddEdgeShift], to_edges);
                }
                cost.gather(Kernel::Gather, to_edges);
                gathered += if through_message { m * sums } else { 0 };
                if self.leaves_out_single_incidences() {
                    cost.gather(Kernel::Gather, to_edges);
                    gathered += incidences * row;
                }
                cost.launch(Kernel::RowScale);
                cost.gather(Kernel::GatherSums, to_vertices);
                if through_degree {
                    let is_symmetric = self.conv().normalization == Normalization::Symmetric;
                    cost.gather(Kernel::GatherSums, to_vertices);
                    cost.launch(Kernel::DegreeGradient);
                    cost.sum([Kernel::WeightGradient, Kernel::AddWeightGradient], to_edges);
                    gathered += incidences * sums + n * row * if is_symmetric { 2 } else { 1 };
                }
                if through_degree || through_message {
                    cost.gradient();
                }
                (3 * n * row, gathered)
            }
        };
        OperatorExplanation {
            operator,
            path: "gather-reduce",
            launches: cost.launches,
            kernels: cost.names,
            compulsory_bytes: compulsory,
            gathered_bytes: gathered,
            workspace_bytes: Sizes::new(self, operator.uses(), instances).bytes(),
        }
    }
}

/// Counts launches.
struct Cost<'a> {
    kernels: &'a Kernels,
    rows: [RowsExplanation; 2],
    names: Vec<&'static str>,
    launches: usize,
}

impl Cost<'_> {
    fn launch(&mut self, kernel: Kernel) {
        self.launches += 1;
        let name = self.kernels.name(kernel);
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    /// Sums over the rows of an orientation, and over the segments of long ones.
    fn sum(&mut self, [sum, add]: [Kernel; 2], orientation: Orientation) {
        let RowsExplanation { short, medium, long, segments } = self.rows[orientation as usize];
        if short + medium + segments > 0 {
            self.launch(sum);
        }
        if long > 0 {
            self.launch(add);
        }
    }

    fn gather(&mut self, gather: Kernel, orientation: Orientation) {
        self.sum([gather, Kernel::AddPartials], orientation);
    }

    fn degrees(&mut self, conv: Conv) {
        if conv.normalization != Normalization::None {
            self.sum([Kernel::Degree, Kernel::AddDegree], Orientation::ByVertex);
        }
    }

    /// A gradient's sums over the instances.
    fn gradient(&mut self) {
        self.launch(Kernel::SumChunks);
        self.launch(Kernel::SumWindows);
    }
}

/// What an H100 copies in a second.
const COPY: f64 = 3e12;

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let checks = match self.checks {
            Checks::On => "every index is checked",
            Checks::Off => "unchecked",
        };
        writeln!(
            f,
            "{} features of {}, {checks}; tables of {} bytes",
            self.features, self.element, self.table_bytes
        )?;
        writeln!(f, "convolution: {:?}, weights {:?}", self.conv.normalization, self.conv.weight_use)?;
        let access = match self.vectors {
            true => "16 bytes at a time where addresses and strides allow it",
            false => "element by element, since a row is no multiple of 16 bytes",
        };
        writeln!(f, "a row: {} lanes, {access}", self.lanes)?;
        match self.instances {
            Some(instances) => writeln!(f, "for all {instances} instances:")?,
            None => writeln!(f, "for each copy:")?,
        }
        for (name, rows) in ["hyperedges", "vertices"].into_iter().zip(&self.rows) {
            let RowsExplanation { short, medium, long, segments } = rows;
            writeln!(
                f,
                "  {name}: {short} of up to 8 incidences, {medium} of up to 512, {long} longer, in {segments} segments"
            )?;
        }
        for explained in &self.operators {
            let OperatorExplanation { operator, path, kernels, launches, .. } = explained;
            writeln!(f, "  {}: {path}, {launches} launches ({})", operator.name(), kernels.join(", "))?;
            writeln!(
                f,
                "    bytes: {} at least ({:.3} us at 3.0 TB/s, an H100's copy), {} without caches; {} of workspace",
                explained.compulsory_bytes,
                explained.floor(COPY).as_secs_f64() * 1e6,
                explained.gathered_bytes,
                explained.workspace_bytes
            )?;
        }
        Ok(())
    }
}
