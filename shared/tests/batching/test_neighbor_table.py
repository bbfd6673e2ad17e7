"""The neighbour table against the directed edges that it is made of."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.batching.neighbor_table import fill_table, join_pairs, n_rows
from mace_jax.errors import DataError
from mace_jax.structures.neighbor_list import (
    PairList,
    count_neighbors,
    neighbor_list,
    pair_list,
)
from mace_jax.structures.structure import Structure

R_MAX = 3.0


def make(positions, cell=None, pbc=False):
    positions = np.asarray(positions, dtype=float)
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=float)
    pbc = np.broadcast_to(pbc, (3,)).copy()
    return Structure(np.ones(len(positions), dtype=np.int64), positions, cell, pbc)


@st.composite
def structures(draw):
    """Small cells, in which atoms see their own images, and molecules."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cell = 2.5 * np.eye(3) + rng.uniform(-0.5, 0.5, (3, 3))
    positions = rng.uniform(0, 1, (draw(st.integers(1, 4)), 3)) @ cell
    return make(positions, cell, draw(st.tuples(*[st.booleans()] * 3)))


@st.composite
def lists_of_edges(draw):
    """Return the edges and number of atoms of each structure."""
    found = []
    for structure in draw(st.lists(structures(), min_size=1, max_size=4)):
        try:
            found.append((neighbor_list(structure, R_MAX), len(structure)))
        except DataError:
            assume(False)
    return found


def joined(lists):
    """Return the pairs, and the number of neighbours of each atom."""
    pairs = join_pairs([pair_list(edges) for edges, _ in lists], np.array([n for _, n in lists]))
    return pairs, count_neighbors(pairs, sum(n for _, n in lists))


def directed_edges(lists):
    """Return every (sender, receiver, shift) in order, atoms numbered through."""
    found, first = [], 0
    for edges, n in lists:
        found += [
            (int(s) + first, int(r) + first, *map(int, shift))
            for s, r, shift in zip(*edges, strict=True)
        ]
        first += n
    return found


def edges_in_slots(pairs, table):
    """Return what every slot that is not empty says of its edge, row after row."""
    found = []
    for row, column in np.argwhere(table.slot_direction != 0):
        pair, direction = table.slot_pair[row, column], int(table.slot_direction[row, column])
        ends = (pairs.senders[pair], pairs.receivers[pair])
        sender, receiver = ends[::direction]
        assert receiver == table.row_node[row]
        shift = direction * pairs.shifts[pair]
        found.append((int(sender), int(receiver), *map(int, shift)))
    return found


def check(lists, caps):
    pairs, n_neighbors = joined(lists)
    table = fill_table(pairs, caps)
    n_pair = len(pairs.senders)
    assert edges_in_slots(pairs, table) == directed_edges(lists)
    assert (np.diff(table.row_node) >= 0).all()
    rows = np.bincount(table.row_node, minlength=caps.n_node)
    padded = np.pad(n_neighbors, (0, caps.n_node - len(n_neighbors)))
    np.testing.assert_array_equal(rows[:-1], n_rows(padded, caps.n_neighbor)[:-1])
    assert rows.min() >= 1
    assert rows.sum() == caps.n_row
    slots = table.pair_slots[:n_pair]
    assert len(np.unique(slots)) == 2 * n_pair
    pair_of_slot = np.broadcast_to(np.arange(n_pair)[:, None], (n_pair, 2))
    np.testing.assert_array_equal(table.slot_pair.ravel()[slots], pair_of_slot)
    directions = np.broadcast_to([1, -1], (n_pair, 2))
    np.testing.assert_array_equal(table.slot_direction.ravel()[slots], directions)
    return table


def caps_of(lists, n_neighbor, spare=0):
    _, n_neighbors = joined(lists)
    rows = int(n_rows(n_neighbors, n_neighbor).sum())
    n_node, n_edge = len(n_neighbors) + 1 + spare, int(n_neighbors.sum()) + spare
    return Caps(n_node, n_edge, len(lists) + 1, n_neighbor, rows + 1 + 3 * spare)


@settings(max_examples=100, deadline=None)
@given(lists_of_edges(), st.integers(1, 60), st.integers(0, 3))
def test_every_edge_is_in_one_slot_of_its_receiver(lists, n_neighbor, spare):
    check(lists, caps_of(lists, n_neighbor, spare))


@settings(max_examples=60, deadline=None)
@given(lists_of_edges(), st.integers(0, 1), st.integers(0, 9))
def test_caps_that_enclose_nodes_and_edges_have_room_for_the_table(lists, spare, spare_edges):
    _, n_neighbors = joined(lists)
    n_node, n_edge = len(n_neighbors) + spare, int(n_neighbors.sum()) + spare_edges
    check(lists, Caps.enclosing(n_node, n_edge, len(lists) + 1))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(0, 10))
def test_enclosing_caps_suffice_for_any_numbers_of_neighbours(n_neighbors, spare):
    caps = Caps.enclosing(len(n_neighbors), sum(n_neighbors) + spare, 2)
    assert n_rows(np.array(n_neighbors), caps.n_neighbor).sum() <= caps.n_row
    assert caps.n_pair >= sum(n_neighbors) // 2
    assert caps.n_row * caps.n_neighbor <= 3 * (sum(n_neighbors) + spare + len(n_neighbors))


@pytest.mark.parametrize("crowded", [0, 2, 5])
def test_enclosing_caps_suffice_where_one_atom_has_all_neighbours(crowded):
    n_neighbors = np.zeros(6, int)
    n_neighbors[crowded] = 77
    caps = Caps.enclosing(6, 77, 2)
    assert caps.n_neighbor < 77
    assert n_rows(n_neighbors, caps.n_neighbor).sum() <= caps.n_row


@pytest.mark.parametrize("n_neighbor", [1, 4, 18, 20])
def test_an_atom_and_its_own_images_are_pairs(n_neighbor):
    cubic = make([[0.1, 0.2, 0.3]], np.eye(3), True)
    edges = neighbor_list(cubic, 1.5)
    assert len(edges.senders) == 18
    pairs = pair_list(edges)
    assert len(pairs.senders) == 9
    assert not pairs.senders.any()
    assert not pairs.receivers.any()
    shifts = {tuple(shift) for shift in pairs.shifts}
    assert len(shifts | {tuple(-np.array(shift)) for shift in shifts}) == 18
    table = check([(edges, 1)], caps_of([(edges, 1)], n_neighbor))
    assert (table.row_node == 0).sum() == -(-18 // n_neighbor)


def test_neighbours_are_counted_as_the_edges_that_arrive(crystal):
    edges = neighbor_list(crystal, 4.0)
    counted = count_neighbors(pair_list(edges), len(crystal))
    np.testing.assert_array_equal(counted, np.bincount(edges.receivers, minlength=len(crystal)))


def test_an_atom_without_neighbours_has_an_empty_row():
    far = make([[0, 0, 0], [50, 0, 0], [51, 0, 0]])
    lists = [(neighbor_list(far, R_MAX), 3)]
    table = check(lists, Caps(5, 2, 2, 4, 5))
    assert table.row_node.tolist() == [0, 1, 2, 3, 4]
    assert np.count_nonzero(table.slot_direction, axis=1).tolist() == [0, 1, 1, 0, 0]


def test_rows_that_are_left_over_belong_to_the_last_atom():
    lists = [(neighbor_list(make([[0, 0, 0], [1, 0, 0]]), R_MAX), 2)]
    table = check(lists, Caps(4, 2, 2, 1, 9))
    assert table.row_node.tolist() == [0, 1, 2, *[3] * 6]
    assert not table.slot_direction[2:].any()


@pytest.mark.parametrize(("n_neighbor", "expected"), [(1, 21), (2, 12), (3, 9), (10, 4), (99, 4)])
def test_an_atom_has_as_many_rows_as_its_neighbours_fill(n_neighbor, expected):
    assert n_rows(np.array([0, 1, 10, 9]), n_neighbor).sum() == expected


@st.composite
def caps_of_any_shape(draw):
    n_node, n_edge, n_graph, n_neighbor, spare = draw(st.tuples(*[st.integers(1, 20)] * 5))
    return Caps(n_node, n_edge, n_graph, n_neighbor, n_node + spare - 1)


several_caps = st.lists(caps_of_any_shape(), min_size=1, max_size=4)


@settings(deadline=None)
@given(several_caps, st.randoms(use_true_random=False))
def test_covering_caps_are_no_smaller_than_any_in_whatever_order(several, random):
    covering = Caps.covering(several)
    for caps in several:
        assert all(np.greater_equal(astuple(covering), astuple(caps)))
    assert Caps.covering(random.sample(several, len(several))) == covering
    assert Caps.covering([*several, covering]) == covering


@settings(deadline=None)
@given(caps_of_any_shape())
def test_caps_cover_themselves(caps):
    assert Caps.covering([caps]) == caps


@settings(max_examples=60, deadline=None)
@given(lists_of_edges(), st.integers(1, 20), several_caps)
def test_what_fits_in_one_fits_in_the_covering_caps(lists, n_neighbor, others):
    check(lists, Caps.covering([caps_of(lists, n_neighbor), *others]))


def test_atoms_that_only_send_have_no_slots():
    """A triangle, of which the last atom receives nothing."""
    pairs = PairList(
        np.array([0, 2, 1], np.int32), np.array([1, 0, 2], np.int32), np.zeros((3, 3), np.int32)
    )
    table = fill_table(pairs, Caps(n_node=4, n_edge=6, n_graph=2, n_neighbor=2, n_row=4), 2)
    edges = [edge[:2] for edge in edges_in_slots(pairs, table)]
    assert edges == [(1, 0), (2, 0), (0, 1), (2, 1)]
    last = table.slot_pair.size - 1
    assert table.slot_direction.ravel()[last] == 0
    np.testing.assert_array_equal(table.pair_slots, [[2, 0], [1, last], [last, 3]])
