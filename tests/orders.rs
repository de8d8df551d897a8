//! The orders of summation, pinned bit for bit: a slow model of the convolution, the steps and their
//! gradients that adds one term at a time, in the orders that both backends promise.

use std::collections::BTreeMap;

use hyperscatter::cpu::{Plan, Step, StepGradients};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{
    Accumulator, Axis, Batch, Conv, Csr, Element, Incidence, Normalization, Out, Path, Reduce, Repeats,
    WeightUse, WindowTable, cpu,
};
use proptest::prelude::*;

use crate::backend::StepKind;
use crate::common::{TestElement, bits, element_types, features, numbers, weights, with_element};
use crate::layouts::{Layout, Place, WindowKind, layout};

/// 1/`count`, and 0 for a count of 0.
fn inverse<A: Accumulator>(count: usize) -> A {
    if count == 0 { A::ZERO } else { A::ONE / A::from_count(count) }
}

/// 32 lanes, added in halves.
fn halves<A: Accumulator>(mut lanes: [A; 32]) -> A {
    for half in [16, 8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Segments of 512 terms, each in 32 interleaved lanes.
fn scalar_sum<A: Accumulator>(terms: &[A]) -> A {
    let mut total = A::ZERO;
    for segment in terms.chunks(512) {
        let mut lanes = [A::ZERO; 32];
        for (i, &term) in segment.iter().enumerate() {
            lanes[i % 32] += term;
        }
        total += halves(lanes);
    }
    total
}

/// Blocks of 32 lanes, each of which has the consecutive features that make 16 bytes of `T`.
fn dot<T: Element, S: Element>(with: &[S], sums: &[S::Acc], factor: S::Acc) -> f64 {
    let len = 16 / size_of::<T>();
    let mut total = 0.0;
    for (with, sums) in with.chunks(32 * len).zip(sums.chunks(32 * len)) {
        let mut lanes = [0.0; 32];
        for f in 0..with.len() {
            lanes[f / len] += with[f].widen().to_f64() * (sums[f] * factor).to_f64();
        }
        total += halves(lanes);
    }
    total
}

/// Σ scale(i) · row(i) in the order of the indices, in segments of 512; rows of scale 0 are left out where
/// `skip_zero`.
fn gather<S: Element>(
    rows: &[S],
    f: usize,
    indices: &[u32],
    scale: impl Fn(usize) -> S::Acc,
    skip_zero: bool,
) -> Vec<S::Acc> {
    let mut total = vec![S::Acc::ZERO; f];
    for segment in indices.chunks(512) {
        let mut sums = vec![S::Acc::ZERO; f];
        for &i in segment {
            let (i, scale) = (i as usize, scale(i as usize));
            if skip_zero && scale == S::Acc::ZERO {
                continue;
            }
            for (sum, x) in sums.iter_mut().zip(&rows[i * f..][..f]) {
                *sum = scale.fused_multiply_add(x.widen(), *sum);
            }
        }
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    total
}

/// The sums times `scale`, as elements of a row.
fn stored<T: Element>(sums: &[T::Acc], scale: T::Acc) -> impl Iterator<Item = T> + '_ {
    sums.iter().map(move |&sum| T::narrow(sum * scale))
}

/// What the convolution and its backward give for one instance.
struct Instance<T: Element> {
    z: Vec<T::Acc>,
    y: Vec<T>,
    grad_x: Vec<T>,
    /// `None` where the weights have no part in y.
    grad_weights: Option<Vec<T::Acc>>,
}

fn conv<T: Element>(
    topology: &Incidence,
    conv: Conv,
    w: &[T::Acc],
    x: &[T],
    g: &[T],
    f: usize,
) -> Instance<T> {
    let (by_edge, by_vertex) = (topology.by_edge(), topology.by_vertex());
    let one = T::Acc::ONE;
    let (normalized, symmetric) =
        (conv.normalization != Normalization::None, conv.normalization == Normalization::Symmetric);
    let in_message = conv.weight_use != WeightUse::DegreeOnly;
    let in_degree = conv.weight_use != WeightUse::MessageOnly;
    let degree = |v: usize| match in_degree {
        true => scalar_sum(&by_vertex.row(v).iter().map(|&e| w[e as usize]).collect::<Vec<_>>()),
        false => T::Acc::from_count(by_vertex.row(v).len()),
    };
    let degrees: Vec<T::Acc> = (0..topology.n_vertices()).map(degree).collect();
    let left = |v: usize| match degrees[v] {
        _ if !normalized => one,
        d if d == T::Acc::ZERO => d,
        d if symmetric => one / d.square_root(),
        d => one / d,
    };
    let right = |v: usize| if symmetric { left(v) } else { one };
    // Of a vertex with a single incidence y is z, whatever the weight.
    let cancels_out =
        |v: usize| by_vertex.row(v).len() == 1 && normalized && !symmetric && in_message && in_degree;
    let weight_left = |v: usize| if cancels_out(v) { T::Acc::ZERO } else { left(v) };
    let message = |e: usize| if in_message { w[e] } else { one };
    let pull = |e: usize| message(e) * inverse(by_edge.row(e).len());

    let (mut z, mut q, mut weight_q) = (vec![], vec![], vec![]);
    for members in by_edge.rows() {
        z.extend(gather(x, f, members, right, true).iter().map(|&z| z * inverse(members.len())));
        q.extend(gather(g, f, members, left, true));
        weight_q.extend(gather(g, f, members, weight_left, true));
    }
    let (mut y, mut grad_x, mut grad_degrees) = (vec![], vec![], vec![]);
    for (v, edges) in by_vertex.rows().enumerate() {
        let no_degree = normalized && degrees[v] == T::Acc::ZERO;
        let y_edges = if no_degree { &[] } else { edges };
        let x_edges = if no_degree && symmetric { &[] } else { edges };
        let (y_sums, x_sums) = (gather(&z, f, y_edges, message, false), gather(&q, f, x_edges, pull, false));
        y.extend(stored::<T>(&y_sums, left(v)));
        grad_x.extend(stored::<T>(&x_sums, right(v)));
        let row = v * f..(v + 1) * f;
        let of_y = left(v).to_f64() * dot::<T, T>(&g[row.clone()], &y_sums, one);
        let of_x = right(v).to_f64() * dot::<T, T>(&x[row], &x_sums, one);
        let degree = degrees[v].to_f64();
        grad_degrees.push(match no_degree {
            true => 0.0,
            false if cancels_out(v) => 0.0,
            false if symmetric => -((of_y + of_x) / (2.0 * degree)),
            false => -(of_y / degree),
        });
    }
    let through_degree = normalized && in_degree;
    let grad_weight = |(e, members): (usize, &[u32])| {
        let row = e * f..(e + 1) * f;
        let of_message =
            if in_message { dot::<T, T::Acc>(&weight_q[row.clone()], &z[row], one) } else { 0.0 };
        let of_degree: Vec<f64> = members.iter().map(|&v| grad_degrees[v as usize]).collect();
        T::Acc::from_f64(if through_degree { of_message + scalar_sum(&of_degree) } else { of_message })
    };
    let grad_weights =
        (in_message || through_degree).then(|| by_edge.rows().enumerate().map(grad_weight).collect());
    Instance { z, y, grad_x, grad_weights }
}

/// The dense operator of a topology and its weights, and the degrees that it divides by.
struct Operator<A> {
    degrees: Vec<A>,
    /// M_uv, where it is a term.
    entries: Vec<Vec<Option<A>>>,
}

/// The entry of u and v is a sum over the sizes of the hyperedges that have both, of the weights of one size
/// added one by one, divided by the size.
fn operator<A: Accumulator>(topology: &Incidence, conv: Conv, w: &[A]) -> Operator<A> {
    let (by_edge, by_vertex, n) = (topology.by_edge(), topology.by_vertex(), topology.n_vertices());
    let (zero, one) = (A::ZERO, A::ONE);
    let in_message = conv.weight_use != WeightUse::DegreeOnly;
    let in_degree = conv.weight_use != WeightUse::MessageOnly;
    let normalized = conv.normalization != Normalization::None;
    let degree = |v: usize| match in_degree {
        true => scalar_sum(&by_vertex.row(v).iter().map(|&e| w[e as usize]).collect::<Vec<_>>()),
        false => A::from_count(by_vertex.row(v).len()),
    };
    let d: Vec<A> = (0..n).map(degree).collect();
    let times = |e: usize, v: usize| by_edge.row(e).iter().filter(|&&member| member as usize == v).count();
    let sizes: Vec<usize> = by_edge.rows().map(<[u32]>::len).filter(|&size| size > 0).collect();
    let repeats = (0..by_edge.len()).any(|e| (0..n).any(|v| times(e, v) > 1));
    let uniform = sizes.iter().all(|&size| size == sizes[0]) && !repeats;
    let message = |u: usize, v: usize| {
        if u == v && uniform && normalized && in_degree && in_message {
            return d[u] / A::from_count(sizes[0]);
        }
        let mut total = zero;
        for size in 1..=sizes.iter().copied().max().unwrap_or(0) {
            let mut terms = vec![];
            for e in (0..by_edge.len()).filter(|&e| by_edge.row(e).len() == size) {
                let term = if in_message { w[e] } else { one };
                terms.extend(std::iter::repeat_n(term, times(e, u) * times(e, v)));
            }
            if !terms.is_empty() {
                let sum = terms.into_iter().fold(zero, |sum, term| sum + term);
                total += sum / A::from_count(size);
            }
        }
        total
    };
    let entry = |u: usize, v: usize| {
        let joined = (0..by_edge.len()).any(|e| times(e, u) * times(e, v) > 0);
        let left_out = match conv.normalization {
            Normalization::Symmetric => d[u] == zero || d[v] == zero,
            Normalization::None => false,
            _ => d[u] == zero,
        };
        (joined && !left_out).then(|| match conv.normalization {
            Normalization::None => message(u, v),
            Normalization::Symmetric => message(u, v) / (d[u] * d[v]).square_root(),
            _ => message(u, v) / d[u],
        })
    };
    let entries = (0..n).map(|u| (0..n).map(|v| entry(u, v)).collect()).collect();
    Operator { degrees: d, entries }
}

/// How many parts the vertices are cut into.
pub fn parts(n: usize) -> usize {
    if n <= 8 {
        1
    } else if n <= 16 {
        2
    } else {
        4
    }
}

/// The features of a slice and the slices of a row.
pub fn slices<T: Element>(f: usize) -> (usize, usize) {
    let len = if size_of::<T>() == 8 { 2 } else { 4 };
    (len, f.div_ceil(len))
}

/// y and ∂x of one instance by its dense operator.
fn dense<T: Element>(operator: &Operator<T::Acc>, x: &[T], g: &[T], f: usize) -> [Vec<T>; 2] {
    let n = operator.entries.len();
    let zero = T::Acc::ZERO;
    let mut y = vec![];
    for terms in &operator.entries {
        let mut sums = vec![zero; f];
        for (v, entry) in terms.iter().enumerate() {
            let Some(entry) = *entry else { continue };
            for (sum, x) in sums.iter_mut().zip(&x[v * f..][..f]) {
                *sum = entry.fused_multiply_add(x.widen(), *sum);
            }
        }
        y.extend(stored::<T>(&sums, T::Acc::ONE));
    }
    let mut grad_x = vec![];
    for (v, i) in (0..n).flat_map(|v| (0..f).map(move |i| (v, i))) {
        let mut sums = [zero; 4];
        for u in 0..n {
            let sum = &mut sums[if n <= 8 { 0 } else { u / 8 }];
            if let Some(entry) = operator.entries[u][v] {
                *sum = entry.fused_multiply_add(g[u * f + i].widen(), *sum);
            }
        }
        let [a, b, c, d] = sums;
        grad_x.push(T::narrow(match parts(n) {
            1 => a,
            2 => a + b,
            _ => (a + c) + (b + d),
        }));
    }
    [y, grad_x]
}

/// ⟨g_u, x_v⟩ over these instances (each its x and g), of all u and v: slices of features in turn to the
/// slots, the slots in turn to four runs.
pub fn gram<T: Element>(n: usize, f: usize, slots: usize, instances: &[(&[T], &[T])]) -> Vec<Vec<f64>> {
    let (len, slices) = slices::<T>(f);
    let entry = |u: usize, v: usize| {
        let mut sums = vec![T::Acc::ZERO; slots];
        for (i, (x, g)) in instances.iter().enumerate() {
            for feature in 0..f {
                let sum = &mut sums[(i * slices + feature / len) % slots];
                *sum = g[u * f + feature].widen().fused_multiply_add(x[v * f + feature].widen(), *sum);
            }
        }
        let mut runs = [0.0; 4];
        for (slot, sum) in sums.iter().enumerate() {
            runs[slot % 4] += sum.to_f64();
        }
        T::Acc::from_f64((runs[0] + runs[1]) + (runs[2] + runs[3])).to_f64()
    };
    (0..n).map(|u| (0..n).map(|v| entry(u, v)).collect()).collect()
}

/// The same over all copies of a batch: chunk by chunk, and the chunks in a tree.
fn gram_of_copies<T: Element>(n: usize, f: usize, copies: &[(&[T], &[T])]) -> Vec<Vec<f64>> {
    let (_, slices) = slices::<T>(f);
    let wanted = (512 / slices).clamp(1, 64);
    let len = (0..).map(|exponent| 1 << exponent).take_while(|&len| len <= wanted).last().unwrap();
    let slots = 128 / (parts(n) * parts(n));
    let mut nodes: Vec<_> = copies.chunks(len).map(|chunk| gram(n, f, slots, chunk)).collect();
    while nodes.len() > 1 {
        nodes = nodes
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => {
                    let row = |(left, right): (&Vec<f64>, &Vec<f64>)| {
                        left.iter().zip(right).map(|(left, right)| left + right).collect()
                    };
                    left.iter().zip(right).map(row).collect()
                }
                _ => pair[0].clone(),
            })
            .collect();
    }
    nodes.swap_remove(0)
}

/// ∂w from Γ, all in `f64`.
fn dense_weight_gradients<A: Accumulator>(
    topology: &Incidence,
    conv: Conv,
    operator: &Operator<A>,
    gamma: &[Vec<f64>],
) -> Vec<f64> {
    let by_vertex = topology.by_vertex();
    let (normalized, symmetric) =
        (conv.normalization != Normalization::None, conv.normalization == Normalization::Symmetric);
    let in_message = conv.weight_use != WeightUse::DegreeOnly;
    let through_degree = normalized && conv.weight_use != WeightUse::MessageOnly;
    let d: Vec<f64> = operator.degrees.iter().map(|d| d.to_f64()).collect();
    // Where a vertex has one hyperedge, its weight cancels out.
    let single = |u: usize| by_vertex.row(u).len() == 1;
    let left_out =
        |u: usize| normalized && (d[u] == 0.0 || (single(u) && !symmetric && in_message && through_degree));
    let of_degree = |u: usize| {
        let (mut of_y, mut of_x) = (0.0, 0.0);
        for (entry, gamma) in operator.entries[u].iter().zip(&gamma[u]) {
            if let Some(entry) = entry {
                of_y += entry.to_f64() * gamma;
            }
        }
        for (entries, gamma) in operator.entries.iter().zip(gamma) {
            if let Some(entry) = entries[u] {
                of_x += entry.to_f64() * gamma[u];
            }
        }
        if symmetric { (of_y + of_x) / (2.0 * d[u]) } else { of_y / d[u] }
    };
    let of_message = |u: usize, v: usize| match conv.normalization {
        Normalization::Symmetric => gamma[u][v] / (d[u] * d[v]).sqrt(),
        Normalization::None => gamma[u][v],
        _ => gamma[u][v] / d[u],
    };
    let gradient = |members: &[u32]| {
        let members = || members.iter().map(|&v| v as usize);
        let mut total = 0.0;
        for u in members().filter(|&u| !left_out(u)) {
            let mut inner = 0.0;
            if in_message {
                let mut sum = 0.0;
                for v in members().filter(|&v| !(symmetric && left_out(v))) {
                    sum += of_message(u, v);
                }
                inner = sum / members().count() as f64;
            }
            total += if through_degree { inner - of_degree(u) } else { inner };
        }
        total
    };
    topology.by_edge().rows().map(gradient).collect()
}

/// Adds the gradients of all instances up: the chunks of instances that share topology and window, small
/// topologies first, then by the power of two of their window's width, the offset and the topology.
fn add_up<A: Accumulator>(
    batch: &Batch,
    width: impl Fn(&Incidence) -> usize,
    offset: impl Fn(usize) -> usize,
    instances: &[Vec<A>],
    gradient: &mut [A],
) {
    let work = |t: &Incidence| 2 * t.n_incidences() + t.n_vertices() + t.n_hyperedges();
    let mut groups = BTreeMap::<_, Vec<usize>>::new();
    for g in 0..instances.len() {
        let topology = batch.topology(g);
        let rank = (work(topology) > 8192, width(topology).max(1).ilog2());
        groups.entry((rank, offset(g), batch.topology_id(g))).or_default().push(g);
    }
    for ((_, offset, topology), members) in groups {
        let topology = &batch.topologies()[topology];
        for chunk in members.chunks((8192 / work(topology).max(1)).clamp(1, 64)) {
            let mut sums = vec![A::ZERO; width(topology)];
            for &g in chunk {
                sums.iter_mut().zip(&instances[g]).for_each(|(sum, &value)| *sum += value);
            }
            gradient[offset..].iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
    }
}

/// The part of `rows` that each instance has.
fn split<'a, T>(layout: &Layout, hyperedges: bool, rows: &'a [T]) -> Vec<&'a [T]> {
    let mut rest = rows;
    let mut take = |g| {
        let (rows, others) = rest.split_at(layout.n_rows_of(g, hyperedges) * layout.features);
        rest = others;
        rows
    };
    (0..layout.instances).map(&mut take).collect()
}

/// What a gradient holds before a call: what is added to, or what is to be overwritten.
fn started<A: Accumulator>(add: bool, seed: u64, len: usize) -> Vec<A> {
    let values = numbers(seed, len, -1.0, 1.0).into_iter();
    values.map(|value| A::from_f64(if add { value } else { f64::NAN })).collect()
}

fn out<A>(add: bool, values: &mut [A]) -> Out<&mut [A]> {
    if add { Out::Accumulate(values) } else { Out::Overwrite(values) }
}

/// The paths of a layout: those that a plan chooses, gathers, or dense operators where there are such.
fn some_paths<T: Element>(layout: &Layout) -> Option<Vec<Path>> {
    let has_operator = |topology: &Incidence| {
        let alone = Batch::replicate(topology.clone());
        Plan::<T>::builder(&alone, 1).paths(&[Path::Dense]).build().is_ok()
    };
    let path = |topology: &Incidence| match layout.seed % 3 {
        1 if has_operator(topology) => Path::Dense,
        _ => Path::Gather,
    };
    (layout.seed % 3 < 2).then(|| layout.batch.topologies().iter().map(path).collect())
}

fn conv_is_the_model<T: TestElement>(layout: &Layout, add: bool) {
    let (f, [x_place, z_place, y_place, grad_place, _]) = (layout.features, layout.places);
    let len = layout.n_rows(false) * f;
    let (x, g): (Vec<T>, Vec<T>) = (features(layout.seed ^ 1, len), features(layout.seed ^ 2, len));
    let signed = layout.conv.normalization != Normalization::Symmetric;
    let w = weights::<T>(layout.seed, layout.n_weights(), signed);
    let old: Vec<T::Acc> = started(add, layout.seed ^ 3, w.len());

    let nan = T::of(f64::NAN);
    let x_rows = layout.spread(&x, x_place, false, nan);
    let mut z = layout.spread(&vec![T::acc(f64::NAN); layout.n_rows(true) * f], z_place, true, T::acc(7.0));
    let mut y = layout.spread(&vec![nan; len], y_place, false, T::of(7.0));
    let mut grad_x = layout.spread(&vec![nan; len], grad_place, false, T::of(7.0));
    let g_rows = layout.spread(&g, grad_place, false, nan);
    let mut grad_weights = old.clone();
    let table = layout.table();
    let windows = layout.weights(&w, &table);
    let paths = some_paths::<T>(layout);
    let plan = Plan::<T>::builder(&layout.batch, f).conv(layout.conv);
    let plan = if let Some(paths) = &paths { plan.paths(paths) } else { plan }.build().unwrap();
    let mut workspace = plan.workspace(layout.instances).unwrap();
    workspace.conv_saving_z(x_rows.rows(), windows, z.rows_mut(), Out::Overwrite(y.rows_mut())).unwrap();
    let rows = Out::Overwrite(grad_x.rows_mut());
    let grads = out(add, &mut grad_weights);
    workspace.conv_backward(x_rows.rows(), windows, g_rows.rows(), rows, grads).unwrap();

    let operands: Vec<_> = split(layout, false, &x).into_iter().zip(split(layout, false, &g)).collect();
    let model: Vec<Instance<T>> = (operands.iter().enumerate())
        .map(|(i, &(x, g))| {
            let topology = layout.batch.topology(i);
            let w = &w[layout.offset(i)..];
            let gathered = conv(topology, layout.conv, w, x, g, f);
            if plan.paths()[layout.batch.topology_id(i)] == Path::Gather {
                return gathered;
            }
            let operator = operator(topology, layout.conv, w);
            let [y, grad_x] = dense(&operator, x, g, f);
            let (n, most) = (topology.n_vertices(), 128 / (parts(topology.n_vertices()).pow(2)));
            let grad_weights = gathered.grad_weights.filter(|_| f > 0).map(|_| {
                let slots = slices::<T>(f).1.next_power_of_two().min(most);
                let gamma = gram(n, f, slots, &[(x, g)]);
                let gradients = dense_weight_gradients(topology, layout.conv, &operator, &gamma);
                gradients.into_iter().map(T::Acc::from_f64).collect()
            });
            Instance { z: gathered.z, y, grad_x, grad_weights }
        })
        .collect();
    let mut expected = if add { old } else { vec![T::Acc::ZERO; w.len()] };
    let grads: Option<Vec<_>> = model.iter().map(|instance| instance.grad_weights.clone()).collect();
    if let Some(grads) = grads.filter(|_| f > 0 && layout.instances > 0) {
        let is_of_copies = layout.batch.is_replicated() && layout.windows == WindowKind::Shared;
        if is_of_copies && plan.paths()[0] == Path::Dense {
            let topology = layout.batch.topology(0);
            let gamma = gram_of_copies(topology.n_vertices(), f, &operands);
            let operator = operator(topology, layout.conv, &w);
            let gradients = dense_weight_gradients(topology, layout.conv, &operator, &gamma);
            for (expected, gradient) in expected.iter_mut().zip(gradients) {
                *expected += T::Acc::from_f64(gradient);
            }
        } else {
            let offset = |g| layout.offset(g);
            add_up(&layout.batch, Incidence::n_hyperedges, offset, &grads, &mut expected);
        }
    }
    let all = |part: fn(&Instance<T>) -> &[T]| model.iter().flat_map(part).copied().collect::<Vec<_>>();
    let all_z: Vec<_> = model.iter().flat_map(|instance| instance.z.clone()).collect();
    assert_eq!(bits(&z.gathered()), bits(&all_z), "z in {}", T::NAME);
    assert_eq!(bits(&y.gathered()), bits(&all(|instance| &instance.y)), "y in {}", T::NAME);
    assert_eq!(bits(&grad_x.gathered()), bits(&all(|instance| &instance.grad_x)), "grad_x in {}", T::NAME);
    assert_eq!(bits(&grad_weights), bits(&expected), "grad_weights in {}", T::NAME);
}

/// Which step, with which scales.
#[derive(Debug, Clone, Copy)]
struct StepCase {
    to_hyperedges: bool,
    reduce: Reduce,
    /// Of the sources and of the targets.
    scales: [bool; 2],
    windows: [WindowKind; 2],
    add: bool,
}

/// A scale of a step, and what its gradient holds.
struct Scale<A> {
    values: Vec<A>,
    kind: WindowKind,
    table: WindowTable,
    offsets: Vec<usize>,
    old: Vec<A>,
    gradient: Vec<A>,
}

impl<A: Accumulator> Scale<A> {
    fn new<T: TestElement<Acc = A>>(layout: &Layout, hyperedges: bool, kind: WindowKind, add: bool) -> Self {
        let batch = &layout.batch;
        let offset = |g: usize| match kind {
            WindowKind::Shared => 0,
            WindowKind::Consecutive if hyperedges => batch.start(Axis::Hyperedge, g),
            WindowKind::Consecutive => batch.start(Axis::Vertex, g),
            WindowKind::Table => layout.offsets[g],
        };
        let offsets: Vec<usize> = (0..layout.instances).map(offset).collect();
        let ends = offsets.iter().enumerate().map(|(g, start)| start + layout.n_rows_of(g, hyperedges));
        let len = ends.max().unwrap_or(0);
        let seed = layout.seed.rotate_left(8 + u32::from(hyperedges));
        let make = if hyperedges { WindowTable::new } else { WindowTable::for_vertices };
        let old: Vec<A> = started(add, seed ^ 1, len);
        let table = make(batch, &layout.offsets).unwrap();
        Self { values: weights::<T>(seed, len, true), kind, table, offsets, gradient: old.clone(), old }
    }

    fn weights(&self) -> cpu::Weights<'_, A> {
        match self.kind {
            WindowKind::Shared => cpu::Weights::shared(&self.values),
            WindowKind::Consecutive => cpu::Weights::consecutive(&self.values),
            WindowKind::Table => cpu::Weights::table(&self.values, &self.table),
        }
    }
}

fn step_is_the_model<T: TestElement>(layout: &Layout, case: StepCase) {
    let f = layout.features;
    let StepCase { to_hyperedges, reduce, scales, windows, add } = case;
    let (from, to) = (!to_hyperedges, to_hyperedges);
    let x: Vec<T> = features(layout.seed ^ 1, layout.n_rows(from) * f);
    let g: Vec<T> = features(layout.seed ^ 2, layout.n_rows(to) * f);
    let mut source = scales[0].then(|| Scale::new::<T>(layout, from, windows[0], add));
    let mut target = scales[1].then(|| Scale::new::<T>(layout, to, windows[1], add));

    let nan = T::of(f64::NAN);
    let x_rows = layout.spread(&x, layout.places[0], from, nan);
    let g_rows = layout.spread(&g, layout.places[1], to, nan);
    let mut grad_x = layout.spread(&vec![nan; x.len()], layout.places[2], from, T::of(7.0));
    let mut grads = [&source, &target].map(|s| s.as_ref().map_or(vec![], |s| s.gradient.clone()));
    let [source_grad, target_grad] = &mut grads;
    let [source_out, target_out] = [source_grad, target_grad].map(|grad| out(add, grad));
    let [p, t] = [&source, &target].map(|scale| scale.as_ref().map(Scale::weights));
    let rows = Out::Overwrite(grad_x.rows_mut());
    let plan = Plan::<T>::builder(&layout.batch, f).build().unwrap();
    let mut workspace = plan.workspace(layout.instances).unwrap();
    if to_hyperedges {
        let step = Step::new(reduce).vertex_scale(p).hyperedge_scale(t);
        let gradients = StepGradients::none().rows(rows).vertex_scale(source_out).hyperedge_scale(target_out);
        workspace.vertex_to_hyperedge_backward(&step, x_rows.rows(), g_rows.rows(), gradients).unwrap();
    } else {
        let step = Step::new(reduce).vertex_scale(t).hyperedge_scale(p);
        let gradients = StepGradients::none().rows(rows).vertex_scale(target_out).hyperedge_scale(source_out);
        workspace.hyperedge_to_vertex_backward(&step, x_rows.rows(), g_rows.rows(), gradients).unwrap();
    }
    let [source_grad, target_grad] = grads;

    let rows_of = |topology: &'_ Incidence, hyperedges: bool| -> Vec<Vec<u32>> {
        let csr: Csr<'_> = if hyperedges { topology.by_edge() } else { topology.by_vertex() };
        csr.rows().map(<[u32]>::to_vec).collect()
    };
    let one = T::Acc::ONE;
    let (mut expected_x, mut of_sources, mut of_targets) = (vec![], vec![], vec![]);
    for (i, (x, g)) in split(layout, from, &x).iter().zip(split(layout, to, &g)).enumerate() {
        let topology = layout.batch.topology(i);
        let (by_source, by_target) = (rows_of(topology, from), rows_of(topology, to));
        let scale = |scale: &Option<Scale<T::Acc>>, row: usize| {
            scale.as_ref().map_or(one, |scale| scale.values[scale.offsets[i] + row])
        };
        let mean = |d: usize| if reduce == Reduce::Mean { inverse(by_target[d].len()) } else { one };
        let pull = |d: usize| scale(&target, d) * mean(d);
        let (mut sources, mut targets) = (vec![], vec![]);
        for (s, row) in by_source.iter().enumerate() {
            let sums = gather(g, f, row, pull, false);
            expected_x.extend(stored::<T>(&sums, scale(&source, s)));
            sources.push(T::Acc::from_f64(dot::<T, T>(&x[s * f..][..f], &sums, one)));
        }
        for (d, row) in by_target.iter().enumerate() {
            let sums = gather(x, f, row, |s| scale(&source, s), false);
            targets.push(T::Acc::from_f64(dot::<T, T>(&g[d * f..][..f], &sums, mean(d))));
        }
        of_sources.push(sources);
        of_targets.push(targets);
    }
    assert_eq!(bits(&grad_x.gathered()), bits(&expected_x), "the rows' gradient in {}", T::NAME);
    let parts = [(&mut source, from, of_sources, source_grad), (&mut target, to, of_targets, target_grad)];
    for (scale, hyperedges, instances, gradient) in parts {
        let Some(scale) = scale else { continue };
        let mut expected = if add { scale.old.clone() } else { vec![T::Acc::ZERO; scale.old.len()] };
        let width = if hyperedges { Incidence::n_hyperedges } else { Incidence::n_vertices };
        if f > 0 {
            add_up(&layout.batch, width, |g| scale.offsets[g], &instances, &mut expected);
        }
        assert_eq!(bits(&gradient), bits(&expected), "of hyperedges: {hyperedges}, in {}", T::NAME);
    }
}

fn step_case() -> impl Strategy<Value = StepCase> {
    let windows = [WindowKind::any(), WindowKind::any()];
    (StepKind::any(), any::<[bool; 2]>(), windows, any::<bool>()).prop_map(|(kind, scales, windows, add)| {
        let StepKind { to_hyperedges, reduce } = kind;
        StepCase { to_hyperedges, reduce, scales, windows, add }
    })
}

proptest! {
    #[test]
    fn the_convolution_adds_in_the_promised_order(
        layout in layout(),
        element in element_types(),
        add in any::<bool>(),
    ) {
        with_element!(element, conv_is_the_model(&layout, add));
    }

    #[test]
    fn steps_add_in_the_promised_order(
        layout in layout(),
        case in step_case(),
        element in element_types(),
    ) {
        with_element!(element, step_is_the_model(&layout, case));
    }
}

/// Small and large topologies of several widths along both axes, in windows that overlap; rows
/// longer than a segment, more instances than a chunk, and more features than a block of any type.
fn everything_at_once(windows: WindowKind) -> Layout {
    let giant = |n: usize, long: usize, edges: usize| {
        let vertex = |i: usize| (i * 7919 + 5) % n;
        let mut all: Vec<Vec<usize>> = vec![(0..long).map(vertex).collect()];
        all.extend((0..edges).map(|e| vec![0, vertex(e)]));
        Incidence::from_edges(n, &all, Repeats::Keep).unwrap()
    };
    let topologies = vec![
        giant(9, 5000, 700),
        Incidence::subsets(7, 3).unwrap(),
        Incidence::subsets(3, 2).unwrap(),
        giant(300, 1100, 20),
        Incidence::subsets(5, 2).unwrap(),
        Incidence::subsets(4, 1).unwrap(),
    ];
    let ids: Vec<usize> =
        (0..150).map(|g| if g % 49 == 0 { (g % 2) * 3 } else { [5, 2, 1, 4][g * g % 4] }).collect();
    let batch = Batch::from_table(topologies, &ids).unwrap();
    Layout {
        batch,
        instances: ids.len(),
        features: 300,
        windows,
        offsets: (0..ids.len()).map(|g| g * 5 % 7).collect(),
        places: [
            Place::Contiguous,
            Place::RowGap(3),
            Place::VertexMajor,
            Place::Padded(1),
            Place::Contiguous,
        ],
        conv: Conv::default(),
        seed: 42,
    }
}

#[test]
fn long_rows_wide_rows_and_many_ranks_add_in_the_promised_order() {
    for kind in [WindowKind::Shared, WindowKind::Table] {
        let layout = Layout {
            conv: Conv::new(Normalization::Symmetric, WeightUse::Documented),
            ..everything_at_once(kind)
        };
        conv_is_the_model::<f32>(&layout, false);
        conv_is_the_model::<bf16>(&Layout { conv: Conv::default(), ..layout.clone() }, true);
        conv_is_the_model::<f64>(&Layout { conv: Conv::default(), ..layout.clone() }, false);
        for to_hyperedges in [false, true] {
            let windows = [kind, WindowKind::Table];
            let case =
                StepCase { to_hyperedges, reduce: Reduce::Mean, scales: [true; 2], windows, add: false };
            step_is_the_model::<f32>(&layout, case);
            step_is_the_model::<f16>(&layout, case);
        }
    }
}

/// Copies of topologies of one, two and four parts, with one window and with one of each instance: chunks of
/// one instance and of many, with more slices than slots and with fewer, and trees that lack right children.
#[test]
fn copies_of_dense_operators_add_in_the_promised_order() {
    let sparse = |n: usize| {
        let edges: Vec<Vec<usize>> = (0..n).map(|e| vec![e, (e * 7 + 1) % n, e, (e * e) % n]).collect();
        Incidence::from_edges(n, &edges, Repeats::Keep).unwrap()
    };
    let conventions = [
        Conv::default(),
        Conv::new(Normalization::Symmetric, WeightUse::Documented),
        Conv::new(Normalization::Row, WeightUse::DegreeOnly),
        Conv::new(Normalization::Symmetric, WeightUse::DegreeOnly),
        Conv::new(Normalization::Symmetric, WeightUse::MessageOnly),
        Conv::new(Normalization::None, WeightUse::MessageOnly),
    ];
    let cases = [
        (Incidence::subsets(5, 2).unwrap(), 1, 131),
        (Incidence::subsets(8, 2).unwrap(), 301, 23),
        (Incidence::subsets(7, 3).unwrap(), 2300, 3),
        (sparse(13), 18, 150),
        (Incidence::subsets(16, 2).unwrap(), 70, 21),
        (sparse(19), 9, 70),
        (sparse(25), 130, 13),
        (Incidence::subsets(32, 2).unwrap(), 70, 9),
        (sparse(32), 2300, 2),
    ];
    for (i, (topology, features, instances)) in cases.into_iter().enumerate() {
        for windows in [WindowKind::Shared, WindowKind::Consecutive] {
            let layout = Layout {
                batch: Batch::replicate(topology.clone()),
                instances,
                features,
                windows,
                offsets: vec![],
                places: [Place::Contiguous; 5],
                conv: conventions[(i + usize::from(windows == WindowKind::Shared)) % conventions.len()],
                // Dense operators where a plan would choose gathers, too.
                seed: 1 + 3 * i as u64,
            };
            conv_is_the_model::<f32>(&layout, false);
            match i % 3 {
                0 => conv_is_the_model::<f64>(&layout, true),
                1 => conv_is_the_model::<f16>(&layout, true),
                _ => conv_is_the_model::<bf16>(&layout, false),
            }
        }
    }
}

/// Where the weights have no part in y, nothing is added to their gradient, not even a zero, which would turn
/// -0 into 0.
#[test]
fn a_gradient_that_nothing_adds_to_stays_as_it_is() {
    let conv = Conv::new(Normalization::None, WeightUse::DegreeOnly);
    let batch = Batch::replicate(Incidence::subsets(4, 2).unwrap());
    let mut workspace = Plan::<f32>::builder(&batch, 3).conv(conv).build().unwrap().workspace(2).unwrap();
    let (x, w) = (features::<f32>(1, 24), weights::<f32>(2, 6, false));
    let rows = || hyperscatter::Rows::contiguous(&x[..], 3);
    let mut gradient = [-0.0, 1.5, f32::NAN, -2.0, 0.0, f32::INFINITY];
    let old = gradient;
    let weights = cpu::Weights::shared(&w[..]);
    workspace.conv_backward(rows(), weights, rows(), Out::Skip, Out::Accumulate(&mut gradient)).unwrap();
    assert_eq!(bits(&gradient), bits(&old));
    workspace.conv_backward(rows(), weights, rows(), Out::Skip, Out::Overwrite(&mut gradient)).unwrap();
    assert_eq!(bits(&gradient), bits(&[0.0f32; 6]));
}
