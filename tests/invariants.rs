//! What constructors promise of everything they return; for the tests and the fuzz target.

use hyperscatter::{Axis, Batch, Incidence, Index};

/// Everything that [`Incidence`] promises.
pub fn assert_incidence(incidence: &Incidence) {
    for (csr, rows, bound) in [
        (incidence.by_edge(), incidence.n_hyperedges(), incidence.n_vertices()),
        (incidence.by_vertex(), incidence.n_vertices(), incidence.n_hyperedges()),
    ] {
        assert_eq!(csr.pointers.len(), rows + 1);
        assert_eq!((csr.pointers[0], csr.pointers[rows] as usize), (0, incidence.n_incidences()));
        assert!(csr.pointers.is_sorted());
        assert!(
            csr.indices.len() == incidence.n_incidences()
                && csr.indices.iter().all(|&i| (i as usize) < bound)
        );
    }
    let mut transposed: Vec<_> = incidence.incidences().collect();
    transposed.sort();
    let by_vertex = incidence.by_vertex();
    let listed = by_vertex.rows().zip(0u32..).flat_map(|(edges, v)| edges.iter().map(move |&e| (v, e)));
    assert_eq!(transposed, listed.collect::<Vec<_>>());
}

/// Everything that a table batch promises about its starts.
pub fn assert_batch(batch: &Batch) {
    let instances = batch.n_instances().unwrap();
    let (mut vertices, mut hyperedges) = (0, 0);
    for g in 0..instances {
        assert_eq!((batch.start(Axis::Vertex, g), batch.start(Axis::Hyperedge, g)), (vertices, hyperedges));
        vertices += batch.topology(g).n_vertices();
        hyperedges += batch.topology(g).n_hyperedges();
        assert_incidence(batch.topology(g));
    }
    assert_eq!(
        (batch.start(Axis::Vertex, instances), batch.start(Axis::Hyperedge, instances)),
        (vertices, hyperedges)
    );
}

/// Whether all incidences of a table batch are in one instance, the first that has vertices and hyperedges,
/// although a later one has both, too, and the index that it was made from may be one that nobody shifted:
/// graph after graph, ids that are local.
pub fn is_all_in_first<I: Index>(batch: &Batch, vertices: &[I], hyperedges: &[I]) -> bool {
    let topologies = || (0..batch.n_instances().unwrap()).map(|g| batch.topology(g));
    let mut with_both = topologies().filter(|t| t.n_vertices() > 0 && t.n_hyperedges() > 0);
    let first = with_both.next().map_or(0, Incidence::n_incidences);
    let later: Vec<_> = with_both.map(Incidence::n_incidences).collect();
    let mut graphs = topologies().peekable();
    let are_local = vertices.iter().zip(hyperedges).all(|(v, e)| {
        let fits = |t: &Incidence| v.value() < t.n_vertices() as i128 && e.value() < t.n_hyperedges() as i128;
        while graphs.next_if(|t| !fits(t)).is_some() {}
        graphs.peek().is_some()
    });
    first > 0 && !later.is_empty() && later.iter().all(|&n| n == 0) && are_local
}
