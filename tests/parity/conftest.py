"""Evaluate checkpoints of mace-torch with this library: no torch, one compilation a model."""

import lzma
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.predictions import Predictions
from mace_jax.model.predict import predict
from mace_jax.structures.read_extxyz import read_structures
from mace_jax.structures.structure import Structure
from mace_jax_convert.from_torch import convert_torch_model


@pytest.fixture(autouse=True)
def _compile_fast() -> Iterator[None]:
    """Compiling is most of the tests' time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path], ModelBundle]:
    """Return a function from an xz-compressed checkpoint to a bundle."""

    def from_xz(path: Path) -> ModelBundle:
        plain = tmp_path / path.stem
        plain.write_bytes(lzma.decompress(path.read_bytes()))
        return convert_torch_model(plain)

    return from_xz


@pytest.fixture
def structures_of() -> Callable[[Path, ModelBundle], list[Structure]]:
    """Return a function that reads the structures of elements that a model knows, by name."""

    def read(path: Path, bundle: ModelBundle) -> list[Structure]:
        keys = [spec.source for spec in model_inputs(bundle.config)]
        elements = set(bundle.config.atomic_numbers)
        structures, _ = read_structures(path, inputs=keys)
        return [found for found in structures if elements.issuperset(found.atomic_numbers)]

    return read


@pytest.fixture
def evaluate() -> Callable[..., Predictions]:
    """Return a function that predicts structures by their own heads, padded to one shape."""

    def predictions(
        bundle: ModelBundle, structures: list[Structure], dtype: str = "float64"
    ) -> Predictions:
        with jax.enable_x64(dtype == "float64"):
            return predict(bundle.astype(dtype), "bundle", structures, n_edge=1)

    return predictions
