from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from mace_jax.equivariance.irreps import SCALAR, VECTOR, Irrep, Irreps
from mace_jax.model.load import parameter_table
from mace_jax.model.readout import (
    LinearDipoleReadoutBlock,
    LinearReadoutBlock,
    NonLinearBiasReadoutBlock,
    NonLinearDipoleReadoutBlock,
    NonLinearReadoutBlock,
)

INPUTS = Irreps.parse("4x0e + 4x1o", "inputs")
HIDDEN, N_HEADS, N_NODE = 3, 2, 6
NODE_HEAD = jnp.asarray([0, 1, 0, 1, 1, 0])


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return {i: jnp.asarray(rng.normal(size=(N_NODE, i.dim, n))) for i, n in INPUTS.items()}


def block_of(kind, n_heads, **weights):
    options = {"dtype": "float64", "rng": np.random.default_rng(1)}
    if kind is LinearReadoutBlock:
        block = kind(INPUTS, n_heads, **options)
    else:
        block = kind(INPUTS, HIDDEN, "silu", n_heads, **options)
    state = nnx.state(block)
    for path, leaf in nnx.to_flat_state(state):
        name = "/".join(map(str, path))
        if not name.endswith("bias"):
            leaf[...] = weights.get(name, leaf[...])
        else:
            start = np.random.default_rng(2).normal(size=leaf.shape)
            leaf[...] = jnp.asarray(weights.get(name, start))
    nnx.update(block, state)
    return block


def of_head(name, array, head):
    """Return a head's part of a block's weights, in the normalisation of a block of one head."""
    own = slice(head * HIDDEN, (head + 1) * HIDDEN)
    one = slice(head, head + 1)
    root = N_HEADS**0.5
    return {
        "linear/weights/0e": lambda: array[:, one],
        "linear_1/weights/0e": lambda: array[:, own],
        "linear_mid/weights/0e": lambda: array[own, own] / root,
        "linear_mid/bias": lambda: array[own],
        "linear_2/weights/0e": lambda: array[own, one] / root,
        "linear_2/bias": lambda: array[one],
    }[name]()


@pytest.mark.parametrize(
    "kind", [LinearReadoutBlock, NonLinearReadoutBlock, NonLinearBiasReadoutBlock]
)
def test_heads_are_readouts_of_their_own(kind, features):
    block = block_of(kind, N_HEADS)
    found = block(features, NODE_HEAD)
    weights = parameter_table(nnx.state(block))
    for head in range(N_HEADS):
        own = {name: jnp.asarray(of_head(name, array, head)) for name, array in weights.items()}
        alone = block_of(kind, 1, **own)(features, jnp.zeros(N_NODE, int))
        assert_allclose(found[head == NODE_HEAD], alone[head == NODE_HEAD], rtol=1e-12)
        assert np.abs(found - alone)[head != NODE_HEAD].min() > 1e-3


@pytest.mark.parametrize(
    "kind", [LinearReadoutBlock, NonLinearReadoutBlock, NonLinearBiasReadoutBlock]
)
def test_energies_are_read_from_scalars(kind, features):
    block = block_of(kind, N_HEADS)
    scalars = {SCALAR: features[SCALAR]}
    assert_allclose(block(features, NODE_HEAD), block(scalars, NODE_HEAD), rtol=0)


@pytest.mark.parametrize("kind", [NonLinearReadoutBlock, NonLinearBiasReadoutBlock])
def test_features_without_scalars_leave_the_biases(kind, features):
    found = block_of(kind, N_HEADS)({VECTOR: features[VECTOR]}, NODE_HEAD)
    zeros = {SCALAR: jnp.zeros((N_NODE, 1, 4))}
    assert_allclose(found, block_of(kind, N_HEADS)(zeros, NODE_HEAD), rtol=0)


def test_bias_readout_in_numpy(features):
    block = block_of(NonLinearBiasReadoutBlock, 1)
    weights = parameter_table(nnx.state(block))

    def silu(x):
        return 1.6791767923989418 * x / (1 + np.exp(-x))

    x = silu(np.asarray(features[SCALAR])[:, 0] @ weights["linear_1/weights/0e"] / 2)
    x = silu(x @ weights["linear_mid/weights/0e"] / 3**0.5 + weights["linear_mid/bias"])
    x = x @ weights["linear_2/weights/0e"] / 3**0.5 + weights["linear_2/bias"]
    assert_allclose(block(features, jnp.zeros(N_NODE, int)), x[:, 0], rtol=1e-12)


OUTPUTS = Irreps.parse("2x0e + 1x1o + 1x2e", "outputs")


@pytest.mark.parametrize("hidden", ["2x0e + 2x1o", "2x1o", "3x0e"])
def test_dipole_readouts_turn_with_the_features(features, hidden):
    """Vectors have the components x, y, z."""
    matrix, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turned = {
        irrep: x if irrep == SCALAR else jnp.einsum("ab,nbc->nac", matrix, x)
        for irrep, x in features.items()
    }
    options = {"dtype": "float64", "rng": np.random.default_rng(1)}
    linear = LinearDipoleReadoutBlock(INPUTS, OUTPUTS, **options)
    non_linear = NonLinearDipoleReadoutBlock(
        INPUTS, Irreps.parse(hidden, "hidden"), "silu", OUTPUTS, **options
    )
    for block in (linear, non_linear):
        before, after = block(features), block(turned)
        assert Irrep(2, 1) not in before
        if VECTOR in before:
            assert_allclose(after[VECTOR], matrix @ before[VECTOR], atol=1e-12)
            assert before[VECTOR].shape == (N_NODE, 3, 1)
        if SCALAR in before:
            assert_allclose(after[SCALAR], before[SCALAR], atol=1e-12)
            assert before[SCALAR].shape == (N_NODE, 1, 2)
    assert set(linear(features)) == {SCALAR, VECTOR}
    assert set(non_linear(features)) == set(Irreps.parse(hidden, "hidden"))


def test_structures_are_read_by_the_head_they_name(network_of, molecule):
    """Heads share everything but the readouts' columns; both in one batch or alone."""
    network = network_of("embeddings")
    assert network.bundle.heads == ("Default", "other")
    structures = [molecule, replace(molecule, head="other")]
    together = network.evaluate(structures)
    for structure, found in zip(structures, together, strict=True):
        alone = network(structure)
        assert_allclose(found.energy, alone.energy, rtol=1e-12)
        assert_allclose(found.forces, alone.forces, atol=1e-12)
    assert abs(together[0].energy - together[1].energy) > 1e-2
    assert np.abs(together[0].forces - together[1].forces).max() > 1e-2
