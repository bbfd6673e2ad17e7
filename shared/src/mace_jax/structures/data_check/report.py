"""What a check found, as a table for people and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mace_jax.elements import symbol
from mace_jax.structures.structure import PROPERTY_SHAPES

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: what was looked for, such as ``"close atoms"``.
        severity: ``error``: cannot be right; ``warning``: look at it; ``info``: good to know.
        message: what was found and what it means.
        count: structures concerned; of stresses, pairs of volumes compared.
        places: where, the worst first, at most ten; each with its figure.
    """

    check: str
    severity: Severity
    message: str
    count: int
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class ElementCount:
    """How often an element occurs."""

    n_structures: int
    n_atoms: int


@dataclass(frozen=True)
class LabelCount:
    """The structures of one head in one split, and how many have each label."""

    split: str
    head: str
    n_structures: int
    labels: Mapping[str, int]


@dataclass(frozen=True)
class CheckReport:
    """All findings, and tables of what the data holds.

    Attributes:
        findings: errors first.
        elements: split -> atomic number -> count.
        labels: by split and head.
    """

    findings: tuple[Finding, ...]
    elements: Mapping[str, Mapping[int, ElementCount]]
    labels: tuple[LabelCount, ...]

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def lines(self) -> list[str]:
        """Return tables of labels and elements, then the findings, for people."""
        return [*_label_lines(self.labels), *_element_lines(self.elements), *self._finding_lines()]

    def _finding_lines(self) -> list[str]:
        lines = []
        for finding in self.findings:
            count = f" ({finding.count})" if finding.count else ""
            lines.append(f"{finding.severity}: {finding.check}{count}: {finding.message}")
            lines += [f"  {place}" for place in finding.places]
        return lines or ["nothing found"]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON; elements by symbol."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "elements": {
                split: {symbol(z): asdict(count) for z, count in counts.items()}
                for split, counts in self.elements.items()
            },
            "labels": [asdict(count) for count in self.labels],
        }


def _label_lines(labels: tuple[LabelCount, ...]) -> list[str]:
    names = [name for name in PROPERTY_SHAPES if any(name in count.labels for count in labels)]
    rows = [["split", "head", "structures", *names]]
    for count in labels:
        found = [str(count.labels.get(name, 0)) for name in names]
        rows.append([count.split, count.head, str(count.n_structures), *found])
    return _aligned(rows, n_text=2)


def _element_lines(elements: Mapping[str, Mapping[int, ElementCount]]) -> list[str]:
    rows = [["split", "element", "structures", "atoms"]]
    for split, counts in elements.items():
        for number, count in counts.items():
            rows.append([split, symbol(number), str(count.n_structures), str(count.n_atoms)])
    return _aligned(rows, n_text=2)


def _aligned(rows: list[list[str]], n_text: int) -> list[str]:
    """Align columns, the first ``n_text`` to the left and the numbers after them to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < n_text else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
