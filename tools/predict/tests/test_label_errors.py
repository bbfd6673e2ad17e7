"""Errors against labels, by hand."""

import numpy as np
import pytest

from mace_jax.artifacts.predictions import Predictions
from mace_jax.structures.structure import Structure
from mace_jax_predict.label_errors import label_errors


def structure(n: int, **properties: object) -> Structure:
    labels = {name: np.asarray(value, dtype=float) for name, value in properties.items()}
    return Structure(
        np.full(n, 1), np.zeros((n, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool), labels
    )


def zeros(*n_node: int) -> Predictions:
    n_graph, total = len(n_node), sum(n_node)
    return Predictions(
        np.array(n_node),
        {
            "energy": np.zeros(n_graph),
            "node_energy": np.zeros(total),
            "forces": np.zeros((total, 3)),
            "stress": np.zeros((n_graph, 3, 3)),
        },
    )


def test_energy_errors_are_per_atom():
    errors = label_errors(zeros(2, 4), [structure(2, energy=6.0), structure(4, energy=-4.0)])
    assert errors == {
        "rmse_e_per_atom": pytest.approx(np.sqrt((3**2 + 1**2) / 2)),
        "mae_e_per_atom": pytest.approx(2.0),
    }


def test_force_errors_are_over_components_of_labelled_structures():
    forces = np.array([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]])
    errors = label_errors(zeros(2, 3), [structure(2, forces=forces), structure(3)])
    assert errors == {
        "rmse_f": pytest.approx(np.sqrt(25 / 6)),
        "mae_f": pytest.approx(7 / 6),
        "rel_rmse_f": pytest.approx(100.0),
    }


def test_stress_errors():
    errors = label_errors(zeros(1), [structure(1, stress=np.eye(3))])
    assert errors == {
        "rmse_stress": pytest.approx(np.sqrt(3 / 9)),
        "mae_stress": pytest.approx(3 / 9),
    }


def test_errors_belong_to_their_own_structure():
    """The second structure's rows start behind those of the first."""
    predictions = zeros(2, 1)
    predictions.quantities["forces"][2] = [1.0, 2.0, 3.0]
    predictions.quantities["energy"][1] = 5.0
    labels = [structure(2), structure(1, energy=5.0, forces=[[1.0, 2.0, 3.0]])]
    errors = label_errors(predictions, labels)
    assert errors["rmse_f"] == errors["rmse_e_per_atom"] == errors["rel_rmse_f"] == 0


def test_no_labels_no_errors():
    assert label_errors(zeros(2), [structure(2)]) == {}


def test_labels_of_what_the_model_does_not_predict_count_nowhere():
    labelled = structure(2, energy=6.0, forces=np.ones((2, 3)), stress=np.eye(3))
    dipoles = Predictions(np.array([2]), {"dipole": np.zeros((1, 3))})
    assert label_errors(dipoles, [labelled]) == {}
    energies = Predictions(np.array([2]), {"energy": np.zeros(1)})
    assert label_errors(energies, [labelled]) == {
        "rmse_e_per_atom": pytest.approx(3.0),
        "mae_e_per_atom": pytest.approx(3.0),
    }


def test_zero_force_labels_have_no_relative_error():
    errors = label_errors(zeros(1), [structure(1, forces=np.zeros((1, 3)))])
    assert errors == {"rmse_f": 0.0, "mae_f": 0.0}
