import dataclasses
import tempfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mace_jax.artifacts.model_bundle import (
    EmbeddingSpec,
    ModelBundle,
    ModelConfig,
    model_bundle_input,
    read_model_bundle,
    write_model_bundle,
)
from mace_jax.errors import ArtifactError, ConfigError

PROVENANCE = {"tool": "t", "tool_version": "0", "command": [], "seed": None, "inputs": []}
BLOCK = "RealAgnosticResidualInteractionBlock"
CONFIG = ModelConfig(
    model="ScaleShiftMACE",
    r_max=5.0,
    num_bessel=8,
    num_polynomial_cutoff=5,
    max_ell=3,
    num_interactions=2,
    hidden_irreps="4x0e + 4x1o",
    MLP_irreps="16x0e",
    correlation=3,
    radial_MLP=(8, 8),
    gate="silu",
    interaction_cls=BLOCK,
    interaction_cls_first=BLOCK,
    avg_num_neighbors=12.5,
    atomic_numbers=(1, 8),
)
BUNDLE = ModelBundle(
    config=CONFIG,
    dtype="float64",
    heads=("pbe", "r2scan"),
    atomic_energies={"pbe": {1: -13.587222780835477, 8: -432.25}, "r2scan": {1: -1.0, 8: -2.0}},
    scale={"pbe": 0.8, "r2scan": 0.9},
    shift={"pbe": 0.1, "r2scan": 0.0},
    parameters={
        "embedding/w": np.arange(6.0).reshape(2, 3) / 7,
        "radial/b": np.arange(4, dtype=np.float32),
        "index": np.array([3, 1, 2], dtype=np.int32),
    },
    license="MIT",
    model_card={"data": "made up"},
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.msgpack"
    write_model_bundle(path, BUNDLE, PROVENANCE)
    return path


def assert_equal(found, expected):
    for field in dataclasses.fields(ModelBundle):
        if field.name != "parameters":
            assert getattr(found, field.name) == getattr(expected, field.name)
    assert found.parameters.keys() == expected.parameters.keys()
    for name, array in expected.parameters.items():
        assert found.parameters[name].dtype == array.dtype
        assert found.parameters[name].shape == array.shape
        np.testing.assert_array_equal(found.parameters[name], array)


def test_round_trip(path):
    assert_equal(read_model_bundle(path), BUNDLE)


blocks = st.sampled_from(
    [
        "RealAgnosticInteractionBlock",
        "RealAgnosticResidualInteractionBlock",
        "RealAgnosticDensityInteractionBlock",
        "RealAgnosticDensityResidualInteractionBlock",
        "RealAgnosticAttResidualInteractionBlock",
        "RealAgnosticResidualNonLinearInteractionBlock",
    ]
)
small, positive = st.integers(1, 9), st.floats(1e-3, 1e3)
texts, numbers = st.text(min_size=1, max_size=9), st.floats(allow_nan=False, allow_infinity=False)
specs = st.builds(
    EmbeddingSpec,
    name=texts,
    type=st.sampled_from(["categorical", "continuous"]),
    per=st.sampled_from(["graph", "atom"]),
    emb_dim=small,
    in_dim=small,
    num_classes=st.integers(0, 9),
    offset=st.integers(-5, 5),
    use_bias=st.booleans(),
    key=st.none() | texts,
)
models = ["MACE", "ScaleShiftMACE"]
dipole_models = ["AtomicDipolesMACE", "EnergyDipolesMACE", "AtomicDielectricMACE"]
configs = st.builds(
    ModelConfig,
    model=st.sampled_from(models + dipole_models),
    r_max=positive,
    num_bessel=small,
    num_polynomial_cutoff=small,
    max_ell=st.integers(0, 5),
    num_interactions=small,
    hidden_irreps=texts,
    MLP_irreps=texts,
    correlation=small | st.lists(small, min_size=1, max_size=4).map(tuple),
    radial_MLP=st.lists(small, max_size=4).map(tuple),
    gate=st.sampled_from(["silu", "tanh", "abs", "None"]),
    interaction_cls=blocks,
    interaction_cls_first=blocks,
    avg_num_neighbors=positive,
    atomic_numbers=st.sets(st.integers(1, 118), min_size=1).map(lambda z: tuple(sorted(z))),
    radial_type=st.sampled_from(["bessel", "gaussian", "chebyshev"]),
    distance_transform=st.sampled_from(["None", "Agnesi", "Soft"]),
    readout_cls=st.sampled_from(["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"]),
    edge_irreps=st.none() | texts,
    embedding_specs=st.lists(specs, max_size=3).map(tuple),
    **dict.fromkeys(
        (
            *("apply_cutoff", "pair_repulsion", "use_edge_irreps_first", "use_so3"),
            *("use_reduced_cg", "use_agnostic_product", "use_last_readout_only"),
            *("keep_last_layer_irreps", "use_embedding_readout"),
        ),
        st.booleans(),
    ),
)


@settings(max_examples=100, deadline=None)
@given(configs, st.lists(texts, min_size=1, max_size=3, unique=True), st.data())
def test_any_configuration_survives(config, heads, data):
    by_head = {head: data.draw(numbers) for head in heads}
    energy = config.model in models
    bundle = dataclasses.replace(
        BUNDLE,
        config=config,
        heads=tuple(heads),
        atomic_energies={h: dict.fromkeys(config.atomic_numbers, e) for h, e in by_head.items()},
        scale=by_head if energy else {},
        shift=by_head if energy else {},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.msgpack"
        write_model_bundle(path, bundle, PROVENANCE)
        assert_equal(read_model_bundle(path), bundle)


STRUCTURE = {
    "name": "water",
    "head": "pbe",
    "atomic_numbers": [8, 1, 1],
    "positions": [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]],
    "cell": [[0.0] * 3] * 3,
    "pbc": [False] * 3,
    "inputs": {"total_charge": 0.0},
    "quantities": {"energy": -14.25, "forces": [[0.0] * 3] * 3},
}
PARITY = {
    "reference": "mace-torch 0.3.16",
    "dtype": "float64",
    "tolerance": 1e-9,
    "errors": {"energy": 0.0, "forces": 2.5e-13},
    "structures": [STRUCTURE],
}


def test_how_it_was_compared_survives(tmp_path):
    path = tmp_path / "model.msgpack"
    bundle = dataclasses.replace(BUNDLE, parity=PARITY)
    write_model_bundle(path, bundle, PROVENANCE)
    assert_equal(read_model_bundle(path), bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"errors": {"energy": -1.0}},
        {"errors": {"energy": "small"}},
        {"tolerance": 0},
        {"dtype": "float16"},
        {"structures": [{**STRUCTURE, "positions": [[0.0, 0.0]]}]},
        {"structures": [{**STRUCTURE, "atomic_numbers": [0]}]},
        {"structures": [{}]},
        {"extra": 1},
    ],
    ids=str,
)
def test_another_form_of_comparison_is_not_written(tmp_path, change):
    path = tmp_path / "model.msgpack"
    with pytest.raises(ArtifactError, match="at /parity"):
        write_model_bundle(
            path, dataclasses.replace(BUNDLE, parity={**PARITY, **change}), PROVENANCE
        )
    assert not path.exists()


def test_in_another_dtype():
    bundle = dataclasses.replace(BUNDLE, parameters={"w": np.array([1 / 3, 1e300])})
    with np.errstate(over="ignore"):
        narrow = bundle.astype("float32")
    assert narrow.dtype == "float32"
    assert narrow.parameters["w"].dtype == np.float32
    assert narrow.parameters["w"][0] == np.float32(1 / 3)
    assert bundle.dtype == "float64"
    assert bundle.parameters["w"].dtype == np.float64


def test_one_correlation_for_all_layers_or_one_for_each():
    assert CONFIG.correlations() == (3, 3)
    assert dataclasses.replace(CONFIG, correlation=(1, 4)).correlations() == (1, 4)
    with pytest.raises(ConfigError, match=r"^correlation: \[1\], expected 2 numbers"):
        dataclasses.replace(CONFIG, correlation=(1,)).correlations()


dtypes = st.sampled_from(["<f4", "<f8", "<i4", "<i8"])
any_array = arrays(dtypes, array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=9), any_array, max_size=4))
def test_any_arrays_survive(parameters):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.msgpack"
        bundle = dataclasses.replace(BUNDLE, parameters=parameters)
        write_model_bundle(path, bundle, PROVENANCE)
        assert_equal(read_model_bundle(path), bundle)


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.arange(6.0)[::2]])
def test_arrays_are_stored_in_c_order_without_gaps(tmp_path, array):
    path = tmp_path / "model.msgpack"
    parameters = {"w": array, "big-endian": array.astype(">f8")}
    write_model_bundle(path, dataclasses.replace(BUNDLE, parameters=parameters), PROVENANCE)
    for entry in msgpack.unpackb(path.read_bytes())["arrays"].values():
        assert entry["dtype"] == "<f8"
        assert entry["bytes"] == np.ascontiguousarray(array).tobytes()
    for found in read_model_bundle(path).parameters.values():
        np.testing.assert_array_equal(found, array)


def test_equal_content_gives_equal_bytes_whatever_the_order_of_parameters(tmp_path, path):
    reordered = dict(reversed(BUNDLE.parameters.items()))
    again = tmp_path / "again.msgpack"
    write_model_bundle(again, dataclasses.replace(BUNDLE, parameters=reordered), PROVENANCE)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", ["f2", "bool", "c8", "u4", "O"])
def test_what_could_not_be_read_back_is_not_written(tmp_path, dtype):
    path = tmp_path / "model.msgpack"
    bundle = dataclasses.replace(BUNDLE, parameters={"w": np.zeros(2, dtype=dtype)})
    with pytest.raises(Exception):  # noqa: B017, PT011 - a caller's mistake, of whatever type
        write_model_bundle(path, bundle, PROVENANCE)
    assert not path.exists()


# --- hostile files


def edit(path, change):
    document = msgpack.unpackb(path.read_bytes())
    change(document)
    path.write_bytes(msgpack.packb(document))


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in [*range(0, len(content), 47), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"model\.msgpack: "):
            read_model_bundle(path)


def test_bytes_after_the_end_are_refused(path):
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(ArtifactError, match="not a complete msgpack file"):
        read_model_bundle(path)


@pytest.mark.parametrize("name", sorted(BUNDLE.parameters))
def test_a_flipped_byte_in_an_array_is_refused(path, name):
    def flip(document):
        content = document["arrays"][name]["bytes"]
        document["arrays"][name]["bytes"] = content[:-1] + bytes([content[-1] ^ 1])

    edit(path, flip)
    with pytest.raises(ArtifactError, match="content_sha256 differs"):
        read_model_bundle(path)


def test_a_flipped_byte_anywhere_is_refused_or_harmless(path):
    """The header has no digest of its own, but no flip may end in a crash."""
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        for flip in (0xFF, 0x20):
            damaged = bytearray(content)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            try:
                read_model_bundle(path)
            except ArtifactError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["w", "embedding/w"])
def test_an_array_that_is_renamed_or_missing_is_refused(path, name):
    def rename(document):
        array = document["arrays"].pop("embedding/w")
        if name == "w":
            document["arrays"][name] = array

    edit(path, rename)
    with pytest.raises(ArtifactError, match="content_sha256 differs"):
        read_model_bundle(path)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**62, 2**62]},
        {"shape": [0, 2**62]},
        {"shape": [0, 2**80 // 2**18]},
        {"shape": [1] * 100 + [2, 3]},
        {"shape": [-2, -3]},
        {"shape": [2.0, 3]},
        {"shape": ["2", "3"]},
        {"shape": [6, 2]},
        {"shape": []},
        {"shape": None},
        {"dtype": "<f2"},
        {"dtype": "|O"},
        {"dtype": ">f8"},
        {"dtype": "float64"},
        {"dtype": None},
        {"dtype": ["<f8"]},
        {"bytes": b""},
        {"bytes": "text"},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_wrong_array_entry_is_refused(path, change):
    edit(path, lambda document: document["arrays"]["embedding/w"].update(change))
    with pytest.raises(ArtifactError, match=r"model\.msgpack: arrays"):
        read_model_bundle(path)


@pytest.mark.parametrize("shape", [[0, 2**62], [1] * 100 + [0]])
def test_an_empty_array_of_impossible_shape_is_refused(path, shape):
    def change(document):
        document["arrays"] = {"w": {"dtype": "<f8", "shape": shape, "bytes": b""}}

    edit(path, change)
    with pytest.raises(ArtifactError, match=r"model\.msgpack: arrays"):
        read_model_bundle(path)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("not a map of header and arrays", {"extra": 1}),
        ("not a map of header and arrays", {"arrays": []}),
        ("header: has no schema tag", {"header": []}),
        ("not a complete msgpack file|not a map", {1: 2}),
    ],
)
def test_another_top_level_is_refused(path, message, change):
    edit(path, lambda document: document.update(change))
    with pytest.raises(ArtifactError, match=message):
        read_model_bundle(path)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("model_bundle version 3, .*upgrade", {"schema": {"kind": "model_bundle", "version": 3}}),
        ("kind 'dataset'", {"schema": {"kind": "dataset", "version": 1}}),
        ("header: at /: .*extra", {"extra": 1}),
        ("at /dtype", {"dtype": "float16"}),
        ("at /heads", {"heads": []}),
        ("at /units", {"units": {"energy": "kcal/mol"}}),
        ("at /atomic_energies/pbe", {"atomic_energies": {"pbe": {"H": -13.6}}}),
        ("at /content_sha256", {"content_sha256": "00"}),
        ("at /model", {"model": {}}),
    ],
)
def test_a_wrong_header_is_refused_with_its_place(path, message, change):
    edit(path, lambda document: document["header"].update(change))
    with pytest.raises(ArtifactError, match=rf"model\.msgpack: header: .*{message}|{message}"):
        read_model_bundle(path)


SPEC = dataclasses.asdict(EmbeddingSpec("total_charge", "categorical", "graph", 4, num_classes=3))


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("model", {"model": "BOTNet"}),
        ("interaction_cls", {"interaction_cls": "RealAgnosticAttInteractionBlock"}),
        ("interaction_cls_first", {"interaction_cls_first": None}),
        ("readout_cls", {"readout_cls": "LinearReadoutBlock"}),
        ("radial_type", {"radial_type": "fourier"}),
        ("distance_transform", {"distance_transform": None}),
        ("gate", {"gate": "relu"}),
        ("correlation", {"correlation": []}),
        ("correlation/0", {"correlation": [0, 1]}),
        ("correlation", {"correlation": "3"}),
        ("edge_irreps", {"edge_irreps": ["2x0e"]}),
        ("use_so3", {"use_so3": "yes"}),
        ("apply_cutoff", {"apply_cutoff": 1}),
        ("", {"unknown": True}),
        ("embedding_specs", {"embedding_specs": {}}),
        ("embedding_specs/0", {"embedding_specs": [{"name": "total_charge"}]}),
        ("embedding_specs/1", {"embedding_specs": [SPEC, {**SPEC, "extra": 1}]}),
        ("embedding_specs/0/type", {"embedding_specs": [{**SPEC, "type": "fourier"}]}),
        ("embedding_specs/0/per", {"embedding_specs": [{**SPEC, "per": "edge"}]}),
        ("embedding_specs/0/name", {"embedding_specs": [{**SPEC, "name": ""}]}),
        ("embedding_specs/0/emb_dim", {"embedding_specs": [{**SPEC, "emb_dim": 0}]}),
        ("embedding_specs/0/num_classes", {"embedding_specs": [{**SPEC, "num_classes": -1}]}),
    ],
    ids=str,
)
def test_an_unknown_architecture_is_refused_with_its_place(path, place, change):
    edit(path, lambda document: document["header"]["model"].update(change))
    pointer = f"at /model{'/' if place else ''}{place}: "
    with pytest.raises(ArtifactError, match=rf"model\.msgpack: header: {pointer}"):
        read_model_bundle(path)


@pytest.mark.parametrize("name", ["embedding_specs", "use_so3", "correlation"])
def test_an_architecture_is_complete(path, name):
    edit(path, lambda document: document["header"]["model"].pop(name))
    with pytest.raises(ArtifactError, match=f"'{name}' is a required property"):
        read_model_bundle(path)


@pytest.mark.parametrize("change", [{b"bytes": 1}, {"atomic_energies": {"pbe": {b"1": -13.6}}}])
def test_keys_that_are_not_text_are_refused(path, change):
    edit(path, lambda document: document["header"].update(change))
    with pytest.raises(ArtifactError):
        read_model_bundle(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.msgpack"
        path.write_bytes(content)
        with pytest.raises(ArtifactError):
            read_model_bundle(path)


def test_a_pickle_is_refused_and_never_run(path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('the pickle was run')",))

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError):
        read_model_bundle(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_model_bundle(tmp_path / "absent.msgpack")


def test_as_an_input(path):
    assert model_bundle_input(path).to_json()["kind"] == "model_bundle"
