//! Scratch memory: what one kernel of a call leaves for the next. Nothing in it outlives a call. A workspace
//! owns it, or is lent it (see `lent`).

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::buffer::Buffer;
use crate::error::{Error, Result};

/// Defines the slots, and the list of all.
macro_rules! slots {
    ($($(#[doc = $doc:literal])* $slot:ident,)*) => {
        /// What a piece of scratch memory is for. Rows and numbers are those of all instances of a call;
        /// "sums" are of the accumulation type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Slot {
            $($(#[doc = $doc])* $slot,)*
        }

        impl Slot {
            pub(super) const COUNT: usize = Self::ALL.len();
            pub(super) const ALL: &[Self] = &[$(Self::$slot),*];
        }
    };
}

slots! {
    /// For each segment of a long row its sums, or one number of 8 bytes.
    Partials,
    /// Rows of sums of hyperedges: z of the forward, and q = Hᵀ L g of the backward.
    Q,
    /// Rows of sums of hyperedges: z of the backward.
    Z,
    /// For each vertex: D, of the accumulation type.
    Degree,
    /// For each vertex: L, of the accumulation type.
    InvDegree,
    /// The same as the gradients of weights see it: 0 for a vertex of a single incidence.
    WeightInvDegree,
    /// For each vertex its shift, `i32`.
    VertexShifts,
    /// For each hyperedge its shift, `i32`.
    EdgeShifts,
    /// For each row the factor that its gradient is passed on with, of the accumulation type.
    RowScale,
    /// For each row and block of features a dot product, `f64`: of hyperedges, or of the targets of a step's
    /// gradient.
    Dots,
    /// The same of vertices: the gradient of y with the sums that y is made of.
    DotsY,
    /// The same of vertices: x with the sums that ∂x is made of.
    DotsX,
    /// For each vertex the gradient of its degree, `f64`.
    DegreeGradient,
    /// For each hyperedge the gradient of its weight in its own instance, `f64`.
    WeightGradient,
    /// The sums of chunks of instances, in the rows of their first instances; of the accumulation type.
    ChunkSums,
    /// Dense operators, one for each topology or for each instance: entries, of the accumulation type.
    Operators,
    /// The same: which entries are terms, and shifts; `u32`.
    OperatorWords,
    /// With checks the instances of a launch, as they were found: `DenseItem` of `kernels/dense.cuh`.
    Items,
    /// ⟨g_u, x_v⟩ of the vertices of each instance, or of a chunk of instances, of the accumulation type.
    Products,
    /// Sums of those over chunks, `f64`.
    ProductSums,
    /// Rows of elements of vertices: gradients of the sums that an epilogue is given, or rows that a readout
    /// is the mean of.
    Rows,
    /// Sums of rows over some vertices, of the accumulation type or `f64`.
    VertexSums,
    /// Sums of those over instances, `f64`.
    BiasSums,
    /// The parts of the gradient of a layer's matrix, `f32`.
    ThetaParts,
}

impl Slot {
    /// What kernels that take the rows of all instances read. Of instances on another path than that of the
    /// gathers nobody writes it, and nobody uses what is made of it.
    pub(super) const READ_FOR_ALL: &[Self] = &[
        Self::Degree,
        Self::InvDegree,
        Self::WeightInvDegree,
        Self::VertexShifts,
        Self::EdgeShifts,
        Self::DotsY,
        Self::DotsX,
    ];

    /// Its name in errors.
    fn what(self) -> &'static str {
        match self {
            Self::Partials => "the sums of the segments of long rows",
            Self::Q | Self::Z => "the sums of hyperedges",
            Self::Dots | Self::DotsY | Self::DotsX => "the dot products",
            Self::Operators | Self::OperatorWords => "the dense operators",
            Self::Items => "the instances of dense operators",
            Self::Products | Self::ProductSums => "the products of rows",
            Self::Rows => "the rows of an epilogue",
            Self::ThetaParts => "the parts of a layer's gradient",
            Self::VertexSums | Self::BiasSums => "the sums of an epilogue's rows",
            _ => "the numbers of vertices and hyperedges",
        }
    }
}

/// The bytes that each slot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sizes([u128; Slot::COUNT]);

impl Sizes {
    /// Makes room for `bytes` bytes in a slot.
    pub(super) fn need(&mut self, slot: Slot, bytes: u128) {
        let size = &mut self.0[slot as usize];
        *size = bytes.max(*size);
    }

    /// The bytes of a slot.
    pub(super) fn of(&self, slot: Slot) -> u128 {
        self.0[slot as usize]
    }

    /// All together, in bytes.
    pub(super) fn bytes(&self) -> u128 {
        self.0.iter().sum()
    }
}

/// The scratch memory of a workspace.
pub(super) struct Scratch([Buffer<u8>; Slot::COUNT]);

impl Scratch {
    /// If instances are on several paths, what is read for all of them starts as zeros. The context of
    /// `stream` must be current.
    pub(super) fn new(sizes: &Sizes, stream: &Arc<CudaStream>, has_several_paths: bool) -> Result<Self> {
        let mut buffers = [const { None }; Slot::COUNT];
        for &slot in Slot::ALL {
            let (what, value) = (slot.what(), sizes.0[slot as usize]);
            let too_large = |_| Error::TooLarge { what, value, bound: usize::MAX as u128 };
            let bytes = usize::try_from(value).map_err(too_large)?;
            let buffer = Buffer::new(what, stream, bytes)?;
            if has_several_paths && Slot::READ_FOR_ALL.contains(&slot) {
                buffer.zero()?;
            }
            buffers[slot as usize] = Some(buffer);
        }
        Ok(Self(buffers.map(|buffer| buffer.expect("one was made for each slot"))))
    }

    /// Where `bytes` bytes for a slot are; `None` if the slot has fewer.
    #[inline]
    pub(super) fn get(&self, slot: Slot, bytes: u128) -> Option<u64> {
        let buffer = &self.0[slot as usize];
        (bytes <= buffer.len() as u128).then(|| buffer.address())
    }
}
