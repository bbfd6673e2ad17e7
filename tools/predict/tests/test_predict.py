"""The command mace-jax-predict: heads, labels, order, what is written."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest

from mace_jax.artifacts.predictions import read_predictions
from mace_jax_predict.inputs import read_input


def result():
    return read_predictions(Path("out.npz"))


def test_no_labels_are_needed(predict, waters):
    outcome = predict(waters, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["summary"] == {"n_graph": 5}
    metadata, predictions = result()
    assert metadata["head"] == "pbe"
    assert metadata["n_graph"] == 5
    assert set(metadata["quantities"]) == {
        *("energy", "node_energy", "forces", "virials", "stress")
    }
    np.testing.assert_array_equal(predictions.n_node, [3, 6, 3, 3, 3])


def test_order_and_numbers_do_not_depend_on_batches(predict, waters):
    alone = {}
    for index in (1, 3):
        assert predict([waters[index]]).code == 0
        alone[index] = result()[1].of_structure(0)
    for edges in ("1", "20", "100000"):
        assert predict(waters, "--batch-max-edges", edges).code == 0
        _, together = result()
        for index, expected in alone.items():
            own = together.of_structure(index)
            np.testing.assert_allclose(own["energy"], expected["energy"], rtol=1e-7)
            np.testing.assert_allclose(own["forces"], expected["forces"], atol=1e-5)
            np.testing.assert_allclose(own["stress"], expected["stress"], atol=1e-6)


def test_node_energies_sum_to_the_energy_and_hold_E0s(predict, waters):
    assert predict(waters).code == 0
    _, predictions = result()
    for index, atoms in enumerate(waters):
        own = predictions.of_structure(index)
        np.testing.assert_allclose(own["node_energy"].sum(), own["energy"], rtol=1e-6)
        reference = np.where(atoms.numbers == 8, -430.0, -13.0)
        assert np.abs(own["node_energy"] - reference).max() < 20


def test_net_force_is_zero_and_stress_only_in_a_cell(predict, waters):
    assert predict(waters).code == 0
    _, predictions = result()
    for index, atoms in enumerate(waters):
        own = predictions.of_structure(index)
        np.testing.assert_allclose(own["forces"].sum(axis=0), 0, atol=1e-5)
        assert np.any(own["stress"]) == bool(atoms.pbc.any())
        np.testing.assert_allclose(own["stress"], own["stress"].T, atol=1e-6)


def test_label_errors_are_those_by_hand(predict, waters):
    assert predict(waters).code == 0
    _, predictions = result()
    for index, atoms in enumerate(waters):
        atoms.info["REF_energy"] = (
            float(predictions.quantities["energy"][index]) + len(atoms) * 0.25
        )
        forces = predictions.of_structure(index)["forces"]
        atoms.arrays["REF_forces"] = forces + np.array([0.5, 0.0, 0.0])
    del waters[0].info["REF_energy"]
    outcome = predict(waters, "--json")
    summary = json.loads(outcome.out)["summary"]
    assert summary["rmse_e_per_atom"] == pytest.approx(0.25, rel=1e-4)
    assert summary["mae_e_per_atom"] == pytest.approx(0.25, rel=1e-4)
    assert summary["rmse_f"] == pytest.approx(0.5 / np.sqrt(3), rel=1e-4)
    assert summary["mae_f"] == pytest.approx(0.5 / 3, rel=1e-4)
    assert set(summary) == {
        *("n_graph", "rmse_e_per_atom", "mae_e_per_atom", "rmse_f", "mae_f", "rel_rmse_f")
    }
    assert "rmse_f 0.288" in outcome.err


def test_a_single_head_serves_all_structures(predict, waters):
    waters[0].info["head"] = "anything"
    assert predict(waters).code == 0
    assert predict(waters, "--head", "pbe").code == 0


def test_two_heads_follow_the_structures(predict, waters):
    for index, atoms in enumerate(waters):
        atoms.info["head"] = ("pbe", "scan")[index % 2]
    assert predict(waters, model="two").code == 0
    metadata, predictions = result()
    own = predictions.quantities["energy"]
    assert metadata["head"] == "each structure's own"
    each = {}
    for head in ("pbe", "scan"):
        assert predict(waters, "--head", head, model="two").code == 0
        metadata, predictions = result()
        each[head] = predictions.quantities["energy"]
        assert metadata["head"] == head
    for index in range(len(waters)):
        head = ("pbe", "scan")[index % 2]
        np.testing.assert_allclose(own[index], each[head][index], rtol=1e-7)
    assert np.all(np.abs(each["pbe"] - each["scan"]) > 5)  # other E0s


def test_structure_without_head_needs_one_with_two_heads(predict, waters):
    outcome = predict(waters, model="two")
    assert (outcome.code, outcome.out) == (1, "")
    error = outcome.err.splitlines()[-1]
    assert error.startswith("error: in.xyz: frame 0: head 'Default', expected one of")
    assert "['pbe', 'scan']" in error


def test_unknown_head_names_those_there_are(predict, waters):
    outcome = predict(waters, "--head", "r2scan", model="two")
    assert outcome.code == 2
    assert "--head: 'r2scan', expected one of ['pbe', 'scan']" in outcome.err


def test_extxyz_can_be_read_with_its_provenance(predict, waters, tmp_path):
    outcome = predict(waters, "--output", "out.extxyz", "--reproducible")
    assert outcome.code == 0, outcome.err
    frames = ase.io.read(tmp_path / "out.extxyz", index=":")
    assert [len(atoms) for atoms in frames] == [3, 6, 3, 3, 3]
    assert "stress" in frames[3].calc.results
    assert "stress" not in frames[0].calc.results
    first = frames[0].info
    assert json.loads(first["mace_jax_schema"]) == {"kind": "predictions", "version": 2}
    loaded = read_input(tmp_path / "out.extxyz")  # by the C parser, too
    assert [len(structure) for structure in loaded.structures] == [3, 6, 3, 3, 3]


def test_places_name_file_and_frame(tmp_path, waters):
    ase.io.write(tmp_path / "in.xyz", waters, format="extxyz")
    loaded = read_input(tmp_path / "in.xyz")
    assert loaded.structures[4].place == f"{tmp_path / 'in.xyz'}: frame 4"
    assert (loaded.as_input.role, loaded.as_input.kind) == ("structures", "extxyz")


def test_atoms_without_neighbours_can_be_predicted(predict):
    lonely = ase.Atoms("H", [[0, 0, 0]])
    outcome = predict([lonely, lonely])
    assert outcome.code == 0, outcome.err
    _, predictions = result()
    np.testing.assert_array_equal(predictions.quantities["forces"], 0)
    assert np.all(np.isfinite(predictions.quantities["energy"]))


def with_potential(frames):
    for index, atoms in enumerate(frames):
        atoms.arrays["potential"] = np.linspace(0, 1 + index, len(atoms))
    return frames


def test_what_a_model_is_told_is_read_from_the_input(predict, waters):
    for atoms in with_potential(waters):
        atoms.info["total_charge"] = -1
    outcome = predict(waters, model="charged")
    assert outcome.code == 0, outcome.err
    assert "assumed" not in outcome.err
    anions = result()[1].quantities["energy"]
    for atoms in waters:
        atoms.info["total_charge"] = 1
    assert predict(waters, model="charged").code == 0
    assert np.abs(result()[1].quantities["energy"] - anions).min() > 1e-3


def test_what_is_assumed_is_said(predict, waters):
    with_potential(waters)
    waters[1].info["total_charge"] = 0
    outcome = predict(waters, model="charged")
    assert outcome.code == 0, outcome.err
    assert (
        "in.xyz: total_charge: given by 1 of 5 structures; 0 is assumed for the others"
        in outcome.err
    )
    assumed = result()[1].quantities["energy"]
    for atoms in waters:
        atoms.info["total_charge"] = 0
    assert predict(waters, model="charged").code == 0
    np.testing.assert_array_equal(result()[1].quantities["energy"], assumed)


def test_what_cannot_be_assumed_is_asked_for(predict, waters):
    outcome = predict(waters, model="charged")
    assert (outcome.code, outcome.out) == (1, "")
    error = outcome.err.splitlines()[-1]
    assert error.startswith("error: in.xyz: frame 0: has no potential, which the model needs")


def test_a_charge_that_the_model_does_not_know_is_refused(predict, waters):
    with_potential(waters)[2].info["total_charge"] = 2
    outcome = predict(waters, model="charged")
    assert (outcome.code, outcome.out) == (1, "")
    error = outcome.err.splitlines()[-1]
    assert "in.xyz: frame 2: total_charge 2, expected a whole number from -1 to 1" in error


def test_a_model_without_energy(predict, waters):
    """Labels of what it does not predict bring no errors."""
    for atoms in waters:
        atoms.info["REF_energy"] = -14.0
        atoms.info["total_charge"] = 1
    outcome = predict(waters, "--json", model="dielectric")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["summary"] == {"n_graph": 5}
    metadata, predictions = result()
    expected = {"dipole", "atomic_dipoles", "charges", "polarizability"}
    assert set(metadata["quantities"]) == predictions.quantities.keys() == expected
    for index in range(5):
        own = predictions.of_structure(index)
        assert own["charges"].sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(own["polarizability"], own["polarizability"].T, atol=1e-5)
