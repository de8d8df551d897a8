//! The status codes, and what each error of the library is among them.
//!
//! A number keeps its meaning for ever; new errors get new numbers. `tests/status.rs` holds this file to the
//! library's errors.

use std::ffi::{CStr, c_char};

use hyperscatter::Error;

use crate::facts::Facts;

/// The call did what it was asked for.
pub const HS_OK: i32 = 0;
/// A pointer is null that must not be: `what` names the argument.
pub const HS_ERROR_NULL: i32 = 1;
/// A number stands for nothing: `what` names the argument, `value` is the number, and it must be below
/// `bound`. Or, without these two, z is not to be overwritten, or arrays are not of one integer type.
pub const HS_ERROR_ARGUMENT: i32 = 2;
/// The caller was compiled with another version of the header: `what` names the version or the structure,
/// `value` is the caller's number or size, `bound` this library's.
pub const HS_ERROR_ABI: i32 = 3;
/// Another thread is in a call of this workspace.
pub const HS_ERROR_BUSY: i32 = 4;
/// A buffer is too short for a text: `value` is its size, `bound` the size that would do.
pub const HS_ERROR_CAPACITY: i32 = 5;
/// A handle is for the other backend, or for another device: `what` names it.
pub const HS_ERROR_BACKEND: i32 = 6;
/// A mistake of this library was caught; the message tells where. Handles of the call are not to be used any
/// more, only freed.
pub const HS_ERROR_PANIC: i32 = 7;
/// An error of the library that has no number of its own yet; the message tells all.
pub const HS_ERROR_UNKNOWN: i32 = 8;
/// A vertex id is negative, or not below the number of vertices.
pub const HS_ERROR_VERTEX_OUT_OF_RANGE: i32 = 100;
/// A hyperedge id is negative, or not below the number of hyperedges.
pub const HS_ERROR_HYPEREDGE_OUT_OF_RANGE: i32 = 101;
/// A CSR pointer is smaller than the one before it, which is `bound`.
pub const HS_ERROR_POINTERS_NOT_MONOTONE: i32 = 102;
/// There are no CSR pointers at all.
pub const HS_ERROR_NO_POINTERS: i32 = 103;
/// The first CSR pointer is not 0.
pub const HS_ERROR_FIRST_POINTER_NOT_ZERO: i32 = 104;
/// The last CSR pointer is not the length of the array that the pointers point into.
pub const HS_ERROR_LAST_POINTER: i32 = 105;
/// Two arrays that belong together differ in length.
pub const HS_ERROR_LENGTH_MISMATCH: i32 = 106;
/// A vertex (`value`) stands twice in one hyperedge, and that was to be refused.
pub const HS_ERROR_REPEATED_INCIDENCE: i32 = 107;
/// A topology id of a table of instances is out of range.
pub const HS_ERROR_TOPOLOGY_OUT_OF_RANGE: i32 = 108;
/// A graph id is negative, or not below the number of graphs.
pub const HS_ERROR_GRAPH_OUT_OF_RANGE: i32 = 109;
/// There is not one number of vertices (or hyperedges) for each graph.
pub const HS_ERROR_COUNTS_LENGTH: i32 = 110;
/// A number of vertices or hyperedges of a graph (`position`) is negative.
pub const HS_ERROR_NEGATIVE_COUNT: i32 = 111;
/// Graph ids decrease; the id before is `bound`.
pub const HS_ERROR_GRAPH_IDS_NOT_SORTED: i32 = 112;
/// An incidence joins a vertex of one graph (`instance`) with a hyperedge (`value`) of another.
pub const HS_ERROR_CROSS_GRAPH_INCIDENCE: i32 = 113;
/// An already batched index looks as if nobody had shifted it.
pub const HS_ERROR_ALL_IN_FIRST_GRAPH: i32 = 114;
/// An instance's window ends past the last weight (or scale); `value` is its offset.
pub const HS_ERROR_WINDOW_OUT_OF_RANGE: i32 = 115;
/// Shared or consecutive windows leave some weights (or scales) unread.
pub const HS_ERROR_UNREAD_WEIGHTS: i32 = 116;
/// An offset of a window table is negative or too large.
pub const HS_ERROR_OFFSET_OUT_OF_RANGE: i32 = 117;
/// A window table was made for another batch.
pub const HS_ERROR_WINDOW_TABLE_MISMATCH: i32 = 118;
/// A window table of vertices was given for values of hyperedges, or the other way round.
pub const HS_ERROR_WINDOW_TABLE_AXIS: i32 = 119;
/// A window table has fewer offsets than a call has instances.
pub const HS_ERROR_WINDOW_TABLE_LENGTH: i32 = 120;
/// A number does not fit its type, or an array has more bytes than memory can have.
pub const HS_ERROR_TOO_LARGE: i32 = 121;
/// Memory could not be had; `value` is the number of bytes. Or so many `"threads"` could not be started.
pub const HS_ERROR_OUT_OF_MEMORY: i32 = 122;
/// The rows of an operand have another number of features than the plan.
pub const HS_ERROR_FEATURES_MISMATCH: i32 = 123;
/// The length of an operand is no whole number of rows.
pub const HS_ERROR_PARTIAL_ROW: i32 = 124;
/// The rows of an operand are no whole number of instances.
pub const HS_ERROR_PARTIAL_INSTANCE: i32 = 125;
/// An operand has another number of rows than the batch.
pub const HS_ERROR_ROWS_MISMATCH: i32 = 126;
/// Operands of one call differ in their number of instances.
pub const HS_ERROR_INSTANCES_MISMATCH: i32 = 127;
/// No operand tells how many copies of a batch there are.
pub const HS_ERROR_UNKNOWN_INSTANCES: i32 = 128;
/// A gradient has another length than what it is the gradient of.
pub const HS_ERROR_GRADIENT_MISMATCH: i32 = 129;
/// Rows placed by their strides end past the operand's last element.
pub const HS_ERROR_STRIDE: i32 = 130;
/// Rows of an output overlap; `value` is the stride, `bound` the least that it may be.
pub const HS_ERROR_OVERLAP: i32 = 131;
/// A call has more instances than its workspace was made for.
pub const HS_ERROR_TOO_MANY_INSTANCES: i32 = 132;
/// The degree of a vertex (`position`) is negative under symmetric normalization; `degree` is it.
pub const HS_ERROR_NEGATIVE_DEGREE: i32 = 133;
/// The CUDA driver's library cannot be used.
pub const HS_ERROR_DRIVER_UNAVAILABLE: i32 = 134;
/// The CUDA driver is too old; `value` and `bound` are 1000 times the major version of CUDA that it supports,
/// or that is needed, plus ten times the minor one.
pub const HS_ERROR_DRIVER_TOO_OLD: i32 = 135;
/// There is no CUDA device of this ordinal (`value`); `bound` is the number of devices.
pub const HS_ERROR_NO_DEVICE: i32 = 136;
/// The CUDA device is too old; `value` and `bound` are ten times the major compute capability plus the minor
/// one.
pub const HS_ERROR_UNSUPPORTED_ARCHITECTURE: i32 = 137;
/// A call of the CUDA driver failed; `value` is its `CUresult`.
pub const HS_ERROR_DRIVER: i32 = 138;
/// A checked kernel found a wrong value in a table on the device.
pub const HS_ERROR_INDEX_OUT_OF_BOUNDS: i32 = 139;
/// An operand or a stream belongs to another CUDA context than the device.
pub const HS_ERROR_WRONG_CONTEXT: i32 = 140;
/// The address of an operand, an array, a structure or a result (`value`) is not a multiple of the size of
/// its elements, or of its alignment (`bound`).
pub const HS_ERROR_MISALIGNED: i32 = 141;
/// An output (`what`) shares memory with another operand (`other`).
pub const HS_ERROR_SHARED_MEMORY: i32 = 142;
/// A call that cannot be part of a CUDA graph was made while its stream was being captured.
pub const HS_ERROR_CAPTURING: i32 = 143;
/// A workspace was to be made on the per-thread default stream.
pub const HS_ERROR_PER_THREAD_STREAM: i32 = 144;
/// A plan was given another number of paths than its batch has topologies.
pub const HS_ERROR_PATHS_MISMATCH: i32 = 145;
/// A topology (`position`) cannot be on the path that was given for it.
pub const HS_ERROR_PATH_UNAVAILABLE: i32 = 146;
/// An operator with a matrix for each instance was called for a topology (`position`) that is too large.
pub const HS_ERROR_MATRIX_UNAVAILABLE: i32 = 147;
/// Matrices are no whole number of them; `bound` is the number of values of one.
pub const HS_ERROR_PARTIAL_MATRIX: i32 = 148;
/// A workspace was made for other operators.
pub const HS_ERROR_NOT_MADE_FOR: i32 = 149;
/// A call needs scratch memory (`bound` bytes), and its workspace was lent none.
pub const HS_ERROR_NO_SCRATCH: i32 = 150;
/// A call needs more scratch memory (`bound` bytes) than its workspace was lent (`value`).
pub const HS_ERROR_SCRATCH_TOO_SMALL: i32 = 151;
/// Scratch memory starts at an address (`value`) that is no multiple of `bound`.
pub const HS_ERROR_SCRATCH_MISALIGNED: i32 = 152;
/// Scratch memory was to be lent to a workspace that has its own.
pub const HS_ERROR_OWNS_SCRATCH: i32 = 153;
/// A workspace launched a kernel that it was made without: a mistake of this library.
pub const HS_ERROR_KERNEL_NOT_LOADED: i32 = 154;
/// Only a checked plan may read tables that were overwritten on the device.
pub const HS_ERROR_UNCHECKED_TABLES: i32 = 155;
/// Tables of a batch that others hold cannot be overwritten.
pub const HS_ERROR_BATCH_IN_USE: i32 = 156;
/// A range of a device table does not lie within it.
pub const HS_ERROR_TABLE_RANGE: i32 = 157;
/// A value does not fit into a device table.
pub const HS_ERROR_TABLE_VALUE: i32 = 158;
/// A layer was called that no kernel computes in one pass; `value` lies beyond the limit `bound`.
pub const HS_ERROR_LAYER_UNAVAILABLE: i32 = 159;

/// The name of a status, such as `"HS_ERROR_STRIDE"`; null for a number that is none. It is never freed.
///
/// # Safety
/// It is always safe to call.
#[unsafe(no_mangle)]
pub extern "C" fn hs_status_name(status: i32) -> *const c_char {
    name(status).map_or(std::ptr::null(), CStr::as_ptr)
}

/// The same for Rust.
pub(crate) fn name(status: i32) -> Option<&'static CStr> {
    Some(match status {
        HS_OK => c"HS_OK",
        HS_ERROR_NULL => c"HS_ERROR_NULL",
        HS_ERROR_ARGUMENT => c"HS_ERROR_ARGUMENT",
        HS_ERROR_ABI => c"HS_ERROR_ABI",
        HS_ERROR_BUSY => c"HS_ERROR_BUSY",
        HS_ERROR_CAPACITY => c"HS_ERROR_CAPACITY",
        HS_ERROR_BACKEND => c"HS_ERROR_BACKEND",
        HS_ERROR_PANIC => c"HS_ERROR_PANIC",
        HS_ERROR_UNKNOWN => c"HS_ERROR_UNKNOWN",
        HS_ERROR_VERTEX_OUT_OF_RANGE => c"HS_ERROR_VERTEX_OUT_OF_RANGE",
        HS_ERROR_HYPEREDGE_OUT_OF_RANGE => c"HS_ERROR_HYPEREDGE_OUT_OF_RANGE",
        HS_ERROR_POINTERS_NOT_MONOTONE => c"HS_ERROR_POINTERS_NOT_MONOTONE",
        HS_ERROR_NO_POINTERS => c"HS_ERROR_NO_POINTERS",
        HS_ERROR_FIRST_POINTER_NOT_ZERO => c"HS_ERROR_FIRST_POINTER_NOT_ZERO",
        HS_ERROR_LAST_POINTER => c"HS_ERROR_LAST_POINTER",
        HS_ERROR_LENGTH_MISMATCH => c"HS_ERROR_LENGTH_MISMATCH",
        HS_ERROR_REPEATED_INCIDENCE => c"HS_ERROR_REPEATED_INCIDENCE",
        HS_ERROR_TOPOLOGY_OUT_OF_RANGE => c"HS_ERROR_TOPOLOGY_OUT_OF_RANGE",
        HS_ERROR_GRAPH_OUT_OF_RANGE => c"HS_ERROR_GRAPH_OUT_OF_RANGE",
        HS_ERROR_COUNTS_LENGTH => c"HS_ERROR_COUNTS_LENGTH",
        HS_ERROR_NEGATIVE_COUNT => c"HS_ERROR_NEGATIVE_COUNT",
        HS_ERROR_GRAPH_IDS_NOT_SORTED => c"HS_ERROR_GRAPH_IDS_NOT_SORTED",
        HS_ERROR_CROSS_GRAPH_INCIDENCE => c"HS_ERROR_CROSS_GRAPH_INCIDENCE",
        HS_ERROR_ALL_IN_FIRST_GRAPH => c"HS_ERROR_ALL_IN_FIRST_GRAPH",
        HS_ERROR_WINDOW_OUT_OF_RANGE => c"HS_ERROR_WINDOW_OUT_OF_RANGE",
        HS_ERROR_UNREAD_WEIGHTS => c"HS_ERROR_UNREAD_WEIGHTS",
        HS_ERROR_OFFSET_OUT_OF_RANGE => c"HS_ERROR_OFFSET_OUT_OF_RANGE",
        HS_ERROR_WINDOW_TABLE_MISMATCH => c"HS_ERROR_WINDOW_TABLE_MISMATCH",
        HS_ERROR_WINDOW_TABLE_AXIS => c"HS_ERROR_WINDOW_TABLE_AXIS",
        HS_ERROR_WINDOW_TABLE_LENGTH => c"HS_ERROR_WINDOW_TABLE_LENGTH",
        HS_ERROR_TOO_LARGE => c"HS_ERROR_TOO_LARGE",
        HS_ERROR_OUT_OF_MEMORY => c"HS_ERROR_OUT_OF_MEMORY",
        HS_ERROR_FEATURES_MISMATCH => c"HS_ERROR_FEATURES_MISMATCH",
        HS_ERROR_PARTIAL_ROW => c"HS_ERROR_PARTIAL_ROW",
        HS_ERROR_PARTIAL_INSTANCE => c"HS_ERROR_PARTIAL_INSTANCE",
        HS_ERROR_ROWS_MISMATCH => c"HS_ERROR_ROWS_MISMATCH",
        HS_ERROR_INSTANCES_MISMATCH => c"HS_ERROR_INSTANCES_MISMATCH",
        HS_ERROR_UNKNOWN_INSTANCES => c"HS_ERROR_UNKNOWN_INSTANCES",
        HS_ERROR_GRADIENT_MISMATCH => c"HS_ERROR_GRADIENT_MISMATCH",
        HS_ERROR_STRIDE => c"HS_ERROR_STRIDE",
        HS_ERROR_OVERLAP => c"HS_ERROR_OVERLAP",
        HS_ERROR_TOO_MANY_INSTANCES => c"HS_ERROR_TOO_MANY_INSTANCES",
        HS_ERROR_NEGATIVE_DEGREE => c"HS_ERROR_NEGATIVE_DEGREE",
        HS_ERROR_DRIVER_UNAVAILABLE => c"HS_ERROR_DRIVER_UNAVAILABLE",
        HS_ERROR_DRIVER_TOO_OLD => c"HS_ERROR_DRIVER_TOO_OLD",
        HS_ERROR_NO_DEVICE => c"HS_ERROR_NO_DEVICE",
        HS_ERROR_UNSUPPORTED_ARCHITECTURE => c"HS_ERROR_UNSUPPORTED_ARCHITECTURE",
        HS_ERROR_DRIVER => c"HS_ERROR_DRIVER",
        HS_ERROR_INDEX_OUT_OF_BOUNDS => c"HS_ERROR_INDEX_OUT_OF_BOUNDS",
        HS_ERROR_WRONG_CONTEXT => c"HS_ERROR_WRONG_CONTEXT",
        HS_ERROR_MISALIGNED => c"HS_ERROR_MISALIGNED",
        HS_ERROR_SHARED_MEMORY => c"HS_ERROR_SHARED_MEMORY",
        HS_ERROR_CAPTURING => c"HS_ERROR_CAPTURING",
        HS_ERROR_PER_THREAD_STREAM => c"HS_ERROR_PER_THREAD_STREAM",
        HS_ERROR_PATHS_MISMATCH => c"HS_ERROR_PATHS_MISMATCH",
        HS_ERROR_PATH_UNAVAILABLE => c"HS_ERROR_PATH_UNAVAILABLE",
        HS_ERROR_MATRIX_UNAVAILABLE => c"HS_ERROR_MATRIX_UNAVAILABLE",
        HS_ERROR_PARTIAL_MATRIX => c"HS_ERROR_PARTIAL_MATRIX",
        HS_ERROR_NOT_MADE_FOR => c"HS_ERROR_NOT_MADE_FOR",
        HS_ERROR_NO_SCRATCH => c"HS_ERROR_NO_SCRATCH",
        HS_ERROR_SCRATCH_TOO_SMALL => c"HS_ERROR_SCRATCH_TOO_SMALL",
        HS_ERROR_SCRATCH_MISALIGNED => c"HS_ERROR_SCRATCH_MISALIGNED",
        HS_ERROR_OWNS_SCRATCH => c"HS_ERROR_OWNS_SCRATCH",
        HS_ERROR_KERNEL_NOT_LOADED => c"HS_ERROR_KERNEL_NOT_LOADED",
        HS_ERROR_UNCHECKED_TABLES => c"HS_ERROR_UNCHECKED_TABLES",
        HS_ERROR_BATCH_IN_USE => c"HS_ERROR_BATCH_IN_USE",
        HS_ERROR_TABLE_RANGE => c"HS_ERROR_TABLE_RANGE",
        HS_ERROR_TABLE_VALUE => c"HS_ERROR_TABLE_VALUE",
        HS_ERROR_LAYER_UNAVAILABLE => c"HS_ERROR_LAYER_UNAVAILABLE",
        _ => return None,
    })
}

/// What an error of the library is for a caller in C.
pub(crate) fn facts_of(error: &Error) -> Facts {
    let facts = Facts::new;
    match *error {
        Error::VertexOutOfRange { table, list, position, value, bound, .. } => {
            facts(HS_ERROR_VERTEX_OUT_OF_RANGE)
                .what(table)
                .list(list)
                .position(position)
                .value(value)
                .bound(bound)
        }
        Error::HyperedgeOutOfRange { table, position, value, bound, .. } => {
            facts(HS_ERROR_HYPEREDGE_OUT_OF_RANGE).what(table).position(position).value(value).bound(bound)
        }
        Error::PointersNotMonotone { table, position, value, previous, .. } => {
            facts(HS_ERROR_POINTERS_NOT_MONOTONE).what(table).position(position).value(value).bound(previous)
        }
        Error::NoPointers { table, .. } => facts(HS_ERROR_NO_POINTERS).what(table),
        Error::FirstPointerNotZero { table, value, .. } => {
            facts(HS_ERROR_FIRST_POINTER_NOT_ZERO).what(table).position(0).value(value).bound(0)
        }
        Error::LastPointer { table, value, bound, bound_of, .. } => {
            facts(HS_ERROR_LAST_POINTER).what(table).value(value).bound(bound).other(bound_of)
        }
        Error::LengthMismatch { table, value, bound, bound_of, .. } => {
            facts(HS_ERROR_LENGTH_MISMATCH).what(table).value(value).bound(bound).other(bound_of)
        }
        Error::RepeatedIncidence { table, position, vertex, hyperedge, .. } => {
            facts(HS_ERROR_REPEATED_INCIDENCE)
                .what(table)
                .position(position)
                .value(vertex)
                .instance(hyperedge)
        }
        Error::TopologyOutOfRange { table, instance, value, bound, .. } => {
            facts(HS_ERROR_TOPOLOGY_OUT_OF_RANGE).what(table).instance(instance).value(value).bound(bound)
        }
        Error::GraphOutOfRange { table, position, value, bound, .. } => {
            facts(HS_ERROR_GRAPH_OUT_OF_RANGE).what(table).position(position).value(value).bound(bound)
        }
        Error::CountsLength { table, value, bound, .. } => {
            facts(HS_ERROR_COUNTS_LENGTH).what(table).value(value).bound(bound)
        }
        Error::NegativeCount { table, graph, value, .. } => {
            facts(HS_ERROR_NEGATIVE_COUNT).what(table).position(graph).value(value).bound(0)
        }
        Error::GraphIdsNotSorted { table, position, value, previous, .. } => {
            facts(HS_ERROR_GRAPH_IDS_NOT_SORTED).what(table).position(position).value(value).bound(previous)
        }
        Error::CrossGraphIncidence { position, vertex_graph, hyperedge, ref bound, .. } => {
            facts(HS_ERROR_CROSS_GRAPH_INCIDENCE)
                .what("hyperedges")
                .position(position)
                .instance(vertex_graph)
                .value(hyperedge)
                .bound(bound.end)
        }
        Error::AllInFirstGraph { incidences, graph, .. } => {
            facts(HS_ERROR_ALL_IN_FIRST_GRAPH).what("vertices").instance(graph).value(incidences)
        }
        Error::WindowOutOfRange { table, instance, value, bound, .. } => {
            facts(HS_ERROR_WINDOW_OUT_OF_RANGE).what(table).instance(instance).value(value).bound(bound)
        }
        Error::UnreadWeights { table, value, bound, windows, .. } => {
            facts(HS_ERROR_UNREAD_WEIGHTS).what(table).other(windows).value(value).bound(bound)
        }
        Error::OffsetOutOfRange { table, instance, value, bound, .. } => {
            facts(HS_ERROR_OFFSET_OUT_OF_RANGE).what(table).instance(instance).value(value).bound(bound)
        }
        Error::WindowTableMismatch { table, .. } => facts(HS_ERROR_WINDOW_TABLE_MISMATCH).what(table),
        Error::WindowTableAxis { table, bound, .. } => {
            facts(HS_ERROR_WINDOW_TABLE_AXIS).what(table).other(bound)
        }
        Error::WindowTableLength { table, value, bound, .. } => {
            facts(HS_ERROR_WINDOW_TABLE_LENGTH).what(table).value(value).bound(bound)
        }
        Error::TooLarge { what, value, bound, .. } => {
            facts(HS_ERROR_TOO_LARGE).what(what).value(value).bound(bound)
        }
        Error::OutOfMemory { what, bytes, .. } => facts(HS_ERROR_OUT_OF_MEMORY).what(what).value(bytes),
        Error::FeaturesMismatch { operand, value, bound, .. } => {
            facts(HS_ERROR_FEATURES_MISMATCH).what(operand).value(value).bound(bound)
        }
        Error::PartialRow { operand, value, bound, .. } => {
            facts(HS_ERROR_PARTIAL_ROW).what(operand).value(value).bound(bound)
        }
        Error::PartialInstance { operand, value, bound, what, .. } => {
            facts(HS_ERROR_PARTIAL_INSTANCE).what(operand).other(what).value(value).bound(bound)
        }
        Error::RowsMismatch { operand, value, bound, what, .. } => {
            facts(HS_ERROR_ROWS_MISMATCH).what(operand).other(what).value(value).bound(bound)
        }
        Error::InstancesMismatch { operand, value, bound, bound_of, .. } => {
            facts(HS_ERROR_INSTANCES_MISMATCH).what(operand).value(value).bound(bound).other(bound_of)
        }
        Error::UnknownInstances { operand, .. } => facts(HS_ERROR_UNKNOWN_INSTANCES).what(operand),
        Error::GradientMismatch { operand, value, bound, bound_of, .. } => {
            facts(HS_ERROR_GRADIENT_MISMATCH).what(operand).value(value).bound(bound).other(bound_of)
        }
        Error::Stride { operand, value, bound, .. } => {
            facts(HS_ERROR_STRIDE).what(operand).value(value).bound(bound)
        }
        Error::Overlap { operand, what, value, bound, .. } => {
            facts(HS_ERROR_OVERLAP).what(operand).other(what).value(value).bound(bound)
        }
        Error::TooManyInstances { value, bound, .. } => {
            facts(HS_ERROR_TOO_MANY_INSTANCES).what("instances").value(value).bound(bound)
        }
        Error::NegativeDegree { instance, vertex, value, .. } => {
            facts(HS_ERROR_NEGATIVE_DEGREE).what("weights").instance(instance).position(vertex).degree(value)
        }
        Error::DriverUnavailable { library, .. } => facts(HS_ERROR_DRIVER_UNAVAILABLE).what(library),
        Error::DriverTooOld { found, needed, .. } => facts(HS_ERROR_DRIVER_TOO_OLD)
            .what("driver")
            .value(version(found, 1000))
            .bound(version(needed, 1000)),
        Error::NoDevice { ordinal, count, .. } => {
            facts(HS_ERROR_NO_DEVICE).what("ordinal").value(ordinal).bound(count)
        }
        Error::UnsupportedArchitecture { found, needed, .. } => facts(HS_ERROR_UNSUPPORTED_ARCHITECTURE)
            .what("device")
            .value(version(found, 10))
            .bound(version(needed, 10)),
        Error::Driver { call, code, .. } => facts(HS_ERROR_DRIVER).what(call).value(code),
        Error::IndexOutOfBounds { kernel, table, instance, position, value, bound, .. } => {
            facts(HS_ERROR_INDEX_OUT_OF_BOUNDS)
                .what(table)
                .other(kernel)
                .instance(instance)
                .position(position)
                .value(value)
                .bound(bound)
        }
        Error::WrongContext { operand, value, bound, .. } => {
            facts(HS_ERROR_WRONG_CONTEXT).what(operand).value(value).bound(bound)
        }
        Error::Misaligned { operand, value, bound, .. } => {
            facts(HS_ERROR_MISALIGNED).what(operand).value(value).bound(bound)
        }
        Error::SharedMemory { operand, other, value, bound, .. } => {
            facts(HS_ERROR_SHARED_MEMORY).what(operand).other(other).value(value).bound(bound)
        }
        Error::Capturing { call, .. } => facts(HS_ERROR_CAPTURING).what(call),
        Error::PerThreadStream => facts(HS_ERROR_PER_THREAD_STREAM).what("stream"),
        Error::PathsMismatch { value, bound, .. } => {
            facts(HS_ERROR_PATHS_MISMATCH).what("paths").value(value).bound(bound)
        }
        Error::PathUnavailable { path, topology, what, value, bound, .. } => facts(HS_ERROR_PATH_UNAVAILABLE)
            .what(path)
            .other(what)
            .position(topology)
            .value(value)
            .bound(bound),
        Error::MatrixUnavailable { operator, topology, what, value, bound, .. } => {
            facts(HS_ERROR_MATRIX_UNAVAILABLE)
                .what(operator)
                .other(what)
                .position(topology)
                .value(value)
                .bound(bound)
        }
        Error::LayerUnavailable { operator, what, value, bound } => {
            facts(HS_ERROR_LAYER_UNAVAILABLE).what(operator).other(what).value(value).bound(bound)
        }
        Error::PartialMatrix { operand, value, bound, .. } => {
            facts(HS_ERROR_PARTIAL_MATRIX).what(operand).value(value).bound(bound)
        }
        Error::NotMadeFor { operator, .. } => facts(HS_ERROR_NOT_MADE_FOR).what(operator),
        Error::NoScratch { operator, bytes, .. } => {
            facts(HS_ERROR_NO_SCRATCH).what(operator).value(0).bound(bytes)
        }
        Error::ScratchTooSmall { operator, value, bound, .. } => {
            facts(HS_ERROR_SCRATCH_TOO_SMALL).what(operator).value(value).bound(bound)
        }
        Error::ScratchMisaligned { value, bound, .. } => {
            facts(HS_ERROR_SCRATCH_MISALIGNED).what("memory").value(value).bound(bound)
        }
        Error::OwnsScratch => facts(HS_ERROR_OWNS_SCRATCH).what("memory"),
        Error::KernelNotLoaded { kernel, .. } => facts(HS_ERROR_KERNEL_NOT_LOADED).what(kernel),
        Error::UncheckedTables => facts(HS_ERROR_UNCHECKED_TABLES).what("checks"),
        Error::BatchInUse { value, .. } => facts(HS_ERROR_BATCH_IN_USE).what("batch").value(value),
        Error::TableRange { table, position, bound, value, .. } => {
            facts(HS_ERROR_TABLE_RANGE).what(table).position(position).bound(bound).value(value)
        }
        Error::TableValue { table, position, value, bound, .. } => {
            facts(HS_ERROR_TABLE_VALUE).what(table).position(position).value(value).bound(bound)
        }
        _ => facts(HS_ERROR_UNKNOWN),
    }
}

/// A version of two parts as one number.
fn version((major, minor): (u32, u32), factor: u32) -> u32 {
    major.saturating_mul(factor).saturating_add(minor.saturating_mul(if factor == 1000 { 10 } else { 1 }))
}
