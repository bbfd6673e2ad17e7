import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.batching.packing import pack_best_fit


@st.composite
def problems(draw):
    sizes = draw(
        st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), min_size=1, max_size=200)
    )
    table = np.array([(edges, nodes, 1) for edges, nodes in sizes])
    caps = table.max(axis=0) + [draw(st.integers(0, most)) for most in (40, 30, 10)]
    return table, caps, draw(st.permutations(range(len(sizes))))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_every_item_once_caps_kept_and_deterministic(problem):
    sizes, caps, order = problem
    bins = pack_best_fit(sizes, caps, order)
    assert sorted(item for items in bins for item in items) == list(range(len(sizes)))
    assert all(items for items in bins)
    for items in bins:
        assert (sizes[items].sum(axis=0) <= caps).all()
    assert pack_best_fit(sizes, caps, order) == bins


def test_an_item_goes_into_the_fullest_bin_that_takes_it():
    sizes = np.array([[6], [8], [2], [2], [3]])
    assert pack_best_fit(sizes, (10,), range(5)) == [[0, 3], [1, 2], [4]]
    assert pack_best_fit(sizes, (10,), [0, 1, 2, 4]) == [[0, 4], [1, 2]]


def test_the_caps_on_nodes_and_graphs_open_new_bins_too():
    sizes = np.array([[1, 5, 1]] * 4)
    assert len(pack_best_fit(sizes, (100, 10, 100), range(4))) == 2
    assert len(pack_best_fit(sizes, (100, 100, 3), range(4))) == 2


def test_more_bins_than_are_kept_open():
    sizes = np.full((500, 1), 6)
    assert pack_best_fit(sizes, (10,), range(500)) == [[item] for item in range(500)]
