"""How all figures look, and how they are written: the same bytes each time."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mace_jax.artifacts.atomic_write import atomic_file

# Colours that stay apart for colour-blind readers and in print (Okabe and Ito).
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
)
GRAY = "#6b7178"

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 200,
    "svg.hashsalt": "mace-jax",  # element ids, and with them the file, do not change by themselves
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style; that of the caller comes back."""
    with mpl.rc_context(_STYLE):
        yield


def colors(n: int) -> list[Any]:
    """Return colours for ``n`` things: the palette's, or, of many, steps of one scale."""
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    return list(mpl.colormaps["turbo"](np.linspace(0.05, 0.95, n)))


def shortened(name: str, most: int = 28) -> str:
    """Return a name that fits into a legend, its middle left out if need be."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically; the suffix is the format."""
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix, {})
    with styled(), atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=undated)


def svg(figure: Figure) -> str:
    """Return a figure as SVG text."""
    with styled(), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()
