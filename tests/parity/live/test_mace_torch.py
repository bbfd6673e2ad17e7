"""Files and numbers shared with a live mace-torch; runs in the nox session ``torch``."""

import os
import subprocess
import sys
from pathlib import Path

import ase
import h5py
import numpy as np
import pytest
from ase.io import write

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
    network = "--hidden_irreps 8x0e+8x1o --max_ell 2 --correlation 3"
    log = train(folder, "ours", f"--name live {network} --batch_size 5 --valid_batch_size 10")
    assert "Epoch 0" in log
    return folder / "checkpoints" / "live_run-1.model"


def train(folder: Path, data: str, options: str) -> str:
    """Train one epoch with mace_run_train on a dataset that is below ``data``; return its log."""
    options += " --model MACE --r_max 5.0 --max_num_epochs 1 --device cpu"
    options += " --default_dtype float64 --seed 1 --num_workers 0"
    options += f" --train_file {data}/train --valid_file {data}/val"
    options += f" --statistics_file {data}/statistics.json"
    # the HDF5 files hold canonical names
    options += " --energy_key energy --forces_key forces"
    return run("mace_run_train", *options.split(), cwd=folder)


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


@pytest.mark.filterwarnings("ignore")  # of importing mace-torch
@pytest.mark.parametrize("n_writers", [1, 4])
def test_their_training_sees_every_structure_of_our_files(folder: Path, n_writers: int) -> None:
    """Eleven structures, so that the files of four writers are not equally long."""
    data = f"writers{n_writers}"
    prepare = f"--train_file valid.xyz --valid_fraction 0.45 --h5_prefix {data} --r_max 5.0"
    prepare += f" --num_process {n_writers} --compute_statistics --E0s average"
    run(sys.executable, "-m", "mace_jax_preprocess", *prepare.split(), cwd=folder)
    lengths = []
    for file in (folder / data / "train").iterdir():
        with h5py.File(file) as opened:
            lengths.append(len(opened["config_batch_0"]))
    assert sorted(lengths) == ([11] if n_writers == 1 else [2, 3, 3, 3])

    from mace.data import dataset_from_sharded_hdf5
    from mace.tools import AtomicNumberTable

    table = AtomicNumberTable([1, 6, 8])
    theirs = dataset_from_sharded_hdf5(str(folder / data / "train"), table, r_max=5.0)
    with Dataset(folder / data / "train") as ours:
        energies = sorted(float(structure.properties["energy"]) for structure in ours)
    assert len(set(energies)) == 11
    assert sorted(float(graph.energy) for graph in theirs) == pytest.approx(energies, rel=1e-6)

    network = "--hidden_irreps 2x0e --max_ell 1 --correlation 1 --num_interactions 1"
    log = train(folder, data, f"--name {data} {network} --batch_size 1 --valid_batch_size 3")
    assert "training dataset size: 11" in log
    assert "Number of gradient updates: 11" in log
    assert "Epoch 0" in log


def water(index: int, **info: object) -> ase.Atoms:
    """Return a molecule whose labels are those in ``info``; ``index`` tells which it is."""
    atoms = ase.Atoms("OHH", [[0, 0, 0], [0.96 + 0.01 * index, 0, 0], [-0.24, 0.93, 0]])
    atoms.info |= info
    return atoms


def test_we_read_their_files_of_any_length_and_with_labels_missing(tmp_path: Path) -> None:
    """Seven frames in three files; frame 2 has no energy, only 3 and 5 have forces, 4 a stress."""
    frames = [water(i, REF_energy=-10.0 - i, head="pbe") for i in range(7)]
    del frames[2].info["REF_energy"]
    for index in (3, 5):
        frames[index].arrays["REF_forces"] = np.full((3, 3), 0.5 * index)
    frames[4].info |= {"REF_stress": np.arange(6.0), "config_type": "cell", "config_weight": 2.0}
    frames[4].cell, frames[4].pbc = np.eye(3) * 9, True
    write(tmp_path / "a.xyz", frames, format="extxyz")
    options = "--train_file a.xyz --valid_file a.xyz --r_max 3.0 --num_process 3 --shuffle False"
    options += " --energy_key REF_energy --forces_key REF_forces --stress_key REF_stress"
    run("mace_prepare_data", *options.split(), "--h5_prefix", "./", cwd=tmp_path)

    file = tmp_path / "train" / "train_0.h5"
    with h5py.File(file) as opened:
        assert opened["config_batch_0/config_2/properties/energy"][()] == b"None"
        assert opened["config_batch_0/config_2/properties/head"][()] == b""
    with Dataset(tmp_path / "train") as dataset:
        found = list(dataset)
    assert [round(100 * s.positions[1, 0]) for s in found] == [96 + i for i in range(7)]
    labels = [{"energy"}] * 7
    labels[2], labels[3], labels[5] = set(), {"energy", "forces"}, {"energy", "forces"}
    labels[4] = {"energy", "stress"}
    assert [set(s.properties) for s in found] == labels
    assert [float(s.properties.get("energy", -12.0)) for s in found] == [
        -10.0 - i for i in range(7)
    ]
    assert [s.weight for s in found] == [1, 1, 1, 1, 2, 1, 1]
    assert {s.head for s in found} == {"Default"}
    assert found[4].config_type == "cell"
    np.testing.assert_array_equal(found[4].properties["stress"], [[0, 5, 4], [5, 1, 3], [4, 3, 2]])
    np.testing.assert_array_equal(found[5].properties["forces"], np.full((3, 3), 2.5))


@pytest.mark.filterwarnings("ignore")  # of importing mace-torch
def test_a_short_last_batch_that_they_miscount_we_read_whole(folder: Path) -> None:
    """Two batches of 3 and 1 in one file: to mace-torch's reader they are 3 and 3."""
    file = folder / "batches.h5"
    with (
        h5py.File(folder / "torch" / "train" / "train_0.h5") as source,
        h5py.File(file, "w") as made,
    ):
        for index, (batch, config) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0)]):
            target = made.require_group(f"config_batch_{batch}")
            source.copy(f"config_batch_0/config_{index}", target, name=f"config_{config}")

    from mace.data import HDF5Dataset
    from mace.tools import AtomicNumberTable

    assert len(HDF5Dataset(str(file), r_max=5.0, z_table=AtomicNumberTable([1, 6, 8]))) == 6
    with Dataset(file) as ours, Dataset(folder / "torch" / "train") as whole:
        assert len(ours) == 4
        for own, other in zip(ours, whole.read(range(4)), strict=True):
            np.testing.assert_array_equal(own.positions, other.positions)
