"""Spherical harmonics against those of e3nn_jax, with derivatives, and by their orthogonality."""

import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mace_jax.model.spherical_harmonics import spherical_harmonics

L_MAX = 6


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def of_e3nn(vectors, l_max):
    irreps = e3nn.Irreps([e3nn.Irrep(l, (-1) ** l) for l in range(l_max + 1)])
    found = e3nn.spherical_harmonics(irreps, vectors, normalize=True, normalization="component")
    return found.array


@pytest.mark.parametrize("l_max", range(L_MAX + 1))
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_values_are_those_of_e3nn(l_max, length):
    vectors = length * jnp.asarray(np.random.default_rng(l_max).normal(size=(50, 3)))
    ours = spherical_harmonics(vectors, l_max)
    assert ours.shape == (50, (l_max + 1) ** 2)
    np.testing.assert_allclose(ours, of_e3nn(vectors, l_max), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_derivatives_are_those_of_e3nn():
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))

    def derivatives(function):
        def scalar(x):
            return (jnp.sin(function(x, 4)) * jnp.arange(25)).sum()

        gradient = jax.grad(scalar)
        return gradient(vectors), jax.grad(lambda x: (gradient(x) ** 2).sum())(vectors)

    for ours, theirs in zip(derivatives(spherical_harmonics), derivatives(of_e3nn), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_along_an_axis_where_many_components_vanish():
    axes = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    ours = spherical_harmonics(axes, L_MAX)
    np.testing.assert_allclose(ours, of_e3nn(axes, L_MAX), rtol=1e-12, atol=1e-12)
    assert np.isfinite(jax.jacobian(spherical_harmonics)(axes, 3)).all()


def test_they_are_orthonormal_over_the_sphere():
    heights, weights = np.polynomial.legendre.leggauss(L_MAX + 1)  # exact to twice the order
    angles = np.arange(2 * L_MAX + 1) * 2 * np.pi / (2 * L_MAX + 1)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = [np.r_[np.sqrt(1 - h**2) * xy, h] for h in heights for xy in around]
    share = np.repeat(weights / 2, len(angles)) / len(angles)
    of_points = np.asarray(spherical_harmonics(jnp.asarray(points), L_MAX))
    overlap = np.einsum("p,pi,pj->ij", share, of_points, of_points)
    np.testing.assert_allclose(overlap, np.eye((L_MAX + 1) ** 2), atol=1e-13)
