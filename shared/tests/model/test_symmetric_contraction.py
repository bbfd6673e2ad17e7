from itertools import product
from string import ascii_lowercase

import e3nn_jax as e3nn
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.model.symmetric_contraction import (
    SymmetricContraction,
    coupling_polynomial,
    coupling_tensors,
)

NATURAL = tuple((ell, (-1) ** ell) for ell in range(4))
BOTH_PARITIES = ((0, -1), (0, 1), (1, -1), (1, 1))


def contract(tensors: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Contract every factor axis of ``[m, dim, …, dim, k]`` with x."""
    factors = ascii_lowercase[: tensors.ndim - 2]
    return np.einsum(f"M{factors}K,{','.join(factors)}->MK", tensors, *[x] * len(factors))


@pytest.mark.parametrize(
    ("irreps", "target", "order", "expected"),
    [
        (NATURAL, (0, 1), 1, 1),
        (NATURAL, (0, 1), 2, 4),
        (NATURAL, (0, 1), 3, 23),
        (NATURAL[:3], (0, 1), 3, 11),
        (NATURAL[:2], (0, -1), 1, 0),
        (BOTH_PARITIES, (0, -1), 1, 1),
    ],
)
def test_number_of_couplings(irreps, target, order, expected):
    assert coupling_tensors(irreps, target, order).shape[-1] == expected


@pytest.mark.parametrize(
    ("irreps", "order"),
    [*product([NATURAL[:3], BOTH_PARITIES], [1, 2, 3]), (NATURAL, 2), (NATURAL[:2], 4)],
)
@pytest.mark.parametrize("target", [(0, 1), (0, -1), (1, -1), (1, 1), (2, 1)])
def test_polynomial_equals_the_dense_tensors(irreps, target, order):
    tensors = coupling_tensors(irreps, target, order)
    polynomial = coupling_polynomial(irreps, target, order)
    assert polynomial.coefficients.shape[:2] == (tensors.shape[0], tensors.shape[-1])
    assert (np.diff(polynomial.factors, axis=1) >= 0).all()
    x = np.random.default_rng(order).normal(size=tensors.shape[1])
    values = np.einsum("mkp,p->mk", polynomial.coefficients, x[polynomial.factors].prod(axis=1))
    assert_allclose(values, contract(tensors, x), atol=1e-12)


def test_layer_equals_a_dense_evaluation():
    irreps, targets = [e3nn.Irrep(l, p) for l, p in NATURAL[:3]], ["0e", "1o"]
    layer = SymmetricContraction(
        irreps,
        [e3nn.Irrep(target) for target in targets],
        correlation=3,
        channels=2,
        n_elements=3,
        dtype="float64",
        rng=np.random.default_rng(1),
    )
    rng = np.random.default_rng(0)
    x, species = rng.normal(size=(4, 9, 2)), np.array([2, 0, 1, 2])
    found = layer(x, species)
    for target in targets:
        lp = (int(target[0]), 1 if target[1] == "e" else -1)
        expected = np.zeros((4, 2 * lp[0] + 1, 2))
        for (node, channel), degree in product(np.ndindex(4, 2), (1, 2, 3)):
            weights = np.asarray(layer.weights[target][str(degree)][...])
            couplings = contract(coupling_tensors(NATURAL[:3], lp, degree), x[node, :, channel])
            expected[node, :, channel] += couplings @ weights[species[node], :, channel]
        assert np.abs(expected).max() > 0.1
        assert_allclose(found[e3nn.Irrep(target)], expected, atol=1e-12)
