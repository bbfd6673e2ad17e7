"""The figure that shows what files are given: their kinds decide which it is."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.index import read_index
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.inspection.tagged_file import read_tagged_file
from mace_jax_plot.curves import curves_figure
from mace_jax_plot.parity import read_parities
from mace_jax_plot.parity_figure import parity_figure
from mace_jax_plot.runs import read_runs, runs_figure
from mace_jax_plot.sizes import COLUMNS, index_figure, plan_figure, require_indices

METRICS = ("rmse_e_per_atom", "rmse_f")


def figure_of(
    files: Sequence[Path], keys: list[str] | None, *, linear: bool, start_interval: int
) -> Figure:
    """Draw learning curves, predictions against labels, fill of batches or sizes of structures.

    Args:
        files: metrics of some runs, predictions, an index, or a plan with or without its indices.
        keys: metrics, or quantities of predictions; without, ``METRICS`` or all that have labels.
        linear, start_interval: of learning curves.

    Raises:
        ArtifactError: a file is missing, damaged, or holds nothing to draw.
        ConfigError: the files make no figure together, or a key has no values.
        IncompatibleError: an index is not of the plan's data.
    """
    kinds = [read_tagged_file(path).kind for path in files]
    if set(kinds) == {"metrics"}:
        keys = keys or list(METRICS)
        runs = read_runs(files, keys, start_interval)
        if len(runs) == 1:
            return curves_figure(runs[0], keys, linear=linear)
        return runs_figure(runs, keys, linear=linear)
    if kinds == ["predictions"]:
        return _parity(files[0], keys)
    if kinds == ["index"]:
        return index_figure(read_index(files[0], COLUMNS), files[0])
    if kinds.count("batch_plan") == 1 and set(kinds) <= {"batch_plan", "index"}:
        return _plan(files, kinds)
    message = (
        f"{', '.join(map(str, files))}: of kinds {', '.join(kinds)}, expected metrics, one "
        "predictions file, one index, or one plan with its indices; make a figure of each"
    )
    raise ConfigError(message)


def _parity(path: Path, keys: list[str] | None) -> Figure:
    parities, _ = read_parities(path, keys)
    if not parities:
        message = (
            f"{path}: no labels of what is predicted, expected some to compare with; "
            "predict structures that have labels"
        )
        raise ArtifactError(message)
    return parity_figure(parities)


def _plan(files: Sequence[Path], kinds: Sequence[str]) -> Figure:
    path = files[kinds.index("batch_plan")]
    plan = read_batch_plan(path)
    indices = [
        read_index(file, COLUMNS[:2])
        for file, kind in zip(files, kinds, strict=True)
        if kind == "index"
    ]
    return plan_figure(plan, require_indices(plan, path, indices) if indices else [])
