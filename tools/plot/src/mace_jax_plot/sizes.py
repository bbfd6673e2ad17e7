"""Histograms of sizes: of the structures of an index, of the batches of a plan, of empty slots."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import BatchPlan
from mace_jax.artifacts.index import Index
from mace_jax.errors import ArtifactError, IncompatibleError
from mace_jax_plot.style import BLUE, ORANGE, styled


class Panel(NamedTuple):
    """A histogram.

    Attributes:
        label: of the horizontal axis.
        counted: what has these values.
        values: whole numbers, ``[n]``, one at least.
    """

    label: str
    counted: str
    values: NDArray[np.integer]


_MOST_BINS = 40
_RARE = 100  # where a bin holds so many times less than another, it shows on a logarithm alone
COLUMNS = ("n_atoms", "n_edges", "n_neighbors")  # of an index, that are drawn


def index_figure(index: Index, path: Path) -> Figure:
    """Draw how large structures are, and how many neighbours atoms have.

    Raises:
        ArtifactError: it holds no structure.
    """
    if not index.n_structures:
        message = (
            f"{path}: holds no structures, expected one at least; index a dataset that has some"
        )
        raise ArtifactError(message)
    table = index.table
    neighbors = table["n_neighbors"].combine_chunks().flatten().to_numpy()
    sizes = [
        Panel("atoms of a structure", "structures", table["n_atoms"].to_numpy()),
        Panel("directed edges of a structure", "structures", table["n_edges"].to_numpy()),
        Panel(f"neighbours of an atom within {index.r_max:g} Å", "atoms", neighbors),
    ]
    return histograms([sizes])


def plan_figure(plan: BatchPlan, indices: Sequence[Index]) -> Figure:
    """Draw what batches hold, and how many of their slots are empty.

    Args:
        plan: any.
        indices: of its datasets, in order; without, atoms and edges are not known.
    """
    names = {"structures": ("n_graph", ""), "atoms": ("n_node", "n_atoms")}
    names["directed edges"] = ("n_edge", "n_edges")
    filled, empty = [], []
    for name, (slots, column) in names.items():
        if column and not indices:
            break
        sizes = [index.table[column].to_numpy() for index in indices if column]
        used = plan.batches.sums(np.concatenate(sizes)) if column else plan.batches.n_graph
        padded = np.array([getattr(caps, slots) for caps in plan.shapes])[plan.shape]
        left = padded - used
        share = f"{left.sum() / padded.sum():.1%} of all slots"
        filled.append(Panel(f"{name} in a batch", "batches", used))
        empty.append(Panel(f"empty slots for {name} in a batch\n{share}", "batches", left))
    return histograms([filled, empty])


def indices_of(plan: BatchPlan, indices: Sequence[Index]) -> list[Index]:
    """Return the index of each dataset of a plan; nothing unless all are there.

    What is not of this plan's data and cutoff is passed over.
    """
    found = {index.dataset_sha256: index for index in indices if index.r_max == plan.r_max}
    chosen = [found[dataset.sha256] for dataset in plan.datasets if dataset.sha256 in found]
    return chosen if len(chosen) == len(plan.datasets) else []


def require_indices(plan: BatchPlan, path: Path, indices: Sequence[Index]) -> list[Index]:
    """Return the index of each dataset of a plan.

    Raises:
        IncompatibleError: some are missing, or of other data or another cutoff.
    """
    found = indices_of(plan, indices)
    if not found or len(found) < len(indices):
        expected = ", ".join(
            f"{dataset.name} ({dataset.sha256[:12]}…)" for dataset in plan.datasets
        )
        given = ", ".join(
            f"{i.dataset_name} ({i.dataset_sha256[:12]}…), {i.r_max} Å" for i in indices
        )
        message = (
            f"{path}: indices of {given}, expected those of its data, {expected}, {plan.r_max} Å; "
            "give these or none"
        )
        raise IncompatibleError(message)
    return found


def histograms(rows: Sequence[Sequence[Panel]]) -> Figure:
    """Draw rows of histograms."""
    n_columns = max(map(len, rows))
    with styled():
        figure = Figure(figsize=(3.9 * n_columns, 2.9 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), n_columns, squeeze=False)
        for color, panels, row in zip((BLUE, ORANGE), rows, grid, strict=False):
            for axes, panel in zip(row, panels, strict=True):
                _draw(axes, panel, color)
    return figure


def _draw(axes: Axes, panel: Panel, color: str) -> None:
    counts, edges = np.histogram(panel.values, _edges(panel.values))
    widths = np.diff(edges)
    # the line closes the seams between bars
    axes.bar(edges[:-1], counts, widths, align="edge", color=color, edgecolor=color, linewidth=0.4)
    axes.set_xlabel(panel.label)
    axes.set_ylabel(panel.counted)
    axes.xaxis.set_major_locator(_whole_numbers())
    if counts.max() > _RARE * counts[counts > 0].min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.yaxis.set_major_locator(_whole_numbers())


def _edges(values: NDArray[np.integer]) -> NDArray[np.floating]:
    """Return edges of bins that hold as many possible values each; edges may all be even."""
    low, high = int(values.min()), int(values.max())
    step = 1 if low == high or ((values - low) % 2).any() else 2
    width = step * -(-(high - low + step) // (step * _MOST_BINS))
    return np.arange(low, high + width + 1, width) - step / 2


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(integer=True, nbins=6, min_n_ticks=1)
