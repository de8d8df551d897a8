//! Γ_uv = ⟨g_u, x_v⟩ of a chunk of instances, in the order of [`dense`](crate::dense): of what the gradients
//! of weights are made.
//!
//! An *item* is a slice of an instance; the j-th of a chunk belongs to slot j modulo the slots. Consecutive
//! slots are the lanes of vectors: the features of consecutive items are laid out feature by feature, the
//! first of each item, the second of each, and so on. So products and sums need no shuffles, and a tile of
//! pairs of vertices stays in registers while its items go by.

#![allow(unsafe_code)]

use arrayvec::ArrayVec;

use super::super::gather::Source;
use crate::dense::{chunk_len, features_of_slice, most_slots, slices};
use crate::element::{Accumulator, Element};
use crate::error::{Result, try_zeroed};
use crate::pairs::{MOST_VERTICES, VertexSet};

/// The pairs of vertices of a tile: 8 vectors of sums and 2 of x are in registers, of 16.
const TILE: [usize; 2] = [4, 2];
const TILES: usize = (MOST_VERTICES / TILE[0]) * (MOST_VERTICES / TILE[1]);
const PAIRS_OF_TILE: usize = TILE[0] * TILE[1];

/// The memory of the items of g, and of x, that are under way: both lie in a processor's second cache.
const ITEMS_BYTES: usize = 64 << 10;

/// The bytes of a vector, of an item, and the runs of the slots.
const VECTOR_BYTES: usize = 32;
const SLICE_BYTES: usize = 16;
const RUNS: usize = 4;

/// Vertices in whole tiles, along both sides.
fn padded(n: usize) -> usize {
    n.next_multiple_of(TILE[0])
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
    /// The items of the block that is under way, those of as many as a vector has lanes after those of
    /// others: for each vertex, for each feature of an item a vector.
    g: Box<[A]>,
    x: Box<[A]>,
    /// The sums of the slots, where a chunk has several blocks: for each vector of slots, for each tile those
    /// of its pairs.
    slots: Box<[A]>,
    /// The runs of the slots, for each tile those of its pairs.
    runs: Box<[[f64; RUNS]]>,
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

/// The room that a topology's chunks take.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    elements: usize,
    slots: usize,
    pairs: usize,
    vertices: usize,
}

impl Room {
    /// For topologies of `n` vertices, with features of this type.
    pub(crate) fn new<T: Element>(n: usize, features: usize) -> Self {
        let slices = slices(features, size_of::<T>());
        let items = slices.saturating_mul(chunk_len(n, slices));
        let block = items_of_block(n, items);
        let pairs = padded(n) * padded(n);
        let elements = block * padded(n) * features_of_slice(size_of::<T>());
        let slots =
            if items > block { pairs * most_slots(n).max(VECTOR_BYTES / size_of::<T::Acc>()) } else { 0 };
        Self { elements, slots, pairs, vertices: n }
    }

    /// For both.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            elements: self.elements.max(other.elements),
            slots: self.slots.max(other.slots),
            pairs: self.pairs.max(other.pairs),
            vertices: self.vertices.max(other.vertices),
        }
    }
}

impl<A: Accumulator> Gram<A> {
    pub(crate) fn with_room(room: Room) -> Result<Self> {
        let zeros = |len| try_zeroed("the workspace", len).map(Vec::into_boxed_slice);
        Ok(Self {
            shape: Shape::default(),
            tiles: ArrayVec::new(),
            g: zeros(room.elements)?,
            x: zeros(room.elements)?,
            slots: zeros(room.slots)?,
            runs: try_zeroed("the workspace", room.pairs)?.into_boxed_slice(),
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
        for u in (0..n).step_by(TILE[0]) {
            let wanted = neighbors[u..].iter().take(TILE[0]).fold(0, |all, neighbors| all | neighbors);
            for v in (0..n).step_by(TILE[1]) {
                if wanted >> v & ((1 << TILE[1]) - 1) != 0 {
                    self.tiles.push([u as u8, v as u8]);
                }
            }
        }
        self.runs[..self.tiles.len() * PAIRS_OF_TILE].fill([0.0; RUNS]);
    }

    /// Adds an instance: the rows of g, each times one of `scales`, and those of x.
    pub(crate) fn add<T: Element<Acc = A>>(&mut self, g: &Source<'_, T>, scales: &[A], x: &Source<'_, T>) {
        let len = SLICE_BYTES / size_of::<A>();
        let (features, n) = (self.shape.features, self.shape.n);
        let mut start = 0;
        while start < features {
            if self.shape.items == self.shape.block {
                self.add_block(false);
            }
            let Shape { block, items, .. } = self.shape;
            let end = features.min(start + (block - items) * len);
            for (u, &scale) in scales.iter().enumerate().take(n) {
                self.lay_out(true, u, &g.row(u)[start..end], scale);
                self.lay_out(false, u, &x.row(u)[start..end], A::ONE);
            }
            self.shape.items += (end - start).div_ceil(len);
            start = end;
        }
    }

    /// Ends the chunk: its Γ, rounded to the accumulation type, Γ_uv at u n + v.
    pub(crate) fn finish(&mut self) -> &mut [f64] {
        self.add_block(true);
        self.round()
    }

    /// Γ of `n` vertices that is given, in the place of one that is summed.
    pub(crate) fn given(&mut self, n: usize, entry: impl Fn(usize, usize) -> A) -> &mut [f64] {
        for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
            self.sums[u * n + v] = entry(u, v).to_f64();
        }
        &mut self.sums[..n * n]
    }

    /// Adds the runs.
    fn round(&mut self) -> &mut [f64] {
        let n = self.shape.n;
        for (&[u, v], runs) in self.tiles.iter().zip(self.runs.chunks_exact(PAIRS_OF_TILE)) {
            for (pair, [a, b, c, d]) in runs.iter().enumerate() {
                let (u, v) = (usize::from(u) + pair / TILE[1], usize::from(v) + pair % TILE[1]);
                if u < n && v < n {
                    self.sums[u * n + v] = A::from_f64((a + b) + (c + d)).to_f64();
                }
            }
        }
        &mut self.sums[..n * n]
    }

    /// Lays out the items of a vertex, widened and scaled, behind those that are there.
    fn lay_out<T: Element<Acc = A>>(&mut self, is_g: bool, vertex: usize, row: &[T], scale: A) {
        let to = Place {
            items: if is_g { &mut self.g } else { &mut self.x },
            vertices: padded(self.shape.n),
            vertex,
            first: self.shape.items,
        };
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2<T: Element>(to: Place<'_, T::Acc>, row: &[T], scale: T::Acc) {
                to.lay_out(row, scale);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has both features.
                return unsafe { with_avx2(to, row, scale) };
            }
        }
        to.lay_out(row, scale);
    }

    /// Adds the block that is under way to the sums of the slots; those of the last one to the runs.
    fn add_block(&mut self, is_last: bool) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2<A: Accumulator>(gram: &mut Gram<A>, is_last: bool) {
                gram.add_block_portable(is_last);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has both features.
                return unsafe { with_avx2(self, is_last) };
            }
        }
        self.add_block_portable(is_last);
    }

    /// [`add_block`](Self::add_block) for whatever processor the caller is compiled for; the bits are the
    /// same on all.
    #[inline(always)]
    fn add_block_portable(&mut self, is_last: bool) {
        // Lanes and features of an item that the compiler knows keep the sums in registers.
        match size_of::<A>() {
            4 => self.add_block_of::<8, 4>(is_last),
            _ => self.add_block_of::<4, 2>(is_last),
        }
    }

    #[inline(always)]
    fn add_block_of<const LANES: usize, const LEN: usize>(&mut self, is_last: bool) {
        let Shape { n, slots, items, is_first, .. } = self.shape;
        self.fill_up::<LANES, LEN>();
        let vectors = items.div_ceil(LANES);
        let (round, stride) = (slots.div_ceil(LANES), padded(n) * LEN * LANES);
        for first in 0..round {
            // The vectors of items that these slots have.
            let own = || (first..vectors).step_by(round);
            for (t, &[u, v]) in self.tiles.iter().enumerate() {
                let at = (first * self.tiles.len() + t) * PAIRS_OF_TILE * LANES;
                let mut sums = [[A::ZERO; LANES]; PAIRS_OF_TILE];
                if !is_first {
                    for (sum, slots) in sums.iter_mut().zip(self.slots[at..].chunks_exact(LANES)) {
                        sum.copy_from_slice(slots);
                    }
                }
                for vector in own() {
                    let g = &self.g[vector * stride + usize::from(u) * LEN * LANES..];
                    let x = &self.x[vector * stride + usize::from(v) * LEN * LANES..];
                    add_products::<A, LANES, LEN>(&mut sums, g, x);
                }
                if is_last {
                    let runs = &mut self.runs[t * PAIRS_OF_TILE..][..PAIRS_OF_TILE];
                    for (runs, sums) in runs.iter_mut().zip(&sums) {
                        for slots in sums.chunks_exact(RUNS) {
                            for (run, slot) in runs.iter_mut().zip(slots) {
                                *run += slot.to_f64();
                            }
                        }
                    }
                } else {
                    for (sum, slots) in sums.iter().zip(self.slots[at..].chunks_exact_mut(LANES)) {
                        slots.copy_from_slice(sum);
                    }
                }
            }
        }
        (self.shape.items, self.shape.is_first) = (0, false);
    }

    /// Zeros the rest of the last vector. They add nothing to what are zeros or sums already, which is as if
    /// they were not added: where it makes −0 a 0, the run that it is added to has no −0 either.
    #[inline(always)]
    fn fill_up<const LANES: usize, const LEN: usize>(&mut self) {
        let Shape { n, items, .. } = self.shape;
        let used = items % LANES;
        if used > 0 {
            let stride = padded(n) * LEN * LANES;
            let last = items / LANES * stride..(items / LANES + 1) * stride;
            for plane in [&mut self.g, &mut self.x] {
                for vector in plane[last.clone()].chunks_exact_mut(LANES) {
                    vector[used..].fill(A::ZERO);
                }
            }
        }
    }
}

/// Adds the products of a vector of items to the sums of a tile, whose vertices have their features at the
/// start of `g` and `x`.
#[inline(always)]
fn add_products<A: Accumulator, const LANES: usize, const LEN: usize>(
    sums: &mut [[A; LANES]; PAIRS_OF_TILE],
    g: &[A],
    x: &[A],
) {
    let (g, x) = (&g[..TILE[0] * LEN * LANES], &x[..TILE[1] * LEN * LANES]);
    for f in 0..LEN {
        for (pair, sums) in sums.iter_mut().enumerate() {
            let (u, v) = (pair / TILE[1], pair % TILE[1]);
            let g = &g[(u * LEN + f) * LANES..][..LANES];
            let x = &x[(v * LEN + f) * LANES..][..LANES];
            for lane in 0..LANES {
                sums[lane] = g[lane].fused_multiply_add(x[lane], sums[lane]);
            }
        }
    }
}

/// Where the items of a vertex are laid out.
struct Place<'a, A> {
    items: &'a mut [A],
    /// The vertices that there is room for.
    vertices: usize,
    vertex: usize,
    /// The number of the first item.
    first: usize,
}

impl<A: Accumulator> Place<'_, A> {
    #[inline(always)]
    fn lay_out<T: Element<Acc = A>>(self, row: &[T], scale: A) {
        match size_of::<A>() {
            4 => self.lay_out_of::<T, 8, 4, 32>(row, scale),
            _ => self.lay_out_of::<T, 4, 2, 8>(row, scale),
        }
    }

    /// `ALL` is `LANES` · `LEN`.
    #[inline(always)]
    fn lay_out_of<T: Element<Acc = A>, const LANES: usize, const LEN: usize, const ALL: usize>(
        self,
        row: &[T],
        scale: A,
    ) {
        let Self { items, vertices, vertex, first } = self;
        let (mut item, mut rest) = (first, row);
        while !rest.is_empty() {
            let lane = item % LANES;
            let to = &mut items[(item / LANES * vertices + vertex) * ALL..][..ALL];
            match rest.split_first_chunk::<ALL>() {
                Some((features, others)) if lane == 0 => {
                    // No `map` here: its closure is not always inlined.
                    let mut wide = [A::ZERO; ALL];
                    for i in 0..ALL {
                        wide[i] = features[i].widen() * scale;
                    }
                    for f in 0..LEN {
                        for lane in 0..LANES {
                            to[f * LANES + lane] = wide[lane * LEN + f];
                        }
                    }
                    (item, rest) = (item + LANES, others);
                }
                _ => {
                    let (features, others) = rest.split_at(rest.len().min(LEN));
                    for f in 0..LEN {
                        to[f * LANES + lane] =
                            features.get(f).map_or(A::ZERO, |feature| feature.widen() * scale);
                    }
                    (item, rest) = (item + 1, others);
                }
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
                let mut room = Room::new::<T>(n, features);
                room.slots = padded(n) * padded(n) * most_slots(n).max(8);
                let mut gram = Gram::with_room(room).unwrap();
                let chunk = rows.len().min(chunk_len(n, slices));
                for portable in [false, true] {
                    gram.begin(&neighbors, features, chunk, slots);
                    for [g, x] in rows {
                        gram.add(&source(g, features), &scales, &source(x, features));
                    }
                    if portable {
                        gram.add_block_portable(true);
                        gram.shape.items = 0;
                    }
                    let gamma = if portable { gram.round() } else { gram.finish() };
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
        let mut gram = Gram::with_room(Room::new::<f32>(n, features)).unwrap();
        gram.begin(&neighbors, features, 1, 1);
        let g = vec![2.0f32; n * features];
        gram.add(&source(&g, features), &[1.0; MOST_VERTICES], &source(&x, features));
        let gamma = gram.finish();
        assert!((0..n).all(|u| gamma[u * n] == 6.0));
        assert!((0..5).all(|u| gamma[u * n + u] == 6.0) && gamma[5 * n + 5] == f64::INFINITY);
    }
}
