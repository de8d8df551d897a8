//! Each operator has the same bits whenever it is called: many calls, on batches that fill a GPU.
//!
//! The emulated driver runs few calls on a small batch, each with its threads in another order.

use hyperscatter::half::bf16;
use hyperscatter::{Batch, Conv, Incidence, Normalization, Out, Reduce, Repeats, Rows, WindowTable, cpu};
use hyperscatter_emulator::interface::{Build, Order};

use super::gpu::{Cuda, GpuElement, Mode, is_real, is_stand_in};
use crate::backend::Backend;
use crate::common::{bits, features, sums, weights};

const F: usize = 40;

/// Small topologies, and one with rows of more than 512 incidences: `n` instances.
fn batch(n: usize) -> Batch {
    let long: Vec<u32> = (0..1300).map(|i| i * 7 % 9).collect();
    let topologies = vec![
        Incidence::subsets(8, 2).unwrap(),
        Incidence::subsets(16, 3).unwrap(),
        Incidence::from_edges(9, &[long, vec![1, 2, 8], vec![]], Repeats::Keep).unwrap(),
    ];
    // Of ten instances eight, one and one.
    let ids: Vec<u32> = (0..n).map(|i| [0, 0, 1, 0, 0, 0, 2, 0, 0, 0][i % 10]).collect();
    Batch::from_table(topologies, &ids).unwrap()
}

/// The bits of all results of all operators, by name.
fn results<T: GpuElement>(
    batch: &Batch,
    normalization: Normalization,
    mode: Mode,
) -> Vec<(&'static str, Vec<u64>)> {
    let backend = Cuda::new(mode);
    let instances = batch.n_instances().unwrap();
    let rows = |hyperedges: bool| -> usize {
        let of = |g| batch.topology(g);
        (0..instances).map(|g| if hyperedges { of(g).n_hyperedges() } else { of(g).n_vertices() }).sum()
    };
    let (n, m) = (rows(false), rows(true));
    let mut conv = Conv::default();
    conv.normalization = normalization;
    let mut operators = Backend::<T>::operators(&backend, batch, F, conv, instances).unwrap();

    // Windows that overlap, some of them equal.
    let offsets: Vec<u32> = (0..instances as u32).map(|g| g * 5 % 64).collect();
    let table = WindowTable::new(batch, &offsets).unwrap();
    let vertex_table = WindowTable::for_vertices(batch, &offsets).unwrap();
    let w = weights::<T>(1, 64 + 560, false);
    let scale = sums::<T>(2, 64 + 16);
    let windows = cpu::Weights::table(&w[..], &table);
    let step = cpu::Step::new(Reduce::Mean)
        .vertex_scale(cpu::Weights::table(&scale[..], &vertex_table))
        .hyperedge_scale(windows);
    let (by_vertex, by_edge) = (features::<T>(3, n * F), features::<T>(4, m * F));
    let g = features::<T>(5, n * F);
    let mut results = vec![];
    for to_hyperedges in [true, false] {
        let (x, grad_y) = if to_hyperedges { (&by_vertex, &by_edge) } else { (&by_edge, &by_vertex) };
        let (mut y, mut grad_x) = (vec![T::default(); grad_y.len()], vec![T::default(); x.len()]);
        let (mut of_vertices, mut of_hyperedges) = (sums::<T>(6, scale.len()), sums::<T>(7, w.len()));
        operators.step(to_hyperedges, step, read(x), overwritten(&mut y)).unwrap();
        let gradients = cpu::StepGradients::none()
            .rows(overwritten(&mut grad_x))
            .vertex_scale(Out::Overwrite(&mut of_vertices[..]))
            .hyperedge_scale(Out::Overwrite(&mut of_hyperedges[..]));
        operators.step_backward(to_hyperedges, step, read(x), read(grad_y), gradients).unwrap();
        results.extend([("y of a step", bits(&y)), ("∂x of a step", bits(&grad_x))]);
        results.extend([("∂r, ∂t", bits(&of_vertices)), ("∂s, ∂u", bits(&of_hyperedges))]);
    }
    for saves_z in [false, true] {
        let (mut y, mut grad_x) = (vec![T::default(); n * F], vec![T::default(); n * F]);
        let mut z = vec![T::acc(0.0); m * F];
        let mut grad_w = sums::<T>(8, w.len());
        let saved = saves_z.then(|| Rows::contiguous(&mut z[..], F));
        operators.conv(read(&by_vertex), windows, saved, overwritten(&mut y)).unwrap();
        let saved = saves_z.then(|| Rows::contiguous(&z[..], F));
        let (grad_rows, grads) = (overwritten(&mut grad_x), Out::Overwrite(&mut grad_w[..]));
        operators.conv_backward(read(&by_vertex), saved, windows, read(&g), grad_rows, grads).unwrap();
        results.extend([("y", bits(&y)), ("z", bits(&z)), ("∂x", bits(&grad_x)), ("∂w", bits(&grad_w))]);
    }
    results
}

fn read<T>(rows: &[T]) -> Rows<&[T]> {
    Rows::contiguous(rows, F)
}

fn overwritten<T>(rows: &mut [T]) -> Out<Rows<&mut [T]>> {
    Out::Overwrite(Rows::contiguous(rows, F))
}

fn repeated<T: GpuElement>(normalization: Normalization) {
    let (repeats, batch) = if is_real() && !is_stand_in() { (50, batch(1_000)) } else { (3, batch(10)) };
    let mode = |seed| Mode { build: Build::Fast, order: Order::Shuffled(seed), ..Mode::PLAIN };
    let first = results::<T>(&batch, normalization, mode(0));
    for repeat in 1..repeats {
        for (again, first) in results::<T>(&batch, normalization, mode(repeat)).iter().zip(&first) {
            assert!(again == first, "{} in {}, repeat {repeat}", first.0, T::NAME);
        }
    }
}

#[test]
fn f32_has_the_same_bits_in_each_call() {
    repeated::<f32>(Normalization::Row);
}

#[test]
fn bf16_has_the_same_bits_in_each_call() {
    repeated::<bf16>(Normalization::Symmetric);
}
