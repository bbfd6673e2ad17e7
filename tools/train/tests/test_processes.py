"""Two real processes that meet on 127.0.0.1, on CPUs."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from socket import create_server
from types import SimpleNamespace

import numpy as np
import pytest

from mace_jax_train.topology import ADDRESS, COUNT, INDEX

PROGRAM = str(Path(__file__).with_name("program_of_a_process.py"))
program = SimpleNamespace(**runpy.run_path(PROGRAM))


def free_port() -> int:
    with create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, PROGRAM, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_two(*arguments: str, **environment: str) -> list[tuple[int, str, str]]:
    """Return exit code, stdout and stderr of each; none may take a minute."""
    address = f"127.0.0.1:{free_port()}"
    common = {COUNT: "2", ADDRESS: address, **environment}
    both = [start(*arguments, **common, **{INDEX: str(index)}) for index in range(2)]
    try:
        ended = [process.communicate(timeout=60) for process in both]
    finally:
        for process in both:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(both, ended, strict=True)]


def expected(n: int) -> tuple[list[float], np.ndarray]:
    """Losses and weights from the same groups of ``n`` batches, each as one large batch."""
    w, losses = np.zeros(3), []
    for step in range(program.N_STEPS):
        x = np.concatenate([batch["x"][batch["mask"]] for batch in program.batches(step, n)])
        error = x @ w - 1
        losses.append(np.mean(error**2))
        w = w - 0.05 * 2 * x.T @ error / len(x)
    return losses, w


@pytest.fixture(scope="module")
def two() -> list[tuple[int, str, str]]:
    return run_two("", "0")


@pytest.mark.parametrize("index", [0, 1])
def test_defect_1_two_processes_take_the_steps_of_one_with_all_graphs(two, index):
    """Mean gradients over graphs, not over batches; an empty batch counts nothing."""
    code, stdout, stderr = two[index]
    assert code == 0, stderr
    found = json.loads(stdout)  # nothing else is on stdout: gloo talks there
    losses, w = expected(2)
    assert np.allclose(found["losses"], losses, rtol=1e-12)
    assert np.allclose(found["w"], w, rtol=1e-12)


def test_a_vote_of_one_process_is_counted_in_all(two):
    for _, stdout, _ in two:
        votes = json.loads(stdout)["votes"]
        assert [n for n, count in enumerate(votes) if count] == [
            program.AT_STEP,
            program.AT_STEP + 1,
        ]


def test_all_have_what_process_0_has_said(two):
    assert {json.loads(stdout)["name"] for _, stdout, _ in two} == {"run of 0"}


def test_only_process_0_informs_and_the_others_say_who_warns(two):
    (_, _, first), (_, _, second) = two
    assert "information" in first
    assert "information" not in second
    assert "process 1: a warning" in second
    assert "process" not in next(line for line in first.splitlines() if "a warning" in line)


def test_several_devices_in_one_process_are_the_same():
    process = start("", "0", XLA_FLAGS="--xla_force_host_platform_device_count=3")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    found = json.loads(stdout)
    losses, w = expected(3)
    assert np.allclose(found["losses"], losses, rtol=1e-12)
    assert np.allclose(found["w"], w, rtol=1e-12)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_is_killed_ends_the_other_with_a_message(index):
    started = time.monotonic()
    ended = run_two("killed", str(index))
    assert ended[index][0] == -9
    code, stdout, stderr = ended[1 - index]
    assert code == 1, stderr
    assert "error: another process is gone or hangs (" in stderr
    assert stdout == ""
    assert time.monotonic() - started < 30


def test_a_process_that_fails_says_why_and_ends_the_other():
    (first, _, other), (code, _, stderr) = run_two("fails", "1")
    assert (first, code) == (1, 1)
    assert "error: batch: cannot be read" in stderr
    assert "error: another process is gone or hangs (" in other


def test_processes_that_begin_with_other_numbers_are_refused():
    for code, _, stderr in run_two("differs", "1"):
        assert code == 1
        assert "error: the processes do not begin with the same numbers; start them" in stderr


def test_the_others_do_not_wait_for_a_process_0_that_fails_on_the_way():
    (first, _, stderr), (code, _, other) = run_two("fails early", "0")
    assert (first, code) == (1, 1)
    assert "error: batch: cannot be read" in stderr
    assert "error: process 0 failed at: data; its message says why" in other


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_other_after_the_time_limit():
    address = f"127.0.0.1:{free_port()}"
    common = {COUNT: "2", ADDRESS: address, "MACE_JAX_PROCESS_TIMEOUT": "5"}
    first, second = (start("hangs", "1", **common, **{INDEX: str(i)}) for i in range(2))
    try:
        _, stderr = first.communicate(timeout=60)
    finally:
        second.kill()
        second.communicate()
    assert first.returncode == 1, stderr
    assert "error: waited 5 s for a step: a process hangs" in stderr


def test_processes_that_never_come_end_the_one_that_waits():
    process = start(
        "",
        "0",
        MACE_JAX_PROCESS_TIMEOUT="1",
        **{COUNT: "2", INDEX: "0", ADDRESS: f"127.0.0.1:{free_port()}"},
    )
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "error: waited 1 s for all processes to meet at the coordinator" in stderr


def test_a_port_that_is_taken_is_an_error():
    with create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        process = start("", "0", **{COUNT: "2", INDEX: "0", ADDRESS: address})
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"error: --coordinator-address {address}: Address already in use" in stderr


def test_a_process_whose_launcher_is_gone_ends():
    environment = {COUNT: "2", INDEX: "0", ADDRESS: f"127.0.0.1:{free_port()}"}
    process = start("", "0", MACE_JAX_LAUNCHER="1", **environment)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: the process that started this one is gone" in stderr
