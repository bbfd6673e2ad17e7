import json
import subprocess
import sys

import pytest

from mace_jax.artifacts.model_bundle import read_model_bundle


def run(*arguments, cwd):
    command = [sys.executable, "-m", "mace_jax_convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_conversion(tmp_path, checkpoint):
    done = run("--torch-model", checkpoint, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
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


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_conversion_leaves_nothing_half_written(tmp_path, edited, existing):
    path = edited(b"models\nScaleShiftMACE\n", b"models\nAtomicDipolesMACE\n")
    output = tmp_path / "out" / "model.msgpack"
    output.parent.mkdir()
    if existing:
        output.write_bytes(b"precious")
    done = run("--torch-model", path, "--output", output, "--force", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: model class mace.modules.models.AtomicDipolesMACE")
    assert [p.name for p in output.parent.iterdir()] == (["model.msgpack"] if existing else [])
    assert not existing or output.read_bytes() == b"precious"


def test_an_existing_output_is_kept(tmp_path, checkpoint):
    output = tmp_path / "model.msgpack"
    output.write_bytes(b"precious")
    done = run("--torch-model", checkpoint, "--output", output, cwd=tmp_path)
    assert done.returncode == 2
    assert "exists already; give --force" in done.stderr
    assert output.read_bytes() == b"precious"
