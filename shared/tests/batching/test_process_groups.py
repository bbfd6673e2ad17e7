import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.batches import Batches
from mace_jax.batching.process_groups import epoch_order, group_batches


@st.composite
def packings(draw):
    """Batches, their shapes, edges of the graphs, and a number of processes."""
    n_graph = draw(st.lists(st.integers(1, 5), min_size=1, max_size=30))
    ids = draw(st.permutations(range(sum(n_graph))))
    batches = Batches(np.array(ids), np.append(0, np.cumsum(n_graph)))
    size = len(n_graph)
    shape = np.array(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    n_edge = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 50, len(ids))
    return batches, shape, n_edge, draw(st.integers(1, 9))


@settings(max_examples=200, deadline=None)
@given(packings())
def test_full_groups_of_one_shape_with_every_graph_once(packing):
    batches, shape, n_edge, processes = packing
    grouped, shapes = group_batches(batches, shape, n_edge, processes)
    assert sorted(grouped.ids) == list(range(len(batches.ids)))
    assert len(grouped) == len(shapes) == -(-len(batches) // processes) * processes
    assert (shapes[::processes] == shapes.reshape(-1, processes).T).all()
    assert (np.diff(shapes) >= 0).all()
    assert set(shapes) == set(range(shapes.max() + 1))
    empty = int((grouped.n_graph == 0).sum())
    assert empty == max(len(grouped) - len(grouped.ids), 0)  # only where nothing can be split


@settings(max_examples=200, deadline=None)
@given(packings())
def test_a_whole_batch_is_never_in_a_group_of_a_later_shape(packing):
    """Shapes are ordered by size: a batch may get a larger one, not a smaller one."""
    batches, shape, n_edge, processes = packing
    assume(len(batches) % processes == 0)  # none is split
    of_graph = dict(zip(batches.ids, np.repeat(shape, batches.n_graph), strict=True))
    grouped, shapes = group_batches(batches, shape, n_edge, processes)
    smallest = {}
    for batch, new in zip(grouped, shapes, strict=True):
        olds = [of_graph[graph] for graph in batch]
        assert len(set(olds)) <= 1
        if olds:
            smallest.setdefault(new, []).append(olds[0])
    for new, later in zip(sorted(smallest), sorted(smallest)[1:], strict=False):
        assert min(smallest[new]) <= min(smallest[later])


def test_one_process_keeps_the_batches_of_one_shape_as_they_are():
    batches = Batches.from_lists([[3], [0, 2], [1]])
    grouped, shape = group_batches(batches, np.zeros(3, int), np.ones(4), 1)
    assert grouped == batches
    assert shape.tolist() == [0, 0, 0]


def test_the_last_group_is_filled_by_splitting_the_batch_with_most_graphs_at_half_its_edges():
    batches = Batches.from_lists([[0, 1], [2, 3, 4, 5], [6]])
    n_edge = np.array([1, 1, 9, 3, 3, 3, 1])
    grouped, shape = group_batches(batches, np.zeros(3, int), n_edge, 2)
    assert grouped.to_lists() == [[0, 1], [2], [6], [3, 4, 5]]
    assert shape.tolist() == [0, 0, 0, 0]


def test_a_group_of_two_shapes_has_the_larger_one():
    batches = Batches.from_lists([[0], [1, 2, 3], [4], [5, 6]])
    grouped, shape = group_batches(batches, np.array([1, 0, 1, 1]), np.ones(7, int), 2)
    assert grouped.to_lists() == [[1, 2, 3], [0], [4], [5, 6]]
    assert shape.tolist() == [0, 0, 1, 1]


def test_a_batch_of_the_last_shape_is_split_before_one_with_more_graphs():
    batches = Batches.from_lists([[0, 1, 2, 3, 4], [5], [6, 7]])
    grouped, _ = group_batches(batches, np.array([0, 0, 1]), np.ones(8, int), 2)
    assert grouped.to_lists() == [[0, 1, 2, 3, 4], [5], [6], [7]]


def test_where_nothing_can_be_split_a_batch_is_empty():
    grouped, _ = group_batches(Batches.from_lists([[0], [1], [2]]), np.zeros(3, int), np.ones(3), 2)
    assert grouped.to_lists() == [[0], [1], [2], []]


# --- the order of an epoch


@dataclasses.dataclass
class Plan:
    """What the order depends on."""

    batches: Batches
    processes: int


@settings(max_examples=100, deadline=None)
@given(packings(), st.integers(0, 2**31), st.integers(0, 1000))
def test_the_processes_share_the_batches_of_an_epoch(packing, seed, epoch):
    batches, shape, n_edge, processes = packing
    grouped, shapes = group_batches(batches, shape, n_edge, processes)
    plan = Plan(grouped, processes)
    orders = [epoch_order(plan, seed, epoch, process) for process in range(processes)]
    assert {len(order) for order in orders} == {len(grouped) // processes}
    assert sorted(np.concatenate(orders)) == list(range(len(grouped)))
    for step in zip(*orders, strict=True):
        assert len(set(shapes[list(step)])) == 1
    alone = epoch_order(plan, seed, epoch)
    assert alone.tolist() == [
        i for step in zip(*orders, strict=True) for i in step if grouped[i].size
    ]


def test_the_order_is_a_function_of_seed_and_epoch():
    plan = Plan(Batches.from_lists([[i] for i in range(50)]), 1)
    orders = {(s, e): tuple(epoch_order(plan, s, e)) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert orders == {key: tuple(epoch_order(plan, *key)) for key in orders}


def test_a_process_that_the_plan_does_not_know():
    plan = Plan(Batches.from_lists([[0], [1]]), 2)
    with pytest.raises(IndexError):
        epoch_order(plan, 0, 0, 2)
