//! Gradients against central differences in `f64`.

use hyperscatter::cpu::{self, Plan};
use hyperscatter::{
    Batch, Conv, Incidence, Normalization, Out, Repeats, RowLayout, Rows, WeightUse, WindowTable,
};
use proptest::prelude::*;

use crate::common::{features, numbers};
use crate::layouts::conventions;

const FEATURES: usize = 3;

/// Two copies of a hypergraph with overlapping windows (or not), and a loss ⟨y, g⟩.
struct Problem {
    batch: Batch,
    conv: Conv,
    offsets: [usize; 2],
    x: Vec<f64>,
    w: Vec<f64>,
    g: Vec<f64>,
}

impl Problem {
    fn new(topology: Incidence, conv: Conv, shift: usize, seed: u64) -> Self {
        let len = 2 * topology.n_vertices() * FEATURES;
        let w = numbers(seed, topology.n_hyperedges() + shift, 0.4, 1.6);
        let (x, g) = (features(seed ^ 1, len), features(seed ^ 2, len));
        Self { batch: Batch::replicate(topology), conv, offsets: [0, shift], x, w, g }
    }

    fn run<R>(&self, f: impl FnOnce(&mut cpu::Workspace<f64>, cpu::Weights<'_, f64>) -> R) -> R {
        let table = WindowTable::new(&self.batch, &self.offsets).unwrap();
        let plan = Plan::<f64>::new(&self.batch, FEATURES, self.conv).unwrap();
        f(&mut plan.workspace(2).unwrap(), cpu::Weights::table(&self.w, &table))
    }

    fn y(&self) -> Vec<f64> {
        let mut y = vec![f64::NAN; self.x.len()];
        self.run(|workspace, weights| {
            let out = Out::Overwrite(Rows::contiguous(&mut y[..], FEATURES));
            workspace.conv(rows(&self.x), weights, out).unwrap();
        });
        y
    }

    fn loss(&self) -> f64 {
        self.y().iter().zip(&self.g).map(|(y, g)| y * g).sum()
    }

    fn gradients(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut grad_x, mut grad_w) = (vec![f64::NAN; self.x.len()], vec![f64::NAN; self.w.len()]);
        self.run(|workspace, weights| {
            let out = Out::Overwrite(Rows::contiguous(&mut grad_x[..], FEATURES));
            workspace
                .conv_backward(rows(&self.x), weights, rows(&self.g), out, Out::Overwrite(&mut grad_w))
                .unwrap();
        });
        (grad_x, grad_w)
    }

    /// (loss(p + h) − loss(p − h)) / 2h for each parameter p that `of` names.
    fn differences(&mut self, of: impl Fn(&mut Self) -> &mut [f64]) -> Vec<f64> {
        const H: f64 = 1e-5;
        (0..of(self).len())
            .map(|i| {
                let value = of(self)[i];
                let [above, below] = [value + H, value - H].map(|v| {
                    of(self)[i] = v;
                    self.loss()
                });
                of(self)[i] = value;
                (above - below) / (2.0 * H)
            })
            .collect()
    }
}

/// Rows of both instances; stated, since an operand without rows does not tell their number.
fn rows(data: &[f64]) -> Rows<&[f64]> {
    Rows::new(data, RowLayout::contiguous(FEATURES).instances(2))
}

fn assert_close(what: &str, gradient: &[f64], differences: &[f64]) {
    for (i, (g, d)) in gradient.iter().zip(differences).enumerate() {
        assert!(
            (g - d).abs() <= 1e-7 * (1.0 + d.abs()),
            "{what}[{i}]: {g}, but the difference quotient is {d}"
        );
    }
}

proptest! {
    /// Isolated vertices (of degree zero), empty and repeated hyperedges included.
    #[test]
    fn gradients_are_difference_quotients(
        (n, edges) in crate::layouts::edges(), conv in conventions(), shift in 0usize..4, seed in any::<u64>(),
    ) {
        let topology = Incidence::from_edges(n, &edges, Repeats::Keep).unwrap();
        let mut problem = Problem::new(topology, conv, shift, seed);
        let (grad_x, grad_w) = problem.gradients();
        assert_close("grad_x", &grad_x, &problem.differences(|p| &mut p.x));
        assert_close("grad_weights", &grad_w, &problem.differences(|p| &mut p.w));
    }
}

/// With weights of zero, vertices have degree zero although they have hyperedges. There y is not continuous in the
/// weights: the gradient counts as zero. ∂x is the difference quotient all the same.
#[test]
fn gradients_at_zero_weights_are_finite_and_zero_through_the_degree() {
    for norm in [Normalization::Row, Normalization::Symmetric, Normalization::None] {
        for weight_use in [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly] {
            // Vertices 0 and 1 have zero degree, vertices 2 to 4 have not.
            let topology =
                Incidence::from_edges(5, &[&[0u8, 1][..], &[1], &[2, 3], &[3, 4, 2]], Repeats::Keep).unwrap();
            let mut problem = Problem::new(topology, Conv::new(norm, weight_use), 0, 9);
            problem.w[..2].fill(0.0);
            // What a vertex of degree zero holds must not reach anybody else's gradient, not even as 0 · ∞.
            let (grad_x, grad_w) = problem.gradients();
            assert!(grad_x.iter().chain(&grad_w).all(|g| g.is_finite()), "{norm:?} {weight_use:?}");
            assert_close("grad_x", &grad_x, &problem.differences(|p| &mut p.x));
            assert_close("grad_weights", &grad_w[2..], &problem.differences(|p| &mut p.w[2..]));
            if weight_use != WeightUse::MessageOnly && norm != Normalization::None {
                assert_eq!(grad_w[..2], [0.0, 0.0], "{norm:?} {weight_use:?}");
            } else {
                assert_close("grad_weights", &grad_w[..2], &problem.differences(|p| &mut p.w[..2]));
            }
        }
    }
}

/// A vertex of degree zero takes no part: whatever it holds, infinities too, reaches nobody under the symmetric
/// normalization, and its own row is a store of zeros.
#[test]
fn a_vertex_of_degree_zero_keeps_its_infinities() {
    let topology = Incidence::from_edges(3, &[&[0u8, 1, 2][..], &[1, 2]], Repeats::Keep).unwrap();
    // The weight 0 of {0, 1, 2} is all of vertex 0's degree.
    let conv = Conv::new(Normalization::Symmetric, WeightUse::DegreeOnly);
    let mut problem = Problem::new(topology, conv, 0, 3);
    problem.w = vec![0.0, 1.0];
    let expected = problem.gradients();
    let loss = problem.loss();
    for poison in [f64::INFINITY, f64::NAN] {
        for instance in 0..2 {
            let row = instance * 3 * FEATURES;
            problem.x[row..row + FEATURES].fill(poison);
        }
        assert_eq!(problem.loss().to_bits(), loss.to_bits(), "x = {poison}");
        for instance in 0..2 {
            let row = instance * 3 * FEATURES;
            let held = problem.g[row..row + FEATURES].to_vec();
            problem.g[row..row + FEATURES].fill(poison);
            assert_eq!(problem.gradients(), expected, "g = {poison}");
            problem.g[row..row + FEATURES].copy_from_slice(&held);
        }
    }
}

/// The row of a vertex of degree zero is a store of zeros, whatever its hyperedges hold.
#[test]
fn infinities_do_not_reach_a_vertex_of_degree_zero() {
    let topology = Incidence::from_edges(2, &[&[0u8, 1][..], &[1]], Repeats::Keep).unwrap();
    let conv = Conv::new(Normalization::Row, WeightUse::DegreeOnly);
    let mut problem = Problem::new(topology, conv, 0, 4);
    problem.w = vec![0.0, 1.0];
    problem.x.fill(f64::INFINITY);
    let y = problem.y();
    for instance in y.chunks(2 * FEATURES) {
        assert_eq!(instance[..FEATURES], [0.0; FEATURES]);
        assert_eq!(instance[FEATURES..], [f64::INFINITY; FEATURES]);
    }
}

/// A scale that a caller gives is a plain factor: 0 · ∞ is NaN.
#[test]
fn a_scale_of_zero_multiplies() {
    let topology = Incidence::from_edges(2, &[[0u8, 1]], Repeats::Keep).unwrap();
    let plan = Plan::<f64>::new(&Batch::replicate(topology), 1, Conv::default()).unwrap();
    let scale = Some(cpu::Weights::shared(&[0.0, 1.0][..]));
    let step = cpu::Step { vertex_scale: scale, ..cpu::Step::default() };
    let mut z = [0.0];
    let (x, out) = (Rows::contiguous(&[f64::INFINITY, 1.0][..], 1), Rows::contiguous(&mut z[..], 1));
    plan.workspace(1).unwrap().vertex_to_hyperedge(step, x, Out::Overwrite(out)).unwrap();
    assert!(z[0].is_nan());
}
