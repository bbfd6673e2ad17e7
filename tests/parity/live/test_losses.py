"""Every loss beside mace-torch's class, on the same labels and predictions, in float64."""

import os
from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.train_config import LOSS_TERMS
from mace_jax.artifacts.train_config_sections import LossConfig
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.structures.structure import Structure, property_shape
from mace_jax_train.error_metrics import batch_errors, metrics
from mace_jax_train.loss import make_loss

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("MACE_JAX_LIVE_TORCH"), reason="needs mace-torch; run `nox -s torch`"
    ),
    pytest.mark.filterwarnings("ignore"),
]

BUILDER = GraphBuilder(2.0, (1, 8), ("Default",), {})
TERMS = {"energy": 2.0, "forces": 30.0, "stress": 7.0, "virials": 0.5, "dipole": 1.5}
DELTA = 0.8
CLASSES = {
    "weighted": "WeightedEnergyForcesStressLoss",
    "ef": "WeightedEnergyForcesLoss",
    "forces_only": "WeightedForcesLoss",
    "stress": "WeightedEnergyForcesStressLoss",
    "virials": "WeightedEnergyForcesVirialsLoss",
    "huber": "WeightedHuberEnergyForcesStressLoss",
    "universal": "UniversalLoss",
    "l1l2": "WeightedEnergyForcesL1L2Loss",
    "dipole": "DipoleSingleLoss",
    "energy_forces_dipole": "WeightedEnergyForcesDipoleLoss",
}
# Terms of which mace-torch disregards weights, so that it learns missing labels as zeros.
UNWEIGHTED = {
    "huber": ("energy", "forces", "stress"),
    "l1l2": ("forces",),
    "dipole": ("dipole",),
    "energy_forces_dipole": ("dipole",),
}


@pytest.fixture(autouse=True)
def float64():
    import torch

    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        yield
    torch.set_default_dtype(torch.float32)


def random_structures(n, seed, unweighted=(), weighted=True):
    """Structures whose labels are missing, and weighted, at random.

    Args:
        n: how many.
        seed: of everything.
        unweighted: labels that all have, of weight 1.
        weighted: whether the structures themselves have weights other than 1.
    """
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(n):
        n_node = int(rng.integers(1, 6))
        labels, weights = {}, {}
        for term in TERMS:
            size = 10 ** rng.uniform(-1, 2.5) if term == "forces" else 1.0
            label = size * rng.normal(size=property_shape(term, n_node))
            if term in unweighted or rng.random() < 0.7:
                labels[term] = label
                weights[term] = 1.0 if term in unweighted else rng.choice([0.0, 0.3, 1.0, 4.0])
        result.append(
            Structure(
                rng.choice([1, 8], n_node),
                5 * rng.random((n_node, 3)),
                6 * np.eye(3),
                np.ones(3, bool),
                labels,
                weights,
                weight=rng.random() if weighted else 1.0,
            )
        )
    return result


def torch_batch(structures):
    from mace.data import AtomicData, Configuration
    from mace.tools import AtomicNumberTable
    from mace.tools.torch_geometric import Batch

    configurations = [
        Configuration(
            atomic_numbers=item.atomic_numbers,
            positions=item.positions,
            properties=dict(item.properties),
            property_weights=dict.fromkeys(TERMS, 0.0) | item.property_weights,
            cell=item.cell,
            pbc=tuple(item.pbc.tolist()),
            weight=item.weight,
        )
        for item in structures
    ]
    table = AtomicNumberTable([1, 8])
    return Batch.from_data_list(
        [AtomicData.from_config(configuration, table, 2.0) for configuration in configurations]
    )


def loss_config(name):
    weights = {f"{term}_weight": TERMS[term] for term in LOSS_TERMS[name]}
    return LossConfig(name, huber_delta=DELTA, **weights)


def torch_loss(name):
    import mace.modules.loss

    weights = {f"{term}_weight": TERMS[term] for term in LOSS_TERMS[name]}
    if name in ("huber", "universal"):
        weights["huber_delta"] = DELTA
    return getattr(mace.modules.loss, CLASSES[name])(**weights)


def predictions(structures, seed):
    """Return random numbers for real graphs and atoms, and the same beside padding."""
    rng = np.random.default_rng(seed)
    n_graph, n_node = len(structures), sum(map(len, structures))
    batch = pad_batch(BUILDER.build_all(structures), Caps.enclosing(50, 800, 10), "float64")
    real, padded = {}, {}
    for term in TERMS:
        label = getattr(batch, term)
        padded[term] = label + rng.normal(size=label.shape)
        real[term] = padded[term][: n_node if term == "forces" else n_graph]
    return batch, real, padded


def torch_loss_and_gradient(name, structures, predicted):
    import torch

    tensors = {term: torch.tensor(array, requires_grad=True) for term, array in predicted.items()}
    loss = torch_loss(name)(torch_batch(structures), tensors)
    loss.backward()
    gradient = {term: tensors[term].grad.numpy() for term in LOSS_TERMS[name]}
    return loss.item(), gradient


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LOSS_TERMS)
def test_loss_and_gradient(name, seed):
    unweighted = UNWEIGHTED.get(name, ())
    weighted = name not in (*UNWEIGHTED, "universal")
    structures = random_structures(7, seed, unweighted, weighted)
    batch, real, padded = predictions(structures, seed)
    expected, expected_gradient = torch_loss_and_gradient(name, structures, real)
    loss, gradient = jax.value_and_grad(make_loss(loss_config(name)))(padded, batch)
    assert expected > 0
    assert_allclose(loss, expected, rtol=1e-12)
    for term, array in expected_gradient.items():
        assert_allclose(gradient[term][: len(array)], array, rtol=1e-10, atol=1e-14)
        assert not gradient[term][len(array) :].any()


@pytest.mark.parametrize("name", UNWEIGHTED)
def test_mace_torch_learns_missing_labels_as_zeros(name):
    """Where it does, its numbers are those of ours for labels of zero."""
    terms = UNWEIGHTED[name]
    full, item = random_structures(2, 0, tuple(TERMS), weighted=False)
    labels = item.properties
    missing = replace(
        item,
        properties={term: label for term, label in labels.items() if term not in terms},
        property_weights=dict.fromkeys(labels.keys() - set(terms), 1.0),
    )
    zeros = {term: 0 * label if term in terms else label for term, label in labels.items()}
    batch, real, padded = predictions([full, replace(item, properties=zeros)], 1)
    expected, _ = torch_loss_and_gradient(name, [full, missing], real)
    loss = make_loss(loss_config(name))
    assert_allclose(loss(padded, batch), expected, rtol=1e-12)
    batch, _, _ = predictions([full, missing], 1)
    assert loss(padded, batch) < expected


def test_metrics():
    import torch
    from mace.tools.train import MACELoss

    structures = random_structures(7, 4, tuple(TERMS), weighted=False)
    batch, real, padded = predictions(structures, 4)
    theirs = MACELoss(torch_loss("virials"))
    tensors = {term: torch.tensor(array) for term, array in real.items()}
    theirs.update(torch_batch(structures), tensors)
    _, expected = theirs.compute()
    found = metrics([batch_errors(padded, batch, make_loss(loss_config("virials"))(padded, batch))])
    # theirs divides the mean over a batch's graphs by their number again
    expected["loss"] *= len(structures)
    compared = found.keys() & expected.keys()
    assert len(compared) == 20
    for name in compared:
        assert_allclose(found[name], expected[name], rtol=1e-8, err_msg=name)
