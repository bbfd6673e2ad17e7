"""Ordinary structures, to plant faults in."""

import numpy as np
import pytest

from mace_jax.structures.structure import Structure

E0 = {1: -13.6, 6: -1029.7, 8: -2041.9}


@pytest.fixture
def make():
    """Return a maker of molecules, no two alike: atoms on a grid, forces that sum to zero."""

    def make(numbers, seed=0, binding=None, **options):
        rng = np.random.default_rng(seed)
        n = len(numbers)
        grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)[:n]
        forces = rng.normal(0, 1, (n, 3))
        binding = 4.0 + rng.normal(0, 0.05) if binding is None else binding
        energy = sum(E0[int(z)] for z in numbers) - binding * n
        return Structure(
            np.array(numbers),
            1.6 * grid + rng.normal(0, 0.02, (n, 3)),
            np.zeros((3, 3)),
            np.zeros(3, bool),
            {"energy": np.array(energy), "forces": forces - forces.mean(axis=0)},
            **{"place": f"train.xyz: frame {seed}", **options},
        )

    return make


@pytest.fixture
def ordinary(make):
    """Forty molecules of several compositions in which nothing is wrong."""
    rng = np.random.default_rng(7)
    return [make(rng.choice([1, 6, 8], 3 + seed % 9), seed) for seed in range(40)]
