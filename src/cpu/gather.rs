//! The one loop that both steps and all gradients are made of: gather rows by index, scale them, sum them up.
//!
//! The order of summation is fixed, and one that a warp of a GPU can follow. A row of sums adds its
//! incidences in their order, one fused multiply-add each. A scalar sum adds its incidences in [`LANES`]
//! interleaved lanes, which are then added in halves. Both do that for segments of [`SEGMENT`] incidences,
//! counted from the row's start, and add the segments' sums in order. A dot product adds blocks of features
//! in order, each in lanes of as many consecutive features as 16 bytes hold, see [`Dot`]. None of this
//! depends on threads, processor, strides or batch.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::AddAssign;

use super::prefetch::{To, prefetch};
use crate::element::{Accumulator, Element};
use crate::summation::{LANES, SEGMENT, VECTOR_BYTES};
use crate::vectors::vectorized;

/// Rows to gather from. Row `i` is `rows[i * row_stride ..][.. features]`, times
/// `scale[i] · 2^(shifts[i] + shift)`.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, S: Element> {
    pub(super) rows: &'a [S],
    pub(super) row_stride: usize,
    pub(super) features: usize,
    /// `None` for a scale of 1.
    pub(super) scale: Option<&'a [S::Acc]>,
    /// `None` for zeros.
    pub(super) shifts: Option<&'a [i32]>,
    pub(super) shift: i32,
    /// Whether rows with a scale of 0 are left out instead of multiplied, so that infinities and NaN stay in
    /// rows that have no part in the sum.
    pub(super) skip_zero: bool,
}

impl<'a, S: Element> Source<'a, S> {
    pub(super) fn row(&self, i: usize) -> &'a [S] {
        &self.rows[i * self.row_stride..][..self.features]
    }

    /// The same rows, times other scales.
    pub(super) fn scaled(self, scale: Option<&'a [S::Acc]>) -> Self {
        Self { scale, ..self }
    }

    /// The same rows, times `2^(shifts[i] + shift)`.
    pub(super) fn shifted(self, shifts: Option<&'a [i32]>, shift: i32) -> Self {
        Self { shifts, shift, ..self }
    }

    /// Row `i` of what an incidence adds, and its factor; `None` if it is left out.
    #[inline(always)]
    fn term(&self, i: u32) -> Option<(u32, S::Acc)> {
        let scale = self.scale.map_or(S::Acc::ONE, |scale| scale[i as usize]);
        if self.skip_zero && scale == S::Acc::ZERO {
            return None;
        }
        let shift = self.shift + self.shifts.map_or(0, |shifts| shifts[i as usize]);
        Some((i, if shift == 0 { scale } else { scale.times_power_of_two(shift) }))
    }
}

/// The terms of a segment: rows and their factors. They are formed once for all blocks of features.
struct Terms<A> {
    terms: [MaybeUninit<(u32, A)>; SEGMENT],
    len: usize,
}

impl<A: Accumulator> Terms<A> {
    #[inline(always)]
    fn new() -> Self {
        Self { terms: [const { MaybeUninit::uninit() }; SEGMENT], len: 0 }
    }

    /// Those of up to [`SEGMENT`] incidences.
    #[inline(always)]
    fn of<S: Element<Acc = A>>(&mut self, source: &Source<'_, S>, segment: &[u32]) -> &[(u32, A)] {
        self.len = 0;
        for term in segment.iter().filter_map(|&i| source.term(i)) {
            self.terms[self.len].write(term);
            self.len += 1;
        }
        self.last()
    }

    /// Those that were formed last.
    #[inline(always)]
    fn last(&self) -> &[(u32, A)] {
        // SAFETY: so many have been written.
        unsafe { self.terms[..self.len].assume_init_ref() }
    }
}

/// What becomes of a row of sums, which comes in blocks of consecutive features.
pub(super) trait Sink<A> {
    /// Deals with the sums of the features from `start` on.
    fn apply(&mut self, start: usize, sums: &[A]);

    /// The same of sums that are in registers.
    #[inline(always)]
    fn apply_array<const W: usize>(&mut self, start: usize, sums: &[A; W]) {
        self.apply(start, sums);
    }

    /// Has the processor bring nearer where so many features from `start` on will be stored.
    #[inline(always)]
    fn fetch(&self, _start: usize, _len: usize) {}

    /// Whether all blocks of a row should come before those of others.
    #[inline(always)]
    fn wants_whole_rows(&self) -> bool {
        false
    }
}

impl<A, S: Sink<A>> Sink<A> for Option<S> {
    #[inline(always)]
    fn apply(&mut self, start: usize, sums: &[A]) {
        if let Some(sink) = self {
            sink.apply(start, sums);
        }
    }
}

impl<A, S: Sink<A>, R: Sink<A>> Sink<A> for (S, R) {
    #[inline(always)]
    fn apply(&mut self, start: usize, sums: &[A]) {
        self.0.apply(start, sums);
        self.1.apply(start, sums);
    }
}

/// Stores the scaled sums in a row, or adds them to it.
pub(super) struct Store<'a, T: Element> {
    pub(super) row: &'a mut [T],
    pub(super) scale: T::Acc,
    pub(super) accumulate: bool,
}

impl<T: Element> Sink<T::Acc> for Store<'_, T> {
    #[inline(always)]
    fn apply(&mut self, start: usize, sums: &[T::Acc]) {
        let row = &mut self.row[start..start + sums.len()];
        // Two loops: with a choice in one, the compiler stores element by element.
        if self.accumulate {
            for (place, &sum) in row.iter_mut().zip(sums) {
                *place = T::narrow(place.widen() + sum * self.scale);
            }
        } else {
            for (place, &sum) in row.iter_mut().zip(sums) {
                *place = T::narrow(sum * self.scale);
            }
        }
    }

    #[inline(always)]
    fn apply_array<const W: usize>(&mut self, start: usize, sums: &[T::Acc; W]) {
        let mut values = *sums;
        for value in &mut values {
            *value = *value * self.scale;
        }
        store_array(&mut self.row[start..][..W], self.accumulate, values);
    }

    #[inline(always)]
    fn fetch(&self, start: usize, len: usize) {
        prefetch(&self.row[start..][..len], To::Write);
    }
}

/// Rounds values and stores them in a row, or adds them to it. As arrays: the compiler stores slices of sums
/// that are in registers element by element. Without closures, which it does not always inline.
#[inline(always)]
pub(super) fn store_array<T: Element, const W: usize>(
    row: &mut [T],
    accumulate: bool,
    mut values: [T::Acc; W],
) {
    if accumulate {
        for i in 0..W {
            values[i] = row[i].widen() + values[i];
        }
    }
    let mut narrowed = [T::default(); W];
    for i in 0..W {
        narrowed[i] = T::narrow(values[i]);
    }
    row.copy_from_slice(&narrowed);
}

/// The dot product of the sums, times a factor, with a row, in `f64`: the products of `f32` are exact in it.
/// Gradients of weights are differences of such products that mostly cancel out, where the rounding errors of
/// `f32` sums would be what is left.
///
/// The order is that of a warp whose lanes hold 16 bytes of a row of `T`, the plan's type, each, whatever the
/// type `S` of the row here: in blocks of [`LANES`] × `LEN` features, lane `l` adds the products of features
/// `l · LEN ..` one by one, the lanes are added in halves, and the blocks in order.
pub(super) struct Dot<'a, T, S: Element> {
    with: &'a [S],
    factor: S::Acc,
    lanes: [f64; LANES],
    /// The sum of the blocks that are complete.
    total: f64,
    plan: PhantomData<T>,
}

impl<'a, T: Element, S: Element> Dot<'a, T, S> {
    /// The features of a lane in a block.
    const LEN: usize = VECTOR_BYTES / size_of::<T>();
    const BLOCK: usize = LANES * Self::LEN;

    pub(super) fn new(with: &'a [S], factor: S::Acc) -> Self {
        Self { with, factor, lanes: [0.0; LANES], total: 0.0, plan: PhantomData }
    }

    pub(super) fn value(mut self) -> f64 {
        let rest = self.with.len() % Self::BLOCK;
        self.end_block(if rest == 0 { Self::BLOCK } else { rest });
        self.total
    }

    /// Adds the lanes of a block of `len` features to the total.
    #[inline(always)]
    fn end_block(&mut self, len: usize) {
        self.total += add_lanes(self.lanes, len.div_ceil(Self::LEN));
        self.lanes = [0.0; LANES];
    }
}

impl<T: Element, S: Element> Sink<S::Acc> for Dot<'_, T, S> {
    #[inline(always)]
    fn apply(&mut self, start: usize, sums: &[S::Acc]) {
        let place = start % Self::BLOCK;
        if place == 0 && start > 0 {
            self.end_block(Self::BLOCK);
        }
        let with = &self.with[start..start + sums.len()];
        // A row comes in at most `LANES` features at a time, which never reach into the next block.
        let mut products = [0.0; LANES];
        for ((product, &sum), &other) in products.iter_mut().zip(sums).zip(with) {
            *product = other.widen().to_f64() * (sum * self.factor).to_f64();
        }
        let products = &products[..sums.len()];
        let lanes = &mut self.lanes[place / Self::LEN..];
        for (lane, products) in lanes.iter_mut().zip(products.chunks(Self::LEN)) {
            for product in products {
                *lane += product;
            }
        }
    }
}

/// What a sum of one number for each incidence adds: numbers, or those of several instances.
pub(super) trait Summand: Copy + AddAssign {
    /// Where a sum starts.
    const START: Self;
}

impl<A: Accumulator> Summand for A {
    const START: Self = A::ZERO;
}

/// The sum of `value(i)` over `indices`.
#[inline(always)]
pub(super) fn sum<S: Summand>(indices: &[u32], value: impl Fn(usize) -> S) -> S {
    let mut total = S::START;
    for segment in indices.chunks(SEGMENT) {
        let mut lanes = [S::START; LANES];
        for row in segment.chunks(LANES) {
            for (lane, &i) in lanes.iter_mut().zip(row) {
                *lane += value(i as usize);
            }
        }
        total += add_lanes(lanes, segment.len());
    }
    total
}

/// The sum of all lanes, in halves. Lanes from `used` on must be zeros: adding those changes nothing, so it
/// is left out.
#[inline(always)]
fn add_lanes<S: Summand>(mut lanes: [S; LANES], used: usize) -> S {
    let mut half = used.next_power_of_two().min(LANES) / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Puts Σ scale(i) · row(i) over `indices` into `sink`. All of `indices` must be rows of the source.
#[inline]
pub(super) fn gather<S: Element>(source: Source<'_, S>, indices: &[u32], sink: &mut impl Sink<S::Acc>) {
    vectorized!(
        [S: Element] [S]
        (source: Source<'_, S> = source, indices: &[u32] = indices, sink: &mut impl Sink<S::Acc> = sink)
        { gather_portable(source, indices, sink) }
    )
}

/// [`gather`] for whatever processor the caller is compiled for; the bits are the same on all.
#[inline(always)]
fn gather_portable<S: Element>(source: Source<'_, S>, indices: &[u32], sink: &mut impl Sink<S::Acc>) {
    let mut terms = Terms::new();
    if indices.len() <= SEGMENT {
        terms.of(&source, indices);
    }
    let mut start = 0;
    // As many features as fill four AVX2 registers of `f32` or eight of `f64`: half of the sixteen are left
    // for what is loaded.
    while start + LANES <= source.features {
        sink.apply(start, &sum_block::<S, LANES>(&source, indices, &mut terms, start));
        start += LANES;
    }
    while start + 8 <= source.features {
        sink.apply(start, &sum_block::<S, 8>(&source, indices, &mut terms, start));
        start += 8;
    }
    while start < source.features {
        sink.apply(start, &sum_block::<S, 1>(&source, indices, &mut terms, start));
        start += 1;
    }
}

/// The sums of the `W` features from `start` on. The terms of a single segment have been formed.
#[inline(always)]
fn sum_block<S: Element, const W: usize>(
    source: &Source<'_, S>,
    indices: &[u32],
    terms: &mut Terms<S::Acc>,
    start: usize,
) -> [S::Acc; W] {
    if indices.len() <= SEGMENT {
        return sum_terms(source, terms.last(), start);
    }
    let mut total = [S::Acc::ZERO; W];
    for segment in indices.chunks(SEGMENT) {
        let sums: [_; W] = sum_terms(source, terms.of(source, segment), start);
        for (total, sum) in total.iter_mut().zip(sums) {
            *total += sum;
        }
    }
    total
}

#[inline(always)]
fn sum_terms<S: Element, const W: usize>(
    source: &Source<'_, S>,
    terms: &[(u32, S::Acc)],
    start: usize,
) -> [S::Acc; W] {
    let mut sums = [S::Acc::ZERO; W];
    for &(i, factor) in terms {
        let row = &source.rows[i as usize * source.row_stride + start..][..W];
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum = factor.fused_multiply_add(x.widen(), *sum);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// Contiguous rows.
    fn source<'a, S: Element>(
        rows: &'a [S],
        features: usize,
        scale: Option<&'a [S::Acc]>,
        skip_zero: bool,
    ) -> Source<'a, S> {
        Source { rows, row_stride: features, features, scale, shifts: None, shift: 0, skip_zero }
    }

    fn bits_agree<S: Element>(narrow: impl Fn(f64) -> S) {
        let (rows, features) = (600, 43);
        let data: Vec<S> =
            (0..rows * features).map(|i| narrow(((i * 7919) % 1000) as f64 / 400.0 - 1.2)).collect();
        let scale: Vec<S::Acc> =
            (0..rows).map(|i| S::Acc::from_count(i % 5) / S::Acc::from_count(1 + i % 7)).collect();
        // Two segments, out of order, with repeats.
        let indices: Vec<u32> = (0..1100).map(|i| (i * 389 % rows) as u32).collect();
        for skip_zero in [false, true] {
            let source = source(&data, features, Some(&scale), skip_zero);
            let mut sums = [vec![S::Acc::ZERO; features], vec![S::Acc::ZERO; features]];
            let [detected, portable] = &mut sums;
            gather(source, &indices, &mut Store { row: detected, scale: S::Acc::ONE, accumulate: false });
            gather_portable(
                source,
                &indices,
                &mut Store { row: portable, scale: S::Acc::ONE, accumulate: false },
            );
            assert_eq!(sums[0], sums[1], "{}", S::NAME);
            assert!(sums[0].iter().any(|&s| s != S::Acc::ZERO));
        }
    }

    #[test]
    fn without_hardware_fma_the_bits_are_the_same() {
        bits_agree(|x| x as f32);
        bits_agree(|x| x);
        bits_agree(f16::from_f64);
    }

    #[test]
    fn lanes_sum_everything_once() {
        for len in [0usize, 1, 2, 3, 31, 32, 33, 64, 1000] {
            let indices: Vec<u32> = (0..len as u32).collect();
            assert_eq!(sum(&indices, |i| i as f64), (len * len.saturating_sub(1) / 2) as f64, "{len}");
            let row: Vec<f64> = (0..len).map(|i| i as f64).collect();
            let ones = vec![1.0; len];
            let mut dot = Dot::<f64, _>::new(&row, 1.0);
            let source = source(&ones, len, None, false);
            gather(source, &[0], &mut dot);
            assert_eq!(dot.value(), (len * len.saturating_sub(1) / 2) as f64, "{len}");
        }
    }

    /// The dot product of `row` with `factor` times `sums`, one product at a time.
    fn dot_in_order<T: Element, S: Element>(row: &[S], sums: &[S::Acc], factor: S::Acc) -> f64 {
        let len = 16 / size_of::<T>();
        let mut total = 0.0;
        for (row, sums) in row.chunks(32 * len).zip(sums.chunks(32 * len)) {
            let mut lanes = [0.0; 32];
            for f in 0..row.len() {
                lanes[f / len] += row[f].widen().to_f64() * (sums[f] * factor).to_f64();
            }
            for half in [16, 8, 4, 2, 1] {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                }
            }
            total += lanes[0];
        }
        total
    }

    fn dots_add_in_order<T: Element, S: Element>(narrow: impl Fn(f64) -> S) {
        let values = |seed: usize, len| -> Vec<S> {
            (0..len).map(|i| narrow(((i + seed) * 7919 % 1009) as f64 / 307.0 - 1.6)).collect()
        };
        let factor = S::Acc::ONE / S::Acc::from_count(3);
        for features in (1..70).chain([127, 128, 129, 256, 257, 300, 520]) {
            let (with, rows) = (values(1, features), values(500, 2 * features));
            let scale = [S::Acc::ONE / S::Acc::from_count(7), S::Acc::ONE];
            let source = source(&rows, features, Some(&scale), false);
            let mut sums = vec![S::Acc::ZERO; features];
            gather(source, &[1, 0], &mut Store { row: &mut sums[..], scale: S::Acc::ONE, accumulate: false });
            let mut dot = Dot::<T, S>::new(&with, factor);
            gather(source, &[1, 0], &mut dot);
            let expected = dot_in_order::<T, S>(&with, &sums, factor);
            assert_eq!(dot.value().to_bits(), expected.to_bits(), "{} and {}: {features}", T::NAME, S::NAME);
        }
    }

    /// As `f64`, before rounding to `f32` hides most of the order.
    #[test]
    fn dot_products_add_in_the_order_of_a_warp() {
        dots_add_in_order::<f64, f64>(|x| x);
        dots_add_in_order::<f32, f32>(|x| x as f32);
        dots_add_in_order::<f16, f16>(f16::from_f64);
        dots_add_in_order::<f16, f32>(|x| x as f32);
    }

    #[test]
    fn scalar_sums_add_in_segments_and_lanes() {
        let values: Vec<f64> = (0..2000).map(|i| 1.0 / (1.0 + (i * 7919 % 1009) as f64)).collect();
        for len in [1, 31, 32, 33, 511, 512, 513, 1024, 2000] {
            let mut expected = 0.0;
            for segment in values[..len].chunks(512) {
                let mut lanes = [0.0; 32];
                segment.iter().enumerate().for_each(|(i, value)| lanes[i % 32] += value);
                for half in [16, 8, 4, 2, 1] {
                    (0..half).for_each(|i| lanes[i] += lanes[i + half]);
                }
                expected += lanes[0];
            }
            let indices: Vec<u32> = (0..len as u32).collect();
            assert_eq!(sum(&indices, |i| values[i]).to_bits(), expected.to_bits(), "{len}");
        }
    }
}
