from dataclasses import replace

import jax
import numpy as np
import pytest

from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.errors import ArtifactError, MaceJaxError
from mace_jax.model.load import (
    build_model,
    load_model,
    model_parameters,
    parameter_table,
    split_trainable,
)
from mace_jax.model.mace import MACE, DipoleMACE

NAME = "interactions/0/linear/weights/0e"


@pytest.fixture
def bundle(make_bundle, configs):
    return make_bundle(configs["two_layers_scalars"])


def with_parameter(bundle, name, array):
    return replace(bundle, parameters={**bundle.parameters, name: array})


@pytest.mark.parametrize(
    "name", ["two_layers_scalars", "density", "embeddings", "AtomicDielectricMACE"]
)
def test_bundle_to_model_to_bundle_is_the_identity(make_bundle, configs, name):
    bundle = make_bundle(configs[name], seed=7)
    back = model_parameters(load_model(bundle, "bundle"))
    assert back.keys() == bundle.parameters.keys()
    for path, array in bundle.parameters.items():
        assert back[path].dtype == array.dtype
        np.testing.assert_array_equal(back[path], array)


def test_through_a_file(tmp_path, bundle):
    path = tmp_path / "model.msgpack"
    write_model_bundle(path, bundle, make_provenance("mace-jax-train", []))
    read = read_model_bundle(path)
    assert read.config == bundle.config
    assert (read.scale, read.shift, read.heads) == (bundle.scale, bundle.shift, bundle.heads)
    assert read.atomic_energies == bundle.atomic_energies
    back = model_parameters(load_model(read, str(path)))
    for name, array in bundle.parameters.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_missing_parameter_is_named(bundle):
    parameters = {name: array for name, array in bundle.parameters.items() if name != NAME}
    with pytest.raises(ArtifactError, match=f"^file: arrays/{NAME}: missing; "):
        load_model(replace(bundle, parameters=parameters), "file")


def test_an_extra_parameter_is_named(bundle):
    with pytest.raises(ArtifactError, match=r"^file: arrays/readouts/9/linear: not part of this"):
        load_model(with_parameter(bundle, "readouts/9/linear", np.zeros(3)), "file")


def test_a_wrong_shape_is_named(bundle):
    wrong = bundle.parameters[NAME][:, :-1]
    with pytest.raises(
        ArtifactError,
        match=rf"^file: arrays/{NAME}: float64 \(\d+, 3\), expected float64 \(\d+, 4\)",
    ):
        load_model(with_parameter(bundle, NAME, wrong), "file")


def test_a_wrong_dtype_is_named(bundle):
    wrong = bundle.parameters[NAME].astype(np.float32)
    with pytest.raises(ArtifactError, match=f"^file: arrays/{NAME}: float32 .*, expected float64"):
        load_model(with_parameter(bundle, NAME, wrong), "file")


@pytest.mark.filterwarnings("ignore:.*float64.*:UserWarning")
def test_a_float64_bundle_is_never_rounded_silently(bundle):
    with jax.enable_x64(False), pytest.raises(MaceJaxError, match="float64"):
        load_model(bundle, "file")


CONSTANTS = {
    "two_layers_scalars": {"radial_embedding/bessel_fn/bessel_weights"},
    "nonlinear_then_attention": set(),
    "density": {
        "radial_embedding/bessel_fn/gaussian_weights",
        *(f"radial_embedding/distance_transform/{name}" for name in ("q", "p", "a")),
        "radial_embedding/distance_transform/covalent_radii",
        *(f"pair_repulsion_fn/{name}" for name in ("c", "a_exp", "a_prefactor", "covalent_radii")),
        "products/0/symmetric_contractions/couplings/0e/1",
        "products/0/symmetric_contractions/couplings/1o/1",
        *(f"products/1/symmetric_contractions/couplings/0e/{degree}" for degree in (1, 2, 3)),
    },
    "AtomicDielectricMACE": {"radial_embedding/bessel_fn/bessel_weights", "change_of_basis"},
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_are_kept_but_not_trained(make_bundle, configs, name):
    bundle = make_bundle(configs[name])
    network, parameters = split_trainable(load_model(bundle, "bundle"))
    trained = parameter_table(parameters)
    assert bundle.parameters.keys() - trained.keys() == CONSTANTS[name]
    doubled = jax.tree.map(lambda x: 2 * x, parameters)
    for path, array in model_parameters(network(doubled)).items():
        factor = 2 if path in trained else 1
        np.testing.assert_array_equal(array, factor * bundle.parameters[path])


def test_a_constant_of_a_bundle_is_what_the_network_uses(
    make_bundle, make_network, configs, molecule
):
    """Frequencies that were trained elsewhere, for instance."""
    bundle = make_bundle(configs["one_layer_scalars"])
    name = "radial_embedding/bessel_fn/bessel_weights"
    other = with_parameter(bundle, name, 1.1 * bundle.parameters[name])
    before, after = (make_network(b)(molecule).energy for b in (bundle, other))
    assert abs(after - before) > 1e-3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("two_layers_scalars", MACE),
        ("so3", MACE),
        ("AtomicDipolesMACE", DipoleMACE),
        ("EnergyDipolesMACE", DipoleMACE),
        ("AtomicDielectricMACE", DipoleMACE),
    ],
)
def test_the_class_that_the_configuration_names(configs, name, kind):
    rng = np.random.default_rng(0)
    model = build_model(configs[name], scale=[1.0], shift=[0.0], dtype="float64", rng=rng)
    assert type(model) is kind


@pytest.mark.parametrize("name", ["density", "embeddings", "AtomicDielectricMACE"])
def test_arrays_have_the_dtype_of_the_bundle(make_bundle, configs, name):
    bundle = make_bundle(configs[name], dtype="float32")
    assert {array.dtype for array in bundle.parameters.values()} == {np.dtype("float32")}
    loaded = load_model(make_bundle(configs[name]).astype("float32"), "bundle")
    assert {array.dtype for array in model_parameters(loaded).values()} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correlation": (2, 2, 2)}, r"correlation: \[2, 2, 2\], expected 2 numbers"),
        ({"correlation": (2,)}, r"correlation: \[2\], expected 2 numbers"),
        ({"hidden_irreps": "4x0e + 2x1o"}, "hidden_irreps: .*the same number of channels"),
        ({"edge_irreps": "4x"}, "edge_irreps: '4x', expected each irrep once"),
        ({"MLP_irreps": "many"}, "MLP_irreps: 'many', expected each irrep once"),
        ({"radial_type": "gaussian", "num_bessel": 1}, "num_bessel: 1, expected at least 2"),
        ({"MLP_irreps": "4x1o"}, "MLP_irreps: 4x1o, expected scalars"),
        ({"atomic_numbers": (8, 1, 6)}, r"atomic_numbers: \[8, 1, 6\], expected ascending"),
    ],
    ids=str,
)
def test_a_bundle_of_an_impossible_network_is_refused(tmp_path, bundle, changes, message):
    """The file is sound, and its digest is right."""
    path = tmp_path / "model.msgpack"
    impossible = replace(bundle, config=replace(bundle.config, **changes))
    write_model_bundle(path, impossible, make_provenance("mace-jax-train", []))
    with pytest.raises(ArtifactError, match=rf"model\.msgpack: header/model/{message}"):
        load_model(read_model_bundle(path), str(path))


@pytest.mark.parametrize("name", ["scale", "shift", "atomic_energies"])
@pytest.mark.parametrize("heads", [(), ("other",), ("Default", "other")])
def test_every_head_has_what_it_needs(bundle, name, heads):
    value = getattr(bundle, name)["Default"]
    wrong = replace(bundle, **{name: dict.fromkeys(heads, value)})
    with pytest.raises(ArtifactError, match=rf"^file: header/{name}: of heads .*\['Default'\]"):
        load_model(wrong, "file")


def test_a_model_without_energies_has_no_scale(make_bundle, configs):
    bundle = make_bundle(configs["AtomicDipolesMACE"])
    assert bundle.scale == bundle.shift == bundle.atomic_energies == {}
    with pytest.raises(ArtifactError, match=r"^file: header/scale: .*expected \[\]"):
        load_model(replace(bundle, scale={"Default": 1.0}), "file")


@pytest.mark.parametrize(
    "changes",
    [
        {"use_reduced_cg": True},
        {"pair_repulsion": True},
        {"use_agnostic_product": True},
        {"use_last_readout_only": True},
        {"readout_cls": "NonLinearBiasReadoutBlock"},
        {"radial_type": "chebyshev"},
        {"distance_transform": "Soft"},
        {"edge_irreps": "2x0e"},
        {"interaction_cls": "RealAgnosticDensityResidualInteractionBlock"},
        {"correlation": (2, 1)},
        {"num_interactions": 1},
        {"max_ell": 3},
    ],
    ids=str,
)
def test_arrays_of_another_architecture_are_refused(bundle, changes):
    with pytest.raises(
        ArtifactError, match=r"^file: arrays/\S+: .*bundle and configuration disagree"
    ):
        load_model(replace(bundle, config=replace(bundle.config, **changes)), "file")
