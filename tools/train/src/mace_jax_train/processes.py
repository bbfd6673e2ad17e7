"""One process or several that train together: joining, waiting for process 0, ending.

Process 0 alone writes files and talks. jax's coordination service, which it runs, ends all others
within ``_HEARTBEAT_SECONDS`` when one of them is gone; where gloo computes the sums, as on CPUs, a
closed connection says so at once.
"""

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jax

from mace_jax.errors import ConfigError, DivergedError, LostProcessError, StoppedError
from mace_jax_train.topology import Topology
from mace_jax_train.watch import Watch

log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 30
# Long enough for the others to hear what process 0 says last.
_LINGER_SECONDS = 2.0
_POLL_MILLISECONDS = 2000
_FOR_EVER_MILLISECONDS = 10**9
_LOST = re.compile(r"gloo|nccl|coordination.?service", re.IGNORECASE)


@dataclass(frozen=True)
class Processes:
    """This process among ``count``; alone by default, which costs nothing.

    Attributes:
        count: of processes.
        index: of this one; 0 writes the files.
    """

    count: int = 1
    index: int = 0
    watch: Watch | None = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.index == 0

    @contextmanager
    def first_before_others(self, what: str) -> Iterator[None]:
        """Have process 0 do the body, then the others: what it has made they find there.

        However long that takes, all wait for each other.

        Args:
            what: is done, for messages; not twice the same in a run.

        Raises:
            LostProcessError: process 0 failed.
        """
        if self.count == 1:
            yield
            return
        if not self.is_first:
            self.from_first(what)
        try:
            yield
        except BaseException:
            if self.is_first:
                self.to_others(what, "", failed=True)
            raise
        if self.is_first:
            self.to_others(what, "")
        _client().wait_at_barrier(f"mace_jax/{what}", _FOR_EVER_MILLISECONDS)

    def to_others(self, name: str, value: str, *, failed: bool = False) -> None:
        """Tell all processes a value, once under each name."""
        if self.count > 1:
            _client().key_value_set(f"mace_jax/{name}", ("-" if failed else "+") + value)

    def from_first(self, name: str) -> str:
        """Return what process 0 has told, or will tell, under a name.

        Raises:
            LostProcessError: it failed instead.
        """
        while True:
            try:
                told = _client().blocking_key_value_get(f"mace_jax/{name}", _POLL_MILLISECONDS)
                break
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
        if told.startswith("-"):
            message = f"process 0 failed at: {name}; its message says why"
            raise LostProcessError(message)
        return str(told[1:])

    def agreed(self, name: str, value: str) -> str:
        """Return the value that process 0 has."""
        if self.is_first:
            self.to_others(name, value)
            return value
        return self.from_first(name)

    def waiting(self, what: str) -> AbstractContextManager[None]:
        """Return a context that ends this process if its body, a step, takes 20 minutes.

        That is where another process hangs; ``MACE_JAX_PROCESS_TIMEOUT`` says another limit.
        """
        return self.watch.limit(what) if self.watch else nullcontext()


@contextmanager
def joined(topology: Topology | None) -> Iterator[Processes]:
    """Be one of the processes that train together.

    Enter before jax has looked for devices, and compute inside only.

    Raises:
        ConfigError: they cannot meet.
        LostProcessError: another one is gone.
    """
    if topology is None:
        yield Processes()
        return
    with _stdout_to_stderr():
        processes = _join(topology)
        try:
            with _talking_as(processes):
                yield processes
        except (DivergedError, StoppedError):  # which all processes have alike
            _end_together(processes)
            raise
        except (RuntimeError, ValueError) as error:  # of these XLA raises both
            if not _LOST.search(str(error)):
                raise
            found = " ".join(str(error).split())[:200]
            message = (
                f"another process is gone or hangs ({found}); its message, if any, says why; start "
                "the run again to go on from its last checkpoint"
            )
            raise LostProcessError(message) from error
        _end_together(processes)


def _end_together(processes: Processes) -> None:
    with processes.waiting("the other processes to end"):
        jax.distributed.shutdown()


def leave(code: int) -> NoReturn:
    """End the process; not as jax does after an error, that is when the others have ended."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if _state().process_id == 0:
            time.sleep(_LINGER_SECONDS)
        os._exit(code)
    sys.exit(code)


def _join(topology: Topology) -> Processes:
    watch = Watch()
    # its handler of SIGTERM would be in the place of ours
    jax.config.update("jax_enable_preemption_service", False)
    _require_host(topology)
    with watch.limit("all processes to meet at the coordinator"):
        try:
            jax.distributed.initialize(
                topology.coordinator,
                topology.count,
                topology.index,
                # with everything said, jax asks no cluster, which would hide devices
                cluster_detection_method="deactivate" if topology.is_complete else None,
                initialization_timeout=int(watch.seconds) + 60,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=int(watch.seconds) + 60,
            )
        except (ValueError, RuntimeError) as error:
            message = f"processes cannot meet: {error}; check --coordinator-address and the count"
            raise ConfigError(message) from error
    state = _state()
    return Processes(state.num_processes, state.process_id, watch)


def _require_host(topology: Topology) -> None:
    """Check what jax would crash on: a name that no one knows, a port that is taken."""
    if topology.coordinator is None:
        return
    host, _, port = topology.coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
        if topology.index == 0:
            with socket.create_server(("", int(port))):
                pass
    except OSError as error:
        message = (
            f"--coordinator-address {topology.coordinator}: {error.strerror or error}; give the "
            "host of process 0 and a free port"
        )
        raise ConfigError(message) from error


@contextmanager
def _talking_as(processes: Processes) -> Iterator[None]:
    """Let only warnings of other processes through, and say whose they are."""
    log.info("process %d of %d", processes.index, processes.count)
    if processes.is_first:
        yield
        return
    loggers = [logging.getLogger(name) for name in ("mace_jax", "mace_jax_train")]
    levels = [logger.level for logger in loggers]
    plain = logging.getLogRecordFactory()

    def named(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        record.msg = f"process {processes.index}: {record.msg}"
        return record

    logging.setLogRecordFactory(named)
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logging.setLogRecordFactory(plain)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what is written to stdout to stderr: gloo talks there, where only results belong."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def _state() -> Any:
    # the only way to jax's key-value store; orbax and others go it, too
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    return _state().client
