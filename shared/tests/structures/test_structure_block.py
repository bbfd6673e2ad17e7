"""Structures as columns are the same structures, and what is done to all is done to each."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.errors import DataError
from mace_jax.structures.block_neighbors import block_pairs
from mace_jax.structures.neighbor_list import count_neighbors, neighbor_pairs
from mace_jax.structures.pair_block import PairBlock
from mace_jax.structures.structure import (
    PROPERTY_SHAPES,
    Structure,
    check_structure,
    property_shape,
    structure_digest,
)
from mace_jax.structures.structure_block import (
    StructureBlock,
    block_digests,
    blocks_of,
    check_block,
    is_sound,
    joined,
)


def random_structure(rng, n=None, spread=4.0):
    n = n or int(rng.integers(1, 6))
    labels = {
        name: rng.normal(size=property_shape(name, n))
        for name in PROPERTY_SHAPES
        if rng.random() < 0.5
    }
    pbc = rng.random(3) < 0.3
    cell = np.eye(3) * 6 + rng.normal(size=(3, 3)) if pbc.any() else np.zeros((3, 3))
    return Structure(
        rng.integers(1, 119, n),
        rng.normal(0, spread, (n, 3)),
        cell,
        pbc,
        labels,
        {name: float(rng.random()) for name in labels},
        float(rng.random()),
        str(rng.choice(["bulk", "slab"])),
        str(rng.choice(["pbe", "scan"])),
        f"a.xyz: frame {rng.integers(99)}",
    )


def random_structures(seed, n=40):
    rng = np.random.default_rng(seed)
    return [random_structure(rng) for _ in range(n)]


def assert_same(found, expected):
    for name in ("atomic_numbers", "positions", "cell", "pbc"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.properties.keys() == expected.properties.keys()
    for name, value in expected.properties.items():
        np.testing.assert_array_equal(found.properties[name], value)
        assert found.properties[name].shape == np.shape(value)
    for name in ("property_weights", "weight", "config_type", "head", "place"):
        assert getattr(found, name) == getattr(expected, name)


def assert_all_same(block, expected):
    assert len(block) == len(expected)
    for one, other in zip(block.structures(), expected, strict=True):
        assert_same(one, other)


DATA = random_structures(0)


def test_structures_come_back():
    assert_all_same(StructureBlock.of(DATA), DATA)
    assert StructureBlock.of([]).structures() == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(DATA) - 1)))
def test_some_in_any_order(numbers):
    block = StructureBlock.of(DATA).take(np.array(numbers, int))
    assert_all_same(block, [DATA[number] for number in numbers])
    present = {name for number in numbers for name in DATA[number].properties}
    assert block.labels.keys() == present


@pytest.mark.parametrize("size", [1, 7, 40, 100])
def test_blocks_joined_are_the_whole(size):
    blocks = list(blocks_of(iter(DATA), size))
    assert [len(block) for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert_all_same(joined(blocks), DATA)


def test_digests_are_those_of_the_structures():
    signed = dataclasses.replace(DATA[0], positions=DATA[0].positions * [-1, 0, -0.0])
    structures = [*DATA, signed]
    assert block_digests(StructureBlock.of(structures)) == list(map(structure_digest, structures))


BROKEN = {
    "no atoms": {"atomic_numbers": np.zeros(0, int), "positions": np.zeros((0, 3))},
    "no number": {"positions": np.full((2, 3), np.nan)},
    "a label that is none": {"properties": {"energy": np.array(np.inf)}},
    "a number out of range": {"positions": np.full((2, 3), -1e13)},
    "a weight out of range": {"weight": 1e13},
    "images in one another": {"pbc": np.ones(3, bool), "cell": np.diag([5.0, 5, 3e-5])},
    "images too near in a plane": {"pbc": np.array([1, 1, 0], bool), "cell": np.eye(3) * 0.09},
    "images too near on a line": {"pbc": np.array([0, 1, 0], bool), "cell": np.eye(3) * 0.09},
    "no element": {"atomic_numbers": np.array([1, 119])},
    "a weight below zero": {"weight": -1.0},
    "a label's weight": {
        "properties": {"energy": np.array(0.0)},
        "property_weights": {"energy": np.nan},
    },
    "no cell": {"pbc": np.array([False, True, False])},
    "vectors in a plane": {
        "pbc": np.ones(3, bool),
        "cell": np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]),
    },
    "two parallel vectors": {
        "pbc": np.array([True, False, True]),
        "cell": np.array([[1.0, 2, 3], [0, 0, 5], [2, 4, 6]]),
    },
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_the_one_that_is_wrong_is_found_and_named(changes):
    good = Structure(np.array([1, 8]), np.eye(2, 3), np.zeros((3, 3)), np.zeros(3, bool))
    broken = dataclasses.replace(good, **changes, place="b.xyz: frame 7")
    with pytest.raises(DataError) as one:
        check_structure(broken)
    with pytest.raises(DataError) as of_block:
        check_block(StructureBlock.of([good, *DATA, broken, good]))
    assert str(of_block.value) == str(one.value)


@pytest.mark.parametrize("pbc", [[1, 1, 1], [1, 1, 0], [1, 0, 0]])
def test_images_may_be_as_near_as_any_atoms_are(pbc):
    cell = np.eye(3) * 0.11
    structure = Structure(np.array([1]), np.full((1, 3), 1e12), cell, np.array(pbc, bool))
    check_structure(structure)
    assert is_sound(StructureBlock.of([structure]))


@pytest.mark.parametrize("pbc", [[1, 1, 0], [0, 1, 0], [1, 0, 1]])
def test_an_open_direction_may_have_any_vector(pbc):
    cell = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3]])
    cell[np.flatnonzero(np.logical_not(pbc))] = [1e-9, 0, 0]
    structure = Structure(np.array([1]), np.zeros((1, 3)), cell, np.array(pbc, bool))
    check_structure(structure)
    assert is_sound(StructureBlock.of([structure]))


# --- neighbours


def assert_pairs(structures, r_max):
    block = StructureBlock.of(structures)
    found = block_pairs(block, r_max)
    expected = [neighbor_pairs(structure, r_max) for structure in structures]
    for pairs, wanted in zip(found.one_by_one(), expected, strict=True):
        for array, other in zip(pairs, wanted, strict=True):
            np.testing.assert_array_equal(array, other)
            assert (array.dtype, array.shape) == (np.int32, other.shape)
    counts = [count_neighbors(p, len(s)) for p, s in zip(expected, structures, strict=True)]
    np.testing.assert_array_equal(found.count_neighbors(block.n_atoms), np.concatenate(counts))


def molecule(rng, n, place=0.0):
    whole = random_structure(rng, n)
    return dataclasses.replace(
        whole, positions=whole.positions + place, cell=np.zeros((3, 3)), pbc=np.zeros(3, bool)
    )


def test_pairs_of_molecules_and_crystals_mixed_are_those_of_each():
    rng = np.random.default_rng(1)
    sizes = (1, 2, 21, 64, 65, 100, 1)
    assert_pairs([*DATA, *(molecule(rng, n) for n in sizes), *DATA], 4.0)


def test_pairs_of_molecules_alone():
    rng = np.random.default_rng(2)
    assert_pairs([molecule(rng, n, 1000.0 * n) for n in (3, 1, 64, 2, 20)], 5.0)
    assert_pairs([molecule(rng, 1)], 5.0)


def test_an_atom_at_the_cutoff_is_no_neighbor():
    for distance, n_pairs in ((5.0, 0), (np.nextafter(5.0, 0), 1)):
        positions = np.array([[0.0, 0, 0], [distance, 0, 0]])
        pair = Structure(np.array([1, 1]), positions, np.zeros((3, 3)), np.zeros(3, bool))
        assert block_pairs(StructureBlock.of([pair]), 5.0).n_pairs.tolist() == [n_pairs]
        assert_pairs([pair], 5.0)


def test_two_atoms_at_the_same_place_are_named():
    rng = np.random.default_rng(3)
    bad = dataclasses.replace(molecule(rng, 3), positions=np.zeros((3, 3)), place="a.xyz: frame 5")
    with pytest.raises(DataError, match=r"a\.xyz: frame 5: atoms \d and \d are at the same place"):
        block_pairs(StructureBlock.of([molecule(rng, 4), bad]), 4.0)


@pytest.mark.parametrize("n_atoms", [1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_position_that_is_no_number_has_no_pairs(n_atoms, value):
    rng = np.random.default_rng(3)
    bad = dataclasses.replace(molecule(rng, n_atoms), place="a.xyz: frame 5")
    bad.positions[-1, 1] = value
    with pytest.raises(DataError, match=r"a\.xyz: frame 5: positions"):
        block_pairs(StructureBlock.of([molecule(rng, 4), bad]), 4.0)


def test_pairs_go_with_their_structures():
    pairs = [neighbor_pairs(structure, 4.0) for structure in DATA]
    block = joined([StructureBlock.of(DATA[:9], pairs[:9]), StructureBlock.of(DATA[9:], pairs[9:])])
    order = np.random.default_rng(4).permutation(len(DATA))
    taken = block.take(order)
    expected = PairBlock.of([pairs[number] for number in order])
    for array, other in zip(taken.pairs, expected, strict=True):
        np.testing.assert_array_equal(array, other)
