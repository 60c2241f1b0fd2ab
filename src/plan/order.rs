//! The order of a plan: every stage after all it depends on.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graph::{DiGraph, NodeIndex};

/// Topological order; among stages that could come next, the first in the manifest comes first. Where the graph has a
/// loop: its stages, each one depending on the next and the last one on the first.
pub(super) fn order<N>(graph: &DiGraph<N, ()>) -> Result<Vec<NodeIndex>, Vec<NodeIndex>> {
    let mut waiting: Vec<usize> =
        graph.node_indices().map(|node| graph.neighbors_directed(node, Incoming).count()).collect();
    let mut ready: BinaryHeap<Reverse<NodeIndex>> =
        graph.node_indices().filter(|node| waiting[node.index()] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(graph.node_count());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for child in graph.neighbors_directed(node, Outgoing) {
            waiting[child.index()] -= 1;
            if waiting[child.index()] == 0 {
                ready.push(Reverse(child));
            }
        }
    }
    if order.len() == graph.node_count() { Ok(order) } else { Err(find_loop(graph, &waiting)) }
}

/// A stage that still waits has a parent that still waits; going up from any, a stage must come twice.
fn find_loop<N>(graph: &DiGraph<N, ()>, waiting: &[usize]) -> Vec<NodeIndex> {
    let mut path: Vec<NodeIndex> = Vec::new();
    let mut next = graph.node_indices().find(|node| waiting[node.index()] > 0);
    while let Some(node) = next {
        if let Some(start) = path.iter().position(|earlier| *earlier == node) {
            path.drain(..start);
            // The same loop is always told from its first stage in the manifest.
            let first = path.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(at, _)| at);
            path.rotate_left(first);
            return path;
        }
        path.push(node);
        next = graph.neighbors_directed(node, Incoming).filter(|parent| waiting[parent.index()] > 0).min();
    }
    path
}
