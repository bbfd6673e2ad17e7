"""Checkpoints of mace-torch to convert, and the commands run in this process."""

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax_convert import cli, cli_to_torch

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
    return lambda name: convert_torch_model(write_stored(name))


@pytest.fixture
def checkpoint(stored, tmp_path) -> Path:
    path = tmp_path / "edited.model"
    path.write_bytes(stored(PLAIN))
    return path


@pytest.fixture
def run(call, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Return a function that runs mace-jax-from-torch in this process and an own folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, command=cli.main: call(command, *arguments)


@pytest.fixture
def run_to_torch(run) -> Callable[..., Any]:
    """Return a function that runs mace-jax-to-torch."""
    return lambda *arguments: run(*arguments, command=cli_to_torch.main)
