"""Which energies stay: those of every structure of the elements that are kept."""

import jax
import numpy as np
import pytest

from mace_jax.batching.graph_batch import pad_batch
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.batching.tight_packing import pack_graphs
from mace_jax.errors import ConfigError
from mace_jax.model.energy_forces import pair_vectors
from mace_jax.model.load import graph_builder, load_model
from mace_jax.structures.structure import Structure
from mace_jax.torch_models.select_elements import select_elements

# (1, 6, 7, 8, 14, 29) are known to the stored models
KEPT = (1, 8, 29)
MODELS = [
    "zbl_p8_l1",
    "chebyshev_agnesi",
    "json_density_heads",
    "agnostic_product_mace_plain",
    "config_nonlinear",
    "reduced_l1_correlation_3",
    "energy_dipoles",
]


pytestmark = pytest.mark.usefixtures("fast_compilation")


def structures(heads) -> list[Structure]:
    rng = np.random.default_rng(5)
    cell = np.array([[3.6, 0.2, 0.0], [0.0, 3.9, 0.3], [0.1, 0.0, 4.1]])
    crystal = rng.uniform(0, 1, (4, 3)) @ cell
    numbers = np.array([1, 29, 8, 1])
    return [
        Structure(numbers, crystal, cell, np.ones(3, bool), head=heads[-1]),
        Structure(
            numbers[:1], np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool), head=heads[0]
        ),
    ]


def of_each_atom(bundle, given) -> list[np.ndarray]:
    """What the network says of every atom, E0s left out."""
    graphs = graph_builder(bundle).build_all(given)
    sizes = GraphSizes.from_lists([graph.n_neighbors for graph in graphs])
    batch = pad_batch(graphs, padded_caps(sizes, pack_graphs(sizes, 500, seed=0)), "float64")
    with jax.enable_x64(True):
        model = load_model(bundle, "bundle")
        vectors = pair_vectors(batch, bundle.config.r_max)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(model)(vectors, batch))]


@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_are_those_of_the_whole_model(convert, name):
    whole = convert(name).astype("float64")
    some = select_elements(whole, KEPT)
    assert some.config.atomic_numbers == KEPT
    given = structures(whole.heads)
    expected, found = of_each_atom(whole, given), of_each_atom(some, given)
    assert max(np.abs(values).max() for values in found) > 1e-2
    for values, reference in zip(found, expected, strict=True):
        limit = 1e-13 * max(1, np.abs(reference).max())
        np.testing.assert_allclose(values, reference, rtol=0, atol=limit)


def test_all_elements_are_the_same_model(convert):
    bundle = convert("layers_1")
    assert select_elements(bundle, bundle.config.atomic_numbers) is bundle


def test_energies_and_radii_of_the_kept(convert):
    bundle = convert("zbl_p8_l1")
    alone = select_elements(bundle, (8,))
    assert alone.atomic_energies == {"Default": {8: bundle.atomic_energies["Default"][8]}}
    index = bundle.config.atomic_numbers.index(8)
    path = "pair_repulsion_fn/covalent_radii"
    assert alone.parameters[path].tolist() == [bundle.parameters[path][index]]
    with jax.enable_x64(True):
        load_model(alone, "alone")  # checks every shape


def test_an_element_that_the_model_does_not_know(convert):
    message = r"^elements He \(2\): not among those of the model, \[1, 6, 7, 8, 14, 29\]$"
    with pytest.raises(ConfigError, match=message):
        select_elements(convert("layers_1"), (1, 2))
