"""The check of a data set, structure by structure; nothing is read twice or kept whole."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mace_jax.elements import symbol
from mace_jax.errors import DataError
from mace_jax.structures.data_check.duplicates import duplicate_findings
from mace_jax.structures.data_check.energy_outliers import outlier_findings
from mace_jax.structures.data_check.records import Records
from mace_jax.structures.data_check.report import (
    CheckReport,
    ElementCount,
    Finding,
    LabelCount,
    Severity,
)
from mace_jax.structures.data_check.stress_sign import StressSign
from mace_jax.structures.data_check.worst import Worst
from mace_jax.structures.isolated_atoms import is_isolated_atom
from mace_jax.structures.neighbor_list import neighbor_list
from mace_jax.structures.structure import Structure, check_structure

_ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class CheckLimits:
    """What is still ordinary.

    Attributes:
        close_fraction: two atoms nearer than this fraction of the sum of their covalent radii are
            too close. The shortest bonds, such as that of Cr2, are at 0.6; lengths in nm
            or halved ones are far below.
        net_force: norm of the sum of the forces over the number of atoms, eV/Å. Energies do not
            depend on where a structure is, so forces sum to zero but for numerical errors; for
            those of published sets see Kuryla et al. 2025, arXiv:2510.19774.
        outlier_sigmas: energies farther than this from the median of their head are outliers.
        same_energy: energies of equal structures nearer than this are equal, eV per atom.
    """

    close_fraction: float = 0.5
    net_force: float = 1e-3
    outlier_sigmas: float = 10.0
    same_energy: float = 1e-3


class DataCheck:
    """Collects what is wrong with the structures it is given, some 100 bytes for each."""

    def __init__(self, limits: CheckLimits | None = None) -> None:
        self._limits = limits or CheckLimits()
        self._bad, self._close, self._pushed = Worst(), Worst(), Worst()
        self._records = Records()
        self._stress_sign = StressSign()
        self._n_structures: Counter[tuple[str, str]] = Counter()
        self._labels: Counter[tuple[str, str, str]] = Counter()
        self._n_atoms: dict[str, Counter[int]] = {}
        self._n_holding: dict[str, Counter[int]] = {}

    def add_bad(self, error: DataError) -> None:
        """Take note of a frame that could not be read."""
        self._bad.add(0.0, str(error))

    def add(self, structure: Structure, split: str = "train") -> None:
        """Check a structure of a split, and remember what later ones are compared with."""
        try:
            check_structure(structure)
            isolated = is_isolated_atom(structure)
            self._check_distances(structure)
        except DataError as error:
            self.add_bad(error)
            return
        if isolated:
            return
        self._count(structure, split)
        self._check_net_force(structure)
        self._stress_sign.add(structure)
        self._records.append(structure, split)

    def report(self) -> CheckReport:
        """Return everything found so far."""
        findings = [
            *self._single_findings(),
            *duplicate_findings(self._records, self._limits.same_energy),
            *outlier_findings(self._records, self._limits.outlier_sigmas),
            *self._stress_sign.findings(),
            *self._unseen_elements(),
            *self._partial_labels(),
        ]
        return CheckReport(
            tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity])),
            {
                split: {z: ElementCount(self._n_holding[split][z], atoms[z]) for z in sorted(atoms)}
                for split, atoms in self._n_atoms.items()
            },
            tuple(self._label_counts()),
        )

    def _count(self, structure: Structure, split: str) -> None:
        self._n_structures[split, structure.head] += 1
        for name in structure.properties:
            self._labels[split, structure.head, name] += 1
        counts = np.bincount(structure.atomic_numbers)
        elements = counts.nonzero()[0].tolist()
        self._n_holding.setdefault(split, Counter()).update(elements)
        atoms = self._n_atoms.setdefault(split, Counter())
        for number in elements:
            atoms[number] += int(counts[number])

    def _check_distances(self, structure: Structure) -> None:
        allowed = self._limits.close_fraction * _covalent_radii()[structure.atomic_numbers]
        edges = neighbor_list(structure, 2 * float(allowed.max()))
        if not len(edges.receivers):
            return
        positions = structure.positions
        vectors = positions[edges.receivers] - positions[edges.senders]
        distances = np.linalg.norm(vectors + edges.shifts @ structure.cell, axis=1)
        ratios = distances / (allowed[edges.receivers] + allowed[edges.senders])
        pair = int(ratios.argmin())
        if ratios[pair] < 1:
            names = [
                f"{symbol(int(structure.atomic_numbers[atom]))} {atom}"
                for atom in sorted((int(edges.senders[pair]), int(edges.receivers[pair])))
            ]
            text = f"{structure.place}: {' and '.join(names)} at {distances[pair]:.3f} Å"
            self._close.add(-float(ratios[pair]), text)

    def _check_net_force(self, structure: Structure) -> None:
        if "forces" not in structure.properties:
            return
        total = structure.properties["forces"].sum(axis=0)
        per_atom = float(np.linalg.norm(total)) / len(structure)
        if per_atom > self._limits.net_force:
            self._pushed.add(per_atom, f"{structure.place}: {per_atom:.4g} eV/Å per atom")

    def _single_findings(self) -> list[Finding]:
        bad, close, pushed = self._bad, self._close, self._pushed
        limits = self._limits
        found: list[tuple[str, Severity, Worst, str]] = [
            ("structures", "error", bad, "cannot be used"),
            (
                "close atoms",
                "warning",
                close,
                f"atoms nearer than {limits.close_fraction:g} of the sum of their covalent radii: "
                "wrong units, or atoms that overlap",
            ),
            (
                "net force",
                "warning",
                pushed,
                f"forces sum to more than {limits.net_force:g} eV/Å per atom: not converged, those "
                "of held atoms set to zero, or an outer field",
            ),
        ]
        return [
            Finding(check, severity, text, worst.count, places)
            for check, severity, worst, text in found
            if (places := worst.places())
        ]

    def _unseen_elements(self) -> Iterable[Finding]:
        if "train" not in self._n_atoms:
            return
        for split, atoms in self._n_atoms.items():
            unseen = sorted(atoms.keys() - self._n_atoms["train"].keys())
            if unseen:
                names = ", ".join(symbol(number) for number in unseen)
                message = f"{split} has {names}, of which the training data have nothing"
                count = max(self._n_holding[split][number] for number in unseen)
                yield Finding("elements", "warning", message, count)

    def _partial_labels(self) -> Iterable[Finding]:
        for (split, head, name), count in self._labels.items():
            n = self._n_structures[split, head]
            if count < n:
                message = f"{split}, head {head}: {name} in {count} of {n} structures"
                yield Finding("labels", "info", message, n - count)

    def _label_counts(self) -> Iterable[LabelCount]:
        for (split, head), n in self._n_structures.items():
            labels = {
                name: count
                for (of_split, of_head, name), count in self._labels.items()
                if (of_split, of_head) == (split, head)
            }
            yield LabelCount(split, head, n, labels)


@cache
def _covalent_radii() -> NDArray[np.float64]:
    """Return covalent radii by atomic number, Å (Cordero et al. 2008)."""
    from ase.data import covalent_radii

    return np.array(covalent_radii)
