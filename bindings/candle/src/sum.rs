//! The step that is a plain sum over incidences. Its gradient is the plain sum in the other direction, so it
//! can be differentiated any number of times.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use hyperscatter::cpu::Step;
use hyperscatter::{Direction, Operator};

use crate::custom::no_accelerators;
use crate::dtype::dispatch;
use crate::error::{Caller, Operands};
use crate::rows::{check_features, features_name, placeable};
use crate::shared::Shared;

/// The sums over the incidences of each target.
pub(crate) fn sum(shared: &Shared, direction: Direction, rows: &Tensor) -> Result<Tensor> {
    let (op, operand) = (Operator::step(direction).name(), features_name(direction.source()));
    check_features(op, operand, shared.batch(), direction.source(), None, rows)?;
    sum_of(shared, Operands::new(Caller::Operators, op, operand, rows), direction, rows)
}

/// The same of features that were checked, with the operands as the caller passed them.
pub(crate) fn sum_of(
    shared: &Shared,
    operands: Operands,
    direction: Direction,
    rows: &Tensor,
) -> Result<Tensor> {
    placeable(shared.batch(), rows)?.apply_op1(SumOp { operands, shared: shared.clone(), direction })
}

struct SumOp {
    operands: Operands,
    shared: Shared,
    direction: Direction,
}

impl CustomOp1 for SumOp {
    fn name(&self) -> &'static str {
        self.operands.op
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!(self.operands.op, x.dtype(), T => {
            self.shared.step::<T>(&self.operands, self.direction, &Step::sum(), (x, lx))
        })
    }

    no_accelerators!(CustomOp1: s1);

    fn bwd(&self, _x: &Tensor, _y: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        sum(&self.shared, self.direction.reversed(), grad_y).map(Some)
    }
}
