"""Checkpoints to convert: real ones of mace-torch, edited ones, and files made by hand."""

import io
import lzma
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.torch_models import from_torch
from mace_jax.torch_models.torch_archive import Record, read_torch_archive

DATA = Path(__file__).parents[3] / "tests" / "parity" / "data"
PLAIN = "correlation_3_2"  # a ScaleShiftMACE of two layers with vectors


@pytest.fixture(scope="session")
def stored() -> Callable[[str], bytes]:
    """Return a function from the name of a stored checkpoint to its content."""
    return lambda name: lzma.decompress((DATA / f"{name}.model.xz").read_bytes())


@pytest.fixture
def write_stored(stored, tmp_path) -> Callable[[str], Path]:
    """Return a function that unpacks a stored checkpoint."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.model"
        path.write_bytes(stored(name))
        return path

    return write


@pytest.fixture
def convert(write_stored) -> Callable[[str], ModelBundle]:
    """Return a function that converts a stored checkpoint."""
    return lambda name: from_torch.convert_torch_model(write_stored(name))


@pytest.fixture
def convert_edited(write_stored, monkeypatch) -> Callable[..., ModelBundle]:
    """Return a function that converts a stored checkpoint after a change of what is in it."""

    def convert(edit: Callable[[Any], None], name: str = PLAIN) -> ModelBundle:
        path = write_stored(name)
        content = read_torch_archive(path)
        edit(content)
        with monkeypatch.context() as patch:
            patch.setattr(from_torch, "read_torch_archive", lambda _: content)
            return from_torch.convert_torch_model(path)

    return convert


@pytest.fixture(scope="session")
def module_of() -> Callable[..., Record]:
    """Return a function that finds a submodule, such as ``"interactions.0.linear"``."""

    def find(model: Record, path: str) -> Record:
        for name in path.split("."):
            model = model.state["_modules"][name]
        return model

    return find


@pytest.fixture(scope="session")
def entries(stored) -> dict[str, bytes]:
    """The zip entries of a two-layer ScaleShiftMACE with vectors, in a folder ``archive``."""
    with zipfile.ZipFile(io.BytesIO(stored(PLAIN))) as archive:
        return {
            f"archive/{name.partition('/')[2]}": archive.read(name) for name in archive.namelist()
        }


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
