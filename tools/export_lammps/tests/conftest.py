"""Small random models, and the command run in this process."""

import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig, write_model_bundle
from mace_jax.model.load import build_model, model_parameters
from mace_jax_export_lammps import cli
from mace_jax_export_lammps.export import export
from mace_jax_export_lammps.lammps_model import write_lammps_model

PROVENANCE = {"tool": "tests", "tool_version": "0", "command": [], "seed": 0, "inputs": []}
CONFIG = ModelConfig(
    model="ScaleShiftMACE",
    r_max=3.0,
    num_bessel=4,
    num_polynomial_cutoff=5,
    max_ell=1,
    num_interactions=2,
    hidden_irreps="2x0e + 2x1o",  # small in everything that takes long to compile
    MLP_irreps="2x0e",
    correlation=1,
    radial_MLP=(4,),
    gate="silu",
    interaction_cls="RealAgnosticResidualInteractionBlock",
    interaction_cls_first="RealAgnosticInteractionBlock",
    avg_num_neighbors=8.0,
    atomic_numbers=(6, 8),
)


class Outcome(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


@cache
def random_bundle(
    n_layers: int = 2, dtype: str = "float64", heads: tuple[str, ...] = ("Default",)
) -> ModelBundle:
    """Return a small network with random weights."""
    config = replace(CONFIG, num_interactions=n_layers)
    scale = {head: 3.0 + index for index, head in enumerate(heads)}
    shift = {head: 0.25 * index for index, head in enumerate(heads)}
    with jax.enable_x64(dtype == "float64"):
        model = build_model(
            config,
            scale=list(scale.values()),
            shift=list(shift.values()),
            dtype=dtype,
            rng=np.random.default_rng(1),
        )
        parameters = model_parameters(model)
    energies = {head: {6: -3.0 - index, 8: -5.0} for index, head in enumerate(heads)}
    return ModelBundle(config, dtype, heads, energies, scale, shift, parameters)


@pytest.fixture(autouse=True)
def _compile_fast() -> Iterator[None]:
    """Compiling is most of the tests' time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def bundle() -> Callable[..., ModelBundle]:
    """Return a function that makes a small network."""
    return random_bundle


@pytest.fixture
def write_bundle(tmp_path) -> Callable[[ModelBundle], Path]:
    """Return a function that writes a bundle."""

    def write(content: ModelBundle) -> Path:
        path = tmp_path / "model.msgpack"
        write_model_bundle(path, content, PROVENANCE)
        return path

    return write


@pytest.fixture
def load(tmp_path) -> Callable[..., Any]:
    """Return a function that exports a model and loads the file as LAMMPS does."""

    def exported_and_loaded(content: ModelBundle, *, self_test: bool = False) -> Any:
        path = tmp_path / "model.pkl"
        exported = export(content, "model.msgpack", self_test=self_test)
        write_lammps_model(path, exported, PROVENANCE)
        with path.open("rb") as file:
            return pickle.load(file)

    return exported_and_loaded


@pytest.fixture
def run(capfd, monkeypatch, tmp_path) -> Iterator[Callable[..., Outcome]]:
    """Return a function that runs mace-create-lammps-model in this process and an own folder."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level

    def main(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        return Outcome(stopped.value.code, *capfd.readouterr())

    yield main
    root.handlers, root.level = handlers, level
