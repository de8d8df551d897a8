//! The layer: Θ, the convolution, a bias.

use candle_core::{Error, Result, Tensor};
use candle_nn::{Init, Module, VarBuilder};
use hyperscatter::{Axis, Batch, Conv, Normalization, WeightUse};

use crate::custom::in_graph;
use crate::dtype::dispatch;
use crate::error::{Caller, Operands, accumulator};
use crate::operators::{CONV, Operators};
use crate::rows::check_features;
use crate::softplus::{inverse_softplus_of_one, scaled_softplus, softplus};
use crate::weights::{TensorWeights, TensorWindows};

/// How the parameter `hyperedge_weight` becomes the hyperedge weights w.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WeightParametrization {
    /// w = log(1 + exp(parameter)): positive, so that no degree is 0 or negative.
    ///
    /// Where the common scale of the weights cancels (`Documented` weights under `Row` or `Symmetric`
    /// normalization) that holds for every finite parameter, however negative: the convolution computes with
    /// w times a power of two, so that weights of parameters down to −105 (−709 in `F64`) have all bits of
    /// the type, and their gradients stay finite. Parameters below count as −105 in the result. (Where one is
    /// above 2³², these bounds rise with the largest.) −∞ makes a weight of 0, with a gradient of 0. Under
    /// other conventions, weights that are smaller than all numbers of the type (of parameters below −104, or
    /// −745 in `F64`) are 0.
    #[default]
    Softplus,
    /// w = parameter, of any sign. Under symmetric normalization a negative degree is an error.
    Raw,
    /// w = 1; there is no parameter.
    Ones,
}

/// The options of [`hypergraph_conv`]; each has a method that sets it.
///
/// ```
/// use hyperscatter_candle::{HypergraphConvConfig, WeightParametrization};
///
/// let config = HypergraphConvConfig::default().bias(false).weights(WeightParametrization::Raw);
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HypergraphConvConfig {
    /// The conventions of the convolution: `Row` normalization with weights in message and degree by default.
    pub conv: Conv,
    /// Whether there is a parameter `bias`; there is by default.
    pub bias: bool,
    /// What the hyperedge weights are.
    pub weights: WeightParametrization,
    /// How the parameter `hyperedge_weight` is initialised where it is new. `None`, the default, makes all
    /// weights 1.
    pub weight_init: Option<Init>,
    /// The number of hyperedge weights. `None`, the default, makes as many as the largest topology of the
    /// batch has hyperedges; more are for windows that read further, and for other batches.
    pub n_weights: Option<usize>,
}

impl Default for HypergraphConvConfig {
    fn default() -> Self {
        Self {
            conv: Conv::default(),
            bias: true,
            weights: WeightParametrization::default(),
            weight_init: None,
            n_weights: None,
        }
    }
}

impl HypergraphConvConfig {
    /// With these conventions.
    pub fn conv(self, conv: Conv) -> Self {
        Self { conv, ..self }
    }

    /// With a bias, or without.
    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// With these hyperedge weights.
    pub fn weights(self, weights: WeightParametrization) -> Self {
        Self { weights, ..self }
    }

    /// With this initialisation of new weights, or the default one.
    pub fn weight_init(self, weight_init: impl Into<Option<Init>>) -> Self {
        Self { weight_init: weight_init.into(), ..self }
    }

    /// With this number of hyperedge weights, or the default one.
    pub fn n_weights(self, n_weights: impl Into<Option<usize>>) -> Self {
        Self { n_weights: n_weights.into(), ..self }
    }
}

/// The hyperedge weights of a layer, and how they are learned.
#[derive(Debug, Clone)]
#[non_exhaustive]
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
/// All copies of a replicated batch share the hyperedge weights. Input is `[…, n, in]`, and output `[…, n,
/// out]`. Over a table batch they are `[N, in]` and `[N, out]`. See [`Operators`], also for dtypes and
/// errors. A strided input such as `[E, T, in].transpose(0, 1)` is not copied.
///
/// | parameter | shape | |
/// |---|---|---|
/// | `lin.weight` | `[out, in]` | Θ, as in PyTorch Geometric |
/// | `bias` | `[out]` | as in PyTorch Geometric |
/// | `hyperedge_weight` | `[n_weights]` | `F64` in a model of `F64`, and `F32` in all others |
///
/// There are as many weights as the largest topology of the batch has hyperedges, unless
/// [`n_weights`](HypergraphConvConfig::n_weights) is another number.
///
/// # Other batches
/// Another number of copies of a replicated batch is another shape of `x`, and nothing else. For another
/// batch, such as the next table of instances, [`over`](Self::over) makes a layer of the same variables. It
/// may be called in every step.
#[derive(Debug, Clone)]
pub struct HypergraphConv {
    operators: Operators,
    lin: Tensor,
    bias: Option<Tensor>,
    hyperedge_weight: HyperedgeWeight,
    windows: TensorWindows,
    /// Shared windows may leave weights unread where there are exactly as many as this: other batches read
    /// them. Where there are more, nobody said so, and the windows are not those that were meant.
    n_weights: usize,
}

/// A layer over `batch` with the parameters of `vb`, whose dtype is that of the features.
///
/// New parameters start as in PyTorch Geometric: Θ uniform as Glorot and Bengio, the bias zero. All weights
/// start at 1, unless `config` says otherwise. Over a table of several topologies there are as many weights
/// as the largest has hyperedges, and each instance reads the first ones; [`HypergraphConv::with_windows`]
/// places them elsewhere, and [`HypergraphConvConfig::n_weights`] makes more of them.
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
    let n_weights = config.n_weights.unwrap_or(batch.largest(Axis::Hyperedge));
    let parameter = |all_ones: f64| {
        let init = config.weight_init.unwrap_or(Init::Const(all_ones));
        let parameter = vb.get_with_hints_dtype(n_weights, "hyperedge_weight", init, accumulator(vb.dtype()));
        parameter.map_err(|error| {
            error.context(format!(
                "the layer has {n_weights} hyperedge weights: as many as the largest topology of its batch \
                 has hyperedges, where HypergraphConvConfig::n_weights does not say otherwise"
            ))
        })
    };
    let hyperedge_weight = match config.weights {
        WeightParametrization::Softplus => HyperedgeWeight::Softplus(parameter(inverse_softplus_of_one())?),
        WeightParametrization::Raw => HyperedgeWeight::Raw(parameter(1.0)?),
        WeightParametrization::Ones => HyperedgeWeight::Ones,
    };
    let layer = HypergraphConv::new(Operators::new(batch, config.conv), lin, bias, hyperedge_weight)?;
    Ok(layer.with_n_weights(n_weights))
}

impl HypergraphConv {
    /// A layer of given tensors: `lin` is Θ, `[out, in]`, `bias` is `[out]`. The weights may have any shape
    /// and be of any floating-point type; they are converted where the features need another. There are as
    /// many as the largest topology of the batch has hyperedges, unless [`with_windows`](Self::with_windows)
    /// or [`with_n_weights`](Self::with_n_weights) says otherwise.
    ///
    /// # Errors
    /// Where the shapes of `lin` and `bias` are not these, or their types differ.
    pub fn new(
        operators: Operators,
        lin: Tensor,
        bias: Option<Tensor>,
        hyperedge_weight: HyperedgeWeight,
    ) -> Result<Self> {
        let [out_dim, in_dim] = *lin.dims() else {
            let shape = lin.shape();
            return Err(Error::msg(format!("lin.weight has shape {shape:?}, but [out, in] is needed")));
        };
        if let Some(bias) = &bias {
            let needed = if bias.dims() != [out_dim] {
                format!("shape {:?}, but [{out_dim}]", bias.shape())
            } else if bias.dtype() != lin.dtype() {
                format!("dtype {:?}, but {:?}", bias.dtype(), lin.dtype())
            } else {
                String::new()
            };
            if !needed.is_empty() {
                return Err(Error::msg(format!(
                    "bias has {needed} is needed with lin.weight of shape [{out_dim}, {in_dim}] and dtype \
                     {:?}",
                    lin.dtype()
                )));
            }
        }
        let n_weights = operators.batch().largest(Axis::Hyperedge);
        Ok(Self { operators, lin, bias, hyperedge_weight, windows: TensorWindows::Shared, n_weights })
    }

    /// The same layer, whose instances read their weights through `windows`. Without this, all instances read
    /// from the first weight on. [`HyperedgeWeight::Ones`] has no windows.
    pub fn with_windows(self, windows: TensorWindows) -> Self {
        Self { windows, ..self }
    }

    /// The same layer, which has `n_weights` hyperedge weights: more than its batch reads, because other
    /// batches will read them ([`over`](Self::over)). Shared windows then read the first ones.
    ///
    /// A layer that was made by [`hypergraph_conv`] knows the number. A layer that was made by
    /// [`new`](Self::new) from more weights than its batch reads must be told. Otherwise its calls fail by
    /// [`UnreadWeights`](hyperscatter::Error::UnreadWeights): these might be the weights of several
    /// instances.
    pub fn with_n_weights(self, n_weights: usize) -> Self {
        Self { n_weights, ..self }
    }

    /// The layer over another batch: the same variables, windows and conventions. Nothing is copied or
    /// computed. The first call makes the batch's scratch memory. Layers over one batch share it if they are
    /// made by [`with_operators`](Self::with_operators) from clones of the same operators.
    ///
    /// Shared windows read the first weights, as many as the batch needs. A window table belongs to one
    /// batch, so another needs a table of its own: [`with_windows`](Self::with_windows).
    ///
    /// ```
    /// use hyperscatter_candle::candle_core::{DType, Device, Module, Tensor};
    /// use hyperscatter_candle::candle_nn::{VarBuilder, VarMap};
    /// use hyperscatter_candle::hyperscatter::{Axis, Batch, Incidence};
    /// use hyperscatter_candle::{HypergraphConvConfig, hypergraph_conv};
    ///
    /// let topologies = vec![Incidence::subsets(3, 2)?, Incidence::subsets(4, 2)?]; // 3 and 6 pairs
    /// let vars = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    /// let first = Batch::from_table(topologies.clone(), &[0])?;
    /// let config = HypergraphConvConfig::default().n_weights(6);
    /// let layer = hypergraph_conv(&first, 8, 2, config, vb)?;
    /// for ids in [&[0, 1][..], &[1, 1, 0], &[0, 0]] {
    ///     let batch = Batch::from_table(topologies.clone(), ids)?;
    ///     let x = Tensor::ones((batch.start(Axis::Vertex, ids.len()), 8), DType::F32, &Device::Cpu)?;
    ///     let gradients = layer.over(&batch).forward(&x)?.sqr()?.sum_all()?.backward()?;
    ///     let weights = &vars.data().lock().unwrap()["hyperedge_weight"];
    ///     assert_eq!(gradients.get(weights).unwrap().dims(), [6]);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn over(&self, batch: &Batch) -> Self {
        self.with_operators(Operators::new(batch, self.operators.conventions()))
    }

    /// The layer over the batch, and with the conventions, of other operators: the same variables and
    /// windows.
    pub fn with_operators(&self, operators: Operators) -> Self {
        Self { operators, ..self.clone() }
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

    /// The hyperedge weights w themselves, differentiable, in the type of the weights that goes with features
    /// of Θ's dtype. Weights of a softplus that the type has no number for are rounded, very small ones to 0.
    ///
    /// # Errors
    /// Those of candle, for weights of a type that it cannot convert.
    pub fn weights(&self) -> Result<Tensor> {
        self.weights_through(softplus)
    }

    /// The weights up to a common scale that cancels.
    fn weights_of_conv(&self) -> Result<Tensor> {
        let Conv { normalization, weight_use, .. } = self.operators.conventions();
        match weight_use == WeightUse::Documented && normalization != Normalization::None {
            true => self.weights_through(scaled_softplus),
            false => self.weights(),
        }
    }

    fn weights_through(&self, softplus: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let dtype = accumulator(self.lin.dtype());
        match &self.hyperedge_weight {
            HyperedgeWeight::Softplus(raw) => softplus(&raw.to_dtype(dtype)?),
            HyperedgeWeight::Raw(weights) => weights.to_dtype(dtype),
            HyperedgeWeight::Ones => {
                Tensor::ones(self.operators.batch().largest(Axis::Hyperedge), dtype, self.lin.device())
            }
        }
    }

    /// Those that the batch reads: shared windows need exactly as many as its largest topology has.
    fn in_use(&self, weights: Tensor) -> Result<Tensor> {
        let (needed, all) = (self.operators.batch().largest(Axis::Hyperedge), weights.elem_count());
        match self.windows() {
            TensorWindows::Shared if needed < all && all == self.n_weights => {
                weights.flatten_all()?.narrow(0, 0, needed)
            }
            _ => Ok(weights),
        }
    }

    /// The degrees D of all vertices by which the convolution divides (whatever the normalization), in the
    /// shape of [`Operators::degrees`]; differentiable. They are those of [`weights`](Self::weights).
    ///
    /// # Errors
    /// As [`Operators::degrees`].
    pub fn degrees(&self) -> Result<Tensor> {
        let weights = self.weights()?;
        let of = |weights: &Tensor| {
            let weights = self.in_use(weights.clone())?;
            let weights = TensorWeights::new(&weights, self.windows());
            self.operators.degrees_for(Caller::Layer, weights)
        };
        if self.operators.conventions().weight_use != WeightUse::MessageOnly {
            return of(&weights);
        }
        let degrees = of(&weights.detach().ones_like()?)?;
        dispatch!("degrees", degrees.dtype(), T => {
            in_graph(degrees.flatten_all()?.to_vec1::<T>()?, degrees.shape(), None, &[&weights])
        })
    }

    fn windows(&self) -> TensorWindows {
        match self.hyperedge_weight {
            HyperedgeWeight::Ones => TensorWindows::Shared,
            _ => self.windows.clone(),
        }
    }

    /// x Θᵀ as one matrix product over the rows in the order in which they lie in memory; the result has the
    /// strides of `x`, so that neither is copied. (`candle_nn::Linear` multiplies instance by instance where
    /// `x` is strided.)
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
    /// See [`Operators`](Operators#errors). Where the features are not as many as Θ maps, that is a
    /// [`FeaturesMismatch`](hyperscatter::Error::FeaturesMismatch); where they are not of its dtype, a candle
    /// error.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // Before Θ, so that errors are about the features that the caller passed.
        check_features(CONV, "x", self.operators.batch(), Axis::Vertex, Some(self.lin.dim(1)?), x)?;
        if x.dtype() != self.lin.dtype() {
            let (found, needed) = (x.dtype(), self.lin.dtype());
            return Err(Error::msg(format!(
                "{CONV}: x has dtype {found:?}, but lin.weight has {needed:?}: convert one of them with \
                 to_dtype"
            )));
        }
        let weights = self.in_use(self.weights_of_conv()?)?;
        let operands = Operands::new(Caller::Layer, CONV, "x", x);
        let operands = match &self.hyperedge_weight {
            HyperedgeWeight::Softplus(parameter) | HyperedgeWeight::Raw(parameter) => {
                operands.and("hyperedge_weight", parameter)
            }
            HyperedgeWeight::Ones => operands,
        };
        let weights = TensorWeights::new(&weights, self.windows());
        let y = self.operators.conv_of(operands, &self.linear(x)?, weights)?;
        match &self.bias {
            // Candle's sum of nothing forgets its second operand.
            Some(bias) if y.elem_count() == 0 => dispatch!(CONV, y.dtype(), T => {
                in_graph::<T>(Vec::new(), y.shape(), Some(&y), &[bias])
            }),
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
