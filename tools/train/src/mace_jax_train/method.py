"""What the configuration makes of a gradient: the two stages of a run and what they share."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
from flax import nnx
from jax import Array
from jax.flatten_util import ravel_pytree

from mace_jax.artifacts.train_config_sections import (
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax_train.averaging import no_snapshots, with_snapshot
from mace_jax_train.data_parallel import ONE_DEVICE, Devices
from mace_jax_train.error_metrics import BatchErrors
from mace_jax_train.head_losses import ONE_HEAD, HeadFactors
from mace_jax_train.optimizer import make_optimizer
from mace_jax_train.schedule import after_loss, make_schedule, no_plateau
from mace_jax_train.step import (
    EvalStep,
    LearningRate,
    Network,
    StepReport,
    TrainState,
    TrainStep,
    flush,
    make_eval_step,
    make_train_step,
    make_update,
    no_gradient,
)

__all__ = ["Method", "Stage", "StepReport", "TrainState", "make_method"]

log = logging.getLogger(__name__)


class Stage(NamedTuple):
    """The compiled functions of a stage: its loss and its learning rate are part of them.

    Attributes:
        train_step, eval_step: as in ``Method``.
        flush: the update for batches that are short of a whole group.
    """

    train_step: TrainStep
    eval_step: EvalStep
    flush: Callable[[TrainState], TrainState]


@dataclass
class Method:
    """Steps, evaluations and what happens between epochs.

    The stage is that of the epoch that the state is in.

    Attributes:
        config: of the run.
        updates_per_epoch: of the schedule.
        stages: one or two.
        devices: that train together.
        heads: names of the network's heads.
    """

    config: TrainConfig
    updates_per_epoch: int
    stages: tuple[Stage, ...]
    devices: Devices
    heads: tuple[str, ...] = ONE_HEAD.names
    _current: Stage = field(init=False)

    def __post_init__(self) -> None:
        self._current = self.stages[0]

    def _enter(self, state: TrainState) -> Stage:
        """Return the stage that a state is in, and keep it for evaluations."""
        self._current = self.stages[self.stage(int(state.epoch)) - 1]
        return self._current

    def initial_state(self, parameters: nnx.State) -> TrainState:
        """Return the state before the first step; all arrays are its own."""
        train, optimizer = self.config.train, self.config.optimizer
        vector, _ = ravel_pytree(parameters)
        smooth = train.ema_decay is not None and optimizer.algorithm != "schedulefree"
        follows = optimizer.scheduler.name == "reduce_on_plateau"
        state = TrainState(
            parameters=jax.tree.map(jnp.copy, parameters),
            optimizer=make_optimizer(optimizer, optimizer.lr).init(vector),
            averaged=jnp.copy(vector) if smooth else None,
            snapshots=no_snapshots(vector) if train.swa_config else None,
            accumulated=no_gradient(vector) if optimizer.accumulate > 1 else None,
            plateau=no_plateau() if follows else None,
            epoch=np.zeros((), np.int32),
            n_updates=jnp.zeros((), jnp.int32),
            n_scheduled=jnp.zeros((), jnp.int32),
        )
        return self.devices.replicated(state)

    def train_step(self, state: TrainState, batch: GraphBatch) -> tuple[TrainState, StepReport]:
        """Return the state after a batch; ``state`` itself cannot be used any more."""
        epoch = np.asarray(state.epoch)
        state, report = self._enter(state).train_step(state._replace(epoch=epoch), batch)
        return state._replace(epoch=epoch), report

    def eval_step(self, parameters: nnx.State, batch: GraphBatch) -> BatchErrors:
        """Return the errors of a batch, with the loss of the stage of the state seen last."""
        return self._current.eval_step(parameters, batch)

    def stage(self, epoch: int) -> int:
        """Return 1 or 2: the stage of an epoch; epochs count from 1."""
        return 2 if self._epoch_of_stage_two(epoch) > 0 else 1

    def _epoch_of_stage_two(self, epoch: int) -> int:
        swa = self.config.train.swa_config
        return epoch - (swa.start_interval or 0) if swa else 0

    def begin_epoch(self, state: TrainState, epoch: int) -> TrainState:
        """Go to an epoch and its place in the schedule; twice is the same as once."""
        before = (epoch - 1) * self.updates_per_epoch
        return state._replace(
            epoch=np.asarray(epoch, np.int32),
            n_scheduled=jnp.maximum(state.n_scheduled, before),
        )

    def end_epoch(self, state: TrainState, epoch: int) -> TrainState:
        """Make the update of an incomplete group of batches, and the snapshot of stage two."""
        if state.accumulated is not None and state.accumulated.n_batches > 0:
            state = self._enter(state).flush(state)._replace(epoch=np.asarray(state.epoch))
        if state.snapshots is None or not self._takes_snapshot(epoch, int(state.snapshots.n)):
            return state
        return state._replace(snapshots=with_snapshot(state.snapshots, self._last(state)))

    def _takes_snapshot(self, epoch: int, n_taken: int) -> bool:
        swa, nth = self.config.train.swa_config, self._epoch_of_stage_two(epoch)
        if swa is None or nth < 1 or n_taken == swa.max_snapshots:
            return False
        return (nth - 1) % swa.update_interval == 0

    def after_evaluation(self, state: TrainState, loss: float) -> TrainState:
        """Let the learning rate follow the evaluated loss, if that is its schedule."""
        if state.plateau is None:
            return state
        return state._replace(plateau=after_loss(state.plateau, loss, self.config.optimizer))

    def evaluated(self, state: TrainState) -> nnx.State:
        """Return the weights that are evaluated and saved now; they are a copy.

        The average of stage two's snapshots, once there are ``min_snapshots_for_eval`` and unless
        ``prefer_swa_params`` is off; else the moving average; else the parameters. In mace-torch
        the average of stage two is computed, but never evaluated or saved: with ``--ema`` it goes
        on with the moving average in stage two, without with the parameters, and so does this with
        ``prefer_swa_params`` off. ``schedulefree`` has its own average (x of Defazio et al. 2024)
        in the place of the moving one and of the parameters.
        """
        self._enter(state)
        swa, snapshots = self.config.train.swa_config, state.snapshots
        vector = self._last(state) if state.averaged is None else state.averaged
        if swa and snapshots and swa.prefer_swa_params:
            vector = snapshots.mean if snapshots.n >= swa.min_snapshots_for_eval else vector
        return shaped_as(state.parameters, vector)

    def _last(self, state: TrainState) -> Array:
        """Return the weights that the last update gave, ``[n_weight]``."""
        parameters, _ = ravel_pytree(state.parameters)
        if self.config.optimizer.algorithm != "schedulefree":
            return parameters
        return optax.contrib.schedule_free_eval_params(state.optimizer, parameters)

    @property
    def n_compilations(self) -> int:
        """Programs compiled so far for steps and evaluations."""
        steps = [step for stage in self.stages for step in (stage.train_step, stage.eval_step)]
        return sum(step._cache_size() for step in steps)


@jax.jit
def shaped_as(parameters: nnx.State, vector: Array) -> nnx.State:
    """Return the weights in ``vector`` in the shapes of ``parameters``."""
    return ravel_pytree(parameters)[1](vector)


def make_method(
    config: TrainConfig,
    network: Network,
    steps_per_epoch: int,
    devices: Devices = ONE_DEVICE,
    heads: HeadFactors = ONE_HEAD,
) -> Method:
    """Return the method of a run.

    Args:
        config: of the run, resolved.
        network: as a function of its trained parameters.
        steps_per_epoch: batches of an epoch, or groups of them on several devices.
        devices: that train together.
        heads: of the network, and what each counts.
    """
    optimizer, swa = config.optimizer, config.train.swa_config
    if optimizer.algorithm == "schedulefree" and config.train.ema_decay is not None:
        log.info("schedulefree: evaluated is its own average; train.ema_decay has no effect")
    updates_per_epoch = math.ceil(steps_per_epoch / optimizer.accumulate)

    def stage(loss: LossConfig, optimizer: OptimizerConfig) -> Stage:
        lr = learning_rate(optimizer, updates_per_epoch)
        return Stage(
            make_train_step(network, loss, heads, lr, config, devices),
            make_eval_step(network, loss, heads, devices),
            jax.jit(partial(flush, make_update(lr, config)), donate_argnums=0),
        )

    stages = [stage(config.loss, optimizer)]
    if swa and swa.loss and swa.lr:
        constant = replace(optimizer, lr=swa.lr, scheduler=ScheduleConfig())
        stages.append(stage(swa.loss, constant))
    return Method(config, updates_per_epoch, tuple(stages), devices, heads.names)


def learning_rate(config: OptimizerConfig, updates_per_epoch: int) -> LearningRate:
    """Return the learning rate as a function of the state."""
    schedule = make_schedule(config, updates_per_epoch)
    follows = config.scheduler.name == "reduce_on_plateau"

    def lr(state: TrainState) -> Array:
        scheduled = schedule(state.n_scheduled)
        return scheduled * state.plateau.factor if follows and state.plateau else scheduled

    return lr
