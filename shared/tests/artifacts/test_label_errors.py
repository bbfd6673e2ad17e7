"""Errors against labels, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.label_errors import LabelErrors, labelled
from mace_jax.artifacts.predictions import PredictedBlock
from mace_jax.artifacts.predictions_file import PredictionsBlock
from mace_jax.structures.structure import Structure


def structure(*numbers: int, config_type: str = "Default", cell: float = 0, **labels: object):
    n = len(numbers)
    return Structure(
        np.array(numbers),
        np.zeros((n, 3)),
        cell * np.eye(3),
        np.full(3, cell > 0),
        {name: np.asarray(value, dtype=float) for name, value in labels.items()},
        config_type=config_type,
    )


def zeros(*structures: Structure, heads: list[str] | None = None) -> PredictionsBlock:
    n_graph, n_atoms = len(structures), sum(map(len, structures))
    shapes = {"energy": (n_graph,), "forces": (n_atoms, 3), "stress": (n_graph, 3, 3)}
    shapes |= {"dipole": (n_graph, 3), "charges": (n_atoms,), "virials": (n_graph, 3, 3)}
    predicted = PredictedBlock(
        structures,
        ["a.xyz"] * n_graph,
        np.arange(n_graph),
        heads or ["pbe"] * n_graph,
        {name: np.zeros(shape) for name, shape in shapes.items()},
    )
    return PredictionsBlock.of(predicted)


def errors_of(*blocks: PredictionsBlock) -> LabelErrors:
    errors = LabelErrors()
    for block in blocks:
        errors.add(block)
    return errors


def summary_of(*structures: Structure) -> dict:
    return errors_of(zeros(*structures)).summary()


def test_energies_in_all_and_per_atom():
    found = summary_of(structure(1, 1, energy=6.0), structure(1, 1, 1, 1, energy=-4.0))
    assert found["rmse_e"] == pytest.approx(np.sqrt((36 + 16) / 2))
    assert found["mae_e"] == 5.0
    assert found["rmse_e_per_atom"] == pytest.approx(np.sqrt((9 + 1) / 2))
    assert found["mae_e_per_atom"] == 2.0
    assert "rmse_f" not in found


def test_a_missing_label_is_no_zero():
    forces = np.array([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]])
    found = summary_of(structure(1, 1, forces=forces), structure(1, 1, 8))
    assert found["rmse_f"] == pytest.approx(np.sqrt(25 / 6))
    assert found["mae_f"] == pytest.approx(7 / 6)
    assert found["rel_rmse_f"] == pytest.approx(100)
    assert found["by_config_type"]["Default"]["n_labels"] == {"forces": 1}
    assert found["by_config_type"]["Default"]["n_graph"] == 2


def test_forces_by_element():
    forces = np.array([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0], [0.0, 0.0, 1.0]])
    found = summary_of(structure(8, 1, 1, forces=forces), structure(8))["by_element"]
    assert found["O"]["rmse_f"] == pytest.approx(np.sqrt(9 / 3))
    assert found["H"]["rmse_f"] == pytest.approx(np.sqrt(17 / 6))
    assert found["H"]["mae_f"] == pytest.approx(5 / 6)
    assert found["O"]["n_atoms"] == 2
    assert found["O"]["n_labels"] == {"forces": 1}


def test_by_config_type_and_head():
    block = zeros(
        structure(1, energy=1.0, config_type="bulk"),
        structure(1, energy=3.0, config_type="slab"),
        structure(1, energy=5.0, config_type="bulk"),
        heads=["pbe", "pbe", "scan"],
    )
    found = errors_of(block).summary()
    assert found["by_config_type"]["bulk"]["mae_e"] == 3.0
    assert found["by_config_type"]["slab"]["mae_e"] == 3.0
    assert found["by_head"]["pbe"]["mae_e"] == 2.0
    assert found["by_head"]["scan"]["mae_e"] == 5.0
    assert "by_element" not in found


def test_stress_and_virials_need_a_cell():
    labels = {"stress": np.eye(3), "virials": 2 * np.eye(3)}
    found = summary_of(structure(1, 1, cell=3, **labels), structure(1, 1, **labels))
    assert found["rmse_stress"] == pytest.approx(np.sqrt(3 / 9))
    assert found["mae_virials_per_atom"] == pytest.approx(3 / 9)
    assert found["by_head"]["pbe"]["n_labels"] == {"stress": 1, "virials": 1}
    assert "rmse_stress" not in summary_of(structure(1, 1, **labels))


def test_dipoles_and_charges():
    found = summary_of(structure(1, 8, dipole=[0, 3, 4], charges=[0.5, -1]))
    assert found["rmse_mu"] == pytest.approx(5 / np.sqrt(3))
    assert found["mae_mu_per_atom"] == pytest.approx(7 / 6)
    assert found["by_element"]["O"]["rmse_charges"] == 1.0


def test_no_labels_no_errors():
    assert errors_of(zeros(structure(1), structure(8, 1))).summary() == {}


def test_rows_of_a_label_belong_to_their_structures_and_atoms():
    forces = np.arange(6.0).reshape(2, 3)
    block = zeros(structure(1, 8), structure(6), structure(8, 1, forces=forces))
    found = labelled(block, "forces")
    np.testing.assert_array_equal(found.labels, forces)
    assert found.rows.tolist() == [False, False, False, True, True]
    assert found.owner.tolist() == [2, 2]
    assert labelled(block, "energy") is None


def test_labels_of_what_is_not_predicted_count_nowhere():
    block = zeros(structure(1, energy=2.0, dipole=[1, 2, 3]))
    block = block._replace(predictions={"dipole": block.predictions["dipole"]})
    found = errors_of(block).summary()
    assert found["mae_mu"] == 2.0
    assert "rmse_e" not in found


def test_zero_labels_have_no_relative_error():
    found = summary_of(structure(1, forces=np.zeros((1, 3))))
    assert (found["rmse_f"], "rel_rmse_f" in found) == (0.0, False)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12), st.integers(1, 5), st.randoms())
def test_neither_blocks_nor_order_change_a_bit(energies, size, random):
    several = [structure(1, 8, energy=energy) for energy in energies]
    whole = errors_of(zeros(*several)).summary()
    random.shuffle(several)
    blocks = [zeros(*several[i : i + size]) for i in range(0, len(several), size)]
    assert errors_of(*blocks).summary() == whole
