"""A command killed at any moment leaves the old result or the new one, never half of one.

Two kinds of moments: right before each change of the file system (``crash_points.py``), and moments
spread over the time in which a real process writes.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.checkpoint import read_checkpoint
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.predictions import read_predictions
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.artifacts.selection import read_selection
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.artifacts.train_config import read_train_config

ROOT = Path(__file__).parents[2]
OLD, NEW = 4, 6  # training structures of the old and the new result
PREPROCESS = [
    *("--train_file", "new.xyz", "--valid_file", "valid.xyz", "--test_file", "test.xyz"),
    *("--h5_prefix", "data", "--compute_statistics", "--E0s", "average"),
]


@pytest.fixture(scope="module")
def killed(environment, tmp_path_factory):
    """Return a function that runs a command killed at its changes of the file system."""

    def run(package: str, template: Path, arguments: list[str], count: int = 0) -> list[Path]:
        folder = tmp_path_factory.mktemp("killed")
        done = subprocess.run(
            [
                *(sys.executable, Path(__file__).with_name("crash_points.py"), package),
                *(folder, template, str(count), *arguments),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        cases = sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name))
        assert len(cases) == 1 + (count or int(done.stdout.split()[-1]))
        return cases

    return run


@pytest.fixture(scope="module")
def template(chain, tmp_path_factory):
    """Return a folder with the input of a run."""
    folder = tmp_path_factory.mktemp("template")
    lines = (chain / "train.xyz").read_text().splitlines(keepends=True)
    (folder / "new.xyz").write_text("".join(lines[: 23 * NEW]))
    (folder / "old.xyz").write_text("".join(lines[-23 * OLD :]))
    for name in ("valid", "test"):
        shutil.copy(chain / f"{name}.xyz", folder)
    return folder


@pytest.fixture(scope="module")
def replaced(killed, template, tmp_path_factory, shell):
    """Return the folders of killed runs that were to replace an old result."""
    folder = tmp_path_factory.mktemp("template") / "old"
    shutil.copytree(template, folder)
    arguments = ["old.xyz" if name == "new.xyz" else name for name in PREPROCESS]
    outcome = shell("mace-jax-preprocess", *arguments, cwd=folder)
    assert outcome.code == 0, outcome.err
    return killed("mace_jax_preprocess", folder, [*PREPROCESS, "--force"])


def structures_in(folder: Path) -> int | None:
    """Return how many structures a dataset holds, every one of them read; None if not there."""
    if not folder.exists():
        return None
    with Dataset(folder) as dataset:
        return sum(1 for _ in dataset)


@pytest.mark.slow
def test_preprocess_killed_at_every_change(killed, template):
    cases = killed("mace_jax_preprocess", template, PREPROCESS)
    seen = set()
    for case in cases:
        counts = tuple(structures_in(case / "data" / name) for name in ("train", "val", "test"))
        assert all(found in (None, n) for found, n in zip(counts, (NEW, 5, 4), strict=True))
        statistics = case / "data" / "statistics.json"
        if statistics.exists():
            read_statistics(statistics)
            assert counts == (NEW, 5, 4)
        seen.add((*counts, statistics.exists()))
    assert {(None, None, None, False), (NEW, 5, 4, True)} <= seen


@pytest.mark.slow
def test_preprocess_over_an_old_result_killed_at_every_change(replaced):
    """Every split is the old one or the new one."""
    found = {
        case.name: tuple(structures_in(case / "data" / name) for name in ("train", "val", "test"))
        for case in replaced
    }
    assert found["full"] == (NEW, 5, 4)
    assert found["1"] == (OLD, 5, 4)
    broken = {
        name: counts for name, counts in found.items() if counts not in ((NEW, 5, 4), (OLD, 5, 4))
    }
    assert broken == {}
    # statistics.json goes away before the splits change and comes back when all have
    described = {case.name: case / "data" / "statistics.json" for case in replaced}
    assert described["full"].exists()
    assert described["1"].exists()
    for statistics in described.values():
        if statistics.exists():
            read_statistics(statistics)


@pytest.mark.slow
def test_statistics_left_by_a_kill_belong_to_the_training_data_beside_them(replaced):
    """Train checks the digests of plans but not of statistics, so this must hold on disk."""
    mixed = []
    for case in replaced:
        statistics, train = case / "data" / "statistics.json", case / "data" / "train"
        if statistics.exists() and train.exists():
            (described,) = json.loads(statistics.read_text())["provenance"]["inputs"]
            with Dataset(train) as dataset:
                if dataset.sha256() != described["sha256"]:
                    mixed.append(case.name)
    assert mixed == []


def test_interrupted_run_can_be_repeated(killed, template, shell):
    """What a killed run leaves behind is in nobody's way."""
    case = killed("mace_jax_preprocess", template, PREPROCESS, count=3)[1]
    shutil.rmtree(case / "data" / "train", ignore_errors=True)
    outcome = shell("mace-jax-preprocess", *PREPROCESS, "--force", cwd=case)
    assert outcome.code == 0, outcome.err
    assert structures_in(case / "data" / "train") == NEW


@pytest.mark.parametrize("forced", [False, True])
def test_select_replay_killed_at_every_change(killed, template, shell, tmp_path, forced):
    """A selection is there only beside the dataset that it is of."""
    folder = tmp_path / "template"
    shutil.copytree(template, folder)
    arguments = ["new.xyz", "--output", "replay.h5"]
    if forced:
        outcome = shell("mace-jax-select-replay", "old.xyz", *arguments[1:], cwd=folder)
        assert outcome.code == 0, outcome.err
        arguments.append("--force")
    seen = set()
    for case in killed("mace_jax_preprocess.cli_select_replay", folder, arguments):
        dataset, selection = case / "replay.h5", case / "replay.selection.json"
        if selection.exists():
            assert read_selection(selection).dataset_sha256 == file_sha256(dataset)
        seen.add((structures_in(dataset), selection.exists()))
    before = (OLD, True) if forced else (None, False)
    assert {before, (NEW, True)} <= seen <= {before, (NEW, True), (OLD, False), (NEW, False)}


@pytest.mark.parametrize("forced", [False, True])
def test_plan_batches_killed_at_every_change(killed, chain, tmp_path, forced):
    folder = tmp_path / "template"
    shutil.copytree(chain / "data" / "train", folder / "train")
    arguments = ["train", "--r-max", "5", "--n-edge", "2048", "-o", "o.plan.json"]
    if forced:
        text = (chain / "train.plan.json").read_text()
        (folder / "o.plan.json").write_text(text.replace('"seed": 0', '"seed": 7'))
        arguments.append("--force")
    seeds = []
    for case in killed("mace_jax_plan_batches", folder, arguments):
        path = case / "o.plan.json"
        seeds.append(read_batch_plan(path).seed if path.exists() else None)
    assert set(seeds) == ({0, 7} if forced else {0, None})


def test_from_torch_killed_at_every_change(killed, chain, tmp_path):
    folder = tmp_path / "template"
    folder.mkdir()
    shutil.copy(chain / "model.pt", folder)
    found = []
    for case in killed("mace_jax_convert", folder, ["--torch-model", "model.pt", "-o", "o"]):
        found.append((case / "o").exists())
        if found[-1]:
            read_model_bundle(case / "o")
    assert set(found) == {False, True}


def test_lammps_export_killed_at_every_change(killed, chain, tmp_path):
    folder = tmp_path / "template"
    folder.mkdir()
    shutil.copy(chain / "model.msgpack", folder)
    arguments = ["model.msgpack", "--no-self-test", "-o", "o"]
    found = []
    for case in killed("mace_jax_export_lammps", folder, arguments):
        found.append((case / "o").exists())
        if found[-1]:
            assert (case / "o").read_bytes().endswith(b"R\x94.")  # of the pickled call
    assert set(found) == {False, True}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process alone, as the kernel would; then whatever it had started."""
    process.kill()
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("n_process", [1, 2])
def test_preprocess_killed_while_it_writes(environment, tmp_path, n_process):
    """Killed when its folder appears, and at eight moments spread over the writing."""
    n_frames = 60
    for name in ("train", "valid"):
        with (ROOT / "examples" / "aspirin" / f"{name}.xyz").open() as source:
            (tmp_path / f"{name}.xyz").write_text("".join(islice(source, 23 * n_frames)))
    arguments = ["--train_file", "train.xyz", "--valid_file", "valid.xyz"]
    arguments += ["--num_process", str(n_process)]

    def start(prefix: str) -> tuple[subprocess.Popen[bytes], float]:
        """Return the process and when its output folder appeared."""
        process = subprocess.Popen(
            [sys.executable, "-m", "mace_jax_preprocess", *arguments, "--h5_prefix", prefix],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not (tmp_path / prefix).exists() and process.poll() is None:
            time.sleep(0.001)
        return process, time.perf_counter()

    process, began = start("full")
    assert process.wait() == 0
    duration = time.perf_counter() - began
    complete = 0
    for moment in range(8):
        process, _ = start(f"out{moment}")
        time.sleep(duration * moment / 7)
        kill_group(process)
        for split in ("train", "val"):
            count = structures_in(tmp_path / f"out{moment}" / split)
            assert count in (None, n_frames)
            complete += count == n_frames
    assert complete < 16  # some were killed in time


def test_writer_processes_do_not_outlive_a_killed_preprocess(environment, tmp_path):
    """They must not wait for work for ever once nobody can give it; killed at six moments."""
    with (ROOT / "examples" / "aspirin" / "train.xyz").open() as source:
        (tmp_path / "train.xyz").write_text("".join(islice(source, 23 * 440)))
    processes, workers = [], []
    try:
        for moment in range(6):
            arguments = ["--train_file", "train.xyz", "--num_process", "2"]
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mace_jax_preprocess", *arguments),
                    *("--h5_prefix", f"out{moment}"),
                ],
                cwd=tmp_path,
                env=environment,
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            processes.append(process)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while process.poll() is None and len(children.read_text().split()) < 2:
                time.sleep(0.001)
            assert process.poll() is None
            workers += [int(number) for number in children.read_text().split()]
            time.sleep(0.2 * moment)  # while they start, and while they write
            process.kill()
            process.wait()
        deadline = time.monotonic() + 5
        while (alive := [n for n in workers if is_running(n)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive == []
    finally:
        for process in processes:
            kill_group(process)


def is_running(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_predict_killed_while_it_writes(killed, chain, tmp_path):
    """Nothing is there before the rename; with an old file, that one is."""
    folder = tmp_path / "template"
    folder.mkdir()
    for name in ("model.msgpack", "structures.xyz"):
        shutil.copy(chain / name, folder)
    (folder / "old.npz").write_text("old")
    arguments = ["model.msgpack", "structures.xyz", "-o", "old.npz", "--force", "--quiet"]
    states = []
    for case in killed("mace_jax_predict", folder, arguments, count=3):
        if (case / "old.npz").read_bytes() == b"old":
            states.append("old")
        else:
            assert len(read_predictions(case / "old.npz")[1].n_node) == 4
            states.append("new")
    assert set(states) == {"old", "new"}


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 75)])
def test_a_signal_stops_train_which_says_so_and_goes_on(
    environment, chain, tmp_path, tiny, number, code
):
    """One line, a metrics file that says the run was stopped, and a checkpoint to go on from."""
    command = [
        *(sys.executable, "-m", "mace_jax_train", "configs/aspirin_small.gin", *tiny),
        *("--train-path", "data/train", "--valid-path", "data/val", "--test-path", "None"),
        *("--log-dir", tmp_path, "--max-epochs"),
    ]
    process = subprocess.Popen(
        [*command, "100000"],
        cwd=chain,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    best = tmp_path / "aspirin_small_best.msgpack"
    while not best.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.Signals[number])
    out, err = process.communicate()
    assert (process.returncode, out) == (code, "")
    checkpoint = tmp_path / "aspirin_small.checkpoint"
    assert re.fullmatch(
        rf"error: {checkpoint}: stopped by {number} in epoch \d+, after \d+ of \d+ batches; "
        "run the same command again to go on",
        err.splitlines()[-1],
    )
    assert "Traceback" not in err
    header, rows = read_metrics(tmp_path / "aspirin_small.metrics")
    assert header["status"] == "stopped"
    assert rows
    read_model_bundle(best)
    epoch = read_checkpoint(checkpoint).epoch
    done = subprocess.run(
        [*command, str(epoch + 1)],
        cwd=chain,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"goes on in epoch {epoch}" in done.stderr
    header, rows = read_metrics(tmp_path / "aspirin_small.metrics")
    assert (header["status"], rows[-1]["epoch"]) == ("finished", epoch + 1)
    keys = [(row["mode"], row["epoch"]) for row in rows]
    assert len(keys) == len(set(keys))


@pytest.mark.slow
@pytest.mark.parametrize("forced", [False, True])
def test_train_killed_at_ten_changes(killed, chain, tmp_path, tiny, forced):
    """Every file that is there can be read; bundles belong to the network that was asked for."""
    folder = tmp_path / "template"
    shutil.copytree(chain, folder)
    if not forced:
        shutil.rmtree(folder / "results")
    arguments = [
        *("configs/aspirin_small.gin", *tiny, "--train-path", "data/train", "--valid-path"),
        *("data/val", "--test-path", "None", "--seed", "1", *(["--force"] if forced else [])),
    ]
    n_bundles = []
    for case in killed("mace_jax_train", folder, arguments, count=10):
        run = case / "results"
        bundles = list(run.glob("*.msgpack"))
        for path in bundles:
            assert read_model_bundle(path).config.hidden_irreps == "4x0e"
        n_bundles.append(len(bundles))
        for path in run.glob("*.metrics"):
            header, rows = read_metrics(path)
            assert header["status"] == "running" or rows
        for path in run.glob("*.plan.json"):
            read_batch_plan(path)
        for path in run.glob("*.config.json"):
            read_train_config(path)
        for path in run.glob("*.statistics.json"):
            read_statistics(path)
        leftovers = [path for path in run.rglob("*.tmp") if not path.name.startswith(".")]
        assert leftovers == []
    assert (min(n_bundles), max(n_bundles)) == ((2, 2) if forced else (0, 2))


@pytest.mark.slow
def test_train_stopped_at_20_instants_ends_as_if_it_had_never_been(
    environment, chain, tmp_path, tiny
):
    """Killed in steps, evaluations and writes, and asked to stop: byte by byte the same files."""
    arguments = [
        *(
            "configs/aspirin_small.gin",
            *tiny,
            "--seed",
            "1",
            "--reproducible",
            "--max-epochs",
            "60",
        ),
        *("--n-edge", "600", "-b", "datasets.statistics_file=None", "-b", "train.eval_interval=3"),
        *("--log-dir", "results_of_one", "--quiet"),
    ]
    found, counts = {}, {"whole": 0, "stopped": 25}
    for name, count in counts.items():
        folder = tmp_path / name
        shutil.copytree(chain, folder)
        extra = ["-b", "train.checkpoint_steps=2"] if count else []
        done = subprocess.run(
            [
                *(sys.executable, Path(__file__).with_name("stopped_again.py"), "mace_jax_train"),
                *(folder, str(count), *arguments, *extra),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        ends = json.loads(done.stdout.splitlines()[-1])
        expected = {"time": -signal.SIGKILL, "change": -signal.SIGKILL, "term": 75}
        assert all(code == expected[kind] for kind, code in ends[:-1]), ends
        assert ends[-1][1] == 0, done.stderr
        assert len(ends) > 20 or not count, "it ended too soon"
        results = folder / "results_of_one"
        found[name] = {
            path.name: path.read_bytes()
            for path in results.iterdir()
            if path.name.endswith((".metrics", "_best.msgpack", "_last.msgpack", ".plan.json"))
        }
        assert not [path for path in results.iterdir() if path.name.endswith(".lock")]
    assert found["whole"].keys() >= {"aspirin_small.metrics", "aspirin_small_best.msgpack"}
    assert found["stopped"] == found["whole"]
