//! The operators on tensors.

use candle_core::{D, Result, Tensor};
use hyperscatter::{Axis, Batch, Conv, Direction, Operator, Reduce};

use crate::conv::ConvOp;
use crate::error::{Caller, Operands, accumulator};
use crate::rows::{check_features, features_name, placeable, rows_of};
use crate::shared::Shared;
use crate::step::StepOp;
use crate::sum::sum_of;
use crate::weights::{TensorStep, TensorWeights, TensorWindows};

/// The name of the convolution in messages.
pub(crate) const CONV: &str = "hypergraph_conv";
const VERTEX_SCALES: &str = "vertex scales";
const HYPEREDGE_SCALES: &str = "hyperedge scales";

/// The operators over a batch of hypergraphs, with the conventions of the convolution. A clone is cheap, and
/// shares the scratch memory: layers over the same batch with the same conventions can use clones.
///
/// Scratch memory is made by the first call with a dtype and a number of features F, and then used again.
/// There is one workspace for each call that runs at the same time, of the size that
/// [`Plan::workspace`](hyperscatter::cpu::Plan::workspace) states; it is freed with the last clone.
///
/// # Shapes
///
/// | batch | features of vertices | features of hyperedges |
/// |---|---|---|
/// | copies of one topology with `n` vertices and `m` hyperedges | `[…, n, F]` | `[…, m, F]` |
/// | table with `N` vertices and `M` hyperedges in all instances | `[N, F]` | `[M, F]` |
///
/// The leading dimensions `…` of a replicated batch are its copies, in row-major order. There may be any
/// number of dimensions, or none. The shape of a call tells how many copies there are, and nothing is built
/// again for another number.
///
/// Features may be strided. They are read in place if those of a row are contiguous and all leading
/// dimensions can be walked with one stride, as in `[E, T, F].transpose(0, 1)`. Otherwise they are copied
/// first. Results are contiguous, and do not depend on the strides.
///
/// # Types
/// Features are `F32`, `F64`, `F16` or `BF16`; weights, scales and their gradients are `F64` for `F64` and
/// else `F32`. Results and gradients of features have the type of the features.
///
/// # Gradients
/// Every operator can be differentiated with respect to each of its tensors: features, weights, scales. The
/// backward is one call of the core. It skips the gradients of tensors that no variable leads to. All other
/// tensors have a gradient, be it zeros: over an empty batch, too, and of weights that the conventions do not
/// use.
///
/// Gradients can be differentiated again, any number of times, where candle keeps their graph. It does where
/// the environment variable `CANDLE_GRAD_DO_NOT_DETACH` is 1 when a thread computes its first gradients. Such
/// gradients have the same bits, and cost more: the graph behind them is made of sums over incidences and of
/// candle's operations, in `f64`. Without the variable, gradients are plain values.
///
/// | operator | candle operation |
/// |---|---|
/// | [`conv`](Self::conv) | `CustomOp2`: features, weights |
/// | [`vertex_to_hyperedge`](Self::vertex_to_hyperedge), [`hyperedge_to_vertex`](Self::hyperedge_to_vertex) | `CustomOp1` without scales, `CustomOp2` with one, `CustomOp3` with two: features, vertex scale, hyperedge scale |
///
/// # Errors
/// A tensor that is not on the CPU, a wrong dtype or a wrong rank is a candle error that says so. Whatever
/// else is wrong is an error of the core inside a candle error, and [`core_error`](crate::core_error) finds
/// it there.
#[derive(Clone)]
pub struct Operators(Shared);

impl std::fmt::Debug for Operators {
    /// Without the scratch memory.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Operators");
        shown.field("batch", self.batch()).field("conv", &self.conventions()).finish_non_exhaustive()
    }
}

impl Operators {
    /// The operators over `batch`. [`conv`](Self::conv) has these conventions; the steps have none.
    pub fn new(batch: &Batch, conv: Conv) -> Self {
        Self(Shared::new(batch, conv))
    }

    /// The batch.
    pub fn batch(&self) -> &Batch {
        self.0.batch()
    }

    /// The conventions of the convolution.
    pub fn conventions(&self) -> Conv {
        self.0.conventions()
    }

    /// y = L H U B⁻¹ Hᵀ R x: features of vertices to features of vertices, of the same shape.
    ///
    /// ```
    /// use hyperscatter_candle::candle_core::{Device, Tensor, Var};
    /// use hyperscatter_candle::hyperscatter::{Batch, Conv, Incidence};
    /// use hyperscatter_candle::{Operators, TensorWeights};
    ///
    /// // Three vertices and all their pairs: {0,1} {0,2} {1,2}.
    /// let operators = Operators::new(&Batch::replicate(Incidence::subsets(3, 2)?), Conv::default());
    /// let weights = Var::new(&[1f32, 1., 2.], &Device::Cpu)?;
    /// let x = Tensor::new(&[[[3f32], [0.], [0.]], [[0.], [3.], [6.]]], &Device::Cpu)?; // two copies
    /// let y = operators.conv(&x, TensorWeights::shared(&weights))?;
    /// assert_eq!(y.to_vec3::<f32>()?, [[[1.5], [0.5], [0.5]], [[2.25], [3.5], [4.]]]);
    ///
    /// let gradients = y.sqr()?.sum_all()?.backward()?;
    /// assert_eq!(gradients.get(&weights).unwrap().dims(), [3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [above](Self#errors).
    pub fn conv(&self, x: &Tensor, weights: TensorWeights<'_>) -> Result<Tensor> {
        check_features(CONV, "x", self.batch(), Axis::Vertex, None, x)?;
        let operands = Operands::new(Caller::Operators, CONV, "x", x).and("weights", weights.values);
        self.conv_of(operands, x, weights)
    }

    /// The convolution of features that were checked, with the operands as the caller passed them.
    pub(crate) fn conv_of(
        &self,
        operands: Operands,
        x: &Tensor,
        weights: TensorWeights<'_>,
    ) -> Result<Tensor> {
        let x = placeable(self.batch(), x)?;
        let (values, windows) = weights.checked(CONV, "weights", x.dtype())?;
        x.apply_op2(&values, ConvOp { operands, shared: self.0.clone(), windows })
    }

    /// z_e = s_e Σ_{v∈e} r_v x_v, divided by |e| for a mean: features of vertices to features of hyperedges.
    /// r is the vertex scale and s the hyperedge scale of `step`. An empty hyperedge gets zeros.
    ///
    /// ```
    /// use hyperscatter_candle::candle_core::{Device, Tensor};
    /// use hyperscatter_candle::hyperscatter::{Batch, Conv, Incidence, Repeats};
    /// use hyperscatter_candle::{Operators, TensorStep, TensorWeights};
    ///
    /// let topology = Incidence::from_edges(3, &[vec![0, 1, 2], vec![2]], Repeats::Reject)?;
    /// let operators = Operators::new(&Batch::replicate(topology), Conv::default());
    /// let x = Tensor::new(&[[1f32], [2.], [3.]], &Device::Cpu)?;
    /// let z = operators.vertex_to_hyperedge(&x, TensorStep::mean())?;
    /// assert_eq!(z.to_vec2::<f32>()?, [[2.], [3.]]);
    ///
    /// let scale = Tensor::new(&[10f32, 0., 1.], &Device::Cpu)?;
    /// let scaled = TensorStep::sum().vertex_scale(TensorWeights::shared(&scale));
    /// let z = operators.vertex_to_hyperedge(&x, scaled)?;
    /// assert_eq!(z.to_vec2::<f32>()?, [[13.], [3.]]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [above](Self#errors).
    pub fn vertex_to_hyperedge(&self, x: &Tensor, step: TensorStep<'_>) -> Result<Tensor> {
        self.step(Caller::Operators, Direction::VertexToHyperedge, x, step)
    }

    /// y_v = t_v Σ_{e∋v} u_e z_e, divided by the number of incidences of v for a mean: features of hyperedges
    /// to features of vertices. u is the hyperedge scale and t the vertex scale of `step`. An isolated vertex
    /// gets zeros.
    ///
    /// # Errors
    /// See [above](Self#errors).
    pub fn hyperedge_to_vertex(&self, z: &Tensor, step: TensorStep<'_>) -> Result<Tensor> {
        self.step(Caller::Operators, Direction::HyperedgeToVertex, z, step)
    }

    /// The weighted degrees D_v = Σ_{e∋v} w_e of all vertices, differentiable: `[n]` of a replicated batch
    /// with shared windows, `[copies, n]` with as many copies as other windows have, `[N]` of a table.
    ///
    /// # Errors
    /// See [above](Self#errors).
    pub fn degrees(&self, weights: TensorWeights<'_>) -> Result<Tensor> {
        self.degrees_for(Caller::Operators, weights)
    }

    pub(crate) fn degrees_for(&self, caller: Caller, weights: TensorWeights<'_>) -> Result<Tensor> {
        let (values, hyperedges) = (weights.values, rows_of(self.batch(), Axis::Hyperedge));
        let copies = match &weights.windows {
            TensorWindows::Consecutive if self.batch().is_replicated() => {
                Some(values.elem_count().checked_div(hyperedges).unwrap_or(0))
            }
            TensorWindows::Table(table) if self.batch().is_replicated() => Some(table.len()),
            _ => None,
        };
        let dims: Vec<usize> = copies.into_iter().chain([hyperedges, 1]).collect();
        let ones = Tensor::ones(dims, accumulator(values.dtype()), values.device())?;
        let step = TensorStep::sum().hyperedge_scale(weights);
        self.step(caller, Direction::HyperedgeToVertex, &ones, step)?.squeeze(D::Minus1)
    }

    fn step(
        &self,
        caller: Caller,
        direction: Direction,
        rows: &Tensor,
        step: TensorStep<'_>,
    ) -> Result<Tensor> {
        let TensorStep { reduce, vertex_scale, hyperedge_scale, .. } = step;
        let (op, input) = (Operator::step(direction).name(), features_name(direction.source()));
        check_features(op, input, self.batch(), direction.source(), None, rows)?;
        let mut operands = Operands::new(caller, op, input, rows);
        if let (Reduce::Sum, None, None) = (reduce, &vertex_scale, &hyperedge_scale) {
            return sum_of(&self.0, operands, direction, rows);
        }
        let rows = placeable(self.batch(), rows)?;
        for (operand, scale) in [(VERTEX_SCALES, &vertex_scale), (HYPEREDGE_SCALES, &hyperedge_scale)] {
            if let Some(scale) = scale {
                operands = operands.and(operand, scale.values);
            }
        }
        let checked = |operand, scale: Option<TensorWeights<'_>>| {
            scale.map(|scale| scale.checked(op, operand, rows.dtype())).transpose().map(Option::unzip)
        };
        let (vertex_scale, vertex_windows) = checked(VERTEX_SCALES, vertex_scale)?;
        let (hyperedge_scale, hyperedge_windows) = checked(HYPEREDGE_SCALES, hyperedge_scale)?;
        let shared = self.0.clone();
        let op = StepOp { operands, shared, direction, reduce, vertex_windows, hyperedge_windows };
        match (vertex_scale, hyperedge_scale) {
            (None, None) => rows.apply_op1(op),
            (Some(scale), None) | (None, Some(scale)) => rows.apply_op2(&scale, op),
            (Some(vertex_scale), Some(hyperedge_scale)) => {
                rows.apply_op3(&vertex_scale, &hyperedge_scale, op)
            }
        }
    }
}
