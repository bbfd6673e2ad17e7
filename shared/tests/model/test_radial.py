import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.model.activation import normalized_activation
from mace_jax.model.mlp import FullyConnectedNet
from mace_jax.model.radial import BesselBasis, polynomial_cutoff

R_MAX = 4.5


def test_bessel_basis():
    r = np.array([0.3, 1.7, 4.4])
    expected = [
        [np.sqrt(2 / R_MAX) * np.sin(n * np.pi * x / R_MAX) / x for n in range(1, 6)] for x in r
    ]
    basis = BesselBasis(R_MAX, 5, dtype="float64")
    assert_allclose(basis(jnp.asarray(r)), expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [3, 5, 6])
def test_envelope_values(p, dtype):
    lengths = jnp.asarray([0.0, R_MAX / 2, R_MAX, R_MAX + 1e-3, 10 * R_MAX], dtype)
    found = polynomial_cutoff(lengths, R_MAX, p)
    x = 0.5
    half = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
    half -= p * (p + 1) / 2 * x ** (p + 2)
    assert found.dtype == dtype
    assert_allclose(found[:2], [1, half], rtol=1e-6)
    assert not found[2:].any()


@pytest.mark.parametrize("p", [3, 5, 6])
def test_envelope_has_two_vanishing_derivatives(p):
    def envelope(r):
        return polynomial_cutoff(r[None], R_MAX, p)[0]

    first, second = jax.grad(envelope), jax.grad(jax.grad(envelope))
    for r in jnp.asarray([R_MAX * (1 - 1e-9), R_MAX, R_MAX * (1 + 1e-9)]):
        assert_allclose([envelope(r), first(r), second(r)], 0, atol=1e-6)
    assert abs(second(jnp.asarray(0.9 * R_MAX))) > 0.1


@pytest.mark.parametrize("name", ["silu", "tanh", "abs"])
def test_activations_keep_the_second_moment(name):
    """To 0.4 %, because e3nn's constants are a Monte Carlo estimate."""
    z = np.linspace(-10, 10, 20001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    values = np.asarray(normalized_activation(name)(jnp.asarray(z)))
    assert np.trapezoid(density * values**2, z) == pytest.approx(1, rel=4e-3)


def test_mlp():
    mlp = FullyConnectedNet((3, 5, 2), dtype="float64", rng=np.random.default_rng(0))
    first, last = (np.asarray(weight[...]) for weight in mlp.layers)
    x = np.random.default_rng(0).normal(size=(4, 3))
    hidden = x @ first / 3**0.5
    hidden = 1.6791767923989418 * hidden / (1 + np.exp(-hidden))
    assert_allclose(mlp(jnp.asarray(x)), hidden @ last / 5**0.5, rtol=1e-12)
