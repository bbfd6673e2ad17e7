import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.batches import Batches
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.neighbor_table import n_rows
from mace_jax.batching.shape_classes import (
    NODE_COST,
    best_cuts,
    choose_shapes,
    padded_caps,
    padded_shapes,
)

SPREADS = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8), min_size=1, max_size=12)


def sizes_of(spreads):
    return GraphSizes.from_lists([np.array(spread) for spread in spreads])


@settings(max_examples=200, deadline=None)
@given(SPREADS, st.integers(1, 5))
def test_the_caps_suffice_for_every_batch_and_one_of_them_needs_all(spreads, n_batches):
    lists = [batch for batch in np.array_split(range(len(spreads)), n_batches) if len(batch)]
    caps = padded_caps(sizes_of(spreads), Batches.from_lists(lists))
    nodes, edges, rows = [], [], []
    for batch in lists:
        n_neighbors = np.concatenate([spreads[graph] for graph in batch]).astype(int)
        padded = np.pad(n_neighbors, (0, caps.n_node - len(n_neighbors)))
        nodes.append(len(n_neighbors))
        edges.append(n_neighbors.sum())
        rows.append(n_rows(padded, caps.n_neighbor).sum())
    assert caps.n_node == max(nodes) + 1
    assert caps.n_edge == max(*edges, 1)
    assert caps.n_graph == max(map(len, lists)) + 1
    assert caps.n_row == max(rows)
    assert 1 <= caps.n_neighbor <= max(1, *map(max, spreads))


@settings(max_examples=100, deadline=None)
@given(SPREADS, st.lists(st.integers(0, 1), min_size=12, max_size=12))
def test_each_shape_is_that_of_its_own_batches(spreads, wanted):
    _, shape = np.unique(np.array(wanted)[: len(spreads)], return_inverse=True)
    sizes, batches = sizes_of(spreads), Batches.from_lists([[i] for i in range(len(spreads))])
    for index, caps in enumerate(padded_shapes(sizes, batches, shape)):
        assert caps == padded_caps(sizes, batches.select(np.flatnonzero(shape == index)))


def test_an_empty_batch_needs_nothing():
    sizes = sizes_of([[2, 2], [1, 1]])
    full = padded_caps(sizes, Batches.from_lists([[0], [1]]))
    assert padded_caps(sizes, Batches.from_lists([[0], [], [1]])) == full


def test_atoms_with_the_same_number_of_neighbours_have_one_full_row_each():
    caps = padded_caps(sizes_of([[12] * 5, [12] * 3]), Batches.from_lists([[0], [1]]))
    assert (caps.n_neighbor, caps.n_row) == (12, caps.n_node)


def test_one_crowded_atom_does_not_widen_the_rows_of_all():
    crowded = np.full(1000, 10)
    crowded[3] = 500
    caps = padded_caps(sizes_of([crowded]), Batches.from_lists([[0]]))
    assert 10 <= caps.n_neighbor < 100
    assert caps.n_row * caps.n_neighbor < 1.5 * crowded.sum()


def test_few_slots_are_empty_on_numbers_of_neighbours_like_those_of_mptrj():
    rng = np.random.default_rng(0)
    sizes = sizes_of([rng.poisson(mean, 30) for mean in rng.uniform(40, 80, 1000)])
    caps = padded_caps(sizes, Batches.from_lists([range(1000)]))
    assert caps.n_row * caps.n_neighbor < 1.5 * sizes.n_edge.sum()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
def test_the_type_of_the_numbers_does_not_matter(kind):
    wide = sizes_of([[200, 3], [255] * 9])
    narrow = GraphSizes(wide.n_node, wide.n_edge, wide.n_neighbors.astype(kind))
    batches = Batches.from_lists([[0], [1]])
    assert padded_caps(narrow, batches) == padded_caps(wide, batches)


# --- which batches share a shape


def total_cost(n_edge, n_node, cuts):
    ends = [0, *cuts, len(n_edge)]
    return sum(
        (stop - start) * (max(n_edge[start:stop]) + NODE_COST * max(n_node[start:stop]))
        for start, stop in itertools.pairwise(ends)
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=9),
    st.integers(1, 4),
)
def test_no_other_ranges_cost_much_less(batches, n_shapes):
    n_edge, n_node = np.array(sorted(batches)).T
    cuts = best_cuts(n_edge, n_node, n_shapes)
    assert len(cuts) < n_shapes
    assert cuts == sorted(set(cuts) - {0, len(batches)})
    found = total_cost(n_edge, n_node, cuts)
    best = min(
        total_cost(n_edge, n_node, other)
        for count in range(n_shapes)
        for other in itertools.combinations(range(1, len(batches)), count)
    )
    assert best <= found <= 1.02 * best


def chains(lengths):
    """Graphs of atoms in a row: 2 (n - 1) edges."""
    return sizes_of([[1, *[2] * (n - 2), 1] for n in lengths])


def test_a_few_large_batches_get_a_shape_of_their_own():
    sizes = chains([10] * 50 + [100, 90])
    batches = Batches.from_lists([[i] for i in range(52)])
    assert choose_shapes(sizes, batches, 2).tolist() == [1] * 50 + [0, 0]
    assert choose_shapes(sizes, batches, 3).tolist() == [2] * 50 + [0, 1]
    assert choose_shapes(sizes, batches, 1).tolist() == [0] * 52


def test_shapes_that_save_nothing_are_not_used():
    sizes, batches = chains([10] * 50), Batches.from_lists([[i] for i in range(50)])
    assert choose_shapes(sizes, batches, 4).tolist() == [0] * 50


def test_many_batches():
    lengths = np.random.default_rng(0).permutation(np.repeat([10, 20, 40, 80], 1000))
    batches = Batches.from_lists([[i] for i in range(4000)])
    shape = choose_shapes(chains(lengths), batches, 4)
    saved = total_cost(np.sort(2 * lengths - 2), np.sort(lengths), [1000, 2000, 3000])
    found = sum((2 + NODE_COST) * lengths[shape == i].max() * (shape == i).sum() for i in range(4))
    assert found < 1.1 * saved
