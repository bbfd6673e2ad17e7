"""Dipoles, charges and polarizabilities of random networks; tolerances as in test_physics."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.errors import DataError
from mace_jax.structures.structure import Structure

DEBYE = 0.20819434  # e Å
ENERGIES = {"energy", "node_energy", "forces", "virials", "stress"}
GIVEN = ("AtomicDipolesMACE", "EnergyDipolesMACE")  # the charges are given with the structure


def rotation() -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    return matrix * np.linalg.det(matrix)


def kind_of(network) -> str:
    return network.bundle.config.model


def with_charges(structure: Structure, charges) -> Structure:
    return replace(structure, inputs={**structure.inputs, "charges": np.asarray(charges, float)})


def test_what_each_model_predicts(dipole_network, molecule):
    expected = {
        "AtomicDipolesMACE": {"dipole", "atomic_dipoles"},
        "EnergyDipolesMACE": {"dipole", "atomic_dipoles"} | ENERGIES,
        "AtomicDielectricMACE": {"dipole", "atomic_dipoles", "charges", "polarizability"},
    }[kind_of(dipole_network)]
    found = vars(dipole_network(molecule))
    assert found.keys() == expected
    assert min(np.abs(value).max() for name, value in found.items() if name != "stress") > 1e-3


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "rotoinversion"])
def test_rotation_and_inversion(dipole_network, structure, sign):
    matrix = sign * rotation()
    turned = replace(
        structure, positions=structure.positions @ matrix.T, cell=structure.cell @ matrix.T
    )
    before, after = dipole_network(structure), dipole_network(turned)
    assert_allclose(after.dipole, matrix @ before.dipole, atol=1e-10)
    assert_allclose(after.atomic_dipoles, before.atomic_dipoles @ matrix.T, atol=1e-10)
    if kind_of(dipole_network) == "AtomicDielectricMACE":
        assert_allclose(after.charges, before.charges, atol=1e-10)
        expected = matrix @ before.polarizability @ matrix.T
        assert_allclose(after.polarizability, expected, atol=1e-10)


def test_permutation(dipole_network, structure, take):
    order = np.roll(np.arange(len(structure)), 1)
    before, after = dipole_network(structure), dipole_network(take(structure, order))
    assert_allclose(after.dipole, before.dipole, atol=1e-10)
    assert_allclose(after.atomic_dipoles, before.atomic_dipoles[order], atol=1e-10)
    if kind_of(dipole_network) == "AtomicDielectricMACE":
        assert_allclose(after.charges, before.charges[order], atol=1e-10)
        assert_allclose(after.polarizability, before.polarizability, atol=1e-10)


def test_translation_moves_the_dipole_of_an_ion_only(dipole_network, molecule):
    """By the net charge times the distance."""
    distance = np.array([5.3, -2.1, 0.7])
    charges = molecule.inputs["charges"]
    neutral = {
        **molecule.inputs,
        "charges": charges - charges.mean(),
        "total_charge": np.array(0.0),
    }
    unit = DEBYE if kind_of(dipole_network) in GIVEN else 1.0
    net = charges.sum() if kind_of(dipole_network) in GIVEN else -1.0
    assert abs(net) > 0.1
    for inputs, expected in ((neutral, 0.0), (molecule.inputs, net / unit)):
        here = replace(molecule, inputs=inputs)
        there = replace(here, positions=here.positions + distance)
        before, after = dipole_network.evaluate([here, there])
        assert_allclose(after.dipole - before.dipole, expected * distance, atol=1e-6)
        assert_allclose(after.atomic_dipoles, before.atomic_dipoles, atol=1e-10)


@pytest.mark.parametrize("name", GIVEN)
def test_given_charges_add_their_dipole(network_of, molecule, name):
    charges = np.array([0.3, -0.5, 0.1, 0.2, -0.4])
    network = network_of(name)
    uncharged, charged = network.evaluate(
        [with_charges(molecule, np.zeros(5)), with_charges(molecule, charges)]
    )
    assert_allclose(uncharged.dipole, uncharged.atomic_dipoles.sum(axis=0), atol=1e-12)
    expected = charges @ molecule.positions / DEBYE
    assert_allclose(charged.dipole - uncharged.dipole, expected, rtol=1e-7)
    assert_allclose(charged.atomic_dipoles, uncharged.atomic_dipoles, atol=1e-12)


def test_charge_labels_are_given_charges_too(network_of, molecule):
    network = network_of("AtomicDipolesMACE")
    charges = molecule.inputs["charges"]
    labelled = replace(molecule, inputs={}, properties={"charges": charges})
    assert_allclose(network(labelled).dipole, network(molecule).dipole, rtol=1e-14)
    silent = replace(molecule, inputs={})
    uncharged = with_charges(molecule, np.zeros(5))
    assert_allclose(network(silent).dipole, network(uncharged).dipole, rtol=1e-14)


def test_charges_of_the_wrong_length_are_refused(network_of, molecule):
    with pytest.raises(DataError, match=r"charges: shape \(4,\), expected \(5, 1\)"):
        network_of("AtomicDipolesMACE")(with_charges(molecule, np.zeros(4)))


@pytest.fixture
def dielectric(network_of):
    return network_of("AtomicDielectricMACE")


@pytest.mark.parametrize("total", [-2.0, 0.0, 1.0])
def test_charges_add_up_to_the_total_charge(dielectric, structure, total):
    inputs = {**structure.inputs, "total_charge": np.array(total)}
    found = dielectric(replace(structure, inputs=inputs))
    assert found.charges.sum() == pytest.approx(total, abs=1e-12)
    assert np.ptp(found.charges) > 1e-2


def test_total_charge_is_spread_evenly(dielectric, molecule):
    """The network itself does not see it."""
    neutral = {**molecule.inputs, "total_charge": np.array(0.0)}
    ion, atom = dielectric.evaluate([molecule, replace(molecule, inputs=neutral)])
    assert_allclose(ion.charges - atom.charges, -1 / 5, atol=1e-12)
    shift = -molecule.positions.mean(axis=0)
    assert_allclose(ion.dipole - atom.dipole, shift, atol=1e-12)
    assert_allclose(ion.polarizability, atom.polarizability, atol=1e-12)
    (silent,) = dielectric.evaluate([replace(molecule, inputs={})])
    assert_allclose(silent.charges, atom.charges, atol=1e-12)


def test_dipole_is_that_of_charges_and_atoms(dielectric, molecule):
    found = dielectric(molecule)
    expected = found.atomic_dipoles.sum(axis=0) + found.charges @ molecule.positions
    assert_allclose(found.dipole, expected, atol=1e-12)


def test_polarizability_is_symmetric_and_not_only_isotropic(dielectric, structure):
    found = dielectric(structure).polarizability
    assert_allclose(found, found.T, atol=1e-12)
    anisotropic = found - np.trace(found) / 3 * np.eye(3)
    assert np.abs(anisotropic).max() > 1e-2
    assert abs(np.trace(found)) > 1e-2


def test_polarizabilities_of_far_molecules_add_up(dielectric, molecule, take):
    twice = take(molecule, [*range(5), *range(5)])
    matrix = rotation()
    twice.positions[5:] = molecule.positions @ matrix.T + [40.0, 0, 0]
    one, both = dielectric(molecule).polarizability, dielectric(twice).polarizability
    assert_allclose(both, one + matrix @ one @ matrix.T, atol=1e-10)


def test_an_isolated_atom_has_no_dipole_of_its_own(dipole_network, lone_carbon):
    found = dipole_network(lone_carbon)
    assert not found.atomic_dipoles.any()
    if kind_of(dipole_network) == "AtomicDielectricMACE":
        assert_allclose(found.charges, [-1], atol=1e-12)
        mean = np.trace(found.polarizability) / 3
        assert_allclose(found.polarizability, mean * np.eye(3), atol=1e-12)


def test_a_batch_equals_one_by_one(dipole_network, molecule, crystal, lone_carbon):
    structures = [molecule, lone_carbon, crystal]
    for together, structure in zip(dipole_network.evaluate(structures), structures, strict=True):
        for name, value in vars(dipole_network(structure)).items():
            assert_allclose(getattr(together, name), value, atol=1e-12, err_msg=name)


def test_padding_slots_are_zero(dipole_network, molecule):
    batch = dipole_network.batch([molecule])
    out = jax.device_get(dipole_network.evaluate_batch(batch))
    for value in out.values():
        mask = batch.node_mask if len(value) == len(batch.node_mask) else batch.graph_mask
        assert not value[~mask].any()


def test_smooth_where_an_atom_crosses_the_cutoff(dipole_network, molecule):
    r_max, direction = dipole_network.bundle.config.r_max, np.array([0.6, 0.8, 0.0])

    def with_last_atom_at(distance):
        positions = molecule.positions.copy()
        positions[-1] = positions[0] + distance * direction
        return replace(molecule, positions=positions)

    before, after = dipole_network.evaluate(
        [with_last_atom_at(r_max - 1e-6), with_last_atom_at(r_max + 1e-6)]
    )
    for name, value in vars(before).items():
        assert_allclose(getattr(after, name), value, atol=1e-4, err_msg=name)


def test_forces_of_a_dipole_model_do_not_depend_on_given_charges(network_of, molecule):
    """They are those of its energy, in which the charges do not occur."""
    network = network_of("EnergyDipolesMACE")
    one, other = network.evaluate([molecule, with_charges(molecule, np.ones(5))])
    assert_allclose(one.energy, other.energy, rtol=1e-14)
    assert_allclose(one.forces, other.forces, atol=1e-14)
