"""What each layer is given of a domain without an exchange, against a search of all distances."""

from itertools import pairwise

import numpy as np
import pytest

from mace_jax_export_lammps.neighborhood import NeighborEntries, halo_neighborhood

R_MAX, N_ELEMENTS, MANY = 1.0, 2, 99


def scattered(n_layers, seed=0, n_local=4):
    """Return atoms at random, own ones first and in the middle, and what LAMMPS lists of them."""
    rng = np.random.default_rng(seed)
    reach = n_layers * R_MAX
    x = np.concatenate(
        [rng.uniform(-0.5, 0.5, (n_local, 3)), rng.uniform(-0.8 - reach, 0.8 + reach, (400, 3))]
    )
    species = rng.integers(0, N_ELEMENTS, len(x)).astype(np.int32)
    vectors = x[None] - x[:n_local, None]
    square = (vectors**2).sum(axis=-1)
    centers, neighbors = np.nonzero((square < (1.01 * reach) ** 2) & (square > 0))
    order = rng.permutation(len(centers))  # whatever LAMMPS's order is
    centers, neighbors = centers[order], neighbors[order]
    return x, NeighborEntries(species, n_local, centers, neighbors, vectors[centers, neighbors])


def neighbors_of(x):
    apart = np.linalg.norm(x[None] - x[:, None], axis=-1)
    return (apart < R_MAX) & (apart > 0)


def hops(near, n_local):
    """Return of each atom how many neighbours away from an own one it is."""
    depth = np.where(np.arange(len(near)) < n_local, 0, MANY)
    for k in range(1, 4):
        depth[(depth == MANY) & near[depth == k - 1].any(axis=0)] = k
    return depth


def received(pairs):
    """Return receiver, element of the sender and vector of every edge, in order."""
    receivers = np.concatenate([pairs.receivers, pairs.senders])
    senders = np.concatenate([pairs.senders, pairs.receivers])
    vectors = np.concatenate([pairs.vectors, -pairs.vectors])
    kept = receivers < pairs.n_receiver
    return receivers[kept], senders[kept], vectors[kept]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_each_layer_has_the_neighbors_of_atoms_that_later_ones_need(n_layers, seed):
    x, entries = scattered(n_layers, seed)
    near, found = neighbors_of(x), halo_neighborhood(entries, R_MAX, n_layers, N_ELEMENTS)
    depth = hops(near, entries.n_local)
    assert len(found.layers) == n_layers
    np.testing.assert_array_equal(depth[found.atoms], np.sort(depth[depth < n_layers]))
    for index, pairs in enumerate(found.layers):
        receivers, senders, vectors = received(pairs)
        for node, atom in enumerate(found.atoms):
            here = receivers == node
            if depth[atom] < n_layers - index:
                expected = x[atom] - x[near[atom]]
                species = entries.species[near[atom]]
            elif index == 0:
                continue
            else:  # an edge to an atom that is not needed only brings its derivative back
                inner = near[atom] & (depth < n_layers - index)
                expected = x[atom] - x[inner]
                species = entries.species[inner]
            order, others = np.lexsort(vectors[here].T), np.lexsort(expected.T)
            np.testing.assert_allclose(vectors[here][order], expected[others], atol=1e-12)
            np.testing.assert_array_equal(pairs.species[senders[here]][order], species[others])


def test_a_layer_sees_the_first_pairs_and_atoms_of_the_layer_before():
    _, entries = scattered(3)
    layers = halo_neighborhood(entries, R_MAX, 3, N_ELEMENTS).layers
    for before, after in pairwise(layers):
        n = len(after.senders)
        assert n < len(before.senders)
        np.testing.assert_array_equal(after.vectors, before.vectors[:n])
        np.testing.assert_array_equal(after.senders, before.senders[:n])
        np.testing.assert_array_equal(after.receivers, before.receivers[:n])
        np.testing.assert_array_equal(after.species, before.species[: len(after.species)])
    assert (layers[-1].senders < entries.n_local).all()


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_forces_of_entries_are_derivatives(n_layers):
    """Of a sum over pairs, by finite differences of the list."""
    _, entries = scattered(n_layers)
    slopes = np.random.default_rng(1).normal(size=(4000, 3))

    def energy(vectors):
        changed = halo_neighborhood(entries._replace(vectors=vectors), R_MAX, n_layers, N_ELEMENTS)
        pairs = changed.layers[0].vectors
        return (slopes[: len(pairs)] * pairs).sum()

    found = halo_neighborhood(entries, R_MAX, n_layers, N_ELEMENTS)
    n_pair = len(found.layers[0].senders)
    forces = found.entry_forces(slopes[:n_pair], len(entries.vectors))
    step = 1e-9 * np.random.default_rng(2).normal(size=entries.vectors.shape)
    change = energy(entries.vectors + step) - energy(entries.vectors - step)
    assert change == pytest.approx(2 * (forces * step).sum(), rel=1e-4)
