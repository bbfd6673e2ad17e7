"""Small random networks in float64, each compiled once for one padded shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import ModelBundle, ModelConfig
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.model.energy_forces import EnergyForces, energy_and_forces
from mace_jax.model.load import graph_builder, load_model, model_parameters
from mace_jax.model.mace import MACE
from mace_jax.structures.structure import Structure

R_MAX = 3.2
COMPILE_FAST = {"xla_backend_optimization_level": 0}  # compiling is most of the tests' time
NO_RESIDUAL = "RealAgnosticInteractionBlock"
CAPS = Caps(n_node=16, n_edge=256, n_graph=4)
_COMMON = ModelConfig(
    model="ScaleShiftMACE",
    r_max=R_MAX,
    num_bessel=4,
    num_polynomial_cutoff=5,
    max_ell=1,
    num_interactions=2,
    hidden_irreps="4x0e",
    MLP_irreps="3x0e",
    correlation=2,
    radial_MLP=(8,),
    gate="silu",
    interaction_cls="RealAgnosticResidualInteractionBlock",
    interaction_cls_first="RealAgnosticResidualInteractionBlock",
    avg_num_neighbors=1.3,  # few, so that products of many factors count
    atomic_numbers=(1, 6, 8),
)
CONFIGS = {
    "one_layer_scalars": replace(
        _COMMON,
        interaction_cls_first=NO_RESIDUAL,
        num_interactions=1,
        max_ell=3,
        correlation=1,
        avg_num_neighbors=0.2,
    ),
    "two_layers_scalars": replace(_COMMON, max_ell=2, gate="tanh"),
    "vectors": replace(
        _COMMON,
        interaction_cls_first=NO_RESIDUAL,
        hidden_irreps="4x0e + 4x1o",
        max_ell=2,
        correlation=3,
    ),
    "tensors": replace(_COMMON, hidden_irreps="4x0e + 4x1o + 4x2e", max_ell=2),
    "pseudoscalars": replace(_COMMON, hidden_irreps="4x0e + 4x0o + 4x1o + 4x1e"),
}


@dataclass(frozen=True)
class Found:
    """What a network says about one structure."""

    energy: float
    node_energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A random network, and its compiled evaluation."""

    bundle: ModelBundle
    model: MACE
    evaluate_batch: Any

    def batch(self, structures: Sequence[Structure], caps: Caps = CAPS) -> GraphBatch:
        builder = graph_builder(self.bundle)
        graphs = [builder.build(structure) for structure in structures]
        return pad_batch(graphs, caps, self.bundle.dtype)

    def evaluate(self, structures: Sequence[Structure], caps: Caps = CAPS) -> list[Found]:
        out = jax.device_get(self.evaluate_batch(self.batch(structures, caps)))
        ends = np.cumsum([len(structure) for structure in structures])
        return [
            Found(float(out.energy[i]), out.node_energy[own], out.forces[own], out.stress[i])
            for i, own in enumerate(
                slice(end - len(structure), end)
                for end, structure in zip(ends, structures, strict=True)
            )
        ]

    def __call__(self, structure: Structure) -> Found:
        (found,) = self.evaluate([structure])
        return found


def random_bundle(config: ModelConfig, dtype: str = "float64", seed: int = 0) -> ModelBundle:
    scale, shift = (0.83, -0.27) if config.model == "ScaleShiftMACE" else (1.0, 0.0)
    model = MACE(config, scale=[scale], shift=[shift], dtype=dtype, rng=np.random.default_rng(seed))
    return ModelBundle(
        config=config,
        dtype=dtype,
        heads=("Default",),
        atomic_energies={"Default": {1: -13.6, 6: -1029.4, 8: -2041.8}},
        scale={"Default": scale},
        shift={"Default": shift},
        parameters=model_parameters(model),
    )


@cache
def network(name: str) -> Network:
    bundle = random_bundle(CONFIGS[name])
    model = load_model(bundle, name)
    graphdef, parameters = nnx.split(model)

    @partial(jax.jit, compiler_options=COMPILE_FAST)
    def evaluate_batch(batch: GraphBatch) -> EnergyForces:
        return energy_and_forces(nnx.merge(graphdef, parameters), batch)

    return Network(bundle, model, evaluate_batch)


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    with jax.enable_x64(True):
        yield
    assert jax.config.jax_enable_x64 == before


@pytest.fixture(scope="session")
def compile_fast() -> dict[str, int]:
    """Options for ``jax.jit``."""
    return COMPILE_FAST


@pytest.fixture(scope="session")
def make_bundle():
    return random_bundle


@pytest.fixture(scope="session")
def configs() -> dict[str, ModelConfig]:
    return CONFIGS


@pytest.fixture(params=list(CONFIGS))
def any_network(request, float64) -> Network:
    """Every network in turn."""
    return network(request.param)


@pytest.fixture
def vectors_network(float64) -> Network:
    """Two layers, vectors, products of three factors."""
    return network("vectors")


@pytest.fixture
def scalars_network(float64) -> Network:
    """Two layers that compile fast."""
    return network("two_layers_scalars")


@pytest.fixture
def molecule() -> Structure:
    positions = [
        [0.047, -0.012, 0.021],
        [1.187, 0.071, -0.055],
        [-0.561, 0.923, 0.118],
        [-0.532, -0.951, -0.087],
        [2.113, 1.804, 0.766],
    ]
    return Structure(
        np.array([6, 8, 1, 1, 8]),
        np.array(positions),
        np.zeros((3, 3)),
        np.array([False, False, False]),
    )


@pytest.fixture
def crystal() -> Structure:
    """Triclinic; atoms also see their own images."""
    cell = np.array([[3.1, 0.2, -0.1], [1.0, 3.3, 0.3], [-0.7, 0.9, 3.7]])
    fractions = np.array([[0.05, 0.11, 0.08], [0.46, 0.57, 0.31], [0.27, 0.18, 0.72]])
    return Structure(np.array([6, 8, 1]), fractions @ cell, cell, np.array([True, True, True]))


@pytest.fixture
def slab(crystal) -> Structure:
    cell = np.array([[3.1, 0.2, 0.0], [1.0, 3.3, 0.0], [0.0, 0.0, 12.0]])
    return replace(crystal, cell=cell, pbc=np.array([True, True, False]))


@pytest.fixture
def lone_carbon() -> Structure:
    return Structure(
        np.array([6]), np.array([[0.3, -0.2, 0.1]]), np.zeros((3, 3)), np.zeros(3, dtype=bool)
    )


@pytest.fixture(params=["molecule", "crystal"])
def structure(request, molecule, crystal) -> Structure:
    return {"molecule": molecule, "crystal": crystal}[request.param]
