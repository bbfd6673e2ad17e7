import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mace_jax.artifacts.train_config_sections import FlagsConfig
from mace_jax.errors import ConfigError, LostProcessError
from mace_jax_train import children
from mace_jax_train.children import run_children
from mace_jax_train.launcher import plan_launch, visible_gpus
from mace_jax_train.topology import Topology, find_topology

INDICES = [{"INDEX": str(index)} for index in range(3)]


def plan(launcher, environment, **flags):
    return plan_launch(launcher, FlagsConfig(**flags), environment)


@pytest.mark.parametrize(
    ("launcher", "environment", "flags", "message"),
    [
        ("local", {}, {}, "^--launcher local: no GPUs are visible.*give --process-count$"),
        (
            "local",
            {"CUDA_VISIBLE_DEVICES": "0,1"},
            {"device": "cuda", "process_count": 3},
            "^3 processes on 2 visible GPUs; expected a GPU for each",
        ),
        ("local", {"JAX_PROCESS_COUNT": "two"}, {}, "^JAX_PROCESS_COUNT: 'two', expected a number"),
    ],
)
def test_what_cannot_be_launched(launcher, environment, flags, message):
    with pytest.raises(ConfigError, match=message):
        plan(launcher, environment, **flags)


TWO_GPUS = {"CUDA_VISIBLE_DEVICES": "2,5"}
STEP_OF_TWO = {**TWO_GPUS, "SLURM_STEP_NUM_TASKS": "2"}


@pytest.mark.parametrize(
    ("launcher", "environment", "flags"),
    [
        ("none", TWO_GPUS, {"device": "cuda"}),
        ("auto", {}, {"device": "cpu", "process_count": 2}),
        ("auto", TWO_GPUS, {"device": "cpu"}),
        ("auto", TWO_GPUS, {"device": "tpu"}),
        ("auto", {"CUDA_VISIBLE_DEVICES": "0"}, {"device": "cuda"}),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, {"device": "cuda"}),
        ("auto", TWO_GPUS, {"device": "cuda", "distributed": True}),
        ("auto", TWO_GPUS, {"device": "cuda", "process_index": 0}),
        ("auto", STEP_OF_TWO, {"device": "cuda"}),
        ("local", {"JAX_PROCESS_INDEX": "0"}, {"process_count": 2}),
    ],
)
def test_where_this_process_trains_itself(launcher, environment, flags):
    assert plan(launcher, environment, **flags) == []


def test_auto_gives_each_gpu_a_process():
    started = plan("auto", TWO_GPUS, device="cuda")
    assert [env["JAX_PROCESS_INDEX"] for env in started] == ["0", "1"]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["2", "5"]
    assert {env["JAX_PROCESS_COUNT"] for env in started} == {"2"}
    (address,) = {env["JAX_COORDINATOR_ADDRESS"] for env in started}
    host, port = address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert {env["MACE_JAX_LAUNCHER"] for env in started} == {str(os.getpid())}


def test_local_starts_as_many_as_are_asked_for():
    flags = FlagsConfig(process_count=3, coordinator_port=99)
    started = plan_launch("local", flags, {})
    places = [find_topology(flags, environment) for environment in started]
    assert places == [Topology(3, index, "127.0.0.1:99") for index in range(3)]
    assert all("CUDA_VISIBLE_DEVICES" not in env for env in started)
    assert len(plan("local", {"JAX_PROCESS_COUNT": "2"})) == 2
    assert len(plan("local", TWO_GPUS, device="cuda")) == 2
    assert len(plan("local", TWO_GPUS, device="cuda", process_count=1)) == 1


@pytest.mark.parametrize(
    ("text", "gpus"),
    [("0,1", ["0", "1"]), ("GPU-ab, 3", ["GPU-ab", "3"]), ("", []), ("-1", []), ("0,-1,2", ["0"])],
)
def test_gpus_that_cuda_shows(text, gpus):
    assert visible_gpus("cuda", {"CUDA_VISIBLE_DEVICES": text}) == gpus
    assert visible_gpus("cpu", {"CUDA_VISIBLE_DEVICES": text}) == []


def test_gpus_that_the_driver_lists(tmp_path):
    program = tmp_path / "nvidia-smi"
    lines = ["GPU 0: NVIDIA H100 (UUID: GPU-1)", "  MIG 1g (UUID: MIG-1)", "GPU 1: NVIDIA H100"]
    program.write_text("#!/bin/sh\n" + "\n".join(f"echo '{line}'" for line in lines))
    program.chmod(0o755)
    assert visible_gpus("cuda", {"PATH": str(tmp_path)}) == ["0", "1"]
    assert visible_gpus("cuda", {"PATH": "/nowhere"}) == []


def python(code: str) -> list[str]:
    names = "import os, signal, sys, time; index = int(os.environ['INDEX'])"
    return [sys.executable, "-c", f"{names}\n{code}"]


def test_output_of_the_first_as_it_is_and_of_the_others_with_their_number(capfd):
    code = "print('result', index); print('said', index, file=sys.stderr)"
    assert run_children(python(code), INDICES) == 0
    out, err = capfd.readouterr()
    assert out == "result 0\n"
    lines = {"said 0"} | {f"process {i}: {word} {i}" for i in (1, 2) for word in ("result", "said")}
    assert set(err.splitlines()) == lines


@pytest.mark.parametrize("failing", [0, 2])
def test_the_first_failure_ends_all_and_gives_the_code(failing):
    started = time.monotonic()
    code = f"sys.exit(3) if index == {failing} else time.sleep(60)"
    assert run_children(python(code), INDICES) == 3
    assert time.monotonic() - started < 5


def test_a_process_that_is_killed_is_named(caplog):
    code = "os.kill(os.getpid(), 9) if index == {} else time.sleep(60)"
    with pytest.raises(LostProcessError, match=r"^process 0 was ended by SIGKILL, and so") as error:
        run_children(python(code.format(0)), INDICES)
    assert error.value.exit_code == 137
    assert run_children(python(code.format(1)), INDICES) == 137
    (record,) = caplog.records
    assert record.getMessage().startswith("process 1 was ended by SIGKILL, and so")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(children, "_PATIENCE_SECONDS", 0.5)


def test_who_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(children, "_GRACE_SECONDS", 0.5)
    code = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "time.sleep(0.5)\n"
        "sys.exit(4) if index == 1 else time.sleep(60)"
    )
    started = time.monotonic()
    assert run_children(python(code), INDICES) == 4
    assert time.monotonic() - started < 10


def test_signals_are_passed_on_once_and_all_may_end_in_their_time(tmp_path):
    """As a run does that saves and stops: code 75, and no second signal for the slower ones."""
    code = (
        "seen = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))\n"
        "signal.signal(signal.SIGTERM, lambda *_: seen.append(2))\n"
        f"open(f'{tmp_path}/ready{{index}}', 'w').close()\n"
        "while not seen: time.sleep(0.02)\n"
        "time.sleep(0.3 * index)\n"
        f"open(f'{tmp_path}/seen{{index}}', 'w').write(str(seen))\n"
        "sys.exit(75)"
    )
    launch = (
        "from mace_jax_train.children import run_children\n"
        f"sys.exit(run_children({python(code)!r}, {INDICES!r}))"
    )
    parent = subprocess.Popen(python(launch), env={**os.environ, "INDEX": "-1"})
    deadline = time.monotonic() + 20
    while len(list(Path(tmp_path).glob("ready*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.send_signal(signal.SIGUSR1)
    assert parent.wait(20) == 75
    assert [(tmp_path / f"seen{index}").read_text() for index in range(3)] == ["[1]"] * 3
