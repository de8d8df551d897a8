//! Matrices in the registers of a warp: `mma.sync`, `ldmatrix` and `movmatrix`.
//!
//! Which elements a lane has is in `kernels/tensor_cores.cuh`, for whose helpers this stands in. Here, too, g
//! is lane / 4 and t is lane % 4.
//!
//! An element of C is c + a₀ b₀ + a₁ b₁ + …, in that order, in double, and rounded to `f32` once. A device
//! adds in another way. Of TF32 the last 13 bits do not count.

use half::{bf16, f16};

use super::Running;
use super::access::{Access, READ};
use super::failure::Failure;
use super::lane::Lane;
use crate::interface::FaultKind;

/// What a lane gives to an operation.
pub(super) type Words = [u32; 6];

/// The elements of A and B.
#[derive(Debug, Clone, Copy)]
pub(super) enum Elements {
    Bf16,
    F16,
    Tf32,
}

impl Elements {
    /// As in `shim/bridge.h`.
    pub(super) fn from_number(number: u32) -> Self {
        [Self::Bf16, Self::F16, Self::Tf32][number as usize]
    }

    /// How many of them a word has.
    fn in_word(self) -> usize {
        if matches!(self, Self::Tf32) { 1 } else { 2 }
    }

    fn widen(self, word: u32, place: usize) -> f64 {
        let bits = (word >> (16 * place)) as u16;
        match self {
            Self::Bf16 => bf16::from_bits(bits).into(),
            Self::F16 => f16::from_bits(bits).into(),
            Self::Tf32 => f32::from_bits(word & !0x1fff).into(),
        }
    }
}

/// A lane's fragments of A and B.
pub(super) fn fragments(a: &[u32; 4], b: &[u32; 2]) -> Words {
    [a[0], a[1], a[2], a[3], b[0], b[1]]
}

/// A lane's elements of a matrix.
pub(super) fn elements(word: u32) -> Words {
    [word, 0, 0, 0, 0, 0]
}

/// Adds A B to a lane's fragment of C.
pub(super) fn multiply(elements: Elements, c: &mut [f32; 4], of_lanes: &[Words; 32], lane: u32) {
    let (in_word, g, t) = (elements.in_word(), lane as usize / 4, lane as usize % 4);
    for (i, c) in c.iter_mut().enumerate() {
        let (row, column) = (g + 8 * (i / 2), 2 * t + i % 2);
        // Four words of a row of A, and of a column of B, then four others.
        let products = (0..8).flat_map(|word| {
            let (holder, half) = (word % 4, word / 4);
            let a = of_lanes[row % 8 * 4 + holder][row / 8 + 2 * half];
            let b = of_lanes[column * 4 + holder][4 + half];
            (0..in_word).map(move |place| elements.widen(a, place) * elements.widen(b, place))
        });
        *c = products.fold(f64::from(*c), |sum, product| sum + product) as f32;
    }
}

/// A lane's elements of four matrices, or of their transposes: lanes 8 i to 8 i + 7 gave the rows of matrix
/// i.
pub(super) fn load(of_lanes: &[Words; 32], transposed: bool, lane: u32) -> [u32; 4] {
    [0, 1, 2, 3].map(|matrix| of_matrix(transposed, lane, |row, word| of_lanes[8 * matrix + row][word]))
}

/// A lane's elements of the transpose of a matrix.
pub(super) fn transpose(of_lanes: &[Words; 32], lane: u32) -> u32 {
    of_matrix(true, lane, |row, word| of_lanes[4 * row + word][0])
}

/// A lane's elements of a matrix, or of its transpose; `row` gives a word of a row.
fn of_matrix(transposed: bool, lane: u32, row: impl Fn(usize, usize) -> u32) -> u32 {
    let (g, t) = (lane as usize / 4, lane as usize % 4);
    let element = |r: usize, c: usize| row(r, c / 2) >> (16 * (c % 2)) & 0xffff;
    match transposed {
        false => row(g, t),
        true => element(2 * t, g) | element(2 * t + 1, g) << 16,
    }
}

impl Running<'_> {
    /// The row of a matrix at an address: 16 aligned bytes of shared memory.
    pub(super) fn matrix_row(&self, lane: &Lane, address: usize, pc: usize) -> Result<Words, Box<Failure>> {
        let mistake = if !address.is_multiple_of(16) {
            Some((FaultKind::Misaligned, "no multiple of 16"))
        } else if !self.shared.all.contains(&address) {
            Some((FaultKind::OutOfBounds, "which is no shared memory"))
        } else {
            None
        };
        if let Some((kind, what)) = mistake {
            let what = format!("a row of a matrix at {address:#x}, {what}");
            return Err(Failure::new(kind, lane.index(), self.entry.library.site(pc as *const _), what));
        }
        self.check(lane.index(), Access::new(address, 16, READ, pc))?;
        // SAFETY: aligned shared memory.
        let [a, b, c, d] = unsafe { (address as *const [u32; 4]).read() };
        Ok([a, b, c, d, 0, 0])
    }
}
