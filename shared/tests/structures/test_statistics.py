import dataclasses

import numpy as np
import pytest

from mace_jax.errors import DataError, IncompatibleError
from mace_jax.structures.statistics import HeadStatistics, Statistics
from mace_jax.structures.structure import Structure
from mace_jax.structures.training_sums import compute_statistics


def chain(n, **properties):
    """``n`` hydrogen atoms 1 Å apart on a line."""
    positions = np.zeros((n, 3))
    positions[:, 0] = np.arange(n)
    return Structure(
        np.ones(n, dtype=int),
        positions,
        np.zeros((3, 3)),
        np.zeros(3, dtype=bool),
        {name: np.array(value, dtype=float) for name, value in properties.items()},
    )


def test_by_hand():
    data = [
        chain(2, energy=-4.0, forces=[[1, 0, 0], [-1, 0, 0]]),
        chain(3, energy=-9.0, forces=[[2, 0, 0], [0, 0, 0], [-2, 0, 0]]),
    ]
    found = compute_statistics(data, (1,), {1: -1.0}, 1.5)
    assert found.avg_num_neighbors == pytest.approx((1 + 1 + 1 + 2 + 1) / 5)
    assert found.mean == pytest.approx((-2 / 2 + -6 / 3) / 2)
    assert found.std == pytest.approx(np.sqrt((1 + 1 + 4 + 4) / 15))
    assert found.energy_std == pytest.approx(np.std([-2 / 2, -6 / 3], ddof=1))
    assert (found.atomic_numbers, found.atomic_energies, found.r_max) == ((1,), {1: -1.0}, 1.5)


def test_missing_labels_are_left_out_and_not_taken_as_zero():
    full = chain(2, energy=-4.0, forces=[[1, 0, 0], [-1, 0, 0]])
    alone = compute_statistics([full], (1,), {1: -1.0}, 1.5)
    mixed = compute_statistics([full, chain(2), chain(2)], (1,), {1: -1.0}, 1.5)
    assert (mixed.mean, mixed.std) == (alone.mean, alone.std)


def test_without_labels_nothing_is_scaled_or_shifted():
    found = compute_statistics([chain(2)], (1,), {1: -1.0}, 1.5)
    assert (found.mean, found.std, found.energy_std) == (0.0, 1.0, None)


def test_forces_that_are_all_zero_scale_nothing():
    found = compute_statistics([chain(2, forces=np.zeros((2, 3)))], (1,), {1: -1.0}, 1.5)
    assert found.std == 1.0


def test_atoms_without_neighbours_do_not_count_as_receivers():
    lonely = dataclasses.replace(chain(3), positions=np.array([[0, 0, 0], [1, 0, 0], [50, 0, 0.0]]))
    assert compute_statistics([lonely], (1,), {1: 0.0}, 1.5).avg_num_neighbors == 1.0


def test_no_edges_at_all_is_an_error():
    with pytest.raises(DataError, match=r"no two atoms are closer than r_max 0\.5 Å"):
        compute_statistics([chain(4)], (1,), {1: 0.0}, 0.5)


def test_periodic_images_are_neighbours(crystal):
    found = compute_statistics([crystal], (6, 14), {6: 0.0, 14: 0.0}, 4.0)
    assert found.avg_num_neighbors > 10
    assert found.mean == pytest.approx(-9.5 / 2)


HEAD = HeadStatistics({1: -1.0}, mean=-2.0, std=3.0, energy_std=0.5)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ("std_scaling", (0.5, -2.0)),
        ("rms_forces_scaling", (3.0, -2.0)),
        ("no_scaling", (1.0, 0.0)),
    ],
)
def test_scale_and_shift_have_the_names_of_mace_torch(scaling, expected):
    assert HEAD.scale_and_shift(scaling) == expected


def test_a_spread_that_is_not_known_cannot_scale_and_none_at_all_does_not():
    unknown = dataclasses.replace(HEAD, energy_std=None)
    with pytest.raises(IncompatibleError, match="std_scaling needs the standard deviation"):
        unknown.scale_and_shift("std_scaling")
    assert dataclasses.replace(HEAD, energy_std=0.0).scale_and_shift("std_scaling")[0] == 1.0


def test_statistics_of_a_head():
    known = Statistics((1,), {1: -1.0}, 4.0, -1.0, 2.0, 5.0, heads={"pbe": HEAD})
    assert known.of_head("pbe") == HEAD
    with pytest.raises(IncompatibleError, match=r"head 'scan', expected one of \['pbe'\]"):
        known.of_head("scan")
    without = dataclasses.replace(known, heads={})
    assert without.of_head("scan") == HeadStatistics({1: -1.0}, -1.0, 2.0, None)
