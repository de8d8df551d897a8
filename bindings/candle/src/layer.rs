//! The layer: Θ, the convolution, a bias.

use candle_core::{D, Error, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use hyperscatter::{Batch, Conv, WeightUse};

use crate::error::accumulator;
use crate::operators::{Operators, Weights, Windows};
use crate::softplus::{inverse_softplus_of_one, softplus};

/// How the parameter `hyperedge_weight` becomes the hyperedge weights w.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightParametrization {
    /// w = log(1 + exp(parameter)): always positive, so that no degree is 0 or negative.
    #[default]
    Softplus,
    /// w = parameter, of any sign. Under symmetric normalization a negative degree is an error.
    Raw,
    /// w = 1; there is no parameter.
    Ones,
}

/// The options of [`hypergraph_conv`].
#[derive(Debug, Clone, Copy)]
pub struct HypergraphConvConfig {
    /// The conventions of the convolution: `Row` normalization with weights in message and degree by default.
    pub conv: Conv,
    /// Whether there is a parameter `bias`; there is by default.
    pub bias: bool,
    /// What the hyperedge weights are.
    pub weights: WeightParametrization,
    /// How the parameter `hyperedge_weight` is initialised where it is new. `None`, the default, makes all weights 1.
    pub weight_init: Option<Init>,
}

impl Default for HypergraphConvConfig {
    fn default() -> Self {
        Self {
            conv: Conv::default(),
            bias: true,
            weights: WeightParametrization::default(),
            weight_init: None,
        }
    }
}

/// The hyperedge weights of a layer, and how they are learned.
#[derive(Debug, Clone)]
pub enum HyperedgeWeight {
    /// w = log(1 + exp(tensor)).
    Softplus(Tensor),
    /// w = tensor.
    Raw(Tensor),
    /// w = 1.
    Ones,
}

/// Hypergraph convolution with a linear map before it: y = L H U B⁻¹ Hᵀ R (x Θᵀ) + bias.
///
/// All copies of a replicated batch share the hyperedge weights. Input is `[…, n, in]`, output `[…, n, out]`; over a
/// table batch `[N, in]` and `[N, out]` (see [`Operators`], also for dtypes and errors). A strided input such as
/// `[E, T, in].transpose(0, 1)` is not copied.
///
/// | parameter | shape | |
/// |---|---|---|
/// | `lin.weight` | `[out, in]` | Θ, as in PyTorch Geometric |
/// | `bias` | `[out]` | as in PyTorch Geometric |
/// | `hyperedge_weight` | `[m]` | of the weights' type: `F64` for `F64`, else `F32`, also in a model of 16-bit types |
#[derive(Debug, Clone)]
pub struct HypergraphConv {
    operators: Operators,
    lin: Tensor,
    bias: Option<Tensor>,
    hyperedge_weight: HyperedgeWeight,
    windows: Windows,
}

/// A layer over `batch` with the parameters of `vb`, whose dtype is that of the features.
///
/// New parameters start as in PyTorch Geometric: Θ uniform as Glorot and Bengio, the bias zero. All weights start at 1,
/// unless `config` says otherwise. Over a table of several topologies there are as many weights as the largest has
/// hyperedges, and each instance reads the first ones; [`HypergraphConv::with_windows`] places them elsewhere.
///
/// ```
/// use hyperscatter_candle::candle_core::{DType, Device, Module, Tensor};
/// use hyperscatter_candle::candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap};
/// use hyperscatter_candle::hyperscatter::{Batch, Incidence};
/// use hyperscatter_candle::{HypergraphConvConfig, hypergraph_conv};
///
/// // All pairs of four experts, for any number of tokens.
/// let batch = Batch::replicate(Incidence::subsets(4, 2)?);
/// let vars = VarMap::new();
/// let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
/// let layer = hypergraph_conv(&batch, 8, 2, HypergraphConvConfig::default(), vb)?;
///
/// let x = Tensor::randn(0f32, 1., (16, 4, 8), &Device::Cpu)?; // 16 tokens
/// let target = Tensor::randn(0f32, 1., (16, 4, 2), &Device::Cpu)?;
/// let loss = || (layer.forward(&x)? - &target)?.sqr()?.mean_all();
/// let mut optimizer = AdamW::new(vars.all_vars(), ParamsAdamW { lr: 0.03, ..Default::default() })?;
/// let before = loss()?.to_scalar::<f32>()?;
/// for _ in 0..20 {
///     optimizer.backward_step(&loss()?)?;
/// }
/// assert!(loss()?.to_scalar::<f32>()? < before);
/// assert_eq!(layer.weights()?.dims(), [6]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of `vb`, such as a parameter of another shape.
pub fn hypergraph_conv(
    batch: &Batch,
    in_dim: usize,
    out_dim: usize,
    config: HypergraphConvConfig,
    vb: VarBuilder,
) -> Result<HypergraphConv> {
    let bound = (6.0 / (in_dim + out_dim).max(1) as f64).sqrt();
    let lin = vb.get_with_hints((out_dim, in_dim), "lin.weight", Init::Uniform { lo: -bound, up: bound })?;
    let bias = config.bias.then(|| vb.get_with_hints(out_dim, "bias", Init::Const(0.0))).transpose()?;
    let parameter = |all_ones: f64| {
        let init = config.weight_init.unwrap_or(Init::Const(all_ones));
        vb.get_with_hints_dtype(batch.max_hyperedges(), "hyperedge_weight", init, accumulator(vb.dtype()))
    };
    let hyperedge_weight = match config.weights {
        WeightParametrization::Softplus => HyperedgeWeight::Softplus(parameter(inverse_softplus_of_one())?),
        WeightParametrization::Raw => HyperedgeWeight::Raw(parameter(1.0)?),
        WeightParametrization::Ones => HyperedgeWeight::Ones,
    };
    HypergraphConv::new(Operators::new(batch, config.conv), lin, bias, hyperedge_weight)
}

impl HypergraphConv {
    /// A layer of given tensors: `lin` is Θ, `[out, in]`, `bias` is `[out]`. The weights may have any shape and be of any
    /// floating-point type; they are converted where the features need another.
    ///
    /// # Errors
    /// Where the shapes of `lin` and `bias` are not these.
    pub fn new(
        operators: Operators,
        lin: Tensor,
        bias: Option<Tensor>,
        hyperedge_weight: HyperedgeWeight,
    ) -> Result<Self> {
        let (out_dim, in_dim) = lin.dims2()?;
        if let Some(bias) = bias.as_ref().filter(|bias| bias.dims() != [out_dim]) {
            return Err(Error::msg(format!(
                "bias has shape {:?}, but [{out_dim}] is needed with lin.weight of [{out_dim}, {in_dim}]",
                bias.shape()
            )));
        }
        Ok(Self { operators, lin, bias, hyperedge_weight, windows: Windows::Shared })
    }

    /// The same layer, whose instances read their weights through `windows`. Without this, all read from the first on.
    /// Weights of one have no windows.
    pub fn with_windows(self, windows: Windows) -> Self {
        Self { windows, ..self }
    }

    /// The operators, and with them the batch and the conventions.
    pub fn operators(&self) -> &Operators {
        &self.operators
    }

    /// Θ, `[out, in]`.
    pub fn lin_weight(&self) -> &Tensor {
        &self.lin
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The parameter behind the hyperedge weights.
    pub fn hyperedge_weight(&self) -> &HyperedgeWeight {
        &self.hyperedge_weight
    }

    /// The hyperedge weights w themselves, in the type in which the layer computes with features of Θ's dtype;
    /// differentiable.
    ///
    /// # Errors
    /// Those of candle, for weights of a type that it cannot convert.
    pub fn weights(&self) -> Result<Tensor> {
        let dtype = accumulator(self.lin.dtype());
        match &self.hyperedge_weight {
            HyperedgeWeight::Softplus(raw) => softplus(&raw.to_dtype(dtype)?),
            HyperedgeWeight::Raw(weights) => weights.to_dtype(dtype),
            HyperedgeWeight::Ones => {
                Tensor::ones(self.operators.batch().max_hyperedges(), dtype, self.lin.device())
            }
        }
    }

    /// The degrees D of all vertices by which the convolution divides (whatever the normalization), in the shape of
    /// [`Operators::degrees`]; differentiable.
    ///
    /// # Errors
    /// As [`Operators::degrees`].
    pub fn degrees(&self) -> Result<Tensor> {
        let weights = match self.operators.conventions().weight_use {
            WeightUse::MessageOnly => self.weights()?.ones_like()?,
            WeightUse::Documented | WeightUse::DegreeOnly => self.weights()?,
        };
        self.operators.degrees(Weights { values: &weights, windows: self.windows() })
    }

    fn windows(&self) -> Windows {
        match self.hyperedge_weight {
            HyperedgeWeight::Ones => Windows::Shared,
            _ => self.windows.clone(),
        }
    }

    /// x Θᵀ as one matrix product over the rows in the order in which they lie in memory; the result has the strides of
    /// `x`, so that neither is copied. (`candle_nn::Linear` multiplies instance by instance where `x` is strided.)
    fn linear(&self, x: &Tensor) -> Result<Tensor> {
        let leading = x.rank() - 1;
        let (out_dim, in_dim) = self.lin.dims2()?;
        let mut order: Vec<usize> = (0..leading).collect();
        order.sort_by_key(|&d| std::cmp::Reverse(x.stride()[d]));
        order.push(leading);
        let x = x.permute(&order[..])?;
        let mut dims = x.dims().to_vec();
        let rows: usize = dims[..leading].iter().product();
        let y = x.reshape((rows, in_dim))?.matmul(&self.lin.t()?)?;
        dims[leading] = out_dim;
        let mut back = vec![0; order.len()];
        for (i, &d) in order.iter().enumerate() {
            back[d] = i;
        }
        y.reshape(dims)?.permute(back)
    }
}

impl Module for HypergraphConv {
    /// `[…, n, in]` to `[…, n, out]`.
    ///
    /// # Errors
    /// See [`Operators`](Operators#errors); also where the features are not as many as Θ maps, or not of its dtype.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let in_dim = self.lin.dim(1)?;
        if x.rank() < 2 || x.dim(D::Minus1)? != in_dim {
            return Err(Error::msg(format!(
                "hypergraph_conv: x has shape {:?}, but […, vertices, {in_dim}] is needed",
                x.shape()
            )));
        }
        if x.dtype() != self.lin.dtype() {
            let (x, lin) = (x.dtype(), self.lin.dtype());
            return Err(Error::msg(format!(
                "hypergraph_conv: x has dtype {x:?}, but lin.weight has {lin:?}"
            )));
        }
        let weights = self.weights()?;
        let y =
            self.operators.conv(&self.linear(x)?, Weights { values: &weights, windows: self.windows() })?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
