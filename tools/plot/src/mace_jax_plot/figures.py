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

from mace_jax.artifacts.predictions_file import PredictionsBlock, PredictionsFile
from mace_jax.elements import symbol

_BINS = 120
# Quantity, unit in parity plots, unit of errors, and how many of the one are one of the other.
_QUANTITIES = {
    "energy": ("eV/atom", "meV/atom", 1000.0),
    "forces": ("eV/Å", "meV/Å", 1000.0),
    "stress": ("eV/Å³", "meV/Å³", 1000.0),
}
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


def svg(figure: Figure) -> str:
    """Return a figure as SVG text that is the same each time."""
    with mpl.rc_context(_STYLE), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


def block_values(block: PredictionsBlock, name: str) -> Values | None:
    """Return what a block has of ``name`` as numbers; energies by atom; None if it has none."""
    label = block.labels.get(name)
    if label is None or name not in block.predictions:
        return None
    present = label.present
    if name == "stress":
        usable = np.isfinite(block.volumes)
        labels = label.values[usable[present]]
        present = present & usable
    else:
        labels = label.values
    types = np.asarray(block.config_types, dtype=object)
    elements = None
    if name == "forces":
        atoms = np.repeat(present, block.n_node)
        predictions = block.predictions[name][atoms]
        elements = np.repeat(block.atomic_numbers[atoms], 3)
        types = np.repeat(np.repeat(types, block.n_node)[atoms], 3)
    else:
        predictions = block.predictions[name][present]
        types = np.repeat(types[present], 9 if name == "stress" else 1)
        if name == "energy":
            labels, predictions = (
                values / block.n_node[present] for values in (labels, predictions)
            )
    return Values(np.ravel(labels), np.ravel(predictions), elements, types)


def _blocks(file: PredictionsFile, name: str) -> Iterator[Values]:
    for block in file.blocks(size=4096):
        values = block_values(block, name)
        if values is not None and values.labels.size:
            yield values


def parity(path: Path) -> tuple[list[Figure], list[ErrorRow]]:
    """Draw predictions against labels, and tell the errors of each element and config type.

    The file is passed over twice, in blocks: memory does not grow with it.

    Raises:
        ArtifactError: it is damaged.
    """
    figures, rows = [], []
    with PredictionsFile(path) as file:
        for name in _QUANTITIES:
            ranges = [_extremes(values) for values in _blocks(file, name)]
            if ranges:
                low, high, largest = np.max(ranges, axis=0) * [-1, 1, 1]
                figure, found = _parity_of(file, name, (low, high), largest)
                figures.append(figure)
                rows += found
    return figures, rows


def _extremes(values: Values) -> NDArray[np.float64]:
    both = np.concatenate([values.labels, values.predictions])
    error = np.abs(values.predictions - values.labels).max()
    return np.array([-both.min(), both.max(), error])


def _parity_of(
    file: PredictionsFile, name: str, limits: tuple[float, float], largest: float
) -> tuple[Figure, list[ErrorRow]]:
    unit, error_unit, factor = _QUANTITIES[name]
    if limits[0] == limits[1]:
        limits = (limits[0] - 0.5, limits[1] + 0.5)
    edges = np.linspace(*limits, _BINS + 1)
    reach = largest * factor or 1.0
    error_edges = np.linspace(-reach, reach, 61)
    density = np.zeros((_BINS, _BINS))
    counts: dict[str, NDArray[np.float64]] = {}
    sums: dict[str, NDArray[np.float64]] = {}
    for values in _blocks(file, name):
        density += np.histogram2d(values.labels, values.predictions, [edges, edges])[0]
        errors = (values.predictions - values.labels) * factor
        for group, chosen in _groups(values):
            error = errors[chosen]
            counts[group] = counts.get(group, 0) + np.histogram(error, error_edges)[0]
            part = np.array([error.size, np.abs(error).sum(), np.square(error).sum()])
            sums[group] = sums.get(group, 0) + part
    rows = [
        ErrorRow(name, group, int(n), mae / n, float(np.sqrt(square / n)), error_unit)
        for group, (n, mae, square) in sums.items()
    ]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_density(left, density, edges, f"{name} ({unit})")
        _draw_errors(right, counts, error_edges, f"error of {name} ({error_unit})")
    return figure, rows


def _groups(values: Values) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield "all", np.ones(values.labels.size, bool)
    if values.elements is not None:
        for number in np.unique(values.elements):
            yield f"element {symbol(int(number))}", values.elements == number
    for name in sorted(set(values.config_types)):
        yield f"config type {name}", values.config_types == name


def _draw_density(
    axes: Axes, density: NDArray[np.float64], edges: NDArray[np.float64], label: str
) -> None:
    shown = np.ma.masked_equal(density.T, 0)
    mesh = axes.pcolormesh(edges, edges, shown, norm=LogNorm(vmin=1), rasterized=True)
    axes.figure.colorbar(mesh, ax=axes, label="count", shrink=0.75)
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
    axes.legend(frameon=False, fontsize=8)


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
