//! Test data, and the operators as dense matrices of candle's own operations.

use crate::candle_core::{DType, Device, Result, Tensor, Var};
use crate::hyperscatter::{Batch, Conv, Incidence, Normalization, Reduce, Repeats, WeightUse};

pub(crate) const NORMALIZATIONS: [Normalization; 3] =
    [Normalization::Row, Normalization::Symmetric, Normalization::None];
pub(crate) const WEIGHT_USES: [WeightUse; 3] =
    [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly];

/// Five vertices, the last one isolated, and four hyperedges, one of them empty, one with a repeated vertex.
pub(crate) fn odd_topology() -> Incidence {
    let edges = [vec![0, 1], vec![1, 2, 3], vec![], vec![3, 3, 0]];
    Incidence::from_edges(5, &edges, Repeats::Keep).unwrap()
}

pub(crate) fn pairs(n: usize) -> Batch {
    Batch::replicate(Incidence::subsets(n, 2).unwrap())
}

/// Values between −1 and 1 that depend on the seed only.
pub(crate) fn signed(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Values between 0.5 and 1.5.
pub(crate) fn positive(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    (signed(shape, seed, dtype) * 0.5).unwrap().affine(1.0, 1.0).unwrap()
}

pub(crate) fn var(tensor: &Tensor) -> Var {
    Var::from_tensor(tensor).unwrap()
}

/// The gradients of Σ output · weighting with respect to some variables.
pub(crate) fn gradients(output: &Tensor, weighting: &Tensor, vars: &[&Var]) -> Vec<Tensor> {
    let loss = output.mul(weighting).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    vars.iter().map(|var| gradients.get(var).expect("a gradient").clone()).collect()
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    assert_eq!(found.dtype(), expected.dtype(), "{what}");
    let (found, expected) = (values(found), values(expected));
    let scale = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}: element {i} is {a}, but {b} is expected");
    }
}

/// The same type, shape and bits (a wider type tells all values apart).
#[track_caller]
pub(crate) fn assert_same(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!((found.dims(), found.dtype()), (expected.dims(), expected.dtype()), "{what}");
    let bits = |tensor| values(tensor).into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(found), bits(expected), "{what}");
}

/// H, n × m, with the number of times that a vertex stands in a hyperedge.
pub(crate) fn dense_incidence(topology: &Incidence, dtype: DType) -> Tensor {
    let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
    let mut dense = vec![0f64; n * m];
    for (v, e) in topology.incidences() {
        dense[v as usize * m + e as usize] += 1.0;
    }
    Tensor::from_vec(dense, (n, m), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// 1/x, and 0 with a zero gradient where x is 0.
fn inverse(x: &Tensor) -> Result<Tensor> {
    let zero = x.detach().eq(0f64)?.to_dtype(x.dtype())?;
    (x + &zero)?.recip()? * zero.affine(-1.0, 1.0)?
}

/// L H U B⁻¹ Hᵀ R, n × n, for weights `[m]`.
pub(crate) fn dense_conv(topology: &Incidence, conv: Conv, weights: &Tensor) -> Result<Tensor> {
    let h = dense_incidence(topology, weights.dtype());
    let ones = weights.ones_like()?;
    let (u, in_degree) = match conv.weight_use {
        WeightUse::Documented => (weights, weights),
        WeightUse::DegreeOnly => (&ones, weights),
        WeightUse::MessageOnly => (weights, &ones),
        other => panic!("no reference for {other:?}"),
    };
    let degrees = h.matmul(&in_degree.unsqueeze(1)?)?;
    let m = h.broadcast_mul(&(u * inverse(&h.sum(0)?)?)?)?.matmul(&h.t()?)?;
    match conv.normalization {
        Normalization::Row => m.broadcast_mul(&inverse(&degrees)?),
        Normalization::Symmetric => {
            let root =
                inverse(&(degrees.clone() + degrees.detach().eq(0f64)?.to_dtype(h.dtype())?)?.sqrt()?)?;
            let root = (root * degrees.detach().ne(0f64)?.to_dtype(h.dtype())?)?;
            m.broadcast_mul(&root)?.broadcast_mul(&root.t()?)
        }
        Normalization::None => Ok(m),
        other => panic!("no reference for {other:?}"),
    }
}

/// The matrix of a step from sources to targets, given `[targets, sources]` incidences, scales of each.
pub(crate) fn dense_step(h: &Tensor, reduce: Reduce, target: &Tensor, source: &Tensor) -> Result<Tensor> {
    let scaled = h.broadcast_mul(source)?.broadcast_mul(&target.unsqueeze(1)?)?;
    match reduce {
        Reduce::Sum => Ok(scaled),
        Reduce::Mean => scaled.broadcast_mul(&inverse(&h.sum_keepdim(1)?)?),
        other => panic!("no reference for {other:?}"),
    }
}
