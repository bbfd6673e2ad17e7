"""The figure of predictions against labels: a row for each quantity."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mace_jax_plot.parity import Parity, Scale
from mace_jax_plot.style import GRAY, PALETTE, shortened, styled

_KINDS = {"element": "element", "config_type": "config type", "head": "head"}


def parity_figure(parities: Sequence[Parity]) -> Figure:
    """Draw a row for each quantity: density, then errors by each kind of group.

    Args:
        parities: of ``read_parities``, one at least.
    """
    n_columns = 1 + max(len(parity.histograms) for parity in parities)
    with styled():
        figure = Figure(figsize=(4.2 * n_columns, 3.5 * len(parities)), layout="constrained")
        grid = figure.subplots(len(parities), n_columns, squeeze=False)
        for parity, (left, *rest) in zip(parities, grid, strict=True):
            _draw_density(left, parity)
            for axes, kind in zip(rest, parity.histograms, strict=False):
                _draw_errors(axes, parity, kind)
            for axes in rest[len(parity.histograms) :]:
                axes.remove()
    return figure


def _draw_density(axes: Axes, parity: Parity) -> None:
    edges = parity.edges
    shown = np.ma.masked_equal(parity.density.T, 0)
    norm = LogNorm(vmin=1, vmax=max(10, int(parity.density.max())))
    mesh = axes.pcolormesh(edges, edges, shown, norm=norm, rasterized=True)
    bar = axes.figure.colorbar(mesh, ax=axes, shrink=0.75, format=lambda value, _: f"{value:g}")
    bar.ax.set_title("values", fontsize=8)
    axes.plot(edges[[0, -1]], edges[[0, -1]], color="gray", linewidth=0.8)
    axes.set_aspect("equal")
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)
    label = _with_unit(parity.quantity.label, Scale.of(parity.quantity).unit)
    axes.set_xlabel(f"label: {label}" + _beyond(parity, parity.density))
    axes.set_ylabel(f"predicted: {label}")


def _draw_errors(axes: Axes, parity: Parity, kind: str) -> None:
    """Draw the errors of all, filled, and those of the groups of one kind."""
    found = parity.histograms[kind]
    axes.stairs(_shares(found.counts), found.edges, fill=True, color=GRAY, alpha=0.3, label="all")
    for (name, counts), color in zip(found.groups.items(), PALETTE, strict=False):
        axes.stairs(_shares(counts), found.edges, color=color, label=shortened(name, 18))
    label = _with_unit(f"error of {parity.quantity.label}", Scale.of(parity.quantity).error_unit)
    axes.set_xlabel(label + _beyond(parity, found.counts))
    axes.set_ylabel("share of the values (%)")
    axes.locator_params(axis="x", nbins=5)
    title = _KINDS.get(kind)
    if found.n_groups > len(found.groups):
        title = f"{title},\nthe largest {len(found.groups)}\nof {found.n_groups}"
    axes.legend(title=title, alignment="left", loc="upper left", bbox_to_anchor=(1, 1))


def _beyond(parity: Parity, counts: NDArray[np.int64]) -> str:
    """Say how many values are outside of the bins, on a line of its own."""
    n_beyond = parity.n_values - int(counts.sum())
    return f"\n{n_beyond} of {parity.n_values} values lie beyond" if n_beyond else ""


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return 100 * counts / max(counts.sum(), 1)


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name
