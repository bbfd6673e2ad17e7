"""Signals that ask a run to stop: it saves first, at the next place where it can go on."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

from mace_jax.cli.command import EXIT_INTERRUPTED
from mace_jax.errors import StoppedError

# Ctrl-C, the end of a job, and Slurm's warning before it: sbatch --signal=USR1@120
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """A context in which signals are only noted; a second one does what it does elsewhere.

    Attributes:
        received: the signal, if there was one.
    """

    received: signal.Signals | None = None

    def __init__(self, n_processes: int = 1) -> None:
        """Note nothing yet; ``n_processes`` train together."""
        self._alone, self._heard = n_processes == 1, False

    def __enter__(self) -> "StopSignals":
        """Note signals from now on."""
        self._before: dict[signal.Signals, Any] = {
            number: signal.signal(number, self._note) for number in SIGNALS
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Leave signals to whoever had them before."""
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            self._restore()
            os.kill(os.getpid(), number)
            return
        self.received = signal.Signals(number)
        # not print, which must not be entered again while it is interrupted
        os.write(2, f"{self.received.name}: stopping; once more to stop at once\n".encode())

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Return whether a signal asked this process to stop."""
        return self.received is not None

    def hear(self, asked: Any) -> None:
        """Take in whether any of the processes was asked, which all of them hear at once."""
        self._heard |= bool(asked)

    @property
    def stopping(self) -> bool:
        """Whether to stop; several processes do when all have heard that one was asked."""
        return self.asked() if self._alone else self._heard

    def error(self, place: str, saved: Path) -> StoppedError:
        """Return the error with which the run ends, when it has saved.

        Args:
            place: where the run stands.
            saved: the checkpoint.
        """
        name = self.received.name if self.received else "a signal to another process"
        error = StoppedError(
            f"{saved}: stopped by {name} in {place}; run the same command again to go on"
        )
        if self.received is signal.SIGINT:
            error.exit_code = EXIT_INTERRUPTED
        return error
