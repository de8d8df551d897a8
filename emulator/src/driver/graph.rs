//! Graphs: operations with the order that they need, recorded once and run as often as wanted.

use super::operation::Operation;

/// A graph, as a capture recorded it. Graphs do not change.
#[derive(Default)]
pub(crate) struct Graph {
    /// Each node comes after those that it depends on.
    pub(crate) nodes: Vec<Node>,
}

/// An operation of a graph.
pub(crate) struct Node {
    pub(crate) operation: Operation,
    /// The nodes that have to run before.
    pub(crate) after: Vec<usize>,
}

impl Graph {
    /// An order that the graph allows, far from that of the capture: of the nodes that may run, the last
    /// recorded runs first. So a missing dependency shows.
    pub(crate) fn adverse_order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut has_run = vec![false; self.nodes.len()];
        while let Some(next) = (0..self.nodes.len())
            .rev()
            .find(|&i| !has_run[i] && self.nodes[i].after.iter().all(|&before| has_run[before]))
        {
            has_run[next] = true;
            order.push(next);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(after: &[&[usize]]) -> Graph {
        let node = |after: &&[usize]| Node { operation: Operation::Free(0), after: after.to_vec() };
        Graph { nodes: after.iter().map(node).collect() }
    }

    #[test]
    fn a_chain_runs_in_its_order() {
        assert_eq!(graph(&[&[], &[0], &[1]]).adverse_order(), [0, 1, 2]);
    }

    #[test]
    fn a_branch_that_nothing_orders_runs_backwards() {
        assert_eq!(graph(&[&[], &[0], &[0], &[1, 2]]).adverse_order(), [0, 2, 1, 3]);
        assert_eq!(graph(&[&[], &[], &[]]).adverse_order(), [2, 1, 0]);
    }
}
