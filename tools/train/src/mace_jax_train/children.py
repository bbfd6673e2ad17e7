"""The processes of a run on this machine: started together, watched, ended together."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from threading import Thread
from types import FrameType
from typing import IO

from mace_jax.errors import LostProcessError

log = logging.getLogger(__name__)

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Time for the others to end by themselves, with a message, and then after SIGTERM.
_PATIENCE_SECONDS = 2.0
_GRACE_SECONDS = 10.0


def run_children(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Run a command once in each environment, until all have ended.

    What the first one prints goes where it goes here; lines of the others go to stderr, with the
    number of the process. Signals are passed on. When one fails the others get some seconds, then
    SIGTERM, then SIGKILL.

    Args:
        command: and its arguments.
        environments: what is added to that of this process.

    Returns: 0 if all returned 0, else the code of the first that did not: 128 + n if it was ended
        by signal n.

    Raises:
        LostProcessError: that was process 0, which has said nothing, then.
    """
    children = [
        _start(index, command, {**os.environ, **environment})
        for index, environment in enumerate(environments)
    ]
    readers = [
        _print_lines(index, child.stdout) for index, child in enumerate(children) if child.stdout
    ]
    with _signals_passed_on(children):
        index, code = _first_failure(children)
    for reader in readers:
        reader.join(1)  # a pipe stays open as long as a child of a child lives
    if code >= 0:
        return code
    message = (
        f"process {index} was ended by {signal.Signals(-code).name}, and so the others were ended; "
        "start the run again to go on from its last checkpoint"
    )
    if index > 0:
        log.error(message)
        return 128 - code
    error = LostProcessError(message)
    error.exit_code = 128 - code
    raise error


def _start(
    index: int, command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    pipe, errors = (subprocess.PIPE, subprocess.STDOUT) if index else (None, None)
    # in groups of their own, so that a Ctrl-C reaches them once: passed on
    return subprocess.Popen(  # noqa: S603 - this program itself
        command, env=environment, process_group=0, text=True, stdout=pipe, stderr=errors
    )


def _print_lines(index: int, lines: IO[str]) -> Thread:
    prefix = f"process {index}: "

    def read() -> None:
        with lines:
            for line in lines:
                print(prefix + line.removeprefix(prefix), end="", file=sys.stderr, flush=True)

    reader = Thread(target=read, daemon=True)
    reader.start()
    return reader


@contextmanager
def _signals_passed_on(children: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    def pass_on(number: int, _: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _first_failure(children: Sequence[subprocess.Popen[str]]) -> tuple[int, int]:
    """Wait for all; return index and code of the first that did not return 0, or (0, 0)."""
    ended: Queue[tuple[int, int]] = Queue()
    for index, child in enumerate(children):
        Thread(target=lambda i=index, c=child: ended.put((i, c.wait())), daemon=True).start()
    first, n_left, measures, patience = (0, 0), len(children), [_terminate, _kill], None
    while n_left:
        try:
            index, code = ended.get(timeout=patience)
        except Empty:
            measures.pop(0)(children)
            patience = _GRACE_SECONDS if measures else None
            continue
        n_left -= 1
        if code and not first[1]:
            first, patience = (index, code), _PATIENCE_SECONDS
    return first


def _terminate(children: Sequence[subprocess.Popen[str]]) -> None:
    for child in children:
        child.terminate()


def _kill(children: Sequence[subprocess.Popen[str]]) -> None:
    """Kill those that are left, with all that they have started."""
    for child in children:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
