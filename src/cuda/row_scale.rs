//! The launches of `kernels/row_scale.cu`: the factor that the gradient of each row is passed on with.

#![allow(unsafe_code)]

use super::DeviceElement;
use super::args::{Address, RowScaleArgs, ScaleArgs};
use super::call::Call;
use super::geometry::{Grid, WARP};
use super::kernels::Kernel;
use super::launches::Launches;
use super::scratch::Slot;
use super::tables::Orientation;
use crate::conv::Reduce;
use crate::error::Result;

impl<T: DeviceElement, L: Launches> Call<'_, T, L> {
    /// The row scale of the rows of `orientation`: `scale`, divided by the number of incidences for a mean.
    /// With `shifts` of the rows, it is shifted down as often as a degree is shifted up. Returns it as
    /// factors of the rows.
    ///
    /// # Safety
    /// `scale` has a factor where its windows say, and `shifts` has a shift for each row.
    pub(super) unsafe fn row_scale(
        &mut self,
        orientation: Orientation,
        scale: ScaleArgs,
        reduce: Reduce,
        shifts: Option<Address>,
    ) -> Result<ScaleArgs> {
        let tables = self.tables(orientation);
        let args = RowScaleArgs {
            tables,
            scale,
            shifts: shifts.unwrap_or(0),
            row_scale: self.scratch_numbers::<T::Acc>(Slot::RowScale, orientation.rows())?,
            record: self.launches.record(),
            mean: (reduce == Reduce::Mean).into(),
            shifts_of_degree: self.plan.conv().shifts_of_degree() as u32,
        };
        let warps = tables.n_targets.div_ceil(u64::from(WARP));
        // SAFETY: a thread for each row; the caller promises the rest.
        unsafe { self.launches.launch(Kernel::RowScale, Grid::of_warps(warps), &args) }?;
        self.scratch_scale::<T::Acc>(Slot::RowScale, orientation.rows())
    }
}
