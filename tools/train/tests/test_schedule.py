"""Learning rates by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from mace_jax.artifacts.train_config_sections import OptimizerConfig, ScheduleConfig
from mace_jax_train.schedule import after_loss, make_schedule, no_plateau

pytestmark = pytest.mark.usefixtures("float64")


def rates(updates_per_epoch: int, max_epochs: int = 4, **scheduler) -> list[float]:
    """Return the learning rate of each update of a run."""
    config = OptimizerConfig(lr=0.8, max_epochs=max_epochs, scheduler=ScheduleConfig(**scheduler))
    schedule = jax.jit(make_schedule(config, updates_per_epoch))
    return [float(schedule(jnp.int32(n))) for n in range(updates_per_epoch * max_epochs)]


@pytest.mark.parametrize("name", ["constant", "reduce_on_plateau"])
def test_constant(name):
    assert rates(2, name=name) == [0.8] * 8


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1]),
        ({"transition_steps": 2}, [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4]),
        ({"transition_begin": 1}, [0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2]),
        ({"end_value": 0.3}, [0.8, 0.8, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3]),
        ({"staircase": False}, 0.8 * 0.5 ** (np.arange(8) / 2)),
        ({"decay_rate": 1.5}, [0.8, 0.8, 1.2, 1.2, 1.8, 1.8, 2.7, 2.7]),
    ],
    ids=str,
)
def test_exponential_decay(settings, expected):
    settings = {"decay_rate": 0.5, **settings}
    assert_allclose(rates(2, name="exponential_decay", **settings), expected, rtol=1e-14)


def test_defect_6_exponential_decay_needs_nothing_but_its_name():
    """mace-jax: constant unless ``transition_steps`` is given. mace-torch: 0.9993 an epoch."""
    found = rates(1, name="exponential_decay")
    assert_allclose(found, 0.8 * 0.9993 ** np.arange(4), rtol=1e-14)


def test_exponential_decay_happens_between_epochs_also_where_they_are_long():
    schedule = make_schedule(
        OptimizerConfig(lr=1.0, scheduler=ScheduleConfig("exponential_decay", decay_rate=0.5)),
        30_011,
    )
    with jax.enable_x64(False):
        for epoch in (1, 2, 61):
            assert schedule(jnp.int32(epoch * 30_011 - 1)) == 0.5 ** (epoch - 1)
            assert schedule(jnp.int32(epoch * 30_011)) == 0.5**epoch


def test_piecewise_constant():
    found = rates(
        2,
        name="piecewise_constant_schedule",
        boundaries_and_scales=((3.0, 0.1), (1.0, 0.5), (1.5, 2.0)),
    )
    assert_allclose(found, [0.8, 0.8, 0.4, 0.8, 0.8, 0.8, 0.08, 0.08], rtol=1e-14)


def test_warmup_and_cosine():
    """Four updates up, none of them 0, and twelve down."""
    found = rates(4, name="warmup_cosine_decay", warmup_epochs=1, end_value=0.2)
    falling = 0.2 + 0.6 * (1 + np.cos(np.pi * np.arange(12) / 12)) / 2
    assert_allclose(found, [0.2, 0.4, 0.6, 0.8, *falling], rtol=1e-14)


def test_cosine_without_warmup_starts_at_the_whole_rate():
    found = rates(2, name="warmup_cosine_decay")
    assert found[0] == 0.8
    assert 0 < found[-1] < 0.05


def test_warmup_may_take_the_whole_run():
    assert_allclose(
        rates(2, 2, name="warmup_cosine_decay", warmup_epochs=9), 0.8 * np.arange(1, 5) / 18
    )


@pytest.mark.parametrize("name", ["constant", "reduce_on_plateau"])
def test_warmup_to_a_constant_rate(name):
    found = rates(2, name=name, warmup_epochs=2)
    assert_allclose(found, [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8], rtol=1e-14)


def test_warmup_of_a_rate_that_falls_meanwhile():
    found = rates(2, name="exponential_decay", decay_rate=0.5, warmup_epochs=1.5)
    assert_allclose(found[:4], [0.8 / 3, 1.6 / 3, 0.4, 0.4], rtol=1e-14)


def factors(losses, **settings) -> list[float]:
    config = OptimizerConfig(
        lr=0.8, scheduler=ScheduleConfig("reduce_on_plateau", factor=0.5, **settings)
    )
    plateau, found = no_plateau(), []
    for loss in losses:
        plateau = after_loss(plateau, loss, config)
        found.append(float(plateau.factor))
    return found


def test_plateau():
    """Two evaluations without a better loss are waited for, the third reduces."""
    losses = [9, 8, 8, 8, 8, 8, 7, 7, 7, 7, 7, 7]
    expected = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert factors(losses, patience=2) == expected


def test_better_is_relative_to_the_best():
    assert factors([100, 99.5, 99.0], patience=1, threshold=0.01) == [1, 1, 0.5]
    assert factors([100, 99.5, 99.0], patience=1, threshold=0.001) == [1, 1, 1]
    assert factors([100, 100 - 1e-9, 100], patience=1, threshold=0.0) == [1, 1, 1]


def test_plateau_ends_at_the_lowest_rate():
    assert factors([1] * 5, patience=1, min_lr=0.3) == pytest.approx([1, 1, 0.5, 0.5, 0.375])
    assert factors([1] * 3, patience=1, min_lr=0.9) == [1, 1, 1]


def test_a_loss_that_is_no_number_is_no_better():
    assert factors([1, np.nan, np.nan, 0.5], patience=1) == [1, 1, 0.5, 0.5]
