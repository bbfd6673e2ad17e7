import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mace_jax.model.fusion_boundary import computed_apart
from mace_jax.model.split_computation import split_computation

STAYING = {"weight": np.linspace(-1, 1, 12).reshape(3, 4), "node": np.array([0, 2, 2])}
MOVING = np.linspace(0, 2, 9).reshape(3, 3)


def operations(function, *arguments):
    """Return the operations of a function by name."""
    return [equation.primitive.name for equation in jax.make_jaxpr(function)(*arguments).eqns]


def layers(staying, moving):
    weight = jnp.sin(staying["weight"] @ jnp.ones((4, 4)))
    x = jnp.cos(moving) @ weight
    return {"x": x, "gathered": x[staying["node"]], "weight": weight, "one": jnp.ones(2)}


def gradient(staying, moving):
    return jax.grad(lambda moving: (layers(staying, moving)["x"] ** 2).sum())(moving)


def boundary(staying, moving):
    apart = computed_apart(lambda axes, x: x.transpose(axes))
    return apart((1, 0), staying["weight"]) @ moving + apart((1, 0), moving)[0, 0]


@pytest.mark.parametrize("function", [layers, gradient, boundary])
def test_both_parts_give_the_function(function):
    split = split_computation(function, STAYING, MOVING)
    prepared = jax.jit(split.prepare)(STAYING)
    for moving in (MOVING, MOVING - 3):
        expected, found = (
            jax.jit(f)(first, moving)
            for f, first in ((function, STAYING), (split.finish, prepared))
        )
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_other_staying_arguments_are_prepared_anew():
    split = split_computation(layers, STAYING, MOVING)
    other = {"weight": STAYING["weight"] + 1, "node": np.array([1, 1, 0])}
    found = split.finish(split.prepare(other), MOVING)
    assert_array_equal(found["gathered"], layers(other, MOVING)["gathered"])
    assert_array_equal(found["weight"], layers(other, MOVING)["weight"])


def test_what_stays_is_done_by_the_first_part_alone():
    split = split_computation(layers, STAYING, MOVING)
    first = operations(split.prepare, STAYING)
    last = operations(split.finish, split.prepare(STAYING), MOVING)
    assert "sin" in first
    assert "sin" not in last
    assert "cos" in last
    assert "cos" not in first


def test_copies_are_not_kept():
    split = split_computation(
        lambda staying, moving: jnp.broadcast_to(jnp.sin(staying), (50, 4)) * moving,
        jnp.ones(4),
        jnp.ones((50, 4)),
    )
    assert [x.shape for x in split.prepare(jnp.ones(4))] == [(4,)]


def test_splits_can_be_split():
    whole = split_computation(layers, STAYING, MOVING)
    weight, node = STAYING["weight"], STAYING["node"]
    inner = split_computation(
        lambda weight, node: whole.prepare({"weight": weight, "node": node}), weight, node
    )
    prepared = inner.finish(inner.prepare(weight), node)
    assert_array_equal(whole.finish(prepared, MOVING)["x"], layers(STAYING, MOVING)["x"])
