"""Predictions against labels: their density, and errors by element, config type and head."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.label_errors import QUANTITIES, SHOWN, LabelErrors, Quantity, labelled
from mace_jax.artifacts.predictions_file import PredictionsBlock, PredictionsFile
from mace_jax.elements import symbol
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.structures.structure_block import is_per_atom

_WIDEST = 8.0  # mean absolute errors to either side that are shown
_MOST_GROUPS = 6  # that have a curve of their own; the palette has as many colours


class Scale(NamedTuple):
    """The unit of a quantity, that of its errors, and how many of this are one of that."""

    unit: str
    error_unit: str
    factor: float

    @classmethod
    def of(cls, quantity: Quantity) -> "Scale":
        """Return the scale: errors of energies and their derivatives are told in thousandths."""
        unit = quantity.unit + ("/atom" if quantity.per_atom else "")
        return cls(unit, f"m{unit}", 1e3) if unit.startswith("eV") else cls(unit, unit, 1.0)


class Values(NamedTuple):
    """Labels and predictions of a block, ``[n]`` each, and the groups that each belongs to.

    Attributes:
        labels, predictions: in the unit of the quantity.
        groups: ``element`` (of labels of atoms), ``config_type`` and ``head`` -> names, ``[n]``.
    """

    labels: NDArray[np.float64]
    predictions: NDArray[np.float64]
    groups: dict[str, NDArray[np.str_]]


@dataclass
class Extremes:
    """Of a quantity: the least and greatest label and prediction, and the largest error."""

    labels: tuple[float, float] = (np.inf, -np.inf)
    predictions: tuple[float, float] = (np.inf, -np.inf)
    error: float = 0.0

    def add(self, values: Values) -> None:
        """Take the values of a block into account."""
        self.labels = _wider(self.labels, values.labels)
        self.predictions = _wider(self.predictions, values.predictions)
        self.error = max(self.error, float(np.abs(values.predictions - values.labels).max()))


def _wider(extremes: tuple[float, float], values: NDArray[np.float64]) -> tuple[float, float]:
    return min(extremes[0], float(values.min())), max(extremes[1], float(values.max()))


@dataclass
class ErrorHistogram:
    """Errors in bins, of all values and of groups of one kind.

    Attributes:
        edges: of the bins, in the unit of errors, ``[bins + 1]``.
        groups: name -> errors in each bin, of the groups with most values.
        n_groups: how many there are.
        counts: errors of all values in each bin, ``[bins]``.
    """

    edges: NDArray[np.float64]
    groups: dict[str, NDArray[np.int64]]
    n_groups: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, sizes: dict[str, int], n_values: int, widest: float) -> "ErrorHistogram":
        """Return empty bins: an odd number, one for zero, as the smallest group has values for.

        Args:
            sizes: values of each group.
            n_values: in all.
            widest: error to either side that is shown.
        """
        chosen = sorted(sorted(sizes, key=lambda name: (-sizes[name], name))[:_MOST_GROUPS])
        least = min((sizes[name] for name in chosen), default=n_values)
        n_bins = 2 * int(np.clip(1.75 * least ** (1 / 3), 7, 30)) + 1
        groups = {name: np.zeros(n_bins, np.int64) for name in chosen}
        edges = np.linspace(-widest, widest, n_bins + 1)
        return cls(edges, groups, len(sizes), np.zeros(n_bins, np.int64))

    def add(self, errors: NDArray[np.float64], names: NDArray[np.str_] | None) -> None:
        """Count errors, ``[n]``, and those of each group by ``names`` of the groups, ``[n]``."""
        self.counts += np.histogram(errors, self.edges)[0]
        for name in self.groups:
            self.groups[name] += np.histogram(errors[names == name], self.edges)[0]


@dataclass
class Parity:
    """What a figure shows of one quantity.

    Attributes:
        quantity: which.
        edges: of the bins of labels and predictions, ``[bins + 1]``.
        histograms: ``element``, ``config_type`` and ``head`` -> errors, where there is something
            to tell apart; else one without a name.
        density: values in each bin, labels by predictions, ``[bins, bins]``.
        n_values: all, also those outside of these bins.
    """

    quantity: Quantity
    edges: NDArray[np.float64]
    histograms: dict[str, ErrorHistogram]
    density: NDArray[np.int64] = field(init=False)
    n_values: int = 0

    def __post_init__(self) -> None:
        """Begin with empty bins."""
        n_bins = len(self.edges) - 1
        self.density = np.zeros((n_bins, n_bins), np.int64)

    def add(self, values: Values) -> None:
        """Count the values of a block."""
        self.n_values += values.labels.size
        bins = [self.edges, self.edges]
        self.density += np.histogram2d(values.labels, values.predictions, bins)[0].astype(np.int64)
        errors = (values.predictions - values.labels) * Scale.of(self.quantity).factor
        for kind, histogram in self.histograms.items():
            histogram.add(errors, values.groups.get(kind))


def block_values(block: PredictionsBlock, quantity: Quantity) -> Values | None:
    """Return what a block has of a quantity, component by component; None if it has none."""
    found = labelled(block, quantity.label)
    if found is None:
        return None
    divisor: NDArray[np.int64] | int = 1
    if quantity.per_atom:
        divisor = block.n_node[found.owner].reshape(-1, *[1] * (found.labels.ndim - 1))
    labels, predictions = (np.ravel(rows / divisor) for rows in (found.labels, found.predictions))
    groups = {
        "config_type": np.array(block.config_types)[found.owner],
        "head": np.array(block.heads)[found.owner],
    }
    if is_per_atom(quantity.label):
        numbers = block.atomic_numbers[found.rows]
        groups = {"element": np.array([symbol(number) for number in numbers]), **groups}
    n_components = found.labels[0].size
    repeated = {kind: np.repeat(names, n_components) for kind, names in groups.items()}
    return Values(labels, predictions, repeated)


def read_parities(
    path: Path, names: Sequence[str] | None = None
) -> tuple[list[Parity], LabelErrors]:
    """Count predictions and errors in bins, and sum the errors of every group.

    The file is passed over twice, in blocks: memory does not grow with it.

    Args:
        path: predictions in HDF5.
        names: quantities, such as ``f``; without, one for each label.

    Returns: each quantity, none if nothing that is predicted has labels; the errors of all.

    Raises:
        ArtifactError: it is damaged, or a label or prediction is not finite.
        ConfigError: a quantity of ``names`` has no labels.
    """
    with PredictionsFile(path) as file:
        errors, extremes = _survey(file)
        known = [name for name in QUANTITIES if name in extremes]
        shown = [name for name in SHOWN if name in known] if names is None else list(names)
        for name in shown:
            if name not in known:
                expected = f"some of {', '.join(known)}" if known else "labels beside predictions"
                message = f"{path}: no labels of {name!r}, expected {expected}; correct --keys"
                raise ConfigError(message)
        parities = {name: _empty_parity(name, errors, extremes[name]) for name in shown}
        for block in file.blocks() if parities else ():
            for name, values in _values_of(block, parities):
                parities[name].add(values)
    return list(parities.values()), errors


def _survey(file: PredictionsFile) -> tuple[LabelErrors, dict[str, Extremes]]:
    """Return what bins depend on: how large errors and values are, how many each group has."""
    errors, extremes, n_before = LabelErrors(), dict[str, Extremes](), 0
    for block in file.blocks():
        _require_finite(block, file.path, n_before)
        n_before += len(block.n_node)
        errors.add(block)
        for name, values in _values_of(block, QUANTITIES):
            extremes.setdefault(name, Extremes()).add(values)
    return errors, extremes


def _values_of(block: PredictionsBlock, names: Iterable[str]) -> Iterator[tuple[str, Values]]:
    found = ((name, block_values(block, QUANTITIES[name])) for name in names)
    return ((name, values) for name, values in found if values is not None)


def _require_finite(block: PredictionsBlock, path: Path, n_before: int) -> None:
    for name in block.labels:
        found = labelled(block, name)
        if found is None:
            continue
        for what, rows in (("label", found.labels), ("prediction", found.predictions)):
            finite = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
            if not finite.all():
                structure = n_before + int(found.owner[finite.argmin()])
                message = (
                    f"{path}: structure {structure}: {what} of {name} is not finite, expected "
                    "numbers; predict again with mace-jax-predict"
                )
                raise ArtifactError(message)


def _empty_parity(name: str, errors: LabelErrors, extremes: Extremes) -> Parity:
    """Return bins for all labels, but for no prediction and no error that is far beyond others."""
    quantity, n_values = QUANTITIES[name], errors.all.sums[name].n
    widest = min(extremes.error, _WIDEST * errors.all.metrics()[f"mae_{name}"])
    low = max(min(extremes.labels[0], extremes.predictions[0]), extremes.labels[0] - widest)
    high = min(max(extremes.labels[1], extremes.predictions[1]), extremes.labels[1] + widest)
    room = 0.0 if low < high else 0.5
    n_bins = int(np.clip(2 * n_values**0.5, 30, 120))
    sizes = _group_sizes(name, errors) or {"": {}}
    shown = (widest or 1.0) * Scale.of(quantity).factor
    return Parity(
        quantity,
        np.linspace(low - room, high + room, n_bins + 1),
        {kind: ErrorHistogram.of(found, n_values, shown) for kind, found in sizes.items()},
    )


def _group_sizes(name: str, errors: LabelErrors) -> dict[str, dict[str, int]]:
    """Return kind -> group -> values of a quantity, where there is something to tell apart."""
    sizes: dict[str, dict[str, int]] = {kind: {} for kind in ("element", "config_type", "head")}
    for kind, group, found in errors.shown_groups():
        if name in found.sums:
            sizes[kind][group] = found.sums[name].n
    return {kind: found for kind, found in sizes.items() if found}
