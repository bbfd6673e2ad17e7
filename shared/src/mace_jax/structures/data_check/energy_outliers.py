"""Energies far from what compositions explain."""

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import MAX_ATOMIC_NUMBER
from mace_jax.structures.composition_rows import CompositionRows
from mace_jax.structures.data_check.records import Records
from mace_jax.structures.data_check.report import Finding
from mace_jax.structures.data_check.worst import Worst

_FEWEST = 10  # structures from which a spread can be told
_LEAST_SPREAD = 1e-3  # eV per atom; so that noise of the last digit is no outlier
_MOST_ROUNDS = 10
_SIGMA = 1.4826  # standard deviation of a normal distribution over its median deviation


def outlier_findings(records: Records, n_sigma: float) -> list[Finding]:
    """Find energies per atom far from the median of their head, after a fit of E0s.

    Args:
        records: of all structures.
        n_sigma: how far, in standard deviations told from the median deviation.
    """
    worst = Worst()
    energies = np.frombuffer(records.energies, np.float64)
    for _, indices in records.heads.groups():
        labelled = indices[np.isfinite(energies[indices])]
        if len(labelled) < _FEWEST:
            continue
        residuals, spread = _residuals(records, labelled, n_sigma)
        for place in np.flatnonzero(abs(residuals) > n_sigma * spread):
            figure = f"{residuals[place]:+.4g} eV per atom, {residuals[place] / spread:+.3g} sigma"
            name = records.places[int(labelled[place])]
            worst.add(float(abs(residuals[place] / spread)), f"{name}: {figure}")
    if not worst.count:
        return []
    message = (
        f"more than {n_sigma:g} sigma from the median of the head after a fit of E0s: wrong, not "
        "converged, or structures of another kind"
    )
    return [Finding("energy outliers", "warning", message, worst.count, worst.places())]


def _residuals(
    records: Records, indices: NDArray[np.int64], n_sigma: float
) -> tuple[NDArray[np.float64], float]:
    """Return residuals per atom about their median and their spread, eV.

    The fit is repeated without the outliers it showed, until they are the same.
    """
    energies = np.frombuffer(records.energies, np.float64)[indices]
    atomic_energies = np.zeros(MAX_ATOMIC_NUMBER + 1)
    good = np.ones(len(indices), dtype=bool)
    for _ in range(_MOST_ROUNDS):
        rows = CompositionRows()
        for part, counts in records.compositions(indices[good]):
            rows.add(counts.astype(np.int64), energies[good][part])
        for number, energy in rows.fit({}).energies.items():
            atomic_energies[number] = energy
        residuals = np.concatenate(
            [
                (energies[part] - counts @ atomic_energies) / counts.sum(axis=1)
                for part, counts in records.compositions(indices)
            ]
        )
        residuals -= np.median(residuals)
        spread = max(_SIGMA * float(np.median(abs(residuals))), _LEAST_SPREAD)
        now_good = abs(residuals) <= n_sigma * spread
        if np.array_equal(now_good, good):
            break
        good = now_good
    return residuals, spread
