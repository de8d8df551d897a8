//! Every way in which loaders get a batched index wrong, if it can be told from a right one, is an error that
//! names it.

use hyperscatter::{AllInFirst, Batch, Error, Incidence, Misbatching, Owners, Repeats};
use proptest::prelude::*;

use crate::invariants::is_all_in_first;
use crate::layouts::edges;

/// Graphs as their loader has them: vertices, and hyperedges by their members.
type Graph = (usize, Vec<Vec<u32>>);

fn sizes(graphs: &[Graph]) -> (Vec<usize>, Vec<usize>) {
    graphs.iter().map(|(n, edges)| (*n, edges.len())).unzip()
}

/// The two rows of the index, with `shift(graph, which)` added to the ids of a graph.
fn index(graphs: &[Graph], shift: impl Fn(usize) -> (usize, usize)) -> (Vec<i64>, Vec<i64>) {
    let rows = graphs.iter().enumerate().flat_map(|(g, (_, edges))| {
        let (v0, e0) = shift(g);
        let incidences = edges.iter().zip(e0..).flat_map(|(members, e)| members.iter().map(move |&v| (v, e)));
        incidences.map(move |(v, e)| (v0 as i64 + i64::from(v), e as i64))
    });
    rows.unzip()
}

/// The index that a loader makes by this mistake; `None` is the right one.
fn mistaken(graphs: &[Graph], mistake: Option<Misbatching>) -> (Vec<i64>, Vec<i64>) {
    use Misbatching::*;
    let (n, m) = sizes(graphs);
    let before = |sizes: &[usize], g: usize| sizes[..g].iter().sum::<usize>();
    let largest = |sizes: &[usize]| sizes.iter().copied().max().unwrap_or(0);
    let used_hyperedges: Vec<_> = graphs
        .iter()
        .map(|(_, edges)| edges.iter().rposition(|e| !e.is_empty()).map_or(0, |e| e + 1))
        .collect();
    let used_vertices: Vec<_> =
        graphs.iter().map(|(_, edges)| edges.iter().flatten().max().map_or(0, |&v| v as usize + 1)).collect();
    let right = index(graphs, |g| (before(&n, g), before(&m, g)));
    let minus = |row: Vec<i64>| row.into_iter().map(|id| id + 1).collect();
    match mistake {
        Some(NotShifted) => index(graphs, |_| (0, 0)),
        Some(ShiftedByVertices) => index(graphs, |g| (before(&n, g), before(&n, g))),
        Some(ShiftedByHyperedges) => index(graphs, |g| (before(&m, g), before(&m, g))),
        Some(HyperedgesNotShifted) => index(graphs, |g| (before(&n, g), 0)),
        Some(VerticesNotShifted) => index(graphs, |g| (0, before(&m, g))),
        Some(ExchangedShifts) => index(graphs, |g| (before(&m, g), before(&n, g))),
        Some(HyperedgesShiftedByLargestId) => index(graphs, |g| (before(&n, g), before(&used_hyperedges, g))),
        Some(VerticesShiftedByLargestId) => index(graphs, |g| (before(&used_vertices, g), before(&m, g))),
        Some(PaddedToLargest) => index(graphs, |g| (g * largest(&n), g * largest(&m))),
        Some(ShiftedPastOwnGraph) => index(graphs, |g| (before(&n, g + 1), before(&m, g + 1))),
        Some(RowsExchanged) => (right.1, right.0),
        Some(OneBased) => (minus(right.0), minus(right.1)),
        Some(OneBasedVertices) => (minus(right.0), right.1),
        Some(OneBasedHyperedges) => (right.0, minus(right.1)),
        Some(NegativePadding) => {
            let padded = |row: Vec<i64>| row.into_iter().chain([-1, -1]).collect();
            (padded(right.0), padded(right.1))
        }
        None => right,
        Some(other) => panic!("{other:?} is no mistake of an index"),
    }
}

const MISTAKES: [Misbatching; 15] = {
    use Misbatching::*;
    [
        NotShifted,
        ShiftedByVertices,
        ShiftedByHyperedges,
        HyperedgesNotShifted,
        VerticesNotShifted,
        ExchangedShifts,
        HyperedgesShiftedByLargestId,
        VerticesShiftedByLargestId,
        PaddedToLargest,
        ShiftedPastOwnGraph,
        RowsExchanged,
        OneBased,
        OneBasedVertices,
        OneBasedHyperedges,
        NegativePadding,
    ]
};

fn batch(graphs: &[Graph], mistake: Option<Misbatching>, all_in_first: AllInFirst) -> Result<Batch, Error> {
    let ((n, m), (vertices, hyperedges)) = (sizes(graphs), mistaken(graphs, mistake));
    let (n, m) = (Owners::Counts(&n[..]), Owners::Counts(&m[..]));
    Batch::from_batched_coo(graphs.len(), &vertices, &hyperedges, n, m, Repeats::Keep, all_in_first)
}

fn looks_like(error: &Error) -> Option<Misbatching> {
    match error {
        Error::VertexOutOfRange { looks_like, .. }
        | Error::HyperedgeOutOfRange { looks_like, .. }
        | Error::CrossGraphIncidence { looks_like, .. }
        | Error::RepeatedIncidence { looks_like, .. }
        | Error::GraphOutOfRange { looks_like, .. }
        | Error::GraphIdsNotSorted { looks_like, .. }
        | Error::CountsLength { looks_like, .. } => *looks_like,
        Error::AllInFirstGraph { looks_like, .. } => Some(*looks_like),
        other => panic!("{other}"),
    }
}

/// Graphs of different sizes, the first two of which end with an isolated vertex and an empty hyperedge.
fn mixed() -> Vec<Graph> {
    vec![
        (4, vec![vec![0, 1], vec![2, 0], vec![1, 2], vec![0], vec![]]),
        (6, vec![vec![4, 0], vec![1, 2, 3], vec![]]),
        (5, vec![vec![0, 4], vec![3], vec![1, 2], vec![4]]),
    ]
}

#[test]
fn each_mistake_of_a_loader_is_named() {
    batch(&mixed(), None, AllInFirst::Reject).unwrap();
    for mistake in MISTAKES {
        let error = batch(&mixed(), Some(mistake), AllInFirst::Reject).unwrap_err();
        assert_eq!(looks_like(&error), Some(mistake), "{error}");
        assert!(error.to_string().contains(&mistake.to_string()), "{error}");
    }
}

#[test]
fn a_forgotten_shift_is_refused_unless_all_in_first_is_meant() {
    // Three times the pairs of three experts, with local ids, as they were concatenated.
    let pairs = (3, vec![vec![0u32, 1], vec![0, 2], vec![1, 2]]);
    let graphs = [pairs.clone(), pairs.clone(), pairs];
    let error = batch(&graphs, Some(Misbatching::NotShifted), AllInFirst::Reject).unwrap_err();
    let expected = Error::AllInFirstGraph {
        incidences: 18,
        graph: 0,
        later: 1,
        vertices: 3..6,
        hyperedges: 3..6,
        looks_like: Misbatching::NotShifted,
    };
    assert_eq!(error, expected);
    assert_eq!(
        error.to_string(),
        "all 18 incidences are in graph 0, though graph 1 owns vertices 3 to 5 and hyperedges 3 to 5, too. It looks like \
         this: the ids of every graph start at 0, as they do before graphs are put together; add the number of vertices \
         of all graphs before to the vertex row, and their number of hyperedges to the hyperedge row. If it is meant, \
         choose AllInFirst::Accept"
    );
    let meant = batch(&graphs, Some(Misbatching::NotShifted), AllInFirst::Accept).unwrap();
    assert_eq!(meant.topology(0).n_incidences(), 18);
    assert_eq!((meant.topology(1).n_incidences(), meant.topology(2).n_hyperedges()), (0, 3));
}

/// What proves nothing: no incidences at all; later graphs that could not have any; a later graph that has
/// some.
#[test]
fn empty_hyperedges_and_graphs_are_legal() {
    let pair = || (2, vec![vec![0u32, 1], vec![]]);
    let (no_edges, no_vertices, all_empty) =
        ((3, vec![]), (0, vec![vec![], vec![]]), (3, vec![vec![], vec![]]));
    for graphs in [
        vec![],
        vec![all_empty.clone(), all_empty.clone()],
        vec![pair(), no_edges.clone(), no_vertices.clone()],
        vec![pair(), all_empty.clone(), pair()],
        vec![all_empty.clone(), pair(), all_empty.clone()],
    ] {
        let batch = batch(&graphs, None, AllInFirst::Reject).unwrap();
        for (g, (n, edges)) in graphs.iter().enumerate() {
            assert_eq!(batch.topology(g), &Incidence::from_edges(*n, edges, Repeats::Keep).unwrap());
        }
    }
    // The first graph that could have incidences is not always graph 0: here all are in graph 2, and local
    // ids of graph 3 are others.
    let graphs = [no_edges, no_vertices, pair(), all_empty];
    batch(&graphs, None, AllInFirst::Reject).unwrap();
    let (n, m) = (Owners::Counts(&[3, 2, 3]), Owners::Counts(&[0, 1, 2]));
    Batch::from_batched_coo(3, &[3, 4], &[0, 0], n, m, Repeats::Reject, AllInFirst::Reject).unwrap();
    // But they may be local ids of a later graph that is larger.
    let (n, m) = (Owners::Counts(&[3, 2, 5]), Owners::Counts(&[0, 1, 2]));
    let batch = |all| Batch::from_batched_coo(3, &[3, 4], &[0, 0], n, m, Repeats::Reject, all);
    let error = batch(AllInFirst::Reject).unwrap_err();
    assert!(matches!(error, Error::AllInFirstGraph { graph: 1, later: 2, incidences: 2, .. }), "{error}");
    batch(AllInFirst::Accept).unwrap();
}

#[test]
fn a_forgotten_shift_of_graphs_that_differ_in_size_repeats_incidences() {
    // Local ids of the second graph fall into both graphs without joining the two.
    let graphs = [(2, vec![vec![0u32, 1]]), (3, vec![vec![0, 1], vec![2]])];
    let (vertices, hyperedges) = mistaken(&graphs, Some(Misbatching::NotShifted));
    let batch = |repeats| {
        let (n, m) = (Owners::Counts(&[2u8, 3]), Owners::Counts(&[1u8, 2]));
        Batch::from_batched_coo(2, &vertices, &hyperedges, n, m, repeats, AllInFirst::Reject)
    };
    assert_eq!(looks_like(&batch(Repeats::Reject).unwrap_err()), Some(Misbatching::NotShifted));
    batch(Repeats::Keep).expect("it cannot be told from another right index");
}

#[test]
fn owners_of_the_wrong_kind_are_named() {
    let graphs = mixed();
    let ((n, m), (vertices, hyperedges)) = (sizes(&graphs), mistaken(&graphs, None));
    let ids = |sizes: &[usize]| -> Vec<usize> {
        sizes.iter().enumerate().flat_map(|(g, &size)| std::iter::repeat_n(g, size)).collect()
    };
    let starts = |sizes: &[usize]| -> Vec<usize> { (0..=3).map(|g| sizes[..g].iter().sum()).collect() };
    let one_based = |ids: &[usize]| -> Vec<usize> { ids.iter().map(|g| g + 1).collect() };
    let named = |n: Owners<'_, usize>, m: Owners<'_, usize>, expected: Misbatching| {
        let error =
            Batch::from_batched_coo(3, &vertices, &hyperedges, n, m, Repeats::Keep, AllInFirst::Reject);
        let error = error.unwrap_err();
        assert_eq!(looks_like(&error), Some(expected), "{error}");
    };
    use Owners::{Counts, GraphIds};
    named(GraphIds(&n), GraphIds(&ids(&m)), Misbatching::CountsAsGraphIds);
    named(GraphIds(&ids(&n)), GraphIds(&m), Misbatching::CountsAsGraphIds);
    named(Counts(&ids(&n)), Counts(&m), Misbatching::GraphIdsAsCounts);
    named(Counts(&n), Counts(&ids(&m)), Misbatching::GraphIdsAsCounts);
    named(Counts(&starts(&n)), Counts(&m), Misbatching::StartsAsOwners);
    named(GraphIds(&starts(&n)), Counts(&m), Misbatching::StartsAsOwners);
    named(GraphIds(&one_based(&ids(&n))), Counts(&m), Misbatching::OneBasedGraphIds);
    named(Counts(&m), Counts(&n), Misbatching::RowsExchanged);
}

/// Owners of the right kind with a plain mistake in them are not called owners of another kind: a name must
/// explain the index, too.
#[test]
fn owners_of_the_right_kind_are_not_called_another() {
    use Owners::{Counts, GraphIds};
    let named = |n_graphs, vertices: &[u8], hyperedges: &[u8], n: Owners<'_, i8>, m: Owners<'_, i8>| {
        let (repeats, all) = (Repeats::Keep, AllInFirst::Reject);
        let error = Batch::from_batched_coo(n_graphs, vertices, hyperedges, n, m, repeats, all).unwrap_err();
        println!("{error}");
        looks_like(&error)
    };
    // Three graphs of two vertices and one hyperedge.
    let (vertices, hyperedges) = ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2]);
    let three = |n, m| named(3, &vertices, &hyperedges, n, m);
    let (n, m) = (Counts(&[2, 2, 2]), Counts(&[1, 1, 1]));
    assert_eq!(three(n, GraphIds(&[1, 2, 3])), Some(Misbatching::OneBasedGraphIds));
    assert_eq!(three(n, GraphIds(&[0, 1, 7])), None);
    assert_eq!(three(n, GraphIds(&[0, 1, -1])), None);
    assert_eq!(three(Counts(&[2, 2]), m), None);
    assert_eq!(three(n, Counts(&[])), None);
    assert_eq!(three(Counts(&[]), Counts(&[])), None);
    // Both rows, of the same kind.
    assert_eq!(
        three(GraphIds(&[1, 1, 2, 2, 3, 3]), GraphIds(&[1, 2, 3])),
        Some(Misbatching::OneBasedGraphIds)
    );
    assert_eq!(three(GraphIds(&[2, 2, 2]), GraphIds(&[1, 1, 1])), Some(Misbatching::CountsAsGraphIds));
    assert_eq!(three(GraphIds(&[2, 2, 2]), m), Some(Misbatching::CountsAsGraphIds));
    assert_eq!(three(Counts(&[0, 0, 1, 1, 2, 2]), Counts(&[0, 1, 2])), Some(Misbatching::GraphIdsAsCounts));
    // An index of four such graphs, one of whose counts is missing.
    let (vertices, hyperedges) = ([0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 1, 2, 2, 3, 3]);
    assert_eq!(named(4, &vertices, &hyperedges, Counts(&[2, 2, 2]), Counts(&[1; 4])), None);
    // No index tells nothing.
    assert_eq!(named(4, &[], &[], Counts(&[1, 2, 3]), Counts(&[1; 4])), None);
}

/// Graph ids that start at 1 in one of the two arrays, where the last graph owns nothing, so that they are
/// legal.
#[test]
fn one_based_graph_ids_that_are_legal_are_named() {
    let batch = |n: &[u8], m: &[u8]| {
        let (n, m) = (Owners::GraphIds(n), Owners::GraphIds(m));
        let index = ([0u8, 1, 2, 3], [0u8, 0, 1, 1]);
        Batch::from_batched_coo(3, &index.0, &index.1, n, m, Repeats::Keep, AllInFirst::Reject)
    };
    batch(&[0, 0, 1, 1], &[0, 1]).unwrap();
    for (n, m) in [([1, 1, 2, 2], [0, 1]), ([0, 0, 1, 1], [1, 2])] {
        let error = batch(&n, &m).unwrap_err();
        assert_eq!(looks_like(&error), Some(Misbatching::OneBasedGraphIds), "{error}");
    }
    batch(&[1, 1, 2, 2], &[1, 2]).expect("it cannot be told from a right one");
}

/// Counts that are legal graph ids, of as many graphs: only the index tells.
#[test]
fn counts_that_are_legal_graph_ids_are_named() {
    let (n, m) = ([1u8, 2, 3, 3], [1u8; 4]);
    let vertices = [0u8, 1, 2, 3, 4, 5, 6, 7, 8];
    let hyperedges = [0u8, 1, 1, 2, 2, 2, 3, 3, 3];
    let batch =
        |n, m| Batch::from_batched_coo(4, &vertices, &hyperedges, n, m, Repeats::Keep, AllInFirst::Reject);
    batch(Owners::Counts(&n), Owners::Counts(&m)).unwrap();
    let error = batch(Owners::GraphIds(&n), Owners::Counts(&m)).unwrap_err();
    assert_eq!(looks_like(&error), Some(Misbatching::CountsAsGraphIds), "{error}");
    let error = batch(Owners::GraphIds(&n), Owners::GraphIds(&m)).unwrap_err();
    assert_eq!(looks_like(&error), Some(Misbatching::CountsAsGraphIds), "{error}");
    // Graphs of one hyperedge each: their ids as counts.
    let error = batch(Owners::Counts(&n), Owners::Counts(&[0, 1, 2, 3])).unwrap_err();
    assert_eq!(looks_like(&error), Some(Misbatching::GraphIdsAsCounts), "{error}");
}

/// One graph, whose rows are not shifted at all.
#[test]
fn mistakes_of_a_single_index_are_named() {
    let coo = |vertices: &[i32], hyperedges: &[i32]| {
        let error = Incidence::from_coo(4, 2, vertices, hyperedges, Repeats::Keep).unwrap_err();
        looks_like(&error)
    };
    assert_eq!(coo(&[0, 1, 0], &[0, 3, 2]), Some(Misbatching::RowsExchanged));
    assert_eq!(coo(&[1, 4, 3], &[1, 1, 2]), Some(Misbatching::OneBased));
    assert_eq!(coo(&[1, 4, 3], &[0, 1, 1]), Some(Misbatching::OneBasedVertices));
    assert_eq!(coo(&[0, 1, 3], &[1, 1, 2]), Some(Misbatching::OneBasedHyperedges));
    assert_eq!(coo(&[0, 1, -1], &[0, 1, -1]), Some(Misbatching::NegativePadding));
    assert_eq!(coo(&[0, 1, 9], &[0, 1, 0]), None);
}

/// The graph of an id, as the sizes of the graphs tell it.
fn owner(sizes: &[usize], id: i64) -> Option<usize> {
    let mut ends = sizes.iter().scan(0, |end, size| {
        *end += *size as i64;
        Some(*end)
    });
    if id < 0 { None } else { ends.position(|end| id < end) }
}

fn is_of_one_graph(n: &[usize], m: &[usize], v: i64, e: i64) -> bool {
    owner(n, v).is_some() && owner(n, v) == owner(m, e)
}

/// Whether a mistake leaves these rows of some graphs of these sizes: graph by graph and incidence by
/// incidence, as slowly and simply as can be.
fn leaves(mistake: Misbatching, n: &[usize], m: &[usize], pairs: &[(i64, i64)]) -> bool {
    use Misbatching::*;
    let before = |sizes: &[usize], g: usize| sizes[..g].iter().sum::<usize>() as i64;
    let largest = |sizes: &[usize]| sizes.iter().copied().max().unwrap_or(0) as i64;
    let fits = |g: usize, v: i64, e: i64| (0..n[g] as i64).contains(&v) && (0..m[g] as i64).contains(&e);
    let shifted = |shift: &dyn Fn(usize) -> (i64, i64)| {
        pairs.iter().all(|(v, e)| (0..n.len()).any(|g| fits(g, v - shift(g).0, e - shift(g).1)))
    };
    let one = |v: i64, e: i64| is_of_one_graph(n, m, v, e);
    // The row that is right tells the graphs; each graph's shift is the end of what those before it use.
    let by_largest = |own: &[usize], pairs: &mut dyn Iterator<Item = (i64, i64)>| {
        let mut ends = vec![0; own.len() + 1];
        for (of_graph, id) in pairs {
            let g = owner(own, of_graph)?;
            ends[g + 1] = ends[g + 1].max(id + 1);
        }
        (0..own.len()).for_each(|g| ends[g + 1] = ends[g + 1].max(ends[g]));
        Some(ends)
    };
    match mistake {
        NotShifted => shifted(&|_| (0, 0)),
        ShiftedByVertices => shifted(&|g| (before(n, g), before(n, g))),
        ShiftedByHyperedges => shifted(&|g| (before(m, g), before(m, g))),
        HyperedgesNotShifted => shifted(&|g| (before(n, g), 0)),
        VerticesNotShifted => shifted(&|g| (0, before(m, g))),
        ExchangedShifts => shifted(&|g| (before(m, g), before(n, g))),
        HyperedgesShiftedByLargestId => by_largest(n, &mut pairs.iter().copied())
            .is_some_and(|ends| shifted(&|g| (before(n, g), ends[g]))),
        VerticesShiftedByLargestId => by_largest(m, &mut pairs.iter().map(|&(v, e)| (e, v)))
            .is_some_and(|ends| shifted(&|g| (ends[g], before(m, g)))),
        PaddedToLargest => shifted(&|g| (g as i64 * largest(n), g as i64 * largest(m))),
        ShiftedPastOwnGraph => shifted(&|g| (before(n, g + 1), before(m, g + 1))),
        RowsExchanged => pairs.iter().all(|&(v, e)| one(e, v)),
        OneBased => pairs.iter().all(|&(v, e)| one(v - 1, e - 1)),
        OneBasedVertices => pairs.iter().all(|&(v, e)| one(v - 1, e)),
        OneBasedHyperedges => pairs.iter().all(|&(v, e)| one(v, e - 1)),
        NegativePadding => pairs.iter().all(|&(v, e)| v.min(e) < 0 || one(v, e)),
        // Of owners, which are right.
        _ => false,
    }
}

proptest! {
    /// Whatever a loader did: an index passes only if each incidence joins a vertex and a hyperedge of one
    /// graph, and not all are in the first of several that could have some and may be local ids. What is
    /// refused is named: this mistake, or one that leaves such rows, too.
    #[test]
    fn a_mistaken_index_is_named_or_a_right_index_of_other_graphs(
        graphs in prop::collection::vec(edges(), 0..5),
        mistake in prop::sample::select(&MISTAKES[..]),
    ) {
        let ((n, m), (vertices, hyperedges)) = (sizes(&graphs), mistaken(&graphs, Some(mistake)));
        let pairs: Vec<_> = vertices.iter().copied().zip(hyperedges.iter().copied()).collect();
        let is_right = pairs.iter().all(|&(v, e)| is_of_one_graph(&n, &m, v, e));
        match batch(&graphs, Some(mistake), AllInFirst::Reject) {
            Ok(batch) => prop_assert!(is_right && !is_all_in_first(&batch, &vertices, &hyperedges)),
            Err(error @ Error::AllInFirstGraph { .. }) => {
                let accepted = batch(&graphs, Some(mistake), AllInFirst::Accept).unwrap();
                prop_assert!(is_right && is_all_in_first(&accepted, &vertices, &hyperedges), "{error}");
            }
            Err(error) => {
                let named = looks_like(&error);
                prop_assert!(!is_right && named.is_some(), "{error}");
                let named = named.unwrap();
                prop_assert!(named == mistake || leaves(named, &n, &m, &pairs), "{mistake:?}, but {error}");
            }
        }
    }
}
