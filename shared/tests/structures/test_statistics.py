import dataclasses

import numpy as np
import pytest

from mace_jax.errors import DataError
from mace_jax.structures.statistics import compute_statistics
from mace_jax.structures.structure import Structure


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
    assert (found.atomic_numbers, found.atomic_energies, found.r_max) == ((1,), {1: -1.0}, 1.5)


def test_missing_labels_are_left_out_and_not_taken_as_zero():
    full = chain(2, energy=-4.0, forces=[[1, 0, 0], [-1, 0, 0]])
    alone = compute_statistics([full], (1,), {1: -1.0}, 1.5)
    mixed = compute_statistics([full, chain(2), chain(2)], (1,), {1: -1.0}, 1.5)
    assert (mixed.mean, mixed.std) == (alone.mean, alone.std)


def test_without_labels_nothing_is_scaled_or_shifted():
    found = compute_statistics([chain(2)], (1,), {1: -1.0}, 1.5)
    assert (found.mean, found.std) == (0.0, 1.0)


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
