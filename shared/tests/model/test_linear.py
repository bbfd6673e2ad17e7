import e3nn_jax as e3nn
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.errors import ConfigError
from mace_jax.model.irreps import hidden_channels, parse_irreps
from mace_jax.model.linear import EquivariantLinear, SpeciesEmbedding, SpeciesLinear

SCALAR, VECTOR, TENSOR = e3nn.Irrep("0e"), e3nn.Irrep("1o"), e3nn.Irrep("2e")


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return {
        irrep: jnp.asarray(rng.normal(size=(5, irrep.dim, 3))) for irrep in (SCALAR, VECTOR, TENSOR)
    }


def test_linear_mixes_channels_of_the_irreps_it_has(features):
    layer = EquivariantLinear(
        {SCALAR: (3, 4), VECTOR: (3, 2)}, dtype="float64", rng=np.random.default_rng(0)
    )
    found = layer(features)
    assert set(found) == {SCALAR, VECTOR}
    for irrep, x in found.items():
        weight = np.asarray(layer.weights[str(irrep)][...])
        assert_allclose(x, features[irrep] @ weight / 3**0.5, rtol=1e-12)


def test_linear_keeps_the_size_of_features():
    layer = EquivariantLinear({SCALAR: (400, 300)}, dtype="float64", rng=np.random.default_rng(0))
    x = np.random.default_rng(0).normal(size=(50, 1, 400))
    assert np.square(layer({SCALAR: jnp.asarray(x)})[SCALAR]).mean() == pytest.approx(1, rel=0.05)


def test_species_linear_takes_the_element_s_matrix(features):
    species = jnp.asarray([2, 0, 1, 1, 2])
    layer = SpeciesLinear({VECTOR: (3, 4)}, 3, dtype="float64", rng=np.random.default_rng(0))
    found = layer(features, species)
    assert set(found) == {VECTOR}
    weight = np.asarray(layer.weights["1o"][...])
    for node, element in enumerate(species):
        expected = features[VECTOR][node] @ weight[:, element] / 9**0.5
        assert_allclose(found[VECTOR][node], expected, rtol=1e-12)


def test_species_embedding():
    layer = SpeciesEmbedding(4, 3, dtype="float64", rng=np.random.default_rng(0))
    found = layer(jnp.asarray([3, 0]))
    assert found.shape == (2, 1, 3)
    assert_allclose(found[:, 0], np.asarray(layer.weight[...])[[3, 0]] / 2, rtol=1e-12)


@pytest.mark.parametrize("text", ["banana", "", "4x0e + 4x1o + 4x0e", "4x0x"])
def test_irreps_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match=r"^hidden_irreps: .*such as '32x0e"):
        parse_irreps(text, "hidden_irreps")


@pytest.mark.parametrize("text", ["4x1o", "4x0e + 8x1o", "4x0o"])
def test_hidden_irreps_share_their_channels_and_have_scalars(text):
    with pytest.raises(ConfigError, match="same number of channels"):
        hidden_channels(parse_irreps(text, "hidden_irreps"))


def test_repeated_neighbours_are_joined():
    assert hidden_channels(parse_irreps("4x0e + 4x0e", "hidden_irreps")) == 8
