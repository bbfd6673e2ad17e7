"""What the tests of several packages share: running commands, and compiling fast or only once."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest


class Outcome(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@contextmanager
def logging_kept() -> Iterator[None]:
    """Take back what a command changes of logging, which it starts when it parses its flags."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], {"root": root.level, **_levels()}
    yield
    root.handlers = handlers
    for name in ("root", *_levels()):
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


def _levels() -> dict[str, int]:
    """Return the levels of the loggers of our packages."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("mace_jax")]
    return {name: logging.getLogger(name).level for name in names}


@pytest.fixture(scope="module")
def logging_as_before() -> Iterator[None]:
    """Take back what commands change of logging, when the module is done."""
    with logging_kept():
        yield


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Return a function that calls the ``main`` of a command with arguments, in this process."""

    def run(main: Callable[[list[str]], None], *arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return Outcome(stopped.value.code, *capfd.readouterr())

    with logging_kept():
        yield run


@pytest.fixture(scope="module")
def fast_compilation() -> Iterator[None]:
    """Compile without most optimizations: compiling is most of the time of small networks."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of subprocesses: CPU, and one compilation cache for all of them."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "OPENBLAS_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "jax-cache"),
        "JAX_COMPILATION_CACHE_MAX_SIZE": "-1",  # any: with a limit each entry looks at all others
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


@pytest.fixture(scope="session")
def shell(environment: dict[str, str]) -> Callable[..., Outcome]:
    """Return a function that runs a console script as a process of its own."""

    def run(command: str, *arguments: str, cwd: Path | None = None) -> Outcome:
        program = Path(sys.executable).with_name(command)
        done = subprocess.run(
            [program, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def compilation_cache(environment: dict[str, str]) -> Iterator[None]:
    """Let this process share the compilation cache of the subprocesses."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = [name.lower() for name in environment if name.startswith("JAX_") and "CACHE" in name]
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        value = environment[name.upper()]
        jax.config.update(name, int(value) if value.lstrip("-").isdigit() else value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
