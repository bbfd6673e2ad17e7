import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.torch_models import foundation_models

STRUCTURES = """3
Properties=species:S:1:pos:R:3 pbc="F F F"
O 0.0 0.0 0.0
H 0.96 0.0 0.0
H -0.24 0.93 0.0
2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 total_charge=-1
C 0.1 0.0 0.0
N 1.2 0.2 0.1
"""


@pytest.fixture
def without_modules(monkeypatch):
    """Return a function that makes packages look as if they were not installed."""

    def hide(*names: str) -> None:
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: None if name in names else find_spec(name)
        )

    return hide


def test_conversion(tmp_path, run, checkpoint):
    outcome = run("--torch-model", checkpoint, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert found["artifact"] == str(tmp_path / "edited-jax.msgpack")
    bundle = read_model_bundle(tmp_path / "edited-jax.msgpack")
    n_parameters = sum(array.size for array in bundle.parameters.values())
    assert found["summary"] == {
        "model": "ScaleShiftMACE",
        "heads": ["Default"],
        "dtype": "float64",
        "parameters": n_parameters,
    }
    assert n_parameters > 1000
    assert (bundle.license, bundle.model_card, bundle.parity) == (None, {}, None)


def test_provenance_names_the_file_and_its_digest(run, checkpoint, tmp_path):
    import hashlib

    import msgpack

    run("--torch-model", checkpoint)
    content = (tmp_path / "edited-jax.msgpack").read_bytes()
    provenance = msgpack.unpackb(content)["header"]["provenance"]
    assert provenance["tool"] == "mace-jax-convert"
    assert provenance["inputs"] == [
        {
            "role": "torch_model",
            "name": "edited.model",
            "kind": "torch_checkpoint",
            "version": None,
            "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        }
    ]


def test_neither_torch_nor_jax_is_imported(tmp_path, checkpoint):
    code = (
        "import sys\n"
        "from mace_jax_convert.cli import main\n"
        "try:\n"
        "    main(['--torch-model', sys.argv[1]])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "print(sorted({'torch', 'jax', 'flax', 'e3nn', 'e3nn_jax', 'mace'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    assert (tmp_path / "edited-jax.msgpack").exists()


@pytest.mark.parametrize(
    "pickled",
    [b"cos\nsystem\n(X\x0c\x00\x00\x00touch hackedtR.", b"\x80\x02}h\x00", b"]" * 200 + b"."],
    ids=["attack", "cut", "nested"],
)
def test_a_hostile_file_gets_one_line_and_leaves_nothing(tmp_path, pickled):
    path = tmp_path / "hostile.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
    command = [sys.executable, "-m", "mace_jax_convert", "--torch-model", path.name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: hostile.pt: ")
    assert list(tmp_path.iterdir()) == [path]


def test_one_head(run, write_stored, tmp_path):
    path = write_stored("json_density_heads")
    outcome = run("--torch-model", path, "--head", "fine", "-o", "fine.msgpack", "--json")
    assert json.loads(outcome.out)["summary"]["heads"] == ["fine"]
    bundle = read_model_bundle(tmp_path / "fine.msgpack")
    assert bundle.heads == ("fine",)
    assert set(bundle.atomic_energies) == set(bundle.scale) == set(bundle.shift) == {"fine"}


def test_a_head_that_does_not_exist(run, write_stored, tmp_path):
    outcome = run("--torch-model", write_stored("json_density_heads"), "--head", "finest")
    assert outcome.code == 2
    assert outcome.err == "error: head 'finest', expected one of ['rough', 'fine']\n"
    assert not list(tmp_path.glob("*.msgpack"))


def test_dtype(run, checkpoint, tmp_path):
    run("--torch-model", checkpoint, "-o", "double.msgpack")
    outcome = run("--torch-model", checkpoint, "-o", "single.msgpack", "--dtype", "float32")
    assert outcome.code == 0
    double, single = (read_model_bundle(tmp_path / f"{n}.msgpack") for n in ("double", "single"))
    assert (double.dtype, single.dtype) == ("float64", "float32")
    assert single.parameters.keys() == double.parameters.keys()
    for name, array in double.parameters.items():
        np.testing.assert_array_equal(single.parameters[name], array.astype(np.float32))
    assert single.atomic_energies == double.atomic_energies


def test_reproducible_bytes(checkpoint, tmp_path):
    """Run twice, and once in another folder."""
    contents = []
    for folder in (tmp_path, tmp_path, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        if not (folder / checkpoint.name).exists():
            shutil.copy(checkpoint, folder)
        command = [sys.executable, "-m", "mace_jax_convert", "--torch-model", checkpoint.name]
        command += ["--reproducible", "--force", "--output", "model.msgpack"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        contents.append((folder / "model.msgpack").read_bytes())
    assert contents[0] == contents[1] == contents[2]


def test_without_reproducible_time_and_host_are_noted(run, checkpoint, tmp_path):
    run("--torch-model", checkpoint)
    assert b"created_utc" in (tmp_path / "edited-jax.msgpack").read_bytes()


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_conversion_leaves_nothing_half_written(run, write_stored, tmp_path, existing):
    path = write_stored("json_density_heads")
    path.write_bytes(path.read_bytes().replace(b"DensityResidual", b"DensityReminder"))
    output = tmp_path / "out" / "model.msgpack"
    output.parent.mkdir()
    if existing:
        output.write_bytes(b"precious")
    outcome = run("--torch-model", path, "--output", output, "--force")
    assert (outcome.code, outcome.out) == (1, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: {path}: ")
    assert [p.name for p in output.parent.iterdir()] == (["model.msgpack"] if existing else [])
    assert not existing or output.read_bytes() == b"precious"


@pytest.mark.parametrize("option", ["bundle", "predictions"])
def test_an_existing_output_is_kept(run, checkpoint, tmp_path, option):
    name = "model.msgpack" if option == "bundle" else "model-predictions.extxyz"
    (tmp_path / name).write_bytes(b"precious")
    (tmp_path / "in.xyz").write_text(STRUCTURES)
    outcome = run("--torch-model", checkpoint, "-o", "model.msgpack", "--predict", "in.xyz")
    assert outcome.code == 2
    assert f"{name}: exists already; give --force" in outcome.err.replace(f"{tmp_path}/", "")
    assert [path.name for path in tmp_path.glob("model*")] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"


def test_the_model_itself_is_not_replaced(run, checkpoint):
    before = checkpoint.read_bytes()
    outcome = run("--torch-model", checkpoint, "-o", checkpoint, "--force")
    assert outcome.code == 2
    assert "is read, too, and an input is never replaced" in outcome.err
    assert checkpoint.read_bytes() == before


def test_force(run, checkpoint, tmp_path):
    (tmp_path / "model.msgpack").write_bytes(b"old")
    outcome = run("--torch-model", checkpoint, "-o", "model.msgpack", "--force")
    assert outcome.code == 0
    assert read_model_bundle(tmp_path / "model.msgpack").heads == ("Default",)


@pytest.mark.parametrize(
    "options", [("--foundation", "mp"), ("--model-name", "small"), ("--offline",)]
)
def test_contradicting_options(run, checkpoint, tmp_path, options):
    outcome = run("--torch-model", checkpoint, *options)
    assert outcome.code == 2
    assert "--torch-model: cannot go with --foundation, --model-name or --offline" in outcome.err
    assert not list(tmp_path.glob("*.msgpack"))


@pytest.mark.parametrize("option", [("--verify",), ("--predict", "in.xyz")])
@pytest.mark.parametrize("missing", ["jax", "vesin"])
def test_what_computes_needs_the_network(
    run, checkpoint, tmp_path, without_modules, option, missing
):
    (tmp_path / "in.xyz").write_text(STRUCTURES)
    without_modules(missing)
    outcome = run("--torch-model", checkpoint, *option)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.endswith('which is not installed; pip install "./tools/convert[model]"')
    assert not list(tmp_path.glob("*.msgpack"))


# Predictions


def test_predict(run, write_stored, tmp_path):
    from ase.io import read

    (tmp_path / "in.xyz").write_text(STRUCTURES)
    path = write_stored("r_max_4.5")
    outcome = run("--torch-model", path, "-o", "model.msgpack", "--predict", "in.xyz", "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)["summary"]["predictions"]
    frames = read(tmp_path / "model-predictions.extxyz", ":", format="extxyz")
    assert summary["path"].endswith("model-predictions.extxyz")
    assert summary["head"] == "Default"
    energies = [frame.info["MACE_energy"] for frame in frames]
    np.testing.assert_allclose(energies, summary["energy"], rtol=1e-6)
    lines = outcome.err.splitlines()
    assert "model-predictions.extxyz: predictions by head Default" in lines[-3]
    expected = [
        f"structure {index}: energy {energy:.8g} eV"
        for index, energy in enumerate(summary["energy"])
    ]
    assert lines[-2:] == expected


def test_predict_says_what_it_assumes(run, write_stored, tmp_path):
    (tmp_path / "in.xyz").write_text(STRUCTURES)
    outcome = run("--torch-model", write_stored("json_embeddings"), "--predict", "in.xyz")
    assert outcome.code == 0, outcome.err
    assert "warning: in.xyz: total_charge: given by 1 of 2 structures; 0 is assumed" in outcome.err
    assert "warning: in.xyz: total_spin: given by 0 of 2 structures; 1 is assumed" in outcome.err


def test_predict_a_model_without_energy(run, write_stored, tmp_path):
    (tmp_path / "in.xyz").write_text(STRUCTURES)
    path = write_stored("dielectric")
    outcome = run("--torch-model", path, "--predict", "in.xyz", "--json")
    assert outcome.code == 0, outcome.err
    assert "energy" not in json.loads(outcome.out)["summary"]["predictions"]
    text = (tmp_path / "dielectric-jax-predictions.extxyz").read_text()
    assert "polarizability" in text


def test_an_element_that_the_model_lacks(run, write_stored, tmp_path):
    (tmp_path / "in.xyz").write_text(STRUCTURES.replace("\nO ", "\nXe "))
    outcome = run("--torch-model", write_stored("r_max_4.5"), "--predict", "in.xyz")
    assert outcome.code == 1
    assert "in.xyz: frame 0" in outcome.err
    assert not (tmp_path / "r_max_4.5-jax-predictions.extxyz").exists()


# Released models


@pytest.fixture
def mirror(monkeypatch, tmp_path, stored):
    """A folder in place of the network, and a cache of its own."""
    model = replace(foundation_models.find_foundation_model("omol"), sha256=None)
    monkeypatch.setattr(foundation_models, "FOUNDATION_MODELS", (model,))
    monkeypatch.setenv("MACE_JAX_MIRROR", (tmp_path / "mirror").as_uri())
    monkeypatch.setenv("MACE_JAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mirror" / "omol" / model.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(stored("json_embeddings"))
    return model


def test_a_released_model_says_its_licence_and_origin(run, mirror, tmp_path):
    outcome = run("--foundation", "omol")
    assert outcome.code == 0, outcome.err
    assert "warning: omol extra_large: Academic Software License, no commercial use" in outcome.err
    assert outcome.out == "omol-extra_large-jax.msgpack\n"
    bundle = read_model_bundle(tmp_path / "omol-extra_large-jax.msgpack")
    assert bundle.license == "ASL"
    assert bundle.model_card == {
        "foundation": "omol",
        "name": "extra_large",
        "url": mirror.url,
    }


def test_offline(run, mirror, tmp_path):
    outcome = run("--foundation", "omol", "--offline")
    assert outcome.code == 1
    assert "leave out --offline" in outcome.err
    run("--foundation", "omol", "-o", "first.msgpack")
    shutil.rmtree(tmp_path / "mirror")
    assert run("--foundation", "omol", "--offline", "-o", "second.msgpack").code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")
def test_memory_of_a_small_conversion(tmp_path, checkpoint):
    """What grows with the model is measured where torch makes a large one."""
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from mace_jax_convert.cli import main\n"
        "try:\n"
        "    main(['--torch-model', sys.argv[1]])\n"
        "except SystemExit:\n"
        "    print(re.search('VmHWM:(.*)kB', Path('/proc/self/status').read_text())[1])\n"
    )
    command = [sys.executable, "-c", code, str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert int(done.stdout.splitlines()[-1]) < 100_000  # kB
