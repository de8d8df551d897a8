//! Stand-in for `hyperscatter-candle`: the same layer, as a dense matrix built from candle's own operations.
//!
//! It computes y = D⁻¹ H W B⁻¹ Hᵀ (x Θᵀ) + bias (row normalisation, the weights in the message and in the
//! degree, 1/0 = 0) and leaves the gradients to candle.

use anyhow::ensure;
use candle_core::{D, Module, Result, Tensor};
use candle_nn::VarBuilder;

/// One hypergraph without values: which vertices each hyperedge joins.
#[derive(Clone)]
pub(crate) struct Incidence {
    vertices: usize,
    edges: Vec<Vec<u32>>,
}

impl Incidence {
    /// All subsets of `size` vertices out of `vertices`, in lexicographic order.
    pub(crate) fn subsets(vertices: usize, size: usize) -> anyhow::Result<Self> {
        ensure!(1 <= size && size <= vertices, "no subsets of {size} out of {vertices} vertices");
        let mut edges = Vec::new();
        let mut subset: Vec<u32> = (0..size as u32).collect();
        loop {
            edges.push(subset.clone());
            let Some(position) = (0..size).rev().find(|&i| (subset[i] as usize) < vertices - size + i) else {
                return Ok(Self { vertices, edges });
            };
            subset[position] += 1;
            for i in position + 1..size {
                subset[i] = subset[i - 1] + 1;
            }
        }
    }

    /// How many vertices.
    pub(crate) fn n_vertices(&self) -> usize {
        self.vertices
    }

    /// How many hyperedges.
    pub(crate) fn n_hyperedges(&self) -> usize {
        self.edges.len()
    }

    /// The hyperedges as rows.
    pub(crate) fn by_edge(&self) -> Csr<'_> {
        Csr(&self.edges)
    }
}

/// The members of each hyperedge.
pub(crate) struct Csr<'a>(&'a [Vec<u32>]);

impl<'a> Csr<'a> {
    /// The rows in order.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = &'a [u32]> + use<'a> {
        self.0.iter().map(Vec::as_slice)
    }
}

/// Any number of copies of one hypergraph.
pub(crate) struct Batch(Incidence);

impl Batch {
    pub(crate) fn replicate(incidence: Incidence) -> Self {
        Self(incidence)
    }
}

/// How the parameter `hyperedge_weight` becomes the weights w.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum WeightParametrization {
    /// w = log(1 + exp(parameter)), never negative.
    #[default]
    Softplus,
    /// w = parameter.
    Raw,
}

/// Options of [`hypergraph_conv`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct HypergraphConvConfig {
    pub(crate) bias: bool,
    pub(crate) weights: WeightParametrization,
}

impl Default for HypergraphConvConfig {
    fn default() -> Self {
        Self { bias: true, weights: WeightParametrization::default() }
    }
}

/// The layer: linear, convolution over the hypergraph, bias.
pub(crate) struct HypergraphConv {
    linear: Tensor,
    bias: Option<Tensor>,
    hyperedge_weight: Tensor,
    config: HypergraphConvConfig,
    /// H, n × m.
    incidence: Tensor,
    /// 1 / B_e, m values.
    inverse_sizes: Tensor,
}

/// Parameters: `lin.weight` [out, in], `bias` [out], `hyperedge_weight` [m].
pub(crate) fn hypergraph_conv(
    batch: &Batch,
    in_dim: usize,
    out_dim: usize,
    config: HypergraphConvConfig,
    vb: VarBuilder,
) -> Result<HypergraphConv> {
    let Incidence { vertices: n, edges } = &batch.0;
    let (n, m) = (*n, edges.len());
    let mut dense = vec![0f32; n * m];
    for (e, edge) in edges.iter().enumerate() {
        for &v in edge {
            dense[v as usize * m + e] += 1.0;
        }
    }
    let inverse_sizes: Vec<f32> = edges.iter().map(|edge| 1.0 / edge.len() as f32).collect();
    Ok(HypergraphConv {
        linear: vb.get((out_dim, in_dim), "lin.weight")?,
        bias: config.bias.then(|| vb.get(out_dim, "bias")).transpose()?,
        hyperedge_weight: vb.get(m, "hyperedge_weight")?,
        config,
        incidence: Tensor::from_vec(dense, (n, m), vb.device())?,
        inverse_sizes: Tensor::from_vec(inverse_sizes, m, vb.device())?,
    })
}

impl HypergraphConv {
    /// D⁻¹ H W B⁻¹ Hᵀ, n × n.
    fn operator(&self) -> Result<Tensor> {
        let raw = &self.hyperedge_weight;
        let w = match self.config.weights {
            // In this form exp never overflows.
            WeightParametrization::Softplus => (raw.relu()? + (raw.abs()?.neg()?.exp()? + 1.0)?.log()?)?,
            WeightParametrization::Raw => raw.clone(),
        };
        let degree = self.incidence.broadcast_mul(&w)?.sum_keepdim(1)?;
        let zero = degree.eq(0f32)?.to_dtype(degree.dtype())?;
        let inverse_degree = (degree + &zero)?.recip()?.mul(&(1.0 - zero)?)?;
        let messages = self.incidence.broadcast_mul(&(w * &self.inverse_sizes)?)?;
        messages.matmul(&self.incidence.t()?)?.broadcast_mul(&inverse_degree)
    }
}

impl Module for HypergraphConv {
    /// `[…, n, in]` to `[…, n, out]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let n = x.dim(D::Minus2)?;
        let x = x.flatten_to(D::Minus(3))?.transpose(0, 1)?.contiguous()?;
        let (_, instances, features) = x.dims3()?;
        // One product for all instances: the vertices are rows, everything else is a column.
        let x = x.reshape((n * instances, features))?.matmul(&self.linear.t()?)?;
        let width = x.dim(1)?;
        let y = self.operator()?.matmul(&x.reshape((n, instances * width))?)?;
        let y = y.reshape((n, instances, width))?.transpose(0, 1)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        *shape.last_mut().expect("a matrix has a last dimension") = width;
        if shape.len() == 3 { Ok(y) } else { y.reshape(shape) }
    }
}
