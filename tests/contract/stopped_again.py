"""Run a command in a folder, stopped again and again at random instants, until it ends by itself.

    python stopped_again.py PACKAGE FOLDER COUNT ARGUMENT...

Of every five stops two are SIGKILL at a random time, two SIGKILL right before a random change of
the file system, and one is SIGTERM at a random time. Changes count from the first one of a file
named ``*.metrics*``, times from the first of a ``*.checkpoint*``. Prints a JSON list of the kind of
each stop and the exit code, negative for a signal. Packages are imported once and every run is a
fork.
"""

import json
import os
import random
import select
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

from crash_points import PRELOAD, is_change

KINDS = ("time", "change", "term", "change", "time")
LONGEST_SECONDS, MOST_CHANGES = 0.3, 60


def run(package: str, folder: Path, arguments: list[str], kind: str, rng: random.Random) -> int:
    """Fork and stop the child; return how it ended: its code, or minus the signal."""
    reading, writing = os.pipe()
    kill_at = rng.randrange(1, MOST_CHANGES) if kind == "change" else -1
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        n_changes, n_checkpoints = 0, 0

        def count(event: str, event_arguments: tuple[object, ...]) -> None:
            nonlocal n_changes, n_checkpoints
            if not is_change(event, event_arguments):
                return
            n_changes += n_changes > 0 or ".metrics" in str(event_arguments)
            if n_changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if ".checkpoint" in str(event_arguments):
                n_checkpoints += 1
                if n_checkpoints == 1:
                    os.write(writing, b"saves")

        sys.addaudithook(count)
        try:
            import_module(f"{package}.cli").main(arguments)
        except SystemExit as stopped:
            os._exit(int(stopped.code or 0))
        os._exit(70)
    os.close(writing)
    select.select([reading], [], [])  # it saves, or has ended
    if kind in ("time", "term"):
        time.sleep(rng.uniform(0, LONGEST_SECONDS))
        os.kill(child, signal.SIGKILL if kind == "time" else signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    package, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    arguments = sys.argv[4:]
    for name in PRELOAD[package]:
        import_module(name)
    rng, ends = random.Random(0), []
    for number in range(count + 1):
        kind = KINDS[number % len(KINDS)] if number < count else "none"
        ends.append((kind, run(package, folder, arguments, kind, rng)))
        if ends[-1][1] not in (-signal.SIGKILL, 75):
            break
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
