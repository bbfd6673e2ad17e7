"""The machine: what it is, how fast it can be, and whether it was ours alone."""

import os
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ase", "torch", "mace-torch", "e3nn")
_MATRIX = 2048
_COPIED_BYTES = 1 << 29
_REPEATS = 20


def describe() -> dict[str, Any]:
    """Return processor, memory, versions and load."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "n_cpus": os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "kernel": platform.release(),
        "huge_pages": huge_pages.read_text().strip() if huge_pages.exists() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES if _is_installed(name)},
        "load_before": os.getloadavg(),
    }


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def available_mb() -> float:
    """Return the memory that can be used without swapping, MB."""
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 / 1e6


def peaks() -> dict[str, float]:
    """Return the GFLOP/s of large matrix products and the GB/s read and written by a sum."""
    import jax
    import jax.numpy as jnp

    found = {}
    for dtype in ("float32", "float64"):
        matrix = jnp.ones((_MATRIX, _MATRIX), dtype)
        product = jax.jit(jnp.matmul)
        seconds = _seconds(lambda: product(matrix, matrix))  # noqa: B023 - called here only
        found[f"gflops_{dtype}"] = 2 * _MATRIX**3 / seconds / 1e9
    array = jnp.ones(_COPIED_BYTES // 4, "float32")
    increment = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place: no new pages

    def step() -> Any:
        nonlocal array
        array = increment(array)
        return array

    found["gb_per_second"] = 2 * _COPIED_BYTES / _seconds(step) / 1e9
    return found


def _seconds(function: Any) -> float:
    function().block_until_ready()
    found = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        function().block_until_ready()
        found.append(time.perf_counter() - start)
    return min(found)  # a peak is what can be reached


class Others:
    """How many cores other processes keep busy."""

    def __init__(self, processes: list[int]) -> None:
        """Begin to count.

        Args:
            processes: those of the benchmark.
        """
        self.processes = [os.getpid(), *processes]
        self.start = time.perf_counter(), self._seconds()

    def busy(self) -> float:
        """Return the average since the start."""
        elapsed = time.perf_counter() - self.start[0]
        return max(0.0, self._seconds() - self.start[1]) / elapsed

    def _seconds(self) -> float:
        """Return the CPU time of all processes but those of the benchmark, s."""
        ticks = os.sysconf("SC_CLK_TCK")
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        busy = sum(fields) - fields[3] - fields[4]  # idle, iowait
        for process in self.processes:
            own = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
            busy -= int(own[11]) + int(own[12])  # user, system
        return busy / ticks
