import dataclasses
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mace_jax.errors import DataError
from mace_jax.structures.neighbor_list import (
    Edges,
    neighbor_list,
    neighbor_pairs,
    pair_list,
    reverse_edges,
)
from mace_jax.structures.structure import Structure


def make(positions, cell=None, pbc=False):
    positions = np.asarray(positions, dtype=float)
    return Structure(
        np.ones(len(positions), dtype=np.int64),
        positions,
        np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=float),
        np.broadcast_to(pbc, (3,)).copy(),
    )


def brute_force(structure, r_max):
    """Return the set of (sender, receiver, shift), from the definition."""
    positions, cell, pbc = structure.positions, structure.cell, structure.pbc
    reach = np.zeros(3, dtype=int)
    across = np.linalg.pinv(cell[pbc])  # fractions of the periodic vectors, whatever the others are
    reach[pbc] = np.ceil(
        np.ptp(positions @ across, axis=0) + r_max * np.linalg.norm(across, axis=0)
    )
    shifts = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))))
    vectors = positions[None, :] - positions[:, None] + (shifts @ cell)[:, None, None]
    near = np.linalg.norm(vectors, axis=-1) < r_max
    return {
        (int(s), int(r), tuple(shifts[k].tolist()))
        for k, s, r in np.argwhere(near)
        if s != r or shifts[k].any()
    }


def as_set(edges):
    return {
        (int(s), int(r), tuple(int(i) for i in shift)) for s, r, shift in zip(*edges, strict=True)
    }


def edge_vectors(structure, edges):
    shift = edges.shifts @ structure.cell
    return structure.positions[edges.receivers] - structure.positions[edges.senders] + shift


def random_cell(rng):
    cell = np.diag(rng.uniform(2.5, 5, 3)) + rng.uniform(-1.5, 1.5, (3, 3))
    return cell if abs(np.linalg.det(cell)) > 8 else random_cell(rng)


def random_atoms(rng, low, high):
    return rng.uniform(low, high, (rng.integers(1, 7), 3))


def triclinic(rng):
    cell = random_cell(rng)
    return make(random_atoms(rng, 0, 1) @ cell, cell, True)


def mixed_pbc(rng):
    cell = random_cell(rng)
    return make(random_atoms(rng, 0, 1) @ cell, cell, rng.random(3) < 0.5)


def thin(rng):
    cell = random_cell(rng)
    cell[rng.integers(3)] *= 0.2
    return make(random_atoms(rng, 0, 1)[:3] @ cell, cell, rng.random(3) < 0.7)


def left_handed(rng):
    cell = random_cell(rng)
    if np.linalg.det(cell) > 0:
        cell = cell[[1, 0, 2]]
    return make(random_atoms(rng, 0, 1) @ cell, cell, rng.random(3) < 0.8)


def atoms_outside(rng):
    cell = random_cell(rng)
    return make(random_atoms(rng, -3, 4) @ cell, cell, rng.random(3) < 0.7)


def slab_or_wire(rng):
    cell, pbc = random_cell(rng), rng.permutation([True, rng.random() < 0.5, False])
    cell[~pbc] = 0
    return make(random_atoms(rng, -3, 3), cell, pbc)


def far_from_the_origin(rng):
    return make(random_atoms(rng, -2, 2) + 1000 * rng.normal(size=3))


def molecules_far_apart(rng):
    positions = random_atoms(rng, -2, 2)
    return make(np.concatenate([positions, positions + 1000 * rng.normal(size=3)]))


def fragments_far_apart(rng):
    near = slab_or_wire(rng)
    vectors = near.cell[near.pbc]
    offset = rng.normal(size=3) * 10 ** rng.uniform(2, 6)
    offset -= offset @ np.linalg.pinv(vectors) @ vectors  # across the slab or wire
    return make(np.concatenate([near.positions, near.positions + offset]), near.cell, near.pbc)


def one_atom(rng):
    return make(rng.normal(size=(1, 3)) * 10, random_cell(rng), rng.random(3) < 0.8)


KINDS = [
    *(triclinic, mixed_pbc, thin, left_handed, atoms_outside),
    *(slab_or_wire, far_from_the_origin, molecules_far_apart, fragments_far_apart, one_atom),
]
N_CELLS = 500


def random_case(kind, seed):
    """Return a structure and a cutoff that no distance is within rounding of."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    structure, r_max = kind(rng), rng.uniform(1.0, 5.0)
    closest = brute_force(structure, 0.01)
    unclear = brute_force(structure, r_max + 1e-6) != brute_force(structure, r_max - 1e-6)
    return random_case(kind, seed + 10**6) if closest or unclear else (structure, r_max)


def frozen_copy(structure):
    """Return the structure with arrays that cannot be written to."""
    arrays = [structure.positions.copy(), structure.cell.copy(), structure.pbc.copy()]
    for array in arrays:
        array.flags.writeable = False
    positions, cell, pbc = arrays
    return dataclasses.replace(structure, positions=positions, cell=cell, pbc=pbc)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_brute_force(kind):
    n_edges = 0
    for seed in range(N_CELLS // len(KINDS)):
        structure, r_max = random_case(kind, seed)
        expected = brute_force(structure, r_max)
        edges = neighbor_list(frozen_copy(structure), r_max)
        assert as_set(edges) == expected
        assert len(edges.senders) == len(expected)
        assert (np.diff(edges.receivers) >= 0).all()
        assert (np.linalg.norm(edge_vectors(structure, edges), axis=1) < r_max).all()
        assert {(r, s, tuple(-i for i in shift)) for s, r, shift in expected} == expected
        assert edges.senders.dtype == edges.receivers.dtype == edges.shifts.dtype == np.int32
        pairs = pair_list(edges)
        for found, of_edges in zip(neighbor_pairs(structure, r_max), pairs, strict=True):
            np.testing.assert_array_equal(found, of_edges)
            assert found.dtype == of_edges.dtype
        n_edges += len(expected)
    assert n_edges > 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_translation_changes_no_edge(kind):
    for seed in range(10):
        structure, r_max = random_case(kind, seed)
        expected = brute_force(structure, r_max)
        for move in (np.array([3, -2, 5]) @ structure.cell, np.array([1000.0, -700.0, 300.0])):
            moved = dataclasses.replace(structure, positions=structure.positions + move)
            assert as_set(neighbor_list(moved, r_max)) == expected


def test_one_pair_is_seen_through_several_images():
    structure = make([[0, 0, 0], [1, 0, 0]], np.diag([3.0, 9.0, 9.0]), True)
    edges = neighbor_list(structure, 4.5)
    pair = (edges.senders == 0) & (edges.receivers == 1)
    assert edges.shifts[pair].tolist() == [[1, 0, 0], [0, 0, 0], [-1, 0, 0]]
    np.testing.assert_allclose(edge_vectors(structure, edges)[pair, 0], [4, 1, -2])


@st.composite
def random_structures(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return draw(st.sampled_from(KINDS))(rng)


def test_the_brute_force_counts_a_simple_cubic_lattice_right():
    cubic = make([[0.0, 0.0, 0.0]], np.eye(3), True)
    assert len(brute_force(cubic, 1.1)) == 6
    assert len(brute_force(cubic, 1.5)) == 18
    assert as_set(neighbor_list(cubic, 1.5)) == brute_force(cubic, 1.5)


@pytest.mark.parametrize("kind", ["lattice vectors", "1000 Å"])
def test_a_translation_changes_nothing(crystal, kind):
    moves = {"lattice vectors": np.array([3, -2, 5]) @ crystal.cell, "1000 Å": np.full(3, 1000.0)}
    moved = dataclasses.replace(crystal, positions=crystal.positions + moves[kind])
    before, after = neighbor_list(crystal, 4.0), neighbor_list(moved, 4.0)
    assert len(before.senders) > 20
    assert as_set(before) == as_set(after)


def test_one_atom_moved_by_a_lattice_vector_keeps_every_edge_vector(crystal):
    positions = crystal.positions + np.array([[0, 0, 0], [2, -1, 1]]) @ crystal.cell
    moved = dataclasses.replace(crystal, positions=positions)
    before, after = (
        sorted(map(tuple, np.round(edge_vectors(s, neighbor_list(s, 4.0)), 9).tolist()))
        for s in (crystal, moved)
    )
    np.testing.assert_allclose(before, after, atol=1e-8)


def test_atoms_at_exactly_r_max_are_not_neighbours():
    assert len(neighbor_list(make([[0, 0, 0], [0, 0, 2]]), 2.0).senders) == 0


def test_a_single_atom_has_no_edges():
    edges = neighbor_list(make([[0, 0, 0]]), 5.0)
    assert [len(part) for part in edges] == [0, 0, 0]
    assert edges.shifts.shape == (0, 3)


def test_atoms_at_the_same_place_are_refused(crystal):
    with pytest.raises(DataError, match=r"a\.xyz: frame 2: atoms \d and \d are at the same place"):
        neighbor_list(
            dataclasses.replace(make([[1, 2, 3], [0, 0, 0], [1, 2, 3]]), place="a.xyz: frame 2"),
            2.0,
        )


@pytest.mark.parametrize("seed", range(5))
def test_atoms_at_the_same_place_through_the_cell_are_refused(crystal, seed):
    # the sum of cell vectors is rounded, so the distance is 1e-16 Å rather than 0
    rng = np.random.default_rng(seed)
    place = rng.uniform(-3, 3, 3)
    positions = np.array([place, place + rng.integers(-3, 4, 3) @ crystal.cell])
    with pytest.raises(DataError, match="at the same place"):
        neighbor_list(dataclasses.replace(crystal, positions=positions), 2.0)


@pytest.mark.parametrize(
    "cell",
    [np.zeros((3, 3)), np.diag([3.0, 0.0, 3.0]), [[1, 2, 3], [2, 4, 6], [0, 0, 5]]],
    ids=["no cell", "one zero vector", "parallel vectors"],
)
def test_periodic_without_a_cell_is_refused(cell):
    with pytest.raises(DataError, match=r"a\.xyz: frame 2"):
        neighbor_list(
            dataclasses.replace(make([[0, 0, 0], [0, 0, 1]], cell, True), place="a.xyz: frame 2"),
            2.0,
        )


def test_a_slab_may_leave_out_the_vector_along_which_it_is_not_periodic():
    slab = make([[0, 0, 0]], np.diag([2.0, 2.0, 0.0]), (True, True, False))
    shifts = {shift for _, _, shift in as_set(neighbor_list(slab, 2.5))}
    assert shifts == {(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)}


@settings(max_examples=60, deadline=None)
@given(random_structures(), st.floats(0.8, 4.0))
def test_every_edge_has_a_reverse(structure, r_max):
    try:
        edges = neighbor_list(structure, r_max)
    except DataError:
        assume(False)
    reverse = reverse_edges(edges)
    every = np.arange(len(edges.senders))
    np.testing.assert_array_equal(reverse[reverse], every)
    assert (reverse != every).all()
    np.testing.assert_array_equal(edges.senders[reverse], edges.receivers)
    np.testing.assert_array_equal(edges.receivers[reverse], edges.senders)
    np.testing.assert_array_equal(edges.shifts[reverse], -edges.shifts)
    np.testing.assert_allclose(
        edge_vectors(structure, edges)[reverse], -edge_vectors(structure, edges), atol=1e-12
    )


def test_images_of_an_atom_are_the_reverse_of_each_other():
    edges = neighbor_list(make([[0, 0, 0]], np.diag([1.0, 5.0, 5.0]), True), 2.5)
    assert edges.shifts[:, 0].tolist() == [2, 1, -1, -2]
    assert reverse_edges(edges).tolist() == [3, 2, 1, 0]


def some_edges(*edges):
    senders, receivers, shifts = zip(*edges, strict=True)
    return Edges(np.array(senders), np.array(receivers), np.array(shifts))


@pytest.mark.parametrize(
    "edges",
    [
        some_edges((1, 0, (0, 0, 0))),
        some_edges((0, 0, (1, 0, 0)), (0, 0, (1, 0, 0))),
        some_edges((1, 0, (0, 0, 1)), (0, 1, (0, 0, 1))),
        some_edges((1, 0, (0, 0, 0)), (2, 0, (0, 0, 0)), (0, 1, (0, 0, 0)), (0, 1, (0, 0, 0))),
    ],
    ids=["one direction", "the same image twice", "another shift", "another atom"],
)
def test_one_sided_edges_are_refused(edges):
    with pytest.raises(ValueError, match="edges without a reverse, expected both directions"):
        reverse_edges(edges)


def test_no_edges_have_no_reverse():
    assert reverse_edges(neighbor_list(make([[0, 0, 0]]), 5.0)).shape == (0,)


def test_torch_is_not_imported_and_vesin_works_with_it_afterwards(tmp_path):
    (tmp_path / "torch.py").write_text("print('torch'); uint64 = int32 = float64 = Tensor = None")
    program = """
import sys
import numpy as np
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.structures.structure import Structure
atoms = Structure(np.array([1, 1]), np.eye(2, 3), np.zeros((3, 3)), np.zeros(3, bool))
for _ in range(2):
    print(len(neighbor_list(atoms, 2.0).senders))
print("torch" in sys.modules)
import vesin._neighbors
print(vesin._neighbors.HAS_TORCH)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "2", "False", "torch", "True"]


def test_a_pair_list_has_one_of_each_edge_and_its_reverse(crystal):
    edges = neighbor_list(crystal, 5.0)
    pairs = pair_list(edges)
    reversed_pairs = (pairs.receivers, pairs.senders, -pairs.shifts)
    assert len(edges.senders) == 2 * len(pairs.senders) > 0
    assert as_set(pairs) | as_set(reversed_pairs) == as_set(edges)
    assert (np.diff(pairs.receivers) >= 0).all()
