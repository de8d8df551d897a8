//! The convolution of one small instance by dense matrices in `f64`, straight from its definition and
//! independent of the library's loops, to compare results with.

use hyperscatter::{Conv, Incidence, Normalization, WeightUse};

/// What the dense evaluation of one instance gives.
pub struct Dense {
    /// `[m, F]`: B⁻¹ Hᵀ R x.
    pub z: Vec<f64>,
    /// `[n, F]`
    pub y: Vec<f64>,
    /// `[n, F]`
    pub grad_x: Vec<f64>,
    /// `[m]`
    pub grad_weights: Vec<f64>,
}

/// y = M x, ∂x = Mᵀ g and, with Γ_uv = ⟨g_u, x_v⟩, the weight gradients from Γ alone: the derivation by way
/// of the dense operator M = L H U B⁻¹ Hᵀ R, which shares no intermediate with the library's z and q.
pub fn conv(
    topology: &Incidence,
    features: usize,
    conv: Conv,
    weights: &[f64],
    x: &[f64],
    g: &[f64],
) -> Dense {
    let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
    let mut h = vec![vec![0.0; m]; n];
    for (v, e) in topology.incidences() {
        h[v as usize][e as usize] += 1.0;
    }
    let in_degree = conv.weight_use != WeightUse::MessageOnly;
    let in_message = conv.weight_use != WeightUse::DegreeOnly;
    let sizes: Vec<f64> = (0..m).map(|e| h.iter().map(|row| row[e]).sum()).collect();
    let degrees: Vec<f64> = h
        .iter()
        .map(|row| row.iter().zip(weights).map(|(h, w)| if in_degree { h * w } else { *h }).sum())
        .collect();
    let inverse = |d: f64| if d == 0.0 { 0.0 } else { 1.0 / d };
    let (left, right): (Vec<f64>, Vec<f64>) = degrees
        .iter()
        .map(|&d| match conv.normalization {
            Normalization::Row => (inverse(d), 1.0),
            Normalization::Symmetric => (inverse(d.sqrt()), inverse(d.sqrt())),
            Normalization::None => (1.0, 1.0),
            other => panic!("no reference for {other:?}"),
        })
        .unzip();
    // pairs[u][v][e] = H_ue H_ve / B_e without weights, L and R
    let pair = |u: usize, v: usize, e: usize| h[u][e] * h[v][e] * inverse(sizes[e]);
    let message = |e: usize| if in_message { weights[e] } else { 1.0 };

    let mut dense = Dense {
        z: vec![0.0; m * features],
        y: vec![0.0; n * features],
        grad_x: vec![0.0; n * features],
        grad_weights: vec![0.0; m],
    };
    for (v, e) in topology.incidences() {
        let (v, e) = (v as usize, e as usize);
        for f in 0..features {
            dense.z[e * features + f] += inverse(sizes[e]) * right[v] * x[v * features + f];
        }
    }
    let mut grad_degrees = vec![0.0; n];
    for u in 0..n {
        for v in 0..n {
            let unscaled: f64 = (0..m).map(|e| pair(u, v, e) * message(e)).sum();
            let operator = left[u] * unscaled * right[v];
            let (x_v, g_u) = (&x[v * features..][..features], &g[u * features..][..features]);
            let gamma: f64 = g_u.iter().zip(x_v).map(|(g, x)| g * x).sum();
            for f in 0..features {
                dense.y[u * features + f] += operator * x_v[f];
                dense.grad_x[v * features + f] += operator * g_u[f];
            }
            if in_message {
                for e in 0..m {
                    dense.grad_weights[e] += left[u] * right[v] * pair(u, v, e) * gamma;
                }
            }
            match conv.normalization {
                Normalization::Row => grad_degrees[u] -= operator * gamma * inverse(degrees[u]),
                Normalization::Symmetric => {
                    grad_degrees[u] -= operator * gamma * inverse(degrees[u]) / 2.0;
                    grad_degrees[v] -= operator * gamma * inverse(degrees[v]) / 2.0;
                }
                Normalization::None => {}
                other => panic!("no reference for {other:?}"),
            }
        }
    }
    if in_degree {
        for (v, e) in topology.incidences() {
            dense.grad_weights[e as usize] += grad_degrees[v as usize];
        }
    }
    dense
}
