//! The structures that kernels take and write, and what they and the host call by number.
//!
//! `kernels/abi.cuh` is written from this file, see `abi.rs`. The structures have no padding and hold numbers
//! alone: an address is a `u64`, and 0 where there is nothing. What fills them from batches, tables and
//! operands is with those.

#![allow(unsafe_code)]

use bytemuck::Zeroable;

use super::abi::{numbers, structures};
use super::geometry::{ROWS_OF_SHORT_TILE, WARP};

/// An address of device memory.
pub(super) type Address = u64;

numbers! {
    /// The kernels, by the numbers that violations name them by.
    Kernel {
        Gather,
        AddPartials,
        /// Rows of the accumulation type are gathered into 16-bit ones; for other types it is `Gather`.
        GatherSums,
        Degree,
        WeightGradient,
        RowScale,
        SumChunks,
        SumWindows,
        EdgeShift,
        /// Reads no table, and so reports nothing.
        DegreeGradient,
        /// The convolution of topologies of up to so many vertices, by their dense operators.
        Dense8Conv,
        Dense16Conv,
        Dense32Conv,
        /// Forms dense operators, for classes of all sizes.
        DenseForm,
        /// With checks: finds the instances of those of rows, which report nothing themselves.
        DenseFind,
        /// The backward of the convolution: the gradients of rows, and products of rows.
        Dense8Backward,
        Dense16Backward,
        Dense32Backward,
        /// The gradients of weights from products of rows, which it adds over instances.
        DenseGradient,
        /// What surrounds the convolution with an epilogue: a `WalkKind`.
        WalkRows,
        /// The gradient of a bias, from sums of rows. Reads no table, and so reports nothing.
        AddSums,
        /// The matrices of instances, from scratch memory or into it: a `MatrixKind`.
        Matrix,
        /// The convolution of rows times a matrix, of up to so many features, or in TF32.
        Layer256,
        Layer512,
        LayerTf32,
        /// The gradients of rows and products of rows.
        Layer256Backward,
        Layer512Backward,
        LayerTf32Backward,
        /// The gradient of the matrix, in parts, and their sum, which reads no table.
        LayerTheta,
        LayerThetaSum,
    }

    /// What becomes of matrices, see kernels/matrix.cu.
    MatrixKind {
        StoreOperator,
        LoadGradient,
        MakeUnit,
        StoreProducts,
        LoadSymmetric,
        Gram,
        GramBackward,
    }

    /// The elements of rows, where kernels for all of them are one: those that sums have, or others.
    ElementKind {
        ElementOfSums,
        ElementF16,
        ElementBf16,
    }

    /// What becomes of rows of vertices, see kernels/epilogue.cu.
    WalkKind {
        Copy,
        Mean,
        Sum,
    }

    /// As `Activation`.
    ActivationKind {
        Identity,
        Relu,
        Gelu,
        GeluTanh,
        Silu,
    }

    /// What a wrong value was found in, by the numbers that violations name it by.
    TableId {
        Topologies,
        Pointers,
        Indices,
        Work,
        TopologyIds,
        WorkStarts,
        TargetStarts,
        SourceStarts,
        /// Not stored: a work item's entry in the list of its instance.
        WorkItems,
        SourceWindows,
        TargetWindows,
        Chunks,
        Members,
        Ranks,
        /// No table: the value is a degree, as the bits of a double.
        NegativeDegree,
        /// The instances that a path computes.
        PathInstances,
        DenseTopologies,
        Neighbors,
        Pairs,
        PairLists,
    }

    /// The lists of work of a topology, see kernels/tables.cuh.
    WorkClass {
        Partial,
        Medium,
        Short,
        Long,
    }

    /// How an instance finds its factors.
    WindowKind {
        /// There are none: all factors are 1.
        NoScale,
        Shared,
        Consecutive,
        /// At the offset of each instance.
        Table,
    }
}

structures! {
    /// The first violation that a kernel found, in mapped host memory.
    Violation {
        /// Written last, and not 0.
        ready: u32,
        kernel: u32,
        table: u32,
        orientation: u32,
        instance: u64,
        position: u64,
        value: u64,
        bound: u64,
    }

    /// Where a violation is published.
    RecordArgs {
        /// In device memory: 0 until a thread has found a wrong value.
        claim: Address => "u32*",
        /// In mapped host memory.
        published: Address => "Violation*",
    }

    /// A number for each class of work.
    Counts {
        partial: u64,
        medium: u64,
        short_row: u64,
        long_row: u64,
    }

    /// One topology, seen from its targets: where its parts of the tables start, and their sizes. Its part of
    /// `work` holds (row, segment) of each segment of the long rows, the rows of 9 to 512 incidences by
    /// falling length, the rows of up to 8 by falling length, and (row, first segment in this list) of each
    /// long row.
    TopologyWords {
        pointers: u64,
        indices: u64,
        work: u64,
        n_targets: u64,
        n_sources: u64,
        n_indices: u64,
        count: Counts,
    }

    /// A chunk of instances whose gradients are summed together, for windows at one offset. A last one ends
    /// the others.
    ChunkWords {
        offset: u64,
        topology: u64,
        /// In the list of members.
        first_member: u64,
        /// Of 32 rows each, of all chunks.
        first_tile: u64,
    }

    /// A rank: the chunks whose windows are of similar width. A last one ends the others.
    RankWords {
        first_chunk: u64,
        /// The most rows of a window.
        width: u64,
    }

    /// The tables of one orientation, and what a call makes of them. Targets are the rows of the tables,
    /// sources what their indices mean.
    TablesArgs {
        topologies: Address => "const TopologyWords*",
        pointers: Address => "const u32*",
        indices: Address => "const u32*",
        work: Address => "const u32*",
        /// Null for copies of topology 0, and so are the next three.
        topology_ids: Address => "const u32*",
        /// For each class instances + 1 prefix sums of the counts.
        work_starts: Address => "const u64*",
        /// Instances + 1 prefix sums of the rows.
        target_starts: Address => "const u64*",
        source_starts: Address => "const u64*",
        n_topologies: u64,
        n_pointers: u64,
        n_indices: u64,
        n_work: u64,
        /// Of this call.
        instances: u64,
        /// Rows of all of them.
        n_targets: u64,
        n_sources: u64,
        /// Rows of the largest topology in use.
        largest_targets: u32,
        largest_sources: u32,
        /// Work items of this call.
        items: Counts,
        /// For messages.
        orientation: u32,
        padding: u32,
    }

    /// The tiles of a call: a warp takes one at a time.
    Tiles {
        /// Of segments of long rows,
        partial: u64,
        /// with those of medium rows behind them,
        with_medium: u64,
        /// and those of short rows.
        all: u64,
        /// Of the long rows, from the results of their segments.
        long_row: u64,
    }

    /// A factor for each row of one side, and the part of the values that each instance reads.
    ScaleArgs {
        values: Address => "const void*",
        len: u64,
        /// For windows of the kind TABLE.
        offsets: Address => "const u64*",
        /// A WindowKind.
        windows: u32,
        /// Whether a row with factor 0 is left out instead of multiplied.
        skip_zero: u32,
    }

    /// A feature operand. Row i of instance g starts at g * instance_stride + i * row_stride, or, where rows
    /// are packed, at (start of g + i) * row_stride.
    RowsArgs {
        data: Address => "void*",
        row_stride: u64,
        instance_stride: u64,
        packed: u32,
        padding: u32,
    }

    /// What follows the sums of the convolution in their store, see kernels/epilogue.cuh. All zeros: nothing.
    EpilogueArgs {
        /// One for each feature, of the accumulation type; null: none.
        bias: Address => "const void*",
        /// What is added last or, in the backward, gradients of what was stored. No data: none.
        rows: RowsArgs,
        /// An ActivationKind.
        activation: u32,
        /// The result is the gradient of the sums.
        backward: u32,
        /// There is one row for each instance: forward the mean over its vertices is stored, and in the
        /// backward `rows` are the gradients of that.
        mean: u32,
        /// There is an epilogue.
        exists: u32,
    }

    /// Of the kernels of gather.cu. What is the same for a whole call, such as `mean`, is read at run time:
    /// each that became a template parameter would double the PTX that a workspace loads.
    GatherArgs {
        tables: TablesArgs,
        tiles: Tiles,
        sources: RowsArgs,
        /// No data: nothing is stored.
        targets: RowsArgs,
        /// No data: no dot products.
        others: RowsArgs,
        source_scale: ScaleArgs,
        target_scale: ScaleArgs,
        /// Of each source row of the batch, as the factors are then, too; null: zeros.
        source_shifts: Address => "const int*",
        target_shifts: Address => "const int*",
        /// For each target row of the batch one for each block of features.
        dots: Address => "double*",
        /// Scratch: a row of sums for each segment of a long row, without gaps.
        partials: Address => "void*",
        record: RecordArgs,
        /// Of sources of the accumulation type.
        epilogue: EpilogueArgs,
        features: u32,
        /// Of a group: 8, 16 or 32.
        lanes: u32,
        mean: u32,
        add: u32,
        aligned: u32,
        /// Targets and others are rows of the accumulation type.
        wide: u32,
        feature_blocks: u32,
        padding: u32,
    }

    /// Of the kernels that sum one number for each incidence of a row.
    SumArgs {
        tables: TablesArgs,
        tiles: Tiles,
        /// Of the sources; none: the degree is the number of incidences.
        values: ScaleArgs,
        partials: Address => "void*",
        record: RecordArgs,
        /// Of the accumulation type, as the next two.
        degree: Address => "void*",
        inv_degree: Address => "void*",
        /// L, and 0 for single incidences; null where those count like others.
        weight_inv_degree: Address => "void*",
        /// Null: degrees are not shifted.
        vertex_shifts: Address => "int*",
        edge_shifts: Address => "int*",
        /// Of each row `dot_blocks`; null: none.
        dots: Address => "const double*",
        gradient: Address => "double*",
        dot_blocks: u32,
        /// That degrees are taken to have.
        least_exponent: i32,
        /// Up to which, of either sign, degrees are not shifted.
        plain_exponents: i32,
        /// 2 if L is 1/sqrt(D), and else 1.
        shifts_of_degree: u32,
        /// The tiles of the launch: all of `tiles`, or those of the long rows, which count on behind them.
        begin_tile: u64,
        end_tile: u64,
    }

    /// Of the gradients of degrees.
    DegreeGradientArgs {
        degree: Address => "const void*",
        inv_degree: Address => "const void*",
        /// Where it is 0, there is no gradient.
        weight_inv_degree: Address => "const void*",
        shifts: Address => "const int*",
        dots_y: Address => "const double*",
        /// Null unless symmetric.
        dots_x: Address => "const double*",
        gradient: Address => "double*",
        /// Of all instances.
        n_vertices: u64,
        dot_blocks: u32,
        shifts_of_degree: u32,
    }

    /// Of the factors that the gradients of rows are passed on with.
    RowScaleArgs {
        tables: TablesArgs,
        /// Of the targets.
        scale: ScaleArgs,
        /// Of each target row of the batch; null: zeros.
        shifts: Address => "const int*",
        /// One for each target row of the batch, of the accumulation type.
        row_scale: Address => "void*",
        record: RecordArgs,
        mean: u32,
        shifts_of_degree: u32,
    }

    /// What the dense operator of a topology is formed from, see src/pairs.rs: where its parts of the tables
    /// start, and their sizes. All zeros for a topology that has none.
    DenseTopologyWords {
        n_vertices: u64,
        neighbors: u64,
        /// Two words for each pair, u + v 2^16 and where its list starts, and two that end them.
        pairs: u64,
        n_pairs: u64,
        lists: u64,
        /// Words.
        n_listed: u64,
        /// Of hyperedges; 0: they have several sizes, or some have a vertex twice.
        uniform_size: u64,
        /// Where its words start that kernels with windows in shared memory read, see StagedTable in
        /// src/cuda/dense_tables.rs. The next three are 0 where it has none.
        staged: u64,
        /// Pairs of two vertices,
        n_staged: u64,
        /// and the words of hyperedges that each has; a multiple of STAGED_TOGETHER.
        staged_words: u64,
        /// The hyperedges that each vertex has, two in a word; a multiple of twice that.
        staged_ids: u64,
        /// Where its operator is stored for all instances: the number of its first entry,
        entries: u64,
        /// and of its first word, which are terms; see DenseOperatorsArgs.
        terms: u64,
    }

    DenseTablesArgs {
        topologies: Address => "const DenseTopologyWords*",
        neighbors: Address => "const u32*",
        pairs: Address => "const u32*",
        lists: Address => "const u32*",
        staged: Address => "const u32*",
        n_neighbors: u64,
        /// Words, as in the lists.
        n_pairs: u64,
        n_lists: u64,
    }

    /// Where dense operators are stored, in scratch memory: for a class of N vertices, as entries, N x N of
    /// M, in rows; N that sums are multiplied by; and N degrees as gradients see them. As words N of terms,
    /// where bit v of number u says that M_uv is a term of y_u; N shifts of degrees; and N of terms the other
    /// way round, bit u of number v. Of 64 vertices these have the terms v from 32 on instead.
    DenseOperatorsArgs {
        /// Of the accumulation type.
        entries: Address => "void*",
        words: Address => "u32*",
        n_entries: u64,
        n_words: u64,
        /// N.
        row: u32,
        /// An operator for each item of a launch, one behind the other; 0: one for each topology, at its
        /// place.
        of_items: u32,
    }

    /// The conventions of the convolution, as dense operators are formed by them.
    DenseConventions {
        /// Whether weights are part of the degrees,
        in_degree: u32,
        /// and of the messages.
        in_message: u32,
        /// 0: there are no degrees.
        normalized: u32,
        /// Whether degrees are multiplied by powers of two.
        shifted: u32,
        /// That degrees are taken to have.
        least_exponent: i32,
        /// 2 if M is divided by square roots of degrees, and else 1.
        shifts_of_degree: u32,
        /// Whether gradients leave out vertices of a single incidence.
        leaves_out_single: u32,
        padding: u32,
    }

    /// What a launch over dense operators walks through: instances, or topologies.
    DenseItemsArgs {
        by_vertex: TablesArgs,
        dense: DenseTablesArgs,
        operators: DenseOperatorsArgs,
        record: RecordArgs,
        /// The numbers of the items; null: they are all of the call.
        numbers: Address => "const u32*",
        /// With checks: the items that dense_find.cu has stored for a kernel of rows; null: it finds them.
        found: Address => "void*",
        n_items: u64,
        /// That the grid walks through.
        blocks: u64,
        /// The items of a block; 0: all instances are copies of one topology and have one window, and are
        /// shared out without regard to blocks.
        per_block: u32,
        /// Of copies of one topology; 0: each instance has its own.
        n_vertices: u32,
    }

    /// Of the kernels that form dense operators.
    DenseFormArgs {
        items: DenseItemsArgs,
        conventions: DenseConventions,
        /// Of hyperedges.
        weights: ScaleArgs,
        /// The items are topologies.
        of_topologies: u32,
        /// The lanes that sum the weights of a vertex.
        row_lanes: u32,
        /// The numbers that a block has room for in shared memory for the window of each item, with a zero
        /// behind it; 0: windows are not there.
        window_room: u32,
        padding: u32,
    }

    /// Of the convolution of small hypergraphs by their dense operators.
    DenseConvArgs {
        form: DenseFormArgs,
        x: RowsArgs,
        y: RowsArgs,
        epilogue: EpilogueArgs,
        /// Operators are formed here, in unchecked builds; else they were stored.
        forms: u32,
        /// The threads of each instance, which have chunks of its features.
        chunks: u32,
        aligned: u32,
        add: u32,
    }

    /// Of its backward.
    DenseBackwardArgs {
        items: DenseItemsArgs,
        x: RowsArgs,
        grad_y: RowsArgs,
        /// No data: it is not wanted.
        grad_x: RowsArgs,
        /// Of the accumulation type, N x N for each item, or for each chunk of instances.
        products: Address => "void*",
        features: u64,
        /// The slices of a row, see src/dense.rs.
        slices: u32,
        /// The slots of an item.
        slots: u32,
        /// The instances of a chunk, where all have one window; 0: items are instances.
        chunk_len: u32,
        aligned: u32,
        add: u32,
        wants_products: u32,
    }

    /// Of layers of small hypergraphs, see kernels/layer.cuh; of their backwards, where x are gradients of
    /// the sums and y those of x; and of the gradients of their matrices, see kernels/layer_theta.cuh, where
    /// y are gradients of the sums.
    LayerArgs {
        /// Its `blocks` are those that a tile, or a chunk of tiles, is one of.
        items: DenseItemsArgs,
        x: RowsArgs,
        /// Of a backward no data: they are not wanted.
        y: RowsArgs,
        /// Of a backward its rows are those of the forward's x.
        epilogue: EpilogueArgs,
        /// Of the elements' type.
        theta: Address => "const void*",
        /// Of a backward N x N for each item, or for each chunk, and each part of the outputs; null: they are
        /// not wanted. Of gradients of matrices the parts of that. f32.
        products: Address => "void*",
        /// The elements of a row of x, and of y.
        inputs: u32,
        outputs: u32,
        /// An instance has 2^slot_bits rows of a group.
        slot_bits: u32,
        /// The groups of a tile.
        groups: u32,
        /// 2^chunk_bits tiles are a chunk.
        chunk_bits: u32,
        /// The bytes of a row of x in shared memory.
        pitch: u32,
        /// The warps of a block that share out its outputs: 1, 2, 4 or 8. And those that share out its
        /// inputs, of gradients of matrices.
        columns: u32,
        input_columns: u32,
        /// Likewise the blocks.
        parts: u32,
        input_parts: u32,
        /// The rows of Theta that pass through shared memory together,
        theta_rows: u32,
        /// and the bytes of one, in a backward. Of gradients of matrices those of a row of y.
        theta_pitch: u32,
        /// 2^copy_bits lanes copy a row.
        copy_bits: u32,
        /// Each item has an operator; else all have one.
        own: u32,
        x_aligned: u32,
        theta_aligned: u32,
        y_aligned: u32,
        bias_aligned: u32,
        add: u32,
        padding: u32,
    }

    /// Of the gradient of a layer's matrix, from its parts.
    ThetaSumArgs {
        parts: Address => "const float*",
        n_parts: u64,
        n_elements: u64,
        gradient: Address => "float*",
        add: u32,
        padding: u32,
    }

    /// Of the gradients of weights, from products of rows.
    DenseGradientArgs {
        items: DenseItemsArgs,
        conventions: DenseConventions,
        by_edge: TablesArgs,
        /// N x N products each, of the accumulation type or, where `wide`, double.
        nodes: Address => "const void*",
        n_nodes: u64,
        /// Of the same size, of each item, and no gradients; null: gradients.
        roots: Address => "double*",
        /// Up to MOST_NODES, which are added; the last item may have fewer.
        nodes_of_item: u32,
        wide: u32,
        /// For each hyperedge `blocks`, of which the others become 0; null: the gradient is written.
        values: Address => "double*",
        /// Of the accumulation type, for each hyperedge.
        gradient: Address => "void*",
        gradient_len: u64,
        blocks: u32,
        add: u32,
        /// That share out the hyperedges of the same items, or the entries of roots.
        parts: u64,
    }

    /// Of the matrices of instances, see kernels/matrix.cu.
    MatrixArgs {
        items: DenseItemsArgs,
        /// The caller's, of the accumulation type: `side` x `side` of each instance, one behind the other.
        matrices: Address => "void*",
        /// Likewise N x N of each item of the launch, in scratch memory.
        products: Address => "void*",
        /// Of the kinds that have rows.
        x: RowsArgs,
        grad_x: RowsArgs,
        features: u64,
        /// The blocks that share out the work of one.
        parts: u64,
        /// A MatrixKind.
        what: u32,
        /// The vertices of the largest topology in use.
        side: u32,
        add: u32,
        /// The items are topologies.
        of_topologies: u32,
        /// An ElementKind, of the rows.
        element: u32,
        padding: u32,
    }

    /// Of kernels whose threads walk through the rows of vertices of some instances, each with a slice of
    /// their features: see epilogue.cu.
    WalkArgs {
        tables: TablesArgs,
        record: RecordArgs,
        /// A unit is this many instances, or of one instance SEGMENT_ROWS rows.
        unit_instances: u64,
        /// The segments that the longest instance is cut into.
        unit_segments: u64,
        n_units: u64,
        source: RowsArgs,
        /// Of MEAN one row for each instance.
        target: RowsArgs,
        /// For each unit a row of sums: of MEAN of the accumulation type, null where instances are no longer
        /// than a segment, and of SUM double.
        sums: Address => "void*",
        features: u64,
        /// The threads of a unit.
        slices: u64,
        /// A WalkKind.
        what: u32,
        aligned: u32,
        add: u32,
        /// Of COPY: the source has one row for each instance, which is divided by the number of its vertices.
        mean: u32,
        /// The segments of the longest instance: the sums of segments are added; 0: rows are.
        sum_segments: u64,
    }

    /// Of the gradient of a bias, from rows of sums.
    AddSumsArgs {
        /// Rows of sums, without gaps.
        nodes: Address => "const double*",
        n_nodes: u64,
        features: u64,
        /// Up to MOST_NODES, which are added; the last one may have fewer.
        nodes_per_root: u64,
        n_roots: u64,
        /// Likewise; null: there is one root, the gradient.
        roots: Address => "double*",
        /// Of the accumulation type.
        gradient: Address => "void*",
        add: u32,
        padding: u32,
    }

    /// Of the sums of gradients over instances.
    GradientArgs {
        /// Of the orientation whose rows the gradients belong to.
        tables: TablesArgs,
        /// ChunkWords; null: copies of topology 0, `chunk_len` of them a chunk, all at offset 0.
        chunks: Address => "const u64*",
        members: Address => "const u64*",
        /// RankWords.
        ranks: Address => "const u64*",
        n_chunks: u64,
        n_members: u64,
        n_ranks: u64,
        chunk_len: u64,
        /// Of a copy.
        n_rows: u64,
        /// Of `sum_chunks_*`: 32 rows of a chunk each.
        tiles: u64,
        /// Of each row `blocks`.
        values: Address => "const double*",
        /// Of the accumulation type, for each row of the batch.
        sums: Address => "void*",
        /// Likewise, for each weight (or value of a scale).
        gradient: Address => "void*",
        gradient_len: u64,
        record: RecordArgs,
        blocks: u32,
        add: u32,
        /// There is one chunk, at offset 0: its sums are the gradient.
        direct: u32,
        /// Of `sum_windows_*`: a thread or a warp sums for a weight, 1 or 32.
        lanes: u32,
    }
}

/// How many 64-bit words a structure has that is stored as words.
pub(super) const fn words_of<S>() -> usize {
    size_of::<S>() / size_of::<u64>()
}

impl TablesArgs {
    /// All rows as those of a single instance. The tables of topologies no longer fit then.
    pub(super) fn as_one_instance(self) -> Self {
        Self { topology_ids: 0, work_starts: 0, target_starts: 0, source_starts: 0, instances: 1, ..self }
    }
}

impl Tiles {
    /// A tile is a row for each group of `lanes` lanes of a warp, or four short rows.
    #[inline]
    pub(super) fn new(items: Counts, lanes: u32) -> Self {
        let of_groups = |items: u64| items.div_ceil(u64::from(WARP / lanes));
        let partial = of_groups(items.partial);
        let with_medium = partial + of_groups(items.medium);
        Self {
            partial,
            with_medium,
            all: with_medium + items.short_row.div_ceil(ROWS_OF_SHORT_TILE),
            long_row: of_groups(items.long_row),
        }
    }
}

impl ScaleArgs {
    pub(super) fn none() -> Self {
        Self::new(WindowKind::NoScale, 0, 0, 0)
    }

    /// One set of factors for all instances.
    pub(super) fn shared(values: Address, len: usize) -> Self {
        Self::new(WindowKind::Shared, values, len, 0)
    }

    /// A factor for each row of the batch.
    pub(super) fn consecutive(values: Address, len: usize) -> Self {
        Self::new(WindowKind::Consecutive, values, len, 0)
    }

    /// Factors at the offset of each instance.
    pub(super) fn table(values: Address, len: usize, offsets: Address) -> Self {
        Self::new(WindowKind::Table, values, len, offsets)
    }

    fn new(windows: WindowKind, values: Address, len: usize, offsets: Address) -> Self {
        Self { values, len: len as u64, offsets, windows: windows as u32, skip_zero: 0 }
    }

    /// Rows whose factor is 0 are left out instead of multiplied.
    pub(super) fn skipping_zeros(self) -> Self {
        Self { skip_zero: 1, ..self }
    }
}

impl RecordArgs {
    /// Where nothing is checked.
    pub(super) fn none() -> Self {
        Self::zeroed()
    }
}
