"""Work shared among processes, its results in the order of the tasks."""

import ctypes
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from itertools import chain, islice
from multiprocessing import get_context
from typing import TypeVar

from mace_jax.errors import MaceJaxError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks that are made or wait per process; more would only take memory.
_AHEAD = 2


class Processes(AbstractContextManager["Processes"]):
    """Some processes that compute, or this one alone.

    They start when there is more than one task, and end with the context, or with this process
    however it ends.
    """

    def __init__(self, n_processes: int) -> None:
        """Start nothing yet."""
        self.n_processes = n_processes
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the result of each task, in order; ``function`` and tasks are pickled.

        Raises:
            MaceJaxError: a process was ended from outside; what ``function`` raises is raised.
        """
        rest = iter(tasks)
        first = list(islice(rest, 2))
        if self.n_processes == 1 or len(first) < 2:
            yield from map(function, chain(first, rest))
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for task in chain(first, rest):
                waiting.append(self._started().submit(function, task))
                if len(waiting) > _AHEAD * self.n_processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            message = (
                "a process was ended from outside, expected it to finish its work; see whether "
                "memory ran out, or use fewer with --num_process"
            )
            raise MaceJaxError(message) from error
        finally:
            for future in waiting:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            spawn = get_context("spawn")  # a fork of a process with threads, as jax's, may hang
            parent = (os.getpid(),)
            self._pool = ProcessPoolExecutor(self.n_processes, spawn, _die_with_parent, parent)
        return self._pool

    def __exit__(self, *exception: object) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _die_with_parent(parent: int) -> None:
    """Ask Linux to end this process when the tool itself is killed, and end if it was already."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        set_parent_death_signal = 1
        libc.prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
