// Generated from bindings/c/src by cbindgen (HYPERSCATTER_WRITE_HEADER=1 cargo test --package hyperscatter-c header).
/* The C interface of hyperscatter: message passing on hypergraphs, on CPU and CUDA.

   Every function that returns int32_t returns a status: HS_OK, or an HS_ERROR_*, about which hs_last_error tells
   more. Each may return HS_ERROR_MISALIGNED and HS_ERROR_PANIC besides those that it lists. Handles are made by functions that write them to their last argument (null where they fail), and freed by
   hs_*_free. What a handle is made of may be freed before it. README.md tells the rules of ownership and
   threads.

   A call of an operator takes a workspace and a stream: a CUstream of the plan's device (NULL is the default
   stream), on which its work is queued. On the CPU the stream is not looked at, and the work is done when the call
   returns. */

#ifndef HYPERSCATTER_H
#define HYPERSCATTER_H

#include <stddef.h>
#include <stdint.h>
/* In hs_rows.instance_stride: the rows of all instances follow each other at the row stride, and `rows` is their
   number in all. For tables of instances of different sizes. */
#define HS_PACKED SIZE_MAX

/* What the caller was compiled for. */
#define HS_ABI_INIT                                                                                          \
    {HS_ABI_VERSION, (uint32_t)(sizeof(hs_rows) + sizeof(hs_out_rows)),                                      \
     (uint32_t)(sizeof(hs_values) + sizeof(hs_out_values) + sizeof(hs_weights)),                             \
     (uint32_t)(sizeof(hs_step) + sizeof(hs_step_gradients) + sizeof(hs_epilogue) +                          \
                sizeof(hs_epilogue_gradients) + sizeof(hs_layer_gradients)),                                 \
     (uint32_t)(sizeof(hs_plan_options) + sizeof(hs_workspace_options) + sizeof(hs_error))}

/* A plan on the CPU for `float`, with row normalization and documented weights; set `features`. */
#define HS_PLAN_OPTIONS_INIT                                                                                 \
    {HS_ABI_INIT, 0, HS_F32, 0, HS_NORMALIZATION_ROW, HS_WEIGHTS_DOCUMENTED, HS_CHECKS_DEFAULT, 0, 0,   \
     0, HS_PRECISION_THREE_BF16}

/* A workspace for the convolution and its backward that owns its memory; set `max_instances`. */
#define HS_WORKSPACE_OPTIONS_INIT {HS_ABI_INIT, 0, HS_OPERATORS_TRAINING, HS_SCRATCH_OWNED}

/* For hs_last_error. */
#define HS_ERROR_INIT {sizeof(hs_error), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0}

/*
 The version of this interface. It changes whenever a function, a structure or a constant does in a way
 that older callers would notice.
 */
#define HS_ABI_VERSION 1

/*
 Indices are `int32_t`.
 */
#define HS_INT32 0

/*
 Indices are `int64_t`.
 */
#define HS_INT64 1

/*
 Indices are `uint32_t`.
 */
#define HS_UINT32 2

/*
 Indices are `uint64_t`.
 */
#define HS_UINT64 3

/*
 An already batched index in which all incidences are in the first graph is refused:
 `HS_ERROR_ALL_IN_FIRST_GRAPH`.
 */
#define HS_ALL_IN_FIRST_REJECT 0

/*
 It is meant.
 */
#define HS_ALL_IN_FIRST_ACCEPT 1

/*
 `hs_error.instance` tells something.
 */
#define HS_FACT_INSTANCE 1

/*
 `hs_error.position` tells something.
 */
#define HS_FACT_POSITION 2

/*
 `hs_error.value` tells something.
 */
#define HS_FACT_VALUE 4

/*
 `hs_error.bound` tells something.
 */
#define HS_FACT_BOUND 8

/*
 `hs_error.degree` tells something.
 */
#define HS_FACT_DEGREE 16

/*
 A vertex that a hyperedge lists more than once counts each time, as in PyTorch Geometric.
 */
#define HS_REPEATS_KEEP 0

/*
 Such a hypergraph is refused: `HS_ERROR_REPEATED_INCIDENCE`.
 */
#define HS_REPEATS_REJECT 1

/*
 The first occurrence alone is kept.
 */
#define HS_REPEATS_MERGE 2

/*
 No vertex gets a hyperedge of its own.
 */
#define HS_SELF_LOOPS_NONE 0

/*
 Each vertex without a hyperedge gets one.
 */
#define HS_SELF_LOOPS_ISOLATED 1

/*
 Each vertex gets one.
 */
#define HS_SELF_LOOPS_ALL 2

/*
 Along vertices.
 */
#define HS_VERTEX 0

/*
 Along hyperedges.
 */
#define HS_HYPEREDGE 1

/*
 The output is not computed.
 */
#define HS_SKIP 0

/*
 The output is overwritten.
 */
#define HS_OVERWRITE 1

/*
 The result is added to what the output holds.
 */
#define HS_ACCUMULATE 2

/*
 Each instance reads the same weights, from the first on.
 */
#define HS_WINDOWS_SHARED 0

/*
 Each instance has weights of its own, one window behind the other.
 */
#define HS_WINDOWS_CONSECUTIVE 1

/*
 Windows begin where an `hs_windows` says.
 */
#define HS_WINDOWS_TABLE 2

/*
 Rows are summed.
 */
#define HS_SUM 0

/*
 Rows are averaged.
 */
#define HS_MEAN 1

/*
 No activation.
 */
#define HS_IDENTITY 0

/*
 max(u, 0).
 */
#define HS_RELU 1

/*
 u Φ(u).
 */
#define HS_GELU 2

/*
 Its approximation by tanh.
 */
#define HS_GELU_TANH 3

/*
 u σ(u).
 */
#define HS_SILU 4

/*
 `float`.
 */
#define HS_F32 0

/*
 `double`; the only type whose accumulation type is `double`. That of all others is `float`.
 */
#define HS_F64 1

/*
 IEEE 754 binary16.
 */
#define HS_F16 2

/*
 bfloat16.
 */
#define HS_BF16 3

/*
 The convolution divides by the degree of the vertex that it stores.
 */
#define HS_NORMALIZATION_ROW 0

/*
 It divides by the roots of the degrees of both vertices.
 */
#define HS_NORMALIZATION_SYMMETRIC 1

/*
 It divides by no degree.
 */
#define HS_NORMALIZATION_NONE 2

/*
 Weights are in the message and in the degree, as in the paper and in PyTorch Geometric's documentation.
 */
#define HS_WEIGHTS_DOCUMENTED 0

/*
 Weights are in the degree alone: what PyTorch Geometric 2.8 computes.
 */
#define HS_WEIGHTS_DEGREE_ONLY 1

/*
 Weights are in the message alone: DHG 0.9.7's `v2v(x, "mean", e_weight=w)`.
 */
#define HS_WEIGHTS_MESSAGE_ONLY 2

/*
 Kernels check indices if the library was built with debug assertions.
 */
#define HS_CHECKS_DEFAULT 0

/*
 Kernels check every index. On the CPU indices cannot be wrong, and this is not looked at.
 */
#define HS_CHECKS_ON 1

/*
 Kernels check none.
 */
#define HS_CHECKS_OFF 2

/*
 A layer multiplies `float` on a device by three products of bfloat16, of what that has of each factor and
 of the rest: the relative error of a product is about 2^-16 at most.
 */
#define HS_PRECISION_THREE_BF16 0

/*
 A layer multiplies `float` on a device by TF32, which has 11 bits: faster, with a relative error of up to
 2^-10.
 */
#define HS_PRECISION_TF32 1

/*
 A topology is computed by gathers.
 */
#define HS_PATH_GATHER 0

/*
 A topology is computed by its dense operator: up to 32 vertices.
 */
#define HS_PATH_DENSE 1

/*
 The step from vertices to hyperedges.
 */
#define HS_VERTEX_TO_HYPEREDGE 0

/*
 Its gradients.
 */
#define HS_VERTEX_TO_HYPEREDGE_BACKWARD 1

/*
 The step from hyperedges to vertices.
 */
#define HS_HYPEREDGE_TO_VERTEX 2

/*
 Its gradients.
 */
#define HS_HYPEREDGE_TO_VERTEX_BACKWARD 3

/*
 The convolution.
 */
#define HS_CONV 4

/*
 The convolution that also stores z.
 */
#define HS_CONV_SAVING_Z 5

/*
 The gradients of the convolution.
 */
#define HS_CONV_BACKWARD 6

/*
 The same from a saved z.
 */
#define HS_CONV_BACKWARD_FROM_Z 7

/*
 The convolution with an epilogue.
 */
#define HS_CONV_EPILOGUE 8

/*
 Its gradients.
 */
#define HS_CONV_EPILOGUE_BACKWARD 9

/*
 The mean over the vertices of what that gives.
 */
#define HS_CONV_READOUT 10

/*
 Its gradients.
 */
#define HS_CONV_READOUT_BACKWARD 11

/*
 The matrix of the convolution.
 */
#define HS_CONV_MATRIX 12

/*
 Its gradient.
 */
#define HS_CONV_MATRIX_BACKWARD 13

/*
 Inner products of rows.
 */
#define HS_GRAM 14

/*
 Their gradient.
 */
#define HS_GRAM_BACKWARD 15

/*
 A layer: a linear map of each row, the convolution and an epilogue.
 */
#define HS_LAYER 16

/*
 Its gradients.
 */
#define HS_LAYER_BACKWARD 17

/*
 In `hs_workspace_options.operators`: the convolution and its backward.
 */
#define HS_OPERATORS_TRAINING ((1 << HS_CONV) | (1 << HS_CONV_BACKWARD))

/*
 In `hs_workspace_options.operators`: a layer and its backward.
 */
#define HS_OPERATORS_LAYERS ((1 << HS_LAYER) | (1 << HS_LAYER_BACKWARD))

/*
 In `hs_workspace_options.operators`: all. Nothing is made for those that the plan has not. Without
 `HS_OPERATORS_LAYERS` memory on the CPU does not grow with `max_instances`.
 */
#define HS_OPERATORS_ALL ((1 << 18) - 1)

/*
 The workspace owns its scratch memory.
 */
#define HS_SCRATCH_OWNED 0

/*
 The caller owns it, and lends it by `hs_workspace_lend_scratch`. Else a workspace has on the device a
 record of errors of a few bytes, with checks or symmetric normalization, and nothing that depends on
 `max_instances`.
 */
#define HS_SCRATCH_LENT 1

/*
 The call did what it was asked for.
 */
#define HS_OK 0

/*
 A pointer is null that must not be: `what` names the argument.
 */
#define HS_ERROR_NULL 1

/*
 A number stands for nothing: `what` names the argument, `value` is the number, and it must be below
 `bound`. Or, without these two, z is not to be overwritten, or arrays are not of one integer type.
 */
#define HS_ERROR_ARGUMENT 2

/*
 The caller was compiled with another version of the header: `what` names the version or the structure,
 `value` is the caller's number or size, `bound` this library's.
 */
#define HS_ERROR_ABI 3

/*
 Another thread is in a call of this workspace.
 */
#define HS_ERROR_BUSY 4

/*
 A buffer is too short for a text: `value` is its size, `bound` the size that would do.
 */
#define HS_ERROR_CAPACITY 5

/*
 A handle is for the other backend, or for another device: `what` names it.
 */
#define HS_ERROR_BACKEND 6

/*
 A mistake of this library was caught; the message tells where. Handles of the call are not to be used any
 more, only freed.
 */
#define HS_ERROR_PANIC 7

/*
 An error of the library that has no number of its own yet; the message tells all.
 */
#define HS_ERROR_UNKNOWN 8

/*
 A vertex id is negative, or not below the number of vertices.
 */
#define HS_ERROR_VERTEX_OUT_OF_RANGE 100

/*
 A hyperedge id is negative, or not below the number of hyperedges.
 */
#define HS_ERROR_HYPEREDGE_OUT_OF_RANGE 101

/*
 A CSR pointer is smaller than the one before it, which is `bound`.
 */
#define HS_ERROR_POINTERS_NOT_MONOTONE 102

/*
 There are no CSR pointers at all.
 */
#define HS_ERROR_NO_POINTERS 103

/*
 The first CSR pointer is not 0.
 */
#define HS_ERROR_FIRST_POINTER_NOT_ZERO 104

/*
 The last CSR pointer is not the length of the array that the pointers point into.
 */
#define HS_ERROR_LAST_POINTER 105

/*
 Two arrays that belong together differ in length.
 */
#define HS_ERROR_LENGTH_MISMATCH 106

/*
 A vertex (`value`) stands twice in one hyperedge, and that was to be refused.
 */
#define HS_ERROR_REPEATED_INCIDENCE 107

/*
 A topology id of a table of instances is out of range.
 */
#define HS_ERROR_TOPOLOGY_OUT_OF_RANGE 108

/*
 A graph id is negative, or not below the number of graphs.
 */
#define HS_ERROR_GRAPH_OUT_OF_RANGE 109

/*
 There is not one number of vertices (or hyperedges) for each graph.
 */
#define HS_ERROR_COUNTS_LENGTH 110

/*
 A number of vertices or hyperedges of a graph (`position`) is negative.
 */
#define HS_ERROR_NEGATIVE_COUNT 111

/*
 Graph ids decrease; the id before is `bound`.
 */
#define HS_ERROR_GRAPH_IDS_NOT_SORTED 112

/*
 An incidence joins a vertex of one graph (`instance`) with a hyperedge (`value`) of another.
 */
#define HS_ERROR_CROSS_GRAPH_INCIDENCE 113

/*
 An already batched index looks as if nobody had shifted it.
 */
#define HS_ERROR_ALL_IN_FIRST_GRAPH 114

/*
 An instance's window ends past the last weight (or scale); `value` is its offset.
 */
#define HS_ERROR_WINDOW_OUT_OF_RANGE 115

/*
 Shared or consecutive windows leave some weights (or scales) unread.
 */
#define HS_ERROR_UNREAD_WEIGHTS 116

/*
 An offset of a window table is negative or too large.
 */
#define HS_ERROR_OFFSET_OUT_OF_RANGE 117

/*
 A window table was made for another batch.
 */
#define HS_ERROR_WINDOW_TABLE_MISMATCH 118

/*
 A window table of vertices was given for values of hyperedges, or the other way round.
 */
#define HS_ERROR_WINDOW_TABLE_AXIS 119

/*
 A window table has fewer offsets than a call has instances.
 */
#define HS_ERROR_WINDOW_TABLE_LENGTH 120

/*
 A number does not fit its type, or an array has more bytes than memory can have.
 */
#define HS_ERROR_TOO_LARGE 121

/*
 Memory could not be had; `value` is the number of bytes. Or so many `"threads"` could not be started.
 */
#define HS_ERROR_OUT_OF_MEMORY 122

/*
 The rows of an operand have another number of features than the plan.
 */
#define HS_ERROR_FEATURES_MISMATCH 123

/*
 The length of an operand is no whole number of rows.
 */
#define HS_ERROR_PARTIAL_ROW 124

/*
 The rows of an operand are no whole number of instances.
 */
#define HS_ERROR_PARTIAL_INSTANCE 125

/*
 An operand has another number of rows than the batch.
 */
#define HS_ERROR_ROWS_MISMATCH 126

/*
 Operands of one call differ in their number of instances.
 */
#define HS_ERROR_INSTANCES_MISMATCH 127

/*
 No operand tells how many copies of a batch there are.
 */
#define HS_ERROR_UNKNOWN_INSTANCES 128

/*
 A gradient has another length than what it is the gradient of.
 */
#define HS_ERROR_GRADIENT_MISMATCH 129

/*
 Rows placed by their strides end past the operand's last element.
 */
#define HS_ERROR_STRIDE 130

/*
 Rows of an output overlap; `value` is the stride, `bound` the least that it may be.
 */
#define HS_ERROR_OVERLAP 131

/*
 A call has more instances than its workspace was made for.
 */
#define HS_ERROR_TOO_MANY_INSTANCES 132

/*
 The degree of a vertex (`position`) is negative under symmetric normalization; `degree` is it.
 */
#define HS_ERROR_NEGATIVE_DEGREE 133

/*
 The CUDA driver's library cannot be used.
 */
#define HS_ERROR_DRIVER_UNAVAILABLE 134

/*
 The CUDA driver is too old; `value` and `bound` are 1000 times the major version of CUDA that it supports,
 or that is needed, plus ten times the minor one.
 */
#define HS_ERROR_DRIVER_TOO_OLD 135

/*
 There is no CUDA device of this ordinal (`value`); `bound` is the number of devices.
 */
#define HS_ERROR_NO_DEVICE 136

/*
 The CUDA device is too old; `value` and `bound` are ten times the major compute capability plus the minor
 one.
 */
#define HS_ERROR_UNSUPPORTED_ARCHITECTURE 137

/*
 A call of the CUDA driver failed; `value` is its `CUresult`.
 */
#define HS_ERROR_DRIVER 138

/*
 A checked kernel found a wrong value in a table on the device.
 */
#define HS_ERROR_INDEX_OUT_OF_BOUNDS 139

/*
 An operand or a stream belongs to another CUDA context than the device.
 */
#define HS_ERROR_WRONG_CONTEXT 140

/*
 The address of an operand, an array, a structure or a result (`value`) is not a multiple of the size of
 its elements, or of its alignment (`bound`).
 */
#define HS_ERROR_MISALIGNED 141

/*
 An output (`what`) shares memory with another operand (`other`).
 */
#define HS_ERROR_SHARED_MEMORY 142

/*
 A call that cannot be part of a CUDA graph was made while its stream was being captured.
 */
#define HS_ERROR_CAPTURING 143

/*
 A workspace was to be made on the per-thread default stream.
 */
#define HS_ERROR_PER_THREAD_STREAM 144

/*
 A plan was given another number of paths than its batch has topologies.
 */
#define HS_ERROR_PATHS_MISMATCH 145

/*
 A topology (`position`) cannot be on the path that was given for it.
 */
#define HS_ERROR_PATH_UNAVAILABLE 146

/*
 An operator with a matrix for each instance was called for a topology (`position`) that is too large.
 */
#define HS_ERROR_MATRIX_UNAVAILABLE 147

/*
 Matrices are no whole number of them; `bound` is the number of values of one.
 */
#define HS_ERROR_PARTIAL_MATRIX 148

/*
 A workspace was made for other operators.
 */
#define HS_ERROR_NOT_MADE_FOR 149

/*
 A call needs scratch memory (`bound` bytes), and its workspace was lent none.
 */
#define HS_ERROR_NO_SCRATCH 150

/*
 A call needs more scratch memory (`bound` bytes) than its workspace was lent (`value`).
 */
#define HS_ERROR_SCRATCH_TOO_SMALL 151

/*
 Scratch memory starts at an address (`value`) that is no multiple of `bound`.
 */
#define HS_ERROR_SCRATCH_MISALIGNED 152

/*
 Scratch memory was to be lent to a workspace that has its own.
 */
#define HS_ERROR_OWNS_SCRATCH 153

/*
 A workspace launched a kernel that it was made without: a mistake of this library.
 */
#define HS_ERROR_KERNEL_NOT_LOADED 154

/*
 Only a checked plan may read tables that were overwritten on the device.
 */
#define HS_ERROR_UNCHECKED_TABLES 155

/*
 Tables of a batch that others hold cannot be overwritten.
 */
#define HS_ERROR_BATCH_IN_USE 156

/*
 A range of a device table does not lie within it.
 */
#define HS_ERROR_TABLE_RANGE 157

/*
 A value does not fit into a device table.
 */
#define HS_ERROR_TABLE_VALUE 158

/*
 A layer was called that no kernel computes in one pass; `value` lies beyond the limit `bound`.
 */
#define HS_ERROR_LAYER_UNAVAILABLE 159

/*
 Hypergraphs that are computed together: any number of copies of one, or a table of instances. It never
 changes, and any number of threads may use it.
 */
typedef struct hs_batch hs_batch;

/*
 A CUDA device, by its primary context, which other frameworks use, too. Each handle is a device of its
 own: tables and windows that were made for one are not for another, also where both have the same ordinal.
 */
typedef struct hs_device hs_device;

/*
 The incidences of one hypergraph, validated. It never changes, and any number of threads may use it.
 */
typedef struct hs_incidence hs_incidence;

/*
 What stays from call to call: a batch, the element type, the number of features F, the conventions of the
 convolution, and the backend. It never changes, and any number of threads may use it.
 */
typedef struct hs_plan hs_plan;

/*
 Where each instance's window of weights (or scales) begins. It never changes, and any number of threads
 may use it.
 */
typedef struct hs_windows hs_windows;

/*
 The scratch memory of calls. One thread at a time may use it, any thread.
 */
typedef struct hs_workspace hs_workspace;

/*
 An array of ids, pointers, counts or offsets.
 */
typedef struct {
    /*
     The first; may be null where there are none.
     */
    const void *data;
    /*
     How many there are.
     */
    size_t len;
    /*
     Their type: `HS_INT32`, …
     */
    uint32_t integers;
} hs_indices;

/*
 What a batch is.
 */
typedef struct {
    /*
     1 for any number of copies of one hypergraph, 0 for a table of instances.
     */
    uint32_t is_replicated;
    /*
     The number of different hypergraphs.
     */
    size_t topologies;
    /*
     The number of instances of a table; 0 for copies, whose calls tell it.
     */
    size_t instances;
    /*
     The vertices of the largest hypergraph in use: the `n` of padded operands.
     */
    size_t largest_vertices;
    /*
     Its hyperedges, if it has the most: the weights that shared windows read.
     */
    size_t largest_hyperedges;
} hs_batch_sizes;

/*
 What was wrong with the last call of a thread that failed. Numbers that do not fit are the nearest that
 do. Strings are valid until another call on the same thread fails, and are null where there is nothing to
 tell.
 */
typedef struct {
    /*
     `sizeof(hs_error)`, set by the caller.
     */
    size_t size;
    /*
     The status that the call returned; `HS_OK` where none has failed yet.
     */
    int32_t status;
    /*
     Which of the numbers below tell something: a sum of `HS_FACT_*`.
     */
    uint32_t facts;
    /*
     The name of the status.
     */
    const char *name;
    /*
     What is wrong and what to do, in English.
     */
    const char *message;
    /*
     The operand, table, argument, operator or call at fault.
     */
    const char *what;
    /*
     What sets the bound, or the second operand at fault.
     */
    const char *other;
    /*
     The instance; for tables of graphs the graph, for lists of members the list.
     */
    int64_t instance;
    /*
     The position in the table; for topologies the topology, for degrees the vertex.
     */
    int64_t position;
    /*
     The value that was found.
     */
    int64_t value;
    /*
     The bound that it broke.
     */
    int64_t bound;
    /*
     The degree that is negative.
     */
    double degree;
} hs_error;

/*
 The sizes of a hypergraph.
 */
typedef struct {
    /*
     The number of vertices, isolated ones included.
     */
    size_t vertices;
    /*
     The number of hyperedges, empty ones included.
     */
    size_t hyperedges;
    /*
     The number of incidences.
     */
    size_t incidences;
} hs_incidence_sizes;

/*
 Feature rows that are read. Row `i` of instance `g` starts at element
 `g * instance_stride + i * row_stride`, and its `features` elements are contiguous. Strides may be 0, and
 rows may overlap.

 The memory of an operand is all from its first element to its last, with what lies between its rows.
 */
typedef struct {
    /*
     The first element, of the plan's type (of its accumulation type where an operator says so): in host
     memory for a plan on the CPU, in device memory for one on a device.
     */
    const void *data;
    /*
     The number of instances.
     */
    size_t instances;
    /*
     The rows of an instance; of the largest one where instances differ. With `HS_PACKED`, of all.
     */
    size_t rows;
    /*
     The elements of a row.
     */
    size_t features;
    /*
     From one row to the next, in elements.
     */
    size_t row_stride;
    /*
     From one instance to the next, in elements; or `HS_PACKED`.
     */
    size_t instance_stride;
} hs_rows;

/*
 Numbers that are read, one behind the other.
 */
typedef struct {
    /*
     The first; may be null where there are none. The operators say of which type.
     */
    const void *data;
    /*
     How many there are.
     */
    size_t len;
} hs_values;

/*
 Weights of hyperedges, or scales of vertices or hyperedges, of the plan's accumulation type.
 */
typedef struct {
    /*
     The numbers.
     */
    hs_values values;
    /*
     Which of them an instance reads: `HS_WINDOWS_SHARED`, …
     */
    uint32_t windows;
    /*
     With `HS_WINDOWS_TABLE` where the windows begin; else it is not looked at.
     */
    const hs_windows *table;
} hs_weights;

/*
 What follows the convolution in the same pass: act(u + bias), to which a residual may be added.
 */
typedef struct {
    /*
     `HS_IDENTITY`, `HS_RELU`, …
     */
    uint32_t activation;
    /*
     F numbers of the accumulation type, or null.
     */
    const hs_values *bias;
} hs_epilogue;

/*
 Feature rows that are written. They do not overlap. Elements between rows stay as they are, but nobody
 else may use them as long as the work runs: the memory of an operand is all from its first element to its
 last.
 */
typedef struct {
    /*
     The first element, as in `hs_rows`.
     */
    void *data;
    /*
     The number of instances.
     */
    size_t instances;
    /*
     The rows of an instance; of the largest one where instances differ. With `HS_PACKED`, of all.
     */
    size_t rows;
    /*
     The elements of a row.
     */
    size_t features;
    /*
     From one row to the next, in elements.
     */
    size_t row_stride;
    /*
     From one instance to the next, in elements; or `HS_PACKED`.
     */
    size_t instance_stride;
    /*
     `HS_SKIP`, `HS_OVERWRITE` or `HS_ACCUMULATE`.
     */
    uint32_t mode;
} hs_out_rows;

/*
 Numbers that are written, one behind the other.
 */
typedef struct {
    /*
     The first; may be null where there are none.
     */
    void *data;
    /*
     How many there are.
     */
    size_t len;
    /*
     `HS_SKIP`, `HS_OVERWRITE` or `HS_ACCUMULATE`.
     */
    uint32_t mode;
} hs_out_values;

/*
 Where the gradients of a layer go; each may be null, and is not computed then.
 */
typedef struct {
    /*
     Of x: rows of as many elements as the plan has inputs.
     */
    const hs_out_rows *x;
    /*
     Of Theta: `features` times `inputs` numbers of the accumulation type.
     */
    const hs_out_values *theta;
    /*
     Of the weights, as many as there are weights, of the accumulation type.
     */
    const hs_out_values *weights;
    /*
     Of the bias: F numbers of the accumulation type.
     */
    const hs_out_values *bias;
    /*
     Of the residual.
     */
    const hs_out_rows *residual;
} hs_layer_gradients;

/*
 What a step computes.
 */
typedef struct {
    /*
     `HS_SUM` or `HS_MEAN`.
     */
    uint32_t reduce;
    /*
     Factors of the rows of vertices, or null.
     */
    const hs_weights *vertex_scale;
    /*
     Factors of the rows of hyperedges, or null.
     */
    const hs_weights *hyperedge_scale;
} hs_step;

/*
 Where the gradients of a step go; each may be null, and is not computed then.
 */
typedef struct {
    /*
     Of the rows that the step read.
     */
    const hs_out_rows *rows;
    /*
     Of the scale of vertices, as many as there are values in it, of the accumulation type.
     */
    const hs_out_values *vertex_scale;
    /*
     Of the scale of hyperedges, likewise.
     */
    const hs_out_values *hyperedge_scale;
} hs_step_gradients;

/*
 Where the gradients of a convolution with an epilogue go; each may be null, and is not computed then.
 */
typedef struct {
    /*
     Of x.
     */
    const hs_out_rows *x;
    /*
     Of the weights, as many as there are weights, of the accumulation type.
     */
    const hs_out_values *weights;
    /*
     Of the bias: F numbers of the accumulation type.
     */
    const hs_out_values *bias;
    /*
     Of the residual.
     */
    const hs_out_rows *residual;
} hs_epilogue_gradients;

/*
 What a caller takes the interface for; `HS_ABI_INIT` fills it in. Its own layout never changes.
 */
typedef struct {
    /*
     `HS_ABI_VERSION`.
     */
    uint32_t version;
    /*
     `sizeof(hs_rows) + sizeof(hs_out_rows)`.
     */
    uint32_t rows;
    /*
     `sizeof(hs_values) + sizeof(hs_out_values) + sizeof(hs_weights)`.
     */
    uint32_t values;
    /*
     `sizeof(hs_step) + sizeof(hs_step_gradients) + sizeof(hs_epilogue) + sizeof(hs_epilogue_gradients) +
     sizeof(hs_layer_gradients)`.
     */
    uint32_t steps;
    /*
     `sizeof(hs_plan_options) + sizeof(hs_workspace_options) + sizeof(hs_error)`.
     */
    uint32_t options;
} hs_abi;

/*
 What a plan is made of. `HS_PLAN_OPTIONS_INIT` gives one with the defaults: `HS_F32` on the CPU, row
 normalization, documented weights.
 */
typedef struct {
    /*
     `HS_ABI_INIT`.
     */
    hs_abi abi;
    /*
     Null for the CPU. The plan keeps what it needs of the device.
     */
    const hs_device *device;
    /*
     The type of features: `HS_F32`, …
     */
    uint32_t element;
    /*
     The number of features F of a row.
     */
    size_t features;
    /*
     `HS_NORMALIZATION_ROW`, …
     */
    uint32_t normalization;
    /*
     `HS_WEIGHTS_DOCUMENTED`, …
     */
    uint32_t weight_use;
    /*
     `HS_CHECKS_DEFAULT`, …
     */
    uint32_t checks;
    /*
     `HS_PATH_*` for each topology of the batch, or null where the plan is to choose.
     */
    const uint32_t *paths;
    /*
     How many paths there are.
     */
    size_t n_paths;
    /*
     The number of features of a layer's x; 0 for as many as `features`. Nothing else uses it.
     */
    size_t inputs;
    /*
     How layers multiply `float` on a device: `HS_PRECISION_THREE_BF16`, … Nothing else uses it.
     */
    uint32_t precision;
} hs_plan_options;

/*
 What a workspace is made for. `HS_WORKSPACE_OPTIONS_INIT` gives one for training that owns its memory.
 */
typedef struct {
    /*
     `HS_ABI_INIT`.
     */
    hs_abi abi;
    /*
     The most instances that a call may have. It costs nothing on the CPU, whose workspaces grow by some
     four mebibytes at most however large it is, but for layers (see `operators`), and nothing with
     `HS_SCRATCH_LENT`: who knows no bound gives `UINT32_MAX`, the most that a device takes, or less where
     vertices or hyperedges, times features, are 2^32 and more (else `HS_ERROR_TOO_LARGE`), and on the CPU
     leaves layers to another workspace. With `HS_SCRATCH_OWNED` there is device memory for so many.
     */
    size_t max_instances;
    /*
     The operators, each `1 << HS_CONV` or so. On the CPU a layer and its backward have up to four rows of
     `features` sums for each vertex of `max_instances` instances, which are reserved, and untouched until
     a call needs them.
     */
    uint32_t operators;
    /*
     `HS_SCRATCH_OWNED` or `HS_SCRATCH_LENT`. On the CPU a workspace has its own memory in any case.
     */
    uint32_t scratch;
} hs_workspace_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 The version of the interface that this library has: `HS_ABI_VERSION` of the header that came with it.

 The caller promises:
 It is always safe to call.
 */
uint32_t hs_abi_version(void);

/*
 Any number of copies of one hypergraph. Each call tells how many.

 Errors: `HS_ERROR_NULL`.

 The caller promises:
 `incidence` is null or a living handle; `batch` is null or may be written.
 */
int32_t hs_batch_copies(const hs_incidence *incidence, hs_batch **batch);

/*
 A table of instances: instance `g` is a copy of `incidences[topology_ids[g]]`.

 Errors: `HS_ERROR_TOPOLOGY_OUT_OF_RANGE`, `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`,
 `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.

 The caller promises:
 Pointers are null or point to what they say; `incidences` has `n_incidences` handles, each null or living.
 */
int32_t hs_batch_from_table(const hs_incidence *const *incidences,
                            size_t n_incidences,
                            const hs_indices *topology_ids,
                            hs_batch **batch);

/*
 A table with one instance of each of these hypergraphs, in order.

 Errors: `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_NULL`.

 The caller promises:
 Pointers are null or point to what they say; `incidences` has `n_incidences` handles, each null or living.
 */
int32_t hs_batch_concat(const hs_incidence *const *incidences, size_t n_incidences, hs_batch **batch);

/*
 A table of `n_graphs` instances from an already batched index: incidence `i` puts vertex `vertices[i]`
 into hyperedge `hyperedges[i]`, both numbered over the whole batch. `vertex_counts` and `hyperedge_counts`
 have for each graph the vertices and hyperedges that it owns, in order. Each incidence is checked against
 them, so that an index that was shifted wrongly is refused.

 All four arrays have the same integer type.

 Errors: `HS_ERROR_CROSS_GRAPH_INCIDENCE`, `HS_ERROR_ALL_IN_FIRST_GRAPH`, `HS_ERROR_VERTEX_OUT_OF_RANGE`,
 `HS_ERROR_HYPEREDGE_OUT_OF_RANGE`, `HS_ERROR_REPEATED_INCIDENCE`, `HS_ERROR_LENGTH_MISMATCH`,
 `HS_ERROR_COUNTS_LENGTH`, `HS_ERROR_NEGATIVE_COUNT`, `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`,
 `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`. Messages say what mistake of a loader the index looks like.

 The caller promises:
 Pointers are null or point to what they say, and arrays have as many elements as they say.
 */
int32_t hs_batch_from_batched_coo(size_t n_graphs,
                                  const hs_indices *vertices,
                                  const hs_indices *hyperedges,
                                  const hs_indices *vertex_counts,
                                  const hs_indices *hyperedge_counts,
                                  uint32_t repeats,
                                  uint32_t all_in_first,
                                  hs_batch **batch);

/*
 What a batch is, and how large.

 Errors: `HS_ERROR_NULL`.

 The caller promises:
 `batch` is null or a living handle; `sizes` is null or may be written.
 */
int32_t hs_batch_get_sizes(const hs_batch *batch, hs_batch_sizes *sizes);

/*
 Where the rows of an instance start among those of all instances along an axis (`HS_VERTEX` or
 `HS_HYPEREDGE`), in rows. With the number of instances it is the number of all rows.

 Errors: `HS_ERROR_TOO_MANY_INSTANCES` where a table has fewer, `HS_ERROR_TOO_LARGE`, `HS_ERROR_ARGUMENT`,
 `HS_ERROR_NULL`.

 The caller promises:
 `batch` is null or a living handle; `start` is null or may be written.
 */
int32_t hs_batch_get_start(const hs_batch *batch, uint32_t axis, size_t instance, size_t *start);

/*
 Frees a handle, or does nothing for null. Plans keep what they need.

 The caller promises:
 `batch` is null or a living handle, which nobody uses any more.
 */
void hs_batch_free(hs_batch *batch);

/*
 Opens the CUDA device of this ordinal. Building and loading this library needs no CUDA: the driver is
 looked for here. Waits for all work of the context, so no stream of it may be captured meanwhile. Open
 each device once, and keep it: see `hs_device`.

 Errors: `HS_ERROR_DRIVER_UNAVAILABLE`, `HS_ERROR_DRIVER_TOO_OLD`, `HS_ERROR_NO_DEVICE`,
 `HS_ERROR_UNSUPPORTED_ARCHITECTURE`, `HS_ERROR_DRIVER`, `HS_ERROR_NULL`.

 The caller promises:
 `device` is null or may be written.
 */
int32_t hs_device_open(uint32_t ordinal, hs_device **device);

/*
 Frees a handle, or does nothing for null. Plans keep what they need.

 The caller promises:
 `device` is null or a living handle, which nobody uses any more.
 */
void hs_device_free(hs_device *device);

/*
 Tells what was wrong with the last call of this thread that failed. Calls that succeed leave it.

 Returns `HS_ERROR_NULL` for a null pointer, `HS_ERROR_MISALIGNED` for one that cannot be to an `hs_error`,
 and `HS_ERROR_ABI` where `error->size` is not the size of `hs_error`: set it before the call. None of
 these is remembered, and nothing is written then.

 The caller promises:
 `error` is null or points to an `hs_error` that may be written.
 */
int32_t hs_last_error(hs_error *error);

/*
 A hypergraph from compressed sparse rows by hyperedge: hyperedge `e` holds
 `edge_vertices[edge_ptr[e]]` up to before `edge_vertices[edge_ptr[e + 1]]`. There is one pointer more than
 there are hyperedges. Both arrays are copied.

 Errors: `HS_ERROR_NO_POINTERS`, `HS_ERROR_FIRST_POINTER_NOT_ZERO`, `HS_ERROR_POINTERS_NOT_MONOTONE`,
 `HS_ERROR_LAST_POINTER`, `HS_ERROR_VERTEX_OUT_OF_RANGE`, `HS_ERROR_REPEATED_INCIDENCE`,
 `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.

 The caller promises:
 Pointers are null or point to what they say, and arrays have as many elements as they say.
 */
int32_t hs_incidence_from_csr(size_t vertices,
                              const hs_indices *edge_ptr,
                              const hs_indices *edge_vertices,
                              uint32_t repeats,
                              hs_incidence **incidence);

/*
 A hypergraph from coordinates: incidence `i` puts vertex `edge_vertices[i]` into hyperedge
 `hyperedges[i]`, in any order. These are the two rows of PyTorch Geometric's `hyperedge_index`. The number
 of hyperedges is `n_hyperedges`, so that empty ones at the end count. Both arrays are copied.

 Errors: `HS_ERROR_LENGTH_MISMATCH`, `HS_ERROR_VERTEX_OUT_OF_RANGE`, `HS_ERROR_HYPEREDGE_OUT_OF_RANGE`,
 `HS_ERROR_REPEATED_INCIDENCE`, `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_ARGUMENT`,
 `HS_ERROR_NULL`.

 The caller promises:
 Pointers are null or point to what they say, and arrays have as many elements as they say.
 */
int32_t hs_incidence_from_coo(size_t n_vertices,
                              size_t n_hyperedges,
                              const hs_indices *vertices,
                              const hs_indices *hyperedges,
                              uint32_t repeats,
                              hs_incidence **incidence);

/*
 A hypergraph of all subsets of `k` of `n` vertices, in lexicographic order: with `k` = 2 all pairs.

 Errors: `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_NULL`.

 The caller promises:
 `incidence` is null or may be written.
 */
int32_t hs_incidence_subsets(size_t n, size_t k, hs_incidence **incidence);

/*
 The same hypergraph with further hyperedges of one vertex each behind the others, in ascending order:
 for no vertex, for those without a hyperedge, or for all (`HS_SELF_LOOPS_*`).

 Errors: `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.

 The caller promises:
 `of` is null or a living handle; `incidence` is null or may be written.
 */
int32_t hs_incidence_with_self_loops(const hs_incidence *of, uint32_t self_loops, hs_incidence **incidence);

/*
 How many vertices, hyperedges and incidences there are.

 Errors: `HS_ERROR_NULL`.

 The caller promises:
 `incidence` is null or a living handle; `sizes` is null or may be written.
 */
int32_t hs_incidence_get_sizes(const hs_incidence *incidence, hs_incidence_sizes *sizes);

/*
 The incidences as compressed sparse rows by hyperedge, as `hs_incidence_from_csr` takes them: writes one
 more pointer than there are hyperedges to `edge_ptr`, and as many vertices as there are incidences to
 `edge_vertices` (which may be null where there are none).

 Errors: `HS_ERROR_NULL`.

 The caller promises:
 `incidence` is null or a living handle; the arrays are null or have room for what `hs_incidence_get_sizes`
 tells.
 */
int32_t hs_incidence_get_csr(const hs_incidence *incidence, int64_t *edge_ptr, int64_t *edge_vertices);

/*
 Frees a handle, or does nothing for null. Batches that were made of it keep what they need.

 The caller promises:
 `incidence` is null or a living handle, which nobody uses any more.
 */
void hs_incidence_free(hs_incidence *incidence);

/*
 A layer in one pass: y = act(M (x Theta^T) + bias) + residual, where M is the operator of `hs_conv`.

 The rows of `x` have as many elements as the plan has `inputs`, those of `y` and `residual` `features`.
 `theta` are `features` rows of `inputs` elements of the plan's type, without gaps, as PyTorch's `Linear`
 has them. `epilogue` may be null for none, and `residual`, too.

 On the CPU every plan has layers. On a device there are kernels for `HS_F32`, `HS_F16` and `HS_BF16` from
 compute capability 8.0 on, where no topology in use has more than 16 vertices, and for up to 256 inputs
 (512 of the 16-bit types); the backward needs the same of `features`. `hs_plan_check_operator` tells.
 Elsewhere multiply `x` by Theta^T with a library, and call `hs_conv_epilogue`.

 Tensor cores multiply: the bits are not those of the CPU, and may be others on a device of another
 architecture. They are the same in each call, and those of an instance the same alone and at any place.

 Errors: as `hs_vertex_to_hyperedge`, `HS_ERROR_LENGTH_MISMATCH`, `HS_ERROR_LAYER_UNAVAILABLE` and
 `HS_ERROR_MATRIX_UNAVAILABLE`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_layer(hs_workspace *workspace,
                 void *stream,
                 const hs_rows *x,
                 const hs_values *theta,
                 const hs_weights *weights,
                 const hs_epilogue *epilogue,
                 const hs_rows *residual,
                 const hs_out_rows *y);

/*
 Its gradients, given that of y, with the same epilogue. What the activation was applied to is computed
 again.

 Errors: as `hs_layer`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_layer_backward(hs_workspace *workspace,
                          void *stream,
                          const hs_rows *x,
                          const hs_values *theta,
                          const hs_weights *weights,
                          const hs_epilogue *epilogue,
                          const hs_rows *grad_y,
                          const hs_layer_gradients *gradients);

/*
 z_e = s_e Σ_{v∈e} r_v x_v: for each hyperedge the sum or the mean of the rows of its vertices. `x` has a
 row for each vertex, `z` one for each hyperedge.

 Errors: those of operands (`HS_ERROR_NULL`, `HS_ERROR_ARGUMENT`, `HS_ERROR_FEATURES_MISMATCH`,
 `HS_ERROR_ROWS_MISMATCH`, `HS_ERROR_INSTANCES_MISMATCH`, `HS_ERROR_TOO_MANY_INSTANCES`, `HS_ERROR_STRIDE`,
 `HS_ERROR_OVERLAP`, `HS_ERROR_MISALIGNED`, `HS_ERROR_SHARED_MEMORY`, and of windows and lengths), and of
 calls (`HS_ERROR_NOT_MADE_FOR`, `HS_ERROR_BUSY`, `HS_ERROR_NO_SCRATCH`, `HS_ERROR_SCRATCH_TOO_SMALL`,
 `HS_ERROR_NEGATIVE_DEGREE`, `HS_ERROR_INDEX_OUT_OF_BOUNDS`, `HS_ERROR_DRIVER`). A call that fails has
 written nothing, unless the driver failed between two launches.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_vertex_to_hyperedge(hs_workspace *workspace,
                               void *stream,
                               const hs_step *step,
                               const hs_rows *x,
                               const hs_out_rows *z);

/*
 The gradients of `hs_vertex_to_hyperedge`, given that of z.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_vertex_to_hyperedge_backward(hs_workspace *workspace,
                                        void *stream,
                                        const hs_step *step,
                                        const hs_rows *x,
                                        const hs_rows *grad_z,
                                        const hs_step_gradients *gradients);

/*
 y_v = t_v Σ_{e∋v} u_e z_e: for each vertex the sum or the mean of the rows of its hyperedges. `z` has a
 row for each hyperedge, `y` one for each vertex.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_hyperedge_to_vertex(hs_workspace *workspace,
                               void *stream,
                               const hs_step *step,
                               const hs_rows *z,
                               const hs_out_rows *y);

/*
 The gradients of `hs_hyperedge_to_vertex`, given that of y.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_hyperedge_to_vertex_backward(hs_workspace *workspace,
                                        void *stream,
                                        const hs_step *step,
                                        const hs_rows *z,
                                        const hs_rows *grad_y,
                                        const hs_step_gradients *gradients);

/*
 The convolution y = L H U B⁻¹ Hᵀ R x, with the conventions of the plan.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv(hs_workspace *workspace,
                void *stream,
                const hs_rows *x,
                const hs_weights *weights,
                const hs_out_rows *y);

/*
 The convolution that also stores z = B⁻¹ Hᵀ R x, a row of the accumulation type for each hyperedge, for
 `hs_conv_backward_from_z`. `z` is overwritten.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_saving_z(hs_workspace *workspace,
                         void *stream,
                         const hs_rows *x,
                         const hs_weights *weights,
                         const hs_out_rows *z,
                         const hs_out_rows *y);

/*
 The gradients of `hs_conv` by x and by the weights, given that of y. `grad_weights` has as many numbers of
 the accumulation type as there are weights.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_backward(hs_workspace *workspace,
                         void *stream,
                         const hs_rows *x,
                         const hs_weights *weights,
                         const hs_rows *grad_y,
                         const hs_out_rows *grad_x,
                         const hs_out_values *grad_weights);

/*
 The same from a saved z.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_backward_from_z(hs_workspace *workspace,
                                void *stream,
                                const hs_rows *x,
                                const hs_rows *z,
                                const hs_weights *weights,
                                const hs_rows *grad_y,
                                const hs_out_rows *grad_x,
                                const hs_out_values *grad_weights);

/*
 The convolution with an epilogue: y = act(u + bias) + residual, where u is what `hs_conv` stores.
 `epilogue` may be null for none, and `residual`, too.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_epilogue(hs_workspace *workspace,
                         void *stream,
                         const hs_rows *x,
                         const hs_weights *weights,
                         const hs_epilogue *epilogue,
                         const hs_rows *residual,
                         const hs_out_rows *y);

/*
 Its gradients, given that of y, with the same epilogue.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_epilogue_backward(hs_workspace *workspace,
                                  void *stream,
                                  const hs_rows *x,
                                  const hs_weights *weights,
                                  const hs_epilogue *epilogue,
                                  const hs_rows *grad_y,
                                  const hs_epilogue_gradients *gradients);

/*
 The mean over the vertices of each instance of what `hs_conv_epilogue` gives: F elements for each
 instance, one behind the other.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_readout(hs_workspace *workspace,
                        void *stream,
                        const hs_rows *x,
                        const hs_weights *weights,
                        const hs_epilogue *epilogue,
                        const hs_rows *residual,
                        const hs_out_values *readout);

/*
 Its gradients, given that of the readout, with the same epilogue.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_readout_backward(hs_workspace *workspace,
                                 void *stream,
                                 const hs_rows *x,
                                 const hs_weights *weights,
                                 const hs_epilogue *epilogue,
                                 const hs_values *grad_readout,
                                 const hs_epilogue_gradients *gradients);

/*
 The matrix M of the convolution y = M x of each instance, row by row, of the accumulation type. Each has
 as many rows and columns as the largest hypergraph in use has vertices, 64 at most (else
 `HS_ERROR_MATRIX_UNAVAILABLE`).

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_matrix(hs_workspace *workspace,
                       void *stream,
                       const hs_weights *weights,
                       const hs_out_values *matrix);

/*
 Its gradient by the weights, given that of the matrices.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_conv_matrix_backward(hs_workspace *workspace,
                                void *stream,
                                const hs_weights *weights,
                                const hs_values *grad_matrix,
                                const hs_out_values *grad_weights);

/*
 The inner products ⟨x_u, x_v⟩ of the rows of each instance, as matrices like those of `hs_conv_matrix`.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_gram(hs_workspace *workspace, void *stream, const hs_rows *x, const hs_out_values *gram);

/*
 Their gradient by x, given that of the matrices.

 Errors: as `hs_vertex_to_hyperedge`.

 The caller promises:
 Handles are null or living; other pointers are null or point to structures whose memory is as they say, on
 the plan's backend, and which nobody else uses as long as the work runs.
 */
int32_t hs_gram_backward(hs_workspace *workspace,
                         void *stream,
                         const hs_rows *x,
                         const hs_values *grad_gram,
                         const hs_out_rows *grad_x);

/*
 A plan. On a device the tables of the batch are uploaded, once for all plans of the batch; they stay there
 until the batch and all its plans and workspaces are freed. An upload waits for the default stream, and
 may not be while a stream is captured (see `hs_workspace_create`).

 Errors: `HS_ERROR_ABI` where the caller was compiled with another header; `HS_ERROR_PATHS_MISMATCH`,
 `HS_ERROR_PATH_UNAVAILABLE`, `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_DRIVER`,
 `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.

 The caller promises:
 `batch` and `options->device` are null or living handles, `options` is null or as it says, and `plan` is
 null or may be written.
 */
int32_t hs_plan_create(const hs_batch *batch, const hs_plan_options *options, hs_plan **plan);

/*
 Whether a plan has an operator (`HS_LAYER`, …). All have the steps and the convolution, with and without
 an epilogue. Matrices need small topologies, and layers on a device what `hs_layer` says. So a program
 finds out before it makes a workspace.

 Errors, which tell what is in the way: `HS_ERROR_MATRIX_UNAVAILABLE`, `HS_ERROR_LAYER_UNAVAILABLE`,
 `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.

 The caller promises:
 `plan` is null or a living handle.
 */
int32_t hs_plan_check_operator(const hs_plan *plan, uint32_t operator_);

/*
 What the calls of a plan do with so many instances, in English: launches, kernels, bytes, and how each
 topology is computed. Writes the text and a zero to `text`, which has room for `capacity` bytes, and the
 bytes that both take to `needed`, also where there is no room (or `text` is null).

 Errors: `HS_ERROR_CAPACITY` where there is no room, `HS_ERROR_INSTANCES_MISMATCH`, `HS_ERROR_TOO_LARGE`,
 `HS_ERROR_NULL`.

 The caller promises:
 `plan` is null or a living handle; `text` is null or has room for `capacity` bytes; `needed` is null or
 may be written.
 */
int32_t hs_plan_explain(const hs_plan *plan, size_t instances, char *text, size_t capacity, size_t *needed);

/*
 Frees a handle, or does nothing for null. Workspaces and windows keep what they need.

 The caller promises:
 `plan` is null or a living handle, which nobody uses any more.
 */
void hs_plan_free(hs_plan *plan);

/*
 Windows that begin where `offsets` says: instance `g` reads as many values from `offsets[g]` on as its
 topology has hyperedges (`HS_HYPEREDGE`, for weights and scales of hyperedges) or vertices (`HS_VERTEX`,
 for scales of vertices). They may overlap. A table of instances needs one offset for each, copies as many
 as a call will have instances.

 They serve every plan of the same batch on the same `hs_device` (or on the CPU). On a device they are
 uploaded, as the tables of a batch are for `hs_plan_create`.

 Errors: `HS_ERROR_LENGTH_MISMATCH`, `HS_ERROR_OFFSET_OUT_OF_RANGE`, `HS_ERROR_TOO_LARGE`,
 `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_DRIVER`, `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.

 The caller promises:
 `plan` is null or a living handle; `offsets` is null or as it says; `windows` is null or may be written.
 */
int32_t hs_windows_create(const hs_plan *plan,
                          uint32_t axis,
                          const hs_indices *offsets,
                          hs_windows **windows);

/*
 The name of a status, such as `"HS_ERROR_STRIDE"`; null for a number that is none. It is never freed.

 The caller promises:
 It is always safe to call.
 */
const char *hs_status_name(int32_t status);

/*
 Frees a handle, or does nothing for null.

 The caller promises:
 `windows` is null or a living handle, which nobody uses any more: no call, no work on a device, and no
 CUDA graph.
 */
void hs_windows_free(hs_windows *windows);

/*
 A workspace of a plan. On a device its kernels are loaded, which may take seconds the first time. On the
 CPU it has memory for as many threads as `hs_num_threads` tells now, and its calls run on as many.

 On a device it allocates and waits. CUDA forbids that while a stream is captured, whichever, by any thread
 in the global mode or by this one in the thread-local mode: this is `HS_ERROR_DRIVER` then, and the
 capture becomes invalid. Make workspaces before.

 Errors: `HS_ERROR_ABI`, `HS_ERROR_TOO_MANY_INSTANCES` where a table batch has more instances,
 `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_DRIVER`, `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.

 The caller promises:
 `plan` is null or a living handle, `options` is null or as it says, and `workspace` is null or may be
 written.
 */
int32_t hs_workspace_create(const hs_plan *plan,
                            const hs_workspace_options *options,
                            hs_workspace **workspace);

/*
 The bytes of scratch memory that a call of an operator (`HS_CONV`, …) with so many instances needs at
 most, whatever its options. On the CPU that is 0. A caller who lends memory for several operators lends
 the most that any of them needs.

 The driver is not called, also not while a stream is captured. But it takes up to some 100 microseconds,
 many times what a call takes: keep the number, which depends on plan, operator and instances alone.

 Errors: `HS_ERROR_NOT_MADE_FOR`, `HS_ERROR_TOO_MANY_INSTANCES`, `HS_ERROR_BUSY`, `HS_ERROR_ARGUMENT`,
 `HS_ERROR_NULL`.

 The caller promises:
 `workspace` is null or a living handle; `bytes` is null or may be written.
 */
int32_t hs_workspace_scratch_bytes(const hs_workspace *workspace,
                                   uint32_t operator_,
                                   size_t instances,
                                   size_t *bytes);

/*
 Lends scratch memory to a workspace that was made with `HS_SCRATCH_LENT`, instead of what was lent before:
 `bytes` bytes of device memory from an address on that is a multiple of 256. What it holds does not
 matter. Null takes it back. On the CPU nothing is needed, and nothing is done.

 It may be lent anew before each call, and costs next to nothing. A CUDA graph keeps the address that was
 lent when the call was captured. Calls that were lent memory of their own, each, may run at once on
 several streams, and beside replays: the record of errors is all that they share, and it takes those of
 all.

 Errors: `HS_ERROR_OWNS_SCRATCH`, `HS_ERROR_SCRATCH_MISALIGNED`, `HS_ERROR_BUSY`, `HS_ERROR_NULL`.

 The caller promises:
 `workspace` is null or a living handle. The memory stays alive until the work of all calls that are made
 with it has ended (of captured calls, until the last replay has), and nobody else uses it while that work
 runs.
 */
int32_t hs_workspace_lend_scratch(hs_workspace *workspace, void *memory, size_t bytes);

/*
 Waits for a stream, then returns and forgets the first error that a kernel found since the last check: a
 wrong index (with `HS_CHECKS_ON`), or a negative degree under symmetric normalization. After one, outputs
 since the last successful check are unspecified. On the CPU such errors are results of the calls, and this
 does nothing.

 It waits for this stream alone: an error of work that runs on another one meanwhile may be lost. While a
 stream is captured, the same holds as for `hs_workspace_create`; for the captured stream itself this is
 `HS_ERROR_CAPTURING`, and the capture goes on.

 Errors: `HS_ERROR_INDEX_OUT_OF_BOUNDS`, `HS_ERROR_NEGATIVE_DEGREE`, `HS_ERROR_CAPTURING`,
 `HS_ERROR_DRIVER`, `HS_ERROR_BUSY`, `HS_ERROR_NULL`.

 The caller promises:
 `workspace` is null or a living handle, and `stream` a living stream of its device (null is the default
 stream).
 */
int32_t hs_workspace_check(hs_workspace *workspace, void *stream);

/*
 Frees a handle, or does nothing for null. It may be called while a stream is captured that does not use
 it.

 The caller promises:
 `workspace` is null or a living handle, which nobody uses any more: no call, no work on a device, and no
 CUDA graph. Wait for the streams of its calls before.
 */
void hs_workspace_free(hs_workspace *workspace);

/*
 Sets the number of threads that workspaces on the CPU get from now on; 0 for as many as the process may
 run at once. Workspaces that are there keep theirs. Results do not depend on it.

 Threads are started when a workspace first needs so many, and kept. A forked process starts its own.

 Errors: `HS_ERROR_ARGUMENT` for more than 65,535.

 The caller promises:
 It is always safe to call.
 */
int32_t hs_set_num_threads(uint32_t threads);

/*
 The number of threads that workspaces on the CPU get now.

 The caller promises:
 It is always safe to call.
 */
uint32_t hs_num_threads(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HYPERSCATTER_H */
