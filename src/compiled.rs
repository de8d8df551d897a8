//! Functions of element types that are compiled with this crate, for every type: crates that call them link
//! to that code, instead of compiling all that is below them again.

/// Compiles each of these functions, casts to function pointers in which the element type is called `T`, for
/// the element types.
///
/// They must be `#[inline(never)]`: optimised crates share the code of generic functions that say so
/// ([rust-lang/rust#123244]), and no others. Nothing else depends on this: where a function is missing here,
/// or is not shared, crates that call it compile it as they compile any generic function.
///
/// Not where it would only take time: in the unit tests of this crate, which use few, and where it is
/// instrumented for fuzzing.
///
/// [rust-lang/rust#123244]: https://github.com/rust-lang/rust/pull/123244
macro_rules! compiled_here {
    ($($function:expr),* $(,)?) => {
        #[cfg(not(any(test, fuzzing)))]
        const _: () = {
            static _F32: &[&(dyn Send + Sync)] = { type T = f32; &[$(&($function)),*] };
            static _F64: &[&(dyn Send + Sync)] = { type T = f64; &[$(&($function)),*] };
            static _F16: &[&(dyn Send + Sync)] = { type T = half::f16; &[$(&($function)),*] };
            static _BF16: &[&(dyn Send + Sync)] = { type T = half::bf16; &[$(&($function)),*] };
        };
    };
}
