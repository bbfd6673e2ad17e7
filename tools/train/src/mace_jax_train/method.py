"""What the configuration makes of a gradient: steps, averages, stages."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.mace import MACE
from mace_jax_train.error_metrics import BatchErrors
from mace_jax_train.optimizer import make_optimizer
from mace_jax_train.step import EvalStep, TrainState, initial_state, make_eval_step, make_train_step

__all__ = ["Method", "StepReport", "TrainState", "make_method"]


class StepReport(NamedTuple):
    """What a step says.

    Attributes:
        errors: of the parameters before the step.
        gradient_norm: before clipping.
        skipped: whether loss or gradient were not finite, so that nothing was changed.
        lr: learning rate.
    """

    errors: BatchErrors
    gradient_norm: Array
    skipped: Array
    lr: Array


@dataclass(frozen=True)
class Method:
    """How the state of training changes, step by step and epoch by epoch."""

    config: TrainConfig
    optimizer: optax.GradientTransformation
    train_step: Callable[[TrainState, GraphBatch], tuple[TrainState, StepReport]]
    eval_step: EvalStep

    def initial_state(self, parameters: nnx.State) -> TrainState:
        """Return the state before the first step."""
        return initial_state(parameters, self.optimizer)

    def evaluated(self, state: TrainState) -> nnx.State:
        """Return the weights that are evaluated and saved now."""
        return state.averaged

    def begin_epoch(self, state: TrainState, epoch: int) -> TrainState:
        """Return the state with which an epoch, from 1, begins."""
        del epoch
        return state

    def end_epoch(self, state: TrainState, epoch: int) -> TrainState:
        """Return the state after the last step of an epoch."""
        del epoch
        return state

    def after_evaluation(self, state: TrainState, loss: float) -> TrainState:
        """Return the state after an evaluation that found this loss."""
        del loss
        return state

    def stage(self, epoch: int) -> int:
        """Return the stage that an epoch belongs to."""
        stage_two = self.config.train.swa_config
        return 2 if stage_two and epoch > (stage_two.start_interval or 0) else 1

    @property
    def n_compilations(self) -> int:
        """Programs that were compiled so far."""
        steps: Any = (self.train_step, self.eval_step)
        return sum(step._cache_size() for step in steps)


def make_method(
    config: TrainConfig, network: Callable[[nnx.State], MACE], steps_per_epoch: int
) -> Method:
    """Return the method of a configuration."""
    del steps_per_epoch
    optimizer = make_optimizer(config.optimizer, config.train.max_grad_norm)
    step = make_train_step(network, optimizer, config.loss, config.train.ema_decay)
    lr = config.optimizer.lr

    @partial(jax.jit, donate_argnums=0)
    def train_step(state: TrainState, batch: GraphBatch) -> tuple[TrainState, StepReport]:
        changed, report = step(state, batch)
        finite = jnp.isfinite(report.errors.loss) & jnp.isfinite(report.gradient_norm)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, state)
        return state, StepReport(*report, ~finite, jnp.asarray(lr))

    return Method(config, optimizer, train_step, make_eval_step(network, config.loss))
