"""One training step and one evaluation, each compiled once for the padded shapes of its plan."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from mace_jax.artifacts.train_config_sections import LossConfig, TrainConfig
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.mace import MACE
from mace_jax.model.predict import properties
from mace_jax_train.averaging import Snapshots, moving_average
from mace_jax_train.data_parallel import Devices
from mace_jax_train.error_metrics import BatchErrors, errors_of_heads
from mace_jax_train.head_losses import HeadFactors
from mace_jax_train.loss import make_loss
from mace_jax_train.optimizer import clip, make_optimizer, weight_decays
from mace_jax_train.schedule import Plateau


class GradientSum(NamedTuple):
    """The gradients since the last update.

    Attributes:
        gradient: sum over batches of the number of graphs times the loss's gradient,
            ``[n_weight]``.
        n_graph, n_batches: how many graphs and batches that are.
    """

    gradient: Array
    n_graph: Array
    n_batches: Array


class TrainState(NamedTuple):
    """Everything that training changes. All but the parameters has all weights in one vector.

    Attributes:
        parameters: of the network; where gradients are taken.
        optimizer: state of the optimizer.
        averaged: exponential moving average of the parameters, if there is one, ``[n_weight]``.
        snapshots: average of stage two, if there is one.
        accumulated: gradients that no update has used yet, where several batches make one.
        plateau: what evaluations have done to the learning rate, if that follows them.
        epoch: on the host, because which program runs depends on it.
        n_updates: updates done.
        n_scheduled: where the schedule of the learning rate is: updates before the next, with those
            that earlier epochs were short of.
    """

    parameters: nnx.State
    optimizer: optax.OptState
    averaged: Array | None
    snapshots: Snapshots | None
    accumulated: GradientSum | None
    plateau: Plateau | None
    epoch: NDArray[np.int32]
    n_updates: Array
    n_scheduled: Array


class StepReport(NamedTuple):
    """What a step says.

    Attributes:
        errors: of its batches, one on each device, with the parameters before it.
        gradient_norm: of their mean gradient, before clipping.
        skipped: whether loss or gradient were not finite, so that nothing was changed.
        lr: learning rate.
    """

    errors: BatchErrors
    gradient_norm: Array
    skipped: Array
    lr: Array


# Compiled functions, whose programs can be asked for, too.
TrainStep = Any  # (TrainState, GraphBatch) -> (TrainState, StepReport)
EvalStep = Any  # (nnx.State, GraphBatch) -> BatchErrors
Network = Callable[[nnx.State], MACE]
LearningRate = Callable[[TrainState], Array]
Update = Callable[[TrainState, Array], TrainState]


def make_train_step(
    network: Network,
    loss_config: LossConfig,
    heads: HeadFactors,
    learning_rate: LearningRate,
    config: TrainConfig,
    devices: Devices,
) -> TrainStep:
    """Return the compiled step: loss, gradient and, after ``accumulate`` batches, an update.

    It gives the memory of its state away. A step whose loss or gradient is not finite returns the
    state as it was, to the bit.
    """
    update = make_update(learning_rate, config)
    loss, of_head = make_loss(loss_config, heads), make_loss(loss_config, heads.in_evaluation())

    def loss_and_prediction(
        parameters: nnx.State, batch: GraphBatch
    ) -> tuple[Array, dict[str, Array]]:
        predicted = properties(network(parameters), batch)
        return loss(predicted, batch), predicted

    def train_step(state: TrainState, batch: GraphBatch) -> tuple[TrainState, StepReport]:
        gradient_of = jax.value_and_grad(loss_and_prediction, has_aux=True)
        (value, predicted), gradient = gradient_of(state.parameters, batch)
        errors = errors_of_heads(predicted, batch, value, of_head, len(heads.names))
        gradient, errors = over_devices(devices, ravel_pytree(gradient)[0], errors)
        norm = jnp.linalg.norm(gradient)
        finite = jnp.isfinite(errors.loss) & jnp.isfinite(norm)
        if state.accumulated is None:
            new_state = update(state, gradient)
        else:
            total = add_gradient(state.accumulated, gradient, errors.n_graph)
            new_state = jax.lax.cond(
                total.n_batches == config.optimizer.accumulate,
                partial(flush, update),
                lambda state: state,
                state._replace(accumulated=total),
            )
        new_state = jax.tree.map(partial(jnp.where, finite), new_state, state)
        return new_state, StepReport(errors, norm, ~finite, learning_rate(state))

    return devices.compiled(train_step, donate=True)


def over_devices(
    devices: Devices, gradient: Array, errors: BatchErrors
) -> tuple[Array, BatchErrors]:
    """Return the mean gradient over the graphs of all devices' batches, and their errors' sums."""
    if devices.n_batch == 1:
        return gradient, errors
    n_graph = errors.n_graph
    gradients, errors = devices.total((n_graph * gradient, errors), n_graph)
    return gradients / errors.n_graph, errors


def make_update(learning_rate: LearningRate, config: TrainConfig) -> Update:
    """Return what a mean gradient does: clipping, optimizer, moving average."""
    max_norm, decay = config.train.max_grad_norm, config.train.ema_decay

    def update(state: TrainState, gradient: Array) -> TrainState:
        before, shaped = ravel_pytree(state.parameters)
        if max_norm is not None:
            gradient = clip(gradient, max_norm)
        optimizer = make_optimizer(
            config.optimizer,
            learning_rate(state),
            weight_decays(config.optimizer, state.parameters),
        )
        step, optimizer_state = optimizer.update(gradient, state.optimizer, before)
        parameters, averaged, n_updates = before + step, state.averaged, state.n_updates + 1
        if averaged is not None and decay is not None:
            averaged = moving_average(averaged, parameters, decay, n_updates)
        return state._replace(
            parameters=shaped(parameters),
            optimizer=optimizer_state,
            averaged=averaged,
            n_updates=n_updates,
            n_scheduled=state.n_scheduled + 1,
        )

    return update


def no_gradient(parameters: Array) -> GradientSum:
    """Return the sum over no batch."""
    n_graph, n_batches = (jnp.zeros((), jnp.int32) for _ in range(2))
    return GradientSum(jnp.zeros_like(parameters), n_graph, n_batches)


def add_gradient(total: GradientSum, gradient: Array, n_graph: Array) -> GradientSum:
    """Add the gradient of a batch's loss, a mean over ``n_graph`` graphs."""
    n_graph = n_graph.astype(total.n_graph.dtype)
    return GradientSum(
        total.gradient + n_graph * gradient, total.n_graph + n_graph, total.n_batches + 1
    )


def flush(update: Update, state: TrainState) -> TrainState:
    """Make an update of the gradients that have been accumulated."""
    if state.accumulated is None:
        return state
    total = state.accumulated
    state = update(state, total.gradient / total.n_graph)
    return state._replace(accumulated=no_gradient(total.gradient))


def make_eval_step(
    network: Network, loss_config: LossConfig, heads: HeadFactors, devices: Devices
) -> EvalStep:
    """Return the compiled evaluation of a batch."""
    loss, of_head = make_loss(loss_config, heads), make_loss(loss_config, heads.in_evaluation())

    def eval_step(parameters: nnx.State, batch: GraphBatch) -> BatchErrors:
        predicted = properties(network(parameters), batch)
        value = loss(predicted, batch)
        errors = errors_of_heads(predicted, batch, value, of_head, len(heads.names))
        return devices.total(errors, errors.n_graph)

    return devices.compiled(eval_step)
