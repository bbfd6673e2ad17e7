"""The whole chain through real files: preprocess, plan, train, predict, plot."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import ase.io
import h5py
import msgpack
import numpy as np
import pyarrow.parquet as pq
import pytest

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.checkpoint import read_checkpoint
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.metrics import TIMES, read_metrics, without_times
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.predictions import read_predictions
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.artifacts.train_config import read_train_config

N_TRAIN, N_VALID, N_TEST = 20, 6, 4


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def inputs_of(provenance: dict) -> dict[str, str]:
    """Return role -> digest of what a file was made from."""
    return {item["role"]: item["sha256"] for item in provenance["inputs"]}


def provenance_of(path: Path) -> dict:
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return json.loads(file.attrs["provenance"])
    if path.suffix in (".msgpack", ".checkpoint"):
        return msgpack.unpackb(path.read_bytes())["header"]["provenance"]
    if path.suffix == ".npz":
        return read_predictions(path)[0]["provenance"]
    return json.loads(
        path.read_text().splitlines()[0] if ".metrics" in path.name else path.read_text()
    )["provenance"]


def parameters_of(path: Path) -> dict[str, np.ndarray]:
    return dict(read_model_bundle(path).parameters)


def assert_same_parameters(first: Path, second: Path) -> None:
    one, other = parameters_of(first), parameters_of(second)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], strict=True)


def best_row(metrics: Path, mode: str = "valid") -> dict:
    _, rows = read_metrics(metrics)
    of_mode = [row for row in rows if row["mode"] == mode and row["epoch"] > 0]
    return min(of_mode, key=lambda row: row["loss"])


def test_every_artifact_can_be_read(chain):
    for split, count in (("train", N_TRAIN), ("val", N_VALID), ("test", N_TEST)):
        with Dataset(chain / "data" / split) as dataset:
            assert len(list(dataset)) == count
    assert read_statistics(chain / "data" / "statistics.json").atomic_numbers == (1, 6, 8)
    assert read_batch_plan(chain / "train.plan.json").n_structures == N_TRAIN
    assert read_train_config(chain / "run" / "tiny.config.json").model.hidden_irreps == "4x0e"
    header, rows = read_metrics(chain / "run" / "tiny.metrics")
    assert header["status"] == "finished"
    assert [(row["mode"], row["epoch"]) for row in rows] == [
        *(("valid", 0), ("train", 1), ("valid", 1), ("train", 2), ("valid", 2))
    ]
    assert read_checkpoint(chain / "run" / "tiny.checkpoint").epoch == 3


def test_run_folder_holds_nothing_else(chain):
    assert sorted(path.name for path in (chain / "run").iterdir()) == [
        *("tiny.checkpoint", "tiny.config.json", "tiny.gin", "tiny.metrics"),
        *("tiny_best.msgpack", "tiny_last.msgpack"),
    ]


def test_provenance_names_the_files_before(chain):
    """Every arrow of the chain, by digest; a folder of one file has that file's digest."""
    data = {
        split: sha256(next((chain / "data" / split).glob("*.h5"))) for split in ("train", "val")
    }
    for split, role in (("train", "train"), ("val", "valid")):
        (file,) = (chain / "data" / split).glob("*.h5")
        assert inputs_of(provenance_of(file)) == {role: sha256(chain / f"{role}.xyz")}
        plan = provenance_of(chain / f"{split}.plan.json")
        assert inputs_of(plan) == {"dataset": data[split]}
    statistics = chain / "data" / "statistics.json"
    assert inputs_of(provenance_of(statistics)) == {"train": data["train"]}
    into_training = {
        "train": data["train"],
        "valid": data["val"],
        "statistics": sha256(statistics),
        "train_plan": sha256(chain / "train.plan.json"),
        "valid_plan": sha256(chain / "val.plan.json"),
    }
    for name in ("_best.msgpack", "_last.msgpack", ".metrics", ".config.json", ".checkpoint"):
        assert inputs_of(provenance_of(chain / "run" / f"tiny{name}")) == into_training
    assert inputs_of(provenance_of(chain / "val.npz")) == {
        "model": sha256(chain / "run" / "tiny_best.msgpack"),
        "structures": data["val"],
    }


def test_provenance_names_tool_and_seed_and_what_differs_from_run_to_run_is_left_out(chain):
    provenance = provenance_of(chain / "run" / "tiny_best.msgpack")
    assert provenance["tool"] == "mace-jax-train"
    assert provenance["seed"] == 3
    assert provenance["command"] == []
    for path in ("data/train/train_0.h5", "train.plan.json", "run/tiny.metrics", "val.npz"):
        assert not {"created_utc", "host"} & provenance_of(chain / path).keys(), path


def test_best_bundle_predicts_the_validation_metrics_of_its_epoch(chain):
    """Float32, other batches: the sums differ in their last digits."""
    _, predictions = read_predictions(chain / "val.npz")
    with Dataset(chain / "data" / "val") as dataset:
        labels = list(dataset)
    forces = np.concatenate([structure.properties["forces"] for structure in labels])
    energy = np.array([structure.properties["energy"] for structure in labels])
    row = best_row(chain / "run" / "tiny.metrics")
    rmse_f = np.sqrt(np.mean((predictions.quantities["forces"] - forces) ** 2))
    error = (predictions.quantities["energy"] - energy) / predictions.n_node
    rmse_e = np.sqrt(np.mean(error**2))
    np.testing.assert_allclose(rmse_f, row["rmse_f"], rtol=1e-5)
    np.testing.assert_allclose(rmse_e, row["rmse_e_per_atom"], rtol=1e-4)


def test_bundle_carries_statistics_and_its_metrics(chain):
    bundle = read_model_bundle(chain / "run" / "tiny_best.msgpack")
    statistics = read_statistics(chain / "data" / "statistics.json")
    assert bundle.atomic_energies == {"Default": statistics.atomic_energies}
    assert bundle.scale == {"Default": statistics.std}
    assert bundle.shift == {"Default": statistics.mean}
    assert bundle.config.avg_num_neighbors == statistics.avg_num_neighbors
    assert bundle.config.r_max == statistics.r_max == 4.0
    row = best_row(chain / "run" / "tiny.metrics")
    assert bundle.model_card["metrics"] == {k: v for k, v in row.items() if k not in TIMES}


def test_predictions_are_in_input_order_and_equal_in_all_formats(chain, tmp_path, invoke):
    """Batches hold one or two structures here, packed in shuffled order."""
    for suffix in ("npz", "extxyz", "parquet"):
        invoke(
            *("mace-jax-predict", chain / "run" / "tiny_best.msgpack", chain / "test.xyz"),
            *("--output", tmp_path / f"p.{suffix}", "--batch-max-edges", "700"),
        )
    _, npz = read_predictions(tmp_path / "p.npz")
    written = ase.io.read(tmp_path / "p.extxyz", index=":")
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    given = ase.io.read(chain / "test.xyz", index=":")
    assert len(given) == len(written) == len(npz.n_node) == len(table["energy"]) == N_TEST
    for index, (own, atoms) in enumerate(zip(given, written, strict=True)):
        found = npz.of_structure(index)
        np.testing.assert_array_equal(atoms.numbers, own.numbers)
        np.testing.assert_allclose(atoms.positions, own.positions, atol=1e-8)
        np.testing.assert_allclose(atoms.info["MACE_energy"], found["energy"], rtol=1e-8)
        np.testing.assert_allclose(atoms.arrays["MACE_forces"], found["forces"], atol=1e-8)
        np.testing.assert_allclose(
            atoms.arrays["MACE_node_energy"], found["node_energy"], atol=1e-6
        )
        assert table["n_node"][index] == npz.n_node[index] == len(own)
        for name, value in found.items():
            np.testing.assert_array_equal(
                table[name][index], value.ravel() if value.ndim else value
            )
        np.testing.assert_allclose(found["node_energy"].sum(), found["energy"], rtol=1e-6)
    assert (
        len(set(np.round(npz.quantities["energy"], 6))) == N_TEST
    )  # the order could be told apart


def test_prediction_of_one_structure_is_that_of_all(chain, tmp_path, invoke):
    """What shares a batch, and how it is padded, does not matter."""
    for name, edges in (("alone", "1"), ("together", "100000")):
        invoke(
            *("mace-jax-predict", chain / "run" / "tiny_best.msgpack", chain / "test.xyz"),
            *("--output", tmp_path / f"{name}.npz", "--batch-max-edges", edges),
        )
    _, alone = read_predictions(tmp_path / "alone.npz")
    _, together = read_predictions(tmp_path / "together.npz")
    one, other = alone.quantities, together.quantities
    np.testing.assert_allclose(one["energy"], other["energy"], rtol=1e-7)
    np.testing.assert_allclose(one["forces"], other["forces"], atol=1e-5)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_plot(chain, tmp_path, invoke, kind):
    shutil.copy(chain / "run" / "tiny.metrics", tmp_path)
    outcome = invoke("mace-jax-train-plot", "--path", tmp_path, "--output-format", kind)
    assert outcome.out == f"{tmp_path / f'tiny.{kind}'}\n"
    assert (tmp_path / f"tiny.{kind}").stat().st_size > 5000


def test_reproducible_chain_gives_the_same_bytes(chain, tmp_path, run_chain):
    """In another folder: with the same command lines every single file is the same."""
    run_chain(tmp_path)
    first, second = (
        {path.relative_to(folder): sha256(path) for path in folder.rglob("*") if path.is_file()}
        for folder in (chain, tmp_path)
    )
    assert first.keys() == second.keys()
    assert [str(path) for path in first if first[path] != second[path]] == []


@pytest.mark.parametrize("suffix", ["npz", "extxyz", "parquet"])
def test_reproducible_prediction_gives_the_same_bytes(chain, tmp_path, invoke, monkeypatch, suffix):
    monkeypatch.setattr("sys.argv", ["mace-jax-predict"])
    written = []
    for folder in ("one", "two"):
        output = tmp_path / folder / f"p.{suffix}"
        invoke(
            *("mace-jax-predict", chain / "run" / "tiny_best.msgpack", chain / "test.xyz"),
            *("--output", output, "--reproducible"),
        )
        written.append(output.read_bytes())
    assert written[0] == written[1]


def test_quick_start_from_xyz_makes_everything_itself(chain, frames, tmp_path, invoke):
    """Data, plans and statistics stay in the run's folder, fit each other and are the chain's."""
    gin = tmp_path / "tiny.gin"
    gin.write_text((frames / "tiny.gin").read_text() + "datasets.n_edge = 1200\n")
    run = tmp_path / "run"
    outcome = invoke(
        *("mace-jax-train", gin, "--train-path", frames / "train.xyz", "--log-dir", run),
        *("--valid-path", frames / "valid.xyz", "--test-path", frames / "test.xyz", "--json"),
    )
    result = json.loads(outcome.out)
    assert result["artifact"] == str(run / "tiny_best.msgpack")
    assert result["summary"]["epochs"] == 2
    with Dataset(run / "tiny.data" / "train") as dataset:
        assert len(dataset) == N_TRAIN
        plan = read_batch_plan(run / "tiny.train.plan.json")
        assert plan.datasets[0].sha256 == dataset.sha256()
    assert plan.batches == read_batch_plan(chain / "train.plan.json").batches
    statistics = read_statistics(run / "tiny.statistics.json")
    assert statistics == read_statistics(chain / "data" / "statistics.json")
    assert_same_parameters(chain / "run/tiny_best.msgpack", run / "tiny_best.msgpack")
    inputs = inputs_of(provenance_of(run / "tiny_best.msgpack"))
    for split in ("train", "valid", "test"):
        assert inputs[f"{split}_plan"] == sha256(run / f"tiny.{split}.plan.json")
        (file,) = (run / "tiny.data" / split).glob("*.h5")
        assert inputs[split] == sha256(file)
        assert inputs_of(provenance_of(file)) == {split: sha256(frames / f"{split}.xyz")}
    assert inputs["statistics"] == sha256(run / "tiny.statistics.json")
    assert result["summary"]["test"] == best_row(run / "tiny.metrics", "eval_test")
    assert {"created_utc", "host"} <= provenance_of(run / "tiny_best.msgpack").keys()
    assert [line for line in outcome.err.splitlines() if line.startswith("warning")] == []


def test_dry_run_tells_shapes_and_memory_and_leaves_nothing(chain, frames, tmp_path, invoke):
    """With the temporary folder under control, that one is empty, too."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(scratch))
        outcome = invoke(
            *("mace-jax-train", frames / "tiny.gin", "--train-path", frames / "train.xyz"),
            *("--valid-path", frames / "valid.xyz", "--n-edge", "1200", "--json", "--dry-run"),
            *("--log-dir", tmp_path / "run"),
        )
    assert list(tmp_path.rglob("*")) == [scratch]
    summary = json.loads(outcome.out)["summary"]
    plan = read_batch_plan(chain / "train.plan.json")
    assert summary["shapes"]["train"] == [vars(caps) for caps in plan.shapes]
    assert summary["steps_per_epoch"] == len(plan.batches)
    assert summary["structures"] == {"train": N_TRAIN, "valid": N_VALID}
    assert summary["labels"]["train"].items() >= {"energy": N_TRAIN, "forces": N_TRAIN}.items()
    assert summary["devices"] == 1
    assert summary["step_memory_bytes"] > 10_000
    assert summary["parameters"] == sum(
        array.size
        for name, array in parameters_of(chain / "run" / "tiny_best.msgpack").items()
        if not name.startswith("radial_embedding/")  # constants
    )
    *parts, whole = summary["parts"]
    assert {row["part"] for row in parts} >= {"node_embedding", "interactions.0", "readouts.0"}
    assert (whole["trained"], whole["lr_factors"]) == (summary["parameters"], [1.0])
    assert re.search(r"part +parameters +trained +lr factor\n", outcome.err)
    assert re.search(r"\d+ edges, \d+ nodes, \d+ graphs", outcome.err)
    assert re.search(r"dry run: \d+ parameters, \d+ steps an epoch, about .* MB", outcome.err)


def train_again(invoke, chain, monkeypatch, folder, *arguments):
    """Repeat the chain's training from its folder, writing elsewhere."""
    monkeypatch.chdir(chain)
    return invoke("mace-jax-train", *arguments, "--log-dir", folder, "--name", "tiny")


def test_printed_config_repeats_the_run(chain, tmp_path, invoke, monkeypatch):
    arguments = [
        *("tiny.gin", "--train-path", "data/train", "--valid-path", "data/val", "--train-plan"),
        *("train.plan.json", "--valid-plan", "val.plan.json"),
        *("--statistics-file", "data/statistics.json"),
    ]
    monkeypatch.chdir(chain)
    outcome = invoke("mace-jax-train", *arguments, "--print-config", "--dry-run")
    printed = re.findall(r"^\w+\.\w+ = .*$", outcome.err, re.MULTILINE)
    assert "flags.seed = 3" in printed
    assert "optimizer.lr = 0.01" in printed  # defaults are shown, too
    (tmp_path / "printed.gin").write_text("\n".join(printed))
    train_again(invoke, chain, monkeypatch, tmp_path, tmp_path / "printed.gin")
    assert_same_parameters(chain / "run/tiny_best.msgpack", tmp_path / "tiny_best.msgpack")
    saved = (chain / "run" / "tiny.gin").read_text().split()
    assert "\n".join(printed).split() == saved


def test_saved_config_repeats_the_run(chain, tmp_path, invoke, monkeypatch):
    train_again(invoke, chain, monkeypatch, tmp_path, "run/tiny.config.json")
    for name in ("tiny_best.msgpack", "tiny_last.msgpack"):
        assert_same_parameters(chain / "run" / name, tmp_path / name)
    _, first = read_metrics(chain / "run" / "tiny.metrics")
    _, second = read_metrics(tmp_path / "tiny.metrics")
    assert [without_times(row) for row in first] == [without_times(row) for row in second]


def test_plans_made_by_train_are_those_of_plan_batches(chain, tmp_path, invoke, monkeypatch):
    """Same n_edge and seed: the same batches, hence the same parameters."""
    train_again(
        *(invoke, chain, monkeypatch, tmp_path, "tiny.gin", "--train-path", "data/train"),
        *("--valid-path", "data/val", "--statistics-file", "data/statistics.json"),
        *("--n-edge", "1200"),
    )
    for split, name in (("train", "train"), ("valid", "val")):
        made = read_batch_plan(tmp_path / f"tiny.{split}.plan.json")
        assert made == read_batch_plan(chain / f"{name}.plan.json")
    assert_same_parameters(chain / "run/tiny_best.msgpack", tmp_path / "tiny_best.msgpack")


@pytest.mark.parametrize(("data", "warned"), [("data/train", False), ("data/val", True)])
def test_statistics_of_other_data_are_pointed_out(chain, invoke, monkeypatch, data, warned):
    monkeypatch.chdir(chain)
    outcome = invoke(
        *("mace-jax-train", "tiny.gin", "--dry-run", "--train-path", data, "--valid-path", "None"),
        *("--statistics-file", "data/statistics.json", "--n-edge", "1200"),
    )
    warning = f"warning: data/statistics.json: was computed from other data than {data}"
    assert (warning in outcome.err) == warned
