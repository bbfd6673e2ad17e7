from itertools import permutations, product

import e3nn_jax as e3nn
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.equivariance.wigner_3j import wigner_3j


def triples(highest: int) -> list[tuple[int, int, int]]:
    return [
        orders
        for orders in product(range(highest + 1), repeat=3)
        if abs(orders[0] - orders[1]) <= orders[2] <= orders[0] + orders[1]
    ]


LARGE = [(4, 3, 6), (5, 5, 5), (2, 7, 8), (11, 4, 9)]


@pytest.mark.parametrize("orders", [*triples(3), *LARGE], ids=str)
def test_is_invariant_and_orthogonal(orders, rotation):
    symbol = wigner_3j(*orders)
    turned = np.einsum("abc,ia,jb,kc->ijk", symbol, *(rotation(l) for l in orders))
    assert_allclose(turned, symbol, atol=1e-12)
    overlap = np.einsum("abc,abd->cd", symbol, symbol)
    assert_allclose(overlap, np.eye(2 * orders[2] + 1) / (2 * orders[2] + 1), atol=1e-13)


@pytest.mark.parametrize("orders", triples(4), ids=str)
def test_equals_that_of_e3nn_jax_up_to_its_sign(orders):
    with jax.enable_x64(True):
        other = np.asarray(e3nn.clebsch_gordan(*orders), np.float64)
    other /= np.linalg.norm(other)
    symbol = wigner_3j(*orders)
    assert_allclose(symbol, np.sign((symbol * other).sum()) * other, atol=1e-12)


@pytest.mark.parametrize("orders", [o for o in triples(4) if list(o) == sorted(o)], ids=str)
def test_sign_of_ascending_orders(orders):
    symbol = wigner_3j(*orders)
    middle = symbol[orders]
    first = symbol.ravel()[np.flatnonzero(np.abs(symbol) > 1e-8)[0]]
    assert (first if abs(middle) < 1e-8 else middle) > 0


@pytest.mark.parametrize("orders", triples(3), ids=str)
def test_permutations(orders):
    """Odd permutations bring the sign (-1)^(l1 + l2 + l3)."""
    for axes in permutations(range(3)):
        odd = axes in {(1, 0, 2), (0, 2, 1), (2, 1, 0)}
        sign = (-1) ** sum(orders) if odd else 1
        permuted = wigner_3j(*(orders[axis] for axis in axes))
        assert_allclose(permuted, sign * wigner_3j(*orders).transpose(axes), atol=1e-14)


def test_vectors_couple_to_their_dot_and_cross_products():
    a, b = np.random.default_rng(2).normal(size=(2, 3))
    dot = np.einsum("abc,a,b->c", wigner_3j(1, 1, 0), a, b)
    assert_allclose(dot, [a @ b / 3**0.5], atol=1e-14)
    cross = np.einsum("abc,a,b->c", wigner_3j(1, 1, 1), a, b)
    assert_allclose(cross, np.cross(a, b) / 6**0.5, atol=1e-14)
