"""How the learning rate changes: with the updates done, and where the loss has reached a plateau.

Both are part of the compiled step: the first as a function, the second as a factor in its state.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from mace_jax.artifacts.train_config_sections import OptimizerConfig

Schedule = Callable[[Array], Array]


def make_schedule(config: OptimizerConfig, updates_per_epoch: int) -> Schedule:
    """Return the learning rate of an update, given how many were before it.

    Epochs become updates here, so that a rate which changes between epochs does so exactly there.
    The first rate of a warm-up is not 0, and the last is the whole: each update is of use.
    """
    schedule = _schedule(config, updates_per_epoch)
    rising = _rising(config, updates_per_epoch)

    def warmed_up(n_before: Array) -> Array:
        n_before = n_before.astype(float)  # an int32 over an int is a float32
        return jnp.minimum(1, (n_before + 1) / rising) * schedule(n_before)

    return warmed_up


def _rising(config: OptimizerConfig, updates_per_epoch: int) -> int:
    """Return the updates of the warm-up; the first has the whole rate where there is none."""
    return max(1, round(config.scheduler.warmup_epochs * updates_per_epoch))


def _schedule(config: OptimizerConfig, updates_per_epoch: int) -> Schedule:
    match config.scheduler.name:
        case "exponential_decay":
            return _exponential(config, updates_per_epoch)
        case "piecewise_constant_schedule":
            return _piecewise(config, updates_per_epoch)
        case "warmup_cosine_decay":
            return _cosine(config, updates_per_epoch)
        case _:
            return lambda _: jnp.asarray(config.lr)


def _exponential(config: OptimizerConfig, updates_per_epoch: int) -> Schedule:
    scheduler = config.scheduler
    decay = optax.exponential_decay(
        config.lr,
        scheduler.transition_steps * updates_per_epoch,
        scheduler.decay_rate,
        scheduler.transition_begin * updates_per_epoch,
        scheduler.staircase,
    )
    return lambda n_before: jnp.maximum(decay(n_before), scheduler.end_value)


def _piecewise(config: OptimizerConfig, updates_per_epoch: int) -> Schedule:
    changes = config.scheduler.boundaries_and_scales

    def schedule(n_before: Array) -> Array:
        lr = jnp.asarray(config.lr)
        for epoch, factor in changes:
            lr *= jnp.where(n_before >= epoch * updates_per_epoch, factor, 1)
        return lr

    return schedule


def _cosine(config: OptimizerConfig, updates_per_epoch: int) -> Schedule:
    """Fall after the warm-up; the last rate is not yet ``end_value``."""
    rising = _rising(config, updates_per_epoch)
    falling = max(1, config.max_epochs * updates_per_epoch - rising)
    end = config.scheduler.end_value

    def schedule(n_before: Array) -> Array:
        angle = jnp.pi * jnp.clip((n_before - rising) / falling, 0, 1)
        return end + (config.lr - end) * (1 + jnp.cos(angle)) / 2

    return schedule


class Plateau(NamedTuple):
    """What evaluations have done to the learning rate.

    Attributes:
        factor: of the learning rate.
        best: lowest loss so far.
        n_worse: evaluations in a row that were no better.
    """

    factor: Array
    best: Array
    n_worse: Array


def no_plateau() -> Plateau:
    """Return the state before the first evaluation."""
    return Plateau(jnp.ones(()), jnp.full((), jnp.inf, float), jnp.zeros((), jnp.int32))


def after_loss(plateau: Plateau, loss: float, config: OptimizerConfig) -> Plateau:
    """Return the state after an evaluation.

    Source: torch ``ReduceLROnPlateau``: more than ``patience`` evaluations in a row without a loss
        below (1 - threshold) times the best reduce the rate, and are counted anew.
    """
    scheduler = config.scheduler
    better = loss < plateau.best * (1 - scheduler.threshold)
    n_worse = jnp.where(better, 0, plateau.n_worse + 1)
    patient = n_worse <= scheduler.patience
    reduced = jnp.maximum(plateau.factor * scheduler.factor, scheduler.min_lr / config.lr)
    return Plateau(
        factor=jnp.where(patient, plateau.factor, jnp.minimum(plateau.factor, reduced)),
        best=jnp.where(better, loss, plateau.best),
        n_worse=jnp.where(patient, n_worse, 0),
    )
