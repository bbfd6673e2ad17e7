"""The command mace-jax-predict: heads, labels, order, what is written."""

import gzip
import io
import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest

from mace_jax.artifacts.batch_plan import write_batch_plan
from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.artifacts.predictions import read_predictions
from mace_jax.artifacts.predictions_file import PredictionsFile
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.batching.plan import plan_batches
from mace_jax.structures.read_structures import read_structures


def result():
    return read_predictions(Path("out.npz"))


def test_no_labels_are_needed(predict, waters):
    outcome = predict(waters, "--json")
    assert outcome.code == 0, outcome.err
    summary = {"n_graph": 5, "n_atoms": 18, "skipped": [], "n_labels": {}}
    assert json.loads(outcome.out)["summary"] == summary
    assert "no labels in 5 structures" in outcome.err
    assert "RMSE" not in outcome.err
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
    assert summary["n_labels"] == {"energy": 4, "forces": 5}
    assert summary["by_element"]["O"]["mae_f"] == pytest.approx(0.5 / 3, rel=1e-4)
    assert summary["by_config_type"].keys() == {"Default"}
    assert "energy: 1 of 5 structures have no label and no part in the errors" in outcome.err
    assert "0.25 / 0.25  0.289 / 0.167" in outcome.err


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
    for atoms in waters:
        atoms.info["level"] = atoms.info.pop("head")
    assert predict(waters, "--head-key", "level", model="two").code == 0
    np.testing.assert_allclose(result()[1].quantities["energy"], own, rtol=1e-7)


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


def test_extxyz_keeps_labels_beside_predictions(predict, waters, tmp_path):
    for atoms in waters:
        atoms.info["REF_energy"] = -1.0
        atoms.info["config_type"] = "wet"
    outcome = predict(waters, "--output", "out.extxyz", "--reproducible")
    assert outcome.code == 0, outcome.err
    frames = ase.io.read(tmp_path / "out.extxyz", index=":")
    assert [len(atoms) for atoms in frames] == [3, 6, 3, 3, 3]
    assert "MACE_stress" in frames[3].info
    assert "MACE_stress" not in frames[0].info
    assert {atoms.info["REF_energy"] for atoms in frames} == {-1.0}
    assert {atoms.info["config_type"] for atoms in frames} == {"wet"}
    assert all(atoms.info["MACE_energy"] < -400 for atoms in frames)
    first = frames[0].info
    assert json.loads(first["mace_jax_schema"]) == {"kind": "predictions", "version": 3}
    assert predict(waters, "-o", "other.extxyz", "--info-prefix", "PBE_").code == 0
    assert "PBE_energy=" in (tmp_path / "other.extxyz").read_text()
    outcome = predict(waters, "-o", "other.extxyz", "--info-prefix", "REF_")
    assert outcome.code == 2
    assert "--info-prefix: 'REF_' is that of labels" in outcome.err


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
    assert json.loads(outcome.out)["summary"]["n_labels"] == {}
    metadata, predictions = result()
    expected = {"dipole", "atomic_dipoles", "charges", "polarizability"}
    assert set(metadata["quantities"]) == predictions.quantities.keys() == expected
    for index in range(5):
        own = predictions.of_structure(index)
        assert own["charges"].sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(own["polarizability"], own["polarizability"].T, atol=1e-5)


# --- inputs of every kind


@pytest.fixture
def expected(predict, waters):
    """Return energies of the five molecules, and write ``in.xyz`` with labels."""
    for index, atoms in enumerate(waters):
        atoms.info["REF_energy"] = -450.0 - index
    assert predict(waters).code == 0
    return result()[1].quantities["energy"]


def datasets(*layouts):
    """Write ``in.xyz`` as HDF5."""
    structures, _ = read_structures(Path("in.xyz"))
    provenance = make_provenance("mace-jax-preprocess", [], reproducible=True)
    for layout in layouts:
        write_dataset_file(Path(f"{layout}.h5"), structures, provenance, layout=layout)


def test_all_kinds_of_input_one_after_the_other(predict, waters, expected):
    datasets("mace", "flat")
    with gzip.open("packed.xyz.gz", "wb") as file:
        file.write(Path("in.xyz").read_bytes())
    more = ("mace.h5", "flat.h5", "pack*.xyz.gz")
    outcome = predict(waters, *more, "-o", "out.h5", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["summary"]["n_labels"] == {"energy": 20}
    with PredictionsFile(Path("out.h5")) as file:
        (block,) = file.blocks()
    np.testing.assert_allclose(block.predictions["energy"], np.tile(expected, 4), rtol=1e-7)
    names = ("in.xyz", "mace.h5", "flat.h5", "packed.xyz.gz")
    assert block.sources == [name for name in names for _ in range(5)]
    assert block.frames.tolist() == [*range(5)] * 4
    np.testing.assert_array_equal(block.labels["energy"].values, np.tile(-450.0 - np.arange(5), 4))
    assert [item["role"] for item in file.metadata["provenance"]["inputs"]] == [
        "model",
        *["structures"] * 4,
    ]


def test_standard_input(predict, waters, expected, monkeypatch):
    text = io.TextIOWrapper(io.BufferedReader(io.BytesIO(Path("in.xyz").read_bytes())))
    monkeypatch.setattr(sys, "stdin", text)
    assert predict(waters, "-").code == 0
    energies = result()[1].quantities["energy"]
    np.testing.assert_allclose(energies, np.tile(expected, 2), rtol=1e-7)


@pytest.fixture
def from_hdf5(bundles, predict, waters, expected, capfd):
    """Return a function that predicts ``flat.h5`` alone."""
    from mace_jax_predict.cli import main

    datasets("flat")

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(bundles / "one.msgpack"), "flat.h5", "-o", "out.npz", "--force", *arguments])
        return stopped.value.code, capfd.readouterr().err

    return run


def test_a_plan(from_hdf5, expected):
    with Dataset(Path("flat.h5")) as dataset:
        plan = plan_batches([dataset], 3.0, 20)
        other = plan_batches([dataset], 2.5, 20)
    provenance = make_provenance("mace-jax-plan-batches", [], reproducible=True)
    write_batch_plan(Path("a.plan.json"), plan, provenance)
    write_batch_plan(Path("b.plan.json"), other, provenance)
    code, err = from_hdf5("--plan", "a.plan.json")
    assert code == 0, err
    assert f"predicting: {len(plan.batches)}" in err
    metadata, predictions = result()
    np.testing.assert_allclose(predictions.quantities["energy"], expected, rtol=1e-7)
    assert metadata["provenance"]["inputs"][-1]["role"] == "plan"
    code, err = from_hdf5("--plan", "b.plan.json")
    assert code == 1
    assert "b.plan.json: was made for r_max 2.5 Å, expected 3.0 Å" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plan", "a.plan.json"), "--plan: in.xyz is not HDF5"),
        (("--plan", "a.plan.json", "--skip-bad", "2"), "--plan and --skip-bad: "),
    ],
)
def test_what_a_plan_cannot_go_with(predict, waters, arguments, message):
    outcome = predict(waters, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_the_same_file_twice_is_a_mistake(predict, waters):
    outcome = predict(waters, "in.xyz")
    assert outcome.code == 1
    assert "in.xyz: named twice" in outcome.err


# --- structures that cannot be predicted


def test_an_element_that_the_model_lacks_is_named_before_anything_is_computed(predict, waters):
    waters[3].numbers[0] = 79
    outcome = predict(waters)
    assert (outcome.code, outcome.out) == (1, "")
    assert "error: in.xyz: frame 3: unknown element Au (79)" in outcome.err
    assert "backend" not in outcome.err
    assert sorted(path.name for path in Path().iterdir()) == ["in.xyz"]


def test_bad_frames_are_passed_over_as_far_as_allowed(predict, waters, expected):
    waters[0].numbers[0] = 79
    waters[3].positions[0, 0] = np.nan
    outcome = predict(waters, "--skip-bad", "2", "-o", "out.h5", "--json")
    assert outcome.code == 0, outcome.err
    assert len(json.loads(outcome.out)["summary"]["skipped"]) == 2
    with PredictionsFile(Path("out.h5")) as file:
        (block,) = file.blocks()
    assert block.frames.tolist() == [1, 2, 4]
    assert file.metadata["n_skipped"] == 2
    np.testing.assert_allclose(block.predictions["energy"], expected[[1, 2, 4]], rtol=1e-7)
    outcome = predict(waters, "--skip-bad", "1")
    assert outcome.code == 1
    assert "1 frames have been passed over, as --skip-bad allows" in outcome.err


def test_existing_output_is_kept(predict, waters, bundles, capfd):
    from mace_jax_predict.cli import main

    assert predict(waters, "-o", "kept.h5").code == 0
    before = Path("kept.h5").read_bytes()
    arguments = [str(bundles / "one.msgpack"), "in.xyz", "-o", "kept.h5"]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "kept.h5: exists already" in capfd.readouterr().err
    assert Path("kept.h5").read_bytes() == before
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--overwrite"])
    assert stopped.value.code == 0


def test_a_key_that_occurs_nowhere(predict, waters):
    waters[0].info["dft"] = -1.0
    assert predict(waters, "--energy-key", "dft").code == 0
    outcome = predict(waters, "--energy-key", "dtf")
    assert outcome.code == 1
    assert "energy found in 0 of 5 structures under 'dtf'" in outcome.err


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("one", "--forces-key my_forces --stress-key my_stress --virials-key my_virials"),
        (
            "dielectric",
            "--dipole-key my_dipole --charges-key my_charges --polarizability-key "
            "my_polarizability",
        ),
    ],
)
def test_every_label_has_a_key(predict, waters, model, keys):
    of_frame = {"stress": np.eye(3), "virials": np.eye(3), "dipole": np.ones(3)}
    of_frame |= {"polarizability": np.eye(3)}
    for atoms in waters:
        if model == "one":
            atoms.set_cell(np.eye(3) * 9)
            atoms.pbc = True
        atoms.info |= {f"my_{name}": value for name, value in of_frame.items()}
        for name, shape in (("forces", (len(atoms), 3)), ("charges", len(atoms))):
            atoms.arrays[f"my_{name}"] = np.ones(shape)
    outcome = predict(waters, *keys.split(), "--json", model=model)
    assert outcome.code == 0, outcome.err
    labels = [word.removeprefix("my_") for word in keys.split()[1::2]]
    assert json.loads(outcome.out)["summary"]["n_labels"] == dict.fromkeys(labels, 5)


# --- how it computes


def test_a_backend_that_is_not_there(predict, waters, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuequivariance_jax", None)
    outcome = predict(waters, "--backend", "cueq")
    assert outcome.code == 2
    assert "backend cueq: cuequivariance-jax is not installed" in outcome.err


def test_compiled_programs_are_kept_unless_they_are_not_wanted(predict, waters):
    assert "compiled programs: kept in" in predict(waters).err
    assert "compiled programs" not in predict(waters, "--no-compile-cache").err


# --- precision and descriptors


def test_float64_sums_more_exactly(predict, waters):
    assert predict(waters).code == 0
    single = result()[1].quantities
    outcome = predict(waters, "--dtype", "float64")
    assert outcome.code == 0, outcome.err
    assert "float64" in outcome.err
    double = result()[1].quantities
    np.testing.assert_allclose(double["energy"], single["energy"], rtol=1e-6)
    assert np.abs(double["forces"].sum(axis=0)).max() < 1e-12


def test_descriptors_do_not_change_when_a_molecule_is_turned(predict, waters):
    turned = waters[0].copy()
    turned.rotate(50, "x")
    turned.rotate(20, "z")
    outcome = predict([waters[0], waters[2], turned], "--descriptors")
    assert outcome.code == 0, outcome.err
    first, other, again = np.split(result()[1].quantities["descriptors"], 3)
    assert first.shape == (3, 4)
    np.testing.assert_allclose(again, first, atol=1e-5)
    assert np.abs(other - first).max() > 1e-4
