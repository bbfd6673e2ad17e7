"""Checkpoints to convert: real ones of mace-torch, edited ones, and files made by hand."""

import io
import lzma
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "tests" / "parity" / "data"


@pytest.fixture(scope="session")
def entries() -> dict[str, bytes]:
    """The zip entries of a two-layer ScaleShiftMACE with vectors."""
    content = lzma.decompress((DATA / "scale_shift_two_layers.model.xz").read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def write_entries(tmp_path) -> Callable[[Mapping[str, bytes]], Path]:
    """Return a function that zips entries into a file."""

    def write(entries: Mapping[str, bytes]) -> Path:
        path = tmp_path / "edited.model"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return path

    return write


@pytest.fixture
def write_pickle(write_entries) -> Callable[..., Path]:
    """Return a function that writes an archive of a hand-made pickle and its storages."""

    def write(pickled: bytes, storages: Mapping[str, bytes] | None = None) -> Path:
        data = {f"archive/data/{key}": content for key, content in (storages or {}).items()}
        return write_entries({"archive/data.pkl": pickled, "archive/byteorder": b"little", **data})

    return write


@pytest.fixture
def checkpoint(entries, write_entries) -> Path:
    return write_entries(entries)


@pytest.fixture
def edited(entries, write_entries) -> Callable[[bytes, bytes], Path]:
    """Return a function that replaces bytes of the pickle, all occurrences."""

    def edit(old: bytes, new: bytes) -> Path:
        pickled = entries["archive/data.pkl"]
        assert old in pickled
        return write_entries({**entries, "archive/data.pkl": pickled.replace(old, new)})

    return edit
