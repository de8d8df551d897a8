//! Products of matrices: the rows of all vertices of a batch with the matrix Θ of a layer, with its
//! transpose, and with each other.
//!
//! Rows are numbered through the batch, and cut into blocks that threads take. An element of a product starts
//! at 0 and adds its terms in their order, by one fused multiply-add each, in segments of [`SEGMENT`] terms
//! whose sums are added in order. So a row of a product does not depend on how many there are, nor on the
//! processor. The product of rows with each other, which has a term for each row, adds segments of
//! [`SEGMENT_ROWS`] rows in `f64`: within groups of them, and then the groups, in order.
//!
//! A crate for this would allocate for each product what it packs.

#![allow(unsafe_code)]

use std::ops::Range;

use super::disjoint::Disjoint;
use super::epilogue::store_row;
use super::instance_sums::GradientTo;
use super::operands::{Input, Output};
use super::plan::Plan;
use super::schedule::for_each;
use super::scratch::ScratchRows;
use super::threads::n_threads;
use crate::axis::Axis;
use crate::batch::Batch;
use crate::element::{Accumulator, Element};
use crate::error::{Error, Result, try_with_capacity, try_zeroed};
use crate::summation::{SEGMENT, SEGMENT_ROWS};
use crate::vectors::vectorized;

/// The rows and the bytes of a row of a product that are in registers together: with them, twelve of the
/// sixteen vectors of AVX2.
const M: usize = 6;
const WIDTH_BYTES: usize = 64;

/// The rows that a thread multiplies at once.
const BLOCK: usize = 8 * M;

/// The part of the product of rows with each other that a thread computes at once.
const TILE: (usize, usize) = (BLOCK, 64);

/// The groups whose sums make the gradient of Θ: at most so many, with so many values in all.
const MOST_GROUPS: usize = 32;
const GROUP_VALUES: usize = 1 << 20;

/// The columns of a panel.
const fn width<A>() -> usize {
    WIDTH_BYTES / size_of::<A>()
}

/// What the operators need that a workspace is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) backward: bool,
    /// Whether elements are narrower than their sums.
    pub(super) is_narrow: bool,
}

/// The memory of products, and of rows of F sums for all vertices of a batch.
pub(super) struct Products<A: Accumulator> {
    /// Θ or its transpose, in panels.
    theta: Vec<A>,
    /// The sums of groups of rows.
    groups: Vec<f64>,
    pub(super) threads: Vec<Room<A>>,
    pub(super) rows: LayerRows<A>,
}

/// Rows of F sums for all vertices of a batch, touched where they are first used.
pub(super) struct LayerRows<A> {
    /// P = X Θᵀ.
    pub(super) products: ScratchRows<A>,
    /// ∂P in the backward, and what an epilogue makes of elements that are narrower.
    pub(super) results: ScratchRows<A>,
    /// g, where elements are narrower.
    pub(super) gradients: ScratchRows<A>,
}

/// What a thread packs, and the sums of a block or tile.
pub(super) struct Room<A> {
    left: Vec<A>,
    right: Vec<A>,
    sums: Vec<A>,
    totals: Vec<f64>,
}

impl<A: Accumulator> Products<A> {
    pub(super) fn new<T: Element>(plan: &Plan<T>, max_instances: usize, needs: Needs) -> Result<Self> {
        let (features, inputs) = (plan.features(), plan.inputs());
        let room = |n: usize, m: usize| {
            n.checked_next_multiple_of(width::<A>()).and_then(|n| n.checked_mul(m)).ok_or(Error::TooLarge {
                what: "the scratch memory of a layer",
                value: n as u128 * m as u128,
                bound: usize::MAX as u128,
            })
        };
        let rows = room(plan.batch().total(Axis::Vertex, max_instances)?, features)?;
        let rows = |is_needed: bool| ScratchRows::with_room(if is_needed { rows } else { 0 });
        let Needs { backward, is_narrow } = needs;
        let n_threads = n_threads();
        let what = "the workspace";
        let mut threads = try_with_capacity(what, n_threads)?;
        for _ in 0..n_threads {
            let tile = |len: usize| if backward { len } else { 0 };
            let outputs = if backward { inputs } else { 0 };
            threads.push(Room {
                left: try_zeroed(what, room(features.max(inputs), BLOCK)?.max(tile(SEGMENT_ROWS * TILE.0)))?,
                right: try_zeroed(what, tile(SEGMENT_ROWS * TILE.1))?,
                sums: try_zeroed(what, room(outputs, BLOCK)?.max(tile(TILE.0 * TILE.1)))?,
                totals: try_zeroed(what, tile(TILE.0 * TILE.1))?,
            });
        }
        let panels = room(features, inputs)?.max(room(inputs, features)?);
        // There is room for this product, which is smaller.
        let size = features * inputs;
        let of_groups = if backward { size.saturating_mul(most_groups(size)) } else { 0 };
        Ok(Self {
            theta: try_zeroed(what, panels)?,
            groups: try_zeroed(what, of_groups)?,
            threads,
            rows: LayerRows {
                products: rows(true)?,
                results: rows(backward || is_narrow)?,
                gradients: rows(backward && is_narrow)?,
            },
        })
    }

    /// P = X Θᵀ, for Θ of `[F, inputs]`.
    pub(super) fn multiply<T: Element<Acc = A>>(
        &mut self,
        (plan, instances): (&Plan<T>, usize),
        x: Input<'_, T>,
        theta: &[T],
    ) {
        let Self { theta: panels, threads, rows, .. } = self;
        let (batch, features, inputs) = (plan.batch(), plan.features(), plan.inputs());
        let n = batch.start(Axis::Vertex, instances);
        let products = rows.products.write(n * features);
        if inputs == 0 || products.is_empty() {
            products.fill(A::ZERO);
            return;
        }
        let panels = &mut panels[..features.next_multiple_of(width::<A>()) * inputs];
        clear_last(panels, inputs, width::<A>());
        for (feature, row) in theta.chunks_exact(inputs).enumerate() {
            pack_column(panels, (inputs, width::<A>()), feature, row);
        }
        let (panels, products) = (&*panels, Disjoint::new(products));
        for_each(threads, 0..n.div_ceil(BLOCK), |room, block| {
            let block = block * BLOCK..n.min((block + 1) * BLOCK);
            let left = &mut room.left[..block.len().next_multiple_of(M) * inputs];
            clear_last(left, inputs, M);
            each_vertex(batch, instances, block.clone(), |i, instance, v| {
                let row = x.source(batch, instance, None, false);
                pack_column(left, (inputs, M), i, row.row(v));
            });
            // SAFETY: the rows of a block are computed once, and blocks do not overlap.
            let out = unsafe { products.part(block.start * features..block.end * features) };
            multiply(left, panels, inputs, out, features);
        });
    }

    /// ∂X = ∂P Θ, each element rounded once.
    pub(super) fn multiply_back<T: Element<Acc = A>>(
        &mut self,
        (plan, instances): (&Plan<T>, usize),
        theta: &[T],
        grad_x: &Output<'_, T>,
    ) {
        let Self { theta: panels, threads, rows, .. } = self;
        let (batch, features, inputs) = (plan.batch(), plan.features(), plan.inputs());
        let n = batch.start(Axis::Vertex, instances);
        if inputs == 0 {
            return;
        }
        let panels = &mut panels[..inputs.next_multiple_of(width::<A>()) * features];
        clear_last(panels, features, width::<A>());
        for (feature, row) in theta.chunks_exact(inputs).enumerate() {
            pack_row(panels, (features, width::<A>()), feature, row);
        }
        let (panels, grad_products) = (&*panels, rows.results.read());
        for_each(threads, 0..n.div_ceil(BLOCK), |room, block| {
            let Room { left, sums, .. } = room;
            let block = block * BLOCK..n.min((block + 1) * BLOCK);
            let left = &mut left[..block.len().next_multiple_of(M) * features];
            clear_last(left, features, M);
            for (i, row) in block.clone().enumerate() {
                pack_column(left, (features, M), i, &grad_products[row * features..][..features]);
            }
            let sums = &mut sums[..block.len() * inputs];
            multiply(left, panels, features, sums, inputs);
            each_vertex(batch, instances, block, |i, instance, v| {
                // SAFETY: each vertex is in one block, which is computed once.
                let store = unsafe { grad_x.store(batch, instance, v, A::ONE) };
                store_row(store, &sums[i * inputs..][..inputs]);
            });
        });
    }

    /// ∂Θ = ∂Pᵀ X.
    pub(super) fn multiply_rows<T: Element<Acc = A>>(
        &mut self,
        (plan, instances): (&Plan<T>, usize),
        x: Input<'_, T>,
        grad_theta: GradientTo<'_, A>,
    ) {
        let Self { groups, threads, rows, .. } = self;
        let (batch, features, inputs) = (plan.batch(), plan.features(), plan.inputs());
        let (n, size) = (batch.start(Axis::Vertex, instances), features * inputs);
        if n == 0 || size == 0 {
            grad_theta.start();
            return;
        }
        let grad_products = rows.results.read();
        let segments = n.div_ceil(SEGMENT_ROWS);
        let group_len = segments.div_ceil(most_groups(size));
        let n_groups = segments.div_ceil(group_len);
        let tiles = (features.div_ceil(TILE.0), inputs.div_ceil(TILE.1));
        let sums_of_groups = Disjoint::new(&mut groups[..n_groups * size]);
        for_each(threads, 0..n_groups * tiles.0 * tiles.1, |room, task| {
            let Room { left, right, sums, totals } = room;
            let (group, tile) = (task / (tiles.0 * tiles.1), task % (tiles.0 * tiles.1));
            let part = |tile: usize, len: usize, of: usize| tile * len..of.min((tile + 1) * len);
            let of_features = part(tile / tiles.1, TILE.0, features);
            let of_inputs = part(tile % tiles.1, TILE.1, inputs);
            let n_sums = of_features.len() * of_inputs.len();
            let (sums, totals) = (&mut sums[..n_sums], &mut totals[..n_sums]);
            totals.fill(0.0);
            for segment in group * group_len..segments.min((group + 1) * group_len) {
                let segment = part(segment, SEGMENT_ROWS, n);
                let len = segment.len();
                let left = &mut left[..of_features.len().next_multiple_of(M) * len];
                let right = &mut right[..of_inputs.len().next_multiple_of(width::<A>()) * len];
                clear_last(left, len, M);
                clear_last(right, len, width::<A>());
                for (i, row) in segment.clone().enumerate() {
                    let row = &grad_products[row * features..][..features];
                    pack_row(left, (len, M), i, &row[of_features.clone()]);
                }
                each_vertex(batch, instances, segment, |i, instance, v| {
                    let row = x.source(batch, instance, None, false);
                    pack_row(right, (len, width::<A>()), i, &row.row(v)[of_inputs.clone()]);
                });
                multiply(left, right, len, sums, of_inputs.len());
                for (total, sum) in totals.iter_mut().zip(&*sums) {
                    *total += sum.to_f64();
                }
            }
            for (feature, totals) in of_features.zip(totals.chunks_exact(of_inputs.len())) {
                let row = group * size + feature * inputs;
                // SAFETY: tiles of a group do not overlap, and each is computed once.
                let place = unsafe { sums_of_groups.part(row + of_inputs.start..row + of_inputs.end) };
                place.copy_from_slice(totals);
            }
        });
        let (sums, others) = groups[..n_groups * size].split_at_mut(size);
        for other in others.chunks_exact(size) {
            for (sum, other) in sums.iter_mut().zip(other) {
                *sum += other;
            }
        }
        grad_theta.store(sums);
    }
}

/// Calls `f` for each vertex of a call: with the number of its row, its instance and its number there. Each
/// comes once, on any thread.
pub(super) fn for_each_vertex<A: Accumulator>(
    threads: &mut [Room<A>],
    (batch, instances): (&Batch, usize),
    f: impl Fn(usize, usize, usize) + Sync,
) {
    let n = batch.start(Axis::Vertex, instances);
    for_each(threads, 0..n.div_ceil(BLOCK), |_, block| {
        let first = block * BLOCK;
        each_vertex(batch, instances, first..n.min(first + BLOCK), |i, instance, v| {
            f(first + i, instance, v);
        });
    });
}

/// The most groups of rows whose sums make a matrix of so many values.
fn most_groups(values: usize) -> usize {
    (GROUP_VALUES / values.max(1)).clamp(1, MOST_GROUPS)
}

/// Calls `f` for the vertices of some rows, in order: with the place of the row in the range, its instance
/// and the number of the vertex there.
fn each_vertex(batch: &Batch, instances: usize, rows: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
    if rows.is_empty() {
        return;
    }
    // The last instance that starts at the first row or before it: the others that do have no vertices.
    let (mut instance, mut end) = (0, instances);
    while end - instance > 1 {
        let middle = instance + (end - instance) / 2;
        if batch.start(Axis::Vertex, middle) <= rows.start { instance = middle } else { end = middle }
    }
    let mut vertex = rows.start - batch.start(Axis::Vertex, instance);
    for i in 0..rows.len() {
        while vertex >= batch.topology(instance).n_vertices() {
            (instance, vertex) = (instance + 1, 0);
        }
        f(i, instance, vertex);
        vertex += 1;
    }
}

/// Fills the last of some panels with zeros: it may have fewer columns than there is room for. A panel has
/// `len` rows of `width` columns.
fn clear_last<A: Accumulator>(panels: &mut [A], len: usize, width: usize) {
    let start = panels.len().saturating_sub(len * width);
    panels[start..].fill(A::ZERO);
}

/// Packs a column.
fn pack_column<T: Element>(panels: &mut [T::Acc], (len, width): (usize, usize), column: usize, values: &[T]) {
    let panel = &mut panels[column / width * len * width..][..len * width];
    for (place, value) in panel.iter_mut().skip(column % width).step_by(width).zip(values) {
        *place = value.widen();
    }
}

/// Packs a part of each row: row `row`, of all panels.
fn pack_row<T: Element>(panels: &mut [T::Acc], (len, width): (usize, usize), row: usize, values: &[T]) {
    for (panel, values) in panels.chunks_exact_mut(len * width).zip(values.chunks(width)) {
        for (place, value) in panel[row * width..].iter_mut().zip(values) {
            *place = value.widen();
        }
    }
}

/// The products of the columns of `left` with those of `right`, which are of `len` values and packed in
/// panels: a row of `columns` sums for each of `left`.
fn multiply<A: Accumulator>(left: &[A], right: &[A], len: usize, out: &mut [A], columns: usize) {
    const { assert!(WIDTH_BYTES / size_of::<A>() == 8 || WIDTH_BYTES / size_of::<A>() == 16) };
    if len == 0 || columns == 0 {
        out.fill(A::ZERO);
    } else if width::<A>() == 8 {
        multiply_panels::<A, 8>(left, right, len, out, columns);
    } else {
        multiply_panels::<A, 16>(left, right, len, out, columns);
    }
}

fn multiply_panels<A: Accumulator, const W: usize>(
    left: &[A],
    right: &[A],
    len: usize,
    out: &mut [A],
    columns: usize,
) {
    vectorized!(
        [A: Accumulator, const W: usize] [A, W]
        (left: &[A] = left, right: &[A] = right, len: usize = len, out: &mut [A] = out, columns: usize = columns)
        { multiply_portable::<A, W>(left, right, len, out, columns) }
    )
}

#[inline(always)]
fn multiply_portable<A: Accumulator, const W: usize>(
    left: &[A],
    right: &[A],
    len: usize,
    out: &mut [A],
    columns: usize,
) {
    let rows = out.len() / columns;
    for (p, right) in right.chunks_exact(len * W).enumerate() {
        let width = W.min(columns - p * W);
        for start in (0..len).step_by(SEGMENT) {
            let end = len.min(start + SEGMENT);
            let right = &right[start * W..end * W];
            for (g, left) in left.chunks_exact(len * M).enumerate() {
                let sums = sums::<A, W>(&left[start * M..end * M], right);
                for m in 0..M.min(rows - g * M) {
                    let place = &mut out[(g * M + m) * columns + p * W..][..width];
                    if start == 0 {
                        place.copy_from_slice(&sums[m][..width]);
                    } else {
                        for i in 0..width {
                            place[i] += sums[m][i];
                        }
                    }
                }
            }
        }
    }
}

/// The sums of a panel of `left` with one of `right`.
#[inline(always)]
fn sums<A: Accumulator, const W: usize>(left: &[A], right: &[A]) -> [[A; W]; M] {
    let mut sums = [[A::ZERO; W]; M];
    for (left, right) in left.as_chunks::<M>().0.iter().zip(right.as_chunks::<W>().0) {
        for m in 0..M {
            for i in 0..W {
                sums[m][i] = left[m].fused_multiply_add(right[i], sums[m][i]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(i: usize) -> f64 {
        (i * 7919 % 1009) as f64 / 307.0 - 1.6
    }

    /// Each element adds its terms in order, with any code, whatever the rows beside it.
    fn adds_in_order<A: Accumulator, const W: usize>() {
        for (rows, columns, len) in
            [(1usize, 1usize, 1usize), (5, 17, 3), (6, 16, 512), (13, 40, 1030), (48, 9, 7)]
        {
            let at = |r: usize, k: usize| A::from_f64(value(r * len + k));
            let with = |c: usize, k: usize| A::from_f64(value(c * len + k + 5));
            let mut left = vec![A::NAN; rows.next_multiple_of(M) * len];
            let mut right = vec![A::NAN; columns.next_multiple_of(W) * len];
            for r in 0..rows {
                let row: Vec<A> = (0..len).map(|k| at(r, k)).collect();
                pack_column::<A>(&mut left, (len, M), r, &row);
            }
            for k in 0..len {
                let row: Vec<A> = (0..columns).map(|c| with(c, k)).collect();
                pack_row::<A>(&mut right, (len, W), k, &row);
            }
            let mut out = [vec![A::NAN; rows * columns], vec![A::NAN; rows * columns]];
            multiply(&left, &right, len, &mut out[0], columns);
            multiply_portable::<A, W>(&left, &right, len, &mut out[1], columns);
            for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                let mut total = None;
                for start in (0..len).step_by(SEGMENT) {
                    let terms = start..len.min(start + SEGMENT);
                    let sum = terms.fold(A::ZERO, |sum: A, k| at(r, k).fused_multiply_add(with(c, k), sum));
                    total = Some(total.map_or(sum, |total: A| total + sum));
                }
                let sums = out.each_ref().map(|out| out[r * columns + c].to_f64());
                assert_eq!(sums, [total.unwrap().to_f64(); 2], "{rows} {columns} {len}");
            }
        }
    }

    #[test]
    fn products_add_in_order_with_any_code() {
        adds_in_order::<f32, 16>();
        adds_in_order::<f64, 8>();
    }

    #[test]
    fn vertices_come_in_order_from_any_row_on() {
        use crate::incidence::{Incidence, Repeats};

        let of = |n| Incidence::from_edges(n, &[] as &[Vec<u32>], Repeats::Reject).unwrap();
        let table = Batch::from_table(vec![of(0), of(1), of(3)], &[0, 2, 0, 0, 1, 2, 0]).unwrap();
        for (batch, instances) in [(table, 7), (Batch::replicate(of(3)), 4), (Batch::replicate(of(0)), 3)] {
            let of_instance = |g| (0..batch.topology(g).n_vertices()).map(move |v| (g, v));
            let expected: Vec<_> = (0..instances).flat_map(of_instance).collect();
            for start in 0..=expected.len() {
                for end in start..=expected.len() {
                    let mut found = vec![];
                    each_vertex(&batch, instances, start..end, |i, instance, v| {
                        assert_eq!(i, found.len());
                        found.push((instance, v));
                    });
                    assert_eq!(found, expected[start..end]);
                }
            }
        }
    }
}
