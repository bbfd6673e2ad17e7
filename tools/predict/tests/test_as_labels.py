"""mace-jax-predict --as-labels: a dataset that is labelled by a model."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.predictions import PredictedBlock, read_predictions
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.inspection.tagged_file import comment_entries
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import Structure
from mace_jax_predict.pseudo_labels import pseudo_labelled


def labelled(path: str) -> list:
    if path.endswith(".h5"):
        with Dataset(Path(path)) as dataset:
            return list(dataset)
    return read_structures(Path(path))[0]


def provenance_of(path: str) -> dict:
    if path.endswith(".h5"):
        with h5py.File(path) as file:
            return json.loads(file.attrs["provenance"])
    entries = comment_entries(Path(path).read_text().splitlines()[1])
    return {**entries, "inputs": [entries["input_0"], entries["input_1"]]}


@pytest.fixture
def teach(predict, waters):
    """Return a function that labels the molecules, which have labels of another method."""
    for index, atoms in enumerate(waters):
        atoms.info |= {"REF_energy": -1.0, "REF_dipole": [1.0, 2.0, 3.0], "config_weight": 0.5}
        atoms.info |= {"config_energy_weight": 7.0, "config_type": f"type {index}"}
        atoms.arrays["REF_forces"] = np.full((len(atoms), 3), 9.0)

    def run(*arguments, **options):
        outcome = predict(waters, "--as-labels", *arguments, **options)
        assert outcome.code == 0, outcome.err
        return outcome

    return run


@pytest.mark.parametrize("output", ["out.xyz", "out.h5"])
def test_labels_are_the_predictions_exactly(predict, waters, teach, output):
    teach("--output", output)
    assert predict(waters).code == 0
    _, predictions = read_predictions(Path("out.npz"))
    for index, (found, atoms) in enumerate(zip(labelled(output), waters, strict=True)):
        own = predictions.of_structure(index)
        names = {"energy", "forces"} | ({"stress"} if atoms.pbc.any() else set())
        assert found.properties.keys() == names
        for name in names:
            np.testing.assert_array_equal(found.properties[name], own[name])
            assert found.label_weight(name) == 0.5
        assert (found.head, found.config_type) == ("pbe", f"type {index}")
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-8)


def summary_of(capfd) -> dict:
    return json.loads(capfd.readouterr().out)["summary"]


@pytest.mark.parametrize("output", ["out.xyz", "out.h5"])
def test_errors_against_the_labels_are_zero(bundles, teach, capfd, output):
    """As float64 computes: other batches add up in another order."""
    from mace_jax_predict.cli import main

    teach("--output", output, "--dtype", "float64")
    capfd.readouterr()
    with pytest.raises(SystemExit):
        main(
            [
                *(str(bundles / "one.msgpack"), output, "--output", "again.npz"),
                *("--dtype", "float64", "--json"),
            ]
        )
    summary = summary_of(capfd)
    assert summary["n_labels"] == {"energy": 5, "forces": 5, "stress": 1}
    assert summary["mae_e"] < 1e-11
    assert max(summary["rmse_f"], summary["rmse_stress"]) < 1e-13


@pytest.mark.parametrize("output", ["out.xyz", "out.h5"])
def test_provenance_says_that_labels_are_a_models(bundles, teach, output):
    outcome = teach("--output", output, "--json")
    assert f"{output}: labels are predictions of " in outcome.err
    assert json.loads(outcome.out)["artifact"] == output
    provenance = provenance_of(output)
    assert provenance["tool"] == "mace-jax-predict"
    labels, structures = provenance["inputs"]
    assert (labels["role"], labels["kind"]) == ("labels", "model_bundle")
    assert labels["sha256"] == file_sha256(bundles / "one.msgpack")
    assert (structures["role"], structures["name"]) == ("structures", "in.xyz")


def test_head_name_and_layout(teach):
    teach("--output", "out.h5", "--head-name", "pt_head", "--layout", "flat")
    assert {one.head for one in labelled("out.h5")} == {"pt_head"}
    with Dataset(Path("out.h5")) as dataset:
        assert dataset.layout == "flat"


def test_heads_of_a_model_with_two(predict, waters, teach):
    """Each structure's own head predicts, unless one is named."""
    for index, atoms in enumerate(waters):
        atoms.info["head"] = ("pbe", "scan")[index % 2]
    teach("--output", "own.xyz", model="two")
    teach("--output", "scan.xyz", "--head", "scan", "--head-name", "mine", model="two")
    own, scan = labelled("own.xyz"), labelled("scan.xyz")
    assert [one.head for one in own] == ["pbe", "scan", "pbe", "scan", "pbe"]
    assert {one.head for one in scan} == {"mine"}
    apart = [
        abs(one.properties["energy"] - other.properties["energy"])
        for one, other in zip(own, scan, strict=True)
    ]
    assert [difference < 1e-3 for difference in apart] == [False, True, False, True, False]


def test_what_the_model_is_told_goes_along_in_extended_xyz_only(predict, waters):
    for atoms in waters:
        atoms.info["total_charge"] = 1
        atoms.arrays["potential"] = np.full(len(atoms), 0.125)
    outcome = predict(waters, "--as-labels", "--output", "out.xyz", model="charged")
    assert outcome.code == 0, outcome.err
    found, _ = read_structures(Path("out.xyz"), inputs=["total_charge", "potential"])
    assert {float(one.inputs["total_charge"]) for one in found} == {1.0}
    np.testing.assert_array_equal(found[1].inputs["potential"], np.full(6, 0.125))
    outcome = predict(waters, "--as-labels", "--output", "out.h5", model="charged")
    assert outcome.code == 1
    assert "has total_charge, potential, for which HDF5 has no place" in outcome.err
    assert not Path("out.h5").exists()


def test_a_model_without_energy_teaches_what_it_predicts(predict, waters):
    outcome = predict(waters, "--as-labels", "--output", "out.h5", model="dielectric")
    assert outcome.code == 0, outcome.err
    assert labelled("out.h5")[0].properties.keys() == {"dipole", "charges", "polarizability"}


@pytest.mark.parametrize("place", ["properties", "inputs"])
def test_a_label_that_the_model_is_told_stays_one(place):
    charges, dipole = np.array([0.5, -0.5]), np.array([[1.0, 2.0, 3.0]])
    structure = Structure(
        np.array([1, 8]),
        np.eye(2, 3),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        **{"properties": {"energy": np.array(1.0), "dipole": np.zeros(3)}}
        | {place: {"charges": charges}},
    )
    block = PredictedBlock([structure], ["a.xyz"], np.array([0]), ["pbe"], {"dipole": dipole})
    (found,) = pseudo_labelled(block, ["charges"], None)
    assert found.inputs == {}
    assert found.properties.keys() == {"charges", "dipole"}
    np.testing.assert_array_equal(found.properties["charges"], charges)
    np.testing.assert_array_equal(found.properties["dipole"], dipole[0])
    (other,) = pseudo_labelled(block, [], None)
    assert "charges" not in other.properties


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--as-labels"], "out.npz: unknown suffix '.npz', expected one of .h5"),
        (["--as-labels", "--output", "o.h5", "--descriptors"], "a dataset has no place for them"),
        (["--as-labels", "--output", "in.xyz"], "in.xyz: is read, too, and an input is never"),
        (["--as-labels", "--output", "o.h5", "--head-name", ""], "'' is empty, or has blanks"),
        (["--head-name", "a"], "--head-name: 'a' is of a dataset; add --as-labels"),
        (["--layout", "flat"], "--layout: 'flat' is of a dataset; add --as-labels"),
    ],
)
def test_what_does_not_go_together(predict, waters, arguments, message):
    outcome = predict(waters, *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert not Path("o.h5").exists()
