"""Products in rows against plain einsum, whose derivatives jax finds itself."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.model.matrix_products import products_in_rows

LENGTHS = {"r": 4, "x": 3, "c": 2, "u": 5}
EVERY_ORDER = [
    f"{a},{b}->{result}"
    for a in ("rxc", "rcx")
    for b in ("rxu", "rux")
    for result in ("rcu", "ruc")
]
# operands along which a gradient by both is differentiated once more: up to the third derivative
ALONG = ["", "a", "b", "aa", "ab", "bb"]


def operands(subscripts):
    rng = np.random.default_rng(0)
    letters = subscripts.split("->")[0].split(",")
    return [jnp.asarray(rng.normal(size=[LENGTHS[x] for x in each])) for each in letters]


def some(like):
    return jnp.cos(jnp.arange(like.size)).reshape(like.shape)


def gradient(product, subscripts, along):
    """Return the gradient by both operands of slopes of a function of the product."""

    def scalar(a, b):
        rows = product(subscripts, a, b)
        return (jnp.sin(rows) * some(rows)).sum()

    def slope(f, operand):
        def of(a, b):
            by_one = jax.grad(f, "ab".index(operand))(a, b)
            return (by_one * some(by_one)).sum()

        return of

    for operand in along:
        scalar = slope(scalar, operand)
    return jax.grad(scalar, (0, 1))


@pytest.mark.parametrize("subscripts", EVERY_ORDER)
def test_the_product(subscripts, compile_fast):
    a, b = operands(subscripts)
    expected = np.einsum(subscripts, a, b)
    compiled = jax.jit(products_in_rows, static_argnums=0, compiler_options=compile_fast)
    for found in (products_in_rows(subscripts, a, b), compiled(subscripts, a, b)):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("along", ALONG)
@pytest.mark.parametrize("subscripts", ["rxc,rxu->rcu", "rux,rcx->ruc", "rxc,rux->ruc"])
def test_derivatives(subscripts, along, compile_fast):
    functions = [gradient(product, subscripts, along) for product in (products_in_rows, jnp.einsum)]
    found, expected = (
        jax.jit(function, compiler_options=compile_fast)(*operands(subscripts))
        for function in functions
    )
    for a, b in zip(found, expected, strict=True):
        largest = np.abs(b).max()
        assert largest > 0.1
        assert_allclose(a, b, rtol=0, atol=1e-13 * largest)


def program(function, subscripts):
    """Return what XLA gets to compile."""
    return jax.jit(function).lower(*operands(subscripts)).as_text()


def summed_axes_of_left_matrices(text):
    """Return which axes of left matrices are summed over; 1 is that of a transposed one."""
    return set(re.findall(r"dot_general .*contracting_dims = \[(.*?)\] x", text))


def transposed(text):
    return set(re.findall(r"stablehlo.transpose [^:]*: \(tensor<(.*?)>\)", text))


@pytest.mark.parametrize("subscripts", EVERY_ORDER)
def test_no_left_matrix_of_a_product_is_transposed(subscripts):
    text = program(lambda a, b: products_in_rows(subscripts, a, b), subscripts)
    assert summed_axes_of_left_matrices(text) == {"2"}


@pytest.mark.parametrize("along", ALONG)
@pytest.mark.parametrize("subscripts", EVERY_ORDER)
def test_no_left_matrix_of_a_derivative_is_transposed(subscripts, along):
    text = program(gradient(products_in_rows, subscripts, along), subscripts)
    assert summed_axes_of_left_matrices(text) == {"2"}
    text = program(gradient(jnp.einsum, subscripts, along), subscripts)
    assert "1" in summed_axes_of_left_matrices(text)


@pytest.mark.parametrize("along", ALONG)
def test_only_the_smaller_operand_is_transposed(along):
    subscripts = "rxc,rxu->rcu"
    text = program(gradient(products_in_rows, subscripts, along), subscripts)
    assert transposed(text) == {"4x3x2xf64"}
    text = program(gradient(jnp.einsum, subscripts, along), subscripts)
    assert transposed(text) > {"4x5x3xf64"}
