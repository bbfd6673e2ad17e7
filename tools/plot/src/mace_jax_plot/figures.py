"""Figures of a report: parity with error histograms, fill of batches, sizes of structures."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mace_jax.artifacts.label_errors import QUANTITIES, SHOWN, LabelErrors, Quantity, labelled
from mace_jax.artifacts.predictions_file import PredictionsBlock, PredictionsFile
from mace_jax.elements import symbol
from mace_jax.structures.structure_block import is_per_atom

_BINS = 120
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "mace-jax",
}


class Values(NamedTuple):
    """Labels and predictions of a block, ``[n]`` each, and the group that each belongs to."""

    labels: NDArray[np.float64]
    predictions: NDArray[np.float64]
    elements: NDArray[np.int64] | None
    config_types: NDArray[Any]


class ErrorRow(NamedTuple):
    """Errors of one quantity over a group, in the unit named."""

    quantity: str
    group: str
    n_values: int
    mae: float
    rmse: float
    unit: str


class _Scale(NamedTuple):
    """The unit of a quantity, that of its errors, and how many of this are one of that."""

    unit: str
    error_unit: str
    factor: float

    @classmethod
    def of(cls, quantity: Quantity) -> "_Scale":
        """Return the scale: errors of energies and their derivatives are told in thousandths."""
        unit = quantity.unit + ("/atom" if quantity.per_atom else "")
        return cls(unit, f"m{unit}", 1e3) if unit.startswith("eV") else cls(unit, unit, 1.0)


def svg(figure: Figure) -> str:
    """Return a figure as SVG text that is the same each time."""
    with mpl.rc_context(_STYLE), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


def block_values(block: PredictionsBlock, quantity: Quantity) -> Values | None:
    """Return what a block has of a quantity, component by component; None if it has none."""
    found = labelled(block, quantity.label)
    if found is None:
        return None
    divisor: NDArray[np.int64] | int = 1
    if quantity.per_atom:
        divisor = block.n_node[found.owner].reshape(-1, *[1] * (found.labels.ndim - 1))
    n_components = found.labels[0].size
    elements = None
    if is_per_atom(quantity.label):
        elements = np.repeat(block.atomic_numbers[found.rows], n_components)
    types = np.asarray(block.config_types, dtype=object)[found.owner]
    labels, predictions = (np.ravel(rows / divisor) for rows in (found.labels, found.predictions))
    return Values(labels, predictions, elements, np.repeat(types, n_components))


def _blocks(file: PredictionsFile, quantity: Quantity) -> Iterator[Values]:
    found = (block_values(block, quantity) for block in file.blocks())
    return (values for values in found if values is not None)


def parity(path: Path) -> tuple[list[Figure], list[ErrorRow]]:
    """Draw predictions against labels, and tell the errors of each element and config type.

    The file is passed over in blocks: memory does not grow with it.

    Raises:
        ArtifactError: it is damaged.
    """
    errors = LabelErrors()
    with PredictionsFile(path) as file:
        for block in file.blocks():
            errors.add(block)
        shown = [name for name in SHOWN if name in errors.all.sums]
        several_types = len(errors.groups["config_type"]) > 1
        figures = [_parity_of(file, QUANTITIES[name], several_types) for name in shown]
    return figures, [row for name in shown for row in _error_rows(errors, name)]


def _error_rows(errors: LabelErrors, name: str) -> Iterator[ErrorRow]:
    quantity = QUANTITIES[name]
    scale = _Scale.of(quantity)
    groups = [("", "all", errors.all), *errors.shown_groups()]
    for kind, group, found in groups:
        if name in found.sums:
            metrics = {key: scale.factor * value for key, value in found.metrics().items()}
            yield ErrorRow(
                quantity.label,
                f"{kind.replace('_', ' ')} {group}".strip(),
                found.sums[name].n,
                metrics[f"mae_{name}"],
                metrics[f"rmse_{name}"],
                scale.error_unit,
            )


def _extremes(values: Values) -> NDArray[np.float64]:
    both = np.concatenate([values.labels, values.predictions])
    error = np.abs(values.predictions - values.labels).max()
    return np.array([-both.min(), both.max(), error])


def _parity_of(file: PredictionsFile, quantity: Quantity, several_types: bool) -> Figure:
    scale = _Scale.of(quantity)
    ranges = [_extremes(values) for values in _blocks(file, quantity)]
    low, high, largest = np.max(ranges, axis=0) * [-1, 1, scale.factor]
    room = 0.0 if low < high else 0.5
    edges = np.linspace(low - room, high + room, _BINS + 1)
    error_edges = np.linspace(-1, 1, 61) * (largest or 1.0)
    density = np.zeros((_BINS, _BINS))
    counts: dict[str, NDArray[np.float64]] = {}
    for values in _blocks(file, quantity):
        density += np.histogram2d(values.labels, values.predictions, [edges, edges])[0]
        errors = (values.predictions - values.labels) * scale.factor
        for group, chosen in _groups(values, several_types):
            counts[group] = counts.get(group, 0) + np.histogram(errors[chosen], error_edges)[0]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.8, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_density(left, density, edges, _with_unit(quantity.label, scale.unit))
        label = _with_unit(f"error of {quantity.label}", scale.error_unit)
        _draw_errors(right, counts, error_edges, label)
    return figure


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _groups(values: Values, several_types: bool) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "all", np.ones(values.labels.size, bool)
    if values.elements is not None:
        for number in np.unique(values.elements):
            yield f"element {symbol(int(number))}", values.elements == number
    for name in sorted(set(values.config_types)) if several_types else ():
        yield f"config type {name}", values.config_types == name


def _draw_density(
    axes: Axes, density: NDArray[np.float64], edges: NDArray[np.float64], label: str
) -> None:
    shown = np.ma.masked_equal(density.T, 0)
    mesh = axes.pcolormesh(edges, edges, shown, norm=LogNorm(vmin=1), rasterized=True)
    axes.figure.colorbar(mesh, ax=axes, shrink=0.75).ax.set_title("count", fontsize=8)
    axes.plot(edges[[0, -1]], edges[[0, -1]], color="gray", linewidth=0.8)
    axes.set_aspect("equal")
    axes.set_xlabel(f"label: {label}")
    axes.set_ylabel(f"predicted: {label}")


def _draw_errors(
    axes: Axes, counts: dict[str, NDArray[np.float64]], edges: NDArray[np.float64], label: str
) -> None:
    for group, count in counts.items():
        density = count / count.sum() / np.diff(edges)
        axes.stairs(density, edges, label=group, linewidth=1.4)
    axes.set_xlabel(label)
    axes.set_ylabel("density")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def histograms(columns: dict[str, NDArray[Any]]) -> Figure:
    """Draw a histogram for each column; its name is the label of the axis."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2 * len(columns), 3.0), layout="constrained")
        panels = figure.subplots(1, len(columns), squeeze=False)[0]
        for axes, (label, values) in zip(panels, columns.items(), strict=True):
            low, high = int(values.min()), int(values.max())
            width = -(-(high - low + 1) // 40)  # whole numbers: every bin holds as many of them
            edges = np.arange(low, high + width + 1, width) - 0.5
            axes.hist(values, edges, color="#0072B2")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
            axes.set_xlabel(label)
            axes.set_ylabel("count")
    return figure
