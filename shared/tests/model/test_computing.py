"""Precision ends with the context; compiled programs are kept where the user says."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from filelock import FileLock

from mace_jax.errors import ConfigError
from mace_jax.model.backend import CUEQ
from mace_jax.model.computing import _processor, computing

# prints a number that it computes, and how many programs it found compiled
PROGRAM = """
import logging, sys
import jax, jax.monitoring, jax.numpy as jnp
from mace_jax.model.computing import computing

logging.basicConfig(format="%(levelname)s %(message)s")
logging.getLogger("mace_jax").setLevel(logging.INFO)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
with computing("float32", compile_cache=sys.argv[1] == "on"):
    print(jax.jit(lambda x: x @ x.T)(jnp.ones((1, 5))).item())
print(events.count("/jax/compilation_cache/cache_hits"))
"""

# prints the page faults of each of several calls of a program that computes in 64 MB
CALLS = """
from contextlib import nullcontext
from resource import RUSAGE_SELF, getrusage

import jax, jax.numpy as jnp, numpy as np
from mace_jax.model.computing import computing

with {context}:
    program = jax.jit(lambda x: jnp.outer(x, x) @ x)
    x = np.ones(4096, np.float32)
    for _ in range(4):
        before = getrusage(RUSAGE_SELF).ru_minflt
        jax.block_until_ready(program(x))
        print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""


class Outcome(NamedTuple):
    """What the program said."""

    number: float
    n_found: int
    log: str


@pytest.fixture
def jax_keeps_nothing():
    """Take the folder from jax that other tests of this process may have set."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def run(home: Path, compile_cache: str = "on", **variables: Path | str) -> Outcome:
    """Run the program as a user without settings but ``variables``; a warning of jax is fatal."""
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    given = {name: str(path) for name, path in variables.items()}
    given["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # the program is quick to compile
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", PROGRAM, compile_cache],
        env={**inherited, "HOME": str(home), "JAX_PLATFORMS": "cpu", **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    number, n_found = done.stdout.split()
    return Outcome(float(number), int(n_found), done.stderr)


def kept_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*-cache")}


@pytest.mark.parametrize(
    ("variable", "folder"),
    [("MACE_JAX_CACHE", "compiled"), ("XDG_CACHE_HOME", "mace-jax/compiled")],
)
def test_a_program_is_compiled_once_for_all_processes(tmp_path, variable, folder):
    chosen = {variable: tmp_path / "chosen"}
    first = run(tmp_path, **chosen)
    (of_this_processor,) = (tmp_path / "chosen" / folder).iterdir()
    kept = kept_in(of_this_processor)
    assert kept
    assert kept_in(tmp_path) == kept
    assert f"INFO compiled programs: kept in {of_this_processor}\n" in first.log
    second = run(tmp_path, **chosen)
    assert (first.n_found, second.n_found) == (0, len(kept))
    assert first.number == second.number == 5
    assert kept_in(tmp_path) == kept


@pytest.mark.parametrize("left", [b"", b"half of a program"])
def test_a_process_killed_while_it_kept_a_program_does_no_harm(tmp_path, left):
    """Of such a process a part of the program is left, and not yet when it was used."""
    run(tmp_path, MACE_JAX_CACHE=tmp_path)
    program, *others = sorted(tmp_path.rglob("*-cache"))
    assert others
    whole = program.read_bytes()
    program.write_bytes(left)
    program.with_name(program.name.removesuffix("cache") + "atime").unlink()
    second = run(tmp_path, MACE_JAX_CACHE=tmp_path)
    assert second[:2] == (5, len(others))
    assert program.read_bytes() == whole
    assert run(tmp_path, MACE_JAX_CACHE=tmp_path)[:2] == (5, len(others) + 1)


def test_without_a_limit_of_size_jax_does_not_say_when_a_program_was_used(tmp_path):
    chosen = {"MACE_JAX_CACHE": tmp_path, "JAX_COMPILATION_CACHE_MAX_SIZE": "-1"}
    first, second = run(tmp_path, **chosen), run(tmp_path, **chosen)
    assert not list(tmp_path.rglob("*-atime"))
    assert (first.n_found, second.n_found) == (0, len(kept_in(tmp_path)))
    assert second.n_found


@pytest.mark.usefixtures("jax_keeps_nothing")
def test_a_folder_that_another_process_locks_is_said_and_done_without(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("MACE_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr("mace_jax.model.computing._LOCK_SECONDS", 0.1)
    folder = tmp_path / "compiled" / _processor()
    folder.mkdir(parents=True)
    with FileLock(folder / ".lockfile"), computing("float32"):
        assert not jax.config.jax_compilation_cache_dir
    assert f"{folder}: cannot be written (The file lock" in caplog.text


def test_nothing_is_kept_where_the_user_does_not_want_it(tmp_path):
    outcome = run(tmp_path, "off", MACE_JAX_CACHE=tmp_path / "chosen")
    assert outcome == (5, 0, "INFO backend: dense on cpu, float32\n")
    assert not any(tmp_path.iterdir())


def test_jax_s_own_setting_wins(tmp_path):
    own = tmp_path / "own"
    folders = {"JAX_COMPILATION_CACHE_DIR": own, "MACE_JAX_CACHE": tmp_path / "chosen"}
    outcome = run(tmp_path, **folders)
    assert f"INFO compiled programs: kept in {own}\n" in outcome.log
    assert kept_in(own)
    assert list(tmp_path.iterdir()) == [own]


def test_a_folder_that_cannot_be_made_is_said_and_done_without(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    outcome = run(tmp_path, MACE_JAX_CACHE=file)
    assert (outcome.number, outcome.n_found) == (5, 0)
    (warning,) = [line for line in outcome.log.splitlines() if line.startswith("WARNING")]
    assert warning.startswith(f"WARNING {file}/compiled/")
    assert "cannot be written (Not a directory), so nothing compiled is kept" in warning
    assert warning.endswith("MACE_JAX_CACHE to another folder, or give --no-compile-cache")
    assert "kept in" not in outcome.log
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_ends_with_the_context(caplog, dtype, before):
    with jax.enable_x64(before):
        with caplog.at_level("INFO", "mace_jax"), computing(dtype, compile_cache=False):
            assert jnp.asarray(np.ones(2)).dtype == dtype
        assert jax.config.jax_enable_x64 == before
    assert caplog.messages == [f"backend: dense on {jax.default_backend()}, {dtype}"]


def test_precision_ends_with_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuequivariance_jax", None)
    with jax.enable_x64(False):
        with pytest.raises(KeyError), computing("float64", compile_cache=False):
            raise KeyError
        assert not jax.config.jax_enable_x64
        refused = computing("float64", backend=CUEQ, compile_cache=False)
        with pytest.raises(ConfigError, match="cuequivariance-jax is not installed"), refused:
            pass
        assert not jax.config.jax_enable_x64


def test_a_number_that_is_not_finite_stops_only_where_that_was_asked_for():
    stopping = computing("float32", compile_cache=False, debug_nans=True)
    with stopping, pytest.raises(FloatingPointError):
        jnp.log(-1.0)
    assert jnp.isnan(jnp.log(-1.0))
    with computing("float32", compile_cache=False):
        assert jnp.isnan(jnp.log(-1.0))


def test_memory_that_a_long_compilation_leaves_is_returned(monkeypatch):
    returned = []
    monkeypatch.setattr("mace_jax.model.computing.return_memory", lambda: returned.append(1))
    with computing("float32", compile_cache=False):
        compiled = "/jax/core/compile/backend_compile_duration"
        jax.monitoring.record_event_duration_secs(compiled, 0.1)
        assert not returned
        jax.monitoring.record_event_duration_secs(compiled, 5.0)
        jax.monitoring.record_event_duration_secs("/jax/core/compile/jaxpr_trace_duration", 5.0)
    assert returned == [1]


def test_jax_says_how_long_it_compiled_by_the_name_that_is_listened_for():
    names = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: names.append(name))
    jax.jit(lambda x: x * 3 + 2)(jnp.ones(7))
    assert "/jax/core/compile/backend_compile_duration" in names


def test_a_device_that_jax_does_not_find_is_said(tmp_path):
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "off"],
        env={**inherited, "HOME": str(tmp_path), "JAX_PLATFORMS": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mace_jax.errors.ConfigError: --device: auto: jax finds no such device")
    assert "abacus" in last


@pytest.mark.usefixtures("jax_keeps_nothing")
def test_a_folder_on_a_read_only_file_system_is_done_without(tmp_path, monkeypatch, caplog):
    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setenv("MACE_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr("mace_jax.model.computing.TemporaryFile", refuse)
    with caplog.at_level("WARNING", "mace_jax"), computing("float32"):
        assert not jax.config.jax_compilation_cache_dir
    assert "cannot be written (Read-only file system)" in caplog.text


def page_faults(context: str) -> list[int]:
    """Return the page faults of calls in this context, once the program is compiled."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS.format(context=context)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in done.stdout.split()][1:]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory")
def test_a_program_computes_in_what_its_last_call_freed():
    usual = min(page_faults("nullcontext()"))
    assert usual >= 32  # huge pages of 2 MB at most; malloc itself keeps up to 32 MB
    assert max(page_faults("computing('float32', compile_cache=False)")) < usual / 10
