"""What single options of the interaction blocks and products do."""

from dataclasses import replace
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.architecture import Path
from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import InteractionName
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.equivariance.irreps import SCALAR, VECTOR, Irrep
from mace_jax.equivariance.wigner_3j import wigner_3j
from mace_jax.errors import ConfigError
from mace_jax.model.interaction import INTERACTION_BLOCKS, Edges, channelwise_convolution
from mace_jax.structures.neighbor_list import neighbor_list

TENSOR = Irrep(2, 1)
PATHS = (
    Path(SCALAR, VECTOR, VECTOR, 2),
    Path(VECTOR, VECTOR, TENSOR, 3),
    Path(VECTOR, VECTOR, SCALAR, 3),
)


CHANNELS = [path.channels for path in PATHS]


@pytest.fixture(params=[1, 2, 40], ids=["a slot a row", "two slots a row", "one row an atom"])
def batch(request, crystal):
    """A crystal, whose atoms have several images of each other as neighbours, and padding."""
    graph = GraphBuilder(3.2, (1, 6, 8), ("Default",), {}).build(crystal)
    n_neighbor, n_edge = request.param, int(graph.n_neighbors.sum())
    n_row = 5 if n_neighbor == 40 else 5 + n_edge
    batch = pad_batch([graph], Caps(5, n_edge + 4, 2, n_neighbor, n_row), "float64")
    assert (~batch.pair_mask).sum() == 2
    assert (batch.pair_senders == batch.pair_receivers)[batch.pair_mask].any()
    return batch


def neighbors_of_slots(batch):
    """Return, of every slot that is not empty, its place and (sender, receiver, shift)."""
    table, ends = batch.table, (batch.pair_senders, batch.pair_receivers)
    for row, slot in np.argwhere(table.slot_direction != 0):
        pair, direction = table.slot_pair[row, slot], int(table.slot_direction[row, slot])
        sender, receiver = (int(end[pair]) for end in ends[::direction])
        yield (row, slot), (sender, receiver, *(direction * batch.pair_shifts[pair]))


def in_slots(batch, of_edge, fill):
    """Lay out arrays ``[k]`` by edge as ``[n_row, n_neighbor, k]``; empty slots hold ``fill``."""
    found = np.full((*batch.table.slot_pair.shape, *next(iter(of_edge.values())).shape), fill)
    filled = set()
    for place, edge in neighbors_of_slots(batch):
        found[place] = of_edge[edge]
        filled.add(edge)
    assert filled == of_edge.keys()
    return jnp.asarray(found)


def edges_with(batch, harmonics):
    n_pair = len(batch.pair_mask)
    unused = jnp.zeros((n_pair, 4))  # only the cueq backend takes the harmonics of pairs
    return Edges(batch, unused, {VECTOR: harmonics}, jnp.zeros((n_pair, 1)), jnp.ones((n_pair, 1)))


def test_convolution_is_a_sum_over_edges_and_paths(batch, crystal):
    rng = np.random.default_rng(0)
    x = {SCALAR: rng.normal(size=(5, 1, 2)), VECTOR: rng.normal(size=(5, 3, 3))}
    directed = neighbor_list(crystal, 3.2)
    keys = [(int(s), int(r), *map(int, shift)) for s, r, shift in zip(*directed, strict=True)]
    assert len(set(keys)) == len(keys) == 2 * batch.pair_mask.sum()
    harmonics, weights = rng.normal(size=(len(keys), 3)), rng.normal(size=(len(keys), 8))
    edges = edges_with(batch, in_slots(batch, dict(zip(keys, harmonics, strict=True)), 0.0))
    slots = in_slots(batch, dict(zip(keys, weights, strict=True)), 7.0)
    features = {irrep: jnp.asarray(value) for irrep, value in x.items()}
    per_path = jnp.split(slots, np.cumsum(CHANNELS)[:-1], axis=-1)
    found = channelwise_convolution(features, edges, per_path, PATHS)
    start = 0
    for path in PATHS:
        expected = np.zeros((5, path.message.dim, path.channels))
        symbol = path.message.dim**0.5 * wigner_3j(path.node.l, path.edge.l, path.message.l)
        for edge, (sender, receiver, *_) in enumerate(keys):
            for channel in range(path.channels):
                node = x[path.node][sender, :, channel]
                product = np.einsum("a,b,abc->c", node, harmonics[edge], symbol)
                expected[receiver, :, channel] += weights[edge, start + channel] * product
        start += path.channels
        assert np.abs(expected).max() > 0.1
        assert_allclose(found[path.message], expected, atol=1e-12)


def test_features_that_are_absent_send_nothing(batch):
    shape = batch.table.slot_pair.shape
    edges = edges_with(batch, jnp.ones((*shape, 3)))
    weights = [jnp.ones((*shape, channels)) for channels in CHANNELS]
    found = channelwise_convolution({SCALAR: jnp.ones((5, 1, 2))}, edges, weights, PATHS)
    assert found[VECTOR].any()
    assert not found[TENSOR].any()
    assert found[TENSOR].shape == (5, 5, 3)


def test_weights_of_a_pair_serve_both_directions(batch, network_of):
    """And the cutoff multiplies them."""
    block = network_of("two_layers_scalars").model.interactions[0]
    rng = np.random.default_rng(1)
    n_pair, n_weights = len(batch.pair_mask), block.layer.n_weights
    real = batch.table.slot_direction != 0
    harmonics = {
        irrep: jnp.asarray(rng.normal(size=(*real.shape, irrep.dim)) * real[..., None])
        for irrep in {path.edge for path in block.layer.paths}
    }
    cutoff = jnp.asarray(rng.uniform(size=(n_pair, 1)))
    edges = Edges(batch, jnp.zeros((n_pair, 4)), harmonics, jnp.zeros((n_pair, 1)), cutoff)
    sent = {SCALAR: jnp.asarray(rng.normal(size=(5, 1, 4)))}
    weights = rng.normal(size=(n_pair, n_weights))
    found = block.convolution(sent, edges, jnp.asarray(weights))
    in_every_slot = jnp.asarray(weights[batch.table.slot_pair])
    expected = block.convolution(sent, edges, in_every_slot)
    plain = block.convolution(sent, edges._replace(cutoff=jnp.ones((n_pair, 1))), weights * cutoff)
    for irrep, value in found.items():
        assert np.abs(value).max() > 0.1
        assert_allclose(value, expected[irrep], atol=1e-12)
        assert_allclose(value, plain[irrep], atol=1e-12)


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
