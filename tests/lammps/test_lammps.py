"""Simulations in a real LAMMPS: the numbers of the ASE calculator, whichever way they are found."""

import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

from mace_jax.calculator import MACECalculator

# Both sides sum in another order; LAMMPS's positions differ by the last bit from ASE's.
RELATIVE = {"float64": 1e-10, "float32": 2e-5}
WAYS = [("plain", 1), ("plain", 2), ("exchange", 1), ("exchange", 2)]
MODES = {"plain": "halo", "exchange": "staged"}
VARIANTS = ["heads", "zbl", "one_layer", "three_layers", "density", "nonlinear"]


def assert_same(found, expected, relative=RELATIVE["float64"]):
    for name, values in expected.items():
        difference = np.abs(np.array(found[name]) - values).max()
        assert difference <= relative * np.abs(values).max(), name


@pytest.mark.parametrize(("flavor", "n_processes"), WAYS)
@pytest.mark.parametrize("structure", ["crystal", "disordered", "triclinic"])
def test_energy_forces_stress_and_energies_of_atoms(
    lammps, model, structure_of, expected, structure, flavor, n_processes
):
    outcome = lammps(model("vectors").lammps, structure_of(structure), flavor, n_processes)
    assert outcome.code == 0, outcome.text
    assert_same(outcome.found, expected("vectors", structure))
    assert outcome.text.count("mace-jax: ScaleShiftMACE, head Default, float64, 2 layers") == 1
    assert f"elements Na Cl, units metal; {MODES[flavor]}: " in outcome.text
    assert outcome.text.count("mace-jax: self-test passed") == 1
    assert outcome.found["compilations"] <= 3


@pytest.mark.parametrize(("flavor", "n_processes"), [("plain", 1), ("exchange", 2)])
@pytest.mark.parametrize("name", VARIANTS)
def test_other_models(lammps, model, structure_of, expected, name, flavor, n_processes):
    outcome = lammps(model(name).lammps, structure_of("crystal"), flavor, n_processes)
    assert outcome.code == 0, outcome.text
    assert_same(outcome.found, expected(name, "crystal"))


@pytest.mark.parametrize(("flavor", "n_processes"), [("plain", 1), ("exchange", 2)])
def test_float32(lammps, model, structure_of, expected, flavor, n_processes):
    outcome = lammps(model("float32").lammps, structure_of("crystal"), flavor, n_processes)
    assert outcome.code == 0, outcome.text
    assert_same(outcome.found, expected("float32", "crystal"), RELATIVE["float32"])


@pytest.mark.parametrize("flavor", ["plain", "exchange"])
def test_a_process_without_atoms(lammps, model, structure_of, expected, flavor):
    outcome = lammps(model("vectors").lammps, structure_of("half_empty"), flavor, 2)
    assert outcome.code == 0, outcome.text
    assert outcome.found["n_locals"] == [64, 0]
    assert_same(outcome.found, expected("vectors", "half_empty"))


@pytest.mark.parametrize(("flavor", "n_processes"), [("plain", 1), ("exchange", 2)])
@pytest.mark.parametrize("structure", ["one_in_a_small_box", "one_alone"])
def test_one_atom(lammps, model, structure_of, expected, structure, flavor, n_processes):
    outcome = lammps(model("vectors").lammps, structure_of(structure), flavor, n_processes)
    assert outcome.code == 0, outcome.text
    for name, values in expected("vectors", structure).items():
        np.testing.assert_allclose(outcome.found[name], values, rtol=0, atol=1e-10, err_msg=name)


def test_lists_of_ghosts_change_nothing(lammps, model, structure_of, expected):
    outcome = lammps(model("vectors").lammps, structure_of("crystal"), "plain", ghosts=1)
    assert outcome.code == 0, outcome.text
    assert_same(outcome.found, expected("vectors", "crystal"))


@pytest.mark.parametrize("command", ["comm_modify cutoff 1.0", "comm_modify cutoff 14.0"])
def test_the_halo_depends_on_no_setting(lammps, model, structure_of, expected, command):
    outcome = lammps(model("vectors").lammps, structure_of("crystal"), "plain", commands=[command])
    assert outcome.code == 0, outcome.text
    assert_same(outcome.found, expected("vectors", "crystal"))


def test_elements_are_found_by_symbol(lammps, model, structure_of, expected):
    outcome = lammps(
        model("vectors").lammps,
        structure_of("crystal"),
        "plain",
        types=["Cl", "Na"],
        pair_coeff="Cl Na",
    )
    assert outcome.code == 0, outcome.text
    assert_same(outcome.found, expected("vectors", "crystal"))


@pytest.mark.parametrize(("flavor", "n_processes"), WAYS)
def test_dynamics(lammps, model, structure_of, flavor, n_processes):
    """Energy is conserved as in ASE, nothing is compiled for every step, the end is as ASE's."""
    exported = model("vectors")
    outcome = lammps(exported.lammps, structure_of("crystal"), flavor, n_processes, steps=200)
    assert outcome.code == 0, outcome.text
    total = np.array(outcome.found["total"])
    assert np.ptp(total) < 3 * drift_in_ase(exported, structure_of("crystal")) + 1e-6
    assert outcome.found["compilations"] <= 3
    atoms = structure_of("crystal")
    atoms.positions = outcome.found["positions"]
    atoms.calc = MACECalculator(exported.bundle)
    assert_same(
        outcome.found["last"],
        {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()},
    )


def drift_in_ase(exported, atoms):
    """Return the range of the total energy over 200 steps like LAMMPS's, eV."""
    atoms.set_masses(np.full(len(atoms), 25.0))
    atoms.calc = MACECalculator(exported.bundle)
    spread = np.sqrt(25.0 * units.kB * 300)
    atoms.set_momenta(np.random.default_rng(0).normal(scale=spread, size=(len(atoms), 3)))
    dynamics, total = VelocityVerlet(atoms, 0.5 * units.fs), []
    for _ in range(10):
        dynamics.run(20)
        total.append(atoms.get_total_energy())
    return np.ptp(total)
