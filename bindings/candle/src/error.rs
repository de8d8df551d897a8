//! How errors reach a caller of candle.

use candle_core::{DType, Error, Shape, Tensor};

/// An error of `hyperscatter` inside a candle error, with a message that also says what the tensors of the
/// call were.
///
/// Candle shows a wrapped error through its `Debug`, so this one's is the message.
struct Wrapped {
    error: hyperscatter::Error,
    message: String,
}

impl std::fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The operator and the tensors of a call, as the caller knows them: what an error of the core, which sees
/// slices, is told with.
pub(crate) struct Operands {
    pub(crate) op: &'static str,
    shapes: Vec<(&'static str, Shape)>,
    caller: Caller,
}

/// What is called, for messages that say what to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Caller {
    Operators,
    Layer,
}

impl Operands {
    pub(crate) fn new(caller: Caller, op: &'static str, operand: &'static str, tensor: &Tensor) -> Self {
        Self { op, shapes: vec![(operand, tensor.shape().clone())], caller }
    }

    pub(crate) fn and(mut self, operand: &'static str, tensor: &Tensor) -> Self {
        self.shapes.push((operand, tensor.shape().clone()));
        self
    }

    /// An error of the core in a call with these tensors.
    pub(crate) fn error(&self, error: hyperscatter::Error) -> Error {
        let shapes = self.shapes.iter().map(|(operand, shape)| format!("{operand} of shape {shape:?}"));
        let shapes = shapes.collect::<Vec<_>>().join(", ");
        let message = format!("{}: called with {shapes}", self.sentence(&error));
        from_core(self.op, error, message)
    }

    /// The core's own sentence, but where it would send the caller to what there is only on slices.
    fn sentence(&self, error: &hyperscatter::Error) -> String {
        use hyperscatter::Error as Core;
        match (error, self.caller) {
            (Core::UnreadWeights { table, value, bound, windows, what }, caller) => {
                let shared = *windows == "shared";
                let of = if shared { "the largest topology" } else { "all instances" };
                let remedy = match (caller, shared) {
                    (Caller::Operators, true) => {
                        "where each instance has values of its own, say TensorWeights::consecutive or \
                         TensorWeights::table"
                    }
                    (Caller::Operators, false) => {
                        "where all instances have the same values, say TensorWeights::shared"
                    }
                    (Caller::Layer, true) => {
                        "where each instance has weights of its own, set other windows by \
                         HypergraphConv::with_windows; where other batches read the rest, state the number \
                         of weights by HypergraphConv::with_n_weights"
                    }
                    (Caller::Layer, false) => "set other windows by HypergraphConv::with_windows",
                };
                format!(
                    "{table} has length {value}, of which {windows} windows read {bound}, one for each of \
                     the {what} of {of}; {remedy}"
                )
            }
            (Core::WindowTableMismatch { table }, caller) => {
                let remedy = match caller {
                    Caller::Operators => "make it from Operators::batch",
                    Caller::Layer => {
                        "make one from the batch of HypergraphConv::operators, and set it by \
                         HypergraphConv::with_windows"
                    }
                };
                format!(
                    "{table}: this window table was made for another batch; {remedy} (clones of a batch are \
                     the same batch, equal ones are not)"
                )
            }
            (Core::WindowOutOfRange { .. }, Caller::Layer) => {
                format!("{error} (HypergraphConvConfig::n_weights makes more)")
            }
            _ => error.to_string(),
        }
    }
}

/// The typed error of `hyperscatter` that a candle error carries, through any context, path or backtrace that
/// was added to it.
///
/// ```
/// use hyperscatter_candle::candle_core::{Device, DType, Tensor};
/// use hyperscatter_candle::hyperscatter::{Batch, Conv, Error, Incidence};
/// use hyperscatter_candle::{Operators, TensorWeights, core_error};
///
/// let operators = Operators::new(&Batch::replicate(Incidence::subsets(4, 2)?), Conv::default());
/// let five_vertices = Tensor::zeros((2, 5, 3), DType::F32, &Device::Cpu)?;
/// let weights = Tensor::ones(6, DType::F32, &Device::Cpu)?;
/// let error = operators.conv(&five_vertices, TensorWeights::shared(&weights)).unwrap_err();
/// assert!(matches!(core_error(&error), Some(Error::RowsMismatch { operand: "x", value: 5, bound: 4, .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn core_error(error: &Error) -> Option<&hyperscatter::Error> {
    match error {
        Error::WrappedContext { wrapped, .. } => {
            let wrapped = wrapped.as_ref();
            (wrapped.downcast_ref::<Wrapped>().map(|w| &w.error))
                .or_else(|| wrapped.downcast_ref())
                .or_else(|| wrapped.downcast_ref().and_then(core_error))
        }
        Error::Context { inner, .. } | Error::WithPath { inner, .. } | Error::WithBacktrace { inner, .. } => {
            core_error(inner)
        }
        _ => None,
    }
}

/// An error of `hyperscatter` as candle's, with its message. Candle's `Wrapped` would be the obvious variant,
/// but holds a `dyn Display`, which cannot be downcast.
pub(crate) fn from_core(op: &'static str, error: hyperscatter::Error, message: String) -> Error {
    let wrapped = Box::new(Wrapped { error, message });
    Error::WrappedContext { wrapped, context: format!("in {op}") }.bt()
}

/// What a tensor on another device gets.
pub(crate) fn not_on_cpu(op: &'static str) -> String {
    format!("{op} runs on the CPU only so far: move its tensors there with to_device(&Device::Cpu)")
}

pub(crate) fn check_device(
    op: &'static str,
    operand: &'static str,
    tensor: &Tensor,
) -> candle_core::Result<()> {
    if tensor.device().is_cpu() {
        return Ok(());
    }
    Err(Error::msg(format!("{operand} is on {:?}, but {}", tensor.device().location(), not_on_cpu(op))))
}

/// Checks weights (or scales) against the features: sums of `features` are formed in `accumulator`.
pub(crate) fn check_weights(
    op: &'static str,
    operand: &'static str,
    weights: &Tensor,
    features: DType,
) -> candle_core::Result<()> {
    let (dtype, needed) = (weights.dtype(), accumulator(features));
    if dtype == needed {
        return Ok(());
    }
    Err(Error::msg(format!(
        "{op}: {operand} have dtype {dtype:?}, but {needed:?} is needed with features of {features:?}: \
         convert them with to_dtype"
    )))
}

/// The dtype of weights, scales and their gradients that goes with features.
pub(crate) fn accumulator(features: DType) -> DType {
    if features == DType::F64 { DType::F64 } else { DType::F32 }
}
