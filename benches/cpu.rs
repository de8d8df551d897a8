//! The convolution on the CPU against a copy of its features, in compulsory bytes: forward reads X and writes Y, backward
//! reads X and G and writes ∂X. What a case takes longer than its copy is what is left to gain.
//!
//! * A: 3,072 × (8 vertices, 28 pairs), B: 512 × (16 vertices, 560 triples), weights shared;
//! * C: one hypergraph of the size of Cora's co-citations, 2,708 × 1,579 with 4,786 incidences, at random.
//!
//! `f32`, 256 features, `Row` normalization, documented weights, on all threads of the machine.
//!
//! And what a batch of 16,384 different small graphs costs to make from an index that is batched already, against one
//! `from_coo` of the same index, which knows nothing of graphs.

#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use hyperscatter::{AllInFirst, Batch, Conv, Incidence, Out, Owners, Repeats, Rows, cpu};
use rayon::prelude::*;

const FEATURES: usize = 256;

fn case(c: &mut Criterion, name: &str, topology: Incidence, copies: usize) {
    let len = topology.n_vertices() * copies * FEATURES;
    let x: Vec<f32> = (0..len).map(|i| (i % 1013) as f32 / 500.0 - 1.0).collect();
    let g: Vec<f32> = (0..len).map(|i| (i % 917) as f32 / 450.0 - 1.0).collect();
    let w: Vec<f32> = (0..topology.n_hyperedges()).map(|e| 0.5 + (e % 7) as f32 / 7.0).collect();
    let (mut y, mut grad_x, mut grad_w) = (vec![0.0; len], vec![0.0; len], vec![0.0; w.len()]);
    let plan = cpu::Plan::<f32>::new(&Batch::replicate(topology), FEATURES, Conv::default()).unwrap();
    let mut workspace = plan.workspace(copies).unwrap();
    let weights = cpu::Weights::shared(&w[..]);

    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group(name);
    let bytes = |rows: usize| Throughput::Bytes((rows * len * size_of::<f32>()) as u64);
    group.throughput(bytes(2)).bench_function("copy of X", |b| {
        b.iter(|| {
            let (x, y) = (black_box(&x), black_box(&mut y));
            y.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14)).for_each(|(y, x)| y.copy_from_slice(x));
        });
    });
    group.throughput(bytes(2)).bench_function("forward", |b| {
        b.iter(|| {
            let out = Out::Overwrite(Rows::contiguous(&mut y, FEATURES));
            workspace.conv(Rows::contiguous(black_box(&x), FEATURES), weights, out).unwrap();
        });
    });
    group.throughput(bytes(5)).bench_function("forward and backward", |b| {
        b.iter(|| {
            let x = Rows::contiguous(black_box(&x[..]), FEATURES);
            workspace.conv(x, weights, Out::Overwrite(Rows::contiguous(&mut y, FEATURES))).unwrap();
            let (g, grad_x) =
                (Rows::contiguous(&g[..], FEATURES), Rows::contiguous(&mut grad_x[..], FEATURES));
            workspace
                .conv_backward(x, weights, g, Out::Overwrite(grad_x), Out::Overwrite(&mut grad_w))
                .unwrap();
        });
    });
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
    let (mut vertices, mut hyperedges): (Vec<i64>, Vec<i64>) = (vec![], vec![]);
    for (graph, e) in (0..GRAPHS).flat_map(|graph| (0..HYPEREDGES).map(move |e| (graph, e))) {
        let members = [e % VERTICES, (e + 1 + e / VERTICES) % VERTICES, (e + 4) % VERTICES];
        for member in &members[..2 + (graph >> e & 1)] {
            vertices.push((graph * VERTICES + member) as i64);
            hyperedges.push((graph * HYPEREDGES + e) as i64);
        }
    }
    let (n, m) = (vec![VERTICES; GRAPHS], vec![HYPEREDGES; GRAPHS]);
    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group("16384 distinct graphs of 8 vertices");
    group.bench_function("from_coo", |b| {
        b.iter(|| {
            let (n, m) = (GRAPHS * VERTICES, GRAPHS * HYPEREDGES);
            Incidence::from_coo(n, m, black_box(&vertices), &hyperedges, Repeats::Reject).unwrap()
        });
    });
    group.bench_function("from_batched_coo", |b| {
        b.iter(|| {
            let (n, m) = (Owners::Counts(&n[..]), Owners::Counts(&m[..]));
            let index = (black_box(&vertices), &hyperedges);
            Batch::from_batched_coo(GRAPHS, index.0, index.1, n, m, Repeats::Reject, AllInFirst::Reject)
                .unwrap()
        });
    });
    group.finish();
}

fn benches(c: &mut Criterion) {
    case(c, "A: 3072 x (8, 28 pairs)", Incidence::subsets(8, 2).unwrap(), 3072);
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
