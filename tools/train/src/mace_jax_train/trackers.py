"""Where a run is reported beside its metrics file; no report can stop it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax_train import tensorboard_events, wandb_run
from mace_jax_train.reports import Report, Row


def require_trackers(config: TrainConfig) -> None:
    """Refuse to start without the packages that the reports need.

    Raises:
        ConfigError: one is not installed.
    """
    wandb_run.require_wandb(config.wandb_run)
    tensorboard_events.require_tensorboard(config.tensorboard)


@contextmanager
def trackers(
    config: TrainConfig, tag: str, facts: Mapping[str, Any], rows: Sequence[Row], epoch: int
) -> Iterator[Report]:
    """Report to every tracker that is asked for; arguments as of ``tensorboard_events.tracker``."""
    with (
        wandb_run.tracker(config, tag, facts) as to_wandb,
        tensorboard_events.tracker(config, tag, facts, rows, epoch) as to_tensorboard,
    ):

        def report(rows: Sequence[Row]) -> None:
            to_wandb(rows)
            to_tensorboard(rows)

        yield report
