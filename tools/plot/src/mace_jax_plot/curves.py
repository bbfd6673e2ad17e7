"""Learning curves of a run: the loss of training and validation, a panel for each metric."""

from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mace_jax.artifacts.metrics import read_metrics
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax_plot.metric_axes import factor, label_axes
from mace_jax_plot.style import BLUE, ORANGE, save, styled

Row = dict[str, Any]

_MODES = {
    "train": ("training", BLUE, "-"),
    "eval_train": ("training, evaluated", BLUE, "--"),
    "valid": ("validation", ORANGE, "-"),
    "eval_test": ("test", "black", "none"),
}


class TrainingRun(NamedTuple):
    """The metrics of a run, checked: its name, how it ended, and its rows."""

    name: str
    status: str
    rows: list[Row]

    @property
    def title(self) -> str:
        """The name, and the status unless that is ``finished``."""
        return self.name if self.status == "finished" else f"{self.name} ({self.status})"

    @property
    def heads(self) -> list[str]:
        """Heads in the order in which they occur."""
        return list(dict.fromkeys(row["head"] for row in self.rows))

    def points(self, mode: str, head: str, key: str) -> list[tuple[int, float]]:
        """Return epochs and values of a metric, in the unit of its axis."""
        return [
            (row["epoch"], factor(key) * row[key])
            for row in self.rows
            if row["mode"] == mode and row["head"] == head and row.get(key) is not None
        ]


def metrics_files(path: Path) -> list[Path]:
    """Return the metrics files of a folder, or the one given.

    Raises:
        ArtifactError: there are none.
    """
    files = sorted(path.glob("*.metrics")) if path.is_dir() else [path]
    if not files:
        message = f"{path}: no .metrics files there; give the folder of a training run"
        raise ArtifactError(message)
    return files


def read_run(path: Path, keys: list[str], start_interval: int) -> TrainingRun:
    """Read a metrics file and check that there is something to draw for every key.

    Args:
        path: of the metrics file.
        keys: metrics to show.
        start_interval: first epoch to show.

    Raises:
        ArtifactError: it is damaged or has no rows from that epoch on.
        ConfigError: a key has no values.
    """
    header, all_rows = read_metrics(path)
    rows = [row for row in all_rows if row["epoch"] >= start_interval]
    if not rows:
        message = (
            f"{path}: no evaluations from epoch {start_interval} on, expected some; "
            "wait for them or lower --start-interval"
        )
        raise ArtifactError(message)
    known = {name for row in rows for name, value in row.items() if _is_metric(name, value)}
    for key in keys:
        if key not in known:
            expected = ", ".join(sorted(known))
            message = f"{path}: no values of {key!r}, expected some of {expected}; correct --keys"
            raise ConfigError(message)
    return TrainingRun(path.stem, header["status"], rows)


def draw_curves(path: Path, run: TrainingRun, keys: list[str], *, linear: bool) -> None:
    """Write one figure atomically: a panel for the loss and one for each key.

    Args:
        path: target; its suffix is the format.
        run: what to draw; a status other than ``finished`` is named in the title.
        keys: metrics to show.
        linear: linear instead of logarithmic vertical axes.
    """
    save(curves_figure(run, keys, linear=linear), path)


def curves_figure(run: TrainingRun, keys: list[str], *, linear: bool) -> Figure:
    """Return the figure that ``draw_curves`` writes."""
    panels = ["loss", *keys]
    with styled():
        figure = Figure(figsize=(3.9 * len(panels), 3.6), layout="constrained")
        for axes, key in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _draw_panel(axes, run, key, linear=linear)
        figure.suptitle(run.title)
    return figure


def _draw_panel(axes: Axes, run: TrainingRun, key: str, *, linear: bool) -> None:
    heads = run.heads
    for mode, (label, color, line) in _MODES.items():
        for number, head in enumerate(heads):
            points = run.points(mode, head, key)
            if not points:
                continue
            name = label if len(heads) == 1 else f"{label}, {head}"
            marker = "*" if mode == "eval_test" else ("o" if len(points) <= 25 else "")
            axes.plot(
                *zip(*points, strict=True),
                label=name,
                color=color,
                linestyle=line,
                marker=marker,
                markersize=11 if mode == "eval_test" else 3.5,
                alpha=1 - 0.6 * number / len(heads),
            )
    # zeros alone have no logarithm
    label_axes(axes, key, logarithmic=not linear and any(row.get(key) for row in run.rows))
    axes.legend()


def _is_metric(name: str, value: Any) -> bool:
    return value is not None and name.split("_", maxsplit=1)[0] in ("loss", "mae", "rmse", "rel")
