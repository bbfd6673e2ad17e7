import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.equivariance.irreps import SCALAR, VECTOR, Irrep, Irreps
from mace_jax.model.linear import EquivariantLinear, SpeciesEmbedding, SpeciesLinear

TENSOR = Irrep(2, 1)


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return {
        irrep: jnp.asarray(rng.normal(size=(5, irrep.dim, 3))) for irrep in (SCALAR, VECTOR, TENSOR)
    }


def test_linear_mixes_channels_of_the_irreps_it_has(features):
    layer = EquivariantLinear(
        Irreps.parse("3x2e + 3x1o + 3x0e", "inputs"),
        Irreps.parse("4x0e + 2x1o + 5x1e", "outputs"),
        dtype="float64",
        rng=np.random.default_rng(0),
    )
    found = layer(features)
    assert {irrep: x.shape[-1] for irrep, x in found.items()} == {SCALAR: 4, VECTOR: 2}
    for irrep, x in found.items():
        weight = np.asarray(layer.weights[str(irrep)][...])
        assert_allclose(x, features[irrep] @ weight / 3**0.5, rtol=1e-12)


def test_bias_of_scalars(features):
    outputs = Irreps.parse("2x0e + 2x1o", "outputs")
    inputs = Irreps.parse("3x0e + 3x1o", "inputs")
    options = {"dtype": "float64", "rng": np.random.default_rng(0)}
    layer = EquivariantLinear(inputs, outputs, use_bias=True, **options)
    plain = layer(features)
    layer.bias[...] = jnp.asarray([1.5, -2.0])
    found = layer(features)
    assert_allclose(found[SCALAR] - plain[SCALAR], np.broadcast_to([1.5, -2.0], (5, 1, 2)))
    assert_allclose(found[VECTOR], plain[VECTOR], rtol=0)


def test_linear_keeps_the_size_of_features():
    inputs, outputs = Irreps([(SCALAR, 400)]), Irreps([(SCALAR, 300)])
    layer = EquivariantLinear(inputs, outputs, dtype="float64", rng=np.random.default_rng(0))
    x = np.random.default_rng(0).normal(size=(50, 1, 400))
    assert np.square(layer({SCALAR: jnp.asarray(x)})[SCALAR]).mean() == pytest.approx(1, rel=0.05)


def test_species_linear_takes_the_element_s_matrix(features):
    species = jnp.asarray([2, 0, 1, 1, 2])
    layer = SpeciesLinear(
        Irreps.parse("3x0e + 3x1o", "inputs"),
        Irreps.parse("4x1o + 2x1e", "outputs"),
        3,
        dtype="float64",
        rng=np.random.default_rng(0),
    )
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
