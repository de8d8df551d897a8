//! Code for the vectors of the processor that it runs on.

/// `vectorized!([generics] [arguments] (name: type = value, …) -> output { body })` ends a function with the
/// body, which is compiled for AVX2 and FMA as well, and run so where the processor has both.
///
/// The `arguments` are those for the `generics`, which the body has instead of those of the function around
/// it. All that the body calls must be `#[inline(always)]`, or it is compiled for any processor. The bits are
/// the same: what is fused, and in which order, is up to the source.
macro_rules! vectorized {
    ([$($generics:tt)*] [$($argument:tt)*] ($($name:ident: $type:ty = $value:expr),* $(,)?)
     $(-> $output:ty)? $body:block) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2<$($generics)*>($($name: $type),*) $(-> $output)? $body

            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has both features.
                return unsafe { with_avx2::<$($argument)*>($($value),*) };
            }
        }
        match ($($value,)*) {
            ($($name,)*) => $body,
        }
    }};
}
pub(crate) use vectorized;
