"""The workflow of ``examples/make``: run, killed, gone on with, run again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VARIABLES = [
    *("DATA=.", "GIN=tiny.gin", "OUT=out", "NAME=tiny", "PLAN=--n-edge 1200"),
    "PREPROCESS=--r-max 4.0 --E0s average --shuffle False",
]

pytestmark = pytest.mark.slow


@pytest.fixture
def make(environment):
    """Return a function that starts make in a folder, in a process group of its own."""

    def make(folder, *arguments):
        return subprocess.Popen(
            ["make", "-f", ROOT / "examples" / "make" / "Makefile", *VARIABLES, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return make


def test_killed_and_restarted_it_ends_the_same(make, write_inputs, digests, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_inputs(folder)
    text, _ = make(whole, "-j", "2").communicate()
    assert (whole / "out" / "test.h5").exists(), text
    process = make(killed)
    while not (killed / "out" / "run" / "tiny.checkpoint").exists():
        assert process.poll() is None, "ended before there was a checkpoint"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "out" / "test.h5").exists()
    text, _ = make(killed).communicate()
    assert "was interrupted and goes on" in text
    assert "mace-jax-preprocess" not in text  # what was complete stays
    assert digests(killed) == digests(whole)

    text, _ = make(killed).communicate()
    assert "Nothing to be done" in text
    (killed / "out" / "train.plan.json").unlink()
    text, _ = make(killed, "--dry-run").communicate()
    for command in ("plan-batches", "train", "predict", "train-plot"):
        assert f"mace-jax-{command}" in text
    assert "mace-jax-preprocess" not in text
