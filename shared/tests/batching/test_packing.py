import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.batches import Batches
from mace_jax.batching.packing import Limits, pack


@st.composite
def problems(draw):
    """Graphs, limits of two kinds of batches, an order, and the kind that each graph opens."""
    graphs = st.tuples(st.integers(0, 20), st.integers(1, 10), st.integers(0, 1))
    n_edge, n_node, kind = np.array(draw(st.lists(graphs, min_size=1, max_size=150))).T
    least = n_edge.max(), n_node.max(), 1
    limits = [Limits(*(int(most + draw(st.integers(0, 40))) for most in least)) for _ in range(2)]
    order = np.array(draw(st.permutations(range(len(n_edge)))))
    return n_edge, n_node, limits, order, kind


@settings(max_examples=200, deadline=None)
@given(problems())
def test_every_graph_once_within_the_limits_of_the_graph_that_opens_the_batch(problem):
    n_edge, n_node, limits, order, kind = problem
    batches = pack(n_edge, n_node, limits, order, kind)
    assert sorted(batches.ids) == list(range(len(order)))
    for batch in batches:
        limit = limits[kind[batch[0]]]
        assert 1 <= len(batch) <= limit.n_graph
        assert n_edge[batch].sum() <= limit.n_edge
        assert n_node[batch].sum() <= limit.n_node
    assert pack(n_edge, n_node, limits, order, kind) == batches


@settings(max_examples=100, deadline=None)
@given(problems())
def test_the_graph_that_waits_longest_opens_the_next_batch(problem):
    n_edge, n_node, limits, order, kind = problem
    waiting = list(order)
    for batch in pack(n_edge, n_node, limits, order, kind):
        assert batch[0] == waiting[0]
        for graph in batch:
            waiting.remove(graph)


def packed(n_edge, n_node, limit, order=None):
    order = np.arange(len(n_edge)) if order is None else np.array(order)
    return pack(np.array(n_edge), np.array(n_node), [Limits(*limit)], order).to_lists()


def test_the_graph_that_leaves_least_room_is_chosen():
    """9 edges: 5 and then 4, not the 3 that comes first."""
    assert packed([5, 3, 4, 2], [5, 3, 4, 2], (9, 9, 9)) == [[0, 2], [1, 3]]


def test_edges_and_nodes_run_out_together():
    """Of two graphs that fill the edges alike, the one that fills the nodes."""
    assert packed([6, 4, 4], [6, 1, 4], (10, 10, 9)) == [[0, 2], [1]]


def test_the_limits_on_nodes_and_graphs_close_batches_too():
    assert packed([1] * 4, [5] * 4, (100, 10, 100)) == [[0, 1], [2, 3]]
    assert packed([1] * 4, [5] * 4, (100, 100, 3)) == [[0, 1, 2], [3]]


def test_graphs_that_are_not_in_the_order_are_left_out():
    assert packed([6, 6, 6], [1, 1, 1], (6, 10, 9), order=[2, 0]) == [[2], [0]]


def test_graphs_without_edges():
    assert packed([0] * 5, [1] * 5, (1, 2, 9)) == [[0, 1], [2, 3], [4]]


def test_more_graphs_wait_than_a_batch_can_choose_from():
    n_edge = np.tile([1, 9], 2000)
    batches = pack(n_edge, n_edge, [Limits(10, 10, 9)], np.argsort(n_edge, kind="stable"))
    assert isinstance(batches, Batches)
    assert sorted(batches.ids) == list(range(4000))
    assert len(batches) >= 2000
