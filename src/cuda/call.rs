//! A call under way: what is the same for all its launches, and its operands once they are checked.

use super::DeviceElement;
use super::args::{Address, ScaleArgs, TablesArgs};
use super::geometry::feature_blocks;
use super::launches::Launches;
use super::plan::Plan;
use super::route::Route;
use super::scratch::Slot;
use super::split::Split;
use super::tables::Orientation;
use super::window_table::DeviceWindows;
use crate::axis::Axis;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::rows::{Operand, Placement, RowLayout, Width};
use crate::windows::Windows;

/// A call of an operator with some number of instances.
///
/// Its methods that launch something are the stages of operators; each lies in the file of its kernels.
pub(super) struct Call<'a, T: DeviceElement, L> {
    pub(super) plan: &'a Plan<T>,
    pub(super) launches: L,
    pub(super) instances: usize,
    /// The route whose instances alone are computed; all are where there is none.
    pub(super) only: Option<Route>,
    /// Routes are those by class, whatever the paths.
    pub(super) by_class: bool,
    /// The rows of all instances, of vertices and of hyperedges.
    totals: [usize; 2],
}

/// Rows of features on the device, of elements or of sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacedRows {
    pub(super) address: Address,
    pub(super) placement: Placement,
}

/// Rows that are written: overwritten, or added to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination {
    pub(super) rows: PlacedRows,
    pub(super) accumulate: bool,
}

/// Weights, or a scale, with the windows through which the instances read them.
#[derive(Clone, Copy)]
pub(super) struct PlacedWeights<'w> {
    pub(super) scale: ScaleArgs,
    pub(super) windows: Windows<&'w DeviceWindows>,
}

/// The gradient of weights or of a scale: as many elements of the accumulation type as those have.
#[derive(Debug, Clone, Copy)]
pub(super) struct GradientTo {
    pub(super) address: Address,
    pub(super) len: usize,
    pub(super) accumulate: bool,
}

impl<'a, T: DeviceElement, L: Launches> Call<'a, T, L> {
    pub(super) fn new(plan: &'a Plan<T>, launches: L, instances: usize) -> Result<Self> {
        let batch = plan.batch().batch();
        let totals = [batch.total(Axis::Vertex, instances)?, batch.total(Axis::Hyperedge, instances)?];
        Ok(Self { plan, launches, instances, only: None, by_class: false, totals })
    }

    #[inline]
    pub(super) fn batch(&self) -> &'a Batch {
        self.plan.batch().batch()
    }

    #[inline]
    pub(super) fn features(&self) -> usize {
        self.plan.features()
    }

    /// Whether there is anything to compute.
    pub(super) fn has_elements(&self) -> bool {
        self.instances > 0 && self.features() > 0
    }

    #[inline]
    pub(super) fn tables(&self, orientation: Orientation) -> TablesArgs {
        let tables = self.plan.batch().tables();
        let all = TablesArgs::new(self.batch(), tables, orientation, self.instances, self.totals);
        match (self.only, self.split()) {
            (Some(route), Some(split)) => split.tables(route, orientation, all),
            _ => all,
        }
    }

    /// Makes the launches of a stage for each of these routes, each for its instances alone.
    pub(super) fn on_each(
        &mut self,
        routes: &[Route],
        mut stage: impl FnMut(&mut Self, Route) -> Result<()>,
    ) -> Result<()> {
        for &route in routes {
            self.only = Some(route);
            stage(self, route)?;
        }
        self.only = None;
        Ok(())
    }

    /// Which instances are on which route.
    pub(super) fn split(&self) -> Option<&'a Split> {
        self.plan.split(self.by_class).map(|split| &**split)
    }

    /// The number of blocks of features. A dot product is stored for each block.
    #[inline]
    pub(super) fn feature_blocks(&self) -> usize {
        feature_blocks(self.features(), size_of::<T>())
    }

    /// The rows of all instances.
    #[inline]
    pub(super) fn total(&self, axis: Axis) -> usize {
        self.totals[axis as usize]
    }

    /// The incidences, and the rows along `axis`, of the instances that are computed.
    pub(super) fn size(&self, axis: Axis) -> (u128, u128) {
        let batch = self.batch();
        let of = |id: usize| {
            let topology = &batch.topologies()[id];
            let takes_part = self.only.is_none_or(|route| self.plan.route_of(id, self.by_class) == route);
            match takes_part {
                true => (topology.n_incidences() as u128, topology.size(axis) as u128),
                false => (0, 0),
            }
        };
        let plus = |a: (u128, u128), b: (u128, u128)| (a.0 + b.0, a.1 + b.1);
        match batch.is_replicated() {
            true => {
                let (incidences, rows) = of(0);
                (incidences * self.instances as u128, rows * self.instances as u128)
            }
            false => (0..self.instances).map(|g| of(batch.topology_id(g))).fold((0, 0), plus),
        }
    }

    /// Rows of all instances along `axis`, one after the other.
    #[inline]
    pub(super) fn contiguous(&self, axis: Axis, address: Address) -> Result<PlacedRows> {
        self.contiguous_of(Width::Features, axis, address)
    }

    /// The same, of either of the plan's numbers of features.
    #[inline]
    pub(super) fn contiguous_of(&self, width: Width, axis: Axis, address: Address) -> Result<PlacedRows> {
        let layout = RowLayout::contiguous(self.plan.widths().of(width)).instances(self.instances);
        let operand = Operand { name: "scratch memory", axis, width, layout, len: usize::MAX };
        let placement = operand.place(self.batch(), self.instances, true).map_err(|error| match error {
            Error::Stride { operand: what, value, bound, .. } => {
                Error::TooLarge { what, value, bound: bound as u128 }
            }
            other => other,
        })?;
        Ok(PlacedRows { address, placement })
    }

    /// Rows of sums in scratch memory, of all instances along `axis`.
    #[inline]
    pub(super) fn scratch_rows(&mut self, slot: Slot, axis: Axis) -> Result<PlacedRows> {
        let row = self.features() as u128 * size_of::<T::Acc>() as u128;
        let bytes = self.total(axis) as u128 * row;
        let address = self.launches.scratch(slot, bytes)?;
        self.contiguous(axis, address)
    }

    /// Numbers of type `U` in scratch memory, one for each row of all instances along `axis`.
    #[inline]
    pub(super) fn scratch_numbers<U>(&mut self, slot: Slot, axis: Axis) -> Result<Address> {
        let bytes = self.total(axis) as u128 * size_of::<U>() as u128;
        self.launches.scratch(slot, bytes)
    }

    /// The same numbers as factors of the rows.
    #[inline]
    pub(super) fn scratch_scale<U>(&mut self, slot: Slot, axis: Axis) -> Result<ScaleArgs> {
        let address = self.scratch_numbers::<U>(slot, axis)?;
        Ok(ScaleArgs::consecutive(address, self.total(axis)))
    }

    /// Dot products in scratch memory: for each row of all instances along `axis` one for each block of
    /// features.
    #[inline]
    pub(super) fn scratch_dots(&mut self, slot: Slot, axis: Axis) -> Result<Address> {
        let numbers = self.total(axis) as u128 * self.feature_blocks() as u128;
        self.launches.scratch(slot, numbers * size_of::<f64>() as u128)
    }
}
