"""How a command computes: processor, precision, memory, and programs compiled before."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from platform import machine
from tempfile import TemporaryFile
from typing import Any

import jax
import jax.monitoring
from filelock import FileLock

from mace_jax.cache_folder import cache_folder
from mace_jax.errors import ConfigError
from mace_jax.memory import keep_memory, return_memory
from mace_jax.model.backend import DENSE, Backend, require_backend

_CACHE_SETTINGS = {
    "jax_compilation_cache_max_size": 1 << 30,  # bytes
    "jax_persistent_cache_min_compile_time_secs": 0.2,
}
_COMPILED = "/jax/core/compile/backend_compile_duration"
_LONG_SECONDS = 1.0
_LOCK_SECONDS = 10.0  # to write a program takes less than one

log = logging.getLogger(__name__)


@contextmanager
def computing(
    dtype: str,
    *,
    backend: Backend = DENSE,
    device: str = "auto",
    compile_cache: bool = True,
    debug_nans: bool = False,
) -> Iterator[None]:
    """Set this process up to compute, and say on what.

    Args:
        dtype: ``float32`` or ``float64``, within the context only.
        backend: what computes the costly parts of a network; it is checked to be there.
        device: ``auto``, or the platform: ``cpu``, ``cuda`` or ``tpu``.
        compile_cache: whether compiled programs are kept for later processes.
        debug_nans: whether to stop where a number that is not finite arises.

    Raises:
        ConfigError: the backend needs a package that is not installed, or the device is not there.
    """
    _keep_memory_of_programs()
    if compile_cache:
        _keep_compiled_programs()
    platform = _start(device)
    with jax.enable_x64(dtype == "float64"), jax.debug_nans(debug_nans):
        log.info("backend: %s on %s, %s", require_backend(backend), platform, dtype)
        yield


def _start(device: str) -> str:
    """Return the platform that jax computes on from now on."""
    config: Any = jax.config
    before = config.jax_platforms
    if device != "auto":
        jax.config.update("jax_platforms", device)
    try:
        return jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # jax asserts that it has found some platform
        jax.config.update("jax_platforms", before)
        message = (
            f"--device: {device}: jax finds no such device ({str(error) or 'no plugin for it'}); "
            "choose cpu, or install jax for the device, such as jax[cuda12]"
        )
        raise ConfigError(message) from error


@cache
def _keep_memory_of_programs() -> None:
    """Keep what programs compute in, but return what compiling them leaves, which is more.

    What calls a program has to run it on a CPU, too: so its memory is of the caller's heap.
    """
    keep_memory()
    jax.config.update("jax_cpu_enable_async_dispatch", False)

    def compiled(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILED and duration_secs > _LONG_SECONDS:
            return_memory()

    jax.monitoring.register_event_duration_secs_listener(compiled)


def _keep_compiled_programs() -> None:
    """Have jax keep what it compiles, where its own settings do not say so already."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir:
        log.info("compiled programs: kept in %s", config.jax_compilation_cache_dir)
        return
    for name, value in _CACHE_SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    folder = cache_folder() / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()  # on a read-only file system a folder may be there
        if config.jax_compilation_cache_max_size >= 0:
            _remove_unfinished(folder)
    except (OSError, NotImplementedError) as error:
        log.warning(
            "%s: cannot be written (%s), so nothing compiled is kept; set MACE_JAX_CACHE to "
            "another folder, or give --no-compile-cache",
            folder,
            getattr(error, "strerror", None) or error,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    log.info("compiled programs: kept in %s", folder)


def _remove_unfinished(folder: Path) -> None:
    """Remove programs that jax was writing when its process was killed.

    Where the size of a folder is limited it writes a program, and then when it was used. If the
    second is missing it never keeps anything there again.

    Raises:
        OSError, NotImplementedError: the folder is of a system without locks, or locked for long.
    """
    with FileLock(folder / ".lockfile", timeout=_LOCK_SECONDS):  # jax's own
        for program in folder.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
                program.unlink()


def _processor() -> str:
    """Name the processor: what is compiled for one may not run on another."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    digest = hashlib.sha256("".join(features).encode()).hexdigest()
    return f"{machine()}-{digest[:8]}"
