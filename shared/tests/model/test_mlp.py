import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from mace_jax.model.mlp import FullyConnectedNet, LayerNorm, RadialMLP


def silu(x):
    return x / (1 + np.exp(-x))


def numbers(module):
    """Replace every parameter by a random one; return them by name."""
    rng = np.random.default_rng(0)
    state = nnx.state(module, nnx.Param)
    found = {}
    for path, leaf in nnx.to_flat_state(state):
        found["/".join(map(str, path))] = value = rng.normal(size=leaf.shape)
        leaf[...] = jnp.asarray(value)
    nnx.update(module, state)
    return found


def test_fully_connected_net():
    """Without biases, each layer normalised by its inputs and the second moment of silu."""
    net = FullyConnectedNet((3, 5, 2), dtype="float64", rng=np.random.default_rng(0))
    weights = numbers(net)
    x = np.random.default_rng(1).normal(size=(4, 3))
    hidden = 1.6791767923989418 * silu(x @ weights["layers/0"] / 3**0.5)
    assert_allclose(net(jnp.asarray(x)), hidden @ weights["layers/1"] / 5**0.5, rtol=1e-12)
    assert not net(jnp.zeros((1, 3))).any()


def test_layer_norm():
    norm = LayerNorm(6, dtype="float64")
    x = 3 + 2 * np.random.default_rng(1).normal(size=(4, 6))
    plain = np.asarray(norm(jnp.asarray(x)))
    assert_allclose(plain.mean(axis=1), 0, atol=1e-12)
    assert_allclose(plain.std(axis=1), 1, rtol=1e-4)
    weights = numbers(norm)
    assert_allclose(norm(jnp.asarray(x)), weights["scale"] * plain + weights["bias"], rtol=1e-12)


def test_layer_norm_of_equal_numbers_is_finite():
    assert not LayerNorm(6, dtype="float64")(jnp.full((1, 6), 5.0)).any()


def test_radial_mlp():
    mlp = RadialMLP((3, 5, 4, 2), dtype="float64", rng=np.random.default_rng(0))
    weights = numbers(mlp)
    hidden = x = np.random.default_rng(1).normal(size=(4, 3))
    for layer in (0, 1):
        hidden = hidden @ weights[f"layers/{layer}/weight"] + weights[f"layers/{layer}/bias"]
        variance = hidden.var(axis=1, keepdims=True)
        hidden = (hidden - hidden.mean(axis=1, keepdims=True)) / np.sqrt(variance + 1e-5)
        hidden = silu(hidden * weights[f"norms/{layer}/scale"] + weights[f"norms/{layer}/bias"])
    expected = hidden @ weights["layers/2/weight"] + weights["layers/2/bias"]
    assert_allclose(mlp(jnp.asarray(x)), expected, rtol=1e-10)


@pytest.mark.parametrize("net", [FullyConnectedNet, RadialMLP])
def test_initial_outputs_are_of_the_size_of_inputs(net):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 64)))
    out = net((64, 64, 64, 64), dtype="float64", rng=np.random.default_rng(0))(x)
    assert 0.1 < float(jnp.std(out)) < 3
