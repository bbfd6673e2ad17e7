import itertools

import e3nn_jax as e3nn
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.model.wigner_3j import wigner_3j

TRIPLES = [
    orders
    for orders in itertools.product(range(4), repeat=3)
    if abs(orders[0] - orders[1]) <= orders[2] <= orders[0] + orders[1]
]


def harmonics(ell: int, vectors: np.ndarray) -> np.ndarray:
    parity = "o" if ell % 2 else "e"
    return np.asarray(e3nn.spherical_harmonics(f"{ell}{parity}", vectors, normalize=True).array)


def rotation_of_harmonics(ell: int, rotation: np.ndarray) -> np.ndarray:
    """Solve Y(R v) = D Y(v) for D, with more vectors than needed."""
    vectors = np.random.default_rng(0).normal(size=(50, 3))
    before, after = harmonics(ell, vectors), harmonics(ell, vectors @ rotation.T)
    solution, *_ = np.linalg.lstsq(before, after, rcond=None)
    assert_allclose(before @ solution, after, atol=1e-12)
    return solution.T


@pytest.fixture(scope="module")
def rotations():
    matrix, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    matrix *= np.linalg.det(matrix)
    return [rotation_of_harmonics(ell, matrix) for ell in range(4)]


@pytest.fixture(autouse=True, scope="module")
def float64_module():
    import jax

    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("orders", TRIPLES, ids=str)
def test_is_invariant_and_orthogonal(orders, rotations):
    symbol = wigner_3j(*orders)
    turned = np.einsum("abc,ia,jb,kc->ijk", symbol, *(rotations[ell] for ell in orders))
    assert_allclose(turned, symbol, atol=1e-7)  # e3nn's tables of harmonics end there
    overlap = np.einsum("abc,abd->cd", symbol, symbol)
    assert_allclose(overlap, np.eye(2 * orders[2] + 1) / (2 * orders[2] + 1), atol=1e-7)


@pytest.mark.parametrize("orders", TRIPLES, ids=str)
def test_permutations(orders):
    """Odd permutations bring the sign (-1)^(l1 + l2 + l3)."""
    for axes in itertools.permutations(range(3)):
        odd = axes in {(1, 0, 2), (0, 2, 1), (2, 1, 0)}
        sign = (-1) ** sum(orders) if odd else 1
        permuted = wigner_3j(*(orders[axis] for axis in axes))
        assert_allclose(permuted, sign * wigner_3j(*orders).transpose(axes), atol=1e-14)


def test_vectors_couple_to_their_dot_and_cross_products():
    """Against the vectors themselves, in e3nn's order of components y, z, x."""
    a, b = np.random.default_rng(2).normal(size=(2, 3))
    dot = np.einsum("abc,a,b->c", wigner_3j(1, 1, 0), a, b)
    assert_allclose(dot, [a @ b / 3**0.5], atol=1e-7)
    cross = np.einsum("abc,a,b->c", wigner_3j(1, 1, 1), a, b)
    assert_allclose(cross, np.cross(a, b) / 6**0.5, atol=1e-7)
