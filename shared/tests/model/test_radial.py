from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.data import covalent_radii
from numpy.polynomial import chebyshev
from numpy.testing import assert_allclose

from mace_jax.model.activation import normalized_activation
from mace_jax.model.radial import (
    AgnesiTransform,
    BesselBasis,
    ChebychevBasis,
    GaussianBasis,
    RadialEmbeddingBlock,
    SoftTransform,
    polynomial_cutoff,
)

R_MAX = 4.5
LENGTHS = np.array([0.3, 1.7, 4.4])
ELEMENTS = (1, 6, 8)


def test_bessel_basis():
    expected = [
        [np.sqrt(2 / R_MAX) * np.sin(n * np.pi * r / R_MAX) / r for n in range(1, 6)]
        for r in LENGTHS
    ]
    basis = BesselBasis(R_MAX, 5, dtype="float64")
    assert_allclose(basis(jnp.asarray(LENGTHS)), expected, rtol=1e-13)


def test_bessel_functions_are_orthonormal_in_the_ball():
    r = np.linspace(1e-9, R_MAX, 4001)
    values = np.asarray(BesselBasis(R_MAX, 4, dtype="float64")(jnp.asarray(r)))
    overlap = np.trapezoid(values[:, :, None] * values[:, None] * r[:, None, None] ** 2, r, axis=0)
    assert_allclose(overlap, np.eye(4), atol=1e-6)


def test_gaussian_basis():
    """Centres from 0 to r_max; neighbouring functions cross half a spacing from each."""
    basis = GaussianBasis(R_MAX, 4, dtype="float64")
    centres = np.array([0, 1.5, 3.0, 4.5])
    expected = np.exp(-((LENGTHS[:, None] - centres) ** 2) / (2 * 1.5**2))
    assert_allclose(basis(jnp.asarray(LENGTHS)), expected, rtol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_chebyshev_basis(n):
    """Without the constant; also beyond 1, where the polynomials grow."""
    expected = np.stack([chebyshev.chebval(LENGTHS, np.eye(n + 1)[k]) for k in range(1, n + 1)], 1)
    basis = ChebychevBasis(R_MAX, n, dtype="float64")
    assert_allclose(basis(jnp.asarray(LENGTHS)), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [3, 5, 6])
def test_envelope_values(p, dtype):
    lengths = jnp.asarray([0.0, R_MAX / 2, R_MAX, R_MAX + 1e-3, 10 * R_MAX], dtype)
    found = polynomial_cutoff(lengths, R_MAX, p)
    x = 0.5
    half = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
    half -= p * (p + 1) / 2 * x ** (p + 2)
    assert found.dtype == dtype
    assert_allclose(found[:2], [1, half], rtol=1e-6)
    assert not found[2:].any()


@pytest.mark.parametrize("p", [3, 5, 6])
def test_envelope_has_two_vanishing_derivatives(p):
    def envelope(r):
        return polynomial_cutoff(r[None], R_MAX, p)[0]

    first, second = jax.jit(jax.grad(envelope)), jax.jit(jax.grad(jax.grad(envelope)))
    for r in jnp.asarray([R_MAX * (1 - 1e-9), R_MAX, R_MAX * (1 + 1e-9)]):
        assert_allclose([envelope(r), first(r), second(r)], 0, atol=1e-6)
    assert abs(second(jnp.asarray(0.9 * R_MAX))) > 0.1


def test_envelope_with_a_cutoff_of_its_own_for_each_edge():
    lengths, cutoffs = jnp.asarray([1.0, 1.0, 1.0]), jnp.asarray([0.9, 1.1, 2.0])
    found = polynomial_cutoff(lengths, cutoffs, 5)
    for value, cutoff in zip(found, cutoffs, strict=True):
        assert value == polynomial_cutoff(lengths[:1], float(cutoff), 5)[0]
    assert found[0] == 0 < found[1] < found[2] < 1


def of_pair(transform, lengths, sender, receiver):
    species = np.full(len(lengths), sender), np.full(len(lengths), receiver)
    return np.asarray(transform(jnp.asarray(lengths), *species))


PAIRS = [(0, 0), (0, 1), (1, 2)]


@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_agnesi_transform(sender, receiver):
    """Falls from 1 to 0; halfway of the covalent radii as in the paper, with a = 1.0805."""
    transform = AgnesiTransform(ELEMENTS, dtype="float64")
    r_0 = (covalent_radii[ELEMENTS[sender]] + covalent_radii[ELEMENTS[receiver]]) / 2
    found = of_pair(transform, np.array([1e-6, 0.5 * r_0, r_0, 2 * r_0, 1e6]), sender, receiver)
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert found[2] == pytest.approx(1 / (1 + 1.0805 / 2))
    assert found[-1] == pytest.approx(0, abs=1e-5)
    assert (np.diff(found) < 0).all()
    x = 0.5
    half = 1 / (1 + 1.0805 * x**0.9183 / (1 + x ** (0.9183 - 4.5791)))
    assert found[1] == pytest.approx(half, rel=1e-12)


@pytest.mark.parametrize(("sender", "receiver"), PAIRS)
def test_soft_transform(sender, receiver):
    """Far atoms keep their distance, near ones have three quarters of the sum of radii."""
    transform = SoftTransform(ELEMENTS, dtype="float64")
    r_0 = covalent_radii[ELEMENTS[sender]] + covalent_radii[ELEMENTS[receiver]]
    middle = (3 / 4 + 4 / 3) / 2 * r_0
    lengths = np.array([0.1 * r_0, middle, 3 * r_0])
    found = of_pair(transform, lengths, sender, receiver)
    assert found[0] == pytest.approx(0.75 * r_0, rel=1e-3)
    assert found[1] == pytest.approx((0.75 * r_0 + middle) / 2, rel=1e-12)
    assert found[2] == pytest.approx(3 * r_0, rel=1e-3)
    steepness = 4 / ((4 / 3 - 3 / 4) * r_0)
    switch = (1 + np.tanh(steepness * (0.9 * r_0 - middle))) / 2
    (near,) = of_pair(transform, np.array([0.9 * r_0]), sender, receiver)
    assert near == pytest.approx(0.75 * r_0 + 0.15 * r_0 * switch, rel=1e-12)


@pytest.mark.parametrize("transform", [AgnesiTransform, SoftTransform])
def test_transforms_do_not_tell_sender_from_receiver(transform):
    transform = transform(ELEMENTS, dtype="float64")
    lengths = np.linspace(0.4, 4, 9)
    one_way, other_way = of_pair(transform, lengths, 0, 2), of_pair(transform, lengths, 2, 0)
    assert_allclose(one_way, other_way, rtol=1e-14)
    assert np.abs(of_pair(transform, lengths, 0, 0) - one_way).max() > 0.05


@pytest.fixture
def config(configs):
    return replace(configs["vectors"], r_max=R_MAX)


def embedded(config, lengths):
    block = RadialEmbeddingBlock(config, dtype="float64")
    species = jnp.zeros(len(lengths), int), jnp.ones(len(lengths), int)
    return [np.asarray(x) for x in block(jnp.asarray(lengths), *species)]


@pytest.mark.parametrize("radial_type", ["bessel", "gaussian", "chebyshev"])
@pytest.mark.parametrize("transform", ["None", "Agnesi", "Soft"])
def test_the_envelope_is_in_the_basis_or_beside_it(config, radial_type, transform):
    """It is that of the distance itself, whatever the transform."""
    lengths = np.array([0.9, 3.0, R_MAX - 1e-3, R_MAX, R_MAX + 0.5])
    config = replace(config, radial_type=radial_type, distance_transform=transform)
    inside, factor = embedded(config, lengths)
    bare, envelope = embedded(replace(config, apply_cutoff=False), lengths)
    assert inside.shape == bare.shape == (5, config.num_bessel)
    assert factor[:, 0].tolist() == [1, 1, 1, 0, 0]
    assert_allclose(envelope[:, 0], polynomial_cutoff(jnp.asarray(lengths), R_MAX, 5), rtol=1e-14)
    assert not envelope[3:].any()
    assert_allclose(inside, bare * envelope, rtol=1e-14)
    assert np.isfinite(bare).all()


def test_transformed_distances_are_what_the_basis_sees(config):
    lengths = np.array([0.9, 1.3])
    config = replace(config, apply_cutoff=False, distance_transform="Agnesi")
    found, _ = embedded(config, lengths)
    transform = AgnesiTransform(config.atomic_numbers, dtype="float64")
    basis = BesselBasis(R_MAX, config.num_bessel, dtype="float64")
    assert_allclose(found, basis(jnp.asarray(of_pair(transform, lengths, 0, 1))), rtol=1e-14)


@pytest.mark.parametrize("name", ["silu", "tanh", "abs", "sigmoid"])
def test_activations_keep_the_second_moment(name):
    """To 0.4 %, because e3nn's constants are a Monte Carlo estimate."""
    z = np.linspace(-10, 10, 20001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    values = np.asarray(normalized_activation(name)(jnp.asarray(z)))
    assert np.trapezoid(density * values**2, z) == pytest.approx(1, rel=4e-3)


def test_no_activation_is_the_identity():
    x = jnp.asarray([-1.5, 0.0, 2.5])
    assert normalized_activation("None")(x) is x
