from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.model.pair_repulsion import ZBLBasis
from mace_jax.structures.structure import Structure

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
    """Both atoms of a pair, beside a masked pair of the same atoms and length."""
    block = ZBLBasis(ELEMENTS, P, dtype="float64")
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, r]])
    two = Structure(np.array([z_1, z_2]), positions, np.zeros((3, 3)), np.zeros(3, bool))
    graph = GraphBuilder(10.0, ELEMENTS, ("Default",), {}).build(two)
    batch = pad_batch([graph], Caps.enclosing(n_node=3, n_edge=4, n_graph=2), "float64")
    assert batch.pair_mask.tolist() == [True, False]
    batch = batch._replace(
        pair_senders=np.repeat(batch.pair_senders[:1], 2),
        pair_receivers=np.repeat(batch.pair_receivers[:1], 2),
    )
    first, second, padding = np.asarray(block(jnp.full(2, r), batch))
    assert padding == 0
    return np.array([first, second])


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
