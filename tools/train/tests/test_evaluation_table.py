"""The table of an evaluation, character by character."""

from typing import get_args

import pytest

from mace_jax.artifacts.train_config_sections import LogErrors
from mace_jax_train.error_metrics import QUANTITIES
from mace_jax_train.evaluation_table import error_columns, evaluation_table

METRICS = {
    f"{prefix}_{name}" for prefix in ("mae", "rmse", "rel_mae", "rel_rmse") for name in QUANTITIES
}


def row(mode="valid", **values):
    return {"mode": mode, "head": "Default", "epoch": 3, "loss": 0.0123456789, **values}


def test_split_head_loss_and_errors_with_their_units():
    rows = [
        row("train", rmse_e_per_atom=0.012345, rmse_f=0.5, rmse_stress=2e-6),
        row("valid", rmse_e_per_atom=0.1, rmse_f=12.5, rmse_stress=None),
    ]
    assert evaluation_table(rows, "PerAtomRMSE") == [
        "split  head          loss  RMSE E, meV/atom  RMSE F, meV/Å  RMSE stress, meV/Å³",
        "train  Default  0.0123457             12.35         500.00                0.002",
        "valid  Default  0.0123457            100.00       12500.00                    -",
    ]


def test_what_no_row_has_is_left_out():
    rows = [row(rmse_f=0.5, rmse_e_per_atom=None, rmse_stress=None)]
    assert evaluation_table(rows, "PerAtomRMSEstressvirials") == [
        "split  head          loss  RMSE F, meV/Å",
        "valid  Default  0.0123457         500.00",
    ]


def test_relative_errors_are_per_cent():
    rows = [row("eval_test", mae_e_per_atom=1e-3, rel_mae_f=5.471)]
    assert evaluation_table(rows, "rel_PerAtomMAE") == [
        "split      head          loss  MAE E, meV/atom  relative MAE F, %",
        "eval_test  Default  0.0123457             1.00               5.47",
    ]


@pytest.mark.parametrize(
    ("log_errors", "titles"),
    [
        (
            "PerAtomRMSE",
            "RMSE E, meV/atom|RMSE F, meV/Å|RMSE stress, meV/Å³|RMSE virials, meV/atom",
        ),
        (
            "PerAtomRMSEstressvirials",
            "RMSE E, meV/atom|RMSE F, meV/Å|RMSE stress, meV/Å³|RMSE virials, meV/atom",
        ),
        ("rel_PerAtomRMSE", "RMSE E, meV/atom|relative RMSE F, %|relative RMSE stress, %"),
        ("TotalRMSE", "RMSE E, meV|RMSE F, meV/Å|RMSE stress, meV/Å³|RMSE virials, meV"),
        ("PerAtomMAE", "MAE E, meV/atom|MAE F, meV/Å|MAE stress, meV/Å³|MAE virials, meV/atom"),
        (
            "PerAtomMAEstressvirials",
            "MAE E, meV/atom|MAE F, meV/Å|MAE stress, meV/Å³|MAE virials, meV/atom",
        ),
        ("rel_PerAtomMAE", "MAE E, meV/atom|relative MAE F, %|relative MAE stress, %"),
        ("TotalMAE", "MAE E, meV|MAE F, meV/Å|MAE stress, meV/Å³|MAE virials, meV"),
        ("DipoleRMSE", "RMSE dipole, mDebye/atom|relative RMSE dipole, %"),
        ("EnergyDipoleRMSE", "RMSE E, meV/atom|RMSE F, meV/Å|RMSE dipole, mDebye/atom"),
    ],
)
def test_what_each_choice_shows(log_errors, titles):
    columns = error_columns(log_errors)
    assert "|".join(column.title for column in columns) == titles
    assert {column.metric for column in columns} <= METRICS


def test_every_choice_is_tested():
    (mark,) = test_what_each_choice_shows.pytestmark
    assert [log_errors for log_errors, _ in mark.args[1]] == list(get_args(LogErrors))
