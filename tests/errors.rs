//! Every error names what is wrong, where, the value and the bound; and a call that fails has written
//! nothing.

use std::cell::Cell;

use hyperscatter::cpu::{Plan, Step, StepGradients, Weights, Workspace};
use hyperscatter::{
    AllInFirst, Batch, Conv, Error, Incidence, Misbatching, Normalization, Out, Owners, Repeats, RowLayout,
    Rows, WeightUse, WindowTable,
};

const NONE: [u8; 0] = [];

/// A batch of graphs of these sizes, from an index with these rows.
fn batched(
    n: &[i32],
    m: &[i32],
    vertices: &[i64],
    hyperedges: &[i64],
    repeats: Repeats,
) -> Result<Batch, Error> {
    let (v, e) = (Owners::Counts(n), Owners::Counts(m));
    Batch::from_batched_coo(n.len(), vertices, hyperedges, v, e, repeats, AllInFirst::Reject)
}

#[test]
fn vertex_out_of_range() {
    let out_of_range = |table, list, position, value, looks_like| Error::VertexOutOfRange {
        table,
        list,
        position,
        value,
        bound: 3,
        looks_like,
    };
    let edges = Incidence::from_edges(3, &[&[0, 1][..], &[2, 3]], Repeats::Keep).unwrap_err();
    assert_eq!(edges, out_of_range("edges", Some(1), 1, 3, None));
    assert_eq!(
        edges.to_string(),
        "edges[1][1] is vertex 3, but there are 3 vertices, 0 to 2: correct the id, or the number of vertices"
    );
    let one_based = Incidence::from_edges(3, &[&[1, 2][..], &[2, 3]], Repeats::Keep).unwrap_err();
    assert_eq!(one_based, out_of_range("edges", Some(1), 1, 3, Some(Misbatching::OneBasedVertices)));
    let csr = Incidence::from_csr(3, &[0, 2], &[0i64, -1], Repeats::Keep).unwrap_err();
    assert_eq!(csr, out_of_range("edge_vertices", None, 1, -1, Some(Misbatching::NegativePadding)));
    assert_eq!(
        csr.to_string(),
        "edge_vertices[1] is vertex -1, but there are 3 vertices, 0 to 2. It looks like this: negative ids are padding; \
         leave them out"
    );
    let coo = Incidence::from_coo(3, 1, &[u64::MAX], &[0], Repeats::Keep).unwrap_err();
    assert_eq!(coo, out_of_range("vertices", None, 0, u64::MAX.into(), None));
    let of_batch = batched(&[3], &[3], &[3, 0], &[0, 0], Repeats::Keep).unwrap_err();
    assert_eq!(of_batch, out_of_range("vertices", None, 0, 3, None));
}

#[test]
fn hyperedge_out_of_range() {
    let out_of_range = |value, bound, looks_like| Error::HyperedgeOutOfRange {
        table: "hyperedges",
        position: 1,
        value,
        bound,
        looks_like,
    };
    let coo = Incidence::from_coo(3, 2, &[0, 1, 2], &[0, 3, 1], Repeats::Keep).unwrap_err();
    assert_eq!(coo, out_of_range(3, 2, None));
    assert_eq!(
        coo.to_string(),
        "hyperedges[1] is hyperedge 3, but there are 2 hyperedges, 0 to 1: correct the id, or the number of hyperedges"
    );
    let exchanged = Incidence::from_coo(3, 2, &[0, 1, 0], &[0, 2, 1], Repeats::Keep).unwrap_err();
    assert_eq!(exchanged, out_of_range(2, 2, Some(Misbatching::RowsExchanged)));
    let none = Incidence::from_coo(3, 0, &[0, 1], &[0, 0], Repeats::Keep).unwrap_err();
    assert_eq!(
        none.to_string(),
        "hyperedges[0] is hyperedge 0, but there are no hyperedges: correct the id, or the number of hyperedges"
    );
    let padded = batched(&[2, 2], &[1, 1], &[0, 1, 2], &[0, -1, 1], Repeats::Keep).unwrap_err();
    assert_eq!(padded, out_of_range(-1, 2, Some(Misbatching::NegativePadding)));
}

#[test]
fn pointers_that_fall_or_miss_an_end() {
    let falling = Incidence::from_csr(3, &[0, 2, 1, 3], &[0, 1, 2], Repeats::Keep).unwrap_err();
    assert_eq!(falling, Error::PointersNotMonotone { table: "edge_ptr", position: 2, value: 1, previous: 2 });
    let late = Incidence::from_csr(3, &[1, 3], &[0, 1, 2], Repeats::Keep).unwrap_err();
    assert_eq!(late, Error::FirstPointerNotZero { table: "edge_ptr", value: 1 });
    let short = Incidence::from_csr(3, &[0, 2], &[0, 1, 2], Repeats::Keep).unwrap_err();
    assert_eq!(
        short,
        Error::LastPointer { table: "edge_ptr", value: 2, bound: 3, bound_of: "edge_vertices" }
    );
    assert!(short.to_string().starts_with("edge_ptr ends at 2, but edge_vertices has length 3: "), "{short}");
}

#[test]
fn lengths_that_disagree() {
    let length = |table, value, bound, bound_of| Error::LengthMismatch { table, value, bound, bound_of };
    let none = Incidence::from_csr(3, &NONE, &NONE, Repeats::Keep).unwrap_err();
    assert_eq!(none, Error::NoPointers { table: "edge_ptr" });
    let coo = Incidence::from_coo(3, 2, &[0, 1], &[0], Repeats::Keep).unwrap_err();
    assert_eq!(coo, length("hyperedges", 1, 2, "vertices, the other row of the index"));
    let (v, e) = (Owners::Counts(&[2u8, 2]), Owners::Counts(&[1u8]));
    let counts =
        Batch::from_batched_coo(2, &NONE, &NONE, v, e, Repeats::Keep, AllInFirst::Reject).unwrap_err();
    let (table, looks_like) = ("hyperedge_owners", None);
    assert_eq!(counts, Error::CountsLength { table, value: 1, bound: 2, looks_like });
    let batch = Batch::from_table(vec![Incidence::subsets(3, 2).unwrap()], &[0; 4]).unwrap();
    let windows = WindowTable::new(&batch, &[0, 0, 0]).unwrap_err();
    assert_eq!(windows, length("offsets", 3, 4, "the instances of the batch"));
}

/// Members that are others each time they are asked for, as nothing forbids.
#[test]
fn members_that_grow_between_counting_and_copying() {
    struct Growing(Cell<usize>);
    impl AsRef<[u8]> for Growing {
        fn as_ref(&self) -> &[u8] {
            &[0, 1, 2, 0, 1][..self.0.replace(5)]
        }
    }
    let edges = [Growing(Cell::new(2)), Growing(Cell::new(1))];
    let error = Incidence::from_edges(3, &edges, Repeats::Keep).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the concatenation of edges has length 5, but must have length 3 to go with the members that as_ref gave when they \
         were counted"
    );
}

#[test]
fn repeated_incidence() {
    let repeated = |table, list, position, vertex, hyperedge| Error::RepeatedIncidence {
        table,
        list,
        position,
        vertex,
        hyperedge,
        looks_like: None,
    };
    let error = Incidence::from_edges(3, &[&[0, 1][..], &[2, 1, 2]], Repeats::Reject).unwrap_err();
    assert_eq!(error, repeated("edges", Some(1), 2, 2, 1));
    let csr = Incidence::from_csr(3, &[0, 2, 5], &[0, 1, 2, 1, 2], Repeats::Reject).unwrap_err();
    assert_eq!(csr, repeated("edge_vertices", None, 4, 2, 1));
    // Of a COO, incidences 0 and 3 are the same; sorted by hyperedge, they stand elsewhere.
    let coo = Incidence::from_coo(3, 2, &[2, 0, 1, 2], &[1, 0, 1, 1], Repeats::Reject).unwrap_err();
    assert_eq!(coo, repeated("vertices", None, 3, 2, 1));
    // In graph 1, as numbered in the batch.
    let of_batch = batched(&[2, 2], &[1, 2], &[3, 0, 2, 3], &[2, 0, 1, 2], Repeats::Reject).unwrap_err();
    assert_eq!(of_batch, repeated("vertices", None, 3, 3, 2));
}

/// Strides that nothing bounds, since no row is placed by them, and strides whose span does not fit 128 bits.
#[test]
fn enormous_strides_do_not_overflow() {
    let no_vertices = Incidence::from_edges(0, &[NONE; 3], Repeats::Keep).unwrap();
    let mut call = Call::with(Batch::replicate(no_vertices), Conv::default(), 3);
    let layout = RowLayout::contiguous(4).row_stride(usize::MAX).instance_stride(usize::MAX);
    let (x, mut z) = ([0.0f32; 0], [7.0f32; 36]);
    let rows = Rows::new(&x[..], layout.instances(3));
    call.workspace
        .conv(rows, Weights::shared(&[1.0; 3]), Out::Overwrite(Rows::new(&mut [], layout)))
        .unwrap();
    let out = Out::Overwrite(Rows::contiguous(&mut z[..], 4));
    call.workspace.vertex_to_hyperedge(&Step::default(), rows, out).unwrap();
    assert_eq!(z, [0.0; 36]);

    let batch = Batch::replicate(Incidence::subsets(4, 2).unwrap());
    let mut workspace = Plan::<f32>::builder(&batch, 1).build().unwrap().workspace(usize::MAX).unwrap();
    let layout = RowLayout::contiguous(1).row_stride(usize::MAX).instance_stride(usize::MAX);
    for instances in [u32::MAX as usize, usize::MAX] {
        let x = Rows::new(&[1.0f32][..], layout.instances(instances));
        let error =
            workspace.conv_backward(x, Weights::shared(&[1.0; 6]), x, Out::Skip, Out::Skip).unwrap_err();
        assert!(matches!(error, Error::Stride { .. } | Error::TooLarge { .. }), "{error}");
    }
}

#[test]
fn topology_and_graph_ids_out_of_range_or_order() {
    let pair = || vec![Incidence::subsets(2, 2).unwrap()];
    let topology = Batch::from_table(pair(), &[0, 1]).unwrap_err();
    assert_eq!(
        topology,
        Error::TopologyOutOfRange { table: "topology_ids", instance: 1, value: 1, bound: 1 }
    );
    let batch = |v: &[i32], e: &[i32]| {
        let (v, e) = (Owners::GraphIds(v), Owners::GraphIds(e));
        Batch::from_batched_coo(2, &NONE, &NONE, v, e, Repeats::Keep, AllInFirst::Reject)
    };
    let graph = batch(&[0, 1], &[0, 2, 0]).unwrap_err();
    let (table, looks_like) = ("hyperedge_owners", None);
    assert_eq!(graph, Error::GraphOutOfRange { table, position: 1, value: 2, bound: 2, looks_like });
    let unsorted = batch(&[0, 1, 0], &[]).unwrap_err();
    let table = "vertex_owners";
    assert_eq!(unsorted, Error::GraphIdsNotSorted { table, position: 2, value: 0, previous: 1, looks_like });
    let negative = batched(&[2, -2], &[0, 0], &[], &[], Repeats::Keep).unwrap_err();
    assert_eq!(negative, Error::NegativeCount { table, graph: 1, value: -2 });
}

#[test]
fn too_large_for_u32() {
    let bound = u128::from(u32::MAX);
    let too_large = |what, value| Error::TooLarge { what, value, bound };
    let n = u32::MAX as usize + 1;
    let vertices = Incidence::from_edges(n, &[NONE], Repeats::Keep).unwrap_err();
    assert_eq!(vertices, too_large("the number of vertices", n as u128));
    let hyperedges = Incidence::from_coo(1, n, &NONE, &NONE, Repeats::Keep).unwrap_err();
    assert_eq!(hyperedges, too_large("the number of hyperedges", n as u128));
    assert!(matches!(Incidence::subsets(1000, 500), Err(Error::TooLarge { value, .. }) if value > bound));
    // C(200, 5) hyperedges would fit.
    let incidences = Incidence::subsets(200, 5).unwrap_err();
    assert_eq!(incidences, too_large("the number of incidences", 2_535_650_040 * 5));
}

#[test]
fn window_past_the_end_of_the_weights() {
    let mut call = Call::new(3);
    let weights = [1.0; 6];
    let window = |instance, value, bound| Error::WindowOutOfRange {
        table: "weights",
        instance,
        value,
        width: 3,
        bound,
    };
    assert_eq!(call.conv(Weights::shared(&weights[..2])), Err(window(0, 0, 2)));
    assert_eq!(call.conv(Weights::consecutive(&weights)), Err(window(2, 6, 6)));
    let batch = call.batch.clone();
    let table = WindowTable::new(&batch, &[0u64, 4, 1 << 40]).unwrap();
    assert_eq!(call.conv(Weights::table(&weights, &table)), Err(window(1, 4, 6)));
    let negative = WindowTable::new(&batch, &[0, -5]).unwrap_err();
    let bound = isize::MAX as u64 - 3;
    let out_of_range = |instance, value| Error::OffsetOutOfRange { table: "offsets", instance, value, bound };
    assert_eq!(negative, out_of_range(1, -5));
    for value in [u64::MAX, bound + 1] {
        assert_eq!(WindowTable::new(&batch, &[value]).unwrap_err(), out_of_range(0, value.into()));
    }
    WindowTable::new(&batch, &[bound]).unwrap();
}

#[test]
fn more_weights_than_the_windows_read() {
    let mut call = Call::new(3);
    let more = |value, bound, windows| {
        Err(Error::UnreadWeights { table: "weights", value, bound, windows, what: "hyperedges" })
    };
    // One window for each instance, but read as shared: every instance would read the first.
    assert_eq!(call.conv(Weights::shared(&[1.0; 9])), more(9, 3, "shared"));
    assert_eq!(call.conv(Weights::consecutive(&[1.0; 12])), more(12, 9, "consecutive"));
    assert_eq!(call.conv(Weights::consecutive(&[1.0; 9])), Ok(()));
}

#[test]
fn window_table_of_something_else() {
    let mut call = Call::new(3);
    let other = Batch::replicate(Incidence::subsets(3, 2).unwrap());
    let table = WindowTable::new(&other, &[0, 0, 0]).unwrap();
    let of_another = Error::WindowTableMismatch { table: "weights" };
    assert_eq!(call.conv(Weights::table(&[1.0; 3], &table)), Err(of_another));
    let batch = call.batch.clone();
    let table = WindowTable::for_vertices(&batch, &[0, 0, 0]).unwrap();
    let axis = Error::WindowTableAxis { table: "weights", value: "vertices", bound: "hyperedges" };
    assert_eq!(call.conv(Weights::table(&[1.0; 3], &table)), Err(axis));
    let table = WindowTable::new(&batch, &[0, 0]).unwrap();
    let fewer = Error::WindowTableLength { table: "weights", value: 2, bound: 3 };
    assert_eq!(call.conv(Weights::table(&[1.0; 3], &table)), Err(fewer));
}

#[test]
fn negative_degree_under_symmetric_normalization() {
    let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
    let symmetric = |weight_use| Conv::new(Normalization::Symmetric, weight_use);
    for weight_use in [WeightUse::Documented, WeightUse::DegreeOnly] {
        let mut call = Call::with(batch.clone(), symmetric(weight_use), 3);
        // Pairs (0,1) (0,2) (1,2): with the last two windows, vertex 2 has degree −3 + 1.
        let weights = [1.0, 1.0, 1.0, 2.0, -3.0, 1.0];
        let offsets = [0, 3, 3];
        let table = WindowTable::new(&batch, &offsets).unwrap();
        let expected = Error::NegativeDegree { instance: 1, vertex: 0, value: -1.0 };
        assert_eq!(call.conv(Weights::table(&weights, &table)), Err(expected));
        let nan = call.conv(Weights::shared(&[f32::NAN; 3]));
        assert_eq!(nan, Ok(()), "NaN is not negative: it goes into the result");
    }
    let mut call = Call::with(batch, symmetric(WeightUse::MessageOnly), 1);
    assert_eq!(call.conv(Weights::shared(&[-1.0; 3])), Ok(()), "the weights are not in the degree");
}

#[test]
fn rows_and_gradients_of_another_shape() {
    let operand = "x";
    let mut call = Call::new(2);
    let weights = [1.0f32; 3];
    let weights = Weights::shared(&weights);
    let x = vec![1.0f32; 100];
    let mut conv = |rows| call.workspace.conv(rows, weights, Out::Skip).unwrap_err();
    let features = conv(Rows::contiguous(&x[..24], 3));
    assert_eq!(features, Error::FeaturesMismatch { operand, value: 3, bound: 4 });
    let partial_row = |value| Error::PartialRow { operand, value, bound: 4 };
    let partial = |value| Error::PartialInstance { operand, value, bound: 3, what: "vertices" };
    assert_eq!(conv(Rows::contiguous(&x[..25], 4)), partial_row(25));
    assert_eq!(conv(Rows::contiguous(&x[..3], 4)), partial_row(3));
    assert_eq!(conv(Rows::contiguous(&x[..28], 4)), partial(7));
    let strided = RowLayout::contiguous(4).row_stride(5);
    assert_eq!(conv(Rows::new(&x[..3], strided)), partial_row(3));
    assert_eq!(conv(Rows::new(&x[..9], strided)), partial(2));
    let mut y = vec![7.0f32; 12];
    let out = Out::Overwrite(Rows::contiguous(&mut y, 4));
    let error = call.workspace.conv(Rows::contiguous(&x[..24], 4), weights, out).unwrap_err();
    assert_eq!(error, Error::InstancesMismatch { operand: "y", value: 1, bound: 2, bound_of: "x" });
    assert_eq!(y, [7.0; 12], "nothing is written");
    let mut grad_w = [7.0f32; 4];
    let g = Rows::contiguous(&x[..24], 4);
    let error =
        call.workspace.conv_backward(g, weights, g, Out::Skip, Out::Overwrite(&mut grad_w)).unwrap_err();
    let gradient = |operand, bound, bound_of| Error::GradientMismatch { operand, value: 4, bound, bound_of };
    assert_eq!(error, gradient("grad_weights", 3, "weights"));
    assert_eq!(grad_w, [7.0; 4], "nothing is written");

    // A table knows its rows, and a contiguous operand must hold just those.
    let table = Batch::from_table(vec![Incidence::subsets(3, 2).unwrap()], &[0, 0]).unwrap();
    let mut call = Call::with(table, Conv::default(), 2);
    let mut conv = |rows| call.workspace.conv(rows, weights, Out::Skip).unwrap_err();
    for rows in [7, 5, 0] {
        let expected = Error::RowsMismatch { operand, value: rows, bound: 6, what: "vertices" };
        assert_eq!(conv(Rows::contiguous(&x[..4 * rows], 4)), expected);
    }
    assert_eq!(conv(Rows::contiguous(&x[..23], 4)), partial_row(23));
    let stated = Rows::new(&x[..24], RowLayout::contiguous(4).instances(3));
    assert_eq!(conv(stated), Error::InstancesMismatch { operand, value: 3, bound: 2, bound_of: "the batch" });
    // A gradient of a scale that the step does not have.
    let gradients = StepGradients::none().vertex_scale(Out::Overwrite(&mut grad_w));
    let (x, z) = (Rows::contiguous(&x[..24], 4), Rows::contiguous(&x[..24], 4));
    let error = call.workspace.vertex_to_hyperedge_backward(&Step::sum(), x, z, gradients).unwrap_err();
    assert_eq!(error, gradient("gradients.vertex_scale", 0, "vertex_scale"));
}

#[test]
fn strides_past_the_end() {
    let mut call = Call::new(2);
    let x = vec![1.0f32; 24];
    let weights = [1.0f32; 3];
    let layout = RowLayout::contiguous(4).row_stride(8).instance_stride(4).instances(2);
    let error =
        call.workspace.conv(Rows::new(&x[..23], layout), Weights::shared(&weights), Out::Skip).unwrap_err();
    let expected = Error::Stride {
        operand: "x",
        instances: 2,
        rows: 3,
        row_stride: 8,
        instance_stride: Some(4),
        value: 24,
        bound: 23,
    };
    assert_eq!(error, expected);
    let huge = RowLayout::contiguous(4).row_stride(usize::MAX).instance_stride(usize::MAX).instances(2);
    let error = call.workspace.conv(Rows::new(&x, huge), Weights::shared(&weights), Out::Skip).unwrap_err();
    assert!(matches!(error, Error::Stride { value, .. } if value > usize::MAX as u128), "{error}");
}

#[test]
fn outputs_that_overlap() {
    let mut call = Call::new(2);
    let x = vec![1.0f32; 24];
    let mut y = vec![7.0f32; 100];
    let weights = [1.0f32; 3];
    let mut conv = |layout: RowLayout| {
        let out = Out::Overwrite(Rows::new(&mut y[..], layout.instances(2)));
        call.workspace.conv(Rows::contiguous(&x, 4), Weights::shared(&weights), out)
    };
    let contiguous = RowLayout::contiguous(4);
    let overlap = |what, value, bound| Err(Error::Overlap { operand: "y", what, value, bound });
    assert_eq!(conv(contiguous.row_stride(3)), overlap("row", 3, 4));
    assert_eq!(conv(contiguous.instance_stride(11)), overlap("instance", 11, 12));
    assert_eq!(conv(contiguous.row_stride(7).instance_stride(4)), overlap("row", 7, 8));
    assert_eq!(conv(contiguous.instance_stride(0)), overlap("instance", 0, 4));
    assert_eq!(conv(contiguous.row_stride(8).instance_stride(4)), Ok(()));
    // What is only read may overlap: here all instances have the same features.
    let shared = Rows::new(&x[..12], contiguous.instance_stride(0).instances(2));
    call.workspace.conv(shared, Weights::shared(&weights), Out::Skip).unwrap();
}

#[test]
fn a_number_of_copies_that_nothing_tells() {
    let mut call = Call::new(2);
    let x = vec![1.0f32; 24];
    let layout = RowLayout::contiguous(4).row_stride(8).instance_stride(4);
    let error =
        call.workspace.conv(Rows::new(&x, layout), Weights::shared(&[1.0; 3]), Out::Skip).unwrap_err();
    assert_eq!(error, Error::UnknownInstances { operand: "x" });
}

#[test]
fn more_instances_than_a_workspace_is_for() {
    let batch = Batch::from_table(vec![Incidence::subsets(3, 2).unwrap()], &[0; 5]).unwrap();
    let plan = Plan::<f32>::builder(&batch, 4).build().unwrap();
    assert_eq!(plan.workspace(4).unwrap_err(), Error::TooManyInstances { value: 5, bound: 4 });
}

#[test]
fn a_workspace_larger_than_any_memory() {
    let no_vertices = Incidence::from_edges(0, &[NONE; 3], Repeats::Keep).unwrap();
    let plan = Plan::<f64>::builder(&Batch::replicate(no_vertices), usize::MAX / 64).build().unwrap();
    let error = plan.workspace(1).unwrap_err();
    assert!(
        matches!(error, Error::OutOfMemory { what: "the workspace", bytes } if bytes > 1 << 60),
        "{error}"
    );
}

/// A workspace for copies of the pairs of three vertices (or another batch), four features.
struct Call {
    batch: Batch,
    workspace: Workspace<f32>,
    copies: usize,
}

impl Call {
    fn new(copies: usize) -> Self {
        Self::with(Batch::replicate(Incidence::subsets(3, 2).unwrap()), Conv::default(), copies)
    }

    fn with(batch: Batch, conv: Conv, copies: usize) -> Self {
        let workspace =
            Plan::<f32>::builder(&batch, 4).conv(conv).build().unwrap().workspace(copies).unwrap();
        Self { batch, workspace, copies }
    }

    /// The result of a convolution and of its backward, which must agree; what fails must not have written.
    fn conv(&mut self, weights: Weights<'_, f32>) -> Result<(), Error> {
        let x = vec![1.0f32; self.copies * 3 * 4];
        let (mut y, mut grad_x) = (vec![7.0f32; x.len()], vec![7.0f32; x.len()]);
        let mut grad_w = vec![7.0f32; weights.values.len()];
        let rows = Rows::contiguous(&x[..], 4);
        let forward = self.workspace.conv(rows, weights, Out::Overwrite(Rows::contiguous(&mut y, 4)));
        let (out_x, out_w) = (Rows::contiguous(&mut grad_x[..], 4), Out::Overwrite(&mut grad_w[..]));
        let backward = self.workspace.conv_backward(rows, weights, rows, Out::Overwrite(out_x), out_w);
        assert_eq!(forward, backward);
        let untouched = y.iter().chain(&grad_x).chain(&grad_w).all(|&v| v == 7.0);
        assert_eq!(untouched, forward.is_err(), "written: {}", !untouched);
        forward
    }
}
