//! Γ_uv = ⟨g_u, x_v⟩ of a chunk of instances, in the order of [`dense`](crate::dense): of what the gradients
//! of weights are made.
//!
//! An *item* is a slice of an instance; the j-th of a chunk belongs to slot j modulo the slots. Vertices v
//! are the lanes of vectors: the features of x are laid out feature by feature, the first of some vertices,
//! the second of each, and so on. So products and sums need no shuffles, and neither slots nor runs have to
//! be taken apart: a tile of pairs of vertices stays in registers while the slots of a run go by.

#![allow(unsafe_code)]

use std::ops::Range;

use arrayvec::ArrayVec;

use super::super::gather::Source;
use super::super::lanes::{most_lanes, vectors, vectors_mut};
use super::super::prefetch::{To, prefetch};
use super::room::Room;
use crate::dense::{chunk_len, features_of_slice, most_slots, slices};
use crate::element::{Accumulator, Element};
use crate::error::{Result, try_zeroed};
use crate::pairs::{MOST_VERTICES, VertexSet};
use crate::vectors::vectorized;

/// The vertices u of a tile. Its vertices v are the lanes of a vector: with 4, the sums of a slot and those
/// of a run, in `f64`, are 12 of 16 registers.
const ROWS: usize = 4;

/// The most lanes, and the fewest.
const MOST_LANES: usize = most_lanes::<f32>();
const LEAST_LANES: usize = most_lanes::<f64>();
const TILES: usize = MOST_VERTICES.div_ceil(ROWS) * MOST_VERTICES.div_ceil(LEAST_LANES);

/// The memory of the items of g, and of x, that are under way: both lie in a processor's second cache.
const ITEMS_BYTES: usize = 64 << 10;

/// The bytes of an item, and the runs of the slots.
const SLICE_BYTES: usize = 16;
const RUNS: usize = 4;

/// The features of a row that are fetched at once.
const FETCHED: usize = 32;

/// Vertices in whole tiles, along both sides.
fn padded(n: usize) -> usize {
    n.next_multiple_of(MOST_LANES)
}

/// The items of a block of a chunk that has so many: all slots once or more often, as often as there is room.
fn items_of_block(n: usize, items: usize) -> usize {
    let slots = most_slots(n);
    let most = ITEMS_BYTES / (SLICE_BYTES * padded(n).max(1) * slots);
    items.div_ceil(slots).clamp(1, most.max(1)) * slots
}

/// The sums of the slots of a chunk, and room for its items.
pub(crate) struct Gram<A> {
    shape: Shape,
    /// The tiles that have a pair which shares a hyperedge: their first vertices.
    tiles: ArrayVec<[u8; 2], TILES>,
    /// The items of the block that is under way. Of g, for each vertex, for each item its features.
    g: Box<[A]>,
    /// Of x, for each vector of vertices, for each item, for each feature a vector.
    x: Box<[A]>,
    /// The sums of the slots, where a chunk has several blocks: for each tile, for each slot those of its
    /// pairs.
    slots: Box<[A]>,
    /// Γ_uv at u n + v.
    sums: Box<[f64]>,
}

/// What the chunk that is under way is cut into.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    n: usize,
    features: usize,
    slots: usize,
    /// The items of a whole block, and of the one that is under way.
    block: usize,
    items: usize,
    is_first: bool,
}

impl Room {
    /// For the products of `n` vertices, with features of this type.
    pub(in crate::cpu) fn of_products<T: Element>(n: usize, features: usize) -> Self {
        let slices = slices(features, size_of::<T>());
        let items = slices.saturating_mul(chunk_len(slices));
        let block = items_of_block(n, items);
        let elements = block * padded(n) * features_of_slice(size_of::<T>());
        let slots = if items > block { padded(n) * padded(n) * most_slots(n) } else { 0 };
        Self { vertices: n, items: elements, slots, ..Self::default() }
    }
}

impl<A: Accumulator> Gram<A> {
    pub(crate) fn with_room(room: Room) -> Result<Self> {
        let zeros = |len| try_zeroed("the workspace", len).map(Vec::into_boxed_slice);
        Ok(Self {
            shape: Shape::default(),
            tiles: ArrayVec::new(),
            g: zeros(room.items)?,
            x: zeros(room.items)?,
            slots: zeros(room.slots)?,
            sums: try_zeroed("the workspace", room.vertices * room.vertices)?.into_boxed_slice(),
        })
    }

    /// Begins a chunk of `instances` instances whose slices go to so many slots. Bit v of `neighbors[u]` says
    /// whether Γ_uv is wanted; the others may have any value.
    pub(crate) fn begin(&mut self, neighbors: &[VertexSet], features: usize, instances: usize, slots: usize) {
        let n = neighbors.len();
        let items = instances * features.div_ceil(SLICE_BYTES / size_of::<A>());
        let block = items_of_block(n, items);
        self.shape = Shape { n, features, slots, block, items: 0, is_first: true };
        self.tiles.clear();
        let lanes = most_lanes::<A>();
        for u in (0..n).step_by(ROWS) {
            let wanted = neighbors[u..].iter().take(ROWS).fold(0, |all, neighbors| all | neighbors);
            for v in (0..n).step_by(lanes) {
                if wanted >> v & ((1 << lanes) - 1) != 0 {
                    self.tiles.push([u as u8, v as u8]);
                }
            }
        }
    }

    /// Adds an instance: the rows of g, each times one of `scales`, and those of x. `next` has the x of the
    /// instance that is next, which is fetched meanwhile. Code for AVX2 and FMA is used where the processor
    /// has both.
    pub(crate) fn add<T: Element<Acc = A>>(
        &mut self,
        g: &Source<'_, T>,
        scales: &[A],
        x: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
    ) {
        vectorized!(
            [T: Element] [T]
            (
                gram: &mut Gram<T::Acc> = self,
                g: &Source<'_, T> = g,
                scales: &[T::Acc] = scales,
                x: &Source<'_, T> = x,
                next: Option<&Source<'_, T>> = next,
            )
            { gram.add_portable(g, scales, x, next) }
        )
    }

    /// Ends the chunk: its Γ, rounded to the accumulation type, Γ_uv at u n + v. `next` is as for
    /// [`add`](Self::add): where chunks have one instance, there is more time to fetch it here.
    pub(crate) fn finish<T: Element<Acc = A>>(&mut self, next: Option<&Source<'_, T>>) -> &mut [f64] {
        vectorized!(
            ['g, T: Element] [T]
            (gram: &'g mut Gram<T::Acc> = self, next: Option<&Source<'_, T>> = next)
            -> &'g mut [f64] { gram.finish_portable(next) }
        )
    }

    /// Γ of `n` vertices that is given, in the place of one that is summed.
    pub(crate) fn given(&mut self, n: usize, entry: impl Fn(usize, usize) -> A) -> &mut [f64] {
        for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
            self.sums[u * n + v] = entry(u, v).to_f64();
        }
        &mut self.sums[..n * n]
    }

    // What follows is for whatever processor the caller is compiled for; the bits are the same on all. Lanes
    // and features of an item that the compiler knows keep sums in registers. What is asked of constants is
    // asked in a constant: no code is made for the other answer.

    #[inline(always)]
    fn add_portable<T: Element<Acc = A>>(
        &mut self,
        g: &Source<'_, T>,
        scales: &[A],
        x: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
    ) {
        if const { size_of::<A>() == 4 } {
            self.add_of::<T, 8, 4>(g, scales, x, next);
        } else {
            self.add_of::<T, 4, 2>(g, scales, x, next);
        }
    }

    #[inline(always)]
    fn finish_portable<T: Element<Acc = A>>(&mut self, next: Option<&Source<'_, T>>) -> &mut [f64] {
        if const { size_of::<A>() == 4 } {
            self.add_block::<T, 8, 4>(true, next);
        } else {
            self.add_block::<T, 4, 2>(true, next);
        }
        &mut self.sums[..self.shape.n * self.shape.n]
    }

    #[inline(always)]
    fn add_of<T: Element<Acc = A>, const LANES: usize, const LEN: usize>(
        &mut self,
        g: &Source<'_, T>,
        scales: &[A],
        x: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
    ) {
        let features = self.shape.features;
        let mut start = 0;
        while start < features {
            if self.shape.items == self.shape.block {
                self.add_block::<T, LANES, LEN>(false, None);
            }
            let Shape { block, items, .. } = self.shape;
            let end = features.min(start + (block - items) * LEN);
            self.lay_out_g::<T, LEN>(g, scales, start..end);
            self.lay_out_x::<T, LANES, LEN>(x, next, start..end);
            self.shape.items += (end - start).div_ceil(LEN);
            start = end;
        }
    }

    /// Lays out the items of g behind those that are there, widened and scaled. Features that a last item has
    /// too few of are zeros: they add nothing, which is as if they were not added. Where that makes −0 a 0,
    /// the run that it is added to has no −0 either.
    #[inline(always)]
    fn lay_out_g<T: Element<Acc = A>, const LEN: usize>(
        &mut self,
        g: &Source<'_, T>,
        scales: &[A],
        range: Range<usize>,
    ) {
        let Shape { n, block, items, .. } = self.shape;
        for place in 0..n.next_multiple_of(ROWS) {
            // Rows that a tile has too many are those of the last vertex again.
            let u = place.min(n - 1);
            let (row, scale) = (&g.row(u)[range.clone()], scales[u]);
            let (to, end) = self.g[(place * block + items) * LEN..].split_at_mut(row.len());
            for (to, feature) in to.iter_mut().zip(row) {
                *to = feature.widen() * scale;
            }
            end[..row.len().next_multiple_of(LEN) - row.len()].fill(A::ZERO);
        }
    }

    /// The same of x, which has no scales.
    #[inline(always)]
    fn lay_out_x<T: Element<Acc = A>, const LANES: usize, const LEN: usize>(
        &mut self,
        x: &Source<'_, T>,
        next: Option<&Source<'_, T>>,
        range: Range<usize>,
    ) {
        let Shape { n, block, items, .. } = self.shape;
        for first in (0..n).step_by(LANES) {
            let mut rows = [&[][..]; LANES];
            for (lane, row) in rows.iter_mut().enumerate() {
                *row = &x.row((first + lane).min(n - 1))[range.clone()];
            }
            let vectors = &mut vectors_mut::<A, LANES>(&mut self.x)[(first / LANES * block + items) * LEN..];
            for (item, to) in vectors.chunks_exact_mut(LEN).take(range.len().div_ceil(LEN)).enumerate() {
                let start = item * LEN;
                if let (Some(next), true) = (next, start.is_multiple_of(FETCHED)) {
                    for v in first..n.min(first + LANES) {
                        let row = &next.row(v)[range.start + start..range.end];
                        prefetch(&row[..row.len().min(FETCHED)], To::Read);
                    }
                }
                let mut wide = [[A::ZERO; LEN]; LANES];
                for lane in 0..LANES {
                    wide[lane] = widened(&rows[lane][start..]);
                }
                for f in 0..LEN {
                    for lane in 0..LANES {
                        to[f][lane] = wide[lane][f];
                    }
                }
            }
        }
    }

    /// Adds the block that is under way to the sums of the slots; those of the last one to the runs, and
    /// these to Γ.
    #[inline(always)]
    fn add_block<T: Element<Acc = A>, const LANES: usize, const LEN: usize>(
        &mut self,
        is_last: bool,
        next: Option<&Source<'_, T>>,
    ) {
        let Self { shape, tiles, g, x, slots: saved, sums: gamma } = self;
        let Shape { n, slots, block, items, is_first, .. } = *shape;
        let (g, x) = (vectors::<A, LEN>(g), vectors::<A, LANES>(x));
        let saved = vectors_mut::<A, LANES>(saved);
        for (t, &[u, v]) in tiles.iter().enumerate() {
            let (u, v) = (usize::from(u), usize::from(v));
            let mut rows = [&[][..]; ROWS];
            for (row, place) in rows.iter_mut().zip(u..) {
                *row = &g[place * block..][..block];
            }
            let x = &x[v / LANES * block * LEN..][..block * LEN];
            let mut runs = [[[0.0; LANES]; ROWS]; RUNS];
            for (run, of_run) in runs.iter_mut().enumerate() {
                // A row here and there.
                if let Some(next) = next {
                    for v in (t * RUNS + run..n).step_by(tiles.len() * RUNS) {
                        prefetch(next.row(v), To::Read);
                    }
                }
                // Not in place, so that it stays in registers.
                let mut sum_of_run = [[0.0; LANES]; ROWS];
                for slot in (run..slots).step_by(RUNS) {
                    let mut sums = [[A::ZERO; LANES]; ROWS];
                    let place = (t * slots + slot) * ROWS;
                    if !is_first {
                        sums.copy_from_slice(&saved[place..][..ROWS]);
                    }
                    for item in (slot..items).step_by(slots) {
                        add_products(&mut sums, &rows, item, &x[item * LEN..][..LEN]);
                    }
                    if is_last {
                        for row in 0..ROWS {
                            for lane in 0..LANES {
                                sum_of_run[row][lane] += sums[row][lane].to_f64();
                            }
                        }
                    } else {
                        saved[place..][..ROWS].copy_from_slice(&sums);
                    }
                }
                *of_run = sum_of_run;
            }
            if is_last {
                let [a, b, c, d] = runs;
                for row in 0..ROWS.min(n - u) {
                    for lane in 0..LANES.min(n - v) {
                        let sum = (a[row][lane] + b[row][lane]) + (c[row][lane] + d[row][lane]);
                        gamma[(u + row) * n + v + lane] = A::from_f64(sum).to_f64();
                    }
                }
            }
        }
        (shape.items, shape.is_first) = (0, false);
    }
}

/// Features, and zeros behind them.
#[inline(always)]
fn widened<T: Element, const LEN: usize>(features: &[T]) -> [T::Acc; LEN] {
    let mut wide = [T::Acc::ZERO; LEN];
    if let Some(features) = features.first_chunk::<LEN>() {
        for f in 0..LEN {
            wide[f] = features[f].widen();
        }
    } else {
        for (wide, feature) in wide.iter_mut().zip(features) {
            *wide = feature.widen();
        }
    }
    wide
}

/// Adds the products of an item of these rows of g to the sums of a tile.
#[inline(always)]
fn add_products<A: Accumulator, const LANES: usize, const LEN: usize>(
    sums: &mut [[A; LANES]; ROWS],
    g: &[&[[A; LEN]]; ROWS],
    item: usize,
    x: &[[A; LANES]],
) {
    let mut of_item = [&g[0][item]; ROWS];
    for row in 1..ROWS {
        of_item[row] = &g[row][item];
    }
    for f in 0..LEN {
        for row in 0..ROWS {
            for lane in 0..LANES {
                sums[row][lane] = of_item[row][f].fused_multiply_add(x[f][lane], sums[row][lane]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::slots;

    fn source<T: Element>(rows: &[T], features: usize) -> Source<'_, T> {
        let (row_stride, scale, shifts, shift, skip_zero) = (features, None, None, 0, false);
        Source { rows, row_stride, features, scale, shifts, shift, skip_zero }
    }

    /// The sums of the slots of a chunk, one product at a time, in runs.
    fn in_order<T: Element>(
        rows: &[[Vec<T>; 2]],
        scales: &[T::Acc],
        features: usize,
        slots: usize,
        (u, v): (usize, usize),
    ) -> f64 {
        let len = features_of_slice(size_of::<T>());
        let mut sums = vec![T::Acc::ZERO; slots];
        let mut item = 0;
        for [g, x] in rows {
            let (g, x) = (&g[u * features..][..features], &x[v * features..][..features]);
            for (g, x) in g.chunks(len).zip(x.chunks(len)) {
                for (g, x) in g.iter().zip(x) {
                    let sum = &mut sums[item % slots];
                    *sum = (g.widen() * scales[u]).fused_multiply_add(x.widen(), *sum);
                }
                item += 1;
            }
        }
        let mut runs = [0.0; RUNS];
        sums.iter().enumerate().for_each(|(slot, sum)| runs[slot % RUNS] += sum.to_f64());
        T::Acc::from_f64((runs[0] + runs[1]) + (runs[2] + runs[3])).to_f64()
    }

    /// Of all pairs of vertices, with code for this processor and with portable code.
    fn adds_in_order<T: Element>(narrow: impl Fn(f64) -> T) {
        for (n, features, instances) in [
            (1, 1, 1),
            (3, 5, 7),
            (5, 64, 64),
            (8, 256, 4),
            (9, 33, 5),
            (16, 301, 2),
            (20, 700, 2),
            (32, 90, 3),
            (33, 31, 2),
            (64, 40, 2),
        ] {
            let value = |i: usize| narrow((i * 7919 % 1009) as f64 / 307.0 - 1.6);
            let row = |seed: usize| (0..n * features).map(|i| value(i + seed)).collect::<Vec<T>>();
            let rows: Vec<_> = (0..instances).map(|i| [row(31 * i), row(57 * i + 5)]).collect();
            let scales: Vec<_> = (0..n).map(|u| T::Acc::from_count(1 << (u % 5))).collect();
            let slices = slices(features, size_of::<T>());
            let neighbors = vec![VertexSet::MAX; n];
            // As a chunk of several instances, and as the first instance alone.
            for (rows, slots) in [(&rows[..], most_slots(n)), (&rows[..1], slots(n, slices))] {
                // The tests' chunks may be longer than those of a call.
                let mut room = Room::of_products::<T>(n, features);
                room.slots = padded(n) * padded(n) * most_slots(n);
                let mut gram = Gram::with_room(room).unwrap();
                let chunk = rows.len().min(chunk_len(slices));
                for portable in [false, true] {
                    gram.begin(&neighbors, features, chunk, slots);
                    for [g, x] in rows {
                        let (g, x) = (source(g, features), source(x, features));
                        match portable {
                            true => gram.add_portable(&g, &scales, &x, None),
                            false => gram.add(&g, &scales, &x, Some(&x)),
                        }
                    }
                    let gamma =
                        if portable { gram.finish_portable::<T>(None) } else { gram.finish::<T>(None) };
                    for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
                        let expected = in_order(rows, &scales, features, slots, (u, v));
                        assert_eq!(
                            gamma[u * n + v].to_bits(),
                            expected.to_bits(),
                            "{} {n} {features}",
                            T::NAME
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn slots_and_runs_add_in_order() {
        adds_in_order::<f32>(|x| x as f32);
        adds_in_order::<f64>(|x| x);
        adds_in_order::<half::f16>(half::f16::from_f64);
        adds_in_order::<half::bf16>(half::bf16::from_f64);
    }

    /// What shares no hyperedge may be an infinity, which reaches nothing that does.
    #[test]
    fn tiles_keep_pairs_apart() {
        let (n, features) = (6, 3);
        let mut x = vec![1.0f32; n * features];
        x[5 * features] = f32::INFINITY;
        let neighbors: Vec<VertexSet> = (0..n).map(|u| 1 << u | 1).collect();
        let mut gram = Gram::with_room(Room::of_products::<f32>(n, features)).unwrap();
        gram.begin(&neighbors, features, 1, 1);
        let g = vec![2.0f32; n * features];
        gram.add(&source(&g, features), &[1.0; MOST_VERTICES], &source(&x, features), None);
        let gamma = gram.finish::<f32>(None);
        assert!((0..n).all(|u| gamma[u * n] == 6.0));
        assert!((0..5).all(|u| gamma[u * n + u] == 6.0) && gamma[5 * n + 5] == f64::INFINITY);
    }
}
