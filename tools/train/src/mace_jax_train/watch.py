"""Ends this process where it would wait for others for ever."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NoReturn

from mace_jax.errors import ConfigError, LostProcessError

# The process that has started this one and must outlive it.
LAUNCHER = "MACE_JAX_LAUNCHER"
_LIMIT = "MACE_JAX_PROCESS_TIMEOUT"
_DEFAULT_LIMIT = 1200.0  # gloo has one of its own, of 1800
_EVERY = 0.5


class Watch:
    """A thread beside the main one, which cannot be interrupted while it waits inside jax."""

    def __init__(self) -> None:
        """Start watching."""
        self._deadline = (float("inf"), "")
        launcher = os.environ.get(LAUNCHER)
        self._launcher = int(launcher) if launcher else None
        threading.Thread(target=self._run, daemon=True).start()

    @cached_property
    def seconds(self) -> float:
        """How long one process may wait for another.

        Raises:
            ConfigError: the variable that says so is no number above 0.
        """
        text = os.environ.get(_LIMIT, str(_DEFAULT_LIMIT))
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not seconds > 0:
            message = f"{_LIMIT}: {text!r}, expected seconds above 0"
            raise ConfigError(message)
        return seconds

    @contextmanager
    def limit(self, what: str) -> Iterator[None]:
        """End the process if the body takes too long; ``what`` it waits for, for the message."""
        self._deadline = (time.monotonic() + self.seconds, what)
        try:
            yield
        finally:
            self._deadline = (float("inf"), "")

    def _run(self) -> None:
        while True:
            time.sleep(_EVERY)
            deadline, what = self._deadline
            if time.monotonic() > deadline:
                end_at_once(
                    f"waited {self.seconds:g} s for {what}: a process hangs, is very slow or was "
                    f"not started; start the run again, or wait longer by {_LIMIT}"
                )
            if self._launcher not in (None, os.getppid()):
                end_at_once("the process that started this one is gone")


def end_at_once(message: str) -> NoReturn:
    """End without the others' consent, which jax would wait for."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(LostProcessError.exit_code)
