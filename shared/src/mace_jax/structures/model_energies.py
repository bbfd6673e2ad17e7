"""The E0s of a model that is trained further: kept as they are, or corrected for other data."""

from collections.abc import Mapping
from dataclasses import replace

from mace_jax.elements import symbol
from mace_jax.errors import DataError
from mace_jax.structures.atomic_energy_table import (
    AtomicEnergy,
    AtomicEnergyTable,
    scale_warnings,
)
from mace_jax.structures.composition_rows import CompositionRows, LeastSquares
from mace_jax.structures.head_sums import HeadSums

MODEL = "model"
ESTIMATED = "estimated"
# eV; programs print energies to 1e-6 or better, and other methods differ by more than 0.1
_SAME = 1e-3


def kept_energies(
    atomic_energies: Mapping[int, float], head: str, sums: HeadSums, isolated: Mapping[int, float]
) -> AtomicEnergyTable:
    """Return a model's own E0s, and what speaks against them.

    Args:
        atomic_energies: of the model, eV, by atomic number.
        head: of the data.
        sums: over the training structures.
        isolated: energies of isolated atoms in the data, eV, by atomic number.
    """
    table = _table(atomic_energies, head, sums, None)
    differing = [
        f"{symbol(row.number)} {isolated[row.number]:.6g} eV, of the model {row.energy:.6g} eV"
        for row in table.rows
        if row.number in isolated and abs(isolated[row.number] - row.energy) > _SAME
    ]
    if not differing:
        return table
    warning = (
        f"{head}: isolated atoms in the data have other energies than the model's E0s, which are "
        f"kept: {'; '.join(differing)}; use --E0s isolated_atom if they are of another method"
    )
    return replace(table, warnings=(*table.warnings, warning))


def estimated_energies(
    atomic_energies: Mapping[int, float], head: str, sums: HeadSums, errors: CompositionRows
) -> AtomicEnergyTable:
    """Correct a model's E0s by what fits its errors best, by least squares of least norm.

    Args:
        atomic_energies: of the model, eV, by atomic number.
        head: of the data.
        sums: over the training structures.
        errors: compositions and errors, label minus prediction, eV, of the structures with an
            energy.

    Raises:
        DataError: there is no such structure.

    Source: mace-torch ``estimate_e0s_from_foundation``.
    """
    if not errors.n_rows:
        message = (
            f"E0s 'estimated': none of the {sums.n_structures} structures has an energy; "
            "name the key with --energy_key or keep the model's E0s"
        )
        raise DataError(message)
    return _table(atomic_energies, head, sums, errors.fit({}))


def _table(
    atomic_energies: Mapping[int, float], head: str, sums: HeadSums, fit: LeastSquares | None
) -> AtomicEnergyTable:
    corrections = fit.energies if fit else {}
    rows = tuple(
        AtomicEnergy(
            head,
            number,
            energy + corrections.get(number, 0.0),
            ESTIMATED if number in corrections else MODEL,
            sums.n_structures_with(number),
        )
        for number, energy in sorted(atomic_energies.items())
    )
    warnings = scale_warnings(head, sums, rows, ESTIMATED)
    return AtomicEnergyTable(rows, {head: fit} if fit else {}, tuple(warnings), ESTIMATED)
