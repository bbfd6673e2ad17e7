import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from mace_jax.architecture import gate_input
from mace_jax.equivariance.irreps import SCALAR, VECTOR, Irrep, Irreps
from mace_jax.model.activation import normalized_activation
from mace_jax.model.gate import gated

TENSOR = Irrep(2, 1)
IRREPS = Irreps.parse("2x0e + 3x1o + 1x2e", "irreps")


def random_features():
    rng = np.random.default_rng(0)
    shapes = {irrep: (5, irrep.dim, n) for irrep, n in gate_input(IRREPS).items()}
    return {irrep: jnp.asarray(rng.normal(size=shape)) for irrep, shape in shapes.items()}


def test_one_scalar_more_for_each_channel_that_is_none():
    assert str(gate_input(IRREPS)) == "6x0e + 3x1o + 1x2e"
    assert str(gate_input(Irreps.parse("2x1o + 1x0e", "irreps"))) == "3x0e + 2x1o"
    assert str(gate_input(Irreps.parse("2x1o", "irreps"))) == "2x0e + 2x1o"
    assert str(gate_input(Irreps.parse("4x0e", "irreps"))) == "4x0e"


def test_scalars_are_activated_and_the_rest_is_multiplied():
    features = random_features()
    found = gated(features, IRREPS, "silu", "sigmoid")
    scalars, gates = features[SCALAR][..., :2], features[SCALAR][..., 2:]
    assert list(found) == list(IRREPS)
    assert_allclose(found[SCALAR], 1.6791767923989418 * jax.nn.silu(scalars), rtol=1e-12)
    factors = 1.8467055342154763 * np.asarray(jax.nn.sigmoid(gates))
    assert_allclose(found[VECTOR], features[VECTOR] * factors[..., :3], rtol=1e-12)
    assert_allclose(found[TENSOR], features[TENSOR] * factors[..., 3:], rtol=1e-12)


def test_without_scalars_of_its_own():
    vectors = Irreps.parse("3x1o", "irreps")
    features = {irrep: x[..., :3] for irrep, x in random_features().items()}
    found = gated(features, vectors, "silu", "tanh")
    gates = normalized_activation("tanh")(features[SCALAR])
    assert list(found) == [VECTOR]
    assert_allclose(found[VECTOR], features[VECTOR] * gates, rtol=1e-12)
