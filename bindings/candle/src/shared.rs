//! What all operations over one batch share: the batch, the conventions of the convolution, the scratch
//! memory.

use std::sync::Arc;

use candle_core::{CpuStorage, Layout, Result, Shape};
use hyperscatter::cpu::{Step, Workspace};
use hyperscatter::{Batch, Conv, Direction, Out};

use crate::error::Operands;
use crate::pool::{Feature, Pools};
use crate::rows::{Size, rows, rows_of};

/// A clone is cheap, and shares the scratch memory.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    batch: Batch,
    conv: Conv,
    pools: Pools,
}

impl Shared {
    pub(crate) fn new(batch: &Batch, conv: Conv) -> Self {
        Self(Arc::new(Inner { batch: batch.clone(), conv, pools: Pools::default() }))
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.0.batch
    }

    pub(crate) fn conventions(&self) -> Conv {
        self.0.conv
    }

    /// Calls the core with a workspace for a call of this size.
    pub(crate) fn call<T: Feature, R>(
        &self,
        operands: &Operands,
        size: Size,
        f: impl FnOnce(&mut Workspace<T>) -> hyperscatter::Result<R>,
    ) -> Result<R> {
        let Inner { batch, conv, pools } = &*self.0;
        T::pool(pools).with(batch, *conv, size, f).map_err(|error| operands.error(error))
    }

    /// A step of the core, on the rows of a storage.
    pub(crate) fn step<T: Feature>(
        &self,
        operands: &Operands,
        direction: Direction,
        step: &Step<'_, T::Acc>,
        (x, x_layout): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let batch = self.batch();
        let size = Size::of(batch, x_layout.dims());
        let x = rows::<T>(batch, x, x_layout)?;
        let mut dims = x_layout.dims().to_vec();
        if let [.., rows, _] = &mut dims[..] {
            *rows = rows_of(batch, direction.target());
        }
        let shape = Shape::from(dims);
        let mut y = vec![T::default(); shape.elem_count()];
        self.call::<T, _>(operands, size, |workspace| {
            let y = Out::Overwrite(size.rows(batch, &mut y));
            match direction {
                Direction::VertexToHyperedge => workspace.vertex_to_hyperedge(step, x, y),
                Direction::HyperedgeToVertex => workspace.hyperedge_to_vertex(step, x, y),
            }
        })?;
        Ok((T::to_cpu_storage_owned(y), shape))
    }
}
