"""The errors of an evaluation as a table for people; ``train.log_errors`` says which."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mace_jax.artifacts.train_config_sections import LogErrors

_PER_ATOM_RMSE = ("rmse_e_per_atom", "rmse_f", "rmse_stress", "rmse_virials_per_atom")
_PER_ATOM_MAE = ("mae_e_per_atom", "mae_f", "mae_stress", "mae_virials_per_atom")
_SHOWN: dict[LogErrors, tuple[str, ...]] = {
    "PerAtomRMSE": _PER_ATOM_RMSE,
    "PerAtomRMSEstressvirials": _PER_ATOM_RMSE,
    "rel_PerAtomRMSE": ("rmse_e_per_atom", "rel_rmse_f", "rel_rmse_stress"),
    "TotalRMSE": ("rmse_e", "rmse_f", "rmse_stress", "rmse_virials"),
    "PerAtomMAE": _PER_ATOM_MAE,
    "PerAtomMAEstressvirials": _PER_ATOM_MAE,
    "rel_PerAtomMAE": ("mae_e_per_atom", "rel_mae_f", "rel_mae_stress"),
    "TotalMAE": ("mae_e", "mae_f", "mae_stress", "mae_virials"),
    "DipoleRMSE": ("rmse_mu_per_atom", "rel_rmse_mu"),
    "EnergyDipoleRMSE": ("rmse_e_per_atom", "rmse_f", "rmse_mu_per_atom"),
}
# Titles of quantities, and units of a thousandth of those in the metrics file.
_QUANTITIES = {
    "e": ("E", "meV"),
    "e_per_atom": ("E", "meV/atom"),
    "f": ("F", "meV/Å"),
    "stress": ("stress", "meV/Å³"),
    "virials": ("virials", "meV"),
    "virials_per_atom": ("virials", "meV/atom"),
    "mu": ("dipole", "mDebye"),
    "mu_per_atom": ("dipole", "mDebye/atom"),
}


class ErrorColumn(NamedTuple):
    """A column of the table.

    Attributes:
        metric: its name in the metrics file.
        title: what it is, and its unit.
        factor: from the unit of the metrics file.
    """

    metric: str
    title: str
    factor: float


def error_columns(log_errors: LogErrors) -> tuple[ErrorColumn, ...]:
    """Return the errors that ``train.log_errors`` asks for."""
    return tuple(_column(metric) for metric in _SHOWN[log_errors])


def _column(metric: str) -> ErrorColumn:
    relative = metric.startswith("rel_")
    kind, quantity = metric.removeprefix("rel_").split("_", 1)
    name, unit = _QUANTITIES[quantity]
    title = f"{kind.upper()} {name}"
    if relative:
        return ErrorColumn(metric, f"relative {title}, %", 1.0)
    return ErrorColumn(metric, f"{title}, {unit}", 1000.0)


def evaluation_table(rows: Sequence[Mapping[str, Any]], log_errors: LogErrors) -> list[str]:
    """Return the lines of a table: a title, and one for each row of the metrics file.

    What no row has is left out; what one alone lacks is ``-``.
    """
    columns = [
        column
        for column in error_columns(log_errors)
        if any(row.get(column.metric) is not None for row in rows)
    ]
    cells = [["split", "head", "loss", *(column.title for column in columns)]]
    for row in rows:
        errors = [_shown(row.get(column.metric), column.factor) for column in columns]
        cells.append([row["mode"], row["head"], _loss(row["loss"]), *errors])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if index < 2 else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _shown(value: float | None, factor: float) -> str:
    """Return two decimals of a number, or three digits of a small one."""
    if value is None:
        return "-"
    number = factor * value
    return f"{number:.2f}" if number >= 1 else f"{number:.3g}"
