"""Padding and batching change nothing; tolerance 1e-12, the order of float64 sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.model.energy_forces import edge_vectors, energy_and_forces
from mace_jax.model.load import graph_builder, split_trainable

CAPS = Caps.enclosing(n_node=16, n_edge=256, n_graph=4)
LARGE = Caps.enclosing(n_node=70, n_edge=900, n_graph=9)


def test_more_padding_changes_nothing(vectors_network, molecule, crystal, lone_carbon):
    structures = [molecule, crystal, lone_carbon]
    pairs = zip(
        vectors_network.evaluate(structures),
        vectors_network.evaluate(structures, LARGE),
        strict=True,
    )
    for small, large in pairs:
        assert_allclose(large.energy, small.energy, rtol=1e-12)
        assert_allclose(large.forces, small.forces, atol=1e-12)
        assert_allclose(large.stress, small.stress, atol=1e-12)


def test_a_batch_equals_one_by_one(any_network, molecule, crystal, lone_carbon):
    structures = [molecule, lone_carbon, crystal]
    for together, structure in zip(any_network.evaluate(structures), structures, strict=True):
        alone = any_network(structure)
        assert_allclose(together.energy, alone.energy, rtol=1e-12)
        assert_allclose(together.forces, alone.forces, atol=1e-12)
        assert_allclose(together.stress, alone.stress, atol=1e-12)


def test_padding_slots_are_zero(any_network, molecule):
    batch = any_network.batch([molecule])
    assert (~batch.node_mask).sum() > 1
    assert (~batch.edge_mask).sum() > 1
    assert (~batch.graph_mask).sum() > 1
    out = any_network.evaluate_batch(batch)
    assert not out["energy"][~batch.graph_mask].any()
    assert not out["node_energy"][~batch.node_mask].any()
    assert not out["forces"][~batch.node_mask].any()
    assert not out["stress"][~batch.graph_mask].any()
    assert not out["virials"][~batch.graph_mask].any()


def test_padding_edges_between_real_nodes_would_change_nothing(any_network, molecule):
    """So nothing depends on where they end."""
    batch = any_network.batch([molecule])
    moved = batch._replace(
        senders=np.where(batch.edge_mask, batch.senders, 1),
        receivers=np.where(batch.edge_mask, batch.receivers, len(molecule) - 1),
    )
    assert (np.diff(moved.receivers) >= 0).all()
    before, after = (jax.device_get(any_network.evaluate_batch(b)) for b in (batch, moved))
    for name, value in before.items():
        assert_allclose(after[name], value, rtol=0, atol=1e-12 * np.abs(value).max(), err_msg=name)


def test_edges_beyond_the_cutoff_change_nothing(any_network, molecule):
    builder = graph_builder(any_network.bundle)
    near, far = builder.build(molecule), builder._replace(r_max=9.0).build(molecule)
    assert len(far.edges.senders) == 20 > len(near.edges.senders)
    before, after = (
        jax.device_get(any_network.evaluate_batch(pad_batch([graph], CAPS, "float64")))
        for graph in (near, far)
    )
    for name, value in before.items():
        assert_allclose(after[name], value, rtol=0, atol=1e-12 * np.abs(value).max(), err_msg=name)


def test_padding_edges_are_beyond_the_cutoff(vectors_network, crystal):
    batch = vectors_network.batch([crystal])
    r_max = vectors_network.bundle.config.r_max
    lengths = np.linalg.norm(edge_vectors(batch, r_max), axis=1)
    assert (lengths[batch.edge_mask] < r_max).all()
    assert (lengths[~batch.edge_mask] > r_max).all()


@pytest.fixture
def force_loss_gradient(scalars_network, compile_fast):
    """Return the gradient of a loss on energies, forces and stress by the parameters."""
    network, parameters = split_trainable(scalars_network.model)

    def loss(parameters, batch):
        out = energy_and_forces(network(parameters), batch)
        return (
            jnp.square(out.energy).sum()
            + jnp.square(out.forces).sum()
            + jnp.square(out.stress).sum()
        )

    gradient = jax.jit(jax.grad(loss), compiler_options=compile_fast)
    return lambda batch: jax.tree.leaves(jax.device_get(gradient(parameters, batch)))


def test_parameter_gradients_are_finite_and_padding_changes_nothing(
    scalars_network, force_loss_gradient, crystal, lone_carbon
):
    structures = [crystal, lone_carbon]
    small = force_loss_gradient(scalars_network.batch(structures))
    large = force_loss_gradient(scalars_network.batch(structures, LARGE))
    for a, b in zip(small, large, strict=True):
        assert np.isfinite(a).all()
        assert_allclose(b, a, rtol=1e-9, atol=1e-11 * np.abs(a).max())
    assert min(np.abs(a).max() for a in small) > 0  # every parameter matters


@pytest.mark.parametrize(
    "name",
    ["two_layers_scalars", "density", "attention_then_nonlinear", "AtomicDielectricMACE"],
)
def test_float32_agrees_with_float64(network_of, make_network, molecule, crystal, name):
    """To 1e-4 of the largest value: some hundred roundings of 1e-7."""
    double = network_of(name)
    expected = double.evaluate_batch(double.batch([molecule, crystal]))
    with jax.enable_x64(False):
        single = make_network(double.bundle.astype("float32"))
        found = single.evaluate_batch(single.batch([molecule, crystal]))
    for quantity, value in found.items():
        assert value.dtype == np.float32
        atol = 1e-4 * np.abs(expected[quantity]).max()
        assert_allclose(value, expected[quantity], rtol=0, atol=atol, err_msg=quantity)
