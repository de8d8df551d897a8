//! Element types that kernels exist for, with checks and without.

use super::args::ElementKind;
use super::kernels::{Kernel, KernelSet, dense_name, kernel_set};
use crate::element::Element;

/// Whether kernels check every index that they read from a table: yes or no, and nothing between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checks {
    /// Each value of a table is tested before it is used, and nothing is read or written out of bounds. A
    /// wrong value is [`Error::IndexOutOfBounds`] from [`Workspace::check`](super::Workspace::check) or from
    /// a later call. An affected row becomes NaN, or is not written at all if the wrong value is the row's
    /// own position, or one of its instance's.
    ///
    /// [`Error::IndexOutOfBounds`]: crate::Error::IndexOutOfBounds
    On,
    /// Tables are trusted. They were validated when the batch was made, and nothing in safe code changes them
    /// since.
    Off,
}

impl Default for Checks {
    /// [`Checks::On`] where this crate is built with debug assertions.
    fn default() -> Self {
        if cfg!(debug_assertions) { Self::On } else { Self::Off }
    }
}

/// A feature element that the kernels exist for.
///
/// This trait is sealed.
pub trait DeviceElement: Element {
    /// The kernels, for devices that copy to shared memory asynchronously (sm_80 and newer) or for all.
    #[doc(hidden)]
    fn kernels(checks: Checks, copies_async: bool) -> &'static KernelSet;

    /// The `ElementKind`.
    #[doc(hidden)]
    const KIND: u32;
}

macro_rules! device_element {
    ($($t:ty: $name:literal, $acc:literal, $gather_sums:literal, $kind:ident $(, $async:literal)?
        $(, layers $layers:expr)?;)*) => {$(
        impl DeviceElement for $t {
            const KIND: u32 = ElementKind::$kind as u32;

            fn kernels(checks: Checks, copies_async: bool) -> &'static KernelSet {
                static UNCHECKED: KernelSet =
                    kernel_set!($name, $acc, $gather_sums, "") $(.with_layers($layers))?;
                static ASYNC: KernelSet = kernel_set!($name, $acc, $gather_sums, "")
                    $(.with_stages(Kernel::Dense16Backward, $async))? $(.with_layers($layers))?;
                static CHECKED: KernelSet =
                    kernel_set!($name, $acc, $gather_sums, "_checked") $(.with_layers($layers))?;
                static CHECKED_ASYNC: KernelSet = kernel_set!($name, $acc, $gather_sums, "_checked")
                    $(.with_stages(Kernel::Dense16Backward, $async))? $(.with_layers($layers))?;
                match (checks, copies_async) {
                    (Checks::Off, false) => &UNCHECKED,
                    (Checks::Off, true) => &ASYNC,
                    (Checks::On, false) => &CHECKED,
                    (Checks::On, true) => &CHECKED_ASYNC,
                }
            }
        }
    )*};
}

/// The kernels of layers of a type of 16 bits. No type has checked ones: they trust what is checked where
/// instances are found.
macro_rules! narrow_layers {
    ($t:literal) => {
        [
            (Kernel::Layer256, concat!("layer256_", $t)),
            (Kernel::Layer512, concat!("layer512_", $t)),
            (Kernel::Layer256Backward, concat!("layer256_backward_", $t)),
            (Kernel::Layer512Backward, concat!("layer512_backward_", $t)),
            (Kernel::LayerTheta, concat!("layer_theta_", $t)),
            (Kernel::LayerThetaSum, "layer_theta_sum"),
        ]
    };
}

device_element! {
    f32: "f32", "f32", "gather_f32", ElementOfSums, "dense16_backward_async_f32", layers [
        (Kernel::Layer256, "layer256_f32"),
        (Kernel::LayerTf32, "layer_tf32_f32"),
        (Kernel::Layer256Backward, "layer256_backward_f32"),
        (Kernel::LayerTf32Backward, "layer_tf32_backward_f32"),
        (Kernel::LayerTheta, "layer_theta_f32"),
        (Kernel::LayerThetaSum, "layer_theta_sum"),
    ];
    f64: "f64", "f64", "gather_f64", ElementOfSums;
    half::f16: "f16", "f32", "gather_sums_f16", ElementF16, "dense16_backward_async_f16",
        layers narrow_layers!("f16");
    half::bf16: "bf16", "f32", "gather_sums_bf16", ElementBf16, "dense16_backward_async_bf16",
        layers narrow_layers!("bf16");
}
