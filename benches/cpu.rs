//! The convolution on the CPU against a copy of its features, in compulsory bytes: forward reads X and writes
//! Y, backward reads X and G and writes ∂X. The time beyond that of the copy is what is left to gain.
//!
//! * A: 3,072 × (8 vertices, 28 pairs), B: 512 × (16 vertices, 560 triples);
//! * C: one hypergraph of the size of Cora's co-citations, 2,708 × 1,579 with 4,786 incidences, at random.
//!
//! `f32`, 256 features, `Row` normalization, documented weights, on all threads of the machine. Each path is
//! timed with shared weights and with weights of its own for each instance.
//!
//! For A, on the path that the plan chooses and with shared weights, it also times forward and backward of
//! the convolution with an epilogue (a bias and GELU; the same and a residual) and with a readout behind
//! that, beside those of the convolution alone.
//!
//! It also measures what a batch of 16,384 different small graphs costs to make from an index that is batched
//! already. That is a ratio to one `from_coo` of the same index, which knows nothing of graphs: of medians of
//! calls that take turns, for both kinds of owners, all `Repeats`, and four orders of the index. The ratio
//! should be at most 1.5 for the first two:
//!
//! * hyperedge after hyperedge;
//! * vertex after vertex;
//! * any order within each graph;
//! * graphs mixed. The last two are slower, which is a known limit.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use hyperscatter::{Activation, AllInFirst, Batch, Incidence, Out, Owners, Path, Repeats, Result, Rows, cpu};
use rayon::prelude::*;

const FEATURES: usize = 256;

fn case(c: &mut Criterion, name: &str, topology: Incidence, copies: usize) {
    let len = topology.n_vertices() * copies * FEATURES;
    let x: Vec<f32> = (0..len).map(|i| (i % 1013) as f32 / 500.0 - 1.0).collect();
    let g: Vec<f32> = (0..len).map(|i| (i % 917) as f32 / 450.0 - 1.0).collect();
    let w: Vec<f32> = (0..topology.n_hyperedges()).map(|e| 0.5 + (e % 7) as f32 / 7.0).collect();
    let (mut y, mut grad_x, mut grad_w) = (vec![0.0; len], vec![0.0; len], vec![0.0; w.len()]);
    let batch = Batch::replicate(topology);
    let weights = cpu::Weights::shared(&w[..]);

    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group(name);
    let bytes = |rows: usize| Throughput::Bytes((rows * len * size_of::<f32>()) as u64);
    group.throughput(bytes(2)).bench_function("copy of X", |b| {
        b.iter(|| {
            let (x, y) = (black_box(&x), black_box(&mut y));
            y.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14)).for_each(|(y, x)| y.copy_from_slice(x));
        });
    });
    let own: Vec<f32> = (0..w.len() * copies).map(|e| 0.5 + (e % 11) as f32 / 7.0).collect();
    let mut own_grad_w = vec![0.0; own.len()];
    for path in Path::ALL {
        let paths = [*path];
        let plan = cpu::Plan::<f32>::builder(&batch, FEATURES).paths(&paths);
        // Not every topology can be on every path.
        let Ok(plan) = plan.build() else { continue };
        let mut workspace = plan.workspace(copies).unwrap();
        let windows = [("shared", weights), ("own", cpu::Weights::consecutive(&own[..]))];
        for (name, weights) in windows {
            let name = format!("forward, {name} weights, {}", path.name());
            group.throughput(bytes(2)).bench_function(name, |b| {
                b.iter(|| {
                    let out = Out::Overwrite(Rows::contiguous(&mut y, FEATURES));
                    workspace.conv(Rows::contiguous(black_box(&x), FEATURES), weights, out).unwrap();
                });
            });
        }
        let gradients = [&mut grad_w[..], &mut own_grad_w[..]];
        for ((name, weights), grad_w) in windows.into_iter().zip(gradients) {
            let name = format!("forward and backward, {name} weights, {}", path.name());
            group.throughput(bytes(5)).bench_function(name, |b| {
                b.iter(|| {
                    let x = Rows::contiguous(black_box(&x[..]), FEATURES);
                    let out = Out::Overwrite(Rows::contiguous(&mut y[..], FEATURES));
                    workspace.conv(x, weights, out).unwrap();
                    let out = Out::Overwrite(Rows::contiguous(&mut grad_x[..], FEATURES));
                    let g = Rows::contiguous(&g[..], FEATURES);
                    workspace.conv_backward(x, weights, g, out, Out::Overwrite(&mut *grad_w)).unwrap();
                });
            });
        }
    }
    group.finish();
}

/// What an epilogue and a readout cost, beside the convolution alone.
fn epilogues(c: &mut Criterion, name: &str, topology: Incidence, copies: usize) {
    let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
    let values = |len: usize, modulus: usize| -> Vec<f32> {
        (0..len).map(|i| (i % modulus) as f32 / (modulus as f32 / 2.0) - 1.0).collect()
    };
    let len = n * copies * FEATURES;
    let (x, g, residual) = (values(len, 1013), values(len, 917), values(len, 719));
    let (bias, g_readout) = (values(FEATURES, 61), values(copies * FEATURES, 509));
    let w: Vec<f32> = (0..m).map(|e| 0.5 + (e % 7) as f32 / 7.0).collect();
    let (mut y, mut readout) = (vec![0.0; len], vec![0.0; copies * FEATURES]);
    let (mut grad_x, mut grad_residual) = (vec![0.0; len], vec![0.0; len]);
    let (mut grad_w, mut grad_bias) = (vec![0.0; m], vec![0.0; FEATURES]);
    let plan = cpu::Plan::<f32>::builder(&Batch::replicate(topology), FEATURES).build().unwrap();
    let mut workspace = plan.workspace(copies).unwrap();
    let weights = cpu::Weights::shared(&w[..]);
    let rows = |rows| Rows::contiguous(black_box(rows), FEATURES);
    let epilogue = cpu::Epilogue::new(Activation::Gelu).bias(&bias[..]);

    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group(format!("epilogues of {name}"));
    group.bench_function("forward, convolution alone", |b| {
        b.iter(|| {
            let y = Out::Overwrite(Rows::contiguous(&mut y[..], FEATURES));
            workspace.conv(rows(&x[..]), weights, y).unwrap();
        });
    });
    for (name, residual) in [("", None), (" and residual", Some(&residual[..]))] {
        group.bench_function(format!("forward, bias, GELU{name}"), |b| {
            b.iter(|| {
                let y = Out::Overwrite(Rows::contiguous(&mut y[..], FEATURES));
                workspace.conv_epilogue(rows(&x[..]), weights, &epilogue, residual.map(rows), y).unwrap();
            });
        });
    }
    group.bench_function("forward, bias, GELU and readout", |b| {
        b.iter(|| {
            let readout = Out::Overwrite(&mut readout[..]);
            workspace.conv_readout(rows(&x[..]), weights, &epilogue, None, readout).unwrap();
        });
    });
    group.bench_function("backward, convolution alone", |b| {
        b.iter(|| {
            let grad_x = Out::Overwrite(Rows::contiguous(&mut grad_x[..], FEATURES));
            let grad_w = Out::Overwrite(&mut grad_w[..]);
            workspace.conv_backward(rows(&x[..]), weights, rows(&g[..]), grad_x, grad_w).unwrap();
        });
    });
    for (name, of_residual, of_readout) in [
        ("bias, GELU", false, false),
        ("bias, GELU and residual", true, false),
        ("bias, GELU and readout", false, true),
    ] {
        group.bench_function(format!("backward, {name}"), |b| {
            b.iter(|| {
                let gradients = cpu::EpilogueGradients::none()
                    .x(Out::Overwrite(Rows::contiguous(&mut grad_x[..], FEATURES)))
                    .weights(Out::Overwrite(&mut grad_w))
                    .bias(Out::Overwrite(&mut grad_bias));
                let gradients = match of_residual {
                    true => {
                        gradients.residual(Out::Overwrite(Rows::contiguous(&mut grad_residual[..], FEATURES)))
                    }
                    false => gradients,
                };
                let x = rows(&x[..]);
                match of_readout {
                    true => workspace.conv_readout_backward(
                        x,
                        weights,
                        &epilogue,
                        black_box(&g_readout),
                        gradients,
                    ),
                    false => workspace.conv_epilogue_backward(x, weights, &epilogue, rows(&g[..]), gradients),
                }
                .unwrap();
            });
        });
    }
    group.finish();
}

/// Incidences spread at random (by a linear congruential generator) over all hyperedges and vertices.
fn random(n_vertices: usize, n_hyperedges: usize, n_incidences: usize) -> Incidence {
    let mut state = 1u64;
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % bound
    };
    let (vertices, hyperedges): (Vec<usize>, Vec<usize>) =
        (0..n_incidences).map(|_| (below(n_vertices), below(n_hyperedges))).unzip();
    Incidence::from_coo(n_vertices, n_hyperedges, &vertices, &hyperedges, Repeats::Keep).unwrap()
}

/// Distinct graphs: the bits of a graph's number choose which of its 14 hyperedges have a third vertex.
fn small_graphs(c: &mut Criterion) {
    const GRAPHS: usize = 1 << 14;
    const VERTICES: usize = 8;
    const HYPEREDGES: usize = 14;
    let mut by_hyperedge: Vec<(i64, i64)> = vec![];
    for (graph, e) in (0..GRAPHS).flat_map(|graph| (0..HYPEREDGES).map(move |e| (graph, e))) {
        let members = [e % VERTICES, (e + 1 + e / VERTICES) % VERTICES, (e + 4) % VERTICES];
        for member in &members[..2 + (graph >> e & 1)] {
            by_hyperedge.push(((graph * VERTICES + member) as i64, (graph * HYPEREDGES + e) as i64));
        }
    }
    let sorted = |index: &[(i64, i64)], key: fn(i64, i64) -> (i64, u64)| {
        let mut index = index.to_vec();
        index.sort_by_key(|&(v, e)| key(v, e));
        index
    };
    const HASH: u64 = 0x9e37_79b9_7f4a_7c15;
    let orders = [
        ("by vertex", sorted(&by_hyperedge, |v, e| (v, e as u64))),
        (
            "by graph",
            sorted(&by_hyperedge, |v, e| {
                (v / VERTICES as i64, (v ^ e << 20).cast_unsigned().wrapping_mul(HASH))
            }),
        ),
        ("mixed", sorted(&by_hyperedge, |v, e| (0, (v ^ e << 20).cast_unsigned().wrapping_mul(HASH)))),
        ("by hyperedge", by_hyperedge),
    ];
    let counts = [vec![VERTICES; GRAPHS], vec![HYPEREDGES; GRAPHS]];
    let ids = |size: usize| (0..GRAPHS * size).map(|row| row / size).collect::<Vec<_>>();
    let ids = [ids(VERTICES), ids(HYPEREDGES)];
    let [by_counts, by_ids] =
        [counts.each_ref().map(|n| Owners::Counts(&n[..])), ids.each_ref().map(|n| Owners::GraphIds(&n[..]))];
    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group("16384 distinct graphs of 8 vertices");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (order, index) in orders {
        let (vertices, hyperedges): (Vec<_>, Vec<_>) = index.into_iter().unzip();
        for (kind, [n, m]) in [("counts", by_counts), ("graph ids", by_ids)] {
            for repeats in [Repeats::Reject, Repeats::Keep, Repeats::Merge] {
                let name = format!("{order}, {kind}, {repeats:?}");
                let mut times = [vec![], vec![]];
                group.bench_function(&name, |b| {
                    b.iter_custom(|iterations| {
                        let (vertices, hyperedges) = (black_box(&vertices), black_box(&hyperedges));
                        let mut batched = Duration::ZERO;
                        for _ in 0..iterations {
                            let (n_all, m_all) = (GRAPHS * VERTICES, GRAPHS * HYPEREDGES);
                            let one = || Incidence::from_coo(n_all, m_all, vertices, hyperedges, repeats);
                            times[0].push(time(one));
                            let all = AllInFirst::Reject;
                            let many =
                                || Batch::from_batched_coo(GRAPHS, vertices, hyperedges, n, m, repeats, all);
                            times[1].push(time(many));
                            batched += times[1][times[1].len() - 1];
                        }
                        batched
                    });
                });
                let [one, many] = times.map(median);
                if let (Some(one), Some(many)) = (one, many) {
                    let ratio = many.as_secs_f64() / one.as_secs_f64();
                    println!("{name}: {ratio:.2} times the {one:?} of from_coo");
                }
            }
        }
    }
    group.finish();
}

/// The time of a constructor, without the time to free its result.
fn time<T>(construct: impl Fn() -> Result<T>) -> Duration {
    let start = Instant::now();
    let made = black_box(construct().unwrap());
    let time = start.elapsed();
    drop(made);
    time
}

fn median(times: Vec<Duration>) -> Option<Duration> {
    let mut times = times;
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

fn benches(c: &mut Criterion) {
    case(c, "A: 3072 x (8, 28 pairs)", Incidence::subsets(8, 2).unwrap(), 3072);
    epilogues(c, "A: 3072 x (8, 28 pairs)", Incidence::subsets(8, 2).unwrap(), 3072);
    case(c, "B: 512 x (16, 560 triples)", Incidence::subsets(16, 3).unwrap(), 512);
    case(c, "C: 2708 x 1579, 4786 incidences", random(2708, 1579, 4786), 1);
    small_graphs(c);
}

criterion_group! {
    name = cpu;
    config = Criterion::default().sample_size(20);
    targets = benches
}
criterion_main!(cpu);
