//! The macro that makes the tests of a promise: one on each backend, in each element type.
//!
//! A promise is a function that takes the backend, and behind it what a property case draws:
//!
//! ```ignore
//! fn outputs_are_added_to_or_skipped<T: TestElement>(backend: &dyn Backend<T>) { … }
//! fn a_saved_z_changes_no_bit<T: TestElement>(backend: &dyn Backend<T>, layout: &Layout, add: bool) { … }
//!
//! per_backend! {
//!     on [cpu, cuda(modes(&[Order::Forward, Order::Reverse]))], in [f32, f64]:
//!     outputs_are_added_to_or_skipped;
//! }
//! per_backend! {
//!     on [cpu, cuda(cases(48))], in [any_type]:
//!     a_saved_z_changes_no_bit(&layout, add) for layout in layout(), add in any::<bool>();
//! }
//! ```
//!
//! makes `outputs_are_added_to_or_skipped::cpu::f32`, `…::cpu::f64`, `…::cuda::f32` and `…::cuda::f64`, and
//! `a_saved_z_changes_no_bit::cpu::any_type` and `…::cuda::any_type`, whose cases draw a type, too.
//!
//! Behind `cuda` stands how the test runs there: without cases, in which modes, one behind the other; with
//! cases, how many, each of which draws a mode.

/// A backend for each element type, by the name of the type.
#[allow(non_camel_case_types)]
pub mod backends {
    use hyperscatter::half;

    use crate::backend::Backend;

    pub type f32 = dyn Backend<std::primitive::f32>;
    pub type f64 = dyn Backend<std::primitive::f64>;
    pub type f16 = dyn Backend<half::f16>;
    pub type bf16 = dyn Backend<half::bf16>;
}

/// What is said behind `cuda` is made of this.
#[cfg(feature = "cuda")]
pub mod on_cuda {
    pub use hyperscatter_emulator::interface::Order;

    pub use crate::common::cases;
    pub use crate::cuda::gpu::{Cuda, Mode, mode, modes};
}

macro_rules! per_backend {
    (
        on $backends:tt, in $types:tt:
        $($promise:ident $(($($argument:expr),*) for $($name:ident in $strategy:expr),+)?;)+
    ) => {$(
        mod $promise {
            $crate::per_backend::per_backend! {
                @on $backends $types $promise [$(($($argument),*) ($($name in $strategy),+))?]
            }
        }
    )+};

    (@on [] $($rest:tt)*) => {};
    (@on [cpu $(, $($backends:tt)*)?] $types:tt $promise:ident $case:tt) => {
        mod cpu {
            use super::super::*;
            $crate::per_backend::per_backend! { @cpu $types $promise $case }
        }
        $crate::per_backend::per_backend! { @on [$($($backends)*)?] $types $promise $case }
    };
    (@on [cuda($how:expr)] $types:tt $promise:ident $case:tt) => {
        #[cfg(feature = "cuda")]
        mod cuda {
            use super::super::*;
            use $crate::per_backend::on_cuda::*;
            $crate::per_backend::per_backend! { @cuda ($how) $types $promise $case }
        }
    };

    (@cpu [any_type] $promise:ident [($($argument:expr),*) ($($name:ident in $strategy:expr),+)]) => {
        proptest::proptest! {
            #[test]
            fn any_type($($name in $strategy,)+ element in $crate::common::element_types()) {
                let backend = $crate::backend::Cpu;
                $crate::common::with_element!(element, $promise(&backend, $($argument),*));
            }
        }
    };
    (@cpu [$($type:ident),+] $promise:ident []) => {$(
        #[test]
        fn $type() {
            let backend: &$crate::per_backend::backends::$type = &$crate::backend::Cpu;
            $promise(backend);
        }
    )+};
    (@cpu [$type:ident] $promise:ident [($($argument:expr),*) ($($name:ident in $strategy:expr),+)]) => {
        proptest::proptest! {
            #[test]
            fn $type($($name in $strategy),+) {
                let backend: &$crate::per_backend::backends::$type = &$crate::backend::Cpu;
                $promise(backend, $($argument),*);
            }
        }
    };

    (
        @cuda ($how:expr) [any_type] $promise:ident
        [($($argument:expr),*) ($($name:ident in $strategy:expr),+)]
    ) => {
        proptest::proptest! {
            #![proptest_config($how)]

            #[test]
            fn any_type($($name in $strategy,)+ mode in mode(), element in $crate::common::element_types()) {
                let backend = Cuda::new(mode);
                $crate::common::with_element!(element, $promise(&backend, $($argument),*));
            }
        }
    };
    (@cuda ($how:expr) [$($type:ident),+] $promise:ident []) => {$(
        #[test]
        fn $type() {
            for mode in $how {
                let backend: &$crate::per_backend::backends::$type = &Cuda::new(mode);
                $promise(backend);
            }
        }
    )+};
    (
        @cuda ($how:expr) [$type:ident] $promise:ident
        [($($argument:expr),*) ($($name:ident in $strategy:expr),+)]
    ) => {
        proptest::proptest! {
            #![proptest_config($how)]

            #[test]
            fn $type($($name in $strategy,)+ mode in mode()) {
                let backend: &$crate::per_backend::backends::$type = &Cuda::new(mode);
                $promise(backend, $($argument),*);
            }
        }
    };
}
pub(crate) use per_backend;
