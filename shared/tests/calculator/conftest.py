"""Small random networks as files, and atoms for them."""

import jax
import numpy as np
import pytest
from ase import Atoms

from mace_jax.architecture import predicts_energy
from mace_jax.artifacts.model_bundle import ModelBundle, write_model_bundle
from mace_jax.model.load import build_model, model_parameters

SCALE = 10.0  # eV; makes the forces of random weights count


@pytest.fixture(scope="module", autouse=True)
def _fast(fast_compilation: None) -> None:
    """All of these tests compile."""


def _random_bundle(config, dtype="float64", heads=("Default",), seed=1):
    scale, shift = [SCALE] * len(heads), [0.1] * len(heads)
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(seed)
        model = build_model(config, scale=scale, shift=shift, dtype=dtype, rng=rng)
        parameters = model_parameters(model)
    with_energy = heads if predicts_energy(config) else ()
    energies = {1: -1.6, 6: -2.4, 8: -4.8}
    return ModelBundle(
        config=config,
        dtype=dtype,
        heads=heads,
        atomic_energies=dict.fromkeys(with_energy, energies),
        scale=dict.fromkeys(with_energy, SCALE),
        shift=dict.fromkeys(with_energy, 0.1),
        parameters=parameters,
    )


@pytest.fixture(scope="session")
def random_bundle():
    """Return a function from a configuration to a bundle."""
    return _random_bundle


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Return a function that writes a bundle and returns its path."""
    provenance = {"tool": "t", "tool_version": "0", "command": [], "seed": 3, "inputs": []}

    def to_file(bundle):
        path = tmp_path_factory.mktemp("bundle") / "model.msgpack"
        write_model_bundle(path, bundle, provenance)
        return path

    return to_file


@pytest.fixture
def molecule():
    positions = [
        [0.047, -0.012, 0.021],
        [1.187, 0.071, -0.055],
        [-0.561, 0.923, 0.118],
        [-0.532, -0.951, -0.087],
        [2.113, 1.804, 0.766],
    ]
    return Atoms("COHHO", positions)


@pytest.fixture
def crystal():
    """Triclinic; atoms also see their own images."""
    cell = np.array([[3.1, 0.2, -0.1], [1.0, 3.3, 0.3], [-0.7, 0.9, 3.7]])
    fractions = [[0.05, 0.11, 0.08], [0.46, 0.57, 0.31], [0.27, 0.18, 0.72]]
    return Atoms("COH", scaled_positions=fractions, cell=cell, pbc=True)
