//! Which graph of an already batched index owns which vertices and hyperedges.

use std::ops::Range;

use crate::axis::Axis;
use crate::error::{Error, Result, fits_u32, try_zeroed};
use crate::index::{Index, below};
use crate::misbatching::Misbatching;

/// Which graph owns each vertex (or hyperedge) of an already batched index. Those of one graph stand
/// together, graph after graph.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Owners<'a, I> {
    /// The graph of each vertex (or hyperedge), not decreasing: PyTorch Geometric's `batch` vector.
    GraphIds(&'a [I]),
    /// The number of vertices (or hyperedges) of each graph.
    Counts(&'a [I]),
}

/// Graphs + 1 starts along an axis, the last of which is the total, within `u32`.
pub(crate) fn starts<I: Index>(
    axis: Axis,
    n_graphs: usize,
    owners: Owners<'_, I>,
    looks_like: impl Fn() -> Option<Misbatching>,
) -> Result<Vec<usize>> {
    let (table, what) = match axis {
        Axis::Vertex => ("vertex_owners", axis.total()),
        Axis::Hyperedge => ("hyperedge_owners", axis.total()),
    };
    if let Owners::Counts(counts) = owners
        && counts.len() != n_graphs
    {
        let value = counts.len();
        return Err(Error::CountsLength { table, value, bound: n_graphs, looks_like: looks_like() });
    }
    let mut starts: Vec<usize> = try_zeroed(table, n_graphs.saturating_add(1))?;
    match owners {
        Owners::Counts(counts) => {
            for (graph, count) in counts.iter().map(|c| c.value()).enumerate() {
                let end = match usize::try_from(count) {
                    Ok(count) => starts[graph].saturating_add(count),
                    Err(_) if count < 0 => return Err(Error::NegativeCount { table, graph, value: count }),
                    Err(_) => usize::MAX,
                };
                starts[graph + 1] = fits_u32(what, end)? as usize;
            }
        }
        Owners::GraphIds(ids) => {
            fits_u32(what, ids.len())?;
            let (mut previous, mut position) = (0, 0);
            for same in ids.chunk_by(|a, b| a.value() == b.value()) {
                let value = same[0].value();
                let Some(graph) = below(same[0], n_graphs) else {
                    let looks_like = looks_like();
                    return Err(Error::GraphOutOfRange {
                        table,
                        position,
                        value,
                        bound: n_graphs,
                        looks_like,
                    });
                };
                if graph < previous {
                    let (previous, looks_like) = (previous as i128, looks_like());
                    return Err(Error::GraphIdsNotSorted { table, position, value, previous, looks_like });
                }
                starts[previous + 1..=graph].fill(position);
                previous = graph;
                position += same.len();
            }
            starts[previous + 1..].fill(ids.len());
        }
    }
    Ok(starts)
}

/// The number of vertices (or hyperedges) of all graphs.
pub(crate) fn total(starts: &[usize]) -> usize {
    starts.last().copied().unwrap_or(0)
}

/// The graph that owns `id`, if there is one.
pub(crate) fn owner_of(starts: &[usize], id: i128) -> Option<usize> {
    let id = usize::try_from(id).ok().filter(|&id| id < total(starts))?;
    Some(starts.partition_point(|&start| start <= id) - 1)
}

/// The graph that owns `id`, which is below the total; the one behind `last` is tried first, since graphs
/// mostly come in order.
#[inline]
pub(crate) fn graph_of(starts: &[usize], last: usize, id: usize) -> usize {
    match starts.get(last + 1..last + 3) {
        Some(next) if (next[0]..next[1]).contains(&id) => last + 1,
        _ => starts.partition_point(|&start| start <= id) - 1,
    }
}

/// The vertices (or hyperedges) of a graph.
pub(crate) fn range(starts: &[usize], graph: usize) -> Range<usize> {
    match starts.get(graph..graph + 2) {
        Some(ends) => ends[0]..ends[1],
        None => 0..0,
    }
}
