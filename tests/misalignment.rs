//! What this crate exists for: batches of small expert hypergraphs never fall out of step with their weights.

use hyperscatter::{
    AllInFirst, Axis, Batch, Conv, Error, Incidence, Misbatching, Out, Owners, Repeats, Rows, WindowTable,
    cpu,
};

use crate::backend::{Backend, Operators};
use crate::common::{bits, features, weights};
use crate::per_backend::per_backend;

const TOKENS: usize = 37;
const FEATURES: usize = 16;

fn experts() -> impl Iterator<Item = (usize, usize)> {
    [2, 3, 4, 5, 8].into_iter().flat_map(|e| [(e, 2), (e, 3)]).filter(|&(e, k)| k <= e)
}

/// `hyperedge_index` of `TOKENS` copies, with each copy's hyperedge ids shifted by `stride`.
fn batched_index(topology: &Incidence, stride: usize) -> (Vec<i64>, Vec<i64>) {
    (0..TOKENS)
        .flat_map(|t| {
            let shift = (t * topology.n_vertices(), t * stride);
            topology
                .incidences()
                .map(move |(v, e)| ((shift.0 + v as usize) as i64, (shift.1 + e as usize) as i64))
        })
        .unzip()
}

fn owners(per_graph: usize) -> Vec<i64> {
    (0..TOKENS as i64).flat_map(|t| std::iter::repeat_n(t, per_graph)).collect()
}

fn from_index(topology: &Incidence, stride: usize) -> hyperscatter::Result<Batch> {
    let (vertices, hyperedges) = batched_index(topology, stride);
    let (v, e) = (owners(topology.n_vertices()), owners(topology.n_hyperedges()));
    let (v, e) = (Owners::GraphIds(&v[..]), Owners::GraphIds(&e[..]));
    Batch::from_batched_coo(TOKENS, &vertices, &hyperedges, v, e, Repeats::Reject, AllInFirst::Reject)
}

/// y of a batch.
fn conv(operators: &mut dyn Operators<f32>, x: &[f32], weights: cpu::Weights<'_, f32>) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len()];
    let out = Out::Overwrite(Rows::contiguous(&mut y[..], FEATURES));
    operators.conv(Rows::contiguous(x, FEATURES), weights, None, out).unwrap();
    y
}

fn a_batch_of_experts_equals_the_loop_over_tokens(backend: &dyn Backend<f32>) {
    let operators = |batch: &Batch| backend.operators(batch, FEATURES, Conv::default(), TOKENS).unwrap();
    for (experts, k) in experts() {
        let topology = Incidence::subsets(experts, k).unwrap();
        let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
        let x: Vec<f32> = features(1, TOKENS * n * FEATURES);
        let w: Vec<f32> = weights::<f32>(2, TOKENS * m, false);
        let alone = Batch::replicate(topology.clone());
        let mut token = operators(&alone);
        let mut of_token = |t: usize| {
            let weights = cpu::Weights::shared(&w[t * m..][..m]);
            conv(&mut *token, &x[t * n * FEATURES..][..n * FEATURES], weights)
        };
        let looped: Vec<f32> = (0..TOKENS).flat_map(&mut of_token).collect();
        let offsets: Vec<usize> = (0..TOKENS).map(|t| t * m).collect();
        let from_table = Batch::from_table(vec![topology.clone()], &[0u8; TOKENS]).unwrap();
        let from_index = from_index(&topology, m).unwrap();
        assert_eq!(
            from_index.topologies(),
            std::slice::from_ref(&topology),
            "equal graphs share one topology"
        );
        for batch in [&alone, &from_table, &from_index, &Batch::concat(vec![topology; TOKENS]).unwrap()] {
            let table = WindowTable::new(batch, &offsets).unwrap();
            for weights in [cpu::Weights::consecutive(&w[..]), cpu::Weights::table(&w[..], &table)] {
                let batched = conv(&mut *operators(batch), &x, weights);
                assert_eq!(bits(&batched), bits(&looped), "{experts} experts, {k}-subsets");
            }
        }
    }
}

per_backend! {
    on [cpu, cuda([Mode::PLAIN])], in [f32]:
    a_batch_of_experts_equals_the_loop_over_tokens;
}

#[test]
fn an_index_shifted_by_vertices_is_refused_and_named() {
    for (experts, k) in experts() {
        let topology = Incidence::subsets(experts, k).unwrap();
        let (n, m) = (topology.n_vertices(), topology.n_hyperedges());
        let result = from_index(&topology, n);
        if n == m {
            assert!(result.is_ok(), "{experts} experts, {k}-subsets: the strides are equal, by luck");
            continue;
        }
        let error = result.unwrap_err();
        let Error::CrossGraphIncidence {
            position,
            vertex,
            vertex_graph,
            hyperedge,
            hyperedge_graph,
            bound,
            looks_like,
        } = &error
        else {
            panic!("{experts} experts, {k}-subsets: {error}")
        };
        // Token 1 is the first that is out of step, with its first incidence: fewer hyperedges than vertices
        // shift it past token 1's hyperedges, more leave it among token 0's.
        assert_eq!((*position, *vertex, *vertex_graph), (topology.n_incidences(), n, 1));
        assert_eq!((*hyperedge, bound.clone()), (n, m..2 * m));
        assert_eq!(*hyperedge_graph, n / m);
        assert_eq!(*looks_like, Some(Misbatching::ShiftedByVertices));
        assert!(error.to_string().contains("plain `Data` batching"), "{error}");
    }
}

#[test]
fn every_other_wrong_stride_is_refused() {
    for (experts, k) in experts() {
        let topology = Incidence::subsets(experts, k).unwrap();
        let m = topology.n_hyperedges();
        for stride in (0..2 * m + 3).filter(|&s| s != m && s != topology.n_vertices()) {
            let expected = (stride == 0).then_some(Misbatching::HyperedgesNotShifted);
            match from_index(&topology, stride).unwrap_err() {
                Error::CrossGraphIncidence { looks_like, .. }
                | Error::HyperedgeOutOfRange { looks_like, .. } => {
                    assert_eq!(looks_like, expected, "{experts} experts, {k}-subsets, stride {stride}");
                }
                other => panic!("{experts} experts, {k}-subsets, stride {stride}: {other}"),
            }
        }
    }
}

#[test]
fn a_trailing_empty_hyperedge_keeps_its_weight_slot() {
    // PyTorch Geometric counts hyperedges as max + 1 and would shift every weight behind the first graph.
    let (vertices, hyperedges) = ([0u32, 1, 2, 3], [0u32, 0, 2, 2]);
    let (v, e) = (Owners::Counts(&[2u32, 2][..]), Owners::Counts(&[2u32, 1][..]));
    let batch = Batch::from_batched_coo(2, &vertices, &hyperedges, v, e, Repeats::Reject, AllInFirst::Reject)
        .unwrap();
    assert_eq!(batch.start(Axis::Hyperedge, 1), 2);
    assert_eq!(batch.topology(0).n_hyperedges(), 2);
    assert_eq!(batch.topology(1).by_edge().row(0), [0, 1]);
}
