//! The operands of a call, as C describes them. They are checked here as far as a Rust caller could not get
//! them wrong: null pointers, choices, lengths, alignment, and memory that an output shares.

use std::ffi::c_void;

use hyperscatter::{Activation, Axis, Batch, Error, Reduce, RowLayout};

use crate::arguments::{check_alignment, check_length, choice, optional, reference};
use crate::error::{Failure, Result};
use crate::windows::hs_windows;

/// In `instance_stride`: the rows of all instances follow each other at the row stride, and `rows` is their
/// number in all. For tables of instances of different sizes.
pub const HS_PACKED: usize = usize::MAX;

/// The output is not computed.
pub const HS_SKIP: u32 = 0;
/// The output is overwritten.
pub const HS_OVERWRITE: u32 = 1;
/// The result is added to what the output holds.
pub const HS_ACCUMULATE: u32 = 2;

/// Each instance reads the same weights, from the first on.
pub const HS_WINDOWS_SHARED: u32 = 0;
/// Each instance has weights of its own, one window behind the other.
pub const HS_WINDOWS_CONSECUTIVE: u32 = 1;
/// Windows begin where an `hs_windows` says.
pub const HS_WINDOWS_TABLE: u32 = 2;

/// Rows are summed.
pub const HS_SUM: u32 = 0;
/// Rows are averaged.
pub const HS_MEAN: u32 = 1;

/// No activation.
pub const HS_IDENTITY: u32 = 0;
/// max(u, 0).
pub const HS_RELU: u32 = 1;
/// u Φ(u).
pub const HS_GELU: u32 = 2;
/// Its approximation by tanh.
pub const HS_GELU_TANH: u32 = 3;
/// u σ(u).
pub const HS_SILU: u32 = 4;

/// Feature rows that are read. Row `i` of instance `g` starts at element
/// `g * instance_stride + i * row_stride`, and its `features` elements are contiguous. Strides may be 0, and
/// rows may overlap.
///
/// The memory of an operand is all from its first element to its last, with what lies between its rows.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_rows {
    /// The first element, of the plan's type (of its accumulation type where an operator says so): in host
    /// memory for a plan on the CPU, in device memory for one on a device.
    pub data: *const c_void,
    /// The number of instances.
    pub instances: usize,
    /// The rows of an instance; of the largest one where instances differ. With `HS_PACKED`, of all.
    pub rows: usize,
    /// The elements of a row.
    pub features: usize,
    /// From one row to the next, in elements.
    pub row_stride: usize,
    /// From one instance to the next, in elements; or `HS_PACKED`.
    pub instance_stride: usize,
}

/// Feature rows that are written. They do not overlap. Elements between rows stay as they are, but nobody
/// else may use them as long as the work runs: the memory of an operand is all from its first element to its
/// last.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_out_rows {
    /// The first element, as in `hs_rows`.
    pub data: *mut c_void,
    /// The number of instances.
    pub instances: usize,
    /// The rows of an instance; of the largest one where instances differ. With `HS_PACKED`, of all.
    pub rows: usize,
    /// The elements of a row.
    pub features: usize,
    /// From one row to the next, in elements.
    pub row_stride: usize,
    /// From one instance to the next, in elements; or `HS_PACKED`.
    pub instance_stride: usize,
    /// `HS_SKIP`, `HS_OVERWRITE` or `HS_ACCUMULATE`.
    pub mode: u32,
}

/// Numbers that are read, one behind the other.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_values {
    /// The first; may be null where there are none. The operators say of which type.
    pub data: *const c_void,
    /// How many there are.
    pub len: usize,
}

/// Numbers that are written, one behind the other.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_out_values {
    /// The first; may be null where there are none.
    pub data: *mut c_void,
    /// How many there are.
    pub len: usize,
    /// `HS_SKIP`, `HS_OVERWRITE` or `HS_ACCUMULATE`.
    pub mode: u32,
}

/// Weights of hyperedges, or scales of vertices or hyperedges, of the plan's accumulation type.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_weights {
    /// The numbers.
    pub values: hs_values,
    /// Which of them an instance reads: `HS_WINDOWS_SHARED`, …
    pub windows: u32,
    /// With `HS_WINDOWS_TABLE` where the windows begin; else it is not looked at.
    pub table: *const hs_windows,
}

/// What a step computes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_step {
    /// `HS_SUM` or `HS_MEAN`.
    pub reduce: u32,
    /// Factors of the rows of vertices, or null.
    pub vertex_scale: *const hs_weights,
    /// Factors of the rows of hyperedges, or null.
    pub hyperedge_scale: *const hs_weights,
}

/// Where the gradients of a step go; each may be null, and is not computed then.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_step_gradients {
    /// Of the rows that the step read.
    pub rows: *const hs_out_rows,
    /// Of the scale of vertices, as many as there are values in it, of the accumulation type.
    pub vertex_scale: *const hs_out_values,
    /// Of the scale of hyperedges, likewise.
    pub hyperedge_scale: *const hs_out_values,
}

/// What follows the convolution in the same pass: act(u + bias), to which a residual may be added.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_epilogue {
    /// `HS_IDENTITY`, `HS_RELU`, …
    pub activation: u32,
    /// F numbers of the accumulation type, or null.
    pub bias: *const hs_values,
}

/// Where the gradients of a convolution with an epilogue go; each may be null, and is not computed then.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_epilogue_gradients {
    /// Of x.
    pub x: *const hs_out_rows,
    /// Of the weights, as many as there are weights, of the accumulation type.
    pub weights: *const hs_out_values,
    /// Of the bias: F numbers of the accumulation type.
    pub bias: *const hs_out_values,
    /// Of the residual.
    pub residual: *const hs_out_rows,
}

/// Where the gradients of a layer go; each may be null, and is not computed then.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(non_camel_case_types)]
pub struct hs_layer_gradients {
    /// Of x: rows of as many elements as the plan has inputs.
    pub x: *const hs_out_rows,
    /// Of Theta: `features` times `inputs` numbers of the accumulation type.
    pub theta: *const hs_out_values,
    /// Of the weights, as many as there are weights, of the accumulation type.
    pub weights: *const hs_out_values,
    /// Of the bias: F numbers of the accumulation type.
    pub bias: *const hs_out_values,
    /// Of the residual.
    pub residual: *const hs_out_rows,
}

pub(crate) fn reduce(number: u32) -> Result<Reduce> {
    choice("reduce", number, &[Reduce::Sum, Reduce::Mean])
}

pub(crate) fn activation(number: u32) -> Result<Activation> {
    use Activation::{Gelu, GeluTanh, Identity, Relu, Silu};
    choice("activation", number, &[Identity, Relu, Gelu, GeluTanh, Silu])
}

/// What happens to an output that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Overwrite,
    Accumulate,
}

fn mode(number: u32) -> Result<Option<Mode>> {
    choice("mode", number, &[None, Some(Mode::Overwrite), Some(Mode::Accumulate)])
}

/// Memory of so many elements of some type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) address: u64,
    pub(crate) len: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct InRows {
    pub(crate) memory: Memory,
    pub(crate) layout: RowLayout,
    pub(crate) instances: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct OutRows {
    pub(crate) rows: InRows,
    pub(crate) mode: Mode,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct OutValues {
    pub(crate) memory: Memory,
    pub(crate) mode: Mode,
}

#[derive(Clone, Copy)]
pub(crate) struct InWeights<'a> {
    pub(crate) memory: Memory,
    pub(crate) windows: InWindows<'a>,
}

#[derive(Clone, Copy)]
pub(crate) enum InWindows<'a> {
    Shared,
    Consecutive,
    Table(&'a hs_windows),
}

pub(crate) struct InStep<'a> {
    pub(crate) reduce: Reduce,
    pub(crate) vertex_scale: Option<InWeights<'a>>,
    pub(crate) hyperedge_scale: Option<InWeights<'a>>,
}

pub(crate) struct InEpilogue {
    pub(crate) activation: Activation,
    pub(crate) bias: Option<Memory>,
}

/// The memory of an operand, in bytes.
#[derive(Debug, Clone, Copy)]
struct Span {
    name: &'static str,
    start: u64,
    end: u64,
    is_written: bool,
}

/// More than any operator has.
const MOST: usize = 12;

/// Reads the operands of one call, and remembers their memory. No reference to it exists before
/// [`check`](Self::check) has found that no output shares its own with another operand.
pub(crate) struct Reader<'b> {
    batch: &'b Batch,
    /// The sizes of an element and of a sum.
    sizes: [usize; 2],
    spans: [Option<Span>; MOST],
    n_spans: usize,
}

/// Of which type the elements of an operand are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    Elements,
    Sums,
}

/// # Safety
/// Of the methods that are `unsafe`: pointers are null or point to structures that live throughout the call.
impl<'b> Reader<'b> {
    pub(crate) fn new(batch: &'b Batch, sizes: [usize; 2]) -> Self {
        Self { batch, sizes, spans: [None; MOST], n_spans: 0 }
    }

    fn memory(
        &mut self,
        name: &'static str,
        data: *const c_void,
        len: usize,
        of: Of,
        is_written: bool,
    ) -> Result<Memory> {
        let size = self.sizes[of as usize];
        let (start, bytes) = (data as usize as u64, check_length(name, len, size)?);
        if data.is_null() && len > 0 {
            return Err(Failure::Null(name));
        }
        check_alignment(name, start, size as u64)?;
        if len > 0 {
            let end = start.saturating_add(bytes as u64);
            self.spans[self.n_spans] = Some(Span { name, start, end, is_written });
            self.n_spans += 1;
        }
        Ok(Memory { address: start, len })
    }

    fn place(
        &mut self,
        (name, axis): (&'static str, Axis),
        operand: &hs_rows,
        of: Of,
        is_written: bool,
    ) -> Result<InRows> {
        let &hs_rows { data, instances, rows, features, row_stride, instance_stride } = operand;
        let is_packed = instance_stride == HS_PACKED;
        let bound = match (is_packed, self.batch.n_instances()) {
            (false, _) => self.batch.largest(axis),
            // Another number of instances than the table's is refused with the other operands.
            (true, Some(n)) => self.batch.start(axis, n),
            (true, None) => self.batch.start(axis, instances),
        };
        if rows != bound {
            let what = if axis == Axis::Vertex { "vertices" } else { "hyperedges" };
            return Err(Error::RowsMismatch { operand: name, value: rows, bound, what }.into());
        }
        let last = |count: usize, stride: usize| count.saturating_sub(1) as u128 * stride as u128;
        let outer = if is_packed { 0 } else { last(instances, instance_stride) };
        let span = last(rows, row_stride).saturating_add(outer).saturating_add(features as u128);
        let span = if instances == 0 || rows == 0 || features == 0 { 0 } else { span };
        let too_large = |_| Error::TooLarge { what: name, value: span, bound: isize::MAX as u128 };
        let len = usize::try_from(span).map_err(too_large)?;
        let memory = self.memory(name, data, len, of, is_written)?;
        let layout = RowLayout::contiguous(features).row_stride(row_stride).instances(instances);
        let layout = if is_packed { layout } else { layout.instance_stride(instance_stride) };
        Ok(InRows { memory, layout, instances })
    }

    /// Rows that are read.
    pub(crate) unsafe fn rows(
        &mut self,
        name: &'static str,
        axis: Axis,
        rows: *const hs_rows,
        of: Of,
    ) -> Result<InRows> {
        // SAFETY: the caller's promise.
        let rows = unsafe { reference(name, rows)? };
        self.place((name, axis), rows, of, false)
    }

    /// Rows that are read, if there are any.
    pub(crate) unsafe fn optional_rows(
        &mut self,
        name: &'static str,
        axis: Axis,
        rows: *const hs_rows,
    ) -> Result<Option<InRows>> {
        // SAFETY: the caller's promise.
        let rows = unsafe { optional(name, rows)? };
        rows.map(|rows| self.place((name, axis), rows, Of::Elements, false)).transpose()
    }

    /// Rows that are written, if they are wanted.
    pub(crate) unsafe fn out_rows(
        &mut self,
        name: &'static str,
        axis: Axis,
        out: *const hs_out_rows,
        of: Of,
    ) -> Result<Option<OutRows>> {
        // SAFETY: the caller's promise.
        let Some(out) = (unsafe { optional(name, out)? }) else { return Ok(None) };
        let Some(mode) = mode(out.mode)? else { return Ok(None) };
        let &hs_out_rows { data, instances, rows, features, row_stride, instance_stride, .. } = out;
        let rows =
            hs_rows { data: data.cast_const(), instances, rows, features, row_stride, instance_stride };
        Ok(Some(OutRows { rows: self.place((name, axis), &rows, of, true)?, mode }))
    }

    /// Numbers that are read.
    pub(crate) unsafe fn values(
        &mut self,
        name: &'static str,
        values: *const hs_values,
        of: Of,
    ) -> Result<Memory> {
        // SAFETY: the caller's promise.
        let &hs_values { data, len } = unsafe { reference(name, values)? };
        self.memory(name, data, len, of, false)
    }

    /// Numbers that are written, if they are wanted.
    pub(crate) unsafe fn out_values(
        &mut self,
        name: &'static str,
        out: *const hs_out_values,
        of: Of,
    ) -> Result<Option<OutValues>> {
        // SAFETY: the caller's promise.
        let Some(&hs_out_values { data, len, mode }) = (unsafe { optional(name, out)? }) else {
            return Ok(None);
        };
        let Some(mode) = self::mode(mode)? else { return Ok(None) };
        Ok(Some(OutValues { memory: self.memory(name, data, len, of, true)?, mode }))
    }

    /// Weights.
    pub(crate) unsafe fn weights<'a>(
        &mut self,
        name: &'static str,
        weights: *const hs_weights,
    ) -> Result<InWeights<'a>> {
        // SAFETY: the caller's promise, here and below.
        let &hs_weights { values: hs_values { data, len }, windows, table } =
            unsafe { reference(name, weights)? };
        let kinds = [HS_WINDOWS_SHARED, HS_WINDOWS_CONSECUTIVE, HS_WINDOWS_TABLE];
        let windows = match choice("windows", windows, &kinds)? {
            HS_WINDOWS_SHARED => InWindows::Shared,
            HS_WINDOWS_CONSECUTIVE => InWindows::Consecutive,
            // SAFETY: as above.
            _ => InWindows::Table(unsafe { reference("table", table)? }),
        };
        Ok(InWeights { memory: self.memory(name, data, len, Of::Sums, false)?, windows })
    }

    /// What a step computes.
    pub(crate) unsafe fn step<'a>(&mut self, step: *const hs_step) -> Result<InStep<'a>> {
        // SAFETY: the caller's promise, here and below.
        let &hs_step { reduce, vertex_scale, hyperedge_scale } = unsafe { reference("step", step)? };
        let mut scale = |name, scale: *const hs_weights| match scale.is_null() {
            true => Ok(None),
            // SAFETY: as above.
            false => unsafe { self.weights(name, scale) }.map(Some),
        };
        Ok(InStep {
            reduce: self::reduce(reduce)?,
            vertex_scale: scale("vertex_scale", vertex_scale)?,
            hyperedge_scale: scale("hyperedge_scale", hyperedge_scale)?,
        })
    }

    /// What follows the convolution; nothing for null.
    pub(crate) unsafe fn epilogue(&mut self, epilogue: *const hs_epilogue) -> Result<InEpilogue> {
        // SAFETY: the caller's promise, here and below.
        let Some(&hs_epilogue { activation, bias }) = (unsafe { optional("epilogue", epilogue)? }) else {
            return Ok(InEpilogue { activation: Activation::Identity, bias: None });
        };
        let activation = self::activation(activation)?;
        let bias = match bias.is_null() {
            true => None,
            // SAFETY: as above.
            false => Some(unsafe { self.values("bias", bias, Of::Sums)? }),
        };
        Ok(InEpilogue { activation, bias })
    }

    /// Refuses outputs that share memory with another operand.
    pub(crate) fn check(&self) -> Result<()> {
        let spans = || self.spans[..self.n_spans].iter().flatten().enumerate();
        for (i, output) in spans().filter(|(_, span)| span.is_written) {
            let shares =
                |&(j, other): &(usize, &Span)| i != j && output.start < other.end && other.start < output.end;
            if let Some((_, other)) = spans().find(shares) {
                let (value, bound) = (output.start, other.end);
                let (operand, other) = (output.name, other.name);
                return Err(Error::SharedMemory { operand, other, value, bound }.into());
            }
        }
        Ok(())
    }
}
