"""The complete configuration of a run as a gin file that repeats it."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from mace_jax.artifacts.train_config_consistency import SCHEDULE_PARAMETERS
from mace_jax.artifacts.train_config_sections import (
    SECTIONS,
    HeadConfig,
    LossConfig,
    ScheduleConfig,
    SWAConfig,
    TrainConfig,
)
from mace_jax_train.gin_names import SCHEDULES


def gin_text(config: TrainConfig) -> str:
    """Return every value of a configuration as a gin binding."""
    blocks = ("\n".join(_bindings(name, getattr(config, name))) for name in SECTIONS)
    return "\n\n".join(blocks) + "\n"


def _bindings(configurable: str, section: Any) -> Iterator[str]:
    """Yield ``configurable.parameter = value``, those of sections inside behind a reference."""
    for item in fields(section):
        name, value = f"{configurable}.{item.name}", getattr(section, item.name)
        if isinstance(value, ScheduleConfig):
            schedule = next(key for key, name in SCHEDULES.items() if name == value.name)
            yield f"{name} = @{schedule}"
            for parameter in SCHEDULE_PARAMETERS[value.name]:
                yield f"{schedule}.{parameter} = {getattr(value, parameter)!r}"
        elif isinstance(value, SWAConfig | LossConfig):
            referred = "SWAConfig" if isinstance(value, SWAConfig) else "stage_two_loss"
            yield f"{name} = @{referred}"
            yield from _bindings(referred, value)
        else:
            yield f"{name} = {_literal(value)!r}"


def _literal(value: Any) -> Any:
    """Return a value, or heads by name, as gin can write them."""
    if isinstance(value, tuple) and any(isinstance(item, HeadConfig) for item in value):
        by_name = [asdict(head) for head in value]
        return {head.pop("name"): head for head in by_name}
    return value
