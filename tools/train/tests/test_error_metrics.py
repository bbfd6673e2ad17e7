"""Metrics against NumPy over every label of a list of structures."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.structures.structure import Structure
from mace_jax_train.error_metrics import batch_errors, metrics

pytestmark = pytest.mark.usefixtures("float64")

BUILDER = GraphBuilder(3.0, (1, 8), ("Default",), {"Default": {1: -13.5, 8: -2041.25}})
CAPS = Caps.enclosing(n_node=17, n_edge=60, n_graph=6)
SHAPES = {"energy": (), "stress": (3, 3), "virials": (3, 3), "dipole": (3,)}
LABELS = ("forces", *SHAPES)
SHORT = {"energy": "e", "forces": "f", "stress": "stress", "virials": "virials", "dipole": "mu"}
PER_ATOM = ("energy", "virials", "dipole")
RELATIVE = ("forces", "stress", "dipole")


def structure(n: int, labels=LABELS, **options) -> Structure:
    rng = np.random.default_rng(n)
    values = {"forces": rng.normal(size=(n, 3))}
    values |= {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
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
    "some labels": [
        structure(3, ["energy", "dipole"]),
        structure(5, ["forces", "stress", "virials"]),
        structure(2, []),
    ],
    "weights": [structure(3, weight=2.5), structure(4, property_weights={"energy": 0.5})],
    "no weight": [
        structure(3),
        structure(5, property_weights=dict.fromkeys(LABELS, 0.0)),
        structure(4, weight=0.0),
    ],
}


def padded(structures, caps=CAPS):
    return pad_batch([BUILDER.build(item) for item in structures], caps, "float64")


def predict_anything(batch) -> dict[str, np.ndarray]:
    """Random numbers, in the padding too."""
    rng = np.random.default_rng(5)
    shapes = {"forces": (len(batch.species), 3)}
    shapes |= {name: (len(batch.n_node), *shape) for name, shape in SHAPES.items()}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def labels_and_errors(name, structures, predicted):
    """All components of labels and errors, those of weight 0 left out, and the atoms of each."""
    labels, errors, atoms, start = [], [], [], 0
    for index, item in enumerate(structures):
        rows = slice(start, start + len(item)) if name == "forces" else index
        start += len(item)
        if not item.weight * item.property_weights.get(name, 1.0) or name not in item.properties:
            continue
        label = item.properties[name]
        if name == "energy":
            e0 = BUILDER.atomic_energies["Default"]
            label = label - sum(e0[int(number)] for number in item.atomic_numbers)
        labels += np.ravel(label).tolist()
        errors += np.ravel(predicted[name][rows] - label).tolist()
        atoms += [len(item)] * np.size(label)
    return np.array(labels), np.array(errors), np.array(atoms)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("batch", BATCHES)
def test_metrics(name, batch):
    structures, short = BATCHES[batch], SHORT[name]
    predicted = predict_anything(padded(structures))
    found = metrics([batch_errors(predicted, padded(structures), np.array(2.5))])
    label, error, atoms = labels_and_errors(name, structures, predicted)
    expected = {
        f"mae_{short}": np.abs(error).mean(),
        f"rmse_{short}": np.sqrt(np.square(error).mean()),
    }
    if name in PER_ATOM:
        expected[f"mae_{short}_per_atom"] = np.abs(error / atoms).mean()
        expected[f"rmse_{short}_per_atom"] = np.sqrt(np.square(error / atoms).mean())
    if name in RELATIVE:
        expected[f"rel_mae_{short}"] = 100 * np.abs(error).mean() / np.abs(label).mean()
        expected[f"rel_rmse_{short}"] = 100 * np.sqrt(
            np.square(error).mean() / np.square(label).mean()
        )
    assert {key for key in found if short in key.split("_")} == expected.keys()
    for key, value in expected.items():
        assert_allclose(found[key], value, rtol=1e-12)


def test_metrics_of_an_epoch_do_not_depend_on_the_batches():
    structures = [item for batch in BATCHES.values() for item in batch]
    parts, together = [], padded(structures, Caps.enclosing(60, 400, 14))
    whole = predict_anything(together)
    start = 0
    for index, item in enumerate(structures):
        alone = padded([item])
        mine = predict_anything(alone)
        for name in SHAPES:
            mine[name][0] = whole[name][index]
        mine["forces"][: len(item)] = whole["forces"][start : start + len(item)]
        start += len(item)
        parts.append(batch_errors(mine, alone, np.array(float(index))))
    mean_loss = np.arange(len(structures)).mean()
    expected = metrics([batch_errors(whole, together, mean_loss)])
    found = metrics(parts)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


def test_sums_of_batches_are_added_leaf_by_leaf():
    batches = [padded([structure(n)]) for n in (2, 3, 4)]
    parts = [batch_errors(predict_anything(batch), batch, np.array(1.0)) for batch in batches]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert metrics([added]) == pytest.approx(metrics(parts), rel=1e-12)


def test_defect_10_what_was_not_predicted_has_no_error():
    """It was compared with itself: the error was 0."""
    batch = padded(BATCHES["all labels"])
    predicted = predict_anything(batch)
    for name in ("stress", "virials", "dipole"):
        del predicted[name]
    found = metrics([batch_errors(predicted, batch, np.array(1.0))])
    known = {key for key, value in found.items() if value is not None}
    assert known == {
        *("loss", "mae_e", "rmse_e", "mae_e_per_atom", "rmse_e_per_atom"),
        *("mae_f", "rmse_f", "rel_mae_f", "rel_rmse_f"),
    }
    everything = metrics([batch_errors(predict_anything(batch), batch, np.array(1.0))])
    assert found.keys() == everything.keys()
    assert None not in everything.values()


def test_what_has_no_label_has_no_error():
    batch = padded([structure(3, ["energy"])])
    found = metrics([batch_errors(predict_anything(batch), batch, np.array(1.0))])
    known = {key for key, value in found.items() if value is not None}
    assert known == {"loss", "mae_e", "rmse_e", "mae_e_per_atom", "rmse_e_per_atom"}


def test_relative_errors_of_labels_that_are_all_zero_are_none():
    still = structure(3, ["forces"])
    still.properties["forces"][:] = 0
    batch = padded([still])
    found = metrics([batch_errors(predict_anything(batch), batch, np.array(1.0))])
    assert found["rel_mae_f"] is found["rel_rmse_f"] is None
    assert found["mae_f"] > 0


def test_a_prediction_that_is_not_finite_shows():
    batch = padded([structure(3)])
    predicted = predict_anything(batch)
    predicted["forces"][0, 0] = np.nan
    assert np.isnan(metrics([batch_errors(predicted, batch, np.array(1.0))])["rmse_f"])
