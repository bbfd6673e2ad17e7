"""Errors of predictions against the labels that stand beside them, summed block by block."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.predictions_file import PredictionsBlock
from mace_jax.elements import symbol
from mace_jax.structures.exact_sum import ExactSum
from mace_jax.structures.structure_block import is_per_atom


class Quantity(NamedTuple):
    """What errors are told of.

    Attributes:
        label: its name among predictions and labels.
        per_atom: whether it is divided by the number of atoms.
        unit: for people.
    """

    label: str
    per_atom: bool
    unit: str


# By their names in metrics files of training, as far as these have them.
QUANTITIES = {
    "e": Quantity("energy", per_atom=False, unit="eV"),
    "e_per_atom": Quantity("energy", per_atom=True, unit="eV"),
    "f": Quantity("forces", per_atom=False, unit="eV/Å"),
    "stress": Quantity("stress", per_atom=False, unit="eV/Å³"),
    "virials": Quantity("virials", per_atom=False, unit="eV"),
    "virials_per_atom": Quantity("virials", per_atom=True, unit="eV"),
    "mu": Quantity("dipole", per_atom=False, unit="Debye"),
    "mu_per_atom": Quantity("dipole", per_atom=True, unit="Debye"),
    "charges": Quantity("charges", per_atom=False, unit="e"),
    "polarizability": Quantity("polarizability", per_atom=False, unit=""),
}
# Of these, one for each label: what tables and figures show.
SHOWN = ("e_per_atom", "f", "stress", "virials_per_atom", "mu", "charges", "polarizability")
# Of these, errors relative to the labels' own size are told, too.
_RELATIVE = ("f", "stress", "mu")


class Labelled(NamedTuple):
    """What a block has of one label, m rows.

    Attributes:
        labels, predictions: ``[m, …]``.
        rows: whether each row of the predictions is among them.
        owner: structure that each row belongs to, ``[m]``.
    """

    labels: NDArray[np.float64]
    predictions: NDArray[np.floating]
    rows: NDArray[np.bool_]
    owner: NDArray[np.int64]


def labelled(block: PredictionsBlock, name: str) -> Labelled | None:
    """Return the rows of a label that are predicted, too; None if there are none.

    Stress and virials mean nothing without a periodic cell and are left out there.
    """
    label = block.labels.get(name)
    if label is None or name not in block.predictions:
        return None
    usable = np.isfinite(block.volumes) | (name not in ("stress", "virials"))
    n = block.n_node
    owner = np.repeat(np.arange(len(n)), n if is_per_atom(name) else 1)
    rows = (label.present & usable)[owner]
    if not rows.any():
        return None
    values = label.values[usable[owner[label.present[owner]]]]
    return Labelled(values, block.predictions[name][rows], rows, owner[rows])


@dataclass
class ErrorSums:
    """Exact sums over the components of one quantity: of errors, their squares, label squares."""

    n: int = 0
    absolute: ExactSum = field(default_factory=ExactSum)
    squared: ExactSum = field(default_factory=ExactSum)
    label_squared: ExactSum = field(default_factory=ExactSum)

    def add(self, errors: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
        """Add components."""
        self.n += errors.size
        self.absolute.add_all(np.abs(errors))
        self.squared.add_all(errors * errors)
        self.label_squared.add_all(labels * labels)

    def metrics(self, name: str) -> Iterator[tuple[str, float]]:
        """Yield RMSE and MAE, and the relative RMSE in per cent where labels are not all zero."""
        root = float(np.sqrt(float(self.squared) / self.n))
        yield f"rmse_{name}", root
        yield f"mae_{name}", float(self.absolute) / self.n
        size = float(np.sqrt(float(self.label_squared) / self.n))
        if name in _RELATIVE and size > 0:
            yield f"rel_rmse_{name}", 100 * root / size


@dataclass
class Group:
    """Structures or atoms that errors are told of together.

    Attributes:
        n: how many there are, with labels or without.
        n_labels: structures with each label; in groups of atoms, atoms.
        sums: by the names of quantities.
    """

    n: int = 0
    n_labels: Counter[str] = field(default_factory=Counter)
    sums: dict[str, ErrorSums] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Return the errors of everything that is predicted and has labels."""
        return {
            key: value
            for name in QUANTITIES
            if name in self.sums
            for key, value in self.sums[name].metrics(name)
        }


class LabelErrors:
    """Errors over all structures, by config type, head and element.

    Attributes:
        all: of everything.
        groups: ``config_type``, ``head`` and ``element`` -> name -> group.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.all = Group()
        self.groups: dict[str, dict[str, Group]] = {"config_type": {}, "head": {}, "element": {}}

    def add(self, block: PredictionsBlock) -> None:
        """Add structures that were predicted."""
        members = [
            (self.all, np.ones(len(block.n_node), np.bool_)),
            *self._members("config_type", block.config_types),
            *self._members("head", block.heads),
        ]
        elements = self._members("element", [symbol(z) for z in block.atomic_numbers])
        for group, own in (*members, *elements):
            group.n += int(own.sum())
        for name in block.labels:
            found = labelled(block, name)
            if found is not None:
                _add_label(name, found, block.n_node, members, elements)

    def shown_groups(self) -> Iterator[tuple[str, str, Group]]:
        """Yield kind, name and group of those that tables show beside the errors of all.

        Config types and heads are shown where there are several, elements always.
        """
        for kind, groups in self.groups.items():
            if kind == "element" or len(groups) > 1:
                yield from ((kind, name, group) for name, group in sorted(groups.items()))

    def _members(self, kind: str, names: Sequence[str]) -> list[tuple[Group, NDArray[np.bool_]]]:
        """Return the groups that occur, and which structures or atoms each has."""
        found, codes = np.unique(np.array(names, object).astype(str), return_inverse=True)
        groups = self.groups[kind]
        return [
            (groups.setdefault(str(name), Group()), codes == code)
            for code, name in enumerate(found)
        ]

    def summary(self) -> dict[str, Any]:
        """Return the errors of all, and of each group that has some."""
        by = {
            f"by_{kind}": {
                name: {
                    "n_atoms" if kind == "element" else "n_graph": group.n,
                    "n_labels": dict(sorted(group.n_labels.items())),
                    **group.metrics(),
                }
                for name, group in sorted(groups.items())
                if group.sums
            }
            for kind, groups in self.groups.items()
        }
        return {**self.all.metrics(), **{kind: groups for kind, groups in by.items() if groups}}


def _add_label(
    name: str,
    found: Labelled,
    n_node: NDArray[np.int64],
    members: Sequence[tuple[Group, NDArray[np.bool_]]],
    elements: Sequence[tuple[Group, NDArray[np.bool_]]],
) -> None:
    """Add the errors of one label to all groups; elements have those of labels of atoms."""
    errors, values, owner = found.predictions - found.labels, found.labels, found.owner
    for group, own in members:
        kept = own[owner]
        group.n_labels[name] += len(np.unique(owner[kept]))
        _add_quantities(group, name, errors[kept], values[kept], n_node[owner[kept]])
    for group, own in elements if is_per_atom(name) else ():
        kept = own[found.rows]
        group.n_labels[name] += int(kept.sum())
        _add_quantities(group, name, errors[kept], values[kept], n_node[owner[kept]])


def _add_quantities(
    group: Group,
    label: str,
    errors: NDArray[np.float64],
    values: NDArray[np.float64],
    n_atoms: NDArray[np.int64],
) -> None:
    if not len(errors):
        return
    divisor = n_atoms.reshape(-1, *[1] * (errors.ndim - 1))
    for name, quantity in QUANTITIES.items():
        if quantity.label == label:
            sums = group.sums.setdefault(name, ErrorSums())
            by = divisor if quantity.per_atom else 1
            sums.add(errors / by, values / by)
