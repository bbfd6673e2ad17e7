import json
import lzma
import pickletools
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from mace_jax.artifacts.model_bundle import EmbeddingSpec

DATA = Path(__file__).parents[3] / "tests" / "parity" / "data"


def write_stored(name, tmp_path):
    path = tmp_path / f"{name}.model"
    path.write_bytes(lzma.decompress((DATA / f"{name}.model.xz").read_bytes()))
    return path


def test_summary(run, bundle, write_bundle, tmp_path):
    outcome = run(write_bundle(bundle()), "--output", "model.pkl", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert found["artifact"] == "model.pkl"
    assert found["summary"] == {
        "model": "ScaleShiftMACE",
        "head": "Default",
        "dtype": "float64",
        "elements": ["C", "O"],
        "r_max": 3.0,
        "num_interactions": 2,
        "inputs": {},
        "self_test": True,
    }


def test_the_pickle_is_one_call_with_bytes(run, bundle, write_bundle, tmp_path):
    """Nothing compiled, no class but ours, no array: what a later version must still read."""
    run(write_bundle(bundle()), "--no-self-test")
    content = (tmp_path / "model-lammps.pkl").read_bytes()
    operations = [(code.name, value) for code, value, _ in pickletools.genops(content)]
    names = [value for name, value in operations if name == "SHORT_BINUNICODE"]
    assert names == ["mace_jax_export_lammps.potential", "load_potential"]
    calls = {"STACK_GLOBAL", "GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "INST", "OBJ"}
    assert [name for name, _ in operations if name in calls] == ["STACK_GLOBAL", "REDUCE"]


def test_a_torch_checkpoint(run, tmp_path):
    path = write_stored("layers_1", tmp_path)
    outcome = run(path, "--dtype", "float32", "--no-self-test", "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)["summary"]
    assert (summary["dtype"], summary["num_interactions"]) == ("float32", 1)
    assert (tmp_path / "layers_1-lammps.pkl").exists()


def test_several_heads_need_a_choice(run, bundle, write_bundle):
    path = write_bundle(bundle(heads=("rough", "fine")))
    outcome = run(path)
    assert outcome.code == 2
    assert "heads ['rough', 'fine'], expected one; choose it with --head" in outcome.err
    outcome = run(path, "--head", "finest")
    assert outcome.code == 2
    assert "head 'finest', expected one of ['rough', 'fine']" in outcome.err
    outcome = run(path, "--head", "fine", "--no-self-test", "--json")
    assert json.loads(outcome.out)["summary"]["head"] == "fine"


def test_the_model_itself_is_not_replaced(run, tmp_path):
    path = write_stored("layers_1", tmp_path)
    outcome = run(path, "--output", path, "--force")
    assert outcome.code == 2
    assert "is read, too, and an input is never replaced" in outcome.err


@pytest.mark.parametrize("name", ["atomic_dipoles", "dielectric", "energy_dipoles"])
def test_models_of_dipoles_are_refused(run, tmp_path, name):
    outcome = run(write_stored(name, tmp_path))
    assert outcome.code == 1
    assert "expected one of ['MACE', 'ScaleShiftMACE']" in outcome.err
    assert not list(tmp_path.glob("*.pkl"))


def test_inputs_are_assumed_aloud_or_given(run, tmp_path):
    path = write_stored("json_embeddings", tmp_path)
    outcome = run(path, "--no-self-test", "--json")
    assert json.loads(outcome.out)["summary"]["inputs"] == {"total_charge": 0, "total_spin": 1}
    assert "warning: " in outcome.err
    assert "total_charge: 0 is assumed; --input gives it" in outcome.err
    arguments = ("--input", "total_charge=-1", "--input", "total_spin=2", "--force")
    outcome = run(path, "--no-self-test", "--json", *arguments)
    assert json.loads(outcome.out)["summary"]["inputs"] == {"total_charge": -1, "total_spin": 2}
    assert outcome.err == ""


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("total_spins=1", "--input: 'total_spins', expected one of "),
        ("total_spin=0.5", "--input: total_spin 0.5, expected a whole number from "),
        ("total_spin=nan", "is not a name and a number such as total_charge=-1"),
        ("total_spin", "is not a name and a number such as total_charge=-1"),
    ],
)
def test_inputs_that_the_model_does_not_know(run, tmp_path, argument, message):
    outcome = run(write_stored("json_embeddings", tmp_path), "--input", argument)
    assert outcome.code == 2
    assert message in outcome.err


def test_an_input_that_has_no_usual_value(run, bundle, write_bundle, tmp_path):
    spec = EmbeddingSpec("pressure", "continuous", "graph", 4)
    content = bundle()
    changed = replace(content, config=replace(content.config, embedding_specs=(spec,)))
    outcome = run(write_bundle(changed), "--no-self-test")
    assert outcome.code == 1
    assert "needs pressure, 1 numbers for each graph" in outcome.err
    assert "give --input" in outcome.err


@pytest.mark.parametrize("missing", ["jax", "vesin"])
def test_the_self_test_needs_the_network(run, bundle, write_bundle, monkeypatch, missing):
    path = write_bundle(bundle())
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == missing else find_spec(name)
    )
    monkeypatch.setattr(
        "mace_jax_export_lammps.export.find_spec",
        lambda name: None if name == missing else find_spec(name),
    )
    outcome = run(path)
    assert outcome.code == 2
    assert 'pip install "./tools/export_lammps[model]" or give --no-self-test' in outcome.err
    assert run(path, "--no-self-test").code == 0


def test_reproducible_bytes(run, bundle, write_bundle, tmp_path):
    path = write_bundle(bundle())
    contents = []
    for name in ("a.pkl", "b.pkl"):
        run(path, "--reproducible", "--no-self-test", "--output", name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
