"""Steps of a tiny network under every option, beside NumPy and beside each other, in float64."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.model.load import split_trainable
from mace_jax.model.predict import properties
from mace_jax_train.loss import make_loss
from mace_jax_train.method import Method, TrainState, make_method

pytestmark = pytest.mark.usefixtures("float64")

SGD = {"algorithm": "sgd", "lr": 0.001, "max_epochs": 4}
PLAIN = {"optimizer": SGD, "train": {"ema_decay": None, "max_grad_norm": None}}
AVERAGED = {"ema_decay": 0.9, "max_grad_norm": None}
STAGE_TWO = {
    "start_interval": 1,
    "lr": 0.0002,
    "loss": {"energy_weight": 3.0, "forces_weight": 7.0},
}
EVERYTHING = {
    "optimizer": {**SGD, "algorithm": "amsgrad", "scheduler": {"name": "reduce_on_plateau"}},
    "train": {"ema_decay": 0.9, "max_grad_norm": 1.0, "swa_config": STAGE_TWO},
}
ACCUMULATING = {"optimizer": {**SGD, "accumulate": 3}, "train": AVERAGED}
SCHEDULE_FREE = {
    "optimizer": {
        **SGD,
        "algorithm": "schedulefree",
        "schedule_free_b1": 0.8,
        "weight_decay": 0.1,
    },
    "train": {"ema_decay": None, "max_grad_norm": None},
}


@pytest.fixture(scope="module")
def batches(run) -> list[GraphBatch]:
    """Those of an epoch in these tests: four graphs and one."""
    loader = run.loaders["train"]
    first, second, *_ = loader.plan.batches
    return [
        pad_batch(loader.graphs(ids), loader.shapes[0], "float64") for ids in (first, second[:1])
    ]


class Case(NamedTuple):
    """A method and its state before the first step."""

    method: Method
    state: TrainState

    def epochs(self, batches, n: int) -> Iterator[tuple[TrainState, list, TrainState]]:
        """Train, and yield the vectors of weights, the reports and the state of each epoch."""
        state = self.state
        for epoch in range(1, n + 1):
            state = self.method.begin_epoch(state, epoch)
            weights, reports = [vector(state)], []
            for batch in batches:
                state, report = self.method.train_step(state, batch)
                reports.append(jax.device_get(report))
                weights.append(vector(state))
            state = self.method.end_epoch(state, epoch)
            yield weights, reports, state


def vector(state: TrainState) -> np.ndarray:
    return np.array(ravel_pytree(state.parameters)[0])


@pytest.fixture(scope="module")
def make(run, make_config) -> Callable[..., Case]:
    """Return a function from sections of a configuration to a method with two steps an epoch.

    Equal configurations share their compiled steps.
    """
    network, parameters = split_trainable(run.model)
    made: dict[str, Method] = {}

    def make(**sections) -> Case:
        if repr(sections) not in made:
            made[repr(sections)] = make_method(make_config(**sections), network, 2)
        method = made[repr(sections)]
        return Case(method, method.initial_state(parameters))

    return make


@pytest.fixture(scope="module")
def gradient_of(run) -> Callable[..., np.ndarray]:
    """Return a function to the gradient of a loss for some batches, as a mean over their graphs."""
    network, parameters = split_trainable(run.model)

    @jax.jit
    def value(parameters, batch):
        return make_loss(run.config.loss)(properties(network(parameters), batch), batch)

    def gradient_of(batches) -> np.ndarray:
        total, n_graph = 0.0, 0
        for batch in batches:
            n = int(batch.graph_mask.sum())
            total += n * np.array(ravel_pytree(jax.grad(value)(parameters, batch))[0])
            n_graph += n
        return total / n_graph

    return gradient_of


# The learning rate


FOURTHS = np.arange(1, 5) / 4
SCHEDULES = {
    "constant": ({}, [1] * 8),
    "exponential_decay": ({"decay_rate": 0.5}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
    "piecewise_constant_schedule": (
        {"boundaries_and_scales": ((1.5, 0.1),)},
        [1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1],
    ),
    "reduce_on_plateau": ({"factor": 0.5, "patience": 1}, [1, 1, 1, 1, 1, 1, 0.5, 0.5]),
    "warmup_cosine_decay": (
        {"warmup_epochs": 2},
        [*FOURTHS, *(1 + np.cos(np.pi * (FOURTHS - 0.25))) / 2],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_defect_6_a_step_is_as_long_as_the_schedule_says(make, batches, name):
    """mace-jax: a plateau changes only the rate that is logged."""
    settings, expected = SCHEDULES[name]
    case = make(**PLAIN | {"optimizer": {**SGD, "scheduler": {"name": name, **settings}}})
    state, found = case.state, []
    for epoch in range(1, 5):
        state = case.method.begin_epoch(state, epoch)
        for batch in batches:
            before = vector(state)
            state, report = case.method.train_step(state, batch)
            length = np.linalg.norm(vector(state) - before)
            assert length == pytest.approx(float(report.lr * report.gradient_norm), rel=1e-9)
            found.append(float(report.lr) / SGD["lr"])
        state = case.method.after_evaluation(case.method.end_epoch(state, epoch), 1.0)
    assert_allclose(found, expected, rtol=1e-12)
    assert case.method.n_compilations == 1


def test_the_schedule_follows_epochs_where_steps_are_missing(make, batches):
    settings, _ = SCHEDULES["exponential_decay"]
    scheduler = {"name": "exponential_decay", **settings}
    case = make(**PLAIN | {"optimizer": {**SGD, "scheduler": scheduler}})
    *_, (_, reports, state) = case.epochs(batches[:1], 3)
    assert reports[0].lr == pytest.approx(SGD["lr"] / 4)
    again = case.method.begin_epoch(state, 3)  # an epoch that is gone on with
    assert again.n_scheduled == state.n_scheduled == 5


# Clipping and accumulation


def test_clipping(make, batches, gradient_of):
    gradient = gradient_of(batches[:1])
    norm = np.linalg.norm(gradient)
    case = make(optimizer=SGD, train={"ema_decay": None, "max_grad_norm": float(norm) / 3})
    before = vector(case.state)
    state, report = case.method.train_step(case.state, batches[0])
    assert report.gradient_norm == pytest.approx(norm, rel=1e-12)
    factor = norm / 3 / (norm + 1e-6)
    assert_allclose(before - vector(state), SGD["lr"] * factor * gradient, rtol=1e-8, atol=1e-14)


def test_batches_make_one_update_with_the_mean_over_their_graphs(make, batches, gradient_of):
    three = [batches[0], batches[1], batches[0]]
    assert [int(batch.graph_mask.sum()) for batch in three] == [4, 1, 4]
    case = make(**ACCUMULATING)
    (before, *between, after), _, state = next(case.epochs(three, 1))
    assert_array_equal(between, [before, before])
    expected = SGD["lr"] * gradient_of(three)
    assert_allclose(before - after, expected, rtol=1e-8, atol=1e-14)
    assert (state.n_updates, state.n_scheduled) == (1, 1)


def test_the_last_group_of_an_epoch_may_be_short(make, batches, gradient_of):
    case = make(**ACCUMULATING)
    (before, *_, same), _, state = next(case.epochs(batches, 1))
    assert_array_equal(before, same)
    expected = SGD["lr"] * gradient_of(batches)
    assert_allclose(before - vector(state), expected, rtol=1e-8, atol=1e-14)
    assert (state.n_updates, state.accumulated.n_batches, state.accumulated.n_graph) == (1, 0, 0)
    assert case.method.end_epoch(state, 1).n_updates == 1  # nothing is left to do


def test_three_thirds_are_as_one_batch(make, run, gradient_of):
    """Of structures that have as many atoms: a batch's forces count by atoms, not by graphs."""
    loader = run.loaders["train"]
    ids = [i for i in range(12) if len(loader.graphs([i])[0].structure) == 2][:3]
    whole, *thirds = (
        pad_batch(loader.graphs(part), loader.shapes[0], "float64") for part in (ids, *zip(ids))
    )
    assert [int(batch.graph_mask.sum()) for batch in (whole, *thirds)] == [3, 1, 1, 1]
    case = make(**ACCUMULATING)
    (before, *_, after), _, _ = next(case.epochs(thirds, 1))
    assert_allclose(before - after, SGD["lr"] * gradient_of([whole]), rtol=1e-8, atol=1e-14)


# What is not finite


def without_labels(batch: GraphBatch) -> GraphBatch:
    return batch._replace(energy=np.full_like(batch.energy, np.nan))


def with_too_much_weight(batch: GraphBatch) -> GraphBatch:
    """The loss is 1e300, but the square of the gradient is too large."""
    huge = np.full_like(batch.energy, 1e100)
    return batch._replace(energy=huge, energy_weight=huge * batch.energy_weight)


@pytest.mark.parametrize(
    ("sections", "spoiled"),
    [
        (EVERYTHING, without_labels),
        (EVERYTHING, with_too_much_weight),
        (ACCUMULATING, without_labels),
        (SCHEDULE_FREE, without_labels),
    ],
    ids=["everything", "gradient", "accumulating", "schedule-free"],
)
def test_a_step_that_is_not_finite_changes_no_bit(make, batches, sections, spoiled):
    case = make(**sections)
    state = case.method.begin_epoch(case.state, 1)
    for batch in (*batches, *batches):
        state, report = case.method.train_step(state, batch)
        assert not report.skipped
    before = jax.tree.map(np.array, state)
    state, report = case.method.train_step(state, spoiled(batches[1]))
    assert report.skipped
    assert np.isfinite(report.errors.loss) == (spoiled is with_too_much_weight)
    assert not np.isfinite(report.gradient_norm)
    after = jax.tree.map(np.array, state)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert old.dtype == new.dtype
        assert old.tobytes() == new.tobytes()
    for batch in batches:
        state, report = case.method.train_step(state, batch)
        assert not report.skipped
    assert np.abs(vector(state) - ravel_pytree(before.parameters)[0]).max() > 0


# Averages and stages


def test_the_moving_average_counts_updates(make, batches):
    case = make(**ACCUMULATING)
    expected = vector(case.state)
    for n, (_, _, state) in enumerate(case.epochs(batches, 3), start=1):
        kept = (1 + n) / (10 + n)
        expected = kept * expected + (1 - kept) * vector(state)
        evaluated = ravel_pytree(case.method.evaluated(state))[0]
        assert_allclose(evaluated, expected, rtol=1e-12)
        assert np.abs(evaluated - vector(state)).max() > 1e-6


def test_without_averages_the_parameters_are_evaluated(make, batches):
    case = make(**PLAIN)
    weights, _, state = next(case.epochs(batches, 1))
    evaluated = case.method.evaluated(state)
    case.method.train_step(state, batches[0])  # evaluated are copies
    assert_array_equal(ravel_pytree(evaluated)[0], weights[-1])


@pytest.mark.parametrize(
    ("settings", "averaged", "evaluated_from"),
    [
        ({}, [2, 3, 4, 5], 2),
        ({"update_interval": 2}, [2, 4], 2),
        ({"max_snapshots": 2}, [2, 3], 2),
        ({"min_snapshots_for_eval": 3}, [2, 3, 4, 5], 4),
        ({"prefer_swa_params": False}, [2, 3, 4, 5], 9),
    ],
    ids=str,
)
def test_snapshots_of_stage_two(make, batches, settings, averaged, evaluated_from):
    case = make(**EVERYTHING)
    train = case.method.config.train
    train = replace(train, swa_config=replace(train.swa_config, **settings))
    case = case._replace(
        method=replace(case.method, config=replace(case.method.config, train=train))
    )
    ends = []
    for epoch, (weights, _, state) in enumerate(case.epochs(batches[:1], 5), start=1):
        ends += [weights[-1]] if epoch in averaged else []
        assert state.snapshots.n == len(ends)
        evaluated = ravel_pytree(case.method.evaluated(state))[0]
        if epoch >= evaluated_from:
            assert_allclose(evaluated, np.mean(ends, axis=0), rtol=1e-12)
        else:
            assert_array_equal(evaluated, state.averaged)


def test_the_state_says_which_stage_it_is_in(make, batches):
    """Also where a run goes on in the middle of an epoch: nothing else has to be told."""
    case = make(**EVERYTHING)
    state = case.method.begin_epoch(case.state, 2)
    expected = float(case.method.eval_step(case.method.evaluated(state), batches[0]).loss)
    other = replace(case.method)
    assert float(other.eval_step(state.parameters, batches[0]).loss) != pytest.approx(expected)
    restored = jax.tree.map(jnp.array, state)  # as from a checkpoint
    weights = other.evaluated(restored)
    assert float(other.eval_step(weights, batches[0]).loss) == expected
    for _ in range(2):
        restored, report = other.train_step(restored, batches[0])
        assert report.lr == pytest.approx(STAGE_TWO["lr"])
    assert restored.epoch == 2


def test_schedule_free_is_evaluated_at_x(make, batches):
    """x is y with the part of z taken out; the moving average has no place in it."""
    case = make(**SCHEDULE_FREE)
    weights, _, state = next(case.epochs(batches, 1))
    x = (weights[-1] - 0.2 * np.array(state.optimizer.z)) / 0.8
    evaluated = ravel_pytree(case.method.evaluated(state))[0]
    assert state.averaged is None
    assert_allclose(evaluated, x, rtol=1e-12)
    assert np.abs(evaluated - weights[-1]).max() > 1e-8


def test_defect_5_stage_two_trains_on_its_loss_and_rate_and_averages(make, batches):
    """mace-jax: the average is out of reach, and the loss of stage two changes validation only."""
    case = make(**EVERYTHING)
    assert [case.method.stage(epoch) for epoch in (1, 2, 3)] == [1, 2, 2]
    alone = make(
        loss=STAGE_TWO["loss"],
        optimizer={**EVERYTHING["optimizer"], "lr": STAGE_TWO["lr"]},
        train={"ema_decay": None, "max_grad_norm": 1.0},
    )
    epochs = case.epochs(batches, 2)
    *_, state = next(epochs)
    parameters, optimizer = jax.tree.map(jnp.copy, (state.parameters, state.optimizer))
    other = alone.state._replace(parameters=parameters, optimizer=optimizer)
    weights, reports, state = next(epochs)
    for batch, report, after in zip(batches, reports, weights[1:], strict=True):
        other, expected = alone.method.train_step(other, batch)
        assert report.errors.loss == pytest.approx(float(expected.errors.loss), rel=1e-12)
        assert report.lr == pytest.approx(STAGE_TWO["lr"])
        assert_allclose(vector(other), after, rtol=1e-10, atol=1e-14)
    assert_array_equal(ravel_pytree(case.method.evaluated(state))[0], weights[-1])
    found, expected = (
        float(each.method.eval_step(state.parameters, batches[0]).loss) for each in (case, alone)
    )
    assert found == pytest.approx(expected, rel=1e-12)
    stages = [(s.train_step._cache_size(), s.eval_step._cache_size()) for s in case.method.stages]
    assert (stages[0][0], *stages[1]) == (1, 1, 1)
