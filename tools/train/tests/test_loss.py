"""Loss and metrics against plain NumPy over a list of labelled structures, padding included."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.train_config_sections import LossConfig
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.model.energy_forces import EnergyForces
from mace_jax.structures.structure import Structure
from mace_jax_train.error_metrics import batch_errors, metrics
from mace_jax_train.loss import weighted_energy_forces_stress_loss

BUILDER = GraphBuilder(3.0, (1, 8), ("Default",), {"Default": {1: -13.5, 8: -2041.25}})
CAPS = Caps.enclosing(n_node=17, n_edge=60, n_graph=6)
ALL = ("energy", "forces", "stress")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def structure(n: int, labels=ALL, seed: int = 0, **options) -> Structure:
    rng = np.random.default_rng([seed, n])
    values = {
        "energy": rng.normal(),
        "forces": rng.normal(size=(n, 3)),
        "stress": rng.normal(size=(3, 3)),
    }
    return Structure(
        np.array([1, 8, 8, 1, 1][:n]),
        np.arange(n)[:, None] * [1.0, 0.1, 0.2],
        10 * np.eye(3),
        np.ones(3, dtype=bool),
        {name: np.array(values[name]) for name in labels},
        **options,
    )


BATCHES = {
    "all labels": [structure(3), structure(5), structure(2)],
    "some labels": [structure(3, ["energy"]), structure(5, ["forces", "stress"]), structure(2, [])],
    "weights": [
        structure(3, weight=2.5),
        structure(4, property_weights={"energy": 0.5, "forces": 3.0, "stress": 7.0}),
        structure(2, ["energy", "forces"], weight=0.1, property_weights={"energy": 4.0}),
    ],
}


def padded(structures, caps=CAPS):
    graphs = [BUILDER.build(item) for item in structures]
    return pad_batch(graphs, caps, "float64")


def predict_anything(batch) -> EnergyForces:
    """Random numbers, in the padding too."""
    rng = np.random.default_rng(5)
    return EnergyForces(
        energy=rng.normal(size=len(batch.n_node)),
        node_energy=rng.normal(size=len(batch.species)),
        forces=rng.normal(size=(len(batch.species), 3)),
        virials=rng.normal(size=(len(batch.n_node), 3, 3)),
        stress=rng.normal(size=(len(batch.n_node), 3, 3)),
    )


def interaction_energy(item: Structure) -> float:
    e0 = sum(BUILDER.atomic_energies["Default"][int(z)] for z in item.atomic_numbers)
    return float(item.properties["energy"]) - e0


def errors_of(structures, predicted):
    """Yield (structure, name, prediction minus label) for every label."""
    start = 0
    for index, item in enumerate(structures):
        own = slice(start, start + len(item))
        start = own.stop
        if "energy" in item.properties:
            yield item, "energy", predicted.energy[index] - interaction_energy(item)
        if "forces" in item.properties:
            yield item, "forces", predicted.forces[own] - item.properties["forces"]
        if "stress" in item.properties:
            yield item, "stress", predicted.stress[index] - item.properties["stress"]


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("terms", [(1.0, 100.0, 0.0), (2.0, 0.0, 3.0), (0.0, 1.0, 10.0)], ids=str)
def test_loss(name, terms):
    structures = BATCHES[name]
    batch = padded(structures)
    predicted = predict_anything(batch)
    n_graph, n_atoms = len(structures), sum(map(len, structures))
    expected = 0.0
    for item, label, error in errors_of(structures, predicted):
        weight = terms[ALL.index(label)] * item.weight * item.property_weights.get(label, 1.0)
        if label == "energy":
            expected += weight * (error / len(item)) ** 2 / n_graph
        elif label == "forces":
            expected += weight * np.square(error).sum() / (3 * n_atoms)
        else:
            expected += weight * np.square(error).sum() / (9 * n_graph)
    found = weighted_energy_forces_stress_loss(predicted, batch, LossConfig("stress", *terms))
    assert expected > 0
    assert_allclose(found, expected, rtol=1e-12)


def test_a_term_that_is_switched_off_cannot_spoil_the_loss():
    batch = padded(BATCHES["all labels"])
    predicted = predict_anything(batch)._replace(stress=np.full((6, 3, 3), np.nan))
    assert np.isfinite(
        weighted_energy_forces_stress_loss(predicted, batch, LossConfig("stress", 1, 1, 0))
    )


@pytest.mark.parametrize("name", BATCHES)
def test_metrics(name):
    structures = BATCHES[name]
    batch = padded(structures)
    predicted = predict_anything(batch)
    found = metrics([batch_errors(predicted, batch, np.array(2.5))])
    errors = {label: [] for label in (*ALL, "energy_per_atom")}
    labels = {label: [] for label in ALL}
    for item, label, error in errors_of(structures, predicted):
        errors[label] += np.ravel(error).tolist()
        labels[label] += np.ravel(item.properties[label]).tolist()
        if label == "energy":
            errors["energy_per_atom"].append(error / len(item))
    assert found["loss"] == 2.5
    shorts = {"energy": "e", "energy_per_atom": "e_per_atom", "forces": "f", "stress": "stress"}
    for label, short in shorts.items():
        error = np.array(errors[label])
        assert_allclose(found[f"mae_{short}"], np.abs(error).mean(), rtol=1e-12)
        assert_allclose(found[f"rmse_{short}"], np.sqrt(np.square(error).mean()), rtol=1e-12)
    for label, short in (("forces", "f"), ("stress", "stress")):
        error, own = np.array(errors[label]), np.array(labels[label])
        relative = 100 * np.abs(error).mean() / np.abs(own).mean()
        assert_allclose(found[f"rel_mae_{short}"], relative, rtol=1e-12)
        relative = 100 * np.sqrt(np.square(error).mean() / np.square(own).mean())
        assert_allclose(found[f"rel_rmse_{short}"], relative, rtol=1e-12)


def test_metrics_of_an_epoch_do_not_depend_on_the_batches():
    structures = [item for batch in BATCHES.values() for item in batch]
    predictions, together = [], padded(structures, Caps.enclosing(40, 200, 12))
    whole = predict_anything(together)
    start = 0
    for index, item in enumerate(structures):
        alone = padded([item])
        mine = predict_anything(alone)
        mine.energy[0], mine.stress[0] = whole.energy[index], whole.stress[index]
        mine.forces[: len(item)] = whole.forces[start : start + len(item)]
        start += len(item)
        loss = weighted_energy_forces_stress_loss(mine, alone, LossConfig("stress", 1, 0, 1))
        predictions.append(batch_errors(mine, alone, loss))
    loss = weighted_energy_forces_stress_loss(whole, together, LossConfig("stress", 1, 0, 1))
    expected = metrics([batch_errors(whole, together, loss)])
    for name, value in metrics(predictions).items():
        assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)


def test_metrics_without_a_label_are_none():
    structures = [structure(3, ["energy"])]
    batch = padded(structures)
    found = metrics([batch_errors(predict_anything(batch), batch, np.array(1.0))])
    for name in ("mae_f", "rmse_f", "rel_mae_f", "mae_stress", "rel_rmse_stress"):
        assert found[name] is None
    assert found["mae_e"] > 0


def test_relative_errors_of_labels_that_are_all_zero_are_none():
    still = replace(structure(3, ["forces"]), properties={"forces": np.zeros((3, 3))})
    batch = padded([still])
    found = metrics([batch_errors(predict_anything(batch), batch, np.array(1.0))])
    assert found["rel_mae_f"] is None
    assert found["mae_f"] > 0
