"""Reports to Weights & Biases: what stands in the metrics file, while the run goes on.

Whatever happens there, the run itself goes on: a report that fails is a warning, and where the
server cannot be reached when the run starts, its reports are kept for ``wandb sync``.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mace_jax.artifacts.train_config_sections import TrainConfig, WandbConfig
from mace_jax.errors import ConfigError
from mace_jax_train.reports import Report, Row, in_one_line, report_of

log = logging.getLogger(__name__)

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def require_wandb(config: WandbConfig) -> None:
    """Refuse to start without the package that reports need.

    Raises:
        ConfigError: it is not installed.
    """
    if config.enabled and find_spec("wandb") is None:
        message = (
            "wandb_run.enabled: the package wandb is not installed; "
            "pip install wandb, or leave reports out with --no-wandb"
        )
        raise ConfigError(message)


@contextmanager
def tracker(config: TrainConfig, tag: str, facts: Mapping[str, Any] = _NOTHING) -> Iterator[Report]:
    """Report while a run goes on.

    Args:
        config: of the run; all of it is reported.
        tag: of the run, which is its name there if it has no other.
        facts: what else is reported once, such as the number of parameters.

    Yields: a function that takes the new rows of the metrics file, those of one epoch.

    Raises:
        ConfigError: the package is missing, or nobody is logged in.
    """
    require_wandb(config.wandb_run)
    if not config.wandb_run.enabled:
        yield lambda _rows: None
        return
    with _started(config, tag, facts) as run:
        yield partial(_report, run)


def _started(config: TrainConfig, tag: str, facts: Mapping[str, Any]) -> Any:
    """Return the run of wandb, which is a context manager."""
    import wandb

    settings = {name: value for name, value in asdict(config.wandb_run).items() if value}
    del settings["enabled"]
    settings.setdefault("name", tag)
    settings.setdefault("dir", config.logs.directory)
    Path(settings["dir"]).mkdir(parents=True, exist_ok=True)
    start = partial(
        wandb.init,
        config={**asdict(config), **facts},
        settings=wandb.Settings(console="off"),  # stdout is for the result
    )
    try:
        return start(**settings)
    except wandb.errors.CommError as error:
        log.warning("wandb: %s; the reports are kept in %s", in_one_line(error), settings["dir"])
        return start(**{**settings, "mode": "offline"})
    except wandb.errors.Error as error:
        message = f"wandb: {in_one_line(error)}; run wandb login, or give --wandb-mode offline"
        raise ConfigError(message) from error


def _report(run: Any, rows: Sequence[Row]) -> None:
    try:
        run.log(report_of(rows), step=rows[0]["epoch"])
    except Exception as error:  # noqa: BLE001 - no report is worth a run
        log.warning("wandb: %s; this report is lost, the run goes on", in_one_line(error))
