"""Do stresses have the sign and unit of the energies' volume derivative?

Where the data hold one crystal at several volumes, alike but for the scale, dE/dV by finite
difference must be tr(stress) / 3. Such series are found by a digest of fractional positions and the
shape of the cell, so nothing but a few numbers of each structure is kept.
"""

import hashlib
from array import array

import numpy as np
from numpy.typing import NDArray

from mace_jax.structures.data_check.report import Finding
from mace_jax.structures.structure import Structure, volume

_BINS = 1000  # of fractional coordinates, and of the cell over the cube root of its volume
_OFFSET = 0.3183  # so that no simple fraction sits between two bins
_CLOSEST, _FARTHEST = 1e-4, 0.2  # relative volume difference of a pair
_TOLERANCE = 0.2
_GPA = 160.2176634  # of one eV/Å³
_MISTAKES = {
    -1.0: "the stress has the opposite sign",
    1 / _GPA: "the stress is in GPa",
    -1 / _GPA: "the stress is in GPa with the opposite sign",
    0.1 / _GPA: "the stress is in kbar",
    -0.1 / _GPA: "the stress is in kbar with the opposite sign",
}


class StressSign:
    """Volumes, energies and mean stresses of periodic crystals."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._volumes = array("d")
        self._energies = array("d")
        self._mean_stresses = array("d")

    def add(self, structure: Structure) -> None:
        """Add a structure; one without energy, stress or virials, or a full cell is passed over."""
        labels, cell_volume = structure.properties, volume(structure)
        if not structure.pbc.all() or not np.isfinite(cell_volume) or "energy" not in labels:
            return
        if "stress" in labels:
            stress = labels["stress"]
        elif "virials" in labels:
            stress = -labels["virials"] / cell_volume
        else:
            return
        self._keys.append(_shape_key(structure, cell_volume))
        self._volumes.append(cell_volume)
        self._energies.append(float(labels["energy"]))
        self._mean_stresses.append(float(np.trace(stress)) / 3)

    def findings(self) -> list[Finding]:
        """Say how stresses and volume derivatives compare."""
        derivatives, stresses = self._pairs()
        n = len(derivatives)
        if not n:
            if not self._keys:
                return []
            message = "no crystal at two volumes in the data: sign and unit of stresses not tested"
            return [Finding("stress sign", "info", message, 0)]
        if not stresses.any():
            message = f"{n} pairs of volumes, all stresses are zero: they were filled in"
            return [Finding("stress sign", "error", message, n)]
        factor = float(derivatives @ stresses / (stresses @ stresses))
        figure = f"dE/dV is {factor:.3g} × tr(stress)/3 over {n} pairs of volumes"
        if abs(factor - 1) < _TOLERANCE:
            return [Finding("stress sign", "info", f"{figure}, expected 1: they agree", n)]
        for expected, mistake in _MISTAKES.items():
            if abs(factor / expected - 1) < _TOLERANCE:
                return [Finding("stress sign", "error", f"{figure}, expected 1: {mistake}", n)]
        message = f"{figure}, expected 1: energies and stresses do not belong together"
        return [Finding("stress sign", "warning", message, n)]

    def _pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return dE/dV and tr(stress)/3 between neighbouring volumes of each crystal, eV/Å³."""
        keys = np.frombuffer(self._keys, np.uint64)
        order = np.lexsort((np.frombuffer(self._volumes, np.float64), keys))
        keys = keys[order]
        volumes, energies, stresses = (
            np.frombuffer(column, np.float64)[order]
            for column in (self._volumes, self._energies, self._mean_stresses)
        )
        steps = np.diff(volumes)
        same = keys[1:] == keys[:-1]
        paired = same & (steps > _CLOSEST * volumes[:-1]) & (steps < _FARTHEST * volumes[:-1])
        derivatives = np.diff(energies)[paired] / steps[paired]
        return derivatives, ((stresses[1:] + stresses[:-1]) / 2)[paired]


def _shape_key(structure: Structure, cell_volume: float) -> int:
    """Return a number that a crystal shares with its scaled copies."""
    fractional = structure.positions @ np.linalg.inv(structure.cell)
    bins = np.floor((fractional - fractional[0]) * _BINS + _OFFSET).astype(np.int64) % _BINS
    shape = np.floor(structure.cell / cell_volume ** (1 / 3) * _BINS + _OFFSET).astype(np.int64)
    digest = hashlib.blake2b(structure.head.encode(), digest_size=8)
    for whole in (structure.atomic_numbers.astype(np.int64), bins, shape):
        digest.update(whole.tobytes())
    return int.from_bytes(digest.digest())
