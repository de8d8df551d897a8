//! The dtypes that features may have.

use candle_core::{DType, Error};

/// All of them.
const FEATURES: &[DType] = &[DType::F32, DType::F64, DType::F16, DType::BF16];

/// Runs an expression with `$T` as the feature type of a dtype.
macro_rules! dispatch {
    ($op:expr, $dtype:expr, $T:ident => $call:expr) => {{
        macro_rules! with {
            ($t:ty) => {{
                type $T = $t;
                $call
            }};
        }
        match $dtype {
            candle_core::DType::F32 => with!(f32),
            candle_core::DType::F64 => with!(f64),
            candle_core::DType::F16 => with!(hyperscatter::half::f16),
            candle_core::DType::BF16 => with!(hyperscatter::half::bf16),
            other => Err($crate::dtype::unsupported_features($op, "a tensor", other)),
        }
    }};
}
pub(crate) use dispatch;

/// Whether features may have a dtype.
pub(crate) fn is_supported(dtype: DType) -> bool {
    FEATURES.contains(&dtype)
}

pub(crate) fn unsupported_features(op: &'static str, operand: &'static str, dtype: DType) -> Error {
    let names: Vec<_> = FEATURES.iter().map(|dtype| format!("{dtype:?}")).collect();
    let features = match names.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "none".to_owned(),
    };
    Error::msg(format!("{op}: {operand} has dtype {dtype:?}, but features are {features}"))
}
