//! What the calls of a plan launch, move and need.

use std::time::Duration;

use super::args::Counts;
use super::count::{Request, count, needs};
use super::geometry::{lanes, whole_vectors};
use super::plan::Plan;
use super::tables::Orientation;
use super::{Checks, DeviceElement};
use crate::conv::Conv;
use crate::error::{Error, Result};
use crate::operator::Operator;
use crate::path::Path;

/// What the calls of a plan do and cost with some number of instances. Printing it tells the same in words.
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
    /// The instances of the calls.
    pub instances: usize,
    /// The size of the tables on the device.
    pub table_bytes: usize,
    /// The hyperedges of all instances, by their number of incidences.
    pub hyperedges: RowsExplanation,
    /// The vertices of all instances, likewise.
    pub vertices: RowsExplanation,
    /// The operators, in the order of [`Operator::ALL`].
    pub operators: Vec<OperatorExplanation>,
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
    /// The segments of up to 512 incidences that long rows are cut into.
    pub segments: u64,
}

/// What a call of one operator does and costs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorExplanation {
    /// The operator.
    pub operator: Operator,
    /// How it is computed for the instances of each topology.
    pub paths: Vec<Path>,
    /// Its kernels, each named once.
    pub kernels: Vec<&'static str>,
    /// The kernels that it launches.
    pub launches: usize,
    /// The fills with zeros that it queues besides, for gradients that no instance adds to; none for those
    /// that are added to instead of overwritten.
    pub zero_fills: usize,
    /// The bytes that any implementation has to move: each row of features, and of a saved z, that is an
    /// operand, once.
    pub compulsory_bytes: u128,
    /// The bytes of feature rows that its launches move if nothing is cached. A gather reads a row for each
    /// incidence; other launches read each row once. Each row that is stored counts once, in scratch memory,
    /// too. What is no row of features, such as a dense operator, is not counted.
    pub uncached_bytes: u128,
    /// The scratch memory of a workspace that is made for it.
    pub workspace_bytes: u128,
}

impl OperatorExplanation {
    /// Of an operator that cannot be called.
    fn nothing(operator: Operator) -> Self {
        Self {
            operator,
            paths: Vec::new(),
            kernels: Vec::new(),
            launches: 0,
            zero_fills: 0,
            compulsory_bytes: 0,
            uncached_bytes: 0,
            workspace_bytes: 0,
        }
    }

    /// The least time that the compulsory bytes take on a device that moves this many bytes a second;
    /// `Duration::MAX` if that is not a positive number.
    pub fn floor(&self, bytes_per_second: f64) -> Duration {
        let seconds = self.compulsory_bytes as f64 / bytes_per_second;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Explanation {
    /// What a call of one operator does and costs.
    pub fn of(&self, operator: Operator) -> &OperatorExplanation {
        &self.operators[operator as usize]
    }
}

impl<T: DeviceElement> Plan<T> {
    /// What a call of each operator does and costs with this number of instances. All results are wanted, all
    /// instances share the weights and scales, steps are means with both scales, and epilogues have a bias, a
    /// GELU and a residual. [`explain_call`](Self::explain_call) tells about other calls. An operator that
    /// some topology in use is too large for does nothing.
    ///
    /// # Errors
    /// [`Error::InstancesMismatch`](crate::Error::InstancesMismatch) for another number of instances than a
    /// table batch has, [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn explain(&self, instances: usize) -> Result<Explanation> {
        let explained = |&operator: &Operator| match self.explain_call(&Request::new(operator, instances)) {
            Err(Error::MatrixUnavailable { .. } | Error::LayerUnavailable { .. }) => {
                Ok(OperatorExplanation::nothing(operator))
            }
            explained => explained,
        };
        let operators = Operator::ALL.iter().map(explained).collect::<Result<_>>()?;
        let rows = |orientation| {
            let side = self.batch().tables().side(orientation);
            let Counts { partial, medium, short_row: short, long_row: long } =
                side.items(self.batch().batch(), instances);
            RowsExplanation { short, medium, long, segments: partial }
        };
        Ok(Explanation {
            element: T::NAME,
            features: self.features(),
            conv: self.conv(),
            checks: self.checks(),
            vectors: whole_vectors(self.features(), size_of::<T>()),
            lanes: lanes(self.features(), size_of::<T>()),
            instances,
            table_bytes: self.batch().bytes(),
            hyperedges: rows(Orientation::ByEdge),
            vertices: rows(Orientation::ByVertex),
            operators,
        })
    }

    /// What one call does and costs.
    ///
    /// # Errors
    /// As [`explain`](Self::explain).
    pub fn explain_call(&self, request: &Request<'_>) -> Result<OperatorExplanation> {
        let counted = count(self, request)?;
        let paths = match (counted.by_path, request.operator.is_dense()) {
            (true, _) => self.paths().to_vec(),
            // Whatever the paths of the plan.
            (false, true) => vec![Path::Dense; self.paths().len()],
            (false, false) => vec![Path::Gather; self.paths().len()],
        };
        let scratch = needs(self, &[request.operator], request.instances)?.sizes;
        Ok(OperatorExplanation {
            operator: request.operator,
            paths,
            kernels: counted.names,
            launches: counted.launches,
            zero_fills: counted.zero_fills,
            compulsory_bytes: counted.compulsory,
            uncached_bytes: counted.moved,
            workspace_bytes: scratch.bytes(),
        })
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
        writeln!(f, "for {} instances:", self.instances)?;
        for (name, rows) in [("hyperedges", &self.hyperedges), ("vertices", &self.vertices)] {
            let RowsExplanation { short, medium, long, segments } = rows;
            writeln!(
                f,
                "  {name}: {short} of up to 8 incidences, {medium} of up to 512, {long} longer, in {segments} segments"
            )?;
        }
        for explained in &self.operators {
            let OperatorExplanation { operator, paths, kernels, launches, .. } = explained;
            write!(f, "  {}: ", operator.name())?;
            if operator.is_dense() && paths.is_empty() {
                let why = match operator {
                    Operator::Layer | Operator::LayerBackward => {
                        "not in one pass: a product with Θ, and the convolution with an epilogue"
                    }
                    _ => "not available, some topology in use is too large",
                };
                writeln!(f, "{why}")?;
                continue;
            }
            let used = Path::ALL.iter().filter(|path| paths.contains(path));
            for (i, path) in used.enumerate() {
                let topologies = paths.iter().filter(|&of| of == path).count();
                write!(f, "{}{}", if i == 0 { "" } else { ", " }, path.name())?;
                if topologies < paths.len() {
                    write!(f, " ({topologies} of {} topologies)", paths.len())?;
                }
            }
            write!(f, ", {launches} launches ({})", kernels.join(", "))?;
            match explained.zero_fills {
                0 => writeln!(f)?,
                fills => writeln!(f, ", {fills} fills with zeros")?,
            }
            writeln!(
                f,
                "    bytes: {} at least ({:.3} us at 3.0 TB/s, an H100's copy), {} without caches; {} of workspace",
                explained.compulsory_bytes,
                explained.floor(COPY).as_secs_f64() * 1e6,
                explained.uncached_bytes,
                explained.workspace_bytes
            )?;
        }
        Ok(())
    }
}
