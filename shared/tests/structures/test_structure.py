import dataclasses

import numpy as np
import pytest

from mace_jax.errors import DataError
from mace_jax.structures.structure import (
    check_structure,
    structure_digest,
    volume,
    weighted_by_config_type,
)


def with_property(structure, name, value):
    return dataclasses.replace(structure, properties={**structure.properties, name: value})


def spoilt(array, index, value):
    copy = np.array(array)
    copy[index] = value
    return copy


def test_good_structures_pass(water, crystal):
    check_structure(water)
    check_structure(crystal)


def test_volume_is_that_of_the_physical_cell(water, crystal):
    assert volume(crystal) == pytest.approx(abs(np.linalg.det(crystal.cell)))
    assert volume(dataclasses.replace(crystal, cell=crystal.cell[::-1])) > 0
    assert volume(water) == np.inf
    assert volume(dataclasses.replace(crystal, pbc=np.zeros(3, dtype=bool))) == np.inf


def test_a_digest_names_the_geometry_and_nothing_else(crystal):
    same = dataclasses.replace(crystal, properties={}, weight=9.0, head="b", place="elsewhere")
    assert structure_digest(same) == structure_digest(crystal)
    changes = {
        "atomic_numbers": crystal.atomic_numbers[::-1],
        "positions": spoilt(crystal.positions, (1, 2), np.nextafter(1.2, 2)),
        "cell": spoilt(crystal.cell, (0, 0), 3.2),
        "pbc": spoilt(crystal.pbc, 2, False),
    }
    digests = {
        structure_digest(dataclasses.replace(crystal, **{name: value}))
        for name, value in changes.items()
    }
    assert len(digests | {structure_digest(crystal)}) == 5


def test_a_digest_takes_minus_zero_for_zero(water):
    assert (water.positions == 0).any()
    mirrored = np.where(water.positions == 0, -0.0, water.positions)
    assert structure_digest(dataclasses.replace(water, positions=mirrored)) == structure_digest(
        water
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "index", "place"),
    [
        ("energy", (), "energy"),
        ("forces", (1, 2), "forces of atom 1"),
        ("stress", (2, 0), "stress"),
    ],
)
def test_a_label_that_is_not_finite_is_named(crystal, name, index, place, bad):
    broken = with_property(crystal, name, spoilt(crystal.properties[name], index, bad))
    with pytest.raises(DataError, match=rf"a\.xyz: frame 7: {place} is -?(nan|inf)"):
        check_structure(dataclasses.replace(broken, place="a.xyz: frame 7"))


@pytest.mark.parametrize(("name", "index"), [("positions", (1, 0)), ("cell", (0, 0))])
def test_geometry_that_is_not_finite_is_refused(crystal, name, index):
    broken = dataclasses.replace(crystal, **{name: spoilt(getattr(crystal, name), index, np.nan)})
    with pytest.raises(DataError, match=name):
        check_structure(broken)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("energy", (1,)), ("forces", (3, 3)), ("forces", (2, 2)), ("stress", (6,)), ("charges", (3,))],
)
def test_a_label_of_the_wrong_shape_is_refused(crystal, name, shape):
    with pytest.raises(DataError, match=f"{name}: shape"):
        check_structure(with_property(crystal, name, np.zeros(shape)))


@pytest.mark.parametrize("number", [-1, 0, 119])
def test_an_impossible_element_is_named(water, number):
    broken = dataclasses.replace(water, atomic_numbers=np.array([8, number, 1]))
    with pytest.raises(DataError, match=f"atom 1: atomic number {number}"):
        check_structure(broken)


def test_no_atoms(water):
    empty = dataclasses.replace(
        water, atomic_numbers=np.zeros(0, dtype=int), positions=np.zeros((0, 3)), properties={}
    )
    with pytest.raises(DataError, match="no atoms"):
        check_structure(empty)


@pytest.mark.parametrize(
    ("pbc", "cell", "message"),
    [
        ((1, 1, 1), np.zeros((3, 3)), "periodic along a, b, c with no cell"),
        ((0, 1, 0), np.diag([3.0, 0.0, 3.0]), "periodic along b with a cell vector of zero length"),
        ((1, 1, 1), [[1, 2, 3], [4, 5, 6], [5, 7, 9]], "along a, b, c with cell vectors in one pl"),
        ((1, 0, 1), [[1, 2, 3], [0, 0, 0], [-2, -4, -6]], "along a, c with cell vectors in one"),
    ],
)
def test_a_periodic_cell_without_volume_is_refused(crystal, pbc, cell, message):
    flat = dataclasses.replace(
        crystal, cell=np.array(cell, dtype=float), pbc=np.array(pbc, dtype=bool), place="a: frame 3"
    )
    with pytest.raises(
        DataError, match=f"a: frame 3: periodic {message.removeprefix('periodic ')}"
    ):
        check_structure(flat)


@pytest.mark.parametrize(
    ("pbc", "cell"),
    [
        ((0, 0, 0), np.zeros((3, 3))),
        ((0, 0, 0), np.ones((3, 3))),
        ((1, 1, 0), np.diag([3.0, 3.0, 0.0])),
        ((1, 0, 0), [[0, 0, 0.1], [0, 0, 1], [0, 0, 2]]),
        ((1, 1, 1), np.diag([3.0, 3.0, -3.0])),
        ((1, 1, 1), np.diag([1e-3, 1e3, 1.0])),
        ((1, 1, 1), [[10, 0, 0], [9.99, 0.1, 0], [0, 0, 5]]),
    ],
)
def test_molecules_slabs_left_handed_thin_and_sheared_cells_are_right(crystal, pbc, cell):
    check_structure(
        dataclasses.replace(
            crystal, cell=np.array(cell, dtype=float), pbc=np.array(pbc, dtype=bool)
        )
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_input_that_is_not_finite_is_named(water, bad):
    charged = dataclasses.replace(water, inputs={"total_charge": np.array(bad)})
    with pytest.raises(DataError, match=r"structure: total_charge is (nan|inf)"):
        check_structure(charged)
    spins = dataclasses.replace(water, inputs={"spins": np.array([1.0, bad, 0.0])})
    with pytest.raises(DataError, match=r"structure: spins of atom 1 is (nan|inf)"):
        check_structure(spins)


def test_the_weight_of_a_label_is_the_structures_times_its_own(water, crystal):
    assert crystal.label_weight("energy") == 1.5 * 2.0
    assert crystal.label_weight("stress") == 1.5 * 3.0
    assert water.label_weight("forces") == 1.0
    assert water.label_weight("stress") == 0.0
    nothing = dataclasses.replace(water, property_weights={"stress": 2.0})
    assert nothing.label_weight("stress") == 0.0


def test_config_types_have_weights(crystal):
    assert weighted_by_config_type(crystal, {"bulk": 4.0}).weight == 6.0
    assert weighted_by_config_type(crystal, {"bulk": 0.0}).weight == 0.0
    assert weighted_by_config_type(crystal, {"slab": 4.0}) is crystal
