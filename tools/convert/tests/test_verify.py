"""The comparison with mace-torch, in whose place here stand numbers of our own."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.batching.graph import model_input
from mace_jax.errors import CheckFailedError
from mace_jax.model.predict import predict
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax_convert import verify
from mace_jax_convert.verify import verification_structures, verified

CHANGED = "products/0/linear/weights/0e"


pytestmark = pytest.mark.usefixtures("fast_compilation")


@pytest.fixture(scope="module")
def numbers(stored, tmp_path_factory):
    """What this program says of layers_1."""
    path = tmp_path_factory.mktemp("numbers") / "layers_1.model"
    path.write_bytes(stored("layers_1"))
    bundle = convert_torch_model(path)
    structures = verification_structures(bundle)
    with jax.enable_x64(True):
        found = predict(bundle, "bundle", structures, n_edge=1)
    return [found.of_structure(index) for index in range(len(structures))]


@pytest.fixture
def with_mace_torch(monkeypatch, numbers):
    """Return a function that pretends mace-torch is installed and says our numbers of layers_1."""

    def pretend(factor: float = 1) -> None:
        found = [{name: factor * array for name, array in own.items()} for own in numbers]
        monkeypatch.setattr(verify, "has_mace_torch", lambda: True)
        monkeypatch.setattr(verify, "mace_torch_version", lambda: "mace-torch 0.0")
        monkeypatch.setattr(verify, "evaluate_torch", lambda bundle, structures: found)

    return pretend


@pytest.fixture
def without_mace_torch(monkeypatch):
    """Return a function that pretends mace-torch is not installed."""
    return lambda: monkeypatch.setattr(verify, "has_mace_torch", lambda: False)


@pytest.fixture
def verified_file(convert, with_mace_torch, without_mace_torch, tmp_path):
    """A bundle that keeps numbers, in a file; mace-torch is gone again."""
    with_mace_torch()
    path = tmp_path / "verified.msgpack"
    bundle = verified(convert("layers_1"), "layers_1.model")
    write_model_bundle(path, bundle, make_provenance("mace-jax-convert", []))
    without_mace_torch()
    return path


def changed(bundle, factor=1.0001):
    array = bundle.parameters[CHANGED] * factor
    return replace(bundle, parameters={**bundle.parameters, CHANGED: array})


@pytest.mark.parametrize("name", ["all_embeddings_readout_heads", "correlation_3_2", "dielectric"])
def test_structures(convert, name):
    bundle = convert(name)
    structures = verification_structures(bundle)
    again = verification_structures(bundle)
    assert {structure.head for structure in structures} == set(bundle.heads)
    assert len(structures) == 4 * len(bundle.heads)
    for structure, other in zip(structures, again, strict=True):
        np.testing.assert_array_equal(structure.positions, other.positions)
        for spec in model_inputs(bundle.config):
            np.testing.assert_array_equal(model_input(structure, spec), model_input(other, spec))
    assert {z for s in structures for z in s.atomic_numbers} == set(bundle.config.atomic_numbers)
    assert any(structure.pbc.all() for structure in structures)
    assert any(len(structure) == 1 for structure in structures)


def test_a_model_of_all_elements(convert):
    bundle = convert("layers_1")
    every = tuple(range(1, 119))
    bundle = replace(bundle, config=replace(bundle.config, atomic_numbers=every))
    cluster = verification_structures(bundle)[2]
    assert cluster.atomic_numbers.tolist() == list(every)
    distances = np.linalg.norm(cluster.positions[:, None] - cluster.positions, axis=-1)
    assert distances[np.triu_indices(118, 1)].min() > 1


def test_numbers_and_errors_are_kept_in_the_file(verified_file):
    parity = read_model_bundle(verified_file).parity
    assert parity["reference"] == "mace-torch 0.0"
    assert (parity["dtype"], parity["tolerance"]) == ("float64", 1e-9)
    assert set(parity["errors"]) == {"energy", "forces", "node_energy", "stress", "virials"}
    assert max(parity["errors"].values()) < 1e-13
    names = [record["name"] for record in parity["structures"]]
    assert names == ["atom", "dimer", "cluster", "crystal"]
    assert np.abs(parity["structures"][3]["quantities"]["forces"]).max() > 0.01


def test_kept_numbers_are_compared_with_where_mace_torch_is_missing(verified_file, run, tmp_path):
    outcome = run("--torch-model", verified_file, "--verify", "-o", "again.msgpack", "--json")
    assert outcome.code == 0, outcome.err
    assert "verify: energy differs from mace-torch 0.0 by " in outcome.err
    assert max(json.loads(outcome.out)["summary"]["errors"].values()) < 1e-12
    again, before = (read_model_bundle(tmp_path / f"{n}.msgpack") for n in ("again", "verified"))
    assert again.parity["structures"] == before.parity["structures"]


def test_a_weight_that_was_changed_afterwards(verified_file, run, tmp_path):
    bundle = changed(read_model_bundle(verified_file))
    write_model_bundle(verified_file, bundle, make_provenance("mace-jax-convert", []))
    outcome = run("--torch-model", verified_file, "--verify", "-o", "again.msgpack", "--quiet")
    assert (outcome.code, outcome.out) == (3, "")
    (line,) = outcome.err.splitlines()
    assert "differs from mace-torch 0.0 by" in line
    assert "do not use this model" in line
    assert not (tmp_path / "again.msgpack").exists()


def test_mace_torch_disagrees(convert, with_mace_torch):
    with_mace_torch(1 + 1e-8)
    with pytest.raises(CheckFailedError, match=r"^file: \w+ differs from mace-torch 0\.0 by "):
        verified(convert("layers_1"), "file")


def test_numbers_that_are_not_finite_are_a_difference(convert, with_mace_torch):
    with_mace_torch()
    with pytest.raises(CheckFailedError):
        verified(changed(convert("layers_1"), np.nan), "file")


def test_neither_mace_torch_nor_numbers(run, write_stored, without_mace_torch, tmp_path):
    without_mace_torch()
    outcome = run("--torch-model", write_stored("layers_1"), "--verify")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].endswith(
        "--verify: mace-torch is not installed and the bundle keeps no numbers of it; "
        'pip install "./tools/convert[torch]"'
    )
    assert not list(tmp_path.glob("*.msgpack"))


@pytest.mark.parametrize("option", [("--dtype", "float32"), ("--head", "fine")])
def test_numbers_of_another_model_are_not_kept(convert, verified_file, run, tmp_path, option):
    bundle = replace(convert("json_density_heads"), parity=read_model_bundle(verified_file).parity)
    path = tmp_path / "two_heads.msgpack"
    write_model_bundle(path, bundle, make_provenance("mace-jax-convert", []))
    outcome = run("--torch-model", path, *option, "-o", "other.msgpack")
    assert outcome.code == 0, outcome.err
    parity = read_model_bundle(tmp_path / "other.msgpack").parity
    assert parity is None


@pytest.mark.parametrize("option", [(), ("--head", "Default")])
def test_numbers_stay_in_a_bundle_that_is_only_copied(verified_file, run, tmp_path, option):
    assert run("--torch-model", verified_file, *option, "-o", "other.msgpack").code == 0
    copied, before = (read_model_bundle(tmp_path / f"{n}.msgpack") for n in ("other", "verified"))
    assert copied.parity == before.parity
