"""Files and numbers shared with a live mace-torch; runs in the nox session ``torch``."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.predictions import read_predictions
from mace_jax.artifacts.statistics import read_statistics

pytestmark = pytest.mark.skipif(
    not os.environ.get("MACE_JAX_LIVE_TORCH"), reason="needs mace-torch; run `nox -s torch`"
)

ASPIRIN = Path(__file__).parents[3] / "examples" / "aspirin"
ELEMENTS = "[1, 6, 8]"


def run(*command: str, cwd: Path) -> str:
    # e3nn 0.4 and mace checkpoints need the full unpickler, no longer the default of torch
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same frames, prepared by us (``ours/``) and by mace_prepare_data (``torch/``)."""
    folder = tmp_path_factory.mktemp("live")
    for split, n_frames in (("train", 60), ("valid", 20)):
        lines = (ASPIRIN / f"{split}.xyz").read_text().splitlines(keepends=True)
        (folder / f"{split}.xyz").write_text("".join(lines[: 23 * n_frames]))
    common = ("--train_file", "train.xyz", "--valid_file", "valid.xyz", "--r_max", "5.0")
    common += ("--compute_statistics", "--atomic_numbers", ELEMENTS, "--E0s", "average")
    ours = (sys.executable, "-m", "mace_jax_preprocess", "--shuffle", "False")
    run(*ours, *common, "--h5_prefix", "ours/", cwd=folder)
    (folder / "torch").mkdir()
    keys = ("--energy_key", "REF_energy", "--forces_key", "REF_forces", "--num_process", "2")
    theirs = ("mace_prepare_data", "--h5_prefix", "torch/", "--shuffle", "False", *keys)
    run(*theirs, *common, cwd=folder)
    return folder


def test_their_dataset_reads_like_ours(folder: Path) -> None:
    with Dataset(folder / "ours" / "train") as ours, Dataset(folder / "torch" / "train") as theirs:
        assert len(ours) == len(theirs) == 60
        for own, other in zip(ours, theirs, strict=True):
            assert own.properties.keys() == other.properties.keys() == {"energy", "forces"}
            np.testing.assert_array_equal(own.positions, other.positions)
            np.testing.assert_array_equal(own.atomic_numbers, other.atomic_numbers)
            np.testing.assert_array_equal(own.properties["forces"], other.properties["forces"])
            np.testing.assert_array_equal(own.properties["energy"], other.properties["energy"])
            assert own.weight == other.weight


def test_statistics_agree(folder: Path) -> None:
    ours = read_statistics(folder / "ours" / "statistics.json")
    theirs = read_statistics(folder / "torch" / "statistics.json")
    assert ours.atomic_numbers == theirs.atomic_numbers
    assert ours.r_max == theirs.r_max
    # theirs are float32 means over shards; both shards have the same size here
    assert ours.avg_num_neighbors == pytest.approx(theirs.avg_num_neighbors, rel=1e-5)
    assert ours.std == pytest.approx(theirs.std, rel=1e-2)
    for number, energy in ours.atomic_energies.items():
        assert energy == pytest.approx(theirs.atomic_energies[number], rel=1e-5)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A model that mace_run_train made in one epoch from our dataset and statistics."""
    options = "--name live --model MACE --hidden_irreps 8x0e+8x1o --max_ell 2 --correlation 3"
    options += " --r_max 5.0 --batch_size 5 --valid_batch_size 10 --max_num_epochs 1 --device cpu"
    options += " --default_dtype float64 --seed 1 --num_workers 0"
    data = ("--train_file", "ours/train", "--valid_file", "ours/val")
    data += ("--statistics_file", "ours/statistics.json")
    # the HDF5 files hold canonical names
    keys = ("--energy_key", "energy", "--forces_key", "forces")
    log = run("mace_run_train", *options.split(), *data, *keys, cwd=folder)
    assert "Epoch 0" in log
    return folder / "checkpoints" / "live_run-1.model"


def test_their_training_reads_our_files_and_we_read_their_model(
    folder: Path, trained: Path
) -> None:
    bundle = folder / "live.msgpack"
    convert = (sys.executable, "-m", "mace_jax_convert", "--torch-model", str(trained))
    run(*convert, "--output", str(bundle), cwd=folder)
    output = folder / "live.npz"
    predict = (sys.executable, "-m", "mace_jax_predict", str(bundle), "valid.xyz")
    run(*predict, "--output", str(output), cwd=folder)
    evaluate = ("mace_eval_configs", "--configs", "valid.xyz", "--model", str(trained))
    run(*evaluate, "--output", "live.xyz", "--default_dtype", "float64", cwd=folder)

    from ase.io import read

    _, predictions = read_predictions(output)
    frames = read(folder / "live.xyz", ":")
    assert len(frames) == len(predictions.n_node)
    for index, frame in enumerate(frames):
        ours = predictions.of_structure(index)
        # extxyz keeps eight decimals
        np.testing.assert_allclose(ours["forces"], frame.arrays["MACE_forces"], atol=1.5e-8)
        np.testing.assert_allclose(ours["energy"], frame.info["MACE_energy"], rtol=1e-9)
