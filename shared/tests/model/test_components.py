"""Products over components against einsum, with derivatives of three orders."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mace_jax.model.components import contracted, scaled

SHAPES = {"scaled": ((4, 5), (4, 3, 5)), "contracted": ((4, 3, 5), (4, 3, 5))}
FUNCTIONS = {
    "scaled": (scaled, lambda a, b: jnp.einsum("nc,nmc->nmc", a, b)),
    "contracted": (contracted, lambda a, b: jnp.einsum("nmc,nmc->nc", a, b)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("order", [order for n in range(4) for order in product((0, 1), repeat=n)])
def test_values_and_derivatives_are_those_of_einsum(name, order):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        operands = [jnp.asarray(rng.normal(size=shape)) for shape in SHAPES[name]]
        ours, theirs = FUNCTIONS[name]
        for argument in order:
            # nothing of a third order would be left of a bilinear function itself
            ours = jax.grad(lambda *x, f=ours: (jnp.sin(f(*x)) ** 2).sum(), argument)
            theirs = jax.grad(lambda *x, f=theirs: (jnp.sin(f(*x)) ** 2).sum(), argument)
        np.testing.assert_allclose(ours(*operands), theirs(*operands), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("function", "sums"), [(scaled, False), (FUNCTIONS["scaled"][1], True)])
def test_no_derivative_sums_over_components(function, sums):
    def loss(a, b):
        return (jax.grad(lambda a, b: (function(a, b) ** 2).sum(), 0)(a, b) ** 2).sum()

    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*map(jnp.ones, SHAPES["scaled"])))
    assert ("reduce_sum[axes=(1,)" in program or "dot_general" in program) == sums
