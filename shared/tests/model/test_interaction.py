"""What single options of the interaction blocks and products do."""

from dataclasses import replace
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.architecture import Path
from mace_jax.artifacts.model_bundle import InteractionName
from mace_jax.equivariance.irreps import SCALAR, VECTOR, Irrep
from mace_jax.equivariance.wigner_3j import wigner_3j
from mace_jax.errors import ConfigError
from mace_jax.model.interaction import INTERACTION_BLOCKS, Edges, channelwise_convolution

TENSOR = Irrep(2, 1)
PATHS = (
    Path(SCALAR, VECTOR, VECTOR, 2),
    Path(VECTOR, VECTOR, TENSOR, 3),
    Path(VECTOR, VECTOR, SCALAR, 3),
)


def test_convolution_is_a_sum_over_edges_and_paths():
    rng = np.random.default_rng(0)
    senders, receivers = np.array([1, 2, 0, 2]), np.array([0, 0, 1, 1])
    x = {SCALAR: rng.normal(size=(3, 1, 2)), VECTOR: rng.normal(size=(3, 3, 3))}
    harmonics, weights = rng.normal(size=(4, 3)), rng.normal(size=(4, 8))
    edges = Edges(
        jnp.asarray(senders),
        jnp.asarray(receivers),
        {VECTOR: jnp.asarray(harmonics)},
        jnp.zeros((4, 1)),
        jnp.ones((4, 1)),
    )
    features = {irrep: jnp.asarray(value) for irrep, value in x.items()}
    found = channelwise_convolution(features, edges, jnp.asarray(weights), PATHS)
    start = 0
    for path in PATHS:
        expected = np.zeros((3, path.message.dim, path.channels))
        symbol = path.message.dim**0.5 * wigner_3j(path.node.l, path.edge.l, path.message.l)
        for edge, (sender, receiver) in enumerate(zip(senders, receivers, strict=True)):
            for channel in range(path.channels):
                node = x[path.node][sender, :, channel]
                product = np.einsum("a,b,abc->c", node, harmonics[edge], symbol)
                expected[receiver, :, channel] += weights[edge, start + channel] * product
        start += path.channels
        assert_allclose(found[path.message], expected, atol=1e-12)


def test_features_that_are_absent_send_nothing():
    edges = Edges(
        jnp.asarray([1]),
        jnp.asarray([0]),
        {VECTOR: jnp.ones((1, 3))},
        jnp.zeros((1, 1)),
        jnp.ones((1, 1)),
    )
    found = channelwise_convolution({SCALAR: jnp.ones((2, 1, 2))}, edges, jnp.ones((1, 8)), PATHS)
    assert found[VECTOR].any()
    assert not found[TENSOR].any()
    assert found[TENSOR].shape == (2, 5, 3)


def test_every_block_that_a_configuration_can_name_is_there():
    assert set(get_args(InteractionName)) == set(INTERACTION_BLOCKS)


def with_neighbors(network, make_network, number):
    config = replace(network.bundle.config, avg_num_neighbors=number)
    return make_network(replace(network.bundle, config=config))


def test_messages_are_divided_by_the_average_number_of_neighbours(
    network_of, make_network, molecule
):
    """In one layer without products the energy is linear in them."""
    network = network_of("one_layer_scalars")
    before = network(molecule).node_energy
    after = with_neighbors(network, make_network, 0.4)(molecule).node_energy
    shift = network.bundle.shift["Default"]
    assert_allclose(after - shift, (before - shift) / 2, rtol=1e-12)


def test_a_density_takes_the_place_of_the_average(network_of, make_network, molecule):
    network = network_of("density")
    other = with_neighbors(network, make_network, 17.0)
    assert_allclose(other(molecule).energy, network(molecule).energy, rtol=1e-14)


def shapes(bundle, *names):
    return [bundle.parameters[name].shape for name in names]


def test_edge_irreps_narrow_what_neighbours_send(network_of):
    found = network_of("attention_then_nonlinear").bundle
    names = ("interactions/{}/linear_up/weights/0e", "interactions/{}/linear_up/weights/1o")
    assert shapes(found, names[0].format(0)) == [(3, 2)]
    assert names[1].format(0) not in found.parameters  # first there are scalars only
    assert shapes(found, *(name.format(1) for name in names)) == [(3, 2), (3, 2)]


def test_an_agnostic_product_has_one_element(network_of):
    name = "products/0/symmetric_contractions/weights/0e/2"
    agnostic = network_of("attention_then_nonlinear").bundle.parameters[name]
    plain = network_of("nonlinear_then_attention").bundle.parameters[name]
    assert agnostic.shape == (1, *plain.shape[1:])
    assert len(plain) == 3


def test_every_layer_has_its_own_correlation(network_of):
    parameters = network_of("density").bundle.parameters
    root = "products/{}/symmetric_contractions/weights/0e/{}"
    assert root.format(0, 1) in parameters
    assert root.format(0, 2) not in parameters
    assert root.format(1, 3) in parameters


def test_the_last_layer_keeps_its_vectors_if_asked(network_of):
    name = "products/1/linear/weights/1o"
    assert name in network_of("nonlinear_then_attention").bundle.parameters
    assert name not in network_of("attention_then_nonlinear").bundle.parameters


def test_only_the_last_layer_is_read_out_if_asked(network_of, make_network, molecule):
    network = network_of("nonlinear_then_attention")
    names = {name for name in network.bundle.parameters if name.startswith("readouts/")}
    assert names == {"readouts/0/linear_1/weights/0e", "readouts/0/linear_2/weights/0e"}
    name = "readouts/0/linear_2/weights/0e"
    silent = {**network.bundle.parameters, name: np.zeros((3, 1))}
    found = make_network(replace(network.bundle, parameters=silent))(molecule)
    assert_allclose(found.node_energy, network.bundle.shift["Default"], rtol=1e-14)


def test_the_non_linear_block_has_no_gate_for_pseudoscalars(configs, make_bundle):
    config = replace(
        configs["pseudoscalars"], interaction_cls="RealAgnosticResidualNonLinearInteractionBlock"
    )
    with pytest.raises(ConfigError, match="expected another one with 0o in hidden_irreps"):
        make_bundle(config)
