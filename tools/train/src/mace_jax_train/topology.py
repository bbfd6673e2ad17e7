"""Which processes train together: from flags, else the environment, else the cluster."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mace_jax.artifacts.train_config_sections import FlagsConfig
from mace_jax.errors import ConfigError

log = logging.getLogger(__name__)

COUNT, INDEX = "JAX_PROCESS_COUNT", "JAX_PROCESS_INDEX"
ADDRESS, PORT = "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT"
# What jax itself finds the others by.
_CLUSTERS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
_DEFAULT_HOST, _DEFAULT_PORT = "127.0.0.1", 12345


@dataclass(frozen=True)
class Topology:
    """This process among those that train together; what is None the cluster's variables tell jax.

    Attributes:
        count: of processes.
        index: of this one, from 0.
        coordinator: ``host:port`` where process 0 waits for the others.
    """

    count: int | None
    index: int | None
    coordinator: str | None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left for the cluster to tell."""
        return None not in (self.count, self.index, self.coordinator)


def find_topology(flags: FlagsConfig, environment: Mapping[str, str]) -> Topology | None:
    """Return the place of this process, or None if it trains alone.

    A flag wins over an environment variable. Variables of Slurm and Open MPI count with
    ``distributed`` only: they are there, too, where a batch script starts one process.

    Raises:
        ConfigError: a number is missing or impossible.
    """
    count = number(flags.process_count, COUNT, environment)
    index = number(flags.process_index, INDEX, environment)
    in_cluster = any(name in environment for name in _CLUSTERS)
    if not flags.distributed and index is None:
        if several := copies_in_cluster(environment):
            log.warning(
                "%s is %s, and each of these processes trains alone; give --distributed to have "
                "them train together",
                several,
                environment[several],
            )
        if count not in (None, 1) and not in_cluster:
            raise ConfigError(_missing("index", count))
        return None
    if in_cluster and flags.distributed:
        return Topology(count, index, _coordinator(flags, environment, None))
    if count is None:
        raise ConfigError(_missing("count", None))
    if count == 1 and index in (None, 0):
        return None
    if index is None:
        raise ConfigError(_missing("index", count))
    if not 0 <= index < count:
        message = f"process index {index}: expected 0 to {count - 1} for {count} processes"
        raise ConfigError(message)
    return Topology(count, index, _coordinator(flags, environment, _DEFAULT_HOST))


def number(given: int | None, name: str, environment: Mapping[str, str]) -> int | None:
    """Return what a flag says, or else the environment variable ``name``, or None.

    Raises:
        ConfigError: the variable is no number.
    """
    text = environment.get(name)
    if given is not None or text is None:
        return given
    try:
        return int(text)
    except ValueError:
        message = f"{name}: {text!r}, expected a number"
        raise ConfigError(message) from None


def _coordinator(
    flags: FlagsConfig, environment: Mapping[str, str], default: str | None
) -> str | None:
    """Join host and port; an address may have a port of its own, which a port flag replaces."""
    address = flags.coordinator_address or environment.get(ADDRESS, default)
    if address is None:
        return None
    match = re.fullmatch(r"(.+?|\[.+\])(?::(\d+))?", address)
    host, own_port = match.groups() if match else (address, None)
    from_environment = number(None, PORT, environment)
    return f"{host}:{flags.coordinator_port or own_port or from_environment or _DEFAULT_PORT}"


def _missing(what: str, count: int | None) -> str:
    found = "--distributed" if count is None else f"{count} processes"
    name = COUNT if what == "count" else INDEX
    return (
        f"{found}: the process {what} is not known; give --process-{what}, set {name}, or start "
        "the processes with --launcher local, srun or mpirun"
    )


def copies_in_cluster(environment: Mapping[str, str]) -> str | None:
    """Return the variable by which a cluster says that it has started several processes."""
    names = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return next((name for name in names if environment.get(name, "1") != "1"), None)
