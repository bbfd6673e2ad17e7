"""What must hold for every network, whatever its weights: symmetries, derivatives, smoothness.

Tolerances: symmetries only reorder float64 sums, 1e-10 of values of order 0.1 to 10; central
differences with a step of 1e-4 Å leave some 1e-8 by truncation and 1e-11 by rounding.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.structures.structure import Structure, volume

STEP = 1e-4


def rotation() -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return matrix * np.linalg.det(matrix)  # proper


def turned(structure: Structure, matrix: np.ndarray) -> Structure:
    return replace(
        structure, positions=structure.positions @ matrix.T, cell=structure.cell @ matrix.T
    )


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "rotoinversion"])
def test_rotation_and_inversion(any_network, structure, sign):
    matrix = sign * rotation()
    assert np.linalg.det(matrix) == pytest.approx(sign)
    before, after = any_network(structure), any_network(turned(structure, matrix))
    if sign == -1 and any_network.bundle.config.use_so3:
        assert abs(after.energy - before.energy) > 1e-6  # the structures are chiral
        return
    assert_allclose(after.energy, before.energy, rtol=1e-10)
    assert_allclose(after.node_energy, before.node_energy, atol=1e-10)
    assert_allclose(after.forces, before.forces @ matrix.T, atol=1e-10)
    assert_allclose(after.stress, matrix @ before.stress @ matrix.T, atol=1e-10)
    assert_allclose(after.virials, matrix @ before.virials @ matrix.T, atol=1e-10)


def test_translation_and_wrapping(any_network, structure):
    shifts = np.zeros((len(structure), 3))
    if structure.pbc.all():
        shifts[0], shifts[1] = [1, 0, -2], [0, 1, 1]  # images: other cells of the same crystal
    positions = structure.positions + [5.3, -2.1, 0.7] + shifts @ structure.cell
    before = any_network(structure)
    after = any_network(replace(structure, positions=positions))
    assert_allclose(after.energy, before.energy, rtol=1e-10)
    assert_allclose(after.forces, before.forces, atol=1e-10)
    assert_allclose(after.stress, before.stress, atol=1e-10)
    assert_allclose(before.forces.sum(axis=0), 0, atol=1e-10)


def test_permutation(any_network, structure, take):
    order = np.roll(np.arange(len(structure)), 1)
    before, after = any_network(structure), any_network(take(structure, order))
    assert_allclose(after.energy, before.energy, rtol=1e-10)
    assert_allclose(after.node_energy, before.node_energy[order], atol=1e-10)
    assert_allclose(after.forces, before.forces[order], atol=1e-10)
    assert_allclose(after.stress, before.stress, atol=1e-10)


def test_supercell_has_the_same_energy_per_atom_and_stress(any_network, crystal, take):
    doubled = take(crystal, [0, 1, 2, 0, 1, 2])
    doubled.positions[3:] += crystal.cell[0]
    doubled = replace(doubled, cell=crystal.cell * [[2], [1], [1]])
    single, double = any_network(crystal), any_network(doubled)
    assert_allclose(double.energy, 2 * single.energy, rtol=1e-10)
    assert_allclose(double.forces, np.tile(single.forces, (2, 1)), atol=1e-10)
    assert_allclose(double.stress, single.stress, atol=1e-10)


def test_forces_are_minus_the_gradient(any_network, structure):
    expected = np.zeros((len(structure), 3))
    for atom, axis in product(range(len(structure)), range(3)):
        step = np.zeros_like(expected)
        step[atom, axis] = STEP
        plus, minus = any_network.evaluate(
            [
                replace(structure, positions=structure.positions + step),
                replace(structure, positions=structure.positions - step),
            ]
        )
        expected[atom, axis] = -(plus.energy - minus.energy) / (2 * STEP)
    assert np.abs(expected).max() > 0.01
    assert_allclose(any_network(structure).forces, expected, atol=1e-6)


@pytest.mark.parametrize("periodic", ["crystal", "slab"])
def test_defect_16_stress_is_the_strain_derivative(any_network, periodic, request):
    structure = request.getfixturevalue(periodic)
    assert structure.pbc[:2].all()
    expected = np.zeros((3, 3))
    for a, b in product(range(3), range(3)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * STEP
            strained = replace(
                structure, positions=structure.positions @ strain, cell=structure.cell @ strain
            )
            energies.append(any_network(strained).energy)
        expected[a, b] = (energies[0] - energies[1]) / (2 * STEP)
    found = any_network(structure)
    assert np.abs(found.stress).max() > 3e-4
    assert_allclose(found.virials, -expected, atol=1e-7 * volume(structure))
    assert_allclose(found.stress * volume(structure), -found.virials, rtol=1e-12)
    assert_allclose(found.stress, found.stress.T, atol=0)


def test_virials_of_a_molecule_are_those_of_its_forces(any_network, molecule):
    """With open boundaries a strain moves atoms, and that is all it does."""
    found = any_network(molecule)
    assert np.abs(found.virials).max() > 1e-2
    assert_allclose(found.virials, molecule.positions.T @ found.forces, atol=1e-10)


def test_stress_without_a_periodic_cell_is_zero(any_network, molecule):
    boxed = replace(molecule, cell=8 * np.eye(3))
    assert not any_network(molecule).stress.any()
    assert not any_network(boxed).stress.any()


def test_smooth_where_an_atom_crosses_the_cutoff(smooth_network, molecule):
    """The last atom leaves the neighbourhood of the first; others still see it."""
    r_max, direction = smooth_network.bundle.config.r_max, np.array([0.6, 0.8, 0.0])

    def with_last_atom_at(distance):
        positions = molecule.positions.copy()
        positions[-1] = positions[0] + distance * direction
        return replace(molecule, positions=positions)

    tiny = 1e-6
    inside, outside = with_last_atom_at(r_max - tiny), with_last_atom_at(r_max + tiny)
    n_inside, n_outside = (len(neighbor_list(s, r_max).senders) for s in (inside, outside))
    assert n_inside == n_outside + 2
    before, after = smooth_network.evaluate([inside, outside])
    assert np.abs(after.forces[-1]).max() > 1e-4
    assert_allclose(after.energy, before.energy, atol=1e-5)
    assert_allclose(after.forces, before.forces, atol=1e-4)


def test_a_pair_fades_out_at_the_cutoff(smooth_network, lone_carbon, take):
    """With an envelope of (r_max - r)³ the energy falls as the cube, the force as the square."""
    r_max = smooth_network.bundle.config.r_max

    def pair(distance):
        positions = np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]])
        return replace(take(lone_carbon, [0, 0]), positions=positions)

    apart, near, nearer = smooth_network.evaluate(
        [pair(r_max + 0.1), pair(r_max - 0.02), pair(r_max - 0.01)]
    )
    assert not apart.forces.any()
    assert 0 < abs(nearer.energy - apart.energy) < abs(near.energy - apart.energy) / 6
    assert 0 < abs(nearer.forces[0, 0]) < abs(near.forces[0, 0]) / 3
    assert abs(near.forces[0, 0]) < 0.05
