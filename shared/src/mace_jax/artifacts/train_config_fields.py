"""Every value of a configuration by its dotted name, such as ``optimizer.scheduler.factor``."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from mace_jax.artifacts.train_config_sections import TrainConfig


def without_none(hint: Any) -> Any:
    """Return a type apart from ``None``, such as ``float`` of ``float | None``."""
    if get_origin(hint) is Literal:
        return hint
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0] if is_optional(hint) and len(kinds) == 1 else hint


def is_optional(hint: Any) -> bool:
    """Return whether a value may be ``None``."""
    return NoneType in get_args(hint)


def choices(hint: Any) -> tuple[str, ...]:
    """Return the words that a value is one of; empty if it is anything else."""
    kind = without_none(hint)
    return get_args(kind) if get_origin(kind) is Literal else ()


def is_section(hint: Any) -> bool:
    """Return whether a value has values of its own."""
    return is_dataclass(without_none(hint))


def _types(section: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for item in fields(section):
        name = f"{prefix}{item.name}"
        yield name, item.type
        if is_section(item.type):
            yield from _types(without_none(item.type), f"{name}.")


# dotted name -> type, of every value and every section
FIELDS: dict[str, Any] = dict(_types(TrainConfig, ""))
