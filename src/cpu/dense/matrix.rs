//! The product of a small matrix with the rows of an instance, y = M x, in which only the entries that are
//! terms have a part. A GPU has the same bits, see `kernels/dense_conv.cuh` and
//! `kernels/dense_backward.cuh`.

#![allow(unsafe_code)]

use std::ops::Range;

use super::super::gather::{Sink, Source};
use super::super::prefetch::{To, prefetch};
use crate::dense::PART;
use crate::element::{Accumulator, Element};
use crate::error::{Result, try_zeroed};
use crate::pairs::{MOST_VERTICES, VertexSet};
use crate::summation::LANES;
use crate::vectors::vectorized;

/// The entries of up to [`MOST_VERTICES`]² pairs of vertices.
pub(super) struct Matrix<A> {
    pub(super) n: usize,
    /// That of u and v at u n + v; only what `terms` names is read.
    pub(super) entries: Box<[A]>,
    /// For each vertex u the vertices v whose entry is a term of its row: bit v.
    pub(super) terms: [VertexSet; MOST_VERTICES],
}

/// The memory for features that are under way, which half of a processor's nearest cache holds. Rows are read
/// as far as there is room, so that its prefetcher sees long runs.
const WIDE_BYTES: usize = 16 << 10;

/// Room for the features of all vertices that are under way, widened.
pub(super) fn room_for_features<A: Accumulator>(n: usize) -> Result<Box<[A]>> {
    let len = if n == 0 { 0 } else { WIDE_BYTES / size_of::<A>() };
    Ok(try_zeroed("the workspace", len)?.into_boxed_slice())
}

impl<A: Accumulator> Matrix<A> {
    /// Room for matrices of up to `n` vertices.
    pub(super) fn with_room(n: usize) -> Result<Self> {
        let entries = try_zeroed("the workspace", n * n)?.into_boxed_slice();
        Ok(Self { n: 0, entries, terms: [0; MOST_VERTICES] })
    }

    /// Makes this the transpose of another one.
    pub(super) fn transpose(&mut self, other: &Self) {
        let n = other.n;
        self.n = n;
        self.terms = [0; MOST_VERTICES];
        for (u, v) in (0..n).flat_map(|u| (0..n).map(move |v| (u, v))) {
            self.entries[v * n + u] = other.entries[u * n + v];
            self.terms[v] |= (other.terms[u] >> v & 1) << u;
        }
    }

    /// y = M x of one instance, the terms of a row added one after the other: `x` has its rows, each times
    /// one of `scales`, and `y` what becomes of each row. `next` has the rows of the instance that is next,
    /// which are fetched meanwhile. `wide` is [room for features](room_for_features).
    #[inline]
    pub(super) fn apply<T: Element<Acc = A>>(
        &self,
        x: (&Source<'_, T>, &[A]),
        next: Option<&Source<'_, T>>,
        y: &mut [impl Sink<A>],
        wide: &mut [A],
    ) {
        self.apply_detected::<T, 1>(x, next, y, wide);
    }

    /// The same, the terms of a row cut into [parts](crate::dense::parts). Not one function with `apply`:
    /// that would be compiled for every number of parts, for each kind of `y`.
    #[inline]
    pub(super) fn apply_in_parts<T: Element<Acc = A>>(
        &self,
        x: (&Source<'_, T>, &[A]),
        next: Option<&Source<'_, T>>,
        y: &mut [impl Sink<A>],
        wide: &mut [A],
    ) {
        match crate::dense::parts(self.n) {
            1 => self.apply_detected::<T, 1>(x, next, y, wide),
            2 => self.apply_detected::<T, 2>(x, next, y, wide),
            _ => self.apply_detected::<T, 4>(x, next, y, wide),
        }
    }

    /// [`apply`](Self::apply) in `P` parts. Code for AVX2 and FMA is used where the processor has both.
    #[inline]
    fn apply_detected<T: Element<Acc = A>, const P: usize>(
        &self,
        x: (&Source<'_, T>, &[A]),
        next: Option<&Source<'_, T>>,
        y: &mut [impl Sink<A>],
        wide: &mut [A],
    ) {
        vectorized!(
            [T: Element, const P: usize] [T, P]
            (
                matrix: &Matrix<T::Acc> = self,
                x: (&Source<'_, T>, &[T::Acc]) = x,
                next: Option<&Source<'_, T>> = next,
                y: &mut [impl Sink<T::Acc>] = y,
                wide: &mut [T::Acc] = wide,
            )
            { matrix.apply_portable::<T, P>(x, next, y, wide) }
        )
    }

    /// [`apply`](Self::apply) for whatever processor the caller is compiled for; the bits are the same on
    /// all.
    #[inline(always)]
    fn apply_portable<T: Element<Acc = A>, const P: usize>(
        &self,
        (x, scales): (&Source<'_, T>, &[A]),
        next: Option<&Source<'_, T>>,
        y: &mut [impl Sink<A>],
        wide: &mut [A],
    ) {
        let n = self.n;
        if n == 0 {
            return;
        }
        // Rows of as many features as fit, in whole blocks.
        let len = wide.len() / n / LANES * LANES;
        let rows = Rows::<A, P> { matrix: self, len };
        for start in (0..x.features).step_by(len) {
            let features = len.min(x.features - start);
            for (v, wide) in wide.chunks_exact_mut(len).take(n).enumerate() {
                let scale = scales[v];
                y[v].fetch(start, features);
                for (wide, &x) in wide.iter_mut().zip(&x.row(v)[start..][..features]) {
                    *wide = x.widen() * scale;
                }
            }
            // All rows block by block, so that their stores are spread over time; or two at a time.
            let at_once = if y.iter().any(Sink::wants_whole_rows) { 2 } else { n };
            for first in (0..n).step_by(at_once) {
                rows.apply_rows(wide, y, first..n.min(first + at_once), start..start + features, next);
            }
        }
    }
}

/// The sum of `$parts` parts, of four first those that are two apart. No function, which would take a closure
/// for the sums of a part.
macro_rules! add_parts {
    ($parts:expr, $p:ident => $sums:expr) => {{
        let $p = 0;
        let mut sums = $sums;
        if $parts == 2 {
            let $p = 1;
            add(&mut sums, $sums);
        }
        if $parts == 4 {
            let $p = 2;
            add(&mut sums, $sums);
            let $p = 1;
            let mut others = $sums;
            let $p = 3;
            add(&mut others, $sums);
            add(&mut sums, others);
        }
        sums
    }};
}

/// A matrix whose rows are summed in `P` parts, and how many features of each vertex are under way.
struct Rows<'a, A, const P: usize> {
    matrix: &'a Matrix<A>,
    len: usize,
}

impl<A: Accumulator, const P: usize> Rows<'_, A, P> {
    /// The vertices of a part.
    #[inline(always)]
    fn part(&self, p: usize) -> Range<usize> {
        let n = self.matrix.n;
        if P == 1 { 0..n } else { (p * PART).min(n)..((p + 1) * PART).min(n) }
    }

    /// What is under way of some rows, which are the features of `range`. The same of `next` is fetched
    /// meanwhile.
    #[inline(always)]
    fn apply_rows<T: Element<Acc = A>>(
        &self,
        wide: &[A],
        y: &mut [impl Sink<A>],
        rows: Range<usize>,
        range: Range<usize>,
        next: Option<&Source<'_, T>>,
    ) {
        let mut block = 0;
        while block + LANES <= range.len() {
            if let Some(next) = next {
                let fetch = |v| prefetch(&next.row(v)[range.start + block..][..LANES], To::Read);
                rows.clone().for_each(fetch);
            }
            self.apply_block::<LANES>(wide, y, rows.clone(), range.start, block);
            block += LANES;
        }
        while block + 8 <= range.len() {
            self.apply_block::<8>(wide, y, rows.clone(), range.start, block);
            block += 8;
        }
        while block < range.len() {
            self.apply_block::<1>(wide, y, rows.clone(), range.start, block);
            block += 1;
        }
    }

    /// `W` features of some rows, those from `block` on of what is under way, which is from `start` on.
    #[inline(always)]
    fn apply_block<const W: usize>(
        &self,
        wide: &[A],
        y: &mut [impl Sink<A>],
        rows: Range<usize>,
        start: usize,
        block: usize,
    ) {
        let Matrix { n, terms, .. } = self.matrix;
        let all = VertexSet::MAX.checked_shr(VertexSet::BITS - *n as u32).unwrap_or(0);
        let mut u = rows.start;
        while u < rows.end {
            // Two rows that have all terms share the loads of x.
            if u + 1 < rows.end && terms[u] == all && terms[u + 1] == all {
                let [a, b] = self.pair_of_rows::<W>(wide, block, u);
                y[u].apply_array(start + block, &a);
                y[u + 1].apply_array(start + block, &b);
                u += 2;
                continue;
            }
            y[u].apply_array(start + block, &self.row::<W>(wide, block, u)[0]);
            u += 1;
        }
    }

    /// The sums of two rows that have all terms.
    #[inline(always)]
    fn pair_of_rows<const W: usize>(&self, wide: &[A], block: usize, u: usize) -> [[A; W]; 2] {
        add_parts!(P, p => self.pair_of_sums(wide, block, u, p))
    }

    /// The same of one row.
    #[inline(always)]
    fn row<const W: usize>(&self, wide: &[A], block: usize, u: usize) -> [[A; W]; 1] {
        add_parts!(P, p => self.sums(wide, block, u, p))
    }

    // The compiler keeps sums in registers where it inlines all of a loop: so there are neither closures nor
    // iterators of arrays here.

    /// A part of the sums of two rows that have all terms.
    #[inline(always)]
    fn pair_of_sums<const W: usize>(&self, wide: &[A], block: usize, u: usize, p: usize) -> [[A; W]; 2] {
        let Matrix { n, ref entries, .. } = *self.matrix;
        let part = self.part(p);
        let (a, b) = (&entries[u * n..][part.clone()], &entries[(u + 1) * n..][part.clone()]);
        let x = wide[part.start * self.len..part.end * self.len].chunks_exact(self.len);
        let mut sums = [[A::ZERO; W]; 2];
        for ((x, &a), &b) in x.zip(a).zip(b) {
            let x = &x[block..][..W];
            for i in 0..W {
                sums[0][i] = a.fused_multiply_add(x[i], sums[0][i]);
                sums[1][i] = b.fused_multiply_add(x[i], sums[1][i]);
            }
        }
        sums
    }

    /// A part of the sums of a row.
    #[inline(always)]
    fn sums<const W: usize>(&self, wide: &[A], block: usize, u: usize, p: usize) -> [[A; W]; 1] {
        let Matrix { n, ref entries, terms } = *self.matrix;
        let row = &entries[u * n..][..n];
        let mut sums = [[A::ZERO; W]];
        for v in self.part(p) {
            if terms[u] >> v & 1 == 1 {
                let (x, entry) = (&wide[v * self.len + block..][..W], row[v]);
                for i in 0..W {
                    sums[0][i] = entry.fused_multiply_add(x[i], sums[0][i]);
                }
            }
        }
        sums
    }
}

#[inline(always)]
fn add<A: Accumulator, const W: usize, const R: usize>(sums: &mut [[A; W]; R], others: [[A; W]; R]) {
    for r in 0..R {
        for i in 0..W {
            sums[r][i] += others[r][i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::gather::Store;
    use super::super::super::streams::Streams;
    use super::*;

    /// The terms of a row of sums one by one, in the order of the parts.
    fn in_order<A: Accumulator>(matrix: &Matrix<A>, in_parts: bool, u: usize, x: impl Fn(usize) -> A) -> A {
        let mut parts = [A::ZERO; MOST_VERTICES / 8];
        for v in (0..matrix.n).filter(|v| matrix.terms[u] >> v & 1 == 1) {
            let part = &mut parts[if in_parts && matrix.n > 8 { v / 8 } else { 0 }];
            *part = matrix.entries[u * matrix.n + v].fused_multiply_add(x(v), *part);
        }
        (parts[0] + parts[2]) + (parts[1] + parts[3])
    }

    fn adds_in_order<T: Element>(narrow: impl Fn(f64) -> T) {
        for (n, features) in
            [(1, 3), (6, 43), (8, 64), (11, 77), (16, 32), (17, 9), (31, 200), (33, 5), (64, 70)]
        {
            let value = |i: usize| (i * 7919 % 1009) as f64 / 307.0 - 1.6;
            let mut matrix = Matrix::with_room(n).unwrap();
            matrix.n = n;
            matrix.entries.iter_mut().enumerate().for_each(|(i, entry)| *entry = T::Acc::from_f64(value(i)));
            // Full rows, which may share loads, and others.
            let rows = matrix.terms.iter_mut().enumerate();
            let bits = |u: usize| if u % 5 < 3 { VertexSet::MAX } else { 0x93c6_a15f_5a71_39d6 };
            rows.for_each(|(u, terms)| *terms = (bits(u) << (64 - n)) >> (64 - n));
            let mut transposed = Matrix::with_room(n).unwrap();
            transposed.transpose(&matrix);
            let x: Vec<T> = (0..n * features).map(|i| narrow(value(i + 77))).collect();
            let scales: Vec<T::Acc> = (0..n).map(|v| T::Acc::from_count(1 << (v % 4))).collect();
            let (row_stride, scale, shifts, shift, skip_zero) = (features, None, None, 0, false);
            let x = Source { rows: &x, row_stride, features, scale, shifts, shift, skip_zero };
            let mut wide = room_for_features(n).unwrap();
            for (matrix, in_parts) in [(&matrix, false), (&transposed, true)] {
                let mut y = [vec![T::default(); n * features], vec![T::default(); n * features]];
                for (y, portable) in y.iter_mut().zip([false, true]) {
                    // Once block by block, and once row after row.
                    let streams = Streams::new(portable);
                    let store = |row| streams.store(Store { row, scale: T::Acc::ONE, accumulate: false });
                    let mut rows: Vec<_> = y.chunks_mut(features).map(store).collect();
                    let x = (&x, &scales[..]);
                    match (portable, in_parts, crate::dense::parts(n)) {
                        (false, false, _) => matrix.apply(x, Some(x.0), &mut rows, &mut wide),
                        (false, true, _) => matrix.apply_in_parts(x, Some(x.0), &mut rows, &mut wide),
                        (_, false, _) | (_, _, 1) => {
                            matrix.apply_portable::<T, 1>(x, None, &mut rows, &mut wide);
                        }
                        (_, _, 2) => matrix.apply_portable::<T, 2>(x, None, &mut rows, &mut wide),
                        _ => matrix.apply_portable::<T, 4>(x, None, &mut rows, &mut wide),
                    }
                }
                for (u, f) in (0..n).flat_map(|u| (0..features).map(move |f| (u, f))) {
                    let sum = in_order(matrix, in_parts, u, |v| x.row(v)[f].widen() * scales[v]);
                    let expected = T::narrow(sum).widen().to_f64();
                    let sums = y.each_ref().map(|y| y[u * features + f].widen().to_f64());
                    assert_eq!(sums, [expected; 2], "{} {n} {features}", T::NAME);
                }
            }
        }
    }

    #[test]
    fn parts_add_in_order_with_any_code() {
        adds_in_order::<f32>(|x| x as f32);
        adds_in_order::<f64>(|x| x);
        adds_in_order::<half::bf16>(half::bf16::from_f64);
    }
}
