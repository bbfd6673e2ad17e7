"""One training step and one evaluation, each compiled once for the padded shape of its plan."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from mace_jax.artifacts.train_config_sections import LossConfig
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.mace import MACE
from mace_jax.model.predict import properties
from mace_jax_train.error_metrics import BatchErrors, batch_errors
from mace_jax_train.loss import Predicted, make_loss


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        parameters: of the network.
        averaged: exponential moving average of the parameters; what is evaluated and saved.
        optimizer: state of the optimizer.
        n_updates: steps taken.
    """

    parameters: nnx.State
    averaged: nnx.State
    optimizer: optax.OptState
    n_updates: Array


class StepReport(NamedTuple):
    """What a step says: its errors (of the parameters before it) and the gradient's norm."""

    errors: BatchErrors
    gradient_norm: Array


TrainStep = Callable[[TrainState, GraphBatch], tuple[TrainState, StepReport]]
Network = Callable[[nnx.State], MACE]
EvalStep = Callable[[nnx.State, GraphBatch], BatchErrors]


def initial_state(parameters: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    return TrainState(
        parameters=parameters,
        averaged=jax.tree.map(jnp.copy, parameters),
        optimizer=optimizer.init(parameters),
        n_updates=jnp.zeros((), jnp.int32),
    )


def make_train_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    loss_config: LossConfig,
    ema_decay: float | None,
) -> TrainStep:
    """Return the compiled step: loss, gradient, update, moving average."""
    loss_of = make_loss(loss_config)

    def loss_and_prediction(parameters: nnx.State, batch: GraphBatch) -> tuple[Array, Predicted]:
        predicted = properties(network(parameters), batch)
        return loss_of(predicted, batch), predicted

    def train_step(state: TrainState, batch: GraphBatch) -> tuple[TrainState, StepReport]:
        gradient_of = jax.value_and_grad(loss_and_prediction, has_aux=True)
        (loss, predicted), gradient = gradient_of(state.parameters, batch)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        n_updates = state.n_updates + 1
        new_state = TrainState(
            parameters=parameters,
            averaged=_average(state.averaged, parameters, ema_decay, n_updates),
            optimizer=optimizer_state,
            n_updates=n_updates,
        )
        errors = batch_errors(predicted, batch, loss)
        return new_state, StepReport(errors, optax.tree.norm(gradient))

    return jax.jit(train_step, donate_argnums=0)


def _average(
    averaged: nnx.State, parameters: nnx.State, decay: float | None, n_updates: Array
) -> nnx.State:
    """Move the average towards ``parameters``, faster at first, as in ``torch_ema``."""
    if decay is None:
        return parameters
    warm_up = (1 + n_updates) / (10 + n_updates)
    return optax.incremental_update(parameters, averaged, 1 - jnp.minimum(decay, warm_up))


def make_eval_step(network: Network, loss_config: LossConfig) -> EvalStep:
    """Return the compiled evaluation of a batch."""
    loss_of = make_loss(loss_config)

    def eval_step(parameters: nnx.State, batch: GraphBatch) -> BatchErrors:
        predicted = properties(network(parameters), batch)
        return batch_errors(predicted, batch, loss_of(predicted, batch))

    return jax.jit(eval_step)
