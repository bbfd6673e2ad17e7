"""How the parent talks to a worker: one JSON object a line, over two pipes.

A worker's stdout is not one of them, because libraries print when they are imported.
"""

import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class WorkerError(Exception):
    """A worker refused, failed or died; the message is for people."""


class Worker:
    """A process that measures one case with one program, whenever it is asked."""

    def __init__(self, script: Path, environment: Mapping[str, str], log: TextIO) -> None:
        """Start the process; what it and its libraries print goes to ``log``."""
        reading, writing = os.pipe()
        self.replies = os.fdopen(reading)
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-W", "ignore", str(script), str(writing)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Return the worker's answer, with its peak memory so far as ``peak_mb``.

        Raises:
            WorkerError: there is none.
        """
        try:
            self.process.stdin.write(json.dumps([request, arguments]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; the empty answer says so
        line = self.replies.readline()
        if not line:
            message = f"the worker died with status {self.process.wait()}; see the log"
            raise WorkerError(message)
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.replies.close()


def serve(cases: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests until stdin ends.

    ``start`` makes the case that it names; any other request is a method of the case.
    """
    replies = os.fdopen(int(sys.argv[1]), "w")
    case: Any = None
    for line in sys.stdin:
        request, arguments = json.loads(line)
        try:
            if request == "start":
                case = cases[arguments.pop("case")](**arguments)
                reply = {}
            else:
                reply = getattr(case, request)(**arguments)
            reply["peak_mb"] = peak_mb()
        except Exception as error:  # noqa: BLE001 - the parent decides what becomes of it
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def peak_mb() -> float:
    """Return the largest resident memory that this process has had, MB."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6
