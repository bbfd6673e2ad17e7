"""Small random models, and the command run in this process."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module", autouse=True)
def _fast(fast_compilation: None) -> None:
    """All of these tests compile."""


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
def run(call, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Return a function that runs mace-create-lammps-model in this process and an own folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(cli.main, *arguments)
