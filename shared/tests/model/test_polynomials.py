"""Polynomials against plain sums over terms, which jax differentiates itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mace_jax.model.polynomials import Polynomial, Term, polynomials

N_NODE, CHANNELS, LENGTHS = 5, 2, (3, 2)
SPECIES = np.array([2, 0, 1, 2, 2])
CUBIC = (
    Term((4, 2, 0), 0),
    Term((2, 2, 2), 1, 0.5),
    Term((4, 4, 0), 2),
    Term((3,), 3, -2.0),
    Term((2, 0), 0),  # a coefficient may occur again
    Term((), 4),
)
SUMS = (Polynomial(CUBIC), Polynomial([Term((1, 1), 5)]), Polynomial([]))


@pytest.fixture
def arrays(float64):
    rng = np.random.default_rng(0)
    operands = tuple(jnp.asarray(rng.normal(size=(N_NODE, k, CHANNELS))) for k in LENGTHS)
    return operands, jnp.asarray(rng.normal(size=(6, 3, CHANNELS))), jnp.asarray(SPECIES)


def found(operands, coefficients, species):
    return polynomials(SUMS, operands, coefficients, species)


def expected(operands, coefficients, species):
    x = jnp.concatenate(operands, axis=1)
    of_node = coefficients[:, species]
    sums = [
        sum(t.factor * of_node[t.coefficient] * x[:, list(t.rows)].prod(axis=1) for t in terms)
        + jnp.zeros((N_NODE, CHANNELS))
        for terms in (CUBIC, [Term((1, 1), 5)], [])
    ]
    return jnp.stack(sums, axis=1)


def derivative(function, order, arrays):
    """Return the gradient by operands of ``order - 1`` derivatives along a direction."""
    operands, *rest = arrays
    rng = np.random.default_rng(1)
    weights, *directions = (
        jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), like)
        for like in (function(*arrays), *[operands] * (order - 1))
    )

    def scalar(operands):
        return (weights * jnp.sin(function(operands, *rest))).sum()

    def along(f, direction):
        def slope(operands):
            pairs = zip(jax.grad(f)(operands), direction, strict=True)
            return sum((gradient * d).sum() for gradient, d in pairs)

        return slope

    for direction in directions:
        scalar = along(scalar, direction)
    return jax.jit(jax.grad(scalar))(operands)


def test_values(arrays):
    values = found(*arrays)
    assert np.abs(values[:, :2]).min() > 1e-3
    assert_allclose(values, expected(*arrays), rtol=1e-12)
    assert_array_equal(values[:, 2], 0)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives(arrays, order):
    ours, plain = (derivative(function, order, arrays) for function in (found, expected))
    for a, b in zip(ours, plain, strict=True):
        assert np.abs(b).max() > 0.1
        assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


def test_coefficients_are_constants(arrays):
    operands, coefficients, species = arrays
    gradient = jax.grad(lambda c: found(operands, c, species).sum())(coefficients)
    assert_array_equal(gradient, np.zeros_like(coefficients))


def test_float32_stays_float32(arrays):
    operands, coefficients, species = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, arrays
    )
    values = found(operands, coefficients, species)
    assert values.dtype == jnp.float32
    assert_allclose(values, expected(*arrays), atol=1e-5)
    gradients = jax.grad(lambda x: found(x, coefficients, species).sum())(operands)
    assert {x.dtype for x in gradients} == {np.dtype(np.float32)}
