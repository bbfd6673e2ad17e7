from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.model.pair_repulsion import ZBLBasis

ELEMENTS = (1, 6, 8, 79)
RADII = {1: 0.31, 6: 0.76, 8: 0.66, 79: 1.36}  # Å, Cordero et al. 2008
P = 6


def coulomb_of_screened_nuclei(z_1: int, z_2: int, r: float) -> float:
    """Ziegler, Biersack and Littmark 1985, eV, with e² / 4πε0 and the Bohr radius as rounded."""
    a = 0.4543 * 0.529 / (z_1**0.3 + z_2**0.3)
    terms = [(0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016)]
    return 14.3996 * z_1 * z_2 / r * sum(c * np.exp(-d * r / a) for c, d in terms)


def envelope(r: float, cutoff: float) -> float:
    """1 - 28 x⁶ + 48 x⁷ - 21 x⁸."""
    x = r / cutoff
    return (1 - 28 * x**6 + 48 * x**7 - 21 * x**8) * (x < 1)


def of_pair(z_1: int, z_2: int, r: float) -> np.ndarray:
    """Both edges of a pair, and a masked one of the same length."""
    block = ZBLBasis(ELEMENTS, P, dtype="float64")
    species = jnp.asarray([ELEMENTS.index(z_1), ELEMENTS.index(z_2)])
    senders, receivers = jnp.asarray([1, 0, 0]), jnp.asarray([0, 1, 1])
    mask = jnp.asarray([True, True, False])
    return np.asarray(block(jnp.full(3, r), species, senders, receivers, mask))


@pytest.mark.parametrize(("z_1", "z_2"), [(1, 1), (1, 8), (6, 6), (79, 6)])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.8])
def test_known_values_are_shared_equally(z_1, z_2, part):
    cutoff = RADII[z_1] + RADII[z_2]
    r = part * cutoff
    expected = coulomb_of_screened_nuclei(z_1, z_2, r) * envelope(r, cutoff)
    assert expected > 1e-3
    found = of_pair(z_1, z_2, r)
    assert_allclose(found, [expected / 2, expected / 2], rtol=1e-12)


@pytest.mark.parametrize(("z_1", "z_2"), [(1, 1), (1, 8), (79, 79)])
def test_repulsive_and_zero_beyond_the_covalent_radii(z_1, z_2):
    cutoff = RADII[z_1] + RADII[z_2]
    energies = [of_pair(z_1, z_2, r).sum() for r in np.linspace(0.05, 1, 20) * cutoff]
    assert (np.diff(energies) < 0).all()
    assert energies[-1] == 0
    assert not of_pair(z_1, z_2, 1.5 * cutoff).any()


def test_the_coulomb_law_of_bare_nuclei_at_short_distance():
    """The four screening terms add up to 1.00007 there."""
    r = 1e-5
    assert of_pair(8, 6, r).sum() * r == pytest.approx(14.3996 * 48, rel=1e-3)


def test_a_network_adds_it_before_its_scale(make_bundle, make_network, configs, molecule):
    without = replace(configs["one_layer_scalars"], num_polynomial_cutoff=P)
    plain = make_bundle(without)
    constants = make_bundle(replace(without, pair_repulsion=True)).parameters
    bundle = replace(
        plain,
        config=replace(without, pair_repulsion=True),
        parameters={**constants, **plain.parameters},
    )
    difference = make_network(bundle)(molecule).energy - make_network(plain)(molecule).energy
    expected = 0.0
    for i, j in zip(*np.triu_indices(len(molecule), 1), strict=True):
        z_1, z_2 = molecule.atomic_numbers[[i, j]]
        r = np.linalg.norm(molecule.positions[i] - molecule.positions[j])
        expected += coulomb_of_screened_nuclei(z_1, z_2, r) * envelope(r, RADII[z_1] + RADII[z_2])
    assert expected > 0.05
    assert difference == pytest.approx(bundle.scale["Default"] * expected, rel=1e-9)
