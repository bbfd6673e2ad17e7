"""Learning curves: the loss of training and validation, and one panel for each metric."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.errors import ArtifactError, ConfigError

Row = dict[str, Any]

# Colours that stay apart for colour-blind readers and in print (Okabe and Ito).
_MODES = {
    "train": ("training", "#0072B2", "-"),
    "eval_train": ("training, evaluated", "#0072B2", "--"),
    "valid": ("validation", "#D55E00", "-"),
    "eval_test": ("test", "#000000", "none"),
}
_LABELS = {
    "e": "energy (meV)",
    "e_per_atom": "energy (meV/atom)",
    "f": "force (meV/Å)",
    "stress": "stress (meV/Å³)",
    "virials": "virial (meV)",
    "virials_per_atom": "virial (meV/atom)",
    "mu": "dipole",  # in whatever unit the labels have
    "mu_per_atom": "dipole by atoms",
}
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
    "svg.hashsalt": "mace-jax",  # element ids, and with them the file, do not change by themselves
}


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


class TrainingRun(NamedTuple):
    """The metrics of a run, checked: its name, how it ended, and its rows."""

    name: str
    status: str
    rows: list[Row]


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
    figure = curves_figure(run, keys, linear=linear)
    with mpl.rc_context(_STYLE), atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], metadata=_no_date(path))


def curves_figure(run: TrainingRun, keys: list[str], *, linear: bool) -> Figure:
    """Return the figure that ``draw_curves`` writes."""
    with mpl.rc_context(_STYLE):
        panels = ["loss", *keys]
        figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
        for axes, key in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _draw_panel(axes, run.rows, key, linear=linear)
        unfinished = "" if run.status == "finished" else f" ({run.status})"
        figure.suptitle(run.name + unfinished)
    return figure


def _draw_panel(axes: Axes, rows: list[Row], key: str, *, linear: bool) -> None:
    factor = 1000 if "(meV" in _axis_label(key) else 1
    heads = list(dict.fromkeys(row["head"] for row in rows))
    for mode, (label, color, line) in _MODES.items():
        for number, head in enumerate(heads):
            points = [
                (row["epoch"], factor * row[key])
                for row in rows
                if row["mode"] == mode and row["head"] == head and row.get(key) is not None
            ]
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
    axes.set_xlabel("epoch")
    axes.set_ylabel(_axis_label(key))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not linear and any(row.get(key) for row in rows):  # zeros alone have no logarithm
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain_number)
        axes.yaxis.set_minor_formatter(_plain_leading_number)
    axes.legend(frameon=False)


def _plain_number(value: float, _position: float) -> str:
    return f"{value:g}"


def _plain_leading_number(value: float, _position: float) -> str:
    """Label 2 and 5 between powers of ten, where a range of less than two decades needs it."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _axis_label(key: str) -> str:
    if key == "loss":
        return "loss"
    kind, _, quantity = key.removeprefix("rel_").partition("_")
    name, _, unit = _LABELS.get(quantity, quantity).partition(" (")
    if key.startswith("rel_"):
        return f"relative {name} {kind.upper()} (%)"
    return f"{name} {kind.upper()} ({unit}" if unit else f"{name} {kind.upper()}"


def _is_metric(name: str, value: Any) -> bool:
    return value is not None and name.split("_", maxsplit=1)[0] in ("loss", "mae", "rmse", "rel")


def _no_date(path: Path) -> dict[str, Any]:
    """Return metadata that keeps the time of drawing out of the file."""
    return {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix, {})
