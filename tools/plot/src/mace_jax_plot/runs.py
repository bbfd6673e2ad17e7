"""Learning curves of several runs: a colour for each, a row of panels for each head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mace_jax_plot.curves import TrainingRun, read_run
from mace_jax_plot.metric_axes import label_axes
from mace_jax_plot.style import GRAY, colors, shortened, styled

# What is drawn of every run; "training, evaluated" is left out for the sake of the eye.
_MODES: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("training", {"linestyle": ":", "linewidth": 1.1}),
    "valid": ("validation", {"linestyle": "-", "linewidth": 1.4}),
    "eval_test": ("test", {"linestyle": "none", "marker": "*", "markersize": 8}),
}


def read_runs(paths: Sequence[Path], keys: list[str], start_interval: int) -> list[TrainingRun]:
    """Read metrics files; files of one name are told apart by their folders.

    Args:
        paths: of the metrics files.
        keys, start_interval: as of ``read_run``.

    Raises:
        ArtifactError: one is damaged or has no rows from that epoch on.
        ConfigError: a key has no values in one of them.
    """
    runs = [read_run(path, keys, start_interval) for path in paths]
    return named_apart(paths, runs)


def named_apart(paths: Sequence[Path], runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Name runs by their files, or, where two would have one name, by folder and file."""
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(p.with_suffix("")) for p in paths]
    return [run._replace(name=name) for run, name in zip(runs, names, strict=True)]


def runs_figure(runs: Sequence[TrainingRun], keys: list[str], *, linear: bool) -> Figure:
    """Draw the loss and every key of several runs.

    Args:
        runs: what to draw; a status other than ``finished`` is named in the legend.
        keys: metrics to show.
        linear: linear instead of logarithmic vertical axes.
    """
    panels, shades = ["loss", *keys], colors(len(runs))
    heads = list(dict.fromkeys(head for run in runs for head in run.heads))
    width = 3.9 * len(panels)
    entries = _legend(runs, shades)
    widest = 0.6 + 0.08 * max(map(len, entries))  # inches, of a line and its name
    n_columns = max(1, min(len(entries), int(width / widest)))
    height = 3.1 * len(heads) + 0.2 * -(-len(entries) // n_columns) + 0.2
    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(len(heads), len(panels), squeeze=False)
        for head, row in zip(heads, grid, strict=True):
            for key, axes in zip(panels, row, strict=True):
                _draw_panel(axes, runs, shades, head, key, linear=linear)
            if len(heads) > 1:
                row[0].set_title(f"head {shortened(head)}", loc="left")
        lines, names = [*entries.values()], [*entries]
        figure.legend(lines, names, loc="outside lower left", ncols=n_columns)
    return figure


def _draw_panel(
    axes: Axes, runs: Sequence[TrainingRun], shades: list[Any], head: str, key: str, *, linear: bool
) -> None:
    positive = False
    for run, color in zip(runs, shades, strict=True):
        for mode, (_, look) in _MODES.items():
            points = run.points(mode, head, key)
            positive |= any(value > 0 for _, value in points)
            if points:
                marker = {"marker": "o", "markersize": 3.5} if len(points) == 1 else {}
                axes.plot(*zip(*points, strict=True), color=color, **{**marker, **look})
    label_axes(axes, key, logarithmic=positive and not linear)


def _legend(runs: Sequence[TrainingRun], shades: list[Any]) -> dict[str, Line2D]:
    """Return what tells runs and kinds of lines apart, by name."""
    lines = {
        shortened(run.title, 40): Line2D([], [], color=color)
        for run, color in zip(runs, shades, strict=True)
    }
    found = {row["mode"] for run in runs for row in run.rows}
    for mode, (label, look) in _MODES.items():
        if mode in found:
            lines[label] = Line2D([], [], color=GRAY, **look)
    return lines
