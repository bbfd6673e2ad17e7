"""Evaluate a checkpoint of mace-torch with this library: no torch, one compilation a model."""

import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import pytest

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.predictions import Predictions
from mace_jax.model.predict import predict
from mace_jax.structures.structure import Structure
from mace_jax_convert.from_torch import convert_torch_model


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path], ModelBundle]:
    """Return a function from an xz-compressed checkpoint to a bundle."""

    def from_xz(path: Path) -> ModelBundle:
        plain = tmp_path / path.stem
        plain.write_bytes(lzma.decompress(path.read_bytes()))
        return convert_torch_model(plain)

    return from_xz


@pytest.fixture
def evaluate() -> Callable[[ModelBundle, Sequence[Structure]], Predictions]:
    """Return a function that predicts all structures in float64, padded to one shape."""

    def in_float64(bundle: ModelBundle, structures: Sequence[Structure]) -> Predictions:
        with jax.enable_x64(True):
            return predict(bundle, "bundle", structures, n_edge=1)

    return in_float64
