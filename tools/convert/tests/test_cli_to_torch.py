"""What can be said of mace-jax-to-torch without torch; the rest is in ``tests/parity/live``."""

import pytest

from mace_jax.artifacts.model_bundle import write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax_convert import to_torch


@pytest.fixture
def bundle_file(convert, tmp_path):
    path = tmp_path / "model.msgpack"
    provenance = make_provenance("mace-jax-convert", [])
    write_model_bundle(path, convert("json_density_heads"), provenance)
    return path


@pytest.mark.parametrize("missing", ["torch", "mace"])
def test_torch_is_needed(run_to_torch, bundle_file, monkeypatch, tmp_path, missing):
    monkeypatch.setattr(to_torch, "find_spec", lambda name: None if name == missing else name)
    outcome = run_to_torch(bundle_file)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "error: torch and mace-torch are not installed, but this needs them; "
        'pip install "./tools/convert[torch]"\n'
    )
    assert [path.name for path in tmp_path.glob("model*")] == ["model.msgpack"]


@pytest.fixture
def written(monkeypatch):
    """What would be written, by path."""
    found = {}
    monkeypatch.setattr(to_torch, "require_mace_torch", lambda: None)
    monkeypatch.setattr(to_torch, "write_torch_model", found.__setitem__)
    return found


def test_default_output_is_beside_the_bundle(run_to_torch, bundle_file, written, monkeypatch):
    def write(path, bundle):
        path.write_bytes(b"model")
        written[path] = bundle

    monkeypatch.setattr(to_torch, "write_torch_model", write)
    assert run_to_torch(bundle_file).out.strip() == str(bundle_file.parent / "model-torch.model")
    (bundle,) = written.values()
    assert bundle.heads == ("rough", "fine")


def test_head_and_dtype(run_to_torch, bundle_file, written, tmp_path):
    arguments = ("--head", "fine", "--dtype", "float32", "-o", "own.model")
    assert run_to_torch(bundle_file, *arguments).code == 0
    ((path, bundle),) = written.items()
    assert path.name == "own.model"
    assert (bundle.heads, bundle.dtype) == (("fine",), "float32")


def test_an_unknown_head(run_to_torch, bundle_file, written):
    outcome = run_to_torch(bundle_file, "--head", "finest")
    assert (outcome.code, written) == (2, {})
    assert outcome.err == "error: head 'finest', expected one of ['rough', 'fine']\n"


def test_an_existing_output_is_kept(run_to_torch, bundle_file, written, tmp_path):
    (tmp_path / "model-torch.model").write_bytes(b"precious")
    outcome = run_to_torch(bundle_file)
    assert (outcome.code, written) == (2, {})
    assert "exists already; give --force" in outcome.err
    assert "is read, too" in run_to_torch(bundle_file, "--output", bundle_file, "--force").err
    assert run_to_torch(bundle_file, "--force").code == 0
    assert len(written) == 1


def test_a_torch_file_is_no_bundle(run_to_torch, write_stored, written):
    outcome = run_to_torch(write_stored("layers_1"))
    assert (outcome.code, written) == (1, {})
    assert "expected a model bundle" in outcome.err
