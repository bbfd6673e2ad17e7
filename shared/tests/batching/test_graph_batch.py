import dataclasses

import numpy as np
import pytest

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch

LABELS = ("energy", "forces", "stress", "virials", "dipole")
E0 = {"pbe": {1: -13.587222780835477, 6: -1029.4889999855063, 8: -2041.8396277138045, 14: -1.0}}
BUILDER = GraphBuilder(4.0, (1, 6, 8, 14), ("pbe",), E0)


@pytest.fixture
def graphs(water, crystal):
    graphs = [BUILDER.build(structure) for structure in (water, crystal, water)]
    assert len(graphs[1].pairs.senders) > 10
    assert graphs[1].pairs.shifts.any()
    return graphs


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def batch(graphs, dtype):
    n_edge = sum(graph.n_neighbors.sum() for graph in graphs)
    caps = Caps.enclosing(n_node=8 + 5, n_edge=int(n_edge) + 11, n_graph=3 + 2)
    batch = pad_batch(graphs, caps, dtype)
    assert np.bincount(batch.table.row_node)[:8].max() > 1
    assert (batch.table.slot_direction == 0).any(axis=1).any()
    return batch


def test_masks_tell_padding_from_real(batch):
    assert batch.node_mask.tolist() == [True] * 8 + [False] * 5
    assert batch.graph_mask.tolist() == [True] * 3 + [False] * 2
    assert (~batch.pair_mask).sum() == 5
    assert (np.diff(batch.pair_mask.astype(int)) <= 0).all()
    assert (batch.table.slot_direction != 0).sum() == 2 * batch.pair_mask.sum()


def test_graphs_are_joined_with_offsets(batch, graphs):
    assert batch.node_graph.tolist() == [0, 0, 0, 1, 1, 2, 2, 2] + [3] * 5
    assert batch.species[:8].tolist() == [2, 0, 0, 1, 3, 2, 0, 0]
    start, first = 0, 0
    for index, graph in enumerate(graphs):
        nodes = slice(first, first + len(graph.structure))
        pairs = slice(start, start + len(graph.pairs.senders))
        np.testing.assert_array_equal(batch.pair_senders[pairs], graph.pairs.senders + first)
        np.testing.assert_array_equal(batch.pair_receivers[pairs], graph.pairs.receivers + first)
        np.testing.assert_array_equal(batch.pair_shifts[pairs], graph.pairs.shifts)
        np.testing.assert_allclose(batch.positions[nodes], graph.structure.positions, rtol=1e-6)
        np.testing.assert_allclose(batch.cell[index], graph.structure.cell, rtol=1e-6)
        assert set(batch.node_graph[batch.pair_senders[pairs]]) == {index}
        n_neighbors = np.bincount(
            batch.table.row_node,
            np.count_nonzero(batch.table.slot_direction, axis=1),
        )
        np.testing.assert_array_equal(n_neighbors[nodes], graph.n_neighbors)
        first, start = nodes.stop, pairs.stop
    assert not n_neighbors[first:].any()


def test_rows_and_nodes_are_sorted_after_padding_too(batch):
    assert (np.diff(batch.table.row_node) >= 0).all()
    assert (np.diff(batch.node_graph) >= 0).all()


def test_padding_pairs_run_from_a_padding_node_to_itself(batch):
    padding = ~batch.pair_mask
    np.testing.assert_array_equal(batch.pair_senders[padding], batch.pair_receivers[padding])
    assert not batch.node_mask[batch.pair_senders[padding]].any()
    assert not batch.pair_shifts[padding].any()


def test_every_index_exists(batch):
    table, n_node = batch.table, len(batch.positions)
    for indices, end in (
        (batch.pair_senders, n_node),
        (batch.pair_receivers, n_node),
        (batch.node_graph, len(batch.graph_mask)),
        (table.row_node, n_node),
        (table.slot_pair, len(batch.pair_mask)),
        (table.pair_slots, table.slot_pair.size),
    ):
        assert indices.min() >= 0
        assert indices.max() < end


def test_dtypes(batch, dtype):
    floats = ("positions", "pair_shifts", "cell", "volume", "n_node", *LABELS)
    for name in floats:
        assert getattr(batch, name).dtype == dtype
    for name in ("species", "node_graph", "pair_senders", "pair_receivers", "head"):
        assert getattr(batch, name).dtype == np.int32
    assert [array.dtype for array in batch.table] == [np.int32, np.int32, np.int8, np.int32]


def test_labels_and_weights(batch, crystal):
    np.testing.assert_allclose(batch.stress[1], crystal.properties["stress"], rtol=1e-6)
    np.testing.assert_allclose(batch.forces[3:5], crystal.properties["forces"], rtol=1e-6)
    assert batch.energy_weight.tolist() == [1, 1.5 * 2, 1, 0, 0]
    assert batch.forces_weight.tolist() == [1, 1.5 * 0.5, 1, 0, 0]
    assert batch.stress_weight.tolist() == [0, 1.5 * 3, 0, 0, 0]
    assert batch.n_node.tolist() == [3, 2, 3, 1, 1]
    assert np.isinf(batch.volume).tolist() == [True, False, True, True, True]
    assert batch.volume[1] == pytest.approx(abs(np.linalg.det(crystal.cell)))


def all_labels(crystal):
    virials = -abs(np.linalg.det(crystal.cell)) * crystal.properties["stress"]
    return {**crystal.properties, "virials": virials, "dipole": np.array([0.1, -0.2, 0.3])}


def test_virials_and_dipoles(water, crystal, dtype):
    labelled = dataclasses.replace(
        crystal,
        properties=all_labels(crystal),
        property_weights={"virials": 2.0, "dipole": 0.25},
    )
    graphs = [BUILDER.build(structure) for structure in (water, labelled)]
    batch = pad_batch(graphs, Caps.enclosing(9, 500, 4), dtype)
    assert batch.virials.shape == (4, 3, 3)
    assert batch.dipole.shape == (4, 3)
    np.testing.assert_allclose(batch.virials[1], labelled.properties["virials"], rtol=1e-6)
    np.testing.assert_allclose(batch.dipole[1], [0.1, -0.2, 0.3], rtol=1e-6)
    assert batch.virials_weight.tolist() == [0, 1.5 * 2, 0, 0]
    assert batch.dipole_weight.tolist() == [0, 1.5 * 0.25, 0, 0]
    assert batch.stress_weight.tolist() == [0, 1.5, 0, 0]


@pytest.mark.parametrize("missing", LABELS)
def test_a_missing_label_has_weight_0(crystal, missing, dtype):
    properties = {name: v for name, v in all_labels(crystal).items() if name != missing}
    graph = BUILDER.build(dataclasses.replace(crystal, properties=properties))
    batch = pad_batch([graph], Caps.enclosing(9, 500, 2), dtype)
    for name in LABELS:
        weight = getattr(batch, f"{name}_weight")
        assert weight.dtype == dtype
        assert (weight[0] == 0) == (name == missing)
        assert np.isfinite(getattr(batch, name)).all()


def test_interaction_energy_is_subtracted_in_float64(water, dtype):
    total = E0["pbe"][8] + 2 * E0["pbe"][1]
    interaction = 1.2345e-4
    assert float(np.float32(total + interaction) - np.float32(total)) != np.float32(interaction)
    properties = {"energy": np.array(total + interaction)}
    graph = BUILDER.build(dataclasses.replace(water, properties=properties))
    expected = np.float64(total + interaction) - total
    assert graph.interaction_energy == expected
    assert pad_batch([graph], Caps.enclosing(9, 50, 2), dtype).energy[0] == np.dtype(dtype).type(
        expected
    )


def test_a_batch_without_edges(water):
    alone = dataclasses.replace(
        water, atomic_numbers=np.array([8]), positions=np.zeros((1, 3)), properties={}
    )
    batch = pad_batch([BUILDER.build(alone)], Caps.enclosing(2, 4, 2), "float64")
    assert not batch.pair_mask.any()
    assert not batch.node_mask[batch.pair_receivers].any()
    assert not batch.table.slot_direction.any()
    assert set(batch.table.row_node) == {0, 1}


def test_no_graphs_give_a_batch_of_padding_of_the_same_kinds(batch, dtype):
    caps = Caps.enclosing(13, 2 * len(batch.pair_mask), 5)
    nothing = pad_batch([], caps, dtype)
    for name, array in nothing._asdict().items():
        if isinstance(array, np.ndarray):
            assert array.dtype == getattr(batch, name).dtype
            assert array.shape == getattr(batch, name).shape
    for mask in (nothing.node_mask, nothing.pair_mask, nothing.graph_mask):
        assert not mask.any()
    assert set(nothing.pair_senders) == set(nothing.pair_receivers) == {12}
    assert not nothing.table.slot_direction.any()
    assert not nothing.node_graph.any()
    assert nothing.n_node.tolist() == [1] * 5
    assert not nothing.forces_weight.any()


def test_inputs_in_a_batch(water, crystal, dtype):
    charge = EmbeddingSpec("total_charge", "categorical", "graph", 4, num_classes=5, offset=2)
    charges = EmbeddingSpec("charges", "continuous", "atom", 4)
    builder = BUILDER._replace(inputs=(charge, charges))
    of_water = {"total_charge": np.array(-1.0), "charges": np.array([1.0, 2.0, 3.0])}
    structures = [
        dataclasses.replace(water, inputs=of_water),
        dataclasses.replace(crystal, inputs={"charges": np.array([4.0, 5.0])}),
    ]
    caps = Caps.enclosing(9, 500, 4)
    batch = pad_batch([builder.build(structure) for structure in structures], caps, dtype)
    assert batch.inputs.keys() == {"total_charge", "charges"}
    assert batch.inputs["total_charge"].tolist() == [[-1], [0], [0], [0]]
    assert batch.inputs["charges"][:, 0].tolist() == [1, 2, 3, 4, 5, 0, 0, 0, 0]
    assert {array.dtype for array in batch.inputs.values()} == {np.dtype(dtype)}
    assert pad_batch([BUILDER.build(water)], caps, dtype).inputs == {}
    nothing = pad_batch([], caps, dtype, builder.inputs)
    assert nothing.inputs.keys() == batch.inputs.keys()
    for name, array in nothing.inputs.items():
        assert (array.shape, array.dtype) == (batch.inputs[name].shape, np.dtype(dtype))
        assert not array.any()
