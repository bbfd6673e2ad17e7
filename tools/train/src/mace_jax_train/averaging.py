"""Averages of all weights over a run: the moving one of updates, the plain one of epochs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


def moving_average(averaged: Array, parameters: Array, decay: float, n_updates: Array) -> Array:
    """Move an average towards ``parameters``, faster at first.

    The decay of update n, counted from 1, is min(``decay``, (1 + n) / (10 + n)).

    Source: ``torch_ema``.
    """
    n = n_updates.astype(float)  # an int32 over an int32 is a float32
    warm_up = (1 + n) / (10 + n)
    return optax.incremental_update(parameters, averaged, 1 - jnp.minimum(decay, warm_up))


class Snapshots(NamedTuple):
    """The mean of ``n`` snapshots of all weights, ``[n_weight]``."""

    mean: Array
    n: Array


def no_snapshots(parameters: Array) -> Snapshots:
    """Return the state before the first snapshot."""
    return Snapshots(jnp.zeros_like(parameters), jnp.zeros((), jnp.int32))


@jax.jit
def with_snapshot(snapshots: Snapshots, parameters: Array) -> Snapshots:
    """Take ``parameters`` into the mean, all snapshots alike.

    Source: torch ``AveragedModel``.
    """
    n = snapshots.n + 1
    mean = optax.incremental_update(parameters, snapshots.mean, 1 / n.astype(float))
    return Snapshots(mean, n)
