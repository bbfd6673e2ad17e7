"""An atom without neighbours.

As in mace-torch, its energy is E0 (plus the shift) if the first block is
RealAgnosticInteractionBlock. RealAgnosticResidualInteractionBlock lets the embedding of the element
pass to the readouts, which adds a constant of the element.
"""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose


def silu(x):
    return 1.6791767923989418 * x / (1 + np.exp(-x))


def tanh(x):
    return 1.5937334472592695 * np.tanh(x)


def energy_of_residuals(bundle, species: int) -> float:
    """Embedding, residual of each layer, readouts, scale and shift; in NumPy."""
    weights, config = bundle.parameters, bundle.config
    x = weights["node_embedding/weight"][species] / len(config.atomic_numbers) ** 0.5
    if config.interaction_cls_first == "RealAgnosticInteractionBlock":
        return bundle.shift["Default"]
    energy = 0.0
    for layer in range(config.num_interactions):
        skip = weights[f"interactions/{layer}/skip_tp/weights/0e"][:, species]
        x = x @ skip / (len(x) * len(config.atomic_numbers)) ** 0.5
        root = f"readouts/{layer}"
        if f"{root}/linear/weights/0e" in weights:
            energy += (x @ weights[f"{root}/linear/weights/0e"]).item() / len(x) ** 0.5
        else:
            hidden = x @ weights[f"{root}/linear_1/weights/0e"] / len(x) ** 0.5
            hidden = {"silu": silu, "tanh": tanh}[config.gate](hidden)
            energy += (hidden @ weights[f"{root}/linear_2/weights/0e"]).item() / len(hidden) ** 0.5
    return bundle.scale["Default"] * energy + bundle.shift["Default"]


@pytest.mark.parametrize(("number", "species"), [(1, 0), (6, 1), (8, 2)])
def test_energy_is_that_of_the_residuals_alone(plain_network, lone_carbon, number, species):
    atom = replace(lone_carbon, atomic_numbers=np.array([number]))
    found = plain_network(atom)
    expected = energy_of_residuals(plain_network.bundle, species)
    assert_allclose(found.energy, expected, rtol=1e-12)
    assert not found.forces.any()
    assert not found.stress.any()
    residual = "Residual" in plain_network.bundle.config.interaction_cls_first
    assert residual == (abs(expected - plain_network.bundle.shift["Default"]) > 1e-3)


@pytest.mark.parametrize(
    ("name", "residual"), [("density", False), ("attention_then_nonlinear", True)]
)
def test_without_a_residual_in_the_first_block_all_elements_are_alike(
    network_of, lone_carbon, name, residual
):
    atoms = [replace(lone_carbon, atomic_numbers=np.array([number])) for number in (1, 6, 8)]
    energies = [found.energy for found in network_of(name).evaluate(atoms)]
    assert (np.ptp(energies) > 1e-3) == residual
    assert abs(energies[0] - network_of(name).bundle.shift["Default"]) > 1e-3  # biases, if nothing


def test_far_atoms_add_up(any_network, molecule, take):
    joined = take(molecule, [0, 1, 2, 3, 4, 0])
    joined.positions[-1] = [40.0, 40.0, 40.0]
    parts = any_network.evaluate([molecule, take(molecule, [0])])
    found = any_network(joined)
    assert_allclose(found.energy, parts[0].energy + parts[1].energy, rtol=1e-12)
    assert_allclose(found.forces[:-1], parts[0].forces, atol=1e-12)
    assert not found.forces[-1].any()
