"""Structures that the library's tests share, built in code."""

import numpy as np
import pytest

from mace_jax.structures.structure import Structure


@pytest.fixture
def provenance():
    return {"tool": "mace-jax-tests", "tool_version": "0", "command": [], "seed": 3, "inputs": []}


@pytest.fixture
def water():
    """A bent molecule with energy and forces, no cell and no stress."""
    structure = Structure(
        atomic_numbers=np.array([8, 1, 1]),
        positions=np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        properties={
            "energy": np.array(-14.25),
            "forces": np.array([[0.1, -0.2, 0.0], [0.3, 0.0, 0.0], [-0.4, 0.2, 0.0]]),
        },
    )
    assert not structure.pbc.any()
    assert "stress" not in structure.properties
    return structure


@pytest.fixture
def crystal():
    """A tilted, periodic cell of two atoms with all labels and weights of its own."""
    structure = Structure(
        atomic_numbers=np.array([6, 14]),
        positions=np.array([[0.0, 0.0, 0.0], [1.1, 1.0, 1.2]]),
        cell=np.array([[3.1, 0.0, 0.2], [0.4, 3.3, 0.0], [0.0, 0.5, 2.9]]),
        pbc=np.ones(3, dtype=bool),
        properties={
            "energy": np.array(-9.5),
            "forces": np.array([[0.5, 0.0, -0.25], [-0.5, 0.0, 0.25]]),
            "stress": np.array([[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]]) * 1e-3,
        },
        property_weights={"energy": 2.0, "forces": 0.5, "stress": 3.0},
        weight=1.5,
        config_type="bulk",
        head="pbe",
    )
    stress = structure.properties["stress"]
    assert len(np.unique(stress)) == 6
    assert abs(np.linalg.det(structure.cell)) > 1
    return structure
