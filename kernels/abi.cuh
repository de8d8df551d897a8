// Generated from src/cuda/args.rs by `HYPERSCATTER_WRITE_ABI=1 cargo test --lib abi`. Do not edit.
//
// What the host and the kernels must agree on: numbers that decide how rows are cut and added, what things
// are called by number, and the structures that kernels take and write. `cargo test` compares this file with
// the Rust definitions.

#pragma once

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;

static_assert(sizeof(u32) == 4 && sizeof(u64) == 8 && sizeof(void*) == 8, "sizes");

// NVRTC has no offsetof, but computes this; other compilers do not take it for a constant.
#if defined(__CUDACC_RTC__)
#define OFFSET_OF(structure, field) reinterpret_cast<u64>(&static_cast<structure*>(nullptr)->field)
#else
#define OFFSET_OF(structure, field) __builtin_offsetof(structure, field)
#endif

// As in src/cuda/geometry.rs and src/summation.rs.
enum : u32 {
    WARP = 32,
    THREADS = 128,
    VECTOR_BYTES = 16,
    SEGMENT = 512,
    SHORT_ROW = 8,
    ROWS_OF_SHORT_TILE = 4,
    SEGMENT_ROWS = 256,
    MOST_NODES = 128,
};

// Of a vertex whose degree is 0 or not finite, as in src/conv.rs.
enum : int {
    NO_SHIFT = -1048576,
};

// The least number of vertices that a dense kernel is compiled for, as in src/cuda/route.rs.
enum : u32 {
    SMALLEST_DENSE_CLASS = 8,
};

// Of the dense kernels, as in src/dense.rs and src/cuda/conv/dense/.
enum : u32 {
    DENSE_PART = 8,
    DENSE_ITEM_BYTES = 56,
    STAGED_TOGETHER = 4,
};

// The bytes of shared memory of each class, for numbers of 4 and of 8 bytes.
enum : u32 {
    DENSE8_CONV_BYTES_OF_4 = 440,
    DENSE8_BACKWARD_BYTES_OF_4 = 504,
    DENSE8_EXCHANGE_BYTES_OF_4 = 16896,
    DENSE8_CONV_BYTES_OF_8 = 760,
    DENSE8_BACKWARD_BYTES_OF_8 = 920,
    DENSE8_EXCHANGE_BYTES_OF_8 = 16896,
    DENSE16_CONV_BYTES_OF_4 = 1336,
    DENSE16_BACKWARD_BYTES_OF_4 = 1464,
    DENSE16_EXCHANGE_BYTES_OF_4 = 20992,
    DENSE16_CONV_BYTES_OF_8 = 2488,
    DENSE16_BACKWARD_BYTES_OF_8 = 2808,
    DENSE16_EXCHANGE_BYTES_OF_8 = 20992,
    DENSE32_CONV_BYTES_OF_4 = 4664,
    DENSE32_BACKWARD_BYTES_OF_4 = 4920,
    DENSE32_EXCHANGE_BYTES_OF_4 = 20992,
    DENSE32_CONV_BYTES_OF_8 = 9016,
    DENSE32_BACKWARD_BYTES_OF_8 = 9656,
    DENSE32_EXCHANGE_BYTES_OF_8 = 20992,
};

// Those of stages, which have 16 bytes of a row, or 8 of one of 16 bits.
enum : u32 {
    DENSE16_STAGES_BYTES_OF_32_BITS = 32768,
    DENSE16_STAGES_BYTES_OF_16_BITS = 16384,
};

// Of layers, as in src/cuda/conv/dense/layer.rs.
enum : u32 {
    LAYER_THREADS = 256,
    LAYER_WARPS = 8,
    LAYER_ITEM_BYTES = 48,
};

// The kernels, by the numbers that violations name them by.
enum Kernel : u32 {
    GATHER = 0,
    ADD_PARTIALS = 1,
    // Rows of the accumulation type are gathered into 16-bit ones; for other types it is `Gather`.
    GATHER_SUMS = 2,
    DEGREE = 3,
    WEIGHT_GRADIENT = 4,
    ROW_SCALE = 5,
    SUM_CHUNKS = 6,
    SUM_WINDOWS = 7,
    EDGE_SHIFT = 8,
    // Reads no table, and so reports nothing.
    DEGREE_GRADIENT = 9,
    // The convolution of topologies of up to so many vertices, by their dense operators.
    DENSE8_CONV = 10,
    DENSE16_CONV = 11,
    DENSE32_CONV = 12,
    // Forms dense operators, for classes of all sizes.
    DENSE_FORM = 13,
    // With checks: finds the instances of those of rows, which report nothing themselves.
    DENSE_FIND = 14,
    // The backward of the convolution: the gradients of rows, and products of rows.
    DENSE8_BACKWARD = 15,
    DENSE16_BACKWARD = 16,
    DENSE32_BACKWARD = 17,
    // The gradients of weights from products of rows, which it adds over instances.
    DENSE_GRADIENT = 18,
    // What surrounds the convolution with an epilogue: a `WalkKind`.
    WALK_ROWS = 19,
    // The gradient of a bias, from sums of rows. Reads no table, and so reports nothing.
    ADD_SUMS = 20,
    // The matrices of instances, from scratch memory or into it: a `MatrixKind`.
    MATRIX = 21,
    // The convolution of rows times a matrix, of up to so many features, or in TF32.
    LAYER256 = 22,
    LAYER512 = 23,
    LAYER_TF32 = 24,
    // The gradients of rows and products of rows.
    LAYER256_BACKWARD = 25,
    LAYER512_BACKWARD = 26,
    LAYER_TF32_BACKWARD = 27,
    // The gradient of the matrix, in parts, and their sum, which reads no table.
    LAYER_THETA = 28,
    LAYER_THETA_SUM = 29,
};

// What becomes of matrices, see kernels/matrix.cu.
enum MatrixKind : u32 {
    STORE_OPERATOR = 0,
    LOAD_GRADIENT = 1,
    MAKE_UNIT = 2,
    STORE_PRODUCTS = 3,
    LOAD_SYMMETRIC = 4,
    GRAM = 5,
    GRAM_BACKWARD = 6,
};

// The elements of rows, where kernels for all of them are one: those that sums have, or others.
enum ElementKind : u32 {
    ELEMENT_OF_SUMS = 0,
    ELEMENT_F16 = 1,
    ELEMENT_BF16 = 2,
};

// What becomes of rows of vertices, see kernels/epilogue.cu.
enum WalkKind : u32 {
    COPY = 0,
    MEAN = 1,
    SUM = 2,
};

// As `Activation`.
enum ActivationKind : u32 {
    IDENTITY = 0,
    RELU = 1,
    GELU = 2,
    GELU_TANH = 3,
    SILU = 4,
};

// What a wrong value was found in, by the numbers that violations name it by.
enum TableId : u32 {
    TOPOLOGIES = 0,
    POINTERS = 1,
    INDICES = 2,
    WORK = 3,
    TOPOLOGY_IDS = 4,
    WORK_STARTS = 5,
    TARGET_STARTS = 6,
    SOURCE_STARTS = 7,
    // Not stored: a work item's entry in the list of its instance.
    WORK_ITEMS = 8,
    SOURCE_WINDOWS = 9,
    TARGET_WINDOWS = 10,
    CHUNKS = 11,
    MEMBERS = 12,
    RANKS = 13,
    // No table: the value is a degree, as the bits of a double.
    NEGATIVE_DEGREE = 14,
    // The instances that a path computes.
    PATH_INSTANCES = 15,
    DENSE_TOPOLOGIES = 16,
    NEIGHBORS = 17,
    PAIRS = 18,
    PAIR_LISTS = 19,
};

// The lists of work of a topology, see kernels/tables.cuh.
enum WorkClass : u32 {
    PARTIAL = 0,
    MEDIUM = 1,
    SHORT = 2,
    LONG = 3,
};

// How an instance finds its factors.
enum WindowKind : u32 {
    // There are none: all factors are 1.
    NO_SCALE = 0,
    SHARED = 1,
    CONSECUTIVE = 2,
    // At the offset of each instance.
    TABLE = 3,
};

// The first violation that a kernel found, in mapped host memory.
struct Violation {
    // Written last, and not 0.
    u32 ready;
    u32 kernel;
    u32 table;
    u32 orientation;
    u64 instance;
    u64 position;
    u64 value;
    u64 bound;
};
static_assert(sizeof(Violation) == 48 && alignof(Violation) == 8, "size");
static_assert(OFFSET_OF(Violation, ready) == 0, "offset");
static_assert(OFFSET_OF(Violation, kernel) == 4, "offset");
static_assert(OFFSET_OF(Violation, table) == 8, "offset");
static_assert(OFFSET_OF(Violation, orientation) == 12, "offset");
static_assert(OFFSET_OF(Violation, instance) == 16, "offset");
static_assert(OFFSET_OF(Violation, position) == 24, "offset");
static_assert(OFFSET_OF(Violation, value) == 32, "offset");
static_assert(OFFSET_OF(Violation, bound) == 40, "offset");

// Where a violation is published.
struct RecordArgs {
    // In device memory: 0 until a thread has found a wrong value.
    u32* claim;
    // In mapped host memory.
    Violation* published;
};
static_assert(sizeof(RecordArgs) == 16 && alignof(RecordArgs) == 8, "size");
static_assert(OFFSET_OF(RecordArgs, claim) == 0, "offset");
static_assert(OFFSET_OF(RecordArgs, published) == 8, "offset");

// A number for each class of work.
struct Counts {
    u64 partial;
    u64 medium;
    u64 short_row;
    u64 long_row;
};
static_assert(sizeof(Counts) == 32 && alignof(Counts) == 8, "size");
static_assert(OFFSET_OF(Counts, partial) == 0, "offset");
static_assert(OFFSET_OF(Counts, medium) == 8, "offset");
static_assert(OFFSET_OF(Counts, short_row) == 16, "offset");
static_assert(OFFSET_OF(Counts, long_row) == 24, "offset");

// One topology, seen from its targets: where its parts of the tables start, and their sizes. Its part of
// `work` holds (row, segment) of each segment of the long rows, the rows of 9 to 512 incidences by
// falling length, the rows of up to 8 by falling length, and (row, first segment in this list) of each
// long row.
struct TopologyWords {
    u64 pointers;
    u64 indices;
    u64 work;
    u64 n_targets;
    u64 n_sources;
    u64 n_indices;
    Counts count;
};
static_assert(sizeof(TopologyWords) == 80 && alignof(TopologyWords) == 8, "size");
static_assert(OFFSET_OF(TopologyWords, pointers) == 0, "offset");
static_assert(OFFSET_OF(TopologyWords, indices) == 8, "offset");
static_assert(OFFSET_OF(TopologyWords, work) == 16, "offset");
static_assert(OFFSET_OF(TopologyWords, n_targets) == 24, "offset");
static_assert(OFFSET_OF(TopologyWords, n_sources) == 32, "offset");
static_assert(OFFSET_OF(TopologyWords, n_indices) == 40, "offset");
static_assert(OFFSET_OF(TopologyWords, count) == 48, "offset");
enum : u32 {
    TOPOLOGY_POINTERS = 0,
    TOPOLOGY_INDICES = 1,
    TOPOLOGY_WORK = 2,
    TOPOLOGY_N_TARGETS = 3,
    TOPOLOGY_N_SOURCES = 4,
    TOPOLOGY_N_INDICES = 5,
    TOPOLOGY_COUNT = 6,
    TOPOLOGY_WORDS = 10,
};

// A chunk of instances whose gradients are summed together, for windows at one offset. A last one ends
// the others.
struct ChunkWords {
    u64 offset;
    u64 topology;
    // In the list of members.
    u64 first_member;
    // Of 32 rows each, of all chunks.
    u64 first_tile;
};
static_assert(sizeof(ChunkWords) == 32 && alignof(ChunkWords) == 8, "size");
static_assert(OFFSET_OF(ChunkWords, offset) == 0, "offset");
static_assert(OFFSET_OF(ChunkWords, topology) == 8, "offset");
static_assert(OFFSET_OF(ChunkWords, first_member) == 16, "offset");
static_assert(OFFSET_OF(ChunkWords, first_tile) == 24, "offset");
enum : u32 {
    CHUNK_OFFSET = 0,
    CHUNK_TOPOLOGY = 1,
    CHUNK_FIRST_MEMBER = 2,
    CHUNK_FIRST_TILE = 3,
    CHUNK_WORDS = 4,
};

// A rank: the chunks whose windows are of similar width. A last one ends the others.
struct RankWords {
    u64 first_chunk;
    // The most rows of a window.
    u64 width;
};
static_assert(sizeof(RankWords) == 16 && alignof(RankWords) == 8, "size");
static_assert(OFFSET_OF(RankWords, first_chunk) == 0, "offset");
static_assert(OFFSET_OF(RankWords, width) == 8, "offset");
enum : u32 {
    RANK_FIRST_CHUNK = 0,
    RANK_WIDTH = 1,
    RANK_WORDS = 2,
};

// The tables of one orientation, and what a call makes of them. Targets are the rows of the tables,
// sources what their indices mean.
struct TablesArgs {
    const TopologyWords* topologies;
    const u32* pointers;
    const u32* indices;
    const u32* work;
    // Null for copies of topology 0, and so are the next three.
    const u32* topology_ids;
    // For each class instances + 1 prefix sums of the counts.
    const u64* work_starts;
    // Instances + 1 prefix sums of the rows.
    const u64* target_starts;
    const u64* source_starts;
    u64 n_topologies;
    u64 n_pointers;
    u64 n_indices;
    u64 n_work;
    // Of this call.
    u64 instances;
    // Rows of all of them.
    u64 n_targets;
    u64 n_sources;
    // Rows of the largest topology in use.
    u32 largest_targets;
    u32 largest_sources;
    // Work items of this call.
    Counts items;
    // For messages.
    u32 orientation;
    u32 padding;
};
static_assert(sizeof(TablesArgs) == 168 && alignof(TablesArgs) == 8, "size");
static_assert(OFFSET_OF(TablesArgs, topologies) == 0, "offset");
static_assert(OFFSET_OF(TablesArgs, pointers) == 8, "offset");
static_assert(OFFSET_OF(TablesArgs, indices) == 16, "offset");
static_assert(OFFSET_OF(TablesArgs, work) == 24, "offset");
static_assert(OFFSET_OF(TablesArgs, topology_ids) == 32, "offset");
static_assert(OFFSET_OF(TablesArgs, work_starts) == 40, "offset");
static_assert(OFFSET_OF(TablesArgs, target_starts) == 48, "offset");
static_assert(OFFSET_OF(TablesArgs, source_starts) == 56, "offset");
static_assert(OFFSET_OF(TablesArgs, n_topologies) == 64, "offset");
static_assert(OFFSET_OF(TablesArgs, n_pointers) == 72, "offset");
static_assert(OFFSET_OF(TablesArgs, n_indices) == 80, "offset");
static_assert(OFFSET_OF(TablesArgs, n_work) == 88, "offset");
static_assert(OFFSET_OF(TablesArgs, instances) == 96, "offset");
static_assert(OFFSET_OF(TablesArgs, n_targets) == 104, "offset");
static_assert(OFFSET_OF(TablesArgs, n_sources) == 112, "offset");
static_assert(OFFSET_OF(TablesArgs, largest_targets) == 120, "offset");
static_assert(OFFSET_OF(TablesArgs, largest_sources) == 124, "offset");
static_assert(OFFSET_OF(TablesArgs, items) == 128, "offset");
static_assert(OFFSET_OF(TablesArgs, orientation) == 160, "offset");
static_assert(OFFSET_OF(TablesArgs, padding) == 164, "offset");

// The tiles of a call: a warp takes one at a time.
struct Tiles {
    // Of segments of long rows,
    u64 partial;
    // with those of medium rows behind them,
    u64 with_medium;
    // and those of short rows.
    u64 all;
    // Of the long rows, from the results of their segments.
    u64 long_row;
};
static_assert(sizeof(Tiles) == 32 && alignof(Tiles) == 8, "size");
static_assert(OFFSET_OF(Tiles, partial) == 0, "offset");
static_assert(OFFSET_OF(Tiles, with_medium) == 8, "offset");
static_assert(OFFSET_OF(Tiles, all) == 16, "offset");
static_assert(OFFSET_OF(Tiles, long_row) == 24, "offset");

// A factor for each row of one side, and the part of the values that each instance reads.
struct ScaleArgs {
    const void* values;
    u64 len;
    // For windows of the kind TABLE.
    const u64* offsets;
    // A WindowKind.
    u32 windows;
    // Whether a row with factor 0 is left out instead of multiplied.
    u32 skip_zero;
};
static_assert(sizeof(ScaleArgs) == 32 && alignof(ScaleArgs) == 8, "size");
static_assert(OFFSET_OF(ScaleArgs, values) == 0, "offset");
static_assert(OFFSET_OF(ScaleArgs, len) == 8, "offset");
static_assert(OFFSET_OF(ScaleArgs, offsets) == 16, "offset");
static_assert(OFFSET_OF(ScaleArgs, windows) == 24, "offset");
static_assert(OFFSET_OF(ScaleArgs, skip_zero) == 28, "offset");

// A feature operand. Row i of instance g starts at g * instance_stride + i * row_stride, or, where rows
// are packed, at (start of g + i) * row_stride.
struct RowsArgs {
    void* data;
    u64 row_stride;
    u64 instance_stride;
    u32 packed;
    u32 padding;
};
static_assert(sizeof(RowsArgs) == 32 && alignof(RowsArgs) == 8, "size");
static_assert(OFFSET_OF(RowsArgs, data) == 0, "offset");
static_assert(OFFSET_OF(RowsArgs, row_stride) == 8, "offset");
static_assert(OFFSET_OF(RowsArgs, instance_stride) == 16, "offset");
static_assert(OFFSET_OF(RowsArgs, packed) == 24, "offset");
static_assert(OFFSET_OF(RowsArgs, padding) == 28, "offset");

// What follows the sums of the convolution in their store, see kernels/epilogue.cuh. All zeros: nothing.
struct EpilogueArgs {
    // One for each feature, of the accumulation type; null: none.
    const void* bias;
    // What is added last or, in the backward, gradients of what was stored. No data: none.
    RowsArgs rows;
    // An ActivationKind.
    u32 activation;
    // The result is the gradient of the sums.
    u32 backward;
    // There is one row for each instance: forward the mean over its vertices is stored, and in the
    // backward `rows` are the gradients of that.
    u32 mean;
    // There is an epilogue.
    u32 exists;
};
static_assert(sizeof(EpilogueArgs) == 56 && alignof(EpilogueArgs) == 8, "size");
static_assert(OFFSET_OF(EpilogueArgs, bias) == 0, "offset");
static_assert(OFFSET_OF(EpilogueArgs, rows) == 8, "offset");
static_assert(OFFSET_OF(EpilogueArgs, activation) == 40, "offset");
static_assert(OFFSET_OF(EpilogueArgs, backward) == 44, "offset");
static_assert(OFFSET_OF(EpilogueArgs, mean) == 48, "offset");
static_assert(OFFSET_OF(EpilogueArgs, exists) == 52, "offset");

// Of the kernels of gather.cu. What is the same for a whole call, such as `mean`, is read at run time:
// each that became a template parameter would double the PTX that a workspace loads.
struct GatherArgs {
    TablesArgs tables;
    Tiles tiles;
    RowsArgs sources;
    // No data: nothing is stored.
    RowsArgs targets;
    // No data: no dot products.
    RowsArgs others;
    ScaleArgs source_scale;
    ScaleArgs target_scale;
    // Of each source row of the batch, as the factors are then, too; null: zeros.
    const int* source_shifts;
    const int* target_shifts;
    // For each target row of the batch one for each block of features.
    double* dots;
    // Scratch: a row of sums for each segment of a long row, without gaps.
    void* partials;
    RecordArgs record;
    // Of sources of the accumulation type.
    EpilogueArgs epilogue;
    u32 features;
    // Of a group: 8, 16 or 32.
    u32 lanes;
    u32 mean;
    u32 add;
    u32 aligned;
    // Targets and others are rows of the accumulation type.
    u32 wide;
    u32 feature_blocks;
    u32 padding;
};
static_assert(sizeof(GatherArgs) == 496 && alignof(GatherArgs) == 8, "size");
static_assert(OFFSET_OF(GatherArgs, tables) == 0, "offset");
static_assert(OFFSET_OF(GatherArgs, tiles) == 168, "offset");
static_assert(OFFSET_OF(GatherArgs, sources) == 200, "offset");
static_assert(OFFSET_OF(GatherArgs, targets) == 232, "offset");
static_assert(OFFSET_OF(GatherArgs, others) == 264, "offset");
static_assert(OFFSET_OF(GatherArgs, source_scale) == 296, "offset");
static_assert(OFFSET_OF(GatherArgs, target_scale) == 328, "offset");
static_assert(OFFSET_OF(GatherArgs, source_shifts) == 360, "offset");
static_assert(OFFSET_OF(GatherArgs, target_shifts) == 368, "offset");
static_assert(OFFSET_OF(GatherArgs, dots) == 376, "offset");
static_assert(OFFSET_OF(GatherArgs, partials) == 384, "offset");
static_assert(OFFSET_OF(GatherArgs, record) == 392, "offset");
static_assert(OFFSET_OF(GatherArgs, epilogue) == 408, "offset");
static_assert(OFFSET_OF(GatherArgs, features) == 464, "offset");
static_assert(OFFSET_OF(GatherArgs, lanes) == 468, "offset");
static_assert(OFFSET_OF(GatherArgs, mean) == 472, "offset");
static_assert(OFFSET_OF(GatherArgs, add) == 476, "offset");
static_assert(OFFSET_OF(GatherArgs, aligned) == 480, "offset");
static_assert(OFFSET_OF(GatherArgs, wide) == 484, "offset");
static_assert(OFFSET_OF(GatherArgs, feature_blocks) == 488, "offset");
static_assert(OFFSET_OF(GatherArgs, padding) == 492, "offset");

// Of the kernels that sum one number for each incidence of a row.
struct SumArgs {
    TablesArgs tables;
    Tiles tiles;
    // Of the sources; none: the degree is the number of incidences.
    ScaleArgs values;
    void* partials;
    RecordArgs record;
    // Of the accumulation type, as the next two.
    void* degree;
    void* inv_degree;
    // L, and 0 for single incidences; null where those count like others.
    void* weight_inv_degree;
    // Null: degrees are not shifted.
    int* vertex_shifts;
    int* edge_shifts;
    // Of each row `dot_blocks`; null: none.
    const double* dots;
    double* gradient;
    u32 dot_blocks;
    // That degrees are taken to have.
    int least_exponent;
    // Up to which, of either sign, degrees are not shifted.
    int plain_exponents;
    // 2 if L is 1/sqrt(D), and else 1.
    u32 shifts_of_degree;
    // The tiles of the launch: all of `tiles`, or those of the long rows, which count on behind them.
    u64 begin_tile;
    u64 end_tile;
};
static_assert(sizeof(SumArgs) == 344 && alignof(SumArgs) == 8, "size");
static_assert(OFFSET_OF(SumArgs, tables) == 0, "offset");
static_assert(OFFSET_OF(SumArgs, tiles) == 168, "offset");
static_assert(OFFSET_OF(SumArgs, values) == 200, "offset");
static_assert(OFFSET_OF(SumArgs, partials) == 232, "offset");
static_assert(OFFSET_OF(SumArgs, record) == 240, "offset");
static_assert(OFFSET_OF(SumArgs, degree) == 256, "offset");
static_assert(OFFSET_OF(SumArgs, inv_degree) == 264, "offset");
static_assert(OFFSET_OF(SumArgs, weight_inv_degree) == 272, "offset");
static_assert(OFFSET_OF(SumArgs, vertex_shifts) == 280, "offset");
static_assert(OFFSET_OF(SumArgs, edge_shifts) == 288, "offset");
static_assert(OFFSET_OF(SumArgs, dots) == 296, "offset");
static_assert(OFFSET_OF(SumArgs, gradient) == 304, "offset");
static_assert(OFFSET_OF(SumArgs, dot_blocks) == 312, "offset");
static_assert(OFFSET_OF(SumArgs, least_exponent) == 316, "offset");
static_assert(OFFSET_OF(SumArgs, plain_exponents) == 320, "offset");
static_assert(OFFSET_OF(SumArgs, shifts_of_degree) == 324, "offset");
static_assert(OFFSET_OF(SumArgs, begin_tile) == 328, "offset");
static_assert(OFFSET_OF(SumArgs, end_tile) == 336, "offset");

// Of the gradients of degrees.
struct DegreeGradientArgs {
    const void* degree;
    const void* inv_degree;
    // Where it is 0, there is no gradient.
    const void* weight_inv_degree;
    const int* shifts;
    const double* dots_y;
    // Null unless symmetric.
    const double* dots_x;
    double* gradient;
    // Of all instances.
    u64 n_vertices;
    u32 dot_blocks;
    u32 shifts_of_degree;
};
static_assert(sizeof(DegreeGradientArgs) == 72 && alignof(DegreeGradientArgs) == 8, "size");
static_assert(OFFSET_OF(DegreeGradientArgs, degree) == 0, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, inv_degree) == 8, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, weight_inv_degree) == 16, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, shifts) == 24, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, dots_y) == 32, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, dots_x) == 40, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, gradient) == 48, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, n_vertices) == 56, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, dot_blocks) == 64, "offset");
static_assert(OFFSET_OF(DegreeGradientArgs, shifts_of_degree) == 68, "offset");

// Of the factors that the gradients of rows are passed on with.
struct RowScaleArgs {
    TablesArgs tables;
    // Of the targets.
    ScaleArgs scale;
    // Of each target row of the batch; null: zeros.
    const int* shifts;
    // One for each target row of the batch, of the accumulation type.
    void* row_scale;
    RecordArgs record;
    u32 mean;
    u32 shifts_of_degree;
};
static_assert(sizeof(RowScaleArgs) == 240 && alignof(RowScaleArgs) == 8, "size");
static_assert(OFFSET_OF(RowScaleArgs, tables) == 0, "offset");
static_assert(OFFSET_OF(RowScaleArgs, scale) == 168, "offset");
static_assert(OFFSET_OF(RowScaleArgs, shifts) == 200, "offset");
static_assert(OFFSET_OF(RowScaleArgs, row_scale) == 208, "offset");
static_assert(OFFSET_OF(RowScaleArgs, record) == 216, "offset");
static_assert(OFFSET_OF(RowScaleArgs, mean) == 232, "offset");
static_assert(OFFSET_OF(RowScaleArgs, shifts_of_degree) == 236, "offset");

// What the dense operator of a topology is formed from, see src/pairs.rs: where its parts of the tables
// start, and their sizes. All zeros for a topology that has none.
struct DenseTopologyWords {
    u64 n_vertices;
    u64 neighbors;
    // Two words for each pair, u + v 2^16 and where its list starts, and two that end them.
    u64 pairs;
    u64 n_pairs;
    u64 lists;
    // Words.
    u64 n_listed;
    // Of hyperedges; 0: they have several sizes, or some have a vertex twice.
    u64 uniform_size;
    // Where its words start that kernels with windows in shared memory read, see StagedTable in
    // src/cuda/dense_tables.rs. The next three are 0 where it has none.
    u64 staged;
    // Pairs of two vertices,
    u64 n_staged;
    // and the words of hyperedges that each has; a multiple of STAGED_TOGETHER.
    u64 staged_words;
    // The hyperedges that each vertex has, two in a word; a multiple of twice that.
    u64 staged_ids;
    // Where its operator is stored for all instances: the number of its first entry,
    u64 entries;
    // and of its first word, which are terms; see DenseOperatorsArgs.
    u64 terms;
};
static_assert(sizeof(DenseTopologyWords) == 104 && alignof(DenseTopologyWords) == 8, "size");
static_assert(OFFSET_OF(DenseTopologyWords, n_vertices) == 0, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, neighbors) == 8, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, pairs) == 16, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, n_pairs) == 24, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, lists) == 32, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, n_listed) == 40, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, uniform_size) == 48, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, staged) == 56, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, n_staged) == 64, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, staged_words) == 72, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, staged_ids) == 80, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, entries) == 88, "offset");
static_assert(OFFSET_OF(DenseTopologyWords, terms) == 96, "offset");
enum : u32 {
    DENSE_TOPOLOGY_N_VERTICES = 0,
    DENSE_TOPOLOGY_NEIGHBORS = 1,
    DENSE_TOPOLOGY_PAIRS = 2,
    DENSE_TOPOLOGY_N_PAIRS = 3,
    DENSE_TOPOLOGY_LISTS = 4,
    DENSE_TOPOLOGY_N_LISTED = 5,
    DENSE_TOPOLOGY_UNIFORM_SIZE = 6,
    DENSE_TOPOLOGY_STAGED = 7,
    DENSE_TOPOLOGY_N_STAGED = 8,
    DENSE_TOPOLOGY_STAGED_WORDS = 9,
    DENSE_TOPOLOGY_STAGED_IDS = 10,
    DENSE_TOPOLOGY_ENTRIES = 11,
    DENSE_TOPOLOGY_TERMS = 12,
    DENSE_TOPOLOGY_WORDS = 13,
};

struct DenseTablesArgs {
    const DenseTopologyWords* topologies;
    const u32* neighbors;
    const u32* pairs;
    const u32* lists;
    const u32* staged;
    u64 n_neighbors;
    // Words, as in the lists.
    u64 n_pairs;
    u64 n_lists;
};
static_assert(sizeof(DenseTablesArgs) == 64 && alignof(DenseTablesArgs) == 8, "size");
static_assert(OFFSET_OF(DenseTablesArgs, topologies) == 0, "offset");
static_assert(OFFSET_OF(DenseTablesArgs, neighbors) == 8, "offset");
static_assert(OFFSET_OF(DenseTablesArgs, pairs) == 16, "offset");
static_assert(OFFSET_OF(DenseTablesArgs, lists) == 24, "offset");
static_assert(OFFSET_OF(DenseTablesArgs, staged) == 32, "offset");
static_assert(OFFSET_OF(DenseTablesArgs, n_neighbors) == 40, "offset");
static_assert(OFFSET_OF(DenseTablesArgs, n_pairs) == 48, "offset");
static_assert(OFFSET_OF(DenseTablesArgs, n_lists) == 56, "offset");

// Where dense operators are stored, in scratch memory: for a class of N vertices, as entries, N x N of
// M, in rows; N that sums are multiplied by; and N degrees as gradients see them. As words N of terms,
// where bit v of number u says that M_uv is a term of y_u; N shifts of degrees; and N of terms the other
// way round, bit u of number v. Of 64 vertices these have the terms v from 32 on instead.
struct DenseOperatorsArgs {
    // Of the accumulation type.
    void* entries;
    u32* words;
    u64 n_entries;
    u64 n_words;
    // N.
    u32 row;
    // An operator for each item of a launch, one behind the other; 0: one for each topology, at its
    // place.
    u32 of_items;
};
static_assert(sizeof(DenseOperatorsArgs) == 40 && alignof(DenseOperatorsArgs) == 8, "size");
static_assert(OFFSET_OF(DenseOperatorsArgs, entries) == 0, "offset");
static_assert(OFFSET_OF(DenseOperatorsArgs, words) == 8, "offset");
static_assert(OFFSET_OF(DenseOperatorsArgs, n_entries) == 16, "offset");
static_assert(OFFSET_OF(DenseOperatorsArgs, n_words) == 24, "offset");
static_assert(OFFSET_OF(DenseOperatorsArgs, row) == 32, "offset");
static_assert(OFFSET_OF(DenseOperatorsArgs, of_items) == 36, "offset");

// The conventions of the convolution, as dense operators are formed by them.
struct DenseConventions {
    // Whether weights are part of the degrees,
    u32 in_degree;
    // and of the messages.
    u32 in_message;
    // 0: there are no degrees.
    u32 normalized;
    // Whether degrees are multiplied by powers of two.
    u32 shifted;
    // That degrees are taken to have.
    int least_exponent;
    // 2 if M is divided by square roots of degrees, and else 1.
    u32 shifts_of_degree;
    // Whether gradients leave out vertices of a single incidence.
    u32 leaves_out_single;
    u32 padding;
};
static_assert(sizeof(DenseConventions) == 32 && alignof(DenseConventions) == 4, "size");
static_assert(OFFSET_OF(DenseConventions, in_degree) == 0, "offset");
static_assert(OFFSET_OF(DenseConventions, in_message) == 4, "offset");
static_assert(OFFSET_OF(DenseConventions, normalized) == 8, "offset");
static_assert(OFFSET_OF(DenseConventions, shifted) == 12, "offset");
static_assert(OFFSET_OF(DenseConventions, least_exponent) == 16, "offset");
static_assert(OFFSET_OF(DenseConventions, shifts_of_degree) == 20, "offset");
static_assert(OFFSET_OF(DenseConventions, leaves_out_single) == 24, "offset");
static_assert(OFFSET_OF(DenseConventions, padding) == 28, "offset");

// What a launch over dense operators walks through: instances, or topologies.
struct DenseItemsArgs {
    TablesArgs by_vertex;
    DenseTablesArgs dense;
    DenseOperatorsArgs operators;
    RecordArgs record;
    // The numbers of the items; null: they are all of the call.
    const u32* numbers;
    // With checks: the items that dense_find.cu has stored for a kernel of rows; null: it finds them.
    void* found;
    u64 n_items;
    // That the grid walks through.
    u64 blocks;
    // The items of a block; 0: all instances are copies of one topology and have one window, and are
    // shared out without regard to blocks.
    u32 per_block;
    // Of copies of one topology; 0: each instance has its own.
    u32 n_vertices;
};
static_assert(sizeof(DenseItemsArgs) == 328 && alignof(DenseItemsArgs) == 8, "size");
static_assert(OFFSET_OF(DenseItemsArgs, by_vertex) == 0, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, dense) == 168, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, operators) == 232, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, record) == 272, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, numbers) == 288, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, found) == 296, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, n_items) == 304, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, blocks) == 312, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, per_block) == 320, "offset");
static_assert(OFFSET_OF(DenseItemsArgs, n_vertices) == 324, "offset");

// Of the kernels that form dense operators.
struct DenseFormArgs {
    DenseItemsArgs items;
    DenseConventions conventions;
    // Of hyperedges.
    ScaleArgs weights;
    // The items are topologies.
    u32 of_topologies;
    // The lanes that sum the weights of a vertex.
    u32 row_lanes;
    // The numbers that a block has room for in shared memory for the window of each item, with a zero
    // behind it; 0: windows are not there.
    u32 window_room;
    u32 padding;
};
static_assert(sizeof(DenseFormArgs) == 408 && alignof(DenseFormArgs) == 8, "size");
static_assert(OFFSET_OF(DenseFormArgs, items) == 0, "offset");
static_assert(OFFSET_OF(DenseFormArgs, conventions) == 328, "offset");
static_assert(OFFSET_OF(DenseFormArgs, weights) == 360, "offset");
static_assert(OFFSET_OF(DenseFormArgs, of_topologies) == 392, "offset");
static_assert(OFFSET_OF(DenseFormArgs, row_lanes) == 396, "offset");
static_assert(OFFSET_OF(DenseFormArgs, window_room) == 400, "offset");
static_assert(OFFSET_OF(DenseFormArgs, padding) == 404, "offset");

// Of the convolution of small hypergraphs by their dense operators.
struct DenseConvArgs {
    DenseFormArgs form;
    RowsArgs x;
    RowsArgs y;
    EpilogueArgs epilogue;
    // Operators are formed here, in unchecked builds; else they were stored.
    u32 forms;
    // The threads of each instance, which have chunks of its features.
    u32 chunks;
    u32 aligned;
    u32 add;
};
static_assert(sizeof(DenseConvArgs) == 544 && alignof(DenseConvArgs) == 8, "size");
static_assert(OFFSET_OF(DenseConvArgs, form) == 0, "offset");
static_assert(OFFSET_OF(DenseConvArgs, x) == 408, "offset");
static_assert(OFFSET_OF(DenseConvArgs, y) == 440, "offset");
static_assert(OFFSET_OF(DenseConvArgs, epilogue) == 472, "offset");
static_assert(OFFSET_OF(DenseConvArgs, forms) == 528, "offset");
static_assert(OFFSET_OF(DenseConvArgs, chunks) == 532, "offset");
static_assert(OFFSET_OF(DenseConvArgs, aligned) == 536, "offset");
static_assert(OFFSET_OF(DenseConvArgs, add) == 540, "offset");

// Of its backward.
struct DenseBackwardArgs {
    DenseItemsArgs items;
    RowsArgs x;
    RowsArgs grad_y;
    // No data: it is not wanted.
    RowsArgs grad_x;
    // Of the accumulation type, N x N for each item, or for each chunk of instances.
    void* products;
    u64 features;
    // The slices of a row, see src/dense.rs.
    u32 slices;
    // The slots of an item.
    u32 slots;
    // The instances of a chunk, where all have one window; 0: items are instances.
    u32 chunk_len;
    u32 aligned;
    u32 add;
    u32 wants_products;
};
static_assert(sizeof(DenseBackwardArgs) == 464 && alignof(DenseBackwardArgs) == 8, "size");
static_assert(OFFSET_OF(DenseBackwardArgs, items) == 0, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, x) == 328, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, grad_y) == 360, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, grad_x) == 392, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, products) == 424, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, features) == 432, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, slices) == 440, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, slots) == 444, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, chunk_len) == 448, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, aligned) == 452, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, add) == 456, "offset");
static_assert(OFFSET_OF(DenseBackwardArgs, wants_products) == 460, "offset");

// Of layers of small hypergraphs, see kernels/layer.cuh; of their backwards, where x are gradients of
// the sums and y those of x; and of the gradients of their matrices, see kernels/layer_theta.cuh, where
// y are gradients of the sums.
struct LayerArgs {
    // Its `blocks` are those that a tile, or a chunk of tiles, is one of.
    DenseItemsArgs items;
    RowsArgs x;
    // Of a backward no data: they are not wanted.
    RowsArgs y;
    // Of a backward its rows are those of the forward's x.
    EpilogueArgs epilogue;
    // Of the elements' type.
    const void* theta;
    // Of a backward N x N for each item, or for each chunk, and each part of the outputs; null: they are
    // not wanted. Of gradients of matrices the parts of that. f32.
    void* products;
    // The elements of a row of x, and of y.
    u32 inputs;
    u32 outputs;
    // An instance has 2^slot_bits rows of a group.
    u32 slot_bits;
    // The groups of a tile.
    u32 groups;
    // 2^chunk_bits tiles are a chunk.
    u32 chunk_bits;
    // The bytes of a row of x in shared memory.
    u32 pitch;
    // The warps of a block that share out its outputs: 1, 2, 4 or 8. And those that share out its
    // inputs, of gradients of matrices.
    u32 columns;
    u32 input_columns;
    // Likewise the blocks.
    u32 parts;
    u32 input_parts;
    // The rows of Theta that pass through shared memory together,
    u32 theta_rows;
    // and the bytes of one, in a backward. Of gradients of matrices those of a row of y.
    u32 theta_pitch;
    // 2^copy_bits lanes copy a row.
    u32 copy_bits;
    // Each item has an operator; else all have one.
    u32 own;
    u32 x_aligned;
    u32 theta_aligned;
    u32 y_aligned;
    u32 bias_aligned;
    u32 add;
    u32 padding;
};
static_assert(sizeof(LayerArgs) == 544 && alignof(LayerArgs) == 8, "size");
static_assert(OFFSET_OF(LayerArgs, items) == 0, "offset");
static_assert(OFFSET_OF(LayerArgs, x) == 328, "offset");
static_assert(OFFSET_OF(LayerArgs, y) == 360, "offset");
static_assert(OFFSET_OF(LayerArgs, epilogue) == 392, "offset");
static_assert(OFFSET_OF(LayerArgs, theta) == 448, "offset");
static_assert(OFFSET_OF(LayerArgs, products) == 456, "offset");
static_assert(OFFSET_OF(LayerArgs, inputs) == 464, "offset");
static_assert(OFFSET_OF(LayerArgs, outputs) == 468, "offset");
static_assert(OFFSET_OF(LayerArgs, slot_bits) == 472, "offset");
static_assert(OFFSET_OF(LayerArgs, groups) == 476, "offset");
static_assert(OFFSET_OF(LayerArgs, chunk_bits) == 480, "offset");
static_assert(OFFSET_OF(LayerArgs, pitch) == 484, "offset");
static_assert(OFFSET_OF(LayerArgs, columns) == 488, "offset");
static_assert(OFFSET_OF(LayerArgs, input_columns) == 492, "offset");
static_assert(OFFSET_OF(LayerArgs, parts) == 496, "offset");
static_assert(OFFSET_OF(LayerArgs, input_parts) == 500, "offset");
static_assert(OFFSET_OF(LayerArgs, theta_rows) == 504, "offset");
static_assert(OFFSET_OF(LayerArgs, theta_pitch) == 508, "offset");
static_assert(OFFSET_OF(LayerArgs, copy_bits) == 512, "offset");
static_assert(OFFSET_OF(LayerArgs, own) == 516, "offset");
static_assert(OFFSET_OF(LayerArgs, x_aligned) == 520, "offset");
static_assert(OFFSET_OF(LayerArgs, theta_aligned) == 524, "offset");
static_assert(OFFSET_OF(LayerArgs, y_aligned) == 528, "offset");
static_assert(OFFSET_OF(LayerArgs, bias_aligned) == 532, "offset");
static_assert(OFFSET_OF(LayerArgs, add) == 536, "offset");
static_assert(OFFSET_OF(LayerArgs, padding) == 540, "offset");

// Of the gradient of a layer's matrix, from its parts.
struct ThetaSumArgs {
    const float* parts;
    u64 n_parts;
    u64 n_elements;
    float* gradient;
    u32 add;
    u32 padding;
};
static_assert(sizeof(ThetaSumArgs) == 40 && alignof(ThetaSumArgs) == 8, "size");
static_assert(OFFSET_OF(ThetaSumArgs, parts) == 0, "offset");
static_assert(OFFSET_OF(ThetaSumArgs, n_parts) == 8, "offset");
static_assert(OFFSET_OF(ThetaSumArgs, n_elements) == 16, "offset");
static_assert(OFFSET_OF(ThetaSumArgs, gradient) == 24, "offset");
static_assert(OFFSET_OF(ThetaSumArgs, add) == 32, "offset");
static_assert(OFFSET_OF(ThetaSumArgs, padding) == 36, "offset");

// Of the gradients of weights, from products of rows.
struct DenseGradientArgs {
    DenseItemsArgs items;
    DenseConventions conventions;
    TablesArgs by_edge;
    // N x N products each, of the accumulation type or, where `wide`, double.
    const void* nodes;
    u64 n_nodes;
    // Of the same size, of each item, and no gradients; null: gradients.
    double* roots;
    // Up to MOST_NODES, which are added; the last item may have fewer.
    u32 nodes_of_item;
    u32 wide;
    // For each hyperedge `blocks`, of which the others become 0; null: the gradient is written.
    double* values;
    // Of the accumulation type, for each hyperedge.
    void* gradient;
    u64 gradient_len;
    u32 blocks;
    u32 add;
    // That share out the hyperedges of the same items, or the entries of roots.
    u64 parts;
};
static_assert(sizeof(DenseGradientArgs) == 600 && alignof(DenseGradientArgs) == 8, "size");
static_assert(OFFSET_OF(DenseGradientArgs, items) == 0, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, conventions) == 328, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, by_edge) == 360, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, nodes) == 528, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, n_nodes) == 536, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, roots) == 544, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, nodes_of_item) == 552, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, wide) == 556, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, values) == 560, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, gradient) == 568, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, gradient_len) == 576, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, blocks) == 584, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, add) == 588, "offset");
static_assert(OFFSET_OF(DenseGradientArgs, parts) == 592, "offset");

// Of the matrices of instances, see kernels/matrix.cu.
struct MatrixArgs {
    DenseItemsArgs items;
    // The caller's, of the accumulation type: `side` x `side` of each instance, one behind the other.
    void* matrices;
    // Likewise N x N of each item of the launch, in scratch memory.
    void* products;
    // Of the kinds that have rows.
    RowsArgs x;
    RowsArgs grad_x;
    u64 features;
    // The blocks that share out the work of one.
    u64 parts;
    // A MatrixKind.
    u32 what;
    // The vertices of the largest topology in use.
    u32 side;
    u32 add;
    // The items are topologies.
    u32 of_topologies;
    // An ElementKind, of the rows.
    u32 element;
    u32 padding;
};
static_assert(sizeof(MatrixArgs) == 448 && alignof(MatrixArgs) == 8, "size");
static_assert(OFFSET_OF(MatrixArgs, items) == 0, "offset");
static_assert(OFFSET_OF(MatrixArgs, matrices) == 328, "offset");
static_assert(OFFSET_OF(MatrixArgs, products) == 336, "offset");
static_assert(OFFSET_OF(MatrixArgs, x) == 344, "offset");
static_assert(OFFSET_OF(MatrixArgs, grad_x) == 376, "offset");
static_assert(OFFSET_OF(MatrixArgs, features) == 408, "offset");
static_assert(OFFSET_OF(MatrixArgs, parts) == 416, "offset");
static_assert(OFFSET_OF(MatrixArgs, what) == 424, "offset");
static_assert(OFFSET_OF(MatrixArgs, side) == 428, "offset");
static_assert(OFFSET_OF(MatrixArgs, add) == 432, "offset");
static_assert(OFFSET_OF(MatrixArgs, of_topologies) == 436, "offset");
static_assert(OFFSET_OF(MatrixArgs, element) == 440, "offset");
static_assert(OFFSET_OF(MatrixArgs, padding) == 444, "offset");

// Of kernels whose threads walk through the rows of vertices of some instances, each with a slice of
// their features: see epilogue.cu.
struct WalkArgs {
    TablesArgs tables;
    RecordArgs record;
    // A unit is this many instances, or of one instance SEGMENT_ROWS rows.
    u64 unit_instances;
    // The segments that the longest instance is cut into.
    u64 unit_segments;
    u64 n_units;
    RowsArgs source;
    // Of MEAN one row for each instance.
    RowsArgs target;
    // For each unit a row of sums: of MEAN of the accumulation type, null where instances are no longer
    // than a segment, and of SUM double.
    void* sums;
    u64 features;
    // The threads of a unit.
    u64 slices;
    // A WalkKind.
    u32 what;
    u32 aligned;
    u32 add;
    // Of COPY: the source has one row for each instance, which is divided by the number of its vertices.
    u32 mean;
    // The segments of the longest instance: the sums of segments are added; 0: rows are.
    u64 sum_segments;
};
static_assert(sizeof(WalkArgs) == 320 && alignof(WalkArgs) == 8, "size");
static_assert(OFFSET_OF(WalkArgs, tables) == 0, "offset");
static_assert(OFFSET_OF(WalkArgs, record) == 168, "offset");
static_assert(OFFSET_OF(WalkArgs, unit_instances) == 184, "offset");
static_assert(OFFSET_OF(WalkArgs, unit_segments) == 192, "offset");
static_assert(OFFSET_OF(WalkArgs, n_units) == 200, "offset");
static_assert(OFFSET_OF(WalkArgs, source) == 208, "offset");
static_assert(OFFSET_OF(WalkArgs, target) == 240, "offset");
static_assert(OFFSET_OF(WalkArgs, sums) == 272, "offset");
static_assert(OFFSET_OF(WalkArgs, features) == 280, "offset");
static_assert(OFFSET_OF(WalkArgs, slices) == 288, "offset");
static_assert(OFFSET_OF(WalkArgs, what) == 296, "offset");
static_assert(OFFSET_OF(WalkArgs, aligned) == 300, "offset");
static_assert(OFFSET_OF(WalkArgs, add) == 304, "offset");
static_assert(OFFSET_OF(WalkArgs, mean) == 308, "offset");
static_assert(OFFSET_OF(WalkArgs, sum_segments) == 312, "offset");

// Of the gradient of a bias, from rows of sums.
struct AddSumsArgs {
    // Rows of sums, without gaps.
    const double* nodes;
    u64 n_nodes;
    u64 features;
    // Up to MOST_NODES, which are added; the last one may have fewer.
    u64 nodes_per_root;
    u64 n_roots;
    // Likewise; null: there is one root, the gradient.
    double* roots;
    // Of the accumulation type.
    void* gradient;
    u32 add;
    u32 padding;
};
static_assert(sizeof(AddSumsArgs) == 64 && alignof(AddSumsArgs) == 8, "size");
static_assert(OFFSET_OF(AddSumsArgs, nodes) == 0, "offset");
static_assert(OFFSET_OF(AddSumsArgs, n_nodes) == 8, "offset");
static_assert(OFFSET_OF(AddSumsArgs, features) == 16, "offset");
static_assert(OFFSET_OF(AddSumsArgs, nodes_per_root) == 24, "offset");
static_assert(OFFSET_OF(AddSumsArgs, n_roots) == 32, "offset");
static_assert(OFFSET_OF(AddSumsArgs, roots) == 40, "offset");
static_assert(OFFSET_OF(AddSumsArgs, gradient) == 48, "offset");
static_assert(OFFSET_OF(AddSumsArgs, add) == 56, "offset");
static_assert(OFFSET_OF(AddSumsArgs, padding) == 60, "offset");

// Of the sums of gradients over instances.
struct GradientArgs {
    // Of the orientation whose rows the gradients belong to.
    TablesArgs tables;
    // ChunkWords; null: copies of topology 0, `chunk_len` of them a chunk, all at offset 0.
    const u64* chunks;
    const u64* members;
    // RankWords.
    const u64* ranks;
    u64 n_chunks;
    u64 n_members;
    u64 n_ranks;
    u64 chunk_len;
    // Of a copy.
    u64 n_rows;
    // Of `sum_chunks_*`: 32 rows of a chunk each.
    u64 tiles;
    // Of each row `blocks`.
    const double* values;
    // Of the accumulation type, for each row of the batch.
    void* sums;
    // Likewise, for each weight (or value of a scale).
    void* gradient;
    u64 gradient_len;
    RecordArgs record;
    u32 blocks;
    u32 add;
    // There is one chunk, at offset 0: its sums are the gradient.
    u32 direct;
    // Of `sum_windows_*`: a thread or a warp sums for a weight, 1 or 32.
    u32 lanes;
};
static_assert(sizeof(GradientArgs) == 304 && alignof(GradientArgs) == 8, "size");
static_assert(OFFSET_OF(GradientArgs, tables) == 0, "offset");
static_assert(OFFSET_OF(GradientArgs, chunks) == 168, "offset");
static_assert(OFFSET_OF(GradientArgs, members) == 176, "offset");
static_assert(OFFSET_OF(GradientArgs, ranks) == 184, "offset");
static_assert(OFFSET_OF(GradientArgs, n_chunks) == 192, "offset");
static_assert(OFFSET_OF(GradientArgs, n_members) == 200, "offset");
static_assert(OFFSET_OF(GradientArgs, n_ranks) == 208, "offset");
static_assert(OFFSET_OF(GradientArgs, chunk_len) == 216, "offset");
static_assert(OFFSET_OF(GradientArgs, n_rows) == 224, "offset");
static_assert(OFFSET_OF(GradientArgs, tiles) == 232, "offset");
static_assert(OFFSET_OF(GradientArgs, values) == 240, "offset");
static_assert(OFFSET_OF(GradientArgs, sums) == 248, "offset");
static_assert(OFFSET_OF(GradientArgs, gradient) == 256, "offset");
static_assert(OFFSET_OF(GradientArgs, gradient_len) == 264, "offset");
static_assert(OFFSET_OF(GradientArgs, record) == 272, "offset");
static_assert(OFFSET_OF(GradientArgs, blocks) == 288, "offset");
static_assert(OFFSET_OF(GradientArgs, add) == 292, "offset");
static_assert(OFFSET_OF(GradientArgs, direct) == 296, "offset");
static_assert(OFFSET_OF(GradientArgs, lanes) == 300, "offset");
