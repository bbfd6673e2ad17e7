"""Structures that occur more than once: repeated, in two splits, or with labels that disagree."""

import numpy as np
from numpy.typing import NDArray

from mace_jax.structures.data_check.records import Records
from mace_jax.structures.data_check.report import Finding, Severity
from mace_jax.structures.data_check.worst import Worst


def duplicate_findings(records: Records, tolerance: float) -> list[Finding]:
    """Compare structures of the same geometry, head and inputs.

    Args:
        records: of all structures.
        tolerance: difference of energies that is still noise, eV per atom.
    """
    repeated, shared, differing, contradicting = Worst(), Worst(), Worst(), Worst()
    per_atom = np.frombuffer(records.energies, np.float64) / records.n_atoms()
    for first, other in _pairs(records.geometry()):
        if records.splits[first] != records.splits[other]:
            shared.add(0.0, _both(records, first, other))
        elif records.labels[first] == records.labels[other]:
            repeated.add(0.0, _both(records, first, other))
        if records.labels[first] != records.labels[other]:
            difference = float(abs(per_atom[first] - per_atom[other]))
            if np.isnan(difference):
                differing.add(0.0, f"{_both(records, first, other)}: not both have an energy")
                continue
            worst = contradicting if difference > tolerance else differing
            figure = f"{1000 * difference:.4g} meV per atom"
            worst.add(difference, f"{_both(records, first, other)}: {figure}")
    found: list[tuple[Worst, Severity, str]] = [
        (
            contradicting,
            "error",
            "geometry and head of another structure, but an energy of its own: one of the two is "
            "wrong, or an input such as the charge is not read",
        ),
        (differing, "warning", "geometry and head of another structure, but other labels"),
        (shared, "warning", "in two splits: errors on the second look too small"),
        (repeated, "warning", "repeated, labels included"),
    ]
    return [
        Finding("duplicates", severity, text, worst.count, places)
        for worst, severity, text in found
        if (places := worst.places())
    ]


def _pairs(geometry: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Return (first, other) for every structure whose digest an earlier one has."""
    order = np.lexsort(geometry.T)  # stable: equal ones stay in the order of the data
    in_order = geometry[order]
    same = (in_order[1:] == in_order[:-1]).all(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    places = np.flatnonzero(same) + 1
    firsts = starts[np.searchsorted(starts, places, side="right") - 1]
    pairs = zip(order[firsts].tolist(), order[places].tolist(), strict=True)
    return sorted(pairs, key=lambda pair: pair[1])


def _both(records: Records, first: int, other: int) -> str:
    return f"{records.places[other]} = {records.places[first]}"
