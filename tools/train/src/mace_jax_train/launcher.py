"""What is started on this machine: this process alone, or one for each device.

Nothing here looks for devices by jax, which would take memory of all of them.
"""

import os
import subprocess
from collections.abc import Mapping
from importlib.metadata import entry_points
from shutil import which
from socket import create_server
from typing import Literal

from mace_jax.artifacts.train_config_sections import FlagsConfig
from mace_jax.errors import ConfigError
from mace_jax_train.topology import ADDRESS, COUNT, INDEX, copies_in_cluster, number
from mace_jax_train.watch import LAUNCHER

Launcher = Literal["none", "local", "auto"]

_GPUS = "CUDA_VISIBLE_DEVICES"


def plan_launch(
    launcher: Launcher, flags: FlagsConfig, environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return what each process to be started here gets into its environment.

    ``auto`` starts a process for each of several GPUs, unless the run is distributed already;
    ``local`` starts as many as are asked for, each on a GPU of its own if there are any.

    Returns: an empty list if this process trains itself, as it does when it has an index.

    Raises:
        ConfigError: it is not known how many, or there are too few GPUs.
    """
    distributed = flags.distributed or copies_in_cluster(environment) is not None
    placed = flags.process_index is not None or INDEX in environment
    if launcher == "none" or placed or (launcher == "auto" and distributed):
        return []
    gpus = visible_gpus(flags.device, environment)
    if launcher == "auto" and len(gpus) < 2:
        return []
    count = number(flags.process_count, COUNT, environment) or len(gpus)
    if not count:
        message = "--launcher local: no GPUs are visible that say how many; give --process-count"
        raise ConfigError(message)
    if gpus and count > len(gpus):
        message = f"{count} processes on {len(gpus)} visible GPUs; expected a GPU for each process"
        raise ConfigError(message)
    common = {
        COUNT: str(count),
        ADDRESS: environment.get(ADDRESS) or f"127.0.0.1:{_free_port()}",
        LAUNCHER: str(os.getpid()),
    }
    own = [{INDEX: str(index)} for index in range(count)]
    on_gpus = [{_GPUS: name} for name in gpus[:count]] or [{}] * count
    return [common | index | gpu for index, gpu in zip(own, on_gpus, strict=True)]


def visible_gpus(device: str, environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that jax may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Args:
        device: of the configuration; with ``auto`` there are none where jax has no CUDA.
        environment: variables; without ``CUDA_VISIBLE_DEVICES`` ``nvidia-smi`` lists all GPUs.
    """
    platforms = set(environment.get("JAX_PLATFORMS", "").split(","))
    plugins = [point.name for point in entry_points(group="jax_plugins")]
    found = platforms & {"", "cuda", "gpu"} and any("cuda" in name for name in plugins)
    if device != "cuda" and not (device == "auto" and found):
        return []
    if _GPUS in environment:
        names = [name.strip() for name in environment[_GPUS].split(",")]
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]  # as CUDA does, which stops at what is no device
    program = which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return []
    listed = subprocess.run(  # noqa: S603 - a program of the driver
        [program, "-L"], capture_output=True, text=True, check=False
    )
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(gpus))]


def _free_port() -> int:
    with create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
