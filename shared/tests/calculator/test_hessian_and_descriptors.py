"""What the calculator gives beside ASE's properties: second derivatives and features of atoms."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.vibrations import Vibrations
from numpy.testing import assert_allclose, assert_array_equal

from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.calculator import MACECalculator
from mace_jax.errors import ConfigError, DataError

CONFIG = ModelConfig(
    model="ScaleShiftMACE",
    r_max=3.2,
    num_bessel=4,
    num_polynomial_cutoff=5,
    max_ell=1,
    num_interactions=2,
    hidden_irreps="3x0e + 3x1o",
    MLP_irreps="2x0e",
    correlation=2,
    radial_MLP=(4,),
    gate="silu",
    interaction_cls="RealAgnosticResidualInteractionBlock",
    interaction_cls_first="RealAgnosticResidualInteractionBlock",
    avg_num_neighbors=6.0,
    atomic_numbers=(1, 6, 8),
)
DIPOLES = replace(CONFIG, model="AtomicDipolesMACE", hidden_irreps="3x0e + 3x1o", MLP_irreps="2x1o")


@pytest.fixture(scope="module")
def model(random_bundle, write):
    return write(random_bundle(CONFIG))


@pytest.fixture(scope="module")
def calculator(model):
    return MACECalculator(model)


def matrix(hessian):
    n = hessian.shape[1]
    assert hessian.shape == (3 * n, n, 3)
    return hessian.reshape(3 * n, 3 * n)


def test_the_hessian_is_symmetric_and_the_derivative_of_the_forces(calculator, crystal):
    atoms = crystal
    atoms.calc = calculator
    found = matrix(calculator.get_hessian(atoms))
    assert np.abs(found).max() > 0.1
    assert_allclose(found, found.T, atol=1e-10)
    assert_allclose(found.reshape(len(found), -1, 3).sum(axis=1), 0, atol=1e-9)
    positions, step = atoms.positions.copy(), 1e-4
    expected = []
    for index in range(positions.size):
        shift = step * np.eye(positions.size)[index].reshape(-1, 3)
        forces = []
        for sign in (1, -1):
            atoms.positions = positions + sign * shift
            forces.append(atoms.get_forces().ravel())
        expected.append((forces[1] - forces[0]) / (2 * step))
    assert_allclose(found, expected, atol=1e-6 * np.abs(found).max())


def test_vibrations_of_ase_are_those_of_the_hessian(calculator, tmp_path):
    atoms = Atoms("OCO", [[-1.2, 0.05, 0], [0, 0, 0.1], [1.15, 0, 0]], calculator=calculator)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-3)
    vibrations.run()
    found = matrix(calculator.get_hessian(atoms))
    expected = vibrations.get_vibrations().get_hessian_2d()
    assert_allclose(found, expected, atol=1e-4 * np.abs(found).max())


def test_a_list_serves_the_hessian_and_the_steps(calculator, crystal):
    crystal.calc = calculator
    before = crystal.get_forces()
    lists, programs = calculator.n_neighbor_lists, calculator.n_compilations
    of_last = calculator.get_hessian()
    crystal.rattle(0.01)
    assert not np.array_equal(calculator.get_hessian(crystal), of_last)
    assert_array_equal(calculator.results["forces"], before)
    crystal.get_forces()
    assert (calculator.n_neighbor_lists, calculator.n_compilations) == (lists, programs)


def test_descriptors_are_invariant_and_know_their_atoms(calculator, molecule):
    """Layers of 3x0e + 3x1o and 3x0e."""
    invariants = calculator.get_descriptors(molecule)
    everything = calculator.get_descriptors(molecule, invariants_only=False)
    assert invariants.shape == (len(molecule), 6)
    assert everything.shape == (len(molecule), 15)
    assert_allclose(np.delete(everything, range(3, 12), axis=1), invariants, rtol=1e-12)
    assert np.unique(invariants.round(6), axis=0).shape == invariants.shape
    turned = molecule.copy()
    turned.rotate(40, (1, 2, 3))
    order = [3, 0, 4, 1, 2]
    assert_allclose(calculator.get_descriptors(turned[order]), invariants[order], atol=1e-10)
    vectors = np.abs(calculator.get_descriptors(turned, invariants_only=False) - everything)
    assert vectors[:, 3:12].max() > 1e-3
    first = calculator.get_descriptors(molecule, num_layers=1)
    assert_allclose(first, invariants[:, :3], rtol=1e-12)
    first = calculator.get_descriptors(molecule, invariants_only=False, num_layers=1)
    assert_allclose(first, everything[:, :12], rtol=1e-12)


@pytest.mark.parametrize("num_layers", [0, 3, -2])
def test_layers_that_are_not_there_are_refused(num_layers, calculator, molecule):
    message = f"num_layers: {num_layers}, expected 1 to 2, or -1"
    with pytest.raises(ConfigError, match=message):
        calculator.get_descriptors(molecule, num_layers=num_layers)


def test_a_committee_gives_lists(model, random_bundle, write, calculator, molecule):
    other = write(random_bundle(CONFIG, seed=2))
    first, second = MACECalculator([model, other]).get_descriptors(molecule)
    assert_allclose(first, calculator.get_descriptors(molecule), rtol=1e-12, atol=1e-12)
    assert first.shape == second.shape
    assert np.abs(first - second).max() > 1e-3


def test_what_cannot_be_computed_is_refused(model, random_bundle, write, molecule):
    fresh = MACECalculator(model)
    for method in (fresh.get_hessian, fresh.get_descriptors):
        with pytest.raises(DataError, match="atoms: none given and none evaluated yet"):
            method()
    molecule.numbers[0] = 79
    with pytest.raises(DataError, match=r"unknown element Au \(79\)"):
        fresh.get_descriptors(molecule)
    molecule.numbers[0] = 6
    dipoles = MACECalculator(write(random_bundle(DIPOLES)))
    with pytest.raises(PropertyNotImplementedError, match="predicts no energy"):
        dipoles.get_hessian(molecule)
    assert dipoles.get_descriptors(molecule).shape == (
        len(molecule),
        3,
    )  # the last layer has vectors alone
