"""Bundles of a tiny untrained network with one head or two, and the command in this process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest

from mace_jax.artifacts.model_bundle import (
    EmbeddingSpec,
    ModelBundle,
    ModelConfig,
    write_model_bundle,
)
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.model.load import build_model, model_parameters
from mace_jax_predict.cli import main

ENERGIES = {"pbe": {1: -13.0, 8: -430.0}, "scan": {1: -14.0, 8: -440.0}}


def make_bundle(heads: tuple[str, ...], **changes: Any) -> ModelBundle:
    block = "RealAgnosticResidualInteractionBlock"
    config = ModelConfig(
        model="ScaleShiftMACE",
        r_max=3.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=1,
        num_interactions=1,
        hidden_irreps="4x0e",
        MLP_irreps="4x0e",
        correlation=1,
        radial_MLP=(8,),
        gate="silu",
        interaction_cls=block,
        interaction_cls_first=block,
        avg_num_neighbors=2.0,
        atomic_numbers=(1, 8),
    )
    config = replace(config, **changes)
    energy = config.model == "ScaleShiftMACE"
    scale = {head: 1.0 + index for index, head in enumerate(heads)}
    shift = {head: 0.1 * (1 + index) for index, head in enumerate(heads)}
    model = build_model(
        config,
        scale=list(scale.values()),
        shift=list(shift.values()),
        dtype="float32",
        rng=np.random.default_rng(0),
    )
    return ModelBundle(
        config=config,
        dtype="float32",
        heads=heads,
        atomic_energies={head: ENERGIES[head] for head in heads} if energy else {},
        scale=scale if energy else {},
        shift=shift if energy else {},
        parameters=model_parameters(model),
    )


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``one.msgpack`` (head pbe) and ``two.msgpack`` (pbe and scan).

    Also ``charged.msgpack``, which is told total charges from -1 to 1 and a field, and
    ``dielectric.msgpack``, which predicts dipoles and the like but no energy.
    """
    folder = tmp_path_factory.mktemp("bundles")
    provenance = make_provenance("mace-jax-train", [], reproducible=True)
    for name, heads in (("one", ("pbe",)), ("two", ("pbe", "scan"))):
        write_model_bundle(folder / f"{name}.msgpack", make_bundle(heads), provenance)
    specs = (
        EmbeddingSpec("total_charge", "categorical", "graph", 2, num_classes=3, offset=1),
        EmbeddingSpec("field", "continuous", "atom", 2, key="potential"),
    )
    charged = make_bundle(("pbe",), embedding_specs=specs)
    write_model_bundle(folder / "charged.msgpack", charged, provenance)
    dielectric = make_bundle(
        ("pbe",), model="AtomicDielectricMACE", hidden_irreps="2x0e + 2x1o + 2x2e", max_ell=2
    )
    write_model_bundle(folder / "dielectric.msgpack", dielectric, provenance)
    return folder


def water(index: int, **info: object) -> ase.Atoms:
    generator = np.random.default_rng(index)
    atoms = ase.Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms.positions += 0.05 * generator.normal(size=(3, 3))
    atoms.info.update(info)
    return atoms


@pytest.fixture
def waters() -> list[ase.Atoms]:
    """Return five molecules without labels, one of them a dimer, one in a cell."""
    dimer = water(3) + water(4)
    dimer.positions[3:] += [2.8, 0, 0]
    crystal = water(5)
    crystal.set_cell(np.diag([3.5, 3.6, 3.7]))
    crystal.pbc = True
    return [water(1), dimer, water(2), crystal, water(6)]


@pytest.fixture
def predict(
    bundles: Path,
    compilation_cache: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., Any],
) -> Callable[..., Any]:
    """Return a function that writes frames to in.xyz and predicts them to out.npz."""
    monkeypatch.chdir(tmp_path)

    def run(frames: list[ase.Atoms], *arguments: str, model: str = "one") -> Any:
        ase.io.write("in.xyz", frames, format="extxyz")
        files = (bundles / f"{model}.msgpack", "in.xyz", "--output", "out.npz", "--force")
        return call(main, *files, *arguments)

    return run
