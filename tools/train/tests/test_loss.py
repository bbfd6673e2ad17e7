"""Losses against NumPy over a list of labelled structures; padding and missing labels."""

from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.artifacts.train_config import LOSS_TERMS
from mace_jax.artifacts.train_config_sections import LossConfig
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.errors import ConfigError
from mace_jax.model.load import build_model, split_trainable
from mace_jax.model.predict import properties
from mace_jax.structures.structure import Structure
from mace_jax_train.loss import make_loss, quantities

pytestmark = pytest.mark.usefixtures("float64")

BUILDER = GraphBuilder(3.0, (1, 8), ("Default",), {"Default": {1: -13.5, 8: -2041.25}})
CAPS = Caps.enclosing(n_node=17, n_edge=60, n_graph=6)
TERMS = {"energy": 2.0, "forces": 30.0, "stress": 7.0, "virials": 0.5, "dipole": 1.5}
DELTA = 0.8  # some errors are larger, some smaller


def loss_config(name, **weights) -> LossConfig:
    weights = {term: TERMS[term] for term in LOSS_TERMS[name]} | weights
    return LossConfig(name, huber_delta=DELTA, **{f"{k}_weight": v for k, v in weights.items()})


CONFIGS = {name: loss_config(name) for name in LOSS_TERMS}


def structure(n: int, labels=tuple(TERMS), seed: int = 0, forces_size: float = 1.0, **options):
    rng = np.random.default_rng([seed, n])
    values = {
        "energy": rng.normal(),
        "forces": forces_size * rng.normal(size=(n, 3)),
        "stress": rng.normal(size=(3, 3)),
        "virials": rng.normal(size=(3, 3)),
        "dipole": rng.normal(size=3),
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
    "some labels": [
        structure(3, ["energy", "dipole"]),
        structure(5, ["forces", "stress", "virials"]),
        structure(2, []),
    ],
    "weights": [
        structure(3, weight=2.5),
        structure(4, property_weights=dict(zip(TERMS, (0.5, 3.0, 7.0, 0.2, 4.0), strict=True))),
        structure(2, ["energy", "forces"], weight=0.1, property_weights={"energy": 4.0}),
    ],
    "large forces": [structure(5, forces_size=size, seed=int(size)) for size in (60, 120, 400)],
}


def padded(structures, caps=CAPS):
    return pad_batch([BUILDER.build(item) for item in structures], caps, "float64")


def predict_anything(batch) -> dict[str, np.ndarray]:
    """Random numbers, in the padding too."""
    rng = np.random.default_rng(5)
    n_graph, n_node = len(batch.n_node), len(batch.species)
    return {
        "energy": rng.normal(size=n_graph),
        "forces": rng.normal(size=(n_node, 3)),
        "stress": rng.normal(size=(n_graph, 3, 3)),
        "virials": rng.normal(size=(n_graph, 3, 3)),
        "dipole": rng.normal(size=(n_graph, 3)),
    }


@cache
def compiled(name):
    return jax.jit(jax.value_and_grad(make_loss(CONFIGS[name])))


def huber(error, delta):
    small = np.abs(error) <= delta
    return np.where(small, error**2 / 2, delta * (np.abs(error) - delta / 2))


def delta_of_forces(forces):
    norm = np.linalg.norm(forces, axis=1, keepdims=True)
    return DELTA * np.select([norm < 100, norm < 200, norm < 300], [1.0, 0.7, 0.4], 0.1)


def penalty(name, term, error, weight, label):
    """The values that are averaged, of one structure."""
    if name == "huber":
        return weight * huber(error, DELTA)
    if name == "universal":
        delta = delta_of_forces(weight * label) if term == "forces" else DELTA
        return huber(weight * error, delta)
    if name == "l1l2":
        return weight * (np.linalg.norm(error, axis=1) if term == "forces" else np.abs(error))
    return weight * error**2


def expected_loss(name, structures, predicted):
    """The loss, summed structure by structure in NumPy."""
    total, start = 0.0, 0
    n_graph, n_atoms = len(structures), sum(map(len, structures))
    for index, item in enumerate(structures):
        own = slice(start, start + len(item))
        start = own.stop
        for term in set(LOSS_TERMS[name]) & item.properties.keys():
            label = item.properties[term]
            if term == "energy":
                label = label - sum(
                    BUILDER.atomic_energies["Default"][z] for z in item.atomic_numbers
                )
            found = predicted[term][own if term == "forces" else index]
            per = len(item) if term in ("energy", "virials", "dipole") else 1
            weight = item.weight * item.property_weights.get(term, 1.0)
            values = penalty(name, term, (found - label) / per, weight, label)
            rows = n_atoms if term == "forces" else n_graph
            components = values.size / (len(item) if term == "forces" else 1)
            scale = 100.0 if term == "dipole" else 1.0
            total += scale * TERMS[term] * values.sum() / (rows * components)
    return total


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LOSS_TERMS)
def test_loss(name, batch):
    structures = BATCHES[batch]
    predicted = predict_anything(padded(structures))
    expected = expected_loss(name, structures, predicted)
    assert expected > 0
    found, _ = compiled(name)(predicted, padded(structures))
    assert_allclose(found, expected, rtol=1e-12)


def test_the_examples_reach_every_branch():
    large = np.concatenate([item.properties["forces"] for item in BATCHES["large forces"]])
    assert len(np.unique(delta_of_forces(large))) == 4
    batch = padded(BATCHES["all labels"])
    error = np.abs(predict_anything(batch)["stress"] - batch.stress)[:3]
    assert (error < DELTA).any()
    assert (error > DELTA).any()


@st.composite
def batches(draw):
    """Up to five structures of at most three atoms with any labels and weights."""
    weights = st.sampled_from([0.0, 0.25, 1.0, 7.0])
    result = []
    for seed in range(draw(st.integers(1, 5))):
        labels = draw(st.sets(st.sampled_from(list(TERMS))))
        item = structure(
            draw(st.integers(1, 3)),
            sorted(labels),
            seed,
            weight=draw(weights),
            property_weights={name: draw(weights) for name in sorted(labels)},
        )
        result.append(item)
    return result


@pytest.mark.parametrize("name", LOSS_TERMS)
@settings(max_examples=20, deadline=None)
@given(structures=batches())
def test_any_labels_and_weights(name, structures):
    with jax.enable_x64(True):
        batch = padded(structures)
        predicted = predict_anything(batch)
        loss, gradient = compiled(name)(predicted, batch)
        assert_allclose(loss, expected_loss(name, structures, predicted), rtol=1e-12, atol=1e-14)
        # what has no label may be anything, and gets no gradient
        for term in LOSS_TERMS[name]:
            weight = getattr(batch, f"{term}_weight")
            weight = weight[batch.node_graph] if term == "forces" else weight
            predicted[term][weight == 0] = np.nan
            assert not np.asarray(gradient[term])[weight == 0].any()
            assert np.isfinite(gradient[term]).all()
        again, gradient_again = compiled(name)(predicted, batch)
        assert again == loss
        for term, array in gradient.items():
            np.testing.assert_array_equal(gradient_again[term], array)


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_a_structure_without_labels_counts_in_the_means_alone(name):
    structures = BATCHES["all labels"]
    larger = padded([*structures, structure(4, [])])
    predicted = predict_anything(larger)
    terms = LOSS_TERMS[name]
    for term in terms:
        weights = dict.fromkeys(terms, 0.0) | {term: 1.0}
        loss = make_loss(loss_config(name, **weights))
        ratio = 10 / 14 if term == "forces" else 3 / 4
        expected = ratio * loss(predicted, padded(structures))
        assert_allclose(loss(predicted, larger), expected, rtol=1e-12)


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_padding_counts_nowhere(name):
    structures = BATCHES["some labels"]
    small, large = padded(structures), padded(structures, Caps.enclosing(40, 100, 20))
    predicted = predict_anything(large)
    cut = {
        term: array[: len(small.species) if term == "forces" else len(small.n_node)]
        for term, array in predicted.items()
    }
    loss = make_loss(CONFIGS[name])
    assert_allclose(loss(cut, small), loss(predicted, large), rtol=1e-13)


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_a_batch_of_padding_has_loss_0_and_no_gradient(name):
    batch = pad_batch([], CAPS, "float64")
    loss, gradient = compiled(name)(predict_anything(batch), batch)
    assert loss == 0
    assert not any(np.asarray(array).any() for array in gradient.values())


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_the_loss_has_the_dtype_of_the_batch(name):
    graphs = [BUILDER.build(item) for item in BATCHES["weights"]]
    batch = pad_batch(graphs, CAPS, "float32")
    predicted = {term: array.astype(np.float32) for term, array in predict_anything(batch).items()}
    assert jax.eval_shape(make_loss(CONFIGS[name]), predicted, batch).dtype == np.float32


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_gradients_are_finite_where_the_prediction_is_exact(name):
    batch = padded([structure(5), structure(3)])
    exact = {term: getattr(batch, term) for term in TERMS}
    loss, gradient = compiled(name)(exact, batch)
    assert loss == 0
    assert not any(np.asarray(array).any() for array in gradient.values())


def test_config_type_weights_multiply_those_of_structures():
    odd = structure(3, config_type="odd", weight=0.5)
    builder = BUILDER._replace(config_type_weights={"odd": 4.0})
    graphs = [builder.build(item) for item in (odd, structure(5))]
    batch = pad_batch(graphs, CAPS, "float64")
    predicted = predict_anything(batch)
    expected = expected_loss("ef", [structure(3, weight=2.0), structure(5)], predicted)
    assert_allclose(make_loss(CONFIGS["ef"])(predicted, batch), expected, rtol=1e-12)


def test_weighted_has_a_stress_term_where_it_is_given_a_weight():
    batch = padded(BATCHES["all labels"])
    predicted = predict_anything(batch)
    without = loss_config("weighted", stress=0.0)
    assert quantities(without) == {"energy", "forces"}
    assert quantities(CONFIGS["weighted"]) == {"energy", "forces", "stress"}
    assert make_loss(without)(predicted, batch) == make_loss(CONFIGS["ef"])(predicted, batch)
    predicted["stress"] = np.full((6, 3, 3), np.nan)
    assert np.isfinite(make_loss(without)(predicted, batch))


def test_what_the_model_does_not_predict_is_named():
    batch = padded(BATCHES["all labels"])
    predicted = predict_anything(batch)
    del predicted["dipole"]
    message = "energy_forces_dipole needs dipole, but the model predicts only energy, forces"
    with pytest.raises(ConfigError, match=message):
        make_loss(CONFIGS["energy_forces_dipole"])(predicted, batch)


# Defects of an earlier trainer.


@pytest.mark.parametrize("name", ["huber", "universal"])
@pytest.mark.parametrize("delta", [0.01, 1.0])
def test_defect_7_huber_is_continuous_at_delta(name, delta):
    """Its inner branch was divided by delta: the loss fell a hundredfold at 0.01."""
    batch = padded([structure(1, ["stress"])])
    loss = make_loss(LossConfig(name, stress_weight=1.0, huber_delta=delta))
    error = np.zeros((6, 3, 3))
    error[0] = delta
    below, at, above = (
        float(loss({"stress": batch.stress + factor * error}, batch))
        for factor in (1 - 1e-9, 1, 1 + 1e-9)
    )
    assert_allclose(at, delta**2 / 2, rtol=1e-12)
    assert_allclose([below, above], at, rtol=1e-8)


@pytest.mark.parametrize(
    "name", [name for name in LOSS_TERMS if "forces" in LOSS_TERMS[name] and name != "forces_only"]
)
def test_defect_8_missing_forces_are_not_learned_as_zeros(name):
    """They were, by ``l1l2`` and the plain squares."""
    structures = [structure(3, [term for term in TERMS if term != "forces"]), structure(2)]
    batch = padded(structures)
    predicted = predict_anything(batch)
    _, gradient = compiled(name)(predicted, batch)
    assert not np.asarray(gradient["forces"])[:3].any()
    assert np.asarray(gradient["forces"])[3:5].all()
    filled_in = [structure(3), structure(2)]
    filled_in[0].properties["forces"][:] = 0
    assert np.asarray(compiled(name)(predicted, padded(filled_in))[1]["forces"])[:3].all()


def test_defect_9_universal_multiplies_prediction_and_label_by_the_weight_once():
    """The prediction alone was, and the loss once more."""
    item = structure(2, ["forces"], property_weights={"forces": 3.0})
    batch = padded([item])
    loss = make_loss(LossConfig("universal", forces_weight=1.0, huber_delta=100.0))
    assert loss({"forces": batch.forces}, batch) == 0
    assert_allclose(loss({"forces": batch.forces + 0.1}, batch), 0.3**2 / 2, rtol=1e-12)


NETWORK = ModelConfig(
    model="ScaleShiftMACE",
    r_max=3.0,
    num_bessel=3,
    num_polynomial_cutoff=5,
    max_ell=1,
    num_interactions=1,
    hidden_irreps="2x0e + 2x1o",
    MLP_irreps="2x0e",
    correlation=1,
    radial_MLP=(4,),
    gate="silu",
    interaction_cls="RealAgnosticInteractionBlock",
    interaction_cls_first="RealAgnosticInteractionBlock",
    avg_num_neighbors=2.0,
    atomic_numbers=(1, 8),
)
DIPOLES = {"AtomicDipolesMACE": "2x1o", "EnergyDipolesMACE": "2x0e + 2x1o"}


@pytest.mark.parametrize(
    ("name", "model", "term"),
    [
        ("virials", "ScaleShiftMACE", "virials"),
        ("dipole", "AtomicDipolesMACE", "dipole"),
        ("energy_forces_dipole", "EnergyDipolesMACE", "dipole"),
    ],
)
def test_defect_13_every_term_is_fed_by_the_model(name, model, term):
    """Virials and dipoles were never predicted, their terms silently 0."""
    config = replace(NETWORK, model=model, MLP_irreps=DIPOLES.get(model, "2x0e"))
    network, parameters = split_trainable(
        build_model(config, scale=[1.0], shift=[0.0], dtype="float64", rng=np.random.default_rng(0))
    )
    builder = BUILDER._replace(inputs=model_inputs(config))
    batch = pad_batch([builder.build(structure(3, [term]))], CAPS, "float64")
    alone = dict.fromkeys(LOSS_TERMS[name], 0.0) | {term: 1.0}
    loss = make_loss(loss_config(name, **alone))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss_and_gradient(parameters, batch):
        predicted = properties(network(parameters), batch)
        return loss(predicted, batch), predicted[term]

    (_, predicted), gradient = loss_and_gradient(parameters, batch)
    assert np.abs(predicted[0]).max() > 1e-6
    assert any(np.abs(leaf).max() > 1e-8 for leaf in jax.tree.leaves(gradient))
    learned = batch._replace(**{term: np.asarray(predicted)})
    assert loss_and_gradient(parameters, learned)[0][0] < 1e-20
