"""Padding and batching change nothing; tolerance 1e-12, the order of float64 sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.model.energy_forces import energy_and_forces, pair_vectors
from mace_jax.model.load import graph_builder, split_trainable

CAPS = Caps.enclosing(n_node=16, n_edge=256, n_graph=4)
LARGE = Caps.enclosing(n_node=70, n_edge=900, n_graph=9)


def test_more_padding_changes_nothing(vectors_network, molecule, crystal, lone_carbon):
    structures = [molecule, crystal, lone_carbon]
    pairs = zip(
        vectors_network.evaluate(structures),
        vectors_network.evaluate(structures, LARGE),
        strict=True,
    )
    for small, large in pairs:
        assert_allclose(large.energy, small.energy, rtol=1e-12)
        assert_allclose(large.forces, small.forces, atol=1e-12)
        assert_allclose(large.stress, small.stress, atol=1e-12)


def test_a_batch_equals_one_by_one(any_network, molecule, crystal, lone_carbon):
    structures = [molecule, lone_carbon, crystal]
    for together, structure in zip(any_network.evaluate(structures), structures, strict=True):
        alone = any_network(structure)
        assert_allclose(together.energy, alone.energy, rtol=1e-12)
        assert_allclose(together.forces, alone.forces, atol=1e-12)
        assert_allclose(together.stress, alone.stress, atol=1e-12)


def test_padding_slots_are_zero(any_network, molecule):
    batch = any_network.batch([molecule])
    assert (~batch.node_mask).sum() > 1
    assert (~batch.pair_mask).sum() > 1
    assert (batch.table.slot_direction == 0).sum() > 1
    assert (~batch.graph_mask).sum() > 1
    out = any_network.evaluate_batch(batch)
    assert not out["energy"][~batch.graph_mask].any()
    assert not out["node_energy"][~batch.node_mask].any()
    assert not out["forces"][~batch.node_mask].any()
    assert not out["stress"][~batch.graph_mask].any()
    assert not out["virials"][~batch.graph_mask].any()


def assert_same(found, expected, atol=1e-12):
    """Compare what a network says, to ``atol`` of the largest value of each quantity."""
    for name, value in expected.items():
        assert_allclose(found[name], value, rtol=0, atol=atol * np.abs(value).max(), err_msg=name)


def with_padding_pairs_between_real_nodes(batch, rng):
    n_pair, n_real = len(batch.pair_mask), batch.node_mask.sum()
    senders, receivers = rng.integers(n_real, size=(2, n_pair), dtype=np.int32)
    return batch._replace(
        pair_senders=np.where(batch.pair_mask, batch.pair_senders, senders),
        pair_receivers=np.where(batch.pair_mask, batch.pair_receivers, receivers),
        pair_shifts=np.where(batch.pair_mask[:, None], batch.pair_shifts, 1.0),
    )


def with_empty_slots_of_real_pairs(batch, rng):
    table, n_real = batch.table, batch.pair_mask.sum()
    pairs = rng.integers(n_real, size=table.slot_pair.shape, dtype=np.int32)
    slot_pair = np.where(table.slot_direction != 0, table.slot_pair, pairs)
    return batch._replace(table=table._replace(slot_pair=slot_pair))


def with_padding_pairs_in_real_slots(batch, rng):
    table = batch.table
    real = np.flatnonzero(table.slot_direction)
    slots = np.where(
        batch.pair_mask[:, None], table.pair_slots, rng.choice(real, table.pair_slots.shape)
    )
    return batch._replace(table=table._replace(pair_slots=slots.astype(np.int32)))


def with_spare_rows_of_real_nodes(batch, rng):
    """Give the rows that no atom needs to the first ones; a padding node keeps one."""
    table = batch.table
    rows = np.arange(len(table.row_node))
    spare = (table.row_node == len(batch.species) - 1) & (
        np.roll(table.row_node, 1) == table.row_node
    )
    owner = np.where(spare, rows % batch.node_mask.sum(), table.row_node)
    order = np.argsort(owner, kind="stable")
    n_neighbor = table.slot_pair.shape[1]
    row, slot = np.divmod(table.pair_slots, n_neighbor)
    moved = table._replace(
        row_node=owner[order].astype(np.int32),
        slot_pair=table.slot_pair[order],
        slot_direction=table.slot_direction[order],
        pair_slots=(np.argsort(order)[row] * n_neighbor + slot).astype(np.int32),
    )
    assert spare.sum() > 1
    assert not moved.slot_direction[np.flatnonzero(spare[order])].any()
    return batch._replace(table=moved)


def with_padding_nodes_anywhere(batch, rng):
    n_node = len(batch.species)
    return batch._replace(
        positions=np.where(batch.node_mask[:, None], batch.positions, rng.normal(size=(n_node, 3))),
        species=np.where(
            batch.node_mask, batch.species, rng.integers(3, size=n_node, dtype=np.int32)
        ),
    )


CHANGES_OF_PADDING = {
    "pairs": with_padding_pairs_between_real_nodes,
    "slots": with_empty_slots_of_real_pairs,
    "slots of pairs": with_padding_pairs_in_real_slots,
    "rows": with_spare_rows_of_real_nodes,
    "nodes": with_padding_nodes_anywhere,
}


def leaves_differ(batch, other):
    pairs = list(zip(jax.tree.leaves(batch), jax.tree.leaves(other), strict=True))
    assert all(a.dtype == b.dtype for a, b in pairs)  # no other program
    return any(not np.array_equal(a, b) for a, b in pairs)


def test_nothing_depends_on_where_padding_points(any_network, molecule, crystal):
    batch = any_network.batch([molecule, crystal])
    before = jax.device_get(any_network.evaluate_batch(batch))
    rng = np.random.default_rng(0)
    everything = batch
    for name, change in CHANGES_OF_PADDING.items():
        changed = change(batch, rng)
        assert leaves_differ(batch, changed), name
        assert_same(jax.device_get(any_network.evaluate_batch(changed)), before)
        everything = change(everything, rng)
    assert_same(jax.device_get(any_network.evaluate_batch(everything)), before)


NARROW = Caps(CAPS.n_node, CAPS.n_edge, CAPS.n_graph, n_neighbor=3, n_row=104)
WIDE = Caps(CAPS.n_node, CAPS.n_edge, CAPS.n_graph, n_neighbor=20, n_row=CAPS.n_node)


SINGLE = Caps(CAPS.n_node, CAPS.n_edge, CAPS.n_graph, n_neighbor=1, n_row=CAPS.n_edge + 16)


def rows_of_real_nodes(batch):
    return np.bincount(batch.table.row_node)[batch.node_mask]


@pytest.mark.parametrize(
    "name",
    [
        *("vectors", "density", "attention_then_nonlinear", "nonlinear_then_attention"),
        "EnergyDipolesMACE",
    ],
)
def test_rows_of_an_atom_change_nothing(network_of, molecule, crystal, name):
    network = network_of(name)
    several, one = (network.batch([molecule, crystal], caps) for caps in (NARROW, WIDE))
    assert rows_of_real_nodes(several).max() > 3
    assert (rows_of_real_nodes(one) == 1).all()
    found, expected = (jax.device_get(network.evaluate_batch(b)) for b in (several, one))
    assert np.abs(expected["stress"]).max() > 0
    assert_same(found, expected)


def test_rows_of_one_slot_change_nothing(vectors_network, molecule, crystal):
    single, one = (vectors_network.batch([molecule, crystal], caps) for caps in (SINGLE, WIDE))
    assert rows_of_real_nodes(single).max() > 5
    found, expected = (jax.device_get(vectors_network.evaluate_batch(b)) for b in (single, one))
    assert_same(found, expected)


def test_edges_beyond_the_cutoff_change_nothing(any_network, molecule):
    builder = graph_builder(any_network.bundle)
    near, far = builder.build(molecule), builder._replace(r_max=9.0).build(molecule)
    assert len(far.pairs.senders) == 10 > len(near.pairs.senders)
    before, after = (
        jax.device_get(any_network.evaluate_batch(pad_batch([graph], CAPS, "float64")))
        for graph in (near, far)
    )
    assert_same(after, before)


def test_padding_pairs_are_beyond_the_cutoff(vectors_network, crystal):
    batch = vectors_network.batch([crystal])
    r_max = vectors_network.bundle.config.r_max
    lengths = np.linalg.norm(pair_vectors(batch, r_max), axis=1)
    assert (lengths[batch.pair_mask] < r_max).all()
    assert (lengths[~batch.pair_mask] > r_max).all()


@pytest.fixture(scope="module")
def force_loss_gradient(compile_fast):
    """Return the gradient of a loss on energies, forces and stress by the parameters."""
    programs = {}

    def program(network):
        with_parameters, own = split_trainable(network.model)

        def loss(parameters, batch):
            out = energy_and_forces(with_parameters(parameters), batch)
            return (
                jnp.square(out.energy).sum()
                + jnp.square(out.forces).sum()
                + jnp.square(out.stress).sum()
            )

        gradient = jax.jit(jax.grad(loss), compiler_options=compile_fast)
        return lambda batch: jax.tree.leaves(jax.device_get(gradient(own, batch)))

    def of(network, batch):
        config = network.bundle.config
        if config not in programs:
            programs[config] = program(network)
        return programs[config](batch)

    return of


def test_parameter_gradients_are_finite_and_padding_changes_nothing(
    scalars_network, force_loss_gradient, crystal, lone_carbon
):
    structures = [crystal, lone_carbon]
    small = force_loss_gradient(scalars_network, scalars_network.batch(structures))
    large = force_loss_gradient(scalars_network, scalars_network.batch(structures, LARGE))
    for a, b in zip(small, large, strict=True):
        assert np.isfinite(a).all()
        assert_allclose(b, a, rtol=1e-9, atol=1e-11 * np.abs(a).max())
    assert min(np.abs(a).max() for a in small) > 0  # every parameter matters


@pytest.mark.parametrize("name", ["two_layers_scalars", "attention_then_nonlinear"])
def test_rows_of_an_atom_change_no_parameter_gradient(
    network_of, force_loss_gradient, molecule, crystal, name
):
    network = network_of(name)
    narrow, wide = (
        force_loss_gradient(network, network.batch([molecule, crystal], caps))
        for caps in (NARROW, WIDE)
    )
    for a, b in zip(narrow, wide, strict=True):
        assert_allclose(b, a, rtol=0, atol=1e-12 * np.abs(a).max())


@pytest.mark.parametrize("name", CHANGES_OF_PADDING)
def test_no_parameter_gradient_depends_on_where_padding_points(
    scalars_network, force_loss_gradient, molecule, crystal, name
):
    batch = scalars_network.batch([molecule, crystal], NARROW)
    changed = CHANGES_OF_PADDING[name](batch, np.random.default_rng(1))
    assert leaves_differ(batch, changed)
    before, after = (force_loss_gradient(scalars_network, b) for b in (batch, changed))
    for a, b in zip(before, after, strict=True):
        assert_allclose(b, a, rtol=0, atol=1e-12 * np.abs(a).max())


@pytest.mark.parametrize(
    "name",
    ["two_layers_scalars", "density", "attention_then_nonlinear", "AtomicDielectricMACE"],
)
def test_float32_agrees_with_float64(network_of, make_network, molecule, crystal, name):
    """To 1e-4 of the largest value: some hundred roundings of 1e-7."""
    double = network_of(name)
    expected = double.evaluate_batch(double.batch([molecule, crystal]))
    with jax.enable_x64(False):
        single = make_network(double.bundle.astype("float32"))
        found = single.evaluate_batch(single.batch([molecule, crystal]))
    for quantity, value in found.items():
        assert value.dtype == np.float32
        atol = 1e-4 * np.abs(expected[quantity]).max()
        assert_allclose(value, expected[quantity], rtol=0, atol=atol, err_msg=quantity)
