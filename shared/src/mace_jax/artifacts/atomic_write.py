"""Writes that leave either the old file or the new one, whatever happens in between."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mace_jax.errors import ConfigError


def require_absent(path: Path, *, force: bool) -> None:
    """Refuse to overwrite ``path`` unless ``force`` is given.

    Raises:
        ConfigError: it exists.
    """
    if path.exists() and not force:
        message = f"{path}: exists already; give --force to replace it or choose another name"
        raise ConfigError(message)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it onto the target on success."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory_entries(target: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder; on success its entries replace those of ``target``.

    Args:
        target: existing or new folder; entries of other names are left alone.
        names: all that may be written, in the order in which they become visible. What is not
            written this time is removed, so that old and new are never mixed; the last name goes
            first and comes last: with it the set is complete.
    """
    created = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=target))
    try:
        yield temporary
        for path in temporary.rglob("*"):
            _sync(path)
        _remove(target / names[-1])
        for name in names:
            _move(temporary / name, target / name)
        _sync(target)
    except BaseException:
        shutil.rmtree(temporary)
        if created and not any(target.iterdir()):
            target.rmdir()
        raise
    shutil.rmtree(temporary)


def _move(new: Path, target: Path) -> None:
    """Put a file or folder in the place of ``target``; without a new one remove the old."""
    if new.is_dir():
        _replace_directory(new, target)
    elif new.exists():
        new.replace(target)
    else:
        _remove(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace_directory(new: Path, target: Path) -> None:
    """Put ``new`` in the place of ``target`` and remove what was there."""
    if not target.exists():
        new.rename(target)
    elif _exchange(new, target):
        shutil.rmtree(new)
    else:  # no atomic exchange on this system: the old folder is away for an instant
        old = new.with_suffix(".old")
        target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            old.rename(target)
            raise
        shutil.rmtree(old)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step with Linux's ``renameat2``; return whether that worked."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "renameat2"):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return libc.renameat2(here, bytes(first), here, bytes(second), exchange) == 0


def write_bytes(target: Path, content: bytes) -> None:
    """Write ``content`` to ``target`` atomically."""
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
