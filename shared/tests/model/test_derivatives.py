"""Second derivatives of the energy, and the features that it is read from."""

from dataclasses import replace
from itertools import product

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.model.energy_forces import descriptors, hessian

SMALL = Caps.enclosing(n_node=5, n_edge=16, n_graph=2)
STEP = 1e-4


@pytest.fixture
def water(molecule, take):
    return take(molecule, [1, 2, 3])


@pytest.fixture
def computed_hessian(scalars_network, water, compile_fast):
    evaluate = jax.jit(lambda b: hessian(scalars_network.model, b), compiler_options=compile_fast)
    return np.asarray(evaluate(scalars_network.batch([water], SMALL)))


def test_hessian(computed_hessian, scalars_network, water):
    """Symmetric, the derivative of the forces, blind to translations; 0 for padding nodes."""
    found = computed_hessian[:3, :, :3]
    expected = np.zeros((3, 3, 3, 3))
    for atom, axis in product(range(3), range(3)):
        step = np.zeros((3, 3))
        step[atom, axis] = STEP
        plus, minus = scalars_network.evaluate(
            [replace(water, positions=water.positions + sign * step) for sign in (1, -1)]
        )
        expected[:, :, atom, axis] = -(plus.forces - minus.forces) / (2 * STEP)
    assert np.abs(expected).max() > 0.1
    assert_allclose(found, expected, atol=1e-6)
    assert_allclose(found, found.transpose(2, 3, 0, 1), atol=1e-10)
    assert_allclose(found.sum(axis=2), 0, atol=1e-10)
    assert not computed_hessian[3:].any()
    assert not computed_hessian[:, :, 3:].any()


@pytest.fixture(scope="module")
def features(compile_fast):
    """Return a function from a network and a structure to all features and the invariant ones."""
    programs = {}

    def of(network, structure):
        for invariants_only in (False, True):
            if invariants_only not in programs:
                programs[invariants_only] = jax.jit(
                    lambda batch, only=invariants_only: descriptors(
                        network.model, batch, invariants_only=only
                    ),
                    compiler_options=compile_fast,
                )
        batch = network.batch([structure])
        everything, invariants = (np.asarray(programs[only](batch)) for only in (False, True))
        assert not everything[~batch.node_mask].any()
        assert not invariants[~batch.node_mask].any()
        return everything[: len(structure)], invariants[: len(structure)]

    return of


def test_descriptors(features, vectors_network, structure):
    """Two layers, 4x0e + 4x1o and 4x0e; channels before components."""
    matrix, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turned = replace(
        structure, positions=structure.positions @ matrix.T, cell=structure.cell @ matrix.T
    )
    everything, invariants = features(vectors_network, structure)
    after, invariants_after = features(vectors_network, turned)
    n = len(structure)
    assert everything.shape == (n, 4 + 12 + 4)
    assert_allclose(invariants, np.delete(everything, range(4, 16), axis=1), rtol=1e-14)
    assert_allclose(invariants_after, invariants, atol=1e-10)
    vectors, vectors_after = (x[:, 4:16].reshape(n, 4, 3) for x in (everything, after))
    assert np.abs(vectors).max() > 0.01
    assert_allclose(vectors_after, vectors @ matrix.T, atol=1e-10)


def test_energies_are_read_from_the_descriptors(features, vectors_network, molecule):
    _, invariants = features(vectors_network, molecule)
    bundle = vectors_network.bundle
    weights = bundle.parameters
    energy = invariants[:, :4] @ weights["readouts/0/linear/weights/0e"][:, 0] / 2
    hidden = invariants[:, 4:] @ weights["readouts/1/linear_1/weights/0e"] / 2
    hidden = 1.6791767923989418 * hidden / (1 + np.exp(-hidden))
    energy += hidden @ weights["readouts/1/linear_2/weights/0e"][:, 0] / 3**0.5
    expected = bundle.scale["Default"] * energy + bundle.shift["Default"]
    assert_allclose(vectors_network(molecule).node_energy, expected, rtol=1e-10)
