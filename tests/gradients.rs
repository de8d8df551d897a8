//! Gradients against central differences in `f64`, and what happens where there are no differences: at
//! degrees of zero, and beside infinities.

use hyperscatter::{
    Batch, Conv, Incidence, Normalization, Out, Reduce, Repeats, RowLayout, Rows, WeightUse, WindowTable, cpu,
};
use proptest::prelude::*;

use crate::backend::{Backend, StepKind};
use crate::common::{features, numbers};
use crate::layouts::conventions;
use crate::per_backend::per_backend;

const FEATURES: usize = 3;

/// Whose gradients.
#[derive(Debug, Clone, Copy)]
enum Operator {
    Conv(Conv),
    /// With both scales.
    Step(StepKind),
}

fn operator() -> impl Strategy<Value = Operator> {
    prop_oneof![conventions().prop_map(Operator::Conv), StepKind::any().prop_map(Operator::Step)]
}

/// What a loss has gradients of.
#[derive(Debug, Clone, PartialEq)]
struct Parameters {
    x: Vec<f64>,
    /// Weights or scales of hyperedges.
    w: Vec<f64>,
    /// Scales of vertices; a convolution does not use them.
    scale: Vec<f64>,
}

/// Two copies of a hypergraph with overlapping windows (or not), and a loss ⟨y, g⟩.
#[derive(Debug)]
struct Problem {
    batch: Batch,
    operator: Operator,
    offsets: [usize; 2],
    parameters: Parameters,
    g: Vec<f64>,
}

impl Problem {
    fn new(topology: Incidence, operator: Operator, shift: usize, seed: u64) -> Self {
        let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
        let (from, to) = match operator {
            Operator::Conv(_) => (n, n),
            Operator::Step(StepKind { to_hyperedges: true, .. }) => (n, m),
            Operator::Step(StepKind { to_hyperedges: false, .. }) => (m, n),
        };
        let parameters = Parameters {
            x: features(seed ^ 1, 2 * from * FEATURES),
            w: numbers(seed, m + shift, 0.4, 1.6),
            scale: numbers(seed ^ 3, n + shift, -1.6, 1.6),
        };
        let g = features(seed ^ 2, 2 * to * FEATURES);
        Self { batch: Batch::replicate(topology), operator, offsets: [0, shift], parameters, g }
    }

    fn conv(&self) -> Conv {
        match self.operator {
            Operator::Conv(conv) => conv,
            Operator::Step(_) => Conv::default(),
        }
    }

    /// The offsets of the windows of so many problems, whose parameters of `len` values stand one behind the
    /// other.
    fn offsets(&self, problems: usize, len: usize) -> Vec<usize> {
        (0..problems).flat_map(|p| self.offsets.map(|offset| p * len + offset)).collect()
    }

    /// y of this problem with other parameters, all in one batch.
    fn ys(&self, backend: &dyn Backend<f64>, all: &[Parameters]) -> Vec<Vec<f64>> {
        let together =
            |of: fn(&Parameters) -> &Vec<f64>| all.iter().flat_map(of).copied().collect::<Vec<_>>();
        let (x, w, scale) = (together(|p| &p.x), together(|p| &p.w), together(|p| &p.scale));
        let layout = RowLayout::contiguous(FEATURES).instances(2 * all.len());
        let w_offsets = self.offsets(all.len(), self.parameters.w.len());
        let w_table = WindowTable::new(&self.batch, &w_offsets).unwrap();
        let w = cpu::Weights::table(&w[..], &w_table);
        let mut y = vec![f64::NAN; all.len() * self.g.len()];
        let (rows, out) = (Rows::new(&x[..], layout), Out::Overwrite(Rows::new(&mut y[..], layout)));
        let mut operators = backend.operators(&self.batch, FEATURES, self.conv(), 2 * all.len()).unwrap();
        match self.operator {
            Operator::Conv(_) => operators.conv(rows, w, None, out).unwrap(),
            Operator::Step(StepKind { to_hyperedges, reduce }) => {
                let offsets = self.offsets(all.len(), self.parameters.scale.len());
                let table = WindowTable::for_vertices(&self.batch, &offsets).unwrap();
                let vertex_scale = Some(cpu::Weights::table(&scale[..], &table));
                let step = cpu::Step::new(reduce).vertex_scale(vertex_scale).hyperedge_scale(w);
                operators.step(to_hyperedges, step, rows, out).unwrap();
            }
        }
        (0..all.len()).map(|p| y[p * self.g.len()..][..self.g.len()].to_vec()).collect()
    }

    fn y(&self, backend: &dyn Backend<f64>) -> Vec<f64> {
        self.ys(backend, std::slice::from_ref(&self.parameters)).remove(0)
    }

    fn gradients(&self, backend: &dyn Backend<f64>) -> Parameters {
        let Parameters { x, w, scale } = &self.parameters;
        let layout = RowLayout::contiguous(FEATURES).instances(2);
        let nan = |values: &[f64]| vec![f64::NAN; values.len()];
        let mut gradients = Parameters { x: nan(x), w: nan(w), scale: nan(scale) };
        let (grad_x, grad_w) = (Rows::new(&mut gradients.x[..], layout), &mut gradients.w[..]);
        let (x, g) = (Rows::new(&x[..], layout), Rows::new(&self.g[..], layout));
        let table = WindowTable::new(&self.batch, &self.offsets).unwrap();
        let w = cpu::Weights::table(&w[..], &table);
        let mut operators = backend.operators(&self.batch, FEATURES, self.conv(), 2).unwrap();
        match self.operator {
            Operator::Conv(_) => {
                let (grad_x, grad_w) = (Out::Overwrite(grad_x), Out::Overwrite(grad_w));
                operators.conv_backward(x, None, w, g, grad_x, grad_w).unwrap();
            }
            Operator::Step(StepKind { to_hyperedges, reduce }) => {
                let table = WindowTable::for_vertices(&self.batch, &self.offsets).unwrap();
                let vertex_scale = Some(cpu::Weights::table(&scale[..], &table));
                let step = cpu::Step::new(reduce).vertex_scale(vertex_scale).hyperedge_scale(w);
                let gradients = cpu::StepGradients::none()
                    .rows(Out::Overwrite(grad_x))
                    .vertex_scale(Out::Overwrite(&mut gradients.scale[..]))
                    .hyperedge_scale(Out::Overwrite(grad_w));
                operators.step_backward(to_hyperedges, step, x, g, gradients).unwrap();
            }
        }
        gradients
    }

    /// (loss(p + h) − loss(p − h)) / 2h for each parameter p that `of` names.
    fn differences(
        &self,
        backend: &dyn Backend<f64>,
        of: impl Fn(&mut Parameters) -> &mut [f64],
    ) -> Vec<f64> {
        const H: f64 = 1e-5;
        let n = of(&mut self.parameters.clone()).len();
        let moved = |i: usize, by: f64| {
            let mut parameters = self.parameters.clone();
            of(&mut parameters)[i] += by;
            parameters
        };
        let all: Vec<_> = (0..n).flat_map(|i| [moved(i, H), moved(i, -H)]).collect();
        let loss = |y: &Vec<f64>| y.iter().zip(&self.g).map(|(y, g)| y * g).sum::<f64>();
        let losses: Vec<f64> = self.ys(backend, &all).iter().map(loss).collect();
        losses.chunks(2).map(|both| (both[0] - both[1]) / (2.0 * H)).collect()
    }
}

fn assert_close(what: &str, gradient: &[f64], differences: &[f64]) {
    assert_eq!(gradient.len(), differences.len());
    for (i, (g, d)) in gradient.iter().zip(differences).enumerate() {
        assert!(
            (g - d).abs() <= 1e-7 * (1.0 + d.abs()),
            "{what}[{i}]: {g}, but the difference quotient is {d}"
        );
    }
}

fn gradients_are_difference_quotients(backend: &dyn Backend<f64>, problem: &Problem) {
    let gradients = problem.gradients(backend);
    assert_close("grad_x", &gradients.x, &problem.differences(backend, |p| &mut p.x));
    assert_close("grad_w", &gradients.w, &problem.differences(backend, |p| &mut p.w));
    if let Operator::Step(_) = problem.operator {
        assert_close("grad_scale", &gradients.scale, &problem.differences(backend, |p| &mut p.scale));
    }
}

prop_compose! {
    /// Isolated vertices (of degree zero), empty and repeated hyperedges included.
    fn problem()(
        (n, edges) in crate::layouts::edges(), operator in operator(), shift in 0usize..4, seed in any::<u64>(),
    ) -> Problem {
        let topology = Incidence::from_edges(n, &edges, Repeats::Keep).unwrap();
        Problem::new(topology, operator, shift, seed)
    }
}

/// With weights of zero, vertices have degree zero although they have hyperedges. There y is not continuous
/// in the weights: the gradient counts as zero. ∂x is the difference quotient all the same.
fn gradients_at_zero_weights_are_finite_and_zero_through_the_degree(backend: &dyn Backend<f64>) {
    for norm in [Normalization::Row, Normalization::Symmetric, Normalization::None] {
        for weight_use in [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly] {
            // Vertices 0 and 1 have zero degree, vertices 2 to 4 have not.
            let topology =
                Incidence::from_edges(5, &[&[0u8, 1][..], &[1], &[2, 3], &[3, 4, 2]], Repeats::Keep).unwrap();
            let mut problem = Problem::new(topology, Operator::Conv(Conv::new(norm, weight_use)), 0, 9);
            problem.parameters.w[..2].fill(0.0);
            let Parameters { x: grad_x, w: grad_w, .. } = problem.gradients(backend);
            assert!(grad_x.iter().chain(&grad_w).all(|g| g.is_finite()), "{norm:?} {weight_use:?}");
            assert_close("grad_x", &grad_x, &problem.differences(backend, |p| &mut p.x));
            assert_close("grad_w", &grad_w[2..], &problem.differences(backend, |p| &mut p.w[2..]));
            if weight_use != WeightUse::MessageOnly && norm != Normalization::None {
                assert_eq!(grad_w[..2], [0.0, 0.0], "{norm:?} {weight_use:?}");
            } else {
                assert_close("grad_w", &grad_w[..2], &problem.differences(backend, |p| &mut p.w[..2]));
            }
        }
    }
}

/// A vertex of degree zero takes no part: whatever it holds, infinities too, reaches nobody under the
/// symmetric normalization, not even as 0 · ∞, and its own row is a store of zeros.
fn a_vertex_of_degree_zero_keeps_its_infinities(backend: &dyn Backend<f64>) {
    let topology = Incidence::from_edges(3, &[&[0u8, 1, 2][..], &[1, 2]], Repeats::Keep).unwrap();
    // The weight 0 of {0, 1, 2} is all of vertex 0's degree.
    let conv = Conv::new(Normalization::Symmetric, WeightUse::DegreeOnly);
    let mut problem = Problem::new(topology, Operator::Conv(conv), 0, 3);
    problem.parameters.w = vec![0.0, 1.0];
    let Parameters { x: grad_x, w: grad_w, .. } = problem.gradients(backend);
    let y = problem.y(backend);
    for poison in [f64::INFINITY, f64::NAN] {
        for instance in 0..2 {
            let row = instance * 3 * FEATURES;
            problem.parameters.x[row..row + FEATURES].fill(poison);
        }
        assert_eq!(problem.y(backend), y, "x = {poison}");
        for instance in 0..2 {
            let row = instance * 3 * FEATURES;
            let held = problem.g[row..row + FEATURES].to_vec();
            problem.g[row..row + FEATURES].fill(poison);
            let gradients = problem.gradients(backend);
            assert_eq!((&gradients.x, &gradients.w), (&grad_x, &grad_w), "g = {poison}");
            problem.g[row..row + FEATURES].copy_from_slice(&held);
        }
    }
}

/// The row of a vertex of degree zero is a store of zeros, whatever its hyperedges hold.
fn infinities_do_not_reach_a_vertex_of_degree_zero(backend: &dyn Backend<f64>) {
    let topology = Incidence::from_edges(2, &[&[0u8, 1][..], &[1]], Repeats::Keep).unwrap();
    let conv = Conv::new(Normalization::Row, WeightUse::DegreeOnly);
    let mut problem = Problem::new(topology, Operator::Conv(conv), 0, 4);
    problem.parameters.w = vec![0.0, 1.0];
    problem.parameters.x.fill(f64::INFINITY);
    for instance in problem.y(backend).chunks(2 * FEATURES) {
        assert_eq!(instance[..FEATURES], [0.0; FEATURES]);
        assert_eq!(instance[FEATURES..], [f64::INFINITY; FEATURES]);
    }
}

/// A scale that a caller gives is a plain factor: 0 · ∞ is NaN, in each direction, of either scale and in the
/// gradients.
fn a_scale_of_zero_multiplies(backend: &dyn Backend<f64>) {
    let topology = Incidence::from_edges(2, &[[0u8, 1], [1, 1]], Repeats::Keep).unwrap();
    for to_hyperedges in [true, false] {
        for zero_of_vertices in [true, false] {
            let operator = Operator::Step(StepKind { to_hyperedges, reduce: Reduce::Sum });
            let mut problem = Problem::new(topology.clone(), operator, 0, 5);
            // Vertex 0 is in hyperedge 0 only, hyperedge 1 holds vertex 1 only.
            let Parameters { x, w, scale } = &mut problem.parameters;
            let (zero, source, target) = match (to_hyperedges, zero_of_vertices) {
                (true, true) => (&mut scale[0], 0, 0),
                (true, false) => (&mut w[1], 1, 1),
                (false, true) => (&mut scale[0], 0, 0),
                (false, false) => (&mut w[1], 1, 1),
            };
            *zero = 0.0;
            x[source * FEATURES] = f64::INFINITY;
            problem.g[target * FEATURES + 1] = f64::INFINITY;
            let y = problem.y(backend);
            assert!(y[target * FEATURES].is_nan(), "{operator:?}: {y:?}");
            let grad_x = problem.gradients(backend).x;
            assert!(grad_x[source * FEATURES + 1].is_nan(), "{operator:?}: {grad_x:?}");
            // The second copy holds no infinity.
            assert!(y[2 * FEATURES..].iter().chain(&grad_x[2 * FEATURES..]).all(|v| v.is_finite()));
        }
    }
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Shuffled(1)]))], in [f64]:
    gradients_at_zero_weights_are_finite_and_zero_through_the_degree;
    a_vertex_of_degree_zero_keeps_its_infinities;
    infinities_do_not_reach_a_vertex_of_degree_zero;
    a_scale_of_zero_multiplies;
}

// On the emulated driver a case takes a core 30 ms.
per_backend! {
    on [cpu, cuda(cases(64))], in [f64]:
    gradients_are_difference_quotients(&problem) for problem in problem();
}
