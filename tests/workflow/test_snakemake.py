"""The workflow of ``examples/snakemake``: run, run again, mended, killed and gone on with."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mace_jax.inspection.inputs import InputSearch
from mace_jax.inspection.report import inspect_file

pytestmark = pytest.mark.slow
FILES = [
    *("data/index/test.parquet", "data/index/train.parquet", "data/index/val.parquet"),
    *("data/statistics.json", "data/test/Default__0.h5", "data/test/Default__1.h5"),
    *("data/train/train_0.h5", "data/train/train_1.h5", "data/val/val_0.h5", "data/val/val_1.h5"),
    *(
        "report.html",
        "run/tiny.checkpoint",
        "run/tiny.config.json",
        "run/tiny.gin",
        "run/tiny.metrics",
    ),
    *("run/tiny_best.msgpack", "run/tiny_last.msgpack"),
    *("test.h5", "train.plan.json", "val.plan.json"),
]


@pytest.fixture(scope="module")
def run(start):
    """Return a function that runs the workflow to its end and returns the rules that ran."""

    def run(folder, *arguments):
        process = start(folder, *arguments)
        text, _ = process.communicate()
        logs = "".join(log.read_text() for log in folder.glob("out/log/*.log"))
        assert process.returncode == 0, text + logs
        return re.findall(r"^(?:local)?rule (\w+):", text, re.MULTILINE)

    return run


@pytest.fixture(scope="module")
def finished(run, write_inputs, tmp_path_factory):
    """Return a folder in which the workflow is complete, and the rules that ran."""
    folder = write_inputs(tmp_path_factory.mktemp("finished"))
    return folder, run(folder)


@pytest.fixture
def copy(finished, tmp_path):
    """Return a copy that may be changed; times of files count, too."""
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    return folder


def test_lint(start, tmp_path, write_inputs):
    process = start(write_inputs(tmp_path), "--lint")
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert "in a good condition" in text


def test_every_rule_runs_once_and_the_parts_go(finished, digests):
    folder, rules = finished
    assert sorted(rules) == [
        *("all", "merge", "plan", "plan", "predict", "preprocess", "preprocess", "report", "train")
    ]
    assert sorted(digests(folder)) == FILES


def test_files_name_each_other(finished):
    """What each was made of is here and has the digest that it names."""
    out = finished[0] / "out"
    search = InputSearch([out, finished[0]])
    for name in ("train.plan.json", "run/tiny_best.msgpack", "test.h5"):
        report = inspect_file(out / name, search, quick=False)
        assert report.problem is None
        assert report.inputs
        assert {item.state for item in report.inputs} == {"verified"}, report.inputs


def test_again_nothing_is_done(copy, run, digests):
    before = digests(copy)
    assert run(copy) == []
    assert digests(copy) == before


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("train.plan.json", ["all", "plan", "predict", "report", "train"]),
        ("run/tiny_best.msgpack", ["all", "predict", "report", "train"]),
        ("test.h5", ["all", "predict", "report"]),
        ("report.html", ["all", "report"]),
    ],
)
def test_deleted_file_and_what_is_made_of_it_are_planned_again(copy, run, name, rules):
    (copy / "out" / name).unlink()
    assert sorted(set(run(copy, "--dry-run", f"out/{name}", "all"))) == rules


def test_deleted_data_are_made_again_the_same(copy, run, digests):
    """Asked for by name, as snakemake makes what nothing needs any longer only then."""
    before = digests(copy)
    shutil.rmtree(copy / "out" / "data" / "train")
    assert {"preprocess", "merge", "train", "report"} <= set(run(copy, "out/data/train", "all"))
    assert digests(copy) == before


def wait_for_checkpoint(process, folder: Path) -> None:
    """Wait until training has begun, while the workflow runs."""
    while not (folder / "out" / "run" / "tiny.checkpoint").exists():
        assert process.poll() is None, "ended before there was a checkpoint"
        time.sleep(0.01)


def test_killed_and_restarted_it_ends_the_same(
    finished, start, run, write_inputs, digests, tmp_path
):
    """As by a power cut: all its processes at once, so that the lock has to be removed, too."""
    folder = write_inputs(tmp_path)
    process = start(folder)
    wait_for_checkpoint(process, folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "out" / "test.h5").exists()
    start(folder, "--unlock").communicate()
    assert sorted(run(folder)) == ["all", "predict", "report", "train"]  # what was complete stays
    assert "was interrupted and goes on" in (folder / "out/log/train.log").read_text()
    assert digests(folder) == digests(finished[0])


def test_stopped_training_goes_on_in_the_next_attempt(
    finished, start, write_inputs, digests, tmp_path
):
    """As Slurm stops a job before its time is over: exit 75, and snakemake tries again."""
    folder = write_inputs(tmp_path)
    process = start(folder)
    wait_for_checkpoint(process, folder)
    found = subprocess.run(
        ["pgrep", "-g", str(process.pid), "-f", "mace.jax.train .*tiny.gin"],
        capture_output=True,
        text=True,
        check=True,
    )
    os.kill(int(found.stdout.split()[-1]), signal.SIGTERM)
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert "attempt" in text or "Trying to restart" in text
    assert "was interrupted and goes on" in (folder / "out/log/train.log").read_text()
    assert digests(folder) == digests(finished[0])
