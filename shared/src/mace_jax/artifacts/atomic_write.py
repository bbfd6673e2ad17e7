"""Writes that leave either the old file or the new one, whatever happens in between."""

import ctypes
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mace_jax.errors import ConfigError


def require_absent(path: Path, *, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse to overwrite ``path`` unless ``force`` is given, and what is read in any case.

    Args:
        path: to be written.
        force: whether it may be replaced.
        inputs: files that are read, and folders of which files are.

    Raises:
        ConfigError: it exists.
    """
    for one in inputs:
        if path.exists() and one.exists() and _is_part(path, one):
            message = f"{path}: is read, too, and an input is never replaced; choose another name"
            raise ConfigError(message)
    if path.exists() and not force:
        message = f"{path}: exists already; give --force to replace it or choose another name"
        raise ConfigError(message)


def _is_part(path: Path, one: Path) -> bool:
    """Return whether one of two files or folders holds the other, or is it."""
    written, read = path.resolve(), one.resolve()
    return written.is_relative_to(read) or read.is_relative_to(written)


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


class FileWriter(ABC):
    """Writes a file that appears, whole, when the context is left without an error."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[None]:
        """Return the context in which the file is written."""

    def __enter__(self) -> Self:
        """Open a temporary file beside the target."""
        self._context = self._writing()
        self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the file and put it in its place; after an error remove it."""
        self._context.__exit__(kind, error, trace)


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
