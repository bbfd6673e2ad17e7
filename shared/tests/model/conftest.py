"""Small random networks in float64, each compiled once for one padded shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax import Array
from numpy.typing import NDArray

from mace_jax.architecture import predicts_energy
from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelBundle, ModelConfig
from mace_jax.artifacts.predictions import SHAPES
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.model.load import (
    build_model,
    graph_builder,
    load_model,
    model_parameters,
    parameter_table,
    split_trainable,
)
from mace_jax.model.mace import MACE, DipoleMACE
from mace_jax.model.predict import properties
from mace_jax.structures.structure import Structure

R_MAX = 3.2
CAPS = Caps.enclosing(n_node=16, n_edge=256, n_graph=4)
NO_RESIDUAL = "RealAgnosticInteractionBlock"
DENSITY, DENSITY_RESIDUAL = (
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
)
ATTENTION = "RealAgnosticAttResidualInteractionBlock"
NON_LINEAR = "RealAgnosticResidualNonLinearInteractionBlock"
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
# The energy of an isolated atom has a closed form in these.
PLAIN = {
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
# Everything else that a configuration can ask for, several at a time.
OTHER = {
    "density": replace(
        _COMMON,
        interaction_cls_first=DENSITY,
        interaction_cls=DENSITY_RESIDUAL,
        hidden_irreps="3x0e + 3x1o",
        correlation=(1, 3),
        radial_type="gaussian",
        distance_transform="Agnesi",
        pair_repulsion=True,
        readout_cls="NonLinearBiasReadoutBlock",
        use_reduced_cg=True,
    ),
    "attention_then_nonlinear": replace(
        _COMMON,
        interaction_cls_first=ATTENTION,
        interaction_cls=NON_LINEAR,
        hidden_irreps="3x0e + 3x1o",
        apply_cutoff=False,
        distance_transform="Soft",
        edge_irreps="2x0e + 2x1o",
        use_edge_irreps_first=True,
        use_agnostic_product=True,
        gate="abs",
    ),
    "nonlinear_then_attention": replace(
        _COMMON,
        interaction_cls_first=NON_LINEAR,
        interaction_cls=ATTENTION,
        hidden_irreps="3x0e + 3x1o",
        radial_type="chebyshev",
        num_bessel=2,  # the others grow large
        avg_num_neighbors=10.0,
        keep_last_layer_irreps=True,
        use_last_readout_only=True,
        gate="None",
    ),
    "so3": replace(
        _COMMON,
        hidden_irreps="3x0e + 3x1e",
        max_ell=2,
        apply_cutoff=False,
        use_so3=True,
        model="MACE",
    ),
    "embeddings": replace(
        _COMMON,
        hidden_irreps="3x0e + 3x1o",
        correlation=1,
        use_embedding_readout=True,
        embedding_specs=(
            EmbeddingSpec("total_charge", "categorical", "graph", 2, num_classes=5, offset=2),
            EmbeddingSpec("field", "continuous", "graph", 3, in_dim=2, key="external_field"),
            EmbeddingSpec("spins", "continuous", "atom", 2, use_bias=False),
        ),
    ),
}
DIPOLES = {
    "AtomicDipolesMACE": replace(_COMMON, hidden_irreps="3x0e + 3x1o", MLP_irreps="2x1o"),
    "EnergyDipolesMACE": replace(_COMMON, hidden_irreps="3x0e + 3x1o", MLP_irreps="2x0e + 2x1o"),
    "AtomicDielectricMACE": replace(
        _COMMON, hidden_irreps="3x0e + 3x1o + 3x2e", MLP_irreps="2x0e + 2x1o + 2x2e", max_ell=2
    ),
}
CONFIGS = {
    **PLAIN,
    **OTHER,
    **{name: replace(config, model=name) for name, config in DIPOLES.items()},
}
# As mace-torch has it, these do not fade out where the envelope is part of the radial basis: their
# radial network says something of a basis of zeros, too.
NOT_SMOOTH = ("nonlinear_then_attention",)
HEADS = {"embeddings": ("Default", "other")}


@cache
def compiler_options() -> dict[str, Any]:
    """Options that make compiling, which is most of the tests' time, fast."""

    def accepted(name: str, value: Any) -> bool:
        try:
            jax.jit(lambda x: x + 1, compiler_options={name: value})(0.0)
        except jax.errors.JaxRuntimeError:
            return False
        return True

    wanted = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    return {name: value for name, value in wanted.items() if accepted(name, value)}


@dataclass(frozen=True)
class Network:
    """A random network, and its compiled evaluation."""

    bundle: ModelBundle
    model: MACE | DipoleMACE
    evaluate_batch: Any

    def batch(self, structures: Sequence[Structure], caps: Caps = CAPS) -> GraphBatch:
        builder = graph_builder(self.bundle)
        graphs = [builder.build(structure) for structure in structures]
        return pad_batch(graphs, caps, self.bundle.dtype)

    def evaluate(
        self, structures: Sequence[Structure], caps: Caps = CAPS, **parameters: Any
    ) -> list[SimpleNamespace]:
        """Return what the network says about each structure, by the names in predictions."""
        out = jax.device_get(self.evaluate_batch(self.batch(structures, caps), **parameters))
        ends = np.cumsum([len(structure) for structure in structures])
        result = []
        for index, (end, structure) in enumerate(zip(ends, structures, strict=True)):
            own = slice(end - len(structure), end)
            values = {n: x[own] if "n" in SHAPES[n] else x[index] for n, x in out.items()}
            result.append(SimpleNamespace(**values))
        return result

    def __call__(self, structure: Structure) -> SimpleNamespace:
        (found,) = self.evaluate([structure])
        return found


def random_bundle(
    config: ModelConfig,
    dtype: str = "float64",
    seed: int = 0,
    heads: tuple[str, ...] = ("Default",),
) -> ModelBundle:
    """Return a network in which nothing is 0, 1 or tiny only because training has not begun."""
    scale, shift = (0.83, -0.27) if config.model == "ScaleShiftMACE" else (1.0, 0.0)
    rng = np.random.default_rng(seed)
    numbers = {"scale": [scale] * len(heads), "shift": [shift] * len(heads)}
    model = build_model(config, **numbers, dtype=dtype, rng=rng)
    parameters = model_parameters(model)
    for name, array in parameter_table(split_trainable(model)[1]).items():
        noise = 0.2 * rng.normal(size=array.shape)
        start = 1.5 if name.endswith("/alpha") else array
        parameters[name] = np.asarray(start + noise, dtype)
    energies = {1: -13.6, 6: -1029.4, 8: -2041.8}
    with_energy = heads if predicts_energy(config) else ()
    return ModelBundle(
        config=config,
        dtype=dtype,
        heads=heads,
        atomic_energies=dict.fromkeys(with_energy, energies),
        scale=dict.fromkeys(with_energy, scale),
        shift=dict.fromkeys(with_energy, shift),
        parameters=parameters,
    )


def compiled(bundle: ModelBundle, source: str = "bundle") -> Network:
    """Return the network of ``bundle`` with an evaluation compiled for it."""
    model = load_model(bundle, source)
    with_parameters, own = split_trainable(model)

    @partial(jax.jit, compiler_options=compiler_options())
    def evaluate(parameters: Any, batch: GraphBatch) -> Mapping[str, Array]:
        return properties(with_parameters(parameters), batch)

    def evaluate_batch(batch: GraphBatch, parameters: Any = own) -> Mapping[str, Array]:
        return evaluate(parameters, batch)

    return Network(bundle, model, evaluate_batch)


@cache
def network(name: str) -> Network:
    heads = HEADS.get(name, ("Default",))
    return compiled(random_bundle(CONFIGS[name], heads=heads), name)


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    with jax.enable_x64(True):
        yield
    assert jax.config.jax_enable_x64 == before


@pytest.fixture(scope="session")
def compile_fast() -> dict[str, Any]:
    """Options for ``jax.jit``."""
    return compiler_options()


@pytest.fixture(scope="session")
def make_bundle():
    return random_bundle


@pytest.fixture(scope="session")
def make_network():
    return compiled


@pytest.fixture(scope="session")
def configs() -> dict[str, ModelConfig]:
    return CONFIGS


@pytest.fixture
def network_of(float64):
    """Return a function from the name of a configuration to its network."""
    return network


@pytest.fixture(params=list(PLAIN))
def plain_network(request, float64) -> Network:
    """Every network of the original architecture in turn."""
    return network(request.param)


@pytest.fixture(params=[*PLAIN, *OTHER, "EnergyDipolesMACE"])
def any_network(request, float64) -> Network:
    """Every network with an energy in turn."""
    return network(request.param)


@pytest.fixture(params=[name for name in (*PLAIN, *OTHER) if name not in NOT_SMOOTH])
def smooth_network(request, float64) -> Network:
    """Every network whose messages fade out at the cutoff in turn."""
    return network(request.param)


@pytest.fixture(params=list(DIPOLES))
def dipole_network(request, float64) -> Network:
    """Every network with dipoles in turn."""
    return network(request.param)


@pytest.fixture
def vectors_network(float64) -> Network:
    """Two layers, vectors, products of three factors."""
    return network("vectors")


@pytest.fixture
def scalars_network(float64) -> Network:
    """Two layers that compile fast."""
    return network("two_layers_scalars")


def inputs_of(n: int) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(n)
    return {
        "total_charge": np.array(-1.0),
        "external_field": np.array([0.7, -0.4]),
        "spins": rng.normal(size=n),
        "charges": rng.normal(size=n),
    }


@pytest.fixture(scope="session")
def take() -> Callable[[Structure, Sequence[int]], Structure]:
    """Return a function that takes atoms of a structure, in any order and number."""

    def of(structure: Structure, atoms: Sequence[int]) -> Structure:
        indices = np.asarray(atoms)
        return replace(
            structure,
            positions=structure.positions[indices],
            atomic_numbers=structure.atomic_numbers[indices],
            inputs={
                name: value[indices] if name in ("spins", "charges") else value
                for name, value in structure.inputs.items()
            },
        )

    return of


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
        inputs=inputs_of(5),
    )


@pytest.fixture
def crystal() -> Structure:
    """Triclinic; atoms also see their own images."""
    cell = np.array([[3.1, 0.2, -0.1], [1.0, 3.3, 0.3], [-0.7, 0.9, 3.7]])
    fractions = np.array([[0.05, 0.11, 0.08], [0.46, 0.57, 0.31], [0.27, 0.18, 0.72]])
    pbc = np.array([True, True, True])
    return Structure(np.array([6, 8, 1]), fractions @ cell, cell, pbc, inputs=inputs_of(3))


@pytest.fixture
def slab(crystal) -> Structure:
    cell = np.array([[3.1, 0.2, 0.0], [1.0, 3.3, 0.0], [0.0, 0.0, 12.0]])
    return replace(crystal, cell=cell, pbc=np.array([True, True, False]))


@pytest.fixture
def lone_carbon() -> Structure:
    return Structure(
        np.array([6]),
        np.array([[0.3, -0.2, 0.1]]),
        np.zeros((3, 3)),
        np.zeros(3, dtype=bool),
        inputs=inputs_of(1),
    )


@pytest.fixture(params=["molecule", "crystal"])
def structure(request, molecule, crystal) -> Structure:
    return {"molecule": molecule, "crystal": crystal}[request.param]
