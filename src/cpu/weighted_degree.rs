//! D_v, of the weights of one instance or of several.

use super::gather::sum;
use super::lanes::Lanes;
use crate::conv::Conv;
use crate::element::Accumulator;

/// D of a vertex with these hyperedges: the sum of their weights, or their number.
#[inline(always)]
pub(super) fn degree<A: Accumulator, const L: usize>(
    conv: Conv,
    hyperedges: &[u32],
    weights: impl Fn(usize) -> [A; L],
) -> Lanes<A, L> {
    match conv.weight_use.in_degree() {
        true => sum(hyperedges, |e| Lanes(weights(e))),
        false => Lanes::splat(A::from_count(hyperedges.len())),
    }
}
