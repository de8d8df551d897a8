//! What can be wrong with an index layout or a call, as values.
//!
//! Every variant names the table or operand, the place in it, the value found there and the bound it broke,
//! in fields that a caller can read. Constructors and operators do not panic on bad input. An operator call
//! that returns an error has written nothing. (Accessors panic as slices do, and say so.)

use std::ops::Range;

use crate::misbatching::Misbatching;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An index layout, an operand or a call that cannot be carried out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A vertex id is negative, or not below the number of vertices.
    #[error(
        "{} is vertex {value}, but {}{}",
        place(table, *list, *position),
        numbers(*bound, "vertex", "vertices"),
        cause_or(*looks_like, ": correct the id, or the number of vertices")
    )]
    VertexOutOfRange {
        /// The argument that holds the id.
        table: &'static str,
        /// Which list there holds it, if the argument is a list of members for each hyperedge.
        list: Option<usize>,
        /// Its position there.
        position: usize,
        /// The id.
        value: i128,
        /// The number of vertices.
        bound: usize,
        /// What the whole index looks like, if that is known.
        looks_like: Option<Misbatching>,
    },
    /// A hyperedge id is negative, or not below the number of hyperedges.
    #[error(
        "{table}[{position}] is hyperedge {value}, but {}{}",
        numbers(*bound, "hyperedge", "hyperedges"),
        cause_or(*looks_like, ": correct the id, or the number of hyperedges")
    )]
    HyperedgeOutOfRange {
        /// The argument that holds the id.
        table: &'static str,
        /// Its position there.
        position: usize,
        /// The id.
        value: i128,
        /// The number of hyperedges.
        bound: usize,
        /// What the whole index looks like, if that is known.
        looks_like: Option<Misbatching>,
    },
    /// A CSR pointer is smaller than the one before it.
    #[error(
        "{table}[{position}] = {value} is smaller than the pointer before it, {previous}: pointers must not \
         decrease; if these are the sizes of the hyperedges, give their running sums, from 0 on"
    )]
    PointersNotMonotone {
        /// The pointer array.
        table: &'static str,
        /// The position of the smaller pointer.
        position: usize,
        /// The smaller pointer.
        value: i128,
        /// The pointer before it, which is the least it may be.
        previous: i128,
    },
    /// There are no CSR pointers at all.
    #[error(
        "{table} is empty, but there is one pointer more than there are hyperedges: where there are none, \
         give the pointer 0 alone"
    )]
    NoPointers {
        /// The pointer array.
        table: &'static str,
    },
    /// The first CSR pointer is not 0.
    #[error(
        "{table}[0] = {value}, but the first pointer must be 0: for a part of a larger table, subtract the \
         first pointer from all"
    )]
    FirstPointerNotZero {
        /// The pointer array.
        table: &'static str,
        /// Its first value.
        value: i128,
    },
    /// The last CSR pointer is not the length of the array that the pointers point into.
    #[error(
        "{table} ends at {value}, but {bound_of} has length {bound}: the last pointer must be that length, \
         so there is one pointer more than there are rows"
    )]
    LastPointer {
        /// The pointer array.
        table: &'static str,
        /// Its last value.
        value: i128,
        /// The length of the other array.
        bound: usize,
        /// The other array.
        bound_of: &'static str,
    },
    /// Two arrays that belong together differ in length.
    #[error("{table} has length {value}, but must have length {bound} to go with {bound_of}")]
    LengthMismatch {
        /// The array.
        table: &'static str,
        /// Its length.
        value: usize,
        /// The length it must have.
        bound: usize,
        /// What sets that length.
        bound_of: &'static str,
    },
    /// A vertex stands twice in one hyperedge, and the caller chose to reject that.
    #[error(
        "{} repeats vertex {vertex} in hyperedge {hyperedge}: choose Repeats::Keep or Repeats::Merge if this \
         is meant{}",
        place(table, *list, *position),
        cause(*looks_like)
    )]
    RepeatedIncidence {
        /// The argument that holds the vertex ids.
        table: &'static str,
        /// Which list there holds it, if the argument is a list of members for each hyperedge.
        list: Option<usize>,
        /// The position of the second occurrence there.
        position: usize,
        /// The vertex.
        vertex: usize,
        /// The hyperedge.
        hyperedge: usize,
        /// What the whole index looks like, if that is known.
        looks_like: Option<Misbatching>,
    },
    /// A topology id of an instance table is out of range.
    #[error(
        "{table}[{instance}] is topology {value}, but {}",
        numbers(*bound, "topology", "topologies")
    )]
    TopologyOutOfRange {
        /// The argument that holds the id.
        table: &'static str,
        /// The instance.
        instance: usize,
        /// The id.
        value: i128,
        /// The number of topologies.
        bound: usize,
    },
    /// A graph id is negative, or not below the number of graphs.
    #[error(
        "{table}[{position}] is graph {value}, but {}{}",
        numbers(*bound, "graph", "graphs"),
        cause_or(*looks_like, ": correct the id, or the number of graphs")
    )]
    GraphOutOfRange {
        /// The argument that holds the id.
        table: &'static str,
        /// Its position there.
        position: usize,
        /// The id.
        value: i128,
        /// The number of graphs.
        bound: usize,
        /// What the whole array looks like, if that is known.
        looks_like: Option<Misbatching>,
    },
    /// There is not one number of vertices (or hyperedges) for each graph.
    #[error(
        "{table} has {value} counts, but there are {bound} graphs: give one for each graph, 0 for a graph \
         without any{}",
        cause(*looks_like)
    )]
    CountsLength {
        /// The argument that holds the counts.
        table: &'static str,
        /// Its length.
        value: usize,
        /// The number of graphs.
        bound: usize,
        /// What the whole array looks like, if that is known.
        looks_like: Option<Misbatching>,
    },
    /// A number of vertices or hyperedges of a graph is negative.
    #[error(
        "{table}[{graph}] = {value}, but a count is not negative: give one for each graph, without padding"
    )]
    NegativeCount {
        /// The argument that holds the counts.
        table: &'static str,
        /// The graph.
        graph: usize,
        /// The count.
        value: i128,
    },
    /// Graph ids decrease: vertices and hyperedges of one graph must stand together, graph after graph.
    #[error(
        "{table}[{position}] = {value} is smaller than the graph id before it, {previous}: number vertices \
         and hyperedges graph after graph{}",
        cause(*looks_like)
    )]
    GraphIdsNotSorted {
        /// The argument that holds the ids.
        table: &'static str,
        /// The position of the smaller id.
        position: usize,
        /// The smaller id.
        value: i128,
        /// The id before it, which is the least it may be.
        previous: i128,
        /// What the whole array looks like, if that is known.
        looks_like: Option<Misbatching>,
    },
    /// An incidence of an already batched index joins a vertex of one graph with a hyperedge of another.
    #[error(
        "incidence {position} joins vertex {vertex} of graph {vertex_graph} with hyperedge {hyperedge} of \
         graph {hyperedge_graph}, but graph {vertex_graph} owns {}{}",
        owned("hyperedge", bound), cause_or(*looks_like, SHIFT_BOTH)
    )]
    CrossGraphIncidence {
        /// The position in the batched index.
        position: usize,
        /// The vertex, as numbered in the batch.
        vertex: usize,
        /// The graph that owns the vertex.
        vertex_graph: usize,
        /// The hyperedge, as numbered in the batch.
        hyperedge: usize,
        /// The graph that owns the hyperedge.
        hyperedge_graph: usize,
        /// The hyperedges of the vertex's graph, as numbered in the batch.
        bound: Range<usize>,
        /// What the whole index looks like, if that is known.
        looks_like: Option<Misbatching>,
    },
    /// An already batched index looks as if nobody had shifted it: all incidences are in one graph, though
    /// later graphs own vertices and hyperedges. [`AllInFirst::Accept`](crate::AllInFirst::Accept) says that
    /// it is meant.
    #[error(
        "all {incidences} incidences are in graph {graph}, though graph {later} owns {} and {}, too. It \
         looks like this: {looks_like}. If it is meant, choose AllInFirst::Accept",
        owned("vertex", vertices),
        owned("hyperedge", hyperedges)
    )]
    AllInFirstGraph {
        /// The number of incidences.
        incidences: usize,
        /// The graph that has them all: the first that owns both vertices and hyperedges.
        graph: usize,
        /// The next graph that owns both.
        later: usize,
        /// Its vertices, as numbered in the batch.
        vertices: Range<usize>,
        /// Its hyperedges, as numbered in the batch.
        hyperedges: Range<usize>,
        /// What the index looks like: [`Misbatching::NotShifted`].
        looks_like: Misbatching,
    },
    /// An instance's weight window ends past the last weight (or scale).
    #[error(
        "instance {instance} reads {table}[{value} .. {}], but {table} has {}: give it more values, or \
         windows that end within them",
        value.saturating_add(*width as u64), count(*bound, "value")
    )]
    WindowOutOfRange {
        /// The operand that is read through windows.
        table: &'static str,
        /// The instance.
        instance: usize,
        /// The offset of its window.
        value: u64,
        /// The length of its window: the hyperedges (or vertices) of its topology.
        width: usize,
        /// The length of the operand.
        bound: usize,
    },
    /// Shared or consecutive windows leave some weights (or scales) unread, so other windows must be meant.
    #[error("{table} has {}, but {}", count(*value, "value"), read_by(windows, what, *bound))]
    UnreadWeights {
        /// The operand that is read through windows.
        table: &'static str,
        /// Its length.
        value: usize,
        /// The number of values that the windows read.
        bound: usize,
        /// The windows: `"shared"` or `"consecutive"`.
        windows: &'static str,
        /// What has a value each: `"vertices"` or `"hyperedges"`.
        what: &'static str,
    },
    /// An offset of a window table is negative, or so large that the window ends past the largest array that
    /// there can be.
    #[error(
        "{table}[{instance}] = {value}, but the offset of a window is at least 0 and here at most {bound}"
    )]
    OffsetOutOfRange {
        /// The argument that holds the offset.
        table: &'static str,
        /// The instance.
        instance: usize,
        /// The offset.
        value: i128,
        /// The largest offset of a window of this length.
        bound: u64,
    },
    /// A window table was made for another batch.
    #[error(
        "{table}: this window table was made for another batch; make it from the very batch of the plan \
         (clones of a batch are the same batch, equal ones are not)"
    )]
    WindowTableMismatch {
        /// The operand that is read through windows, or the argument that is the table.
        table: &'static str,
    },
    /// A window table of vertex scales was given for values of hyperedges, or the other way round.
    #[error(
        "{table}: this window table is for {value}, but {bound} are needed; WindowTable::new makes windows \
         of hyperedges, WindowTable::for_vertices those of vertices"
    )]
    WindowTableAxis {
        /// The operand that is read through windows.
        table: &'static str,
        /// What the table was made for: `"vertices"` or `"hyperedges"`.
        value: &'static str,
        /// The other.
        bound: &'static str,
    },
    /// A window table of a replicated batch has fewer offsets than a call has instances.
    #[error(
        "{table}: this window table has {}, but the call has {}: make it with an offset for each",
        count(*value, "offset"), count(*bound, "instance")
    )]
    WindowTableLength {
        /// The operand that is read through windows.
        table: &'static str,
        /// The number of offsets.
        value: usize,
        /// The number of instances.
        bound: usize,
    },
    /// A number does not fit its type: the indices of a topology are 32-bit, element offsets are 64-bit.
    #[error("{what} is {value}, but at most {bound} can be dealt with at once: split it up")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// The count; `u128::MAX` if even that overflowed.
        value: u128,
        /// The largest count that fits.
        bound: u128,
    },
    /// Memory for a table or a workspace could not be had.
    #[error("no memory for {what}: {bytes} bytes could not be allocated")]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// The size that was asked for.
        bytes: u128,
    },
    /// The rows of an operand have another number of features than the plan.
    #[error(
        "{operand} has rows of {}, but the plan is for {bound}: state the plan's number, or make a plan for \
         {value}",
        count(*value, "feature")
    )]
    FeaturesMismatch {
        /// The operand.
        operand: &'static str,
        /// The features of its rows, as its layout states them.
        value: usize,
        /// The features of the plan.
        bound: usize,
    },
    /// The length of a contiguous operand is not a whole number of rows.
    #[error(
        "{operand} has {}, which is no whole number of rows of {}: check its length, and which of its sizes \
         is the number of features",
        count(*value, "element"), count(*bound, "feature")
    )]
    PartialRow {
        /// The operand.
        operand: &'static str,
        /// Its length.
        value: usize,
        /// The features of a row.
        bound: usize,
    },
    /// The rows of an operand are not a whole number of instances of a replicated batch.
    #[error(
        "{operand} has {}, which is no whole number of instances: each has {bound} {what}, and a row for \
         each",
        count(*value, "row")
    )]
    PartialInstance {
        /// The operand.
        operand: &'static str,
        /// The rows that its length has room for.
        value: usize,
        /// The rows of an instance.
        bound: usize,
        /// What its rows are of: `"vertices"` or `"hyperedges"`.
        what: &'static str,
    },
    /// A contiguous operand has another number of rows than the batch.
    #[error(
        "{operand} has {}, but must have {bound}, one for each of the {what}, and no more",
        count(*value, "row")
    )]
    RowsMismatch {
        /// The operand.
        operand: &'static str,
        /// The rows that it has.
        value: usize,
        /// The rows that it must have.
        bound: usize,
        /// What its rows are of: `"vertices"` or `"hyperedges"`.
        what: &'static str,
    },
    /// Operands of one call differ in their number of instances.
    #[error(
        "{operand} has {}, but {bound_of} has {bound}: all operands of a call have the same",
        count(*value, "instance")
    )]
    InstancesMismatch {
        /// The operand.
        operand: &'static str,
        /// Its number of instances, as its layout states it or its length tells it.
        value: usize,
        /// The number that it must have.
        bound: usize,
        /// What sets that number: `"the batch"`, or the first operand that tells it.
        bound_of: &'static str,
    },
    /// No operand tells how many copies of a replicated batch there are.
    #[error(
        "no operand tells the number of copies, and {operand} has elements: its layout has an instance \
         stride, or its rows are empty; state the number of copies by RowLayout::instances"
    )]
    UnknownInstances {
        /// The first operand that has elements.
        operand: &'static str,
    },
    /// A gradient has another length than the weights or the scale that it is the gradient of.
    #[error(
        "{operand} has {}, but {bound_of} has {}, and a gradient for each{}",
        count(*value, "element"), count(*bound, "value"),
        if *bound == 0 { ": give Out::Skip where there is nothing to have a gradient" } else { "" }
    )]
    GradientMismatch {
        /// The gradient.
        operand: &'static str,
        /// Its length.
        value: usize,
        /// The length it must have.
        bound: usize,
        /// What it is the gradient of.
        bound_of: &'static str,
    },
    /// Rows placed by their strides end past the operand's last element.
    #[error(
        "{operand} has {}, but {} end at element {value}: make it longer, or its strides or the number of \
         instances smaller",
        count(*bound, "element"), placed(*instances, *rows, *row_stride, *instance_stride)
    )]
    Stride {
        /// The operand.
        operand: &'static str,
        /// The number of instances.
        instances: usize,
        /// The number of rows of the largest instance; of all instances where they are packed.
        rows: usize,
        /// The row stride, in elements.
        row_stride: usize,
        /// The instance stride, in elements; `None` where rows are packed over all instances.
        instance_stride: Option<usize>,
        /// The elements that the strides span.
        value: u128,
        /// The operand's length.
        bound: usize,
    },
    /// Rows of an output overlap: two results would be written to one place.
    #[error(
        "rows of the output {operand} overlap: its {what} stride is {value}, but must be at least {bound} \
         elements for each row to have a place of its own"
    )]
    Overlap {
        /// The operand.
        operand: &'static str,
        /// Which stride is too small: `"row"` or `"instance"`.
        what: &'static str,
        /// That stride, in elements.
        value: usize,
        /// The least it may be.
        bound: u128,
    },
    /// A call has more instances than its workspace was made for.
    #[error(
        "there are {}, but the workspace is for at most {bound}: make one for as many as there will be",
        count(*value, "instance")
    )]
    TooManyInstances {
        /// The number of instances of the call.
        value: usize,
        /// The number given when the workspace was made.
        bound: usize,
    },
    /// The weighted degree of a vertex is negative. [`Normalization::Symmetric`] needs its square root.
    ///
    /// [`Normalization::Symmetric`]: crate::Normalization::Symmetric
    #[error(
        "instance {instance}: vertex {vertex} has degree {value}, but symmetric normalization needs degrees \
         of at least 0: keep the weights positive, or use another normalization"
    )]
    NegativeDegree {
        /// The first instance with a negative degree; on a GPU any of them, depending on scheduling.
        instance: usize,
        /// Its first vertex with a negative degree (on a GPU any of them), as numbered in its topology.
        vertex: usize,
        /// The degree.
        value: f64,
    },
    /// The CUDA driver's library cannot be used: there is none, or it is a stub or a broken installation.
    #[error(
        "the CUDA driver is not available: {reason}. Install the NVIDIA driver (it brings {library}; a CUDA \
         toolkit is not needed), and in a container start it with GPU support"
    )]
    DriverUnavailable {
        /// The library that was looked for.
        library: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// The CUDA driver is older than what the kernels need. Versions are (major, minor) of the CUDA release.
    #[error(
        "the CUDA driver supports CUDA {}.{}, but the kernels need {}.{}: install NVIDIA driver R525 or \
         newer",
        found.0, found.1, needed.0, needed.1
    )]
    DriverTooOld {
        /// What the driver supports.
        found: (u32, u32),
        /// The least that would do.
        needed: (u32, u32),
    },
    /// There is no CUDA device of this ordinal.
    #[error(
        "there is no CUDA device {ordinal}: the driver shows {count}. See `nvidia-smi` for what is installed \
         and CUDA_VISIBLE_DEVICES for what is visible"
    )]
    NoDevice {
        /// The ordinal that was asked for.
        ordinal: usize,
        /// The number of devices.
        count: usize,
    },
    /// The device is of an architecture that the kernels were not compiled for. Compute capabilities are
    /// (major, minor).
    #[error(
        "CUDA device {ordinal} has compute capability {}.{}, but the kernels need {}.{} or newer: use a \
         Turing or later GPU, or the CPU backend",
        found.0, found.1, needed.0, needed.1
    )]
    UnsupportedArchitecture {
        /// The device.
        ordinal: usize,
        /// Its compute capability.
        found: (u32, u32),
        /// The least that would do.
        needed: (u32, u32),
    },
    /// A call of the CUDA driver failed, or an earlier call or asynchronous work of the same context did.
    #[error("{call} failed: {name} ({code}): {message}")]
    Driver {
        /// What was being done.
        call: &'static str,
        /// The driver's error code, a `CUresult`.
        code: u32,
        /// The name of that code.
        name: String,
        /// The driver's description of it.
        message: String,
    },
    /// A checked kernel found a wrong value in a table. Every output since the last successful check is
    /// unspecified. The context, the stream and the workspace can be used on, see `cuda::Workspace::check`.
    /// A kernel that found several wrong values names any one of them.
    #[error(
        "{kernel}, instance {instance}: {table}[{position}] on the device is {value}, but {}: upload the \
         table again, and look for who writes into it",
        below(*bound)
    )]
    IndexOutOfBounds {
        /// The kernel.
        kernel: &'static str,
        /// The table that holds the value; `"work items"` are not stored, they count what the tables list.
        table: &'static str,
        /// The instance that was being computed.
        instance: u64,
        /// The position of the value in the whole table.
        position: u64,
        /// The value.
        value: u64,
        /// What the value must be below; 0 if the value behind it leaves no right one.
        bound: u64,
    },
    /// An operand or a stream belongs to another CUDA context than the device.
    #[error(
        "{operand} belongs to another CUDA context than the plan's device: {}",
        other_context(*value, *bound)
    )]
    WrongContext {
        /// The operand, or `"the stream"`.
        operand: &'static str,
        /// The ordinal of the device of the operand's context. It equals `bound` for another context on the
        /// same device.
        value: usize,
        /// The ordinal of the plan's device.
        bound: usize,
    },
    /// An operand's address is not a multiple of its element's size.
    #[error(
        "{operand} starts at address {value:#x}, which is not a multiple of {bound}, the size of its \
         elements: start it at a whole element"
    )]
    Misaligned {
        /// The operand.
        operand: &'static str,
        /// The address.
        value: u64,
        /// The size of an element in bytes.
        bound: u64,
    },
    /// An output shares memory with another operand.
    #[error(
        "the output {operand} shares memory with {other}: it starts at address {value:#x}, and {other} ends \
         at {bound:#x}; give it memory of its own"
    )]
    SharedMemory {
        /// The output.
        operand: &'static str,
        /// The other operand.
        other: &'static str,
        /// Where the output starts.
        value: u64,
        /// Where the other operand ends.
        bound: u64,
    },
    /// A call that cannot be part of a CUDA graph was made while its stream was being captured.
    #[error(
        "{call} cannot be captured, and the stream is recording a CUDA graph: do it before or behind the \
         capture; calls of the raw tier (hyperscatter::cuda::raw) can be captured"
    )]
    Capturing {
        /// The call.
        call: &'static str,
    },
    /// A workspace was to be made on the per-thread default stream. That is another stream on each thread,
    /// and a workspace may move to another thread.
    #[error(
        "the per-thread default stream is another one on each thread, and a workspace may move: make it on a \
         stream of its own, or on the default stream"
    )]
    PerThreadStream,
    /// A plan was given another number of paths than its batch has topologies.
    #[error("{value} paths were given for {bound} topologies: give one for each, in their order")]
    PathsMismatch {
        /// The number of paths.
        value: usize,
        /// The number of topologies.
        bound: usize,
    },
    /// A topology cannot be on the path that a plan was given for it.
    #[error(
        "{path} takes at most {bound} {what}, and topology {topology} has {value}: give it another path, or let the plan \
         choose"
    )]
    PathUnavailable {
        /// The path.
        path: &'static str,
        /// The topology.
        topology: usize,
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        value: usize,
        /// The most that there may be.
        bound: usize,
    },
    /// An operator with a matrix for each instance was called for a topology that is too large for it.
    #[error(
        "{operator} takes at most {bound} {what}, and topology {topology} has {value}: leave out the instances that \
         have it"
    )]
    MatrixUnavailable {
        /// The operator.
        operator: &'static str,
        /// The topology, which some instance has.
        topology: usize,
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        value: usize,
        /// The most that there may be.
        bound: usize,
    },
    /// A layer was called that no kernel computes in one pass.
    #[error(
        "no kernel computes {operator} in one pass: {what} is {value}, and the limit is {bound}; multiply by Θ with a \
         library for products of matrices, and call the convolution with an epilogue"
    )]
    LayerUnavailable {
        /// The operator.
        operator: &'static str,
        /// What lies beyond its limit.
        what: &'static str,
        /// How much it is.
        value: usize,
        /// The limit.
        bound: usize,
    },
    /// The matrices of a replicated batch are not a whole number of them.
    #[error(
        "{operand} has {}, which is no whole number of instances: each has a matrix of {bound}",
        count(*value, "value")
    )]
    PartialMatrix {
        /// The operand.
        operand: &'static str,
        /// Its length.
        value: usize,
        /// The values of a matrix.
        bound: usize,
    },
    /// A workspace was made for other operators.
    #[error(
        "this workspace was not made for {operator}, which needs kernels and scratch memory of its own: make it by \
         Plan::workspace_for with {operator} among the operators"
    )]
    NotMadeFor {
        /// The operator.
        operator: &'static str,
    },
    /// A call needs scratch memory, and its workspace, which has none of its own, was lent none.
    #[error(
        "{operator} needs {bytes} bytes of scratch memory, and this workspace was lent none: lend it some by \
         Workspace::lend_scratch"
    )]
    NoScratch {
        /// The operator.
        operator: &'static str,
        /// The bytes that the call needs.
        bytes: u128,
    },
    /// A call needs more scratch memory than its workspace was lent.
    #[error(
        "{operator} needs {bound} bytes of scratch memory, and this workspace was lent {value}: lend it as many as \
         Workspace::scratch_bytes tells"
    )]
    ScratchTooSmall {
        /// The operator.
        operator: &'static str,
        /// The bytes that were lent.
        value: usize,
        /// The bytes that the call needs.
        bound: u128,
    },
    /// Scratch memory that was to be lent does not start where kernels can use it.
    #[error(
        "the scratch memory starts at address {value:#x}, which is not a multiple of {bound}: lend memory that does"
    )]
    ScratchMisaligned {
        /// The address.
        value: u64,
        /// What it must be a multiple of.
        bound: u64,
    },
    /// Scratch memory was to be lent to a workspace that has its own.
    #[error(
        "this workspace owns its scratch memory: make one by Plan::workspace_without_memory to lend it some"
    )]
    OwnsScratch,
    /// A workspace launched a kernel that it was made without. This is a mistake of this crate.
    #[error(
        "the kernel {kernel} was not loaded with its workspace: this is a mistake of hyperscatter, please report it"
    )]
    KernelNotLoaded {
        /// The kernel.
        kernel: &'static str,
    },
    /// The tables of a batch or a window table were overwritten on the device, so only checked kernels may
    /// read them.
    #[error(
        "tables of this batch or its windows were overwritten on the device, so only plans with Checks::On \
         may read them: make such a plan, or upload the tables again"
    )]
    UncheckedTables,
    /// The tables of a batch cannot be overwritten while plans or clones hold it.
    #[error(
        "the batch is held in {} besides this one: drop its plans, workspaces and clones before its tables \
         are overwritten",
        count(*value, "place")
    )]
    BatchInUse {
        /// The other holders.
        value: usize,
    },
    /// A range of a device table does not lie within it.
    #[error("{table}[{position} .. {value}] is not a part of the table, which has {}", count(*bound, "word"))]
    TableRange {
        /// The table.
        table: &'static str,
        /// The start of the range.
        position: usize,
        /// Its end.
        value: usize,
        /// The length of the table.
        bound: usize,
    },
    /// A value does not fit into a device table of 32-bit words.
    #[error("{table}[{position}] cannot become {value}: its words hold values below {bound}")]
    TableValue {
        /// The table.
        table: &'static str,
        /// The position.
        position: usize,
        /// The value.
        value: u64,
        /// What it must be below.
        bound: u64,
    },
}

/// What ids there are.
fn numbers(bound: usize, one: &str, many: &str) -> String {
    match bound {
        0 => format!("there are no {many}"),
        1 => format!("there is one {one}, 0"),
        _ => format!("there are {bound} {many}, 0 to {}", bound - 1),
    }
}

/// What vertices or hyperedges a graph has.
fn owned(one: &str, range: &Range<usize>) -> String {
    let many = if one == "vertex" { "vertices" } else { "hyperedges" };
    match range.len() {
        0 => format!("no {many}"),
        1 => format!("{one} {} alone", range.start),
        _ => format!("{many} {} to {}", range.start, range.end - 1),
    }
}

/// What to do where nothing is known of the cause.
const SHIFT_BOTH: &str = ": the vertex row must be shifted by the number of vertices of all graphs before, \
                          the hyperedge row by their number of hyperedges";

fn cause(looks_like: Option<Misbatching>) -> String {
    cause_or(looks_like, "")
}

fn cause_or(looks_like: Option<Misbatching>, other: &str) -> String {
    looks_like.map_or_else(|| other.into(), |mistake| format!(". It looks like this: {mistake}"))
}

/// A place in an array, or in an array of lists.
fn place(table: &str, list: Option<usize>, position: usize) -> String {
    match list {
        Some(list) => format!("{table}[{list}][{position}]"),
        None => format!("{table}[{position}]"),
    }
}

/// A number of things, in the singular or plural.
fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// What windows read, and which others read more.
fn read_by(windows: &str, what: &str, bound: usize) -> String {
    let (of, others) = match windows {
        "shared" => (
            "the largest topology",
            "where each instance has values of its own, say Weights::consecutive or Weights::table",
        ),
        _ => ("all instances", "where all instances have the same values, say Weights::shared"),
    };
    format!("{windows} windows read {bound}, one for each of the {what} of {of}; {others}")
}

/// Which rows their strides place.
fn placed(instances: usize, rows: usize, row_stride: usize, instance_stride: Option<usize>) -> String {
    let (instances, rows) = (count(instances, "instance"), count(rows, "row"));
    match instance_stride {
        None => format!("the {rows} of {instances} in all, at a row stride of {row_stride},"),
        Some(stride) => format!(
            "{instances} at an instance stride of {stride}, of up to {rows} each at a row stride of \
             {row_stride},"
        ),
    }
}

fn below(bound: u64) -> String {
    match bound {
        0 => "no value would be right in front of the one behind it".into(),
        bound => format!("must be below {bound}"),
    }
}

fn other_context(value: usize, bound: usize) -> String {
    let where_it_is = match value == bound {
        true => {
            format!("both are on device {bound}, but a context counts as the same only as the same `Arc`")
        }
        false => format!("it is on device {value}, the plan on device {bound}"),
    };
    format!(
        "{where_it_is}; make the device from the context of its buffers and streams, by Device::from_context"
    )
}

/// `value` as a `u32`, or [`Error::TooLarge`].
pub(crate) fn fits_u32(what: &'static str, value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::TooLarge { what, value: value as u128, bound: u32::MAX.into() })
}

/// A vector of `len` zeros (`T::default()`), or [`Error::OutOfMemory`].
pub(crate) fn try_zeroed<T: Default + Clone>(what: &'static str, len: usize) -> Result<Vec<T>> {
    let mut vec = try_with_capacity(what, len)?;
    vec.resize(len, T::default());
    Ok(vec)
}

/// An empty vector with room for `len` elements, or [`Error::OutOfMemory`].
pub(crate) fn try_with_capacity<T>(what: &'static str, len: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len)
        .map_err(|_| Error::OutOfMemory { what, bytes: len as u128 * size_of::<T>() as u128 })?;
    Ok(vec)
}
