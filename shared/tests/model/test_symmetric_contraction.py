from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from mace_jax.equivariance.couplings import (
    full_couplings,
    monomials,
    multiplicities,
    reduced_couplings,
)
from mace_jax.equivariance.irreps import SCALAR, VECTOR, Irrep, Irreps
from mace_jax.model import symmetric_contraction as module
from mace_jax.model.backend import DENSE, FROZEN, Backend
from mace_jax.model.constant import Constant
from mace_jax.model.split_computation import split_computation
from mace_jax.model.symmetric_contraction import SymmetricContraction

IRREPS = Irreps.parse("2x0e + 2x1o + 2x2e", "irreps")
TARGETS = [SCALAR, VECTOR, Irrep(2, -1)]  # the last needs two factors at least
BASES = [
    pytest.param(False, full_couplings, id="full"),
    pytest.param(True, reduced_couplings, id="reduced"),
]


def contraction(use_reduced_cg: bool, backend: Backend = DENSE) -> SymmetricContraction:
    return SymmetricContraction(
        IRREPS,
        TARGETS,
        correlation=3,
        channels=2,
        n_elements=3,
        use_reduced_cg=use_reduced_cg,
        dtype="float64",
        rng=np.random.default_rng(1),
        backend=backend,
    )


@pytest.mark.parametrize(("use_reduced_cg", "basis"), BASES)
def test_is_the_weighted_sum_of_all_couplings(use_reduced_cg, basis, compile_fast):
    layer = contraction(use_reduced_cg)
    rng = np.random.default_rng(0)
    x, species = rng.normal(size=(4, 9, 2)), np.array([2, 0, 1, 2])
    found = jax.jit(lambda x: layer(x, species), compiler_options=compile_fast)(jnp.asarray(x))
    for target in TARGETS:
        expected = np.zeros((4, target.dim, 2))
        for (node, channel), degree in product(np.ndindex(4, 2), (1, 2, 3)):
            coefficients = basis(IRREPS, target, degree)
            if not coefficients.shape[1]:
                assert str(degree) not in layer.weights[str(target)]
                continue
            weights = np.asarray(layer.weights[str(target)][str(degree)][...])
            powers = x[node, :, channel][monomials(9, degree)].prod(axis=1)
            expected[node, :, channel] += coefficients @ powers @ weights[species[node], :, channel]
        assert np.abs(expected).max() > 0.1
        assert_allclose(found[target], expected, atol=1e-12)


@pytest.mark.parametrize("use_reduced_cg", [pytest.param(False, marks=pytest.mark.slow), True])
def test_frozen_it_is_the_same(use_reduced_cg, compile_fast, monkeypatch):
    species = np.array([2, 0, 1, 2])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9, 2)))
    layers = [contraction(use_reduced_cg, backend) for backend in (DENSE, FROZEN)]

    def values_and_gradient(layer):
        def total(x):
            values = layer(x, species)
            return sum(jnp.sin(y).sum() for y in values.values()), values

        return jax.jit(jax.grad(total, has_aux=True), compiler_options=compile_fast)(x)

    expected, found = map(values_and_gradient, layers)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-12), found, expected)
    assert "dot_general" in operations_of_rows(layers[0], x, species)
    assert "dot_general" not in operations_of_rows(layers[1], x, species)
    monkeypatch.setattr(module, "_MOST_MONOMIALS", 50)
    assert "dot_general" in operations_of_rows(layers[1], x, species)


def operations_of_rows(layer, x, species):
    """Return what is done with ``x``, as text; what is done with weights alone left out."""
    graphdef, state = nnx.split(layer)
    weights = split_computation(lambda state, x: nnx.merge(graphdef, state)(x, species), state, x)
    return str(jax.make_jaxpr(weights.finish)(weights.prepare(state), x))


def test_only_reduced_couplings_are_constants_of_the_network():
    """They are kept as entries of symmetric tensors, of which a monomial has several alike."""
    assert not nnx.state(contraction(use_reduced_cg=False), Constant)
    layer = contraction(use_reduced_cg=True)
    stored = np.asarray(layer.couplings["1o"]["3"][...])
    squares = (stored**2 * multiplicities(9, 3)).sum(axis=(0, 2))
    assert_allclose(squares, 1, rtol=1e-12)


def test_initial_weights_shrink_with_the_number_of_couplings():
    weights = contraction(use_reduced_cg=False).weights["0e"]
    for degree, n_couplings in (("1", 1), ("2", 3), ("3", 11)):
        assert weights[degree].shape == (3, n_couplings, 2)
        assert 0.4 < np.std(np.asarray(weights[degree][...])) * n_couplings < 1.6


PSEUDOVECTOR = Irrep(1, 1)  # the cross product of two equal vectors


@pytest.mark.parametrize("targets", [[PSEUDOVECTOR], [SCALAR, PSEUDOVECTOR]], ids=str)
@pytest.mark.parametrize(("use_reduced_cg", "n_weights"), [(False, 1), (True, 0)])
def test_a_target_of_vanishing_couplings_gets_zeros(targets, use_reduced_cg, n_weights):
    layer = SymmetricContraction(
        [VECTOR],
        targets,
        correlation=2,
        channels=2,
        n_elements=3,
        use_reduced_cg=use_reduced_cg,
        dtype="float64",
        rng=np.random.default_rng(1),
    )
    assert len(layer.weights["1e"]) == n_weights
    assert_allclose(full_couplings([VECTOR], PSEUDOVECTOR, 2), 0, atol=1e-14)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)))
    species = np.array([2, 0, 1, 2])
    found = layer(x, species)
    assert found.keys() == set(targets)
    np.testing.assert_array_equal(found[PSEUDOVECTOR], np.zeros((4, 3, 2)))
    gradient = jax.grad(lambda x: layer(x, species)[PSEUDOVECTOR].sum())(x)
    np.testing.assert_array_equal(gradient, np.zeros((4, 3, 2)))
    for target in set(targets) - {PSEUDOVECTOR}:
        assert np.abs(found[target]).max() > 0.1
