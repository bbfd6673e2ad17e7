"""One process at a time trains a run: two would continue it and spoil each other's files."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mace_jax.errors import ConfigError
from mace_jax_train.run_files import RunFiles

log = logging.getLogger(__name__)


@contextmanager
def locked(files: RunFiles) -> Iterator[None]:
    """Keep other processes from training a run of the same tag; a killed one keeps nobody.

    Raises:
        ConfigError: another process trains it.
    """
    path = files.path(".lock").with_name(f".{files.tag}.lock")
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if not _lock(file.fileno(), path):
            message = f"{path}: another process trains {files.tag!r}; choose another --name"
            raise ConfigError(message)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new and not any(path.parent.iterdir()):
                path.parent.rmdir()


def _lock(descriptor: int, path: Path) -> bool:
    """Return whether the lock is ours, and the file still the one that others will try."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s: this file system has no locks (%s)", path, error.strerror)
        return True
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
