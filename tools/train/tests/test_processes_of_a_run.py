"""Whole runs of the command in two processes on this machine."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from socket import create_server

import numpy as np
import pytest

from mace_jax.artifacts.dataset import write_dataset_file
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax_train.topology import ADDRESS, COUNT, INDEX

pytestmark = pytest.mark.slow

NETWORK = (
    "r_max=3.0 num_bessel=3 max_ell=0 num_interactions=1 hidden_irreps='4x0e' correlation=2 "
    "radial_MLP=(8,)"
)
TOGETHER = ("--launcher", "local", "--process-count", "2")


@pytest.fixture
def unused_port() -> int:
    with create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """Return a function from a name and flags to a process of the command in float64."""
    folder = tmp_path_factory.mktemp("runs")
    bindings = [f"model.{binding}" for binding in NETWORK.split()]
    splits = {f"datasets.{name}": repr(path) for name, path in data.items()}
    options = {**splits, "datasets.E0s": '"{1: -13.6, 8: -2041.8}"', "datasets.n_edge": "20"}
    bindings += [f"{name}={value}" for name, value in options.items()]
    common = [part for binding in bindings for part in ("-b", binding)]

    def run(name: str, *flags: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "mace_jax_train", "--device", "cpu", "--dtype", "float64"),
                *("--name", name, "--log-dir", str(folder), *common, *flags),
            ],
            env={**os.environ, "MACE_JAX_CACHE": str(folder / "cache"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    run.folder = folder
    return run


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr, within a minute."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def children(process: subprocess.Popen) -> list[int]:
    """Return the processes of a launcher in their order."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return sorted(int(pid) for pid in path.read_text().split())


def test_the_first_of_two_processes_alone_writes_events(start):
    pytest.importorskip("tensorboardX")
    code, _, err = end(start("events", *TOGETHER, "--max-epochs", "1", "--tensorboard"))
    assert code == 0, err
    assert len(list((start.folder / "tensorboard" / "events").iterdir())) == 1


def test_defects_1_and_15_two_processes_train_as_one_does_on_the_same_groups(start):
    """20 steps; one process gets the groups of both by adding up the gradients of two batches."""
    stem = str(start.folder / "two")
    code, out, err = end(start("two", *TOGETHER, "--max-epochs", "10"))
    assert (code, out) == (0, f"{stem}_best.msgpack\n"), err
    plans = [
        part
        for split in ("train", "valid", "test")
        for part in (f"--{split}-plan", f"{stem}.{split}.plan.json")
    ]
    one = start("one", "--max-epochs", "10", *plans, "-b", "optimizer.accumulate=2")
    code, _, err = end(one)
    assert code == 0, err
    (_, rows), (_, expected) = (
        read_metrics(start.folder / f"{name}.metrics") for name in ("two", "one")
    )
    assert rows[-2]["n_updates"] == 20
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        for name in ("mode", "epoch", "n_updates", "edge_padding"):
            assert row.get(name) == other.get(name)
        for name in ("loss", "rmse_e_per_atom", "mae_f", "rmse_f"):
            assert row[name] == pytest.approx(other[name], rel=1e-10)
    for suffix in ("_last.msgpack", "_best.msgpack"):
        found, other = (
            read_model_bundle(start.folder / f"{name}{suffix}").parameters
            for name in ("two", "one")
        )
        assert all(np.allclose(found[name], other[name], rtol=1e-10, atol=0) for name in found)


def test_two_devices_of_one_process_train_as_two_processes_do(start):
    flags = "--xla_force_host_platform_device_count=2"
    code, _, err = end(start("devices", "--max-epochs", "2", XLA_FLAGS=flags))
    assert code == 0, err
    code, _, err = end(start("pair_of_processes", *TOGETHER, "--max-epochs", "2"))
    assert code == 0, err
    found, other = (
        read_model_bundle(start.folder / f"{name}_last.msgpack").parameters
        for name in ("devices", "pair_of_processes")
    )
    assert all(np.allclose(found[name], other[name], rtol=1e-10, atol=0) for name in found)


@pytest.fixture(scope="module")
def two_heads(start, molecules) -> list[str]:
    """Flags of two heads: the second has fewer structures, another method and more weight."""
    heads = {}
    for name, sizes, factor, weight in (("a", (8, 4), 1.0, 1.0), ("b", (5, 3), 1.5, 3.0)):
        paths = {}
        for seed, split in enumerate(("train_path", "valid_path")):
            structures = [
                replace(one, properties={k: factor * v for k, v in one.properties.items()})
                for one in molecules(sizes[seed], 10 + seed)
            ]
            path = start.folder / f"{name}_{split}.h5"
            write_dataset_file(path, structures, make_provenance("mace-jax-preprocess", []))
            paths[split] = str(path)
        e0s = str({1: -13.6 * factor, 8: -2041.8 * factor})
        heads[name] = {**paths, "weight": weight, "E0s": e0s, "forces_weight": 1 / weight}
    none = [f"--{split}-path=None" for split in ("train", "valid", "test")]
    return [*none, "--heads", repr(heads), "--E0s=None", "--max-epochs", "4"]


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        (TOGETHER, {}),
        ((), {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}),
    ],
    ids=["two processes", "two devices"],
)
def test_heads_on_two_devices_learn_as_on_one(start, two_heads, flags, environment):
    """The one gets the groups of both by adding up the gradients of two batches."""
    name = f"heads_of_{len(flags)}"
    code, _, err = end(start(name, *two_heads, *flags, **environment))
    assert code == 0, err
    plans = [f"--{s}-plan={start.folder / name}.{s}.plan.json" for s in ("train", "valid")]
    accumulated = ("-b", "optimizer.accumulate=2")
    code, _, err = end(start(f"{name}_alone", *two_heads, *plans, *accumulated))
    assert code == 0, err
    (_, rows), (_, expected) = (
        read_metrics(start.folder / f"{run}.metrics") for run in (name, f"{name}_alone")
    )
    assert {(row["mode"], row["head"]) for row in rows} == {
        (mode, head) for mode in ("train", "valid") for head in ("a", "b", "all")
    }
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        for column in ("mode", "head", "epoch", "n_updates"):
            assert row[column] == other[column]
        for column in ("loss", "rmse_e_per_atom", "mae_f", "rmse_f"):
            assert row[column] == pytest.approx(other[column], rel=1e-10)
    found, other = (
        read_model_bundle(start.folder / f"{run}_last.msgpack") for run in (name, f"{name}_alone")
    )
    assert (found.scale, found.shift) == (other.scale, other.shift)
    for path, array in other.parameters.items():
        np.testing.assert_allclose(found.parameters[path], array, rtol=1e-10, err_msg=path)


def test_two_processes_repeat_a_run_of_two(start, train_xyz):
    """Frames are converted by the first alone; one process would take other steps."""
    options = ("--train-path", train_xyz, "--max-epochs", "1")
    code, _, err = end(start("recipe", *TOGETHER, *options))
    assert code == 0, err
    bundle = start.folder / "recipe_last.msgpack"
    code, _, err = end(start("alone_again", "--like", str(bundle), *options))
    assert code == 1
    assert f"error: {bundle}: 2 devices trained it together, found 1, whose steps would be" in err
    code, _, err = end(start("again", "--like", str(bundle), *TOGETHER, *options))
    assert code == 0, err
    found, expected = (
        read_model_bundle(start.folder / f"{name}_last.msgpack").parameters
        for name in ("again", "recipe")
    )
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


@pytest.mark.parametrize("index", [0, 1])
def test_one_that_is_killed_ends_the_run_which_goes_on_from_its_checkpoint(start, index):
    name, checkpoint = f"killed{index}", start.folder / f"killed{index}.checkpoint"
    run = start(name, *TOGETHER, "--max-epochs", "100000")
    wait_for(checkpoint)
    time.sleep(1)
    started = time.monotonic()
    os.kill(children(run)[index], signal.SIGKILL)
    code, out, err = end(run)
    assert time.monotonic() - started < 30
    assert (code, out) == (137, "")
    assert f"error: process {index} was ended by SIGKILL, and so the others were ended" in err
    again = start(name, *TOGETHER, "--max-epochs", "100000")
    for line in again.stderr:
        if line.startswith("goes on in epoch"):
            break
    time.sleep(1)
    again.send_signal(signal.SIGTERM)
    code, _, err = end(again)
    assert code == 75, err
    assert "stopped by SIGTERM in epoch" in err


def test_a_signal_to_one_of_them_stops_both_at_the_same_step(start):
    run = start("signalled", *TOGETHER, "--max-epochs", "100000")
    wait_for(start.folder / "signalled.checkpoint")
    time.sleep(1)
    os.kill(children(run)[1], signal.SIGUSR1)
    code, _, err = end(run)
    assert code == 75
    places = {line.split(" in ")[-1] for line in err.splitlines() if "stopped by" in line}
    assert len(places) == 1
    assert "stopped by a signal to another process in epoch" in err
    assert "process 1: error: " in err


def test_without_a_launcher_the_survivor_says_so(start, unused_port):
    common = {COUNT: "2", ADDRESS: f"127.0.0.1:{unused_port}"}
    both = [
        start("by_hand", "--max-epochs", "100000", **common, **{INDEX: str(index)})
        for index in range(2)
    ]
    wait_for(start.folder / "by_hand.checkpoint")
    time.sleep(1)
    both[1].kill()
    code, out, err = end(both[0])
    end(both[1])
    assert (code, out) == (1, "")
    assert "error: another process is gone or hangs (" in err


def test_what_one_cannot_read_is_said_once_and_ends_both(start):
    code, out, err = end(start("missing", *TOGETHER, "--train-path", "nowhere.h5"))
    assert (code, out) == (1, "")
    assert "error: nowhere.h5: " in err


def test_a_plan_for_one_process_is_refused_by_two(start):
    plan = start.folder / "alone.train.plan.json"
    code, _, err = end(start("alone", "--max-epochs", "1"))
    assert code == 0, err
    code, _, err = end(start("pair", *TOGETHER, "--train-plan", str(plan)))
    assert code == 1
    assert f"error: {plan}: made for 1 processes, but 2 devices train together; plan again" in err
