//! Constructors: what they keep, and that no input makes them panic.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use hyperscatter::{AllInFirst, Axis, Batch, Csr, Error, Incidence, Owners, Repeats, SelfLoops, WindowTable};
use proptest::prelude::*;

use crate::invariants::{assert_batch, assert_incidence, is_all_in_first};
use crate::layouts::{edges, topology};

fn lists(csr: Csr<'_>) -> Vec<Vec<u32>> {
    csr.rows().map(<[u32]>::to_vec).collect()
}

#[test]
fn subsets_are_itertools_combinations() {
    let pairs = Incidence::subsets(4, 2).unwrap();
    assert_eq!(lists(pairs.by_edge()), [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]);
    assert_eq!(lists(pairs.by_vertex()), [[0, 1, 2], [0, 3, 4], [1, 3, 5], [2, 4, 5]]);
    let triples = Incidence::subsets(5, 3).unwrap();
    assert_eq!(triples.n_hyperedges(), 10);
    assert_eq!(lists(triples.by_edge())[3..6], [[0, 2, 3], [0, 2, 4], [0, 3, 4]]);
    assert_eq!(lists(Incidence::subsets(3, 0).unwrap().by_edge()), [vec![0u32; 0]]);
    assert_eq!(lists(Incidence::subsets(3, 3).unwrap().by_edge()), [[0, 1, 2]]);
    assert_eq!(Incidence::subsets(2, 3).unwrap().n_hyperedges(), 0);
    assert_eq!(Incidence::subsets(0, 0).unwrap().n_hyperedges(), 1);
    assert_eq!(Incidence::subsets(16, 3).unwrap().n_hyperedges(), 560);
}

#[test]
fn self_loops_stand_at_the_end() {
    let topology = Incidence::from_edges(4, &[&[1u8, 3][..], &[]], Repeats::Reject).unwrap();
    let isolated = topology.clone().with_self_loops(SelfLoops::Isolated).unwrap();
    assert_eq!(lists(isolated.by_edge()), [vec![1, 3], vec![], vec![0], vec![2]]);
    assert_eq!(lists(isolated.by_vertex()), [[2], [0], [3], [0]]);
    let all = topology.clone().with_self_loops(SelfLoops::All).unwrap();
    assert_eq!(lists(all.by_edge())[2..], [[0], [1], [2], [3]]);
    assert_eq!(topology.clone().with_self_loops(SelfLoops::None).unwrap(), topology);
}

#[test]
fn repeats_are_kept_or_merged() {
    let edges = [&[2u8, 0, 2, 2][..], &[1, 1], &[2]];
    let kept = Incidence::from_edges(3, &edges, Repeats::Keep).unwrap();
    assert_eq!(lists(kept.by_edge()), [vec![2, 0, 2, 2], vec![1, 1], vec![2]]);
    assert_eq!(lists(kept.by_vertex()), [vec![0], vec![1, 1], vec![0, 0, 0, 2]]);
    let merged = Incidence::from_edges(3, &edges, Repeats::Merge).unwrap();
    assert_eq!(lists(merged.by_edge()), [vec![2, 0], vec![1], vec![2]]);
    assert_eq!(lists(merged.by_vertex()), [vec![0], vec![1], vec![0, 2]]);
}

/// The cost of a replicated batch does not depend on its copies, which only a call knows; a table's does,
/// modestly.
#[test]
fn concatenating_24576_distinct_topologies_takes_less_than_a_tenth_of_a_second() {
    let distinct = |i: usize| {
        // Bits of i choose which of 15 hyperedges there are besides the pairs of 6 vertices.
        let pairs = Incidence::subsets(6, 2).unwrap();
        let edges: Vec<Vec<u32>> = pairs.by_edge().rows().map(<[u32]>::to_vec).collect();
        let chosen = (0..15).filter(|bit| i >> bit & 1 == 1).map(|bit| edges[bit].clone());
        Incidence::from_edges(6, &edges.iter().cloned().chain(chosen).collect::<Vec<_>>(), Repeats::Keep)
            .unwrap()
    };
    let topologies: Vec<_> = (0..24_576).map(distinct).collect();
    // The machine may be busy with other tests: the best of three.
    let times = (0..3).map(|_| {
        let topologies = topologies.clone();
        let start = Instant::now();
        let batch = Batch::concat(topologies).unwrap();
        let time = start.elapsed();
        assert_eq!(batch.topologies().len(), 24_576);
        time
    });
    let best = times.min().unwrap();
    println!("24,576 distinct topologies: {best:?}");
    assert!(best < Duration::from_millis(100), "{best:?}");
}

#[test]
fn a_batched_index_in_any_order_gives_the_graphs_back() {
    // Graph 0 has no vertices, graph 1 an isolated vertex and a trailing empty hyperedge, graph 3 is empty.
    let (vertices, hyperedges) = ([4i64, 0, 3, 1, 2], [3i64, 1, 3, 1, 2]);
    let (n, m) = ([0usize, 3, 2, 0], [1u8, 2, 1, 0]);
    let by_counts = Batch::from_batched_coo(
        4,
        &vertices,
        &hyperedges,
        Owners::Counts(&n),
        Owners::Counts(&m),
        Repeats::Reject,
        AllInFirst::Reject,
    );
    let by_counts = by_counts.unwrap();
    assert_eq!(by_counts.n_instances(), Some(4));
    let graph = |g: usize| (by_counts.topology(g).n_vertices(), lists(by_counts.topology(g).by_edge()));
    assert_eq!(graph(0), (0, vec![vec![]]));
    assert_eq!(graph(1), (3, vec![vec![0, 1], vec![2]]));
    assert_eq!(graph(2), (2, vec![vec![1, 0]]));
    assert_eq!(graph(3), (0, vec![]));
    let by_ids = Batch::from_batched_coo(
        4,
        &vertices,
        &hyperedges,
        Owners::GraphIds(&[1, 1, 1, 2, 2]),
        Owners::GraphIds(&[0, 1, 1, 2]),
        Repeats::Reject,
        AllInFirst::Reject,
    );
    let by_ids = by_ids.unwrap();
    for g in 0..4 {
        assert_eq!(by_ids.topology(g), by_counts.topology(g));
        assert_eq!(
            (by_ids.start(Axis::Vertex, g), by_ids.start(Axis::Hyperedge, g)),
            (by_counts.start(Axis::Vertex, g), by_counts.start(Axis::Hyperedge, g))
        );
    }
}

/// A number that is mostly small, sometimes an extreme; never one that is a legal count of more vertices than
/// the test machine has memory for.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        20 => -2i64..12,
        1 => prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(1 << 32), Just(1 << 40)]
    ]
}

fn numbers() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(number(), 0..12)
}

/// A size, which may be far beyond what fits, but never one whose tables would fill the memory of the test
/// machine.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0usize..12, 1 => Just(usize::MAX), 1 => Just(u32::MAX as usize + 1), 1 => Just(1 << 40)]
}

fn repeats() -> impl Strategy<Value = Repeats> {
    prop_oneof![Just(Repeats::Keep), Just(Repeats::Reject), Just(Repeats::Merge)]
}

proptest! {
    #[test]
    fn edges_csr_coo_and_transpose_are_one_structure((n, edges) in edges(), seed in any::<u64>()) {
        let from_edges = Incidence::from_edges(n, &edges, Repeats::Keep).unwrap();
        assert_incidence(&from_edges);
        let csr = from_edges.by_edge();
        prop_assert_eq!(&Incidence::from_csr(n, csr.pointers, csr.indices, Repeats::Keep).unwrap(), &from_edges);
        prop_assert_eq!(lists(csr), edges.clone());
        let (vertices, hyperedges): (Vec<u32>, Vec<u32>) = from_edges.incidences().unzip();
        let coo = |v: &[u32], e: &[u32]| Incidence::from_coo(n, edges.len(), v, e, Repeats::Keep).unwrap();
        prop_assert_eq!(&coo(&vertices, &hyperedges), &from_edges);
        // In any order that keeps each hyperedge's own: hyperedges sorted by a random key.
        let mut order: Vec<usize> = (0..vertices.len()).collect();
        order.sort_by_key(|&i| seed.wrapping_mul(u64::from(hyperedges[i]) * 2 + 1));
        let pick = |all: &[u32]| order.iter().map(|&i| all[i]).collect::<Vec<_>>();
        prop_assert_eq!(&coo(&pick(&vertices), &pick(&hyperedges)), &from_edges);
        // Twice transposed, members are sorted and the same.
        let by_vertex = from_edges.by_vertex();
        let dual = Incidence::from_csr(edges.len(), by_vertex.pointers, by_vertex.indices, Repeats::Keep).unwrap();
        let sorted = edges.iter().map(|e| { let mut e = e.clone(); e.sort(); e }).collect::<Vec<_>>();
        prop_assert_eq!(lists(dual.by_vertex()), sorted);
    }

    /// Hyperedge after hyperedge; vertex after vertex, with hyperedges that rise and that fall; and in any
    /// order.
    #[test]
    fn a_batched_index_is_the_concatenation_of_its_graphs(
        graphs in prop::collection::vec(edges(), 0..6),
        order in 0..4,
        seed in any::<u64>(),
        repeats in repeats(),
    ) {
        let start = |size: fn(&(usize, Vec<Vec<u32>>)) -> usize, g: usize| graphs[..g].iter().map(size).sum::<usize>();
        let (v0, e0) = (|g| start(|(n, _)| *n, g), |g| start(|(_, edges)| edges.len(), g));
        let mut index: Vec<(usize, usize, usize)> = graphs.iter().enumerate().flat_map(|(g, (_, edges))| {
            edges.iter().enumerate().flat_map(move |(e, members)| members.iter().map(move |&v| (g, v as usize, e)))
        }).collect();
        match order {
            0 => {}
            1 => index.sort_unstable(),
            2 => index.sort_unstable_by_key(|&(g, v, e)| (g, v, Reverse(e))),
            _ => index.sort_by_key(|&(g, v, e)| seed.wrapping_mul((e0(g) + e + v) as u64 * 2 + 1)),
        }
        let (vertices, hyperedges): (Vec<_>, Vec<_>) =
            index.iter().map(|&(g, v, e)| (v0(g) + v, e0(g) + e)).unzip();
        let (n, m): (Vec<_>, Vec<_>) = graphs.iter().map(|(n, edges)| (*n, edges.len())).unzip();
        let ids = |sizes: &[usize]| -> Vec<usize> {
            sizes.iter().enumerate().flat_map(|(g, &size)| std::iter::repeat_n(g, size)).collect()
        };
        for owners in [[Owners::Counts(&n[..]), Owners::Counts(&m)], [Owners::GraphIds(&ids(&n)), Owners::GraphIds(&ids(&m))]] {
            let [of_vertices, of_hyperedges] = owners;
            let batch = Batch::from_batched_coo(
                graphs.len(), &vertices, &hyperedges, of_vertices, of_hyperedges, repeats, AllInFirst::Accept,
            );
            let of_graph = |graph: usize| {
                let (v, e): (Vec<_>, Vec<_>) =
                    index.iter().filter(|(g, ..)| *g == graph).map(|&(_, v, e)| (v, e)).unzip();
                Incidence::from_coo(n[graph], m[graph], &v, &e, repeats)
            };
            let one_by_one: Result<Vec<_>, _> = (0..graphs.len()).map(of_graph).collect();
            match (batch, one_by_one) {
                (Ok(batch), Ok(topologies)) => {
                    assert_batch(&batch);
                    for (g, topology) in topologies.iter().enumerate() {
                        prop_assert_eq!(batch.topology(g), topology);
                    }
                    let concat = Batch::concat(topologies).unwrap();
                    prop_assert_eq!(batch.topologies(), concat.topologies());
                }
                (Err(Error::RepeatedIncidence { position, .. }), Err(Error::RepeatedIncidence { .. })) => {
                    let again = (vertices[position], hyperedges[position]);
                    let earlier = vertices[..position].iter().zip(&hyperedges[..position]);
                    prop_assert_eq!(earlier.filter(|(v, e)| (**v, **e) == again).count(), 1);
                }
                (batch, _) => prop_assert!(false, "{batch:?}"),
            }
        }
    }

    #[test]
    fn any_input_is_a_valid_structure_or_an_error(
        (n, m, k) in (size(), size(), size()),
        (a, b, c, d) in (numbers(), numbers(), numbers(), numbers()),
        lists in prop::collection::vec(numbers(), 0..5),
        repeats in repeats(),
        topologies in prop::collection::vec(topology(), 0..3),
    ) {
        let made = [
            Incidence::from_edges(n, &lists, repeats),
            Incidence::from_csr(n, &a, &b, repeats),
            Incidence::from_coo(n, m, &a, &b, repeats),
            Incidence::subsets(n.min(12), k),
            Incidence::subsets(n, m.max(13)),
        ];
        for incidence in made.into_iter().flatten() {
            assert_incidence(&incidence);
            for loops in [SelfLoops::None, SelfLoops::Isolated, SelfLoops::All] {
                assert_incidence(&incidence.clone().with_self_loops(loops).unwrap());
            }
        }
        let owners = |ids: bool, values| if ids { Owners::GraphIds(values) } else { Owners::Counts(values) };
        for (v, e) in [(true, true), (true, false), (false, true), (false, false)] {
            let n_graphs = if v && e { n.min(1 << 20) } else { n };
            let batch = |all_in_first| {
                Batch::from_batched_coo(n_graphs, &a, &b, owners(v, &c), owners(e, &d), repeats, all_in_first)
            };
            match (batch(AllInFirst::Reject), batch(AllInFirst::Accept)) {
                (Ok(batch), Ok(_)) => {
                    assert_batch(&batch);
                    prop_assert!(!is_all_in_first(&batch, &a, &b));
                }
                (Err(Error::AllInFirstGraph { .. }), Ok(batch)) => prop_assert!(is_all_in_first(&batch, &a, &b)),
                // Before repeats are looked at.
                (Err(Error::AllInFirstGraph { .. }), Err(Error::RepeatedIncidence { .. })) => {}
                (rejected, accepted) => prop_assert_eq!(rejected.unwrap_err(), accepted.unwrap_err()),
            }
        }
        let mut batches: Vec<_> = topologies.iter().cloned().map(Batch::replicate).collect();
        if let Ok(batch) = Batch::from_table(topologies, &c) {
            assert_batch(&batch);
            batches.push(batch);
        }
        for batch in batches {
            for table in [WindowTable::new(&batch, &d), WindowTable::for_vertices(&batch, &d)].into_iter().flatten() {
                prop_assert_eq!(table.len(), d.len());
            }
        }
    }
}
