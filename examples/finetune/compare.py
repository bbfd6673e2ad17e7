"""Compare the start model with what naive and replay fine-tuning made of it: a table and a figure.

python examples/finetune/compare.py example-run/finetune
"""

import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from ase import Atoms
from ase.io import read
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from mace_jax.artifacts.metrics import read_metrics

HERE = Path(__file__).parent
MODELS = {
    "start": "start model",
    "naive": "naive fine-tuning",
    "replay": "replay fine-tuning",
}
DATA = {
    "start": "start data",
    "new": "new data",
    "relabelled": "start molecules, new method",
}
TICKS = (50, 100, 200, 500, 1000)
COLORS = {"naive": "#D55E00", "replay": "#0072B2"}  # Okabe and Ito
# run -> the rows of its metrics that are about the start data and about the new data: mode, head
CURVES = {
    "naive": {"start": ("eval_test", "Default"), "new": ("valid", "Default")},
    "replay": {"start": ("valid", "pt_head"), "new": ("valid", "Default")},
}


class Errors(NamedTuple):
    """Root mean squares of the forces' errors, meV/Å, and of the energies', meV/atom."""

    forces: float
    energy: float

    def __str__(self) -> str:
        """Return both as one cell of the table."""
        return f"{self.forces:.0f} / {self.energy:.1f}"


def errors(frames: list[Atoms], predicted: str, label: str) -> Errors:
    """Return how far the values ``<predicted>_…`` of frames are from ``<label>_…``.

    Two methods count energies from different zeros, so that energies are compared after each
    element's energy has been shifted by what makes their errors least.
    """
    forces = [
        frame.arrays[f"{predicted}_forces"] - frame.arrays[f"{label}_forces"] for frame in frames
    ]
    energies = [
        frame.info[f"{predicted}_energy"] - frame.info[f"{label}_energy"] for frame in frames
    ]
    elements = np.unique(np.concatenate([frame.numbers for frame in frames]))
    counts = np.array([[(frame.numbers == z).sum() for z in elements] for frame in frames])
    shifts = np.linalg.lstsq(counts, energies)[0]
    per_atom = (energies - counts @ shifts) / counts.sum(1)
    return Errors(1e3 * rms(np.concatenate(forces)), 1e3 * rms(per_atom))


def rms(values: NDArray[np.float64]) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def table(folder: Path, methods: Errors) -> str:
    """Return the errors of every model on every set of test data, as Markdown."""
    rows = [["RMSE of forces, meV/Å / energy, meV/atom", *DATA.values()]]
    rows += [["---"] * len(rows[0])]
    for model, name in MODELS.items():
        files = [folder / f"{model}.{data}.extxyz" for data in DATA]
        rows += [[name, *(str(errors(read(path, ":"), "MACE", "REF")) for path in files)]]
    rows += [["the new method itself", str(methods), "0", "0"]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(folder: Path, methods: Errors) -> Figure:
    """Return the errors of the forces during fine-tuning: of the start data and of the new data."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, data in zip(panels, ("start", "new"), strict=True):
        for run, rows_of in CURVES.items():
            _, rows = read_metrics(folder / f"{run}.metrics")
            points = [
                (row["epoch"], 1e3 * row["rmse_f"])
                for row in rows
                if (row["mode"], row["head"]) == rows_of[data]
            ]
            axes.plot(*zip(*points, strict=True), ".-", color=COLORS[run], label=MODELS[run])
        axes.set(title=f"errors on {DATA[data]}", xlabel="epoch", yscale="log")
        axes.grid(alpha=0.25)
    panels[0].axhline(methods.forces, color="black", linestyle=":", label="the new method itself")
    panels[0].set_ylabel("force RMSE (meV/Å)")
    panels[0].set_yticks(TICKS, map(str, TICKS), minor=False)
    panels[0].yaxis.set_minor_locator(NullLocator())
    panels[0].legend(frameon=False)
    return figure


def main() -> None:
    """Print the table, and write it and the figure beside the models."""
    folder = Path(sys.argv[1])
    methods = errors(read(HERE / "start.test.xyz.gz", ":"), "GFN2", "REF")
    text = table(folder, methods)
    print(text)
    (folder / "table.md").write_text(f"{text}\n", encoding="utf-8")
    with mpl.rc_context(
        {"svg.hashsalt": "mace-jax", "axes.spines.top": False, "axes.spines.right": False}
    ):
        draw(folder, methods).savefig(folder / "forgetting.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
