"""Work done ahead of its use by other processes, in the order in which it is asked for."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

from mace_jax.errors import MaceJaxError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Results that are made or waited for per worker; more would only take memory.
_AHEAD = 2


class Workers(Generic[Task, Result]):
    """A function, computed in the calling thread or ahead of it in processes of their own.

    Processes are started when they are first needed and end with ``close``, or with the parent
    however it ends. They are spawned, since jax does not survive a fork: a script that uses them
    needs ``if __name__ == "__main__"``.
    """

    def __init__(self, function: Callable[[Task], Result], n_workers: int) -> None:
        """Start nothing yet.

        Args:
            function: what is computed; with workers it, its tasks and results are pickled.
            n_workers: processes; 0 computes in the calling thread, when a result is asked for.
        """
        self.function = function
        self.n_workers = n_workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, tasks: Iterable[Task]) -> Generator[Result, None, None]:
        """Yield the results of ``tasks`` in order; at most two a worker are made ahead.

        Raises:
            MaceJaxError: a worker died; whatever the function raises is raised as it is.
        """
        if not self.n_workers:
            yield from map(self.function, tasks)
            return
        pool = self._started()
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(_compute, task))
                if len(pending) > _AHEAD * self.n_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            self.close()
            message = (
                "a worker that makes batches was ended from outside, expected it to outlive the "
                "run; see whether memory ran out, or use fewer workers"
            )
            raise MaceJaxError(message) from error
        finally:
            for future in pending:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.n_workers,
                multiprocessing.get_context("spawn"),
                _begin,
                (self.function,),
            )
        return self._pool

    def close(self) -> None:
        """End the processes; ``map`` would start new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


# What a worker computes.
_function: Any = None


def _begin(function: Any) -> None:
    global _function  # noqa: PLW0603 - the process has this one purpose
    _function = function
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # whole groups are signalled; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)


def _compute(task: Any) -> Any:
    return _function(task)
