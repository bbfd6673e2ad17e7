"""What is computed apart is what would be computed in place."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.model.fusion_boundary import computed_apart


def plain(power, arrays):
    x, y = arrays
    return x**power * y + jnp.sin(y)


apart = computed_apart(plain)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def power_of(power, arrays):
    return apart(power, arrays)


def forward(power, arrays):
    return power_of(power, arrays), arrays


def backward(power, arrays, cotangent):
    x, y = arrays
    by_x = power * power_of(power - 1, (x, y)) - power * jnp.sin(y)
    by_y = x**power + jnp.cos(y)
    return ((cotangent * by_x, cotangent * by_y),)


power_of.defvjp(forward, backward)


@pytest.fixture
def arrays(float64):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(4, 3))) for _ in range(2))


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_result_is_the_same(arrays, power):
    expected = plain(power, arrays)
    assert_allclose(apart(power, arrays), expected, rtol=1e-14)
    assert_allclose(jax.jit(partial(apart, power))(arrays), expected, rtol=1e-14)
    assert_allclose(jax.vmap(partial(apart, power))(arrays), expected, rtol=1e-14)
    assert_allclose(jax.jit(jax.vmap(partial(apart, power)))(arrays), expected, rtol=1e-14)


def test_shapes_and_dtypes_may_differ_from_call_to_call(arrays):
    for dtype, length in ((jnp.float32, 4), (jnp.float64, 2), (jnp.float64, 4)):
        some = tuple(x[:length].astype(dtype) for x in arrays)
        found = apart(2, some)
        assert (found.dtype, found.shape) == (dtype, (length, 3))
        assert_allclose(found, plain(2, some), rtol=1e-6)


def test_first_and_second_derivatives_through_a_rule_of_its_own(arrays):
    def slope(function):
        def first(arrays):
            return sum(g.sum() for g in jax.grad(lambda a: function(3, a).sum())(arrays))

        return jax.jit(jax.grad(first))(arrays), jax.grad(lambda a: function(3, a).sum())(arrays)

    for found, expected in zip(slope(power_of), slope(plain), strict=True):
        for a, b in zip(found, expected, strict=True):
            assert np.abs(b).max() > 0.1
            assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the boundary is for XLA's CPU compiler")
def test_on_cpu_the_call_is_kept_in_the_compiled_program(arrays):
    def twice(function):
        return jax.jit(lambda a: function(2, a)[0] + function(2, a)[1:])

    assert "inlineable" in twice(apart).lower(arrays).as_text()
    assert " call(" in twice(apart).lower(arrays).compile().as_text()
    assert " call(" not in twice(plain).lower(arrays).compile().as_text()
