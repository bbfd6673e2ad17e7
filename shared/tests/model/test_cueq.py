"""Backend cueq: the numbers and derivatives of plain jax, in polynomials that kernels accept."""

import sys
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import backend as jax_backend
from numpy.testing import assert_allclose

from mace_jax.architecture import Path
from mace_jax.artifacts.batch_plan import Caps
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.equivariance.irreps import SCALAR, VECTOR, Irrep, Irreps, products
from mace_jax.errors import ConfigError
from mace_jax.model.backend import CUEQ, DENSE
from mace_jax.model.cueq.convolution import convolve_pairs, convolve_slots
from mace_jax.model.cueq.kernels import require_cueq
from mace_jax.model.cueq.symmetric_contraction import contract
from mace_jax.model.interaction import Edges, channelwise_convolution
from mace_jax.model.linear import SpeciesLinear
from mace_jax.model.neighbors import slots_from_pairs
from mace_jax.model.symmetric_contraction import SymmetricContraction

pytest.importorskip("cuequivariance_jax")

PSEUDOSCALAR, PSEUDOVECTOR, PSEUDOTENSOR = Irrep(0, -1), Irrep(1, 1), Irrep(2, -1)


def orders(function, args):
    """Return what gives values, gradients of an energy and gradients of a loss of those."""

    def energy(*args):
        leaves = jax.tree.leaves(function(*args))
        return sum((x**2 + jnp.cos(jnp.arange(x.size)).reshape(x.shape) * x).sum() for x in leaves)

    every = tuple(range(len(args)))
    gradient = jax.grad(energy, every)

    def loss(*args):
        return sum(jnp.sin(x).sum() for x in jax.tree.leaves(gradient(*args)))

    return lambda *args: (function(*args), gradient(*args), jax.grad(loss, every)(*args))


def assert_same(found, expected, args, options):
    results = [
        jax.tree.leaves(jax.jit(orders(function, args), compiler_options=options)(*args))
        for function in (found, expected)
    ]
    for x, y in zip(*results, strict=True):
        scale = max(float(jnp.abs(y).max()), 1e-3)
        assert_allclose(x / scale, y / scale, atol=1e-12)
    assert sum(float(jnp.abs(y).max()) > 0.1 for y in results[1]) > len(results[1]) / 2


def normal(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


@pytest.fixture
def batch(molecule):
    graph = GraphBuilder(1.6, (1, 6, 8), ("Default",), {}).build(molecule)
    padded = pad_batch([graph], Caps.enclosing(n_node=7, n_edge=14, n_graph=2), "float64")
    assert not padded.pair_mask.all()
    assert (padded.table.slot_direction == 0).any()
    return jax.tree.map(jnp.asarray, padded)


def paths_of(sent, max_ell, targets, *, use_so3=False):
    edges = [Irrep(l, 1 if use_so3 else (-1) ** l) for l in range(max_ell + 1)]
    return tuple(
        Path(node, edge, message, channels)
        for message in targets
        for node, channels in sent.items()
        for edge in edges
        if message in products(node, edge)
    )


CONVOLUTIONS = {
    "channels": ("2x0e + 4x1o", paths_of({SCALAR: 2, VECTOR: 4}, 1, [SCALAR, VECTOR])),
    "parities": (
        "2x0o + 2x1e",
        paths_of({PSEUDOSCALAR: 2, PSEUDOVECTOR: 2}, 1, [PSEUDOSCALAR, VECTOR, PSEUDOVECTOR]),
    ),
    "so3": (
        "3x0e + 3x1e",
        paths_of({SCALAR: 3, PSEUDOVECTOR: 3}, 1, [SCALAR, PSEUDOVECTOR], use_so3=True),
    ),
    "absent": ("2x0e", paths_of({SCALAR: 2, VECTOR: 2}, 2, [SCALAR, VECTOR, PSEUDOTENSOR])),
}


def convolution(name, batch, *, by_slot):
    """Return both convolutions as functions of features, harmonics and weights, and arguments."""
    irreps, paths = CONVOLUTIONS[name]
    sent = Irreps.parse(irreps, "sent")
    edges = sorted({path.edge for path in paths})
    splits = np.cumsum([path.channels for path in paths])

    def slots_of(harmonics):
        direction = batch.table.slot_direction[..., None]
        slots = slots_from_pairs(harmonics, batch)
        return {x: slots[..., x.l**2 : (x.l + 1) ** 2] * direction**x.l for x in edges}

    def expected(features, harmonics, weights):
        if not by_slot:
            weights = slots_from_pairs(weights, batch)
        every = Edges(batch, harmonics, slots_of(harmonics), None, None)
        per_path = jnp.split(weights, splits[:-1], axis=-1)
        return channelwise_convolution(features, every, per_path, paths)

    def found(features, harmonics, weights):
        if by_slot:
            return convolve_slots(features, batch, slots_of(harmonics), weights, paths)
        return convolve_pairs(features, batch, harmonics, weights, paths)

    rows = batch.table.slot_pair.shape if by_slot else batch.pair_senders.shape
    n_harmonics = sum(irrep.dim for irrep in edges)
    *features, harmonics, weights = normal(
        0,
        *((len(batch.species), irrep.dim, channels) for irrep, channels in sent.items()),
        (len(batch.pair_senders), n_harmonics),
        (*rows, splits[-1]),
    )
    return found, expected, (dict(zip(sent, features, strict=True)), harmonics, weights)


@pytest.mark.parametrize(
    ("name", "by_slot"),
    [("channels", False), ("absent", False), ("parities", True), ("so3", True)],
)
def test_convolution(name, by_slot, batch, compile_fast):
    assert_same(*convolution(name, batch, by_slot=by_slot), compile_fast)


CONTRACTIONS = {
    "three_factors": ((SCALAR, VECTOR), (SCALAR, VECTOR), 3, 3, False),
    "vanishing": ((SCALAR, VECTOR), (SCALAR, PSEUDOVECTOR), 2, 3, False),
    "reduced": ((SCALAR, VECTOR, Irrep(2, 1)), (SCALAR, PSEUDOTENSOR), 2, 3, True),
    "parities": ((SCALAR, PSEUDOSCALAR, VECTOR, PSEUDOVECTOR), (SCALAR, PSEUDOVECTOR), 2, 3, False),
    "one_factor": ((SCALAR, VECTOR), (VECTOR, SCALAR), 1, 3, False),
    "four_factors_one_element": ((SCALAR, VECTOR), (SCALAR,), 4, 1, False),
}


def applied(layers, *inputs):
    """Return layers of equal weights as functions of features and weights."""
    graphdefs, states = zip(
        *(nnx.split(layer, nnx.Param, ...)[0::2] for layer in layers), strict=True
    )
    weights = nnx.state(layers[0], nnx.Param)

    def function(graphdef, state):
        return lambda x, weights: nnx.merge(graphdef, weights, state)(x, *inputs)

    return *map(function, graphdefs, states), weights


def contraction(name):
    """Return both contractions as functions of features and weights, and arguments."""
    irreps, targets, correlation, n_elements, reduced = CONTRACTIONS[name]
    layers = [
        SymmetricContraction(
            irreps,
            targets,
            correlation=correlation,
            channels=2,
            n_elements=n_elements,
            use_reduced_cg=reduced,
            dtype="float64",
            rng=np.random.default_rng(1),
            backend=backend,
        )
        for backend in (CUEQ, DENSE)
    ]
    found, expected, weights = applied(layers, jnp.array([2, 0, 0, 2]) % n_elements)
    (x,) = normal(2, (4, sum(irrep.dim for irrep in irreps), 2))
    return found, expected, (x, weights)


def test_a_target_without_couplings_is_zero():
    x, weights = jnp.ones((3, 4, 2)), {(SCALAR, 1): jnp.ones((1, 1, 2))}
    species, targets = jnp.zeros(3, int), (PSEUDOVECTOR, SCALAR)
    found = contract(x, species, weights, (SCALAR, VECTOR), targets, reduced=False)
    assert tuple(found) == targets
    assert_allclose(found[SCALAR], 1)
    assert_allclose(found[PSEUDOVECTOR], np.zeros((3, 3, 2)))


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_symmetric_contraction(name, compile_fast):
    assert_same(*contraction(name), compile_fast)


MAPS = {
    "elements_absent": ("4x0e + 3x1o", "3x0e + 2x1o + 2x2e", 5),
    "one_element": ("4x0e + 3x1o", "3x0e + 2x1o", 1),
    "one_channel": ("1x0e + 3x1o", "3x0e + 1x1o", 3),
}


def species_map(name):
    """Return both linear maps as functions of features and weights, and arguments."""
    inputs, outputs, n_elements = MAPS[name]
    sent, received = Irreps.parse(inputs, "inputs"), Irreps.parse(outputs, "outputs")
    layers = [
        SpeciesLinear(
            sent,
            received,
            n_elements,
            dtype="float64",
            rng=np.random.default_rng(1),
            backend=backend,
        )
        for backend in (CUEQ, DENSE)
    ]
    found, expected, weights = applied(layers, jnp.array([2, 0, 3, 2, 0]) % n_elements)
    features = normal(3, *((5, irrep.dim, channels) for irrep, channels in sent.items()))
    return found, expected, (dict(zip(sent, features, strict=True)), weights)


@pytest.mark.parametrize("name", MAPS)
def test_linear_map_by_species(name, compile_fast):
    assert_same(*species_map(name), compile_fast)


@pytest.fixture
def cuda(monkeypatch):
    """Let jax seem to compute with CUDA 12, and cuequivariance's kernels to be there."""
    platform = SimpleNamespace(platform_version="PJRT C API\ncuda 12090")
    monkeypatch.setattr(jax_backend, "get_backend", lambda: platform)
    called = []
    kernels = ModuleType("cuequivariance_ops_jax")
    kernels.__spec__ = SimpleNamespace(name=kernels.__name__)
    kernels.__version__ = "0.13.0"
    kernels.Operation, kernels.Path = (lambda *args: args), (lambda *args: args)

    def uniform_1d(inputs, outputs, *args, **options):
        called.append("uniform_1d")
        return [jnp.zeros(x.shape, x.dtype) for x in outputs]

    def indexed_linear(a, b, output, *args):
        called.append("indexed_linear")
        return jnp.zeros(output.shape, output.dtype)

    kernels.uniform_1d, kernels.indexed_linear = uniform_1d, indexed_linear
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    return called


@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        ("uniform_1d", lambda batch: convolution("channels", batch, by_slot=False)),
        ("uniform_1d", lambda batch: convolution("parities", batch, by_slot=True)),
        ("uniform_1d", lambda batch: contraction("three_factors")),
        ("indexed_linear", lambda batch: species_map("elements_absent")),
    ],
)
def test_cuda_has_kernels_for_every_derivative(kernel, case, batch, cuda):
    """They are chosen when a program is lowered, which needs no GPU."""
    found, _, args = case(batch)
    jax.jit(orders(found, args)).trace(*args).lower(lowering_platforms=("cuda",))
    assert set(cuda) == {kernel}


@pytest.mark.parametrize("name", ["one_element", "one_channel"])
def test_a_length_of_one_has_no_kernel(name, cuda):
    found, _, args = species_map(name)
    jax.jit(orders(found, args)).trace(*args).lower(lowering_platforms=("cuda",))
    assert not cuda


def test_the_method_is_said():
    assert require_cueq() == "naive"


def test_the_method_on_cuda_is_said(cuda):
    assert require_cueq() == "uniform_1d"


def test_a_missing_library_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuequivariance_jax", None)
    with pytest.raises(ConfigError) as error:
        require_cueq()
    assert str(error.value) == (
        'backend cueq: cuequivariance-jax is not installed; pip install "mace-jax-shared[cueq]"'
    )


@pytest.mark.parametrize("version", [12090, 13000])
def test_missing_kernels_are_said(version, cuda, monkeypatch):
    platform = SimpleNamespace(platform_version=f"PJRT C API\ncuda {version}")
    monkeypatch.setattr(jax_backend, "get_backend", lambda: platform)
    monkeypatch.setitem(sys.modules, "cuequivariance_ops_jax", None)
    package = f"cuequivariance-ops-jax-cu{version // 1000}"
    with pytest.raises(ConfigError) as error:
        require_cueq()
    assert str(error.value) == (f"backend cueq: {package} is not installed; pip install {package}")


def test_kernels_that_cannot_be_loaded_are_said(cuda, monkeypatch, tmp_path):
    (tmp_path / "cuequivariance_ops_jax.py").write_text("raise OSError('libcue_ops.so: no file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cuequivariance_ops_jax")
    with pytest.raises(ConfigError, match=r"cannot be loaded: libcue_ops.so: no file; pip install"):
        require_cueq()
