"""E0s of a model that is trained on other data."""

import numpy as np
import pytest

from mace_jax.errors import DataError
from mace_jax.structures.atomic_energy_table import AtomicEnergy
from mace_jax.structures.composition_rows import CompositionRows
from mace_jax.structures.head_sums import HeadSums
from mace_jax.structures.model_energies import estimated_energies, kept_energies
from mace_jax.structures.structure import Structure
from mace_jax.structures.structure_block import StructureBlock

OWN = {1: -13.6, 6: -1029.7, 8: -2041.9}
WATER, HYDROXYL = [1, 1, 8], [1, 8]


def counts(numbers):
    return np.bincount(numbers, minlength=119)


def sums_of(molecules, energies=OWN, binding=3.0):
    """Molecules of atoms bound by ``binding`` eV each."""
    sums = HeadSums()
    for numbers in molecules:
        n = len(numbers)
        energy = np.array(sum(energies[z] for z in numbers) - binding * n)
        cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
        structure = Structure(np.array(numbers), np.eye(n, 3), cell, pbc, {"energy": energy})
        sums.add(StructureBlock.of([structure]), np.ones(n, int))
    return sums


def errors_of(*molecules):
    rows = CompositionRows()
    for numbers, error in molecules:
        rows.add(counts(numbers)[None], np.array([error]))
    return rows


def test_kept_e0s_are_the_models():
    table = kept_energies(OWN, "Default", sums_of([WATER, WATER, HYDROXYL]), {1: -13.6})
    assert table.rows == (
        AtomicEnergy("Default", 1, -13.6, "model", 3),
        AtomicEnergy("Default", 6, -1029.7, "model", 0),
        AtomicEnergy("Default", 8, -2041.9, "model", 3),
    )
    assert (table.warnings, table.fits) == ((), {})


def test_isolated_atoms_of_another_method_are_noticed():
    sums = sums_of([WATER, HYDROXYL])
    (warning,) = kept_energies(OWN, "a", sums, {1: -13.65, 8: -2041.9}).warnings
    assert warning.startswith("a: isolated atoms in the data have other energies than")
    assert "H -13.65 eV, of the model -13.6 eV; use --E0s isolated_atom" in warning
    assert "O " not in warning


def test_energies_of_another_method_are_noticed():
    other = {1: -10.71, 8: -102.57}
    (warning,) = kept_energies(OWN, "a", sums_of([WATER, HYDROXYL], other), {}).warnings
    assert "cannot be from the same method" in warning
    assert "use --E0s estimated" in warning


def test_estimates_remove_what_the_elements_explain():
    errors = errors_of((WATER, 2 * 0.1 - 0.5), (HYDROXYL, 0.1 - 0.5), (WATER, 2 * 0.1 - 0.5))
    table = estimated_energies(OWN, "a", sums_of([WATER, HYDROXYL, WATER]), errors)
    found = {row.number: (row.energy, row.source) for row in table.rows}
    assert found[1] == (pytest.approx(-13.5, abs=1e-12), "estimated")
    assert found[8] == (pytest.approx(-2042.4, abs=1e-12), "estimated")
    assert found[6] == (-1029.7, "model")
    assert "a: estimated over 3 structures: rank 2 of 2, condition" in table.lines()[-1]


def test_of_one_composition_the_smallest_correction_is_taken():
    """A water that is 0.9 eV too low: (2a + b) = 0.9 with the least a² + b²."""
    table = estimated_energies(OWN, "a", sums_of([WATER]), errors_of((WATER, 0.9)))
    found = {row.number: row.energy - OWN[row.number] for row in table.rows}
    assert (found[1], found[8]) == (pytest.approx(0.36), pytest.approx(0.18))


def test_no_energies_to_estimate_from():
    message = r"^E0s 'estimated': none of the 1 structures has an energy; .*--energy_key"
    with pytest.raises(DataError, match=message):
        estimated_energies(OWN, "a", sums_of([WATER]), CompositionRows())
