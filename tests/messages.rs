//! The words of every error: what is wrong, where, value and bound, and what to do about it.

use std::collections::HashSet;
use std::mem::discriminant;

use hyperscatter::{Error, Misbatching};

/// One of each kind, and where the words depend on the facts one for each.
fn messages() -> Vec<(Error, &'static str)> {
    let (table, operand) = ("weights", "x");
    vec![
        (
            Error::VertexOutOfRange {
                table: "vertices",
                list: None,
                position: 3,
                value: -1,
                bound: 3,
                looks_like: Some(Misbatching::NegativePadding),
            },
            "vertices[3] is vertex -1, but there are 3 vertices, 0 to 2. It looks like this: negative ids are padding; leave \
             them out",
        ),
        (
            Error::VertexOutOfRange {
                table: "edges",
                list: Some(1),
                position: 0,
                value: 9,
                bound: 4,
                looks_like: None,
            },
            "edges[1][0] is vertex 9, but there are 4 vertices, 0 to 3: correct the id, or the number of vertices",
        ),
        (
            Error::HyperedgeOutOfRange {
                table: "hyperedges",
                position: 1,
                value: 2,
                bound: 2,
                looks_like: None,
            },
            "hyperedges[1] is hyperedge 2, but there are 2 hyperedges, 0 to 1: correct the id, or the number of hyperedges",
        ),
        (
            Error::PointersNotMonotone { table: "edge_ptr", position: 2, value: 1, previous: 2 },
            "edge_ptr[2] = 1 is smaller than the pointer before it, 2: pointers must not decrease; if these are the sizes of \
             the hyperedges, give their running sums, from 0 on",
        ),
        (
            Error::NoPointers { table: "edge_ptr" },
            "edge_ptr is empty, but there is one pointer more than there are hyperedges: where there are none, give the \
             pointer 0 alone",
        ),
        (
            Error::FirstPointerNotZero { table: "edge_ptr", value: 1 },
            "edge_ptr[0] = 1, but the first pointer must be 0: for a part of a larger table, subtract the first pointer from \
             all",
        ),
        (
            Error::LastPointer { table: "edge_ptr", value: 5, bound: 6, bound_of: "edge_vertices" },
            "edge_ptr ends at 5, but edge_vertices has length 6: the last pointer must be that length, so there is one \
             pointer more than there are rows",
        ),
        (
            Error::LengthMismatch {
                table: "hyperedges",
                value: 1,
                bound: 2,
                bound_of: "vertices, the other row of the index",
            },
            "hyperedges has length 1, but must have length 2 to go with vertices, the other row of the index",
        ),
        (
            Error::LengthMismatch {
                table: "offsets",
                value: 3,
                bound: 4,
                bound_of: "the instances of the batch",
            },
            "offsets has length 3, but must have length 4 to go with the instances of the batch",
        ),
        (
            Error::RepeatedIncidence {
                table: "edges",
                list: Some(1),
                position: 2,
                vertex: 2,
                hyperedge: 1,
                looks_like: None,
            },
            "edges[1][2] repeats vertex 2 in hyperedge 1: choose Repeats::Keep or Repeats::Merge if this is meant",
        ),
        (
            Error::TopologyOutOfRange { table: "topology_ids", instance: 1, value: 1, bound: 1 },
            "topology_ids[1] is topology 1, but there is one topology, 0",
        ),
        (
            Error::GraphOutOfRange {
                table: "vertex_owners",
                position: 1,
                value: 2,
                bound: 2,
                looks_like: None,
            },
            "vertex_owners[1] is graph 2, but there are 2 graphs, 0 to 1: correct the id, or the number of graphs",
        ),
        (
            Error::CountsLength { table: "vertex_owners", value: 3, bound: 2, looks_like: None },
            "vertex_owners has 3 counts, but there are 2 graphs: give one for each graph, 0 for a graph without any",
        ),
        (
            Error::NegativeCount { table: "vertex_owners", graph: 1, value: -2 },
            "vertex_owners[1] = -2, but a count is not negative: give one for each graph, without padding",
        ),
        (
            Error::GraphIdsNotSorted {
                table: "vertex_owners",
                position: 2,
                value: 0,
                previous: 1,
                looks_like: None,
            },
            "vertex_owners[2] = 0 is smaller than the graph id before it, 1: number vertices and hyperedges graph after graph",
        ),
        (
            Error::CrossGraphIncidence {
                position: 12,
                vertex: 4,
                vertex_graph: 1,
                hyperedge: 5,
                hyperedge_graph: 0,
                bound: 6..12,
                looks_like: Some(Misbatching::ShiftedByVertices),
            },
            "incidence 12 joins vertex 4 of graph 1 with hyperedge 5 of graph 0, but graph 1 owns hyperedges 6 to 11. It looks like \
             this: the hyperedge row is shifted by the number of vertices of the graphs before it, which is what PyTorch \
             Geometric's plain `Data` batching does to `hyperedge_index`; it must be shifted by their number of hyperedges",
        ),
        (
            Error::AllInFirstGraph {
                incidences: 9,
                graph: 0,
                later: 1,
                vertices: 3..6,
                hyperedges: 3..5,
                looks_like: Misbatching::NotShifted,
            },
            "all 9 incidences are in graph 0, though graph 1 owns vertices 3 to 5 and hyperedges 3 to 4, too. It looks like this: \
             the ids of every graph start at 0, as they do before graphs are put together; add the number of vertices of \
             all graphs before to the vertex row, and their number of hyperedges to the hyperedge row. If it is meant, \
             choose AllInFirst::Accept",
        ),
        (
            Error::WindowOutOfRange { table, instance: 2, value: 6, width: 3, bound: 8 },
            "instance 2 reads weights[6 .. 9], but weights has 8 values: give it more values, or windows that end within \
             them",
        ),
        (
            Error::UnreadWeights { table, value: 9, bound: 3, windows: "shared", what: "hyperedges" },
            "weights has 9 values, but shared windows read 3, one for each of the hyperedges of the largest topology; \
             where each instance has values of its own, say Weights::consecutive or Weights::table",
        ),
        (
            Error::UnreadWeights {
                table: "vertex_scale",
                value: 1,
                bound: 0,
                windows: "consecutive",
                what: "vertices",
            },
            "vertex_scale has 1 value, but consecutive windows read 0, one for each of the vertices of all instances; \
             where all instances have the same values, say Weights::shared",
        ),
        (
            Error::OffsetOutOfRange { table: "offsets", instance: 1, value: -5, bound: 100 },
            "offsets[1] = -5, but the offset of a window is at least 0 and here at most 100",
        ),
        (
            Error::WindowTableMismatch { table },
            "weights: this window table was made for another batch; make it from the very batch of the plan (clones of \
             a batch are the same batch, equal ones are not)",
        ),
        (
            Error::WindowTableAxis { table, value: "vertices", bound: "hyperedges" },
            "weights: this window table is for vertices, but hyperedges are needed; WindowTable::new makes windows of \
             hyperedges, WindowTable::for_vertices those of vertices",
        ),
        (
            Error::WindowTableLength { table, value: 1, bound: 3 },
            "weights: this window table has 1 offset, but the call has 3 instances: make it with an offset for each",
        ),
        (
            Error::TooLarge { what: "the number of vertices", value: 1 << 32, bound: (1 << 32) - 1 },
            "the number of vertices is 4294967296, but at most 4294967295 can be dealt with at once: split it up",
        ),
        (
            Error::OutOfMemory { what: "the workspace", bytes: 1 << 60 },
            "no memory for the workspace: 1152921504606846976 bytes could not be allocated",
        ),
        (
            Error::FeaturesMismatch { operand, value: 3, bound: 4 },
            "x has rows of 3 features, but the plan is for 4: state the plan's number, or make a plan for 3",
        ),
        (
            Error::PartialRow { operand, value: 25, bound: 4 },
            "x has 25 elements, which is no whole number of rows of 4 features: check its length, and which of its sizes \
             is the number of features",
        ),
        (
            Error::PartialInstance { operand, value: 2, bound: 3, what: "vertices" },
            "x has 2 rows, which is no whole number of instances: each has 3 vertices, and a row for each",
        ),
        (
            Error::RowsMismatch { operand, value: 5, bound: 6, what: "vertices" },
            "x has 5 rows, but must have 6, one for each of the vertices, and no more",
        ),
        (
            Error::InstancesMismatch { operand: "y", value: 1, bound: 2, bound_of: operand },
            "y has 1 instance, but x has 2: all operands of a call have the same",
        ),
        (
            Error::UnknownInstances { operand },
            "no operand tells the number of copies, and x has elements: its layout has an instance stride, or its rows \
             are empty; state the number of copies by RowLayout::instances",
        ),
        (
            Error::GradientMismatch { operand: "grad_weights", value: 27, bound: 28, bound_of: table },
            "grad_weights has 27 elements, but weights has 28 values, and a gradient for each",
        ),
        (
            Error::GradientMismatch {
                operand: "gradients.vertex_scale",
                value: 4,
                bound: 0,
                bound_of: "vertex_scale",
            },
            "gradients.vertex_scale has 4 elements, but vertex_scale has 0 values, and a gradient for each: give \
             Out::Skip where there is nothing to have a gradient",
        ),
        (
            Error::Stride {
                operand,
                instances: 2,
                rows: 7,
                row_stride: 8,
                instance_stride: None,
                value: 52,
                bound: 48,
            },
            "x has 48 elements, but the 7 rows of 2 instances in all, at a row stride of 8, end at element 52: make it \
             longer, or its strides or the number of instances smaller",
        ),
        (
            Error::Stride {
                operand,
                instances: 2,
                rows: 3,
                row_stride: 8,
                instance_stride: Some(4),
                value: 24,
                bound: 23,
            },
            "x has 23 elements, but 2 instances at an instance stride of 4, of up to 3 rows each at a row stride of 8, \
             end at element 24: make it longer, or its strides or the number of instances smaller",
        ),
        (
            Error::Overlap { operand: "y", what: "row", value: 3, bound: 4 },
            "rows of the output y overlap: its row stride is 3, but must be at least 4 elements for each row to have a \
             place of its own",
        ),
        (
            Error::TooManyInstances { value: 5, bound: 4 },
            "there are 5 instances, but the workspace is for at most 4: make one for as many as there will be",
        ),
        (
            Error::NegativeDegree { instance: 1, vertex: 0, value: -1.5 },
            "instance 1: vertex 0 has degree -1.5, but symmetric normalization needs degrees of at least 0: keep the \
             weights positive, or use another normalization",
        ),
        (
            Error::DriverUnavailable { library: "libcuda.so", reason: "it is not there".into() },
            "the CUDA driver is not available: it is not there. Install the NVIDIA driver (it brings libcuda.so; a CUDA \
             toolkit is not needed), and in a container start it with GPU support",
        ),
        (
            Error::DriverTooOld { found: (11, 8), needed: (12, 0) },
            "the CUDA driver supports CUDA 11.8, but the kernels need 12.0: install NVIDIA driver R525 or newer",
        ),
        (
            Error::NoDevice { ordinal: 1, count: 1 },
            "there is no CUDA device 1: the driver shows 1. See `nvidia-smi` for what is installed and \
             CUDA_VISIBLE_DEVICES for what is visible",
        ),
        (
            Error::UnsupportedArchitecture { ordinal: 0, found: (7, 0), needed: (7, 5) },
            "CUDA device 0 has compute capability 7.0, but the kernels need 7.5 or newer: use a Turing or later GPU, or \
             the CPU backend",
        ),
        (
            Error::Driver {
                call: "opening the device",
                code: 2,
                name: "CUDA_ERROR_OUT_OF_MEMORY".into(),
                message: "out of memory".into(),
            },
            "opening the device failed: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory",
        ),
        (
            Error::IndexOutOfBounds {
                kernel: "gather_f32_checked",
                table: "by_edge.indices",
                instance: 3,
                position: 7,
                value: 9,
                bound: 4,
            },
            "gather_f32_checked, instance 3: by_edge.indices[7] on the device is 9, but must be below 4: upload the \
             table again, and look for who writes into it",
        ),
        (
            Error::IndexOutOfBounds {
                kernel: "gather_f32_checked",
                table: "by_edge.pointers",
                instance: 0,
                position: 1,
                value: 5,
                bound: 0,
            },
            "gather_f32_checked, instance 0: by_edge.pointers[1] on the device is 5, but no value would be right in \
             front of the one behind it: upload the table again, and look for who writes into it",
        ),
        (
            Error::WrongContext { operand, value: 0, bound: 0 },
            "x belongs to another CUDA context than the plan's device: both are on device 0, but a context counts as the \
             same only as the same `Arc`; make the device from the context of its buffers and streams, by \
             Device::from_context",
        ),
        (
            Error::WrongContext { operand: "the stream", value: 1, bound: 0 },
            "the stream belongs to another CUDA context than the plan's device: it is on device 1, the plan on device \
             0; make the device from the context of its buffers and streams, by Device::from_context",
        ),
        (
            Error::Misaligned { operand, value: 0x1002, bound: 4 },
            "x starts at address 0x1002, which is not a multiple of 4, the size of its elements: start it at a whole \
             element",
        ),
        (
            Error::SharedMemory { operand: "y", other: operand, value: 0x1000, bound: 0x2000 },
            "the output y shares memory with x: it starts at address 0x1000, and x ends at 0x2000; give it memory of \
             its own",
        ),
        (
            Error::Capturing { call: "a step" },
            "a step cannot be captured, and the stream is recording a CUDA graph: do it before or behind the capture; \
             calls of the raw tier (hyperscatter::cuda::raw) can be captured",
        ),
        (
            Error::PerThreadStream,
            "the per-thread default stream is another one on each thread, and a workspace may move: make it on a stream \
             of its own, or on the default stream",
        ),
        (
            Error::NotMadeFor { operator: "conv" },
            "this workspace was not made for conv, which needs kernels and scratch memory of its own: make it by \
             Plan::workspace_for with conv among the operators",
        ),
        (
            Error::KernelNotLoaded { kernel: "dense8_conv_f32" },
            "the kernel dense8_conv_f32 was not loaded with its workspace: this is a mistake of hyperscatter, \
             please report it",
        ),
        (
            Error::PathsMismatch { value: 1, bound: 3 },
            "1 paths were given for 3 topologies: give one for each, in their order",
        ),
        (
            Error::PathUnavailable {
                path: "dense operator",
                topology: 2,
                what: "vertices",
                value: 40,
                bound: 32,
            },
            "dense operator takes at most 32 vertices, and topology 2 has 40: give it another \
             path, or let the plan choose",
        ),
        (
            Error::MatrixUnavailable {
                operator: "conv_matrix",
                topology: 2,
                what: "vertices",
                value: 70,
                bound: 64,
            },
            "conv_matrix takes at most 64 vertices, and topology 2 has 70: leave out the instances that have it",
        ),
        (
            Error::LayerUnavailable {
                operator: "layer",
                what: "the number of inputs",
                value: 300,
                bound: 256,
            },
            "no kernel computes layer in one pass: the number of inputs is 300, and the limit is 256; multiply by Θ with \
             a library for products of matrices, and call the convolution with an epilogue",
        ),
        (
            Error::PartialMatrix { operand: "matrix", value: 33, bound: 16 },
            "matrix has 33 values, which is no whole number of instances: each has a matrix of 16",
        ),
        (
            Error::NoScratch { operator: "conv", bytes: 512 },
            "conv needs 512 bytes of scratch memory, and this workspace was lent none: lend it some by \
             Workspace::lend_scratch",
        ),
        (
            Error::ScratchTooSmall { operator: "conv", value: 511, bound: 512 },
            "conv needs 512 bytes of scratch memory, and this workspace was lent 511: lend it as many as \
             Workspace::scratch_bytes tells",
        ),
        (
            Error::ScratchMisaligned { value: 260, bound: 256 },
            "the scratch memory starts at address 0x104, which is not a multiple of 256: lend memory that does",
        ),
        (
            Error::OwnsScratch,
            "this workspace owns its scratch memory: make one by Plan::workspace_without_memory to lend it some",
        ),
        (
            Error::UncheckedTables,
            "tables of this batch or its windows were overwritten on the device, so only plans with Checks::On may read \
             them: make such a plan, or upload the tables again",
        ),
        (
            Error::BatchInUse { value: 1 },
            "the batch is held in 1 place besides this one: drop its plans, workspaces and clones before its tables are \
             overwritten",
        ),
        (
            Error::TableRange { table: "by_edge.indices", position: 12, value: 13, bound: 12 },
            "by_edge.indices[12 .. 13] is not a part of the table, which has 12 words",
        ),
        (
            Error::TableValue { table: "by_edge.indices", position: 3, value: 1 << 32, bound: 1 << 32 },
            "by_edge.indices[3] cannot become 4294967296: its words hold values below 4294967296",
        ),
    ]
}

#[test]
fn every_error_says_what_is_wrong_and_what_to_do() {
    let messages = messages();
    for (error, expected) in &messages {
        assert_eq!(error.to_string(), *expected);
    }
    let kinds: HashSet<_> = messages.iter().map(|(error, _)| discriminant(error)).collect();
    let all = include_str!("../src/error.rs").matches("\n    #[error(").count();
    assert_eq!(kinds.len(), all, "a kind of error has no message here");
}
