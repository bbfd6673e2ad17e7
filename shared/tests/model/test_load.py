from dataclasses import replace

import jax
import numpy as np
import pytest

from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.errors import ArtifactError, MaceJaxError
from mace_jax.model.load import load_model, model_parameters

NAME = "interactions/0/linear/weights/0e"


@pytest.fixture
def bundle(make_bundle, configs):
    return make_bundle(configs["two_layers_scalars"])


def with_parameter(bundle, name, array):
    return replace(bundle, parameters={**bundle.parameters, name: array})


def test_bundle_to_model_to_bundle_is_the_identity(make_bundle, configs):
    bundle = make_bundle(configs["two_layers_scalars"], seed=7)
    back = model_parameters(load_model(bundle, "bundle"))
    assert back.keys() == bundle.parameters.keys()
    for name, array in bundle.parameters.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


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
