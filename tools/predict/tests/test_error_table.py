"""The printed table of errors, by hand."""

import numpy as np

from mace_jax.artifacts.label_errors import LabelErrors
from mace_jax.artifacts.predictions_file import PredictionsBlock
from mace_jax.structures.structure_block import Label
from mace_jax_predict.error_table import error_table


def table(labels):
    """Return the lines for an atom of H, ``bulk``, and one of O, ``slab``; all is predicted 0."""
    errors = LabelErrors()
    block = PredictionsBlock(
        np.array([1, 1]),
        np.array([1, 8]),
        np.full(2, np.inf),
        ["a.xyz", "a.xyz"],
        np.arange(2),
        ["pbe", "pbe"],
        ["bulk", "slab"],
        {"energy": np.zeros(2), "forces": np.zeros((2, 3))},
        labels,
    )
    errors.add(block)
    return list(error_table(errors))


def test_it_has_lines_for_groups_and_elements():
    lines = table(
        {
            "energy": Label(np.array([True, True]), np.array([1.0, 3.0])),
            "forces": Label(np.array([True, False]), np.array([[3.0, 0.0, 0.0]])),
        }
    )
    assert lines[0].split("  ")[0] == "RMSE / MAE of"
    assert "e_per_atom, eV" in lines[0]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["all", "2"],
        ["config_type", "bulk"],
        ["config_type", "slab"],
        ["element", "H"],
    ]
    assert lines[-1].endswith("1.73 / 1")


def test_nothing_to_compare_is_no_table():
    assert table({}) == []
