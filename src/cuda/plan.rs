//! A plan: what stays from call to call.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::gather::{self, Kernels};
use super::tables::{Counts, Orientation};
use super::workspace::Workspace;
use super::{Checks, DeviceBatch, DeviceElement};
use crate::element::Element;
use crate::error::{Error, Result, fits_u32};

/// What stays from call to call: a batch on a device, the number of features F, and whether its kernels check every index.
/// A clone is cheap.
#[derive(Clone)]
pub struct Plan<T: DeviceElement>(Arc<Parts<T>>);

struct Parts<T> {
    // Before the batch, which may be the last holder of the device.
    kernels: Kernels,
    batch: DeviceBatch,
    features: u32,
    checks: Checks,
    element: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeviceElement> Plan<T> {
    /// A plan for rows of `features` elements. Loads the kernels if this is the first plan that needs them.
    ///
    /// # Errors
    /// [`Error::UncheckedTables`] for [`Checks::Off`] on a batch whose tables were overwritten; [`Error::TooLarge`] for 2³²
    /// features and more; [`Error::Driver`].
    pub fn new(batch: &DeviceBatch, features: usize, checks: Checks) -> Result<Self> {
        if batch.tables().overwritten && checks == Checks::Off {
            return Err(Error::UncheckedTables);
        }
        let features = fits_u32("the number of features", features)?;
        let _current = batch.device().enter()?;
        let kernels = Kernels::load::<T>(&batch.device().gather_module()?, checks)?;
        let (batch, element) = (batch.clone(), std::marker::PhantomData);
        Ok(Self(Arc::new(Parts { batch, features, checks, kernels, element })))
    }

    /// The scratch memory for calls with up to `max_instances` instances on `stream`, and the operators.
    ///
    /// # Errors
    /// [`Error::TooManyInstances`] where a table batch has more, [`Error::WrongContext`] for a stream of another context,
    /// [`Error::PerThreadStream`], [`Error::Capturing`] while the stream records a CUDA graph, [`Error::TooLarge`], [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn workspace(&self, stream: &Arc<CudaStream>, max_instances: usize) -> Result<Workspace<T>> {
        Workspace::new(self.clone(), stream.clone(), max_instances)
    }

    /// The batch.
    pub fn batch(&self) -> &DeviceBatch {
        &self.0.batch
    }

    /// The number of features F.
    pub fn features(&self) -> usize {
        self.0.features as usize
    }

    /// Whether the kernels check every index.
    pub fn checks(&self) -> Checks {
        self.0.checks
    }

    /// What the calls of this plan do and cost.
    pub fn explain(&self) -> Explanation {
        let steps = Orientation::ALL.map(|orientation| self.explain_step(orientation));
        Explanation {
            element: T::NAME,
            features: self.features(),
            checks: self.checks(),
            vectors: gather::whole_vectors(self.features(), size_of::<T>()),
            lanes: gather::lanes(self.features(), size_of::<T>()),
            instances: self.batch().batch().n_instances(),
            table_bytes: self.batch().bytes(),
            steps,
        }
    }

    fn explain_step(&self, orientation: Orientation) -> StepExplanation {
        let batch = self.batch().batch();
        // Of all instances of a table, or of one copy.
        let instances = batch.n_instances().unwrap_or(1);
        let Counts { partial, medium, short, long } =
            self.batch().tables().side(orientation).items(batch, instances);
        let row = self.features() as u128 * size_of::<T>() as u128;
        let rows = |axis| batch.start(axis, instances) as u128;
        let incidences: u128 = match batch.n_instances() {
            None => batch.topologies()[0].n_incidences() as u128,
            Some(n) => (0..n).map(|g| batch.topology(g).n_incidences() as u128).sum(),
        };
        StepExplanation {
            name: match orientation {
                Orientation::ByEdge => "vertex_to_hyperedge",
                Orientation::ByVertex => "hyperedge_to_vertex",
            },
            kernels: self.0.kernels.names,
            launches: match self.features() {
                0 => 0,
                _ => usize::from(partial + medium + short > 0) + usize::from(long > 0),
            },
            short_rows: short,
            medium_rows: medium,
            long_rows: long,
            segments: partial,
            compulsory_bytes: (rows(orientation.rows()) + rows(orientation.indices())) * row,
            gathered_bytes: (rows(orientation.rows()) + incidences) * row,
            workspace_bytes: u128::from(partial)
                * self.features() as u128
                * size_of::<<T as Element>::Acc>() as u128,
        }
    }

    pub(super) fn kernels(&self) -> &Kernels {
        &self.0.kernels
    }
}

impl<T: DeviceElement> std::fmt::Debug for Plan<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Plan");
        shown
            .field("batch", self.batch())
            .field("features", &self.features())
            .field("checks", &self.checks());
        shown.finish_non_exhaustive()
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
    /// The two steps: to hyperedges, and to vertices.
    pub steps: [StepExplanation; 2],
}

/// What a call of one step does and costs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepExplanation {
    /// The operator.
    pub name: &'static str,
    /// Its kernels. The second adds the segments of long rows.
    pub kernels: [&'static str; 2],
    /// The launches of a call with at least one instance.
    pub launches: usize,
    /// Rows of up to 8 incidences.
    pub short_rows: u64,
    /// Rows of 9 to 512 incidences.
    pub medium_rows: u64,
    /// Rows of more than 512 incidences.
    pub long_rows: u64,
    /// The segments of up to 512 incidences that those are cut into.
    pub segments: u64,
    /// What has to be moved at least: each row read once, each result written once.
    pub compulsory_bytes: u128,
    /// What is moved without any cache: a row read for each incidence, each result written once.
    pub gathered_bytes: u128,
    /// The scratch memory for the sums of segments.
    pub workspace_bytes: u128,
}

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
        let access = match self.vectors {
            true => "16 bytes at a time where addresses and strides allow it",
            false => "element by element, since a row is no multiple of 16 bytes",
        };
        writeln!(f, "a row: {} lanes, {access}", self.lanes)?;
        match self.instances {
            Some(instances) => writeln!(f, "for all {instances} instances:")?,
            None => writeln!(f, "for each copy:")?,
        }
        for step in &self.steps {
            let StepExplanation { name, kernels, launches, short_rows, medium_rows, long_rows, .. } = step;
            let used = kernels[..*launches].join(" and ");
            writeln!(f, "  {name}: gather-reduce, {launches} launches ({used})")?;
            writeln!(
                f,
                "    rows: {short_rows} of up to 8 incidences, {medium_rows} of up to 512, {long_rows} longer, in {} \
                 segments",
                step.segments
            )?;
            writeln!(
                f,
                "    bytes: {} at least, {} without caches, {} of workspace",
                step.compulsory_bytes, step.gathered_bytes, step.workspace_bytes
            )?;
        }
        Ok(())
    }
}
