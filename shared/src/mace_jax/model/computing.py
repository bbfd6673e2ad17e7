"""How a command computes: processor, precision, memory, and programs compiled before."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from platform import machine
from typing import Any

import jax

from mace_jax.cache_folder import cache_folder
from mace_jax.memory import keep_memory
from mace_jax.model.backend import DENSE, Backend, require_backend

_CACHED_FROM_SECONDS = 0.2
_CACHE_BYTES = 1 << 30

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
        ConfigError: the backend needs a package that is not installed.
    """
    keep_memory()
    if device != "auto":
        jax.config.update("jax_platforms", device)
    if compile_cache:
        _keep_compiled_programs()
    with jax.enable_x64(dtype == "float64"), jax.debug_nans(debug_nans):
        log.info(
            "backend: %s on %s, %s", require_backend(backend), jax.devices()[0].platform, dtype
        )
        yield


def _keep_compiled_programs() -> None:
    """Have jax keep what it compiles, where its own settings do not say so already."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir:
        log.info("compiled programs: kept in %s", config.jax_compilation_cache_dir)
        return
    folder = cache_folder() / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning(
            "%s: cannot be written (%s), so nothing compiled is kept; set MACE_JAX_CACHE to "
            "another folder, or give --no-compile-cache",
            folder,
            error.strerror,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _CACHED_FROM_SECONDS)
    log.info("compiled programs: kept in %s", folder)


def _processor() -> str:
    """Name the processor: what is compiled for one may not run on another."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    digest = hashlib.sha256("".join(features).encode()).hexdigest()
    return f"{machine()}-{digest[:8]}"
