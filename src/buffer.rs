//! What may be handed over as the buffer of an operand.

use std::sync::Arc;

/// What [`Rows`](crate::Rows) and [`Weights`](crate::Weights) are made of.
///
/// | backend | a buffer is | operators take |
/// |---|---|---|
/// | CPU | a reference to a slice, an array, a `Vec`, a boxed slice or an `Arc<[T]>` | `&[T]` or `&mut [T]` |
/// | CUDA | a reference to a `CudaSlice`, or a view or a reference to one | `CudaView` or `CudaViewMut` |
/// | CUDA, raw tier | a `DevicePointer` | the same |
///
/// A view that is passed by value is used up; `&view` and `&mut view` leave it for the next call.
///
/// This trait is sealed.
pub trait Buffer: sealed::Sealed {
    /// The buffer that the operators take.
    type View;

    /// The buffer as an operator takes it.
    fn view(self) -> Self::View;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

// One for each type: for whatever derefs to a slice, the element type would not be known.

macro_rules! slices {
    ($($from:ty => $to:ty $(, $n:ident)?;)*) => {$(
        impl<'a, T $(, const $n: usize)?> sealed::Sealed for $from {}
        impl<'a, T $(, const $n: usize)?> Buffer for $from {
            type View = $to;

            #[inline]
            fn view(self) -> $to {
                self
            }
        }
    )*};
}
slices! {
    &'a [T] => &'a [T];
    &'a [T; N] => &'a [T], N;
    &'a Vec<T> => &'a [T];
    &'a Box<[T]> => &'a [T];
    &'a Arc<[T]> => &'a [T];
    &'a &[T] => &'a [T];
    &'a &Vec<T> => &'a [T];
    &'a &mut [T] => &'a [T];
    &'a &mut Vec<T> => &'a [T];
    &'a mut [T] => &'a mut [T];
    &'a mut [T; N] => &'a mut [T], N;
    &'a mut Vec<T> => &'a mut [T];
    &'a mut Box<[T]> => &'a mut [T];
    &'a mut &mut [T] => &'a mut [T];
    &'a mut &mut Vec<T> => &'a mut [T];
}
