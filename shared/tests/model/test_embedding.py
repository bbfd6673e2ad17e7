"""Inputs beside atoms and positions."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.errors import DataError
from mace_jax.model.embedding import GenericJointEmbedding

SPECS = (
    EmbeddingSpec("charge", "categorical", "graph", 2, num_classes=4, offset=1),
    EmbeddingSpec("field", "continuous", "graph", 3, in_dim=2),
    EmbeddingSpec("spin", "continuous", "atom", 2, use_bias=False),
)


def silu(x):
    return x / (1 + np.exp(-x))


def test_each_input_is_embedded_joined_and_projected():
    block = GenericJointEmbedding(SPECS, 4, dtype="float64", rng=np.random.default_rng(0))
    state = nnx.to_flat_state(nnx.state(block))
    weights = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in state}
    rng = np.random.default_rng(1)
    charge, field, spin = (
        np.array([[2.0], [-1.0]]),
        rng.normal(size=(2, 2)),
        rng.normal(size=(5, 1)),
    )
    node_graph = np.array([0, 0, 1, 1, 1])
    inputs = {"charge": charge, "field": field, "spin": spin}
    found = block({name: jnp.asarray(x) for name, x in inputs.items()}, jnp.asarray(node_graph))

    def continuous(name, x):
        for layer in (0, 1):
            x = x @ weights[f"embedders/{name}/layers/{layer}/weight"]
            x = x + weights.get(f"embedders/{name}/layers/{layer}/bias", 0)
            x = silu(x) if layer == 0 else x
        return x

    joined = np.concatenate(
        [
            weights["embedders/charge/weight"][[3, 0]][node_graph],
            continuous("field", field)[node_graph],
            continuous("spin", spin),
        ],
        axis=1,
    )
    assert_allclose(found[:, 0], silu(joined @ weights["project/weight"]), rtol=1e-12)
    assert "embedders/field/layers/1/bias" in weights
    assert "embedders/spin/layers/0/bias" not in weights


@pytest.fixture
def embeddings(network_of):
    return network_of("embeddings")


def with_input(structure, **values):
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return replace(structure, inputs={**structure.inputs, **arrays})


CHANGES = [
    {"total_charge": 2.0},
    {"external_field": [0.7, 0.4]},
    {"spins": [0.5, -1.0, 0.25, 0.0, 2.5]},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_input_changes_energy_and_forces(embeddings, molecule, change):
    before, after = embeddings.evaluate([molecule, with_input(molecule, **change)])
    assert abs(after.energy - before.energy) > 1e-3
    assert np.abs(after.forces - before.forces).max() > 1e-4


def test_graphs_keep_their_own_inputs_in_a_batch(embeddings, molecule, crystal):
    structures = [
        with_input(molecule, total_charge=2.0),
        with_input(crystal, external_field=[1.0, 1.0]),
        with_input(crystal, total_charge=-2.0),
    ]
    for together, structure in zip(embeddings.evaluate(structures), structures, strict=True):
        alone = embeddings(structure)
        assert_allclose(together.energy, alone.energy, rtol=1e-12)
        assert_allclose(together.forces, alone.forces, atol=1e-12)


def test_an_input_of_an_atom_is_felt_near_it_only(embeddings, molecule, take):
    joined = take(molecule, [0, 1, 2, 3, 4, 0])
    joined.positions[-1] = [40.0, 40.0, 40.0]
    spins = joined.inputs["spins"]
    other = with_input(joined, spins=np.append(spins[:-1], spins[-1] + 1))
    before, after = embeddings.evaluate([joined, other])
    assert_allclose(after.node_energy[:-1], before.node_energy[:-1], rtol=1e-12)
    assert abs(after.node_energy[-1] - before.node_energy[-1]) > 1e-3


def test_a_charge_that_the_model_never_saw_is_refused(embeddings, molecule):
    with pytest.raises(DataError, match=r"total_charge 3, expected a whole number from -2 to 2"):
        embeddings(with_input(molecule, total_charge=3.0))


def test_a_missing_input_is_named_by_its_key(embeddings, molecule):
    inputs = {name: x for name, x in molecule.inputs.items() if name != "external_field"}
    with pytest.raises(DataError, match="has no external_field, which the model needs"):
        embeddings(replace(molecule, inputs=inputs, place="frame 7"))


def test_the_embedding_readout_is_not_scaled(embeddings, lone_carbon, make_network):
    """mace-torch adds it after scale and shift; here by its own weights in NumPy."""
    bundle = embeddings.bundle
    weights = dict(bundle.parameters)
    name = "embedding_readout/linear/weights/0e"
    head = bundle.heads.index("Default")
    silent = {**weights, name: np.zeros_like(weights[name])}
    without = make_network(replace(bundle, parameters=silent))(lone_carbon)
    species = bundle.config.atomic_numbers.index(6)
    x = weights["node_embedding/weight"][species] / 3**0.5
    charge = weights["joint_embedding/embedders/total_charge/weight"][-1 + 2]

    def continuous(name, x):
        root = f"joint_embedding/embedders/{name}/layers"
        for layer in (0, 1):
            x = x @ weights[f"{root}/{layer}/weight"] + weights.get(f"{root}/{layer}/bias", 0)
            x = silu(x) if layer == 0 else x
        return x

    field = continuous("field", lone_carbon.inputs["external_field"])
    spin = continuous("spins", lone_carbon.inputs["spins"])
    joined = np.concatenate([charge, field, spin])
    x = x + silu(joined @ weights["joint_embedding/project/weight"])
    expected = (x @ weights[name])[head] / len(x) ** 0.5
    assert abs(expected) > 0.01
    assert embeddings(lone_carbon).energy - without.energy == pytest.approx(expected, rel=1e-9)
