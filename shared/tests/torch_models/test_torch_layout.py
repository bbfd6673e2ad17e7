"""The map between torch's tensors and our arrays, against the network itself."""

from collections import Counter
from typing import get_args

import jax
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mace_jax.architecture import READOUT_IRREPS
from mace_jax.artifacts.model_bundle import EmbeddingSpec, InteractionName, ModelConfig
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.model.load import build_model, model_parameters
from mace_jax.torch_models.torch_layout import Part, Tensor, contractions, torch_layout

BLOCKS = st.sampled_from(get_args(InteractionName))
EXTRAS = ["0o", "1o", "1e", "2e"]


@st.composite
def irreps(draw, channels) -> str:
    """Scalars and more, in any order."""
    extras = draw(st.lists(st.sampled_from(EXTRAS), max_size=2, unique=True))
    order = draw(st.permutations(["0e", *extras]))
    return " + ".join(f"{draw(channels)}x{irrep}" for irrep in order)


@st.composite
def embeddings(draw) -> tuple[EmbeddingSpec, ...]:
    specs = []
    for name in draw(st.lists(st.sampled_from("abc"), max_size=2, unique=True)):
        common = {"per": draw(st.sampled_from(["graph", "atom"])), "emb_dim": draw(sizes)}
        if draw(st.booleans()):
            specs.append(EmbeddingSpec(name, "categorical", num_classes=draw(sizes), **common))
        else:
            rest = {"in_dim": draw(sizes), "use_bias": draw(st.booleans())}
            specs.append(EmbeddingSpec(name, "continuous", **common, **rest))
    return tuple(specs)


sizes = st.integers(1, 3)


@st.composite
def configs(draw) -> ModelConfig:
    model = draw(st.sampled_from(["MACE", "ScaleShiftMACE", *READOUT_IRREPS]))
    n_layers = draw(sizes)
    channels = st.just(draw(sizes))
    correlation = draw(st.one_of(sizes, st.tuples(*[sizes] * n_layers)))
    common = {
        "model": model,
        "r_max": 4.0,
        "num_bessel": draw(st.integers(2, 3)),
        "num_polynomial_cutoff": 5,
        "max_ell": draw(st.integers(0, 2)),
        "num_interactions": n_layers,
        "hidden_irreps": draw(irreps(channels)),
        "MLP_irreps": "2x0e",
        "correlation": correlation,
        "radial_MLP": tuple(draw(st.lists(sizes, max_size=2))),
        "gate": "silu",
        "interaction_cls": draw(BLOCKS),
        "interaction_cls_first": draw(BLOCKS),
        "avg_num_neighbors": 3.0,
        "atomic_numbers": tuple(range(1, 1 + draw(sizes))),
        "radial_type": draw(st.sampled_from(["bessel", "gaussian", "chebyshev"])),
    }
    if model in READOUT_IRREPS:
        hidden = draw(st.sampled_from([READOUT_IRREPS[model], "2x0e", "3x0o"]))
        return ModelConfig(**{**common, "MLP_irreps": str(hidden)})
    settings = (
        *("apply_cutoff", "pair_repulsion", "use_edge_irreps_first", "use_so3"),
        *("use_reduced_cg", "use_agnostic_product", "use_last_readout_only"),
        *("keep_last_layer_irreps", "use_embedding_readout"),
    )
    return ModelConfig(
        **common,
        **{name: draw(st.booleans()) for name in settings},
        distance_transform=draw(st.sampled_from(["None", "Agnesi", "Soft"])),
        readout_cls=draw(st.sampled_from(["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"])),
        edge_irreps=draw(st.one_of(st.none(), irreps(sizes))),
        embedding_specs=draw(embeddings()),
    )


def network_parameters(config: ModelConfig, n_heads: int) -> dict[str, np.ndarray]:
    """The arrays of the network, every number different."""
    ones = [1.0] * n_heads
    with jax.enable_x64(True):
        model = build_model(
            config, scale=ones, shift=ones, dtype="float64", rng=np.random.default_rng(0)
        )
        shapes = {path: array.shape for path, array in model_parameters(model).items()}
    rng = np.random.default_rng(1)
    return {path: rng.normal(size=shape) for path, shape in shapes.items()}


@given(config=configs(), n_heads=sizes, seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_every_array_of_the_network_is_mapped_once_and_comes_back(config, n_heads, seed):
    n_heads = 1 if config.model in READOUT_IRREPS else n_heads
    try:
        parameters = network_parameters(config, n_heads)
    except ConfigError:
        reject()  # there is no such network
    layout = torch_layout(config, n_heads)
    couplings = [contraction.path for contraction in contractions(config)]
    mapped = [part.path for tensor in layout for part in tensor.parts]
    mapped += couplings if config.use_reduced_cg else []
    assert Counter(mapped) == dict.fromkeys(parameters, 1)
    assert len({tensor.name for tensor in layout}) == len(layout)

    n_elements = len(config.atomic_numbers)
    order = np.random.default_rng(seed).permutation(n_elements)  # of the elements in torch
    for tensor in layout:
        theirs = {
            part.path: parameters[part.path]
            if part.element_axis is None
            else parameters[part.path].take(order, axis=part.element_axis)
            for part in tensor.parts
        }
        for part in tensor.parts:
            assert parameters[part.path].shape == part.shape
            assert part.element_axis is None or part.shape[part.element_axis] == n_elements
        back = tensor.split(tensor.join(theirs), np.argsort(order))
        for path, array in back.items():
            np.testing.assert_array_equal(array, parameters[path])


def test_parts_follow_one_another_and_a_dense_layer_is_transposed():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(6.0, 8.0)}
    both = Tensor("both", (Part("a", (2, 3)), Part("b", (2,))))
    np.testing.assert_array_equal(both.join(arrays), np.arange(8.0))
    dense = Tensor("dense", (Part("a", (2, 3)),), transposed=True)
    np.testing.assert_array_equal(dense.join(arrays), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(dense.split(dense.join(arrays), [0])["a"], arrays["a"])


def test_a_tensor_of_another_size_is_refused():
    tensor = Tensor("some.weight", (Part("a", (2, 3)),))
    with pytest.raises(ArtifactError, match=r"some\.weight: 5 numbers, expected 6 from the archi"):
        tensor.split(np.zeros(5), [0])
