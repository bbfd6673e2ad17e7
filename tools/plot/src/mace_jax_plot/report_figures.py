"""The sections of a report that have figures: training, predictions, batches, sizes."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from mace_jax.artifacts.index import Index
from mace_jax.artifacts.label_errors import QUANTITIES, LabelErrors
from mace_jax_plot.artifacts import Artifact
from mace_jax_plot.curves import TrainingRun, curves_figure
from mace_jax_plot.page import Number, fixed, folded, image, table
from mace_jax_plot.parity import Parity, Scale, read_parities
from mace_jax_plot.parity_figure import parity_figure
from mace_jax_plot.runs import named_apart, runs_figure
from mace_jax_plot.sizes import index_figure, indices_of, plan_figure

_FACTORS = {"mae_e_per_atom": "MAE, meV/atom", "rmse_e_per_atom": "RMSE, meV/atom"}
_FACTORS |= {"mae_f": "MAE, meV/Å", "rmse_f": "RMSE, meV/Å"}
_MOST_ROWS = 12  # errors of so many groups are read at a glance; of more, those of the worst


def metrics(artifacts: Sequence[Artifact]) -> str:
    """Return the curves of all runs in one figure, and a table of what each reached."""
    runs = [TrainingRun("", a.content[0]["status"], a.content[1]) for a in artifacts]
    runs = named_apart([artifact.path for artifact in artifacts], runs)
    parts = [f"<p>{escape(run.title)} has no evaluations yet.</p>" for run in runs if not run.rows]
    drawn = [run for run in runs if run.rows]
    if not drawn:
        return "\n".join(parts)
    rows = [row for run in drawn for row in run.rows]
    keys = [key for key in _FACTORS if any(row.get(key) is not None for row in rows)]
    shown = [key for key in keys if key.startswith("rmse")]
    if len(drawn) == 1:
        figure = curves_figure(drawn[0], shown, linear=False)
    else:
        figure = runs_figure(drawn, shown, linear=False)
    names = ", ".join(run.name for run in drawn)
    return "\n".join([*parts, image(figure, f"learning curves of {names}"), _last(drawn, keys)])


def _last(runs: Sequence[TrainingRun], keys: Sequence[str]) -> str:
    head = ["last of", "head", "epoch", "loss", *(_FACTORS[key] for key in keys)]
    rows = [
        ([run.title] if len(runs) > 1 else [])
        + [mode, of_head, Number(row["epoch"]), fixed(row["loss"], 1, 5)]
        + [fixed(row.get(key), 1000, 2) for key in keys]
        for run in runs
        for (mode, of_head), row in {(row["mode"], row["head"]): row for row in run.rows}.items()
    ]
    return table(["run", *head] if len(runs) > 1 else head, rows)


class ErrorRow(NamedTuple):
    """Errors of one quantity over a group, in the unit named."""

    quantity: str
    group: str
    n_values: int
    mae: float
    rmse: float
    unit: str


def predictions(artifacts: Sequence[Artifact]) -> str:
    """Return for each file a figure of each quantity, and the errors of every group."""
    parts = []
    for artifact in artifacts:
        parts.append(f"<h3>{escape(artifact.path.name)}</h3>")
        parities, errors = read_parities(artifact.path)
        if not parities:
            parts.append("<p>There are no labels of what is predicted.</p>")
            continue
        parts += [image(parity_figure([p]), f"parity of {p.quantity.label}") for p in parities]
        of_each = [list(error_rows(parity, errors)) for parity in parities]
        parts.append(_error_table([row for rows in of_each for row in _worst(rows)]))
        if any(len(rows) > _MOST_ROWS for rows in of_each):
            everything = [row for rows in of_each for row in rows]
            parts.append(
                folded("errors of all groups; above, the largest", _error_table(everything))
            )
    return "\n".join(parts)


def error_rows(parity: Parity, errors: LabelErrors) -> Iterator[ErrorRow]:
    """Yield the errors of all values of a quantity, then those of every group."""
    (name,) = (name for name, quantity in QUANTITIES.items() if quantity == parity.quantity)
    scale = Scale.of(parity.quantity)
    for kind, group, found in [("", "all", errors.all), *errors.shown_groups()]:
        if name in found.sums:
            metrics = found.metrics()
            yield ErrorRow(
                parity.quantity.label,
                f"{kind.replace('_', ' ')} {group}".strip(),
                found.sums[name].n,
                scale.factor * metrics[f"mae_{name}"],
                scale.factor * metrics[f"rmse_{name}"],
                scale.error_unit,
            )


def _worst(rows: Sequence[ErrorRow]) -> list[ErrorRow]:
    """Return the row of all and, of many groups, those of the largest errors, largest first."""
    every, *groups = rows
    if len(rows) > _MOST_ROWS:
        groups = sorted(groups, key=lambda row: -row.rmse)[: _MOST_ROWS - 1]
    return [every, *groups]


def _error_table(rows: Sequence[ErrorRow]) -> str:
    return table(
        ["quantity", "over", "values", "MAE", "RMSE", "unit"],
        [
            [row.quantity, row.group, Number(row.n_values)]
            + [fixed(error, 1, 2) for error in (row.mae, row.rmse)]
            + [row.unit]
            for row in rows
        ],
    )


def plans(artifacts: Sequence[Artifact], known: Sequence[Index]) -> str:
    """Return what the batches of each plan hold; atoms and edges, too, if indices are known."""
    parts = []
    for artifact in artifacts:
        r = artifact.content.report
        parts.append(
            f"<p><code>{escape(artifact.path.name)}</code>: {r.n_graphs} structures in "
            f"{r.n_batches} batches; empty are {r.edge_waste:.1%} of the edges, "
            f"{r.node_waste:.1%} of the atoms, {r.graph_waste:.1%} of the structures</p>"
        )
        figure = plan_figure(artifact.content, indices_of(artifact.content, known))
        parts.append(image(figure, "what batches hold, and their empty slots"))
    return "\n".join(parts)


def indices(artifacts: Sequence[Artifact]) -> str:
    """Return the sizes of the structures of each index."""
    parts = []
    for artifact in artifacts:
        name = escape(artifact.path.name)
        n = artifact.content.n_structures
        parts.append(f"<p><code>{name}</code>: {n} structures</p>")
        if n:
            figure = index_figure(artifact.content, artifact.path)
            parts.append(image(figure, "sizes of structures"))
    return "\n".join(parts)
