"""Gin files, bindings and flags, resolved once into the typed configuration of a run.

This is the only module that knows gin. Flags win over bindings, bindings over files; an unknown
name anywhere is an error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import gin

from mace_jax.artifacts.model_bundle import InteractionName
from mace_jax.artifacts.train_config import read_train_config, train_config_from_sections
from mace_jax.artifacts.train_config_sections import SECTIONS, TrainConfig
from mace_jax.errors import ConfigError

Sections = dict[str, dict[str, Any]]

# What a configuration may refer to with @; each stands for its own name.
_NAMED_CHOICES = (
    "MACE",
    "ScaleShiftMACE",
    *get_args(InteractionName),
    "NonLinearReadoutBlock",
    "NonLinearBiasReadoutBlock",
    "silu",
    "tanh",
    "abs",
    "rms_forces_scaling",
    "no_scaling",
)
# Optimizers are referred to in the same way and may carry parameters: adam.b1 = 0.9
_ALGORITHMS = ("adam", "amsgrad")


def _register(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return gin.external_configurable(function, name=name, module="mace_jax")


_COLLECTORS = {name: _register(name, lambda **bound: bound) for name in SECTIONS}
for _name in _NAMED_CHOICES:
    _register(_name, lambda name=_name: name)
for _name in _ALGORITHMS:
    _register(_name, lambda name=_name, **bound: {"algorithm": name, **bound})


def load_train_config(
    configs: Sequence[Path], bindings: Sequence[str], flags: Mapping[str, Mapping[str, Any]]
) -> TrainConfig:
    """Resolve the configuration of a run.

    Args:
        configs: gin files, later ones win; or one ``<tag>.config.json`` to repeat a run.
        bindings: gin bindings such as ``optimizer.lr=0.005``.
        flags: section -> name -> value, of the flags that were given.

    Raises:
        ConfigError: a file, name or value is wrong.
    """
    source = ", ".join(str(path) for path in configs) or "configuration"
    if len(configs) == 1 and configs[0].suffix == ".json":
        sections = _sections_of(read_train_config(configs[0]))
        configs = ()
    else:
        sections = {name: {} for name in SECTIONS}
    for layer in (_parse_gin(configs, bindings), flags):
        for name, values in layer.items():
            sections[name].update(values)
    if not sections["datasets"].get("train_path"):
        message = f"{source}: datasets.train_path is not set; give --train-path"
        raise ConfigError(message)
    return train_config_from_sections(sections, source)


def _sections_of(config: TrainConfig) -> Sections:
    return {name: asdict(getattr(config, name)) for name in SECTIONS}


def _parse_gin(configs: Sequence[Path], bindings: Sequence[str]) -> Sections:
    for path in configs:
        if not path.is_file():
            message = f"{path}: no such file; give a gin file such as configs/aspirin_small.gin"
            raise ConfigError(message)
    gin.clear_config()
    try:
        gin.parse_config_files_and_bindings(
            [str(path) for path in configs], list(bindings), finalize_config=False
        )
        return {name: _resolve(collect()) for name, collect in _COLLECTORS.items()}
    except (ValueError, TypeError, SyntaxError, NameError, OSError) as error:
        source = ", ".join(str(path) for path in configs) or "bindings"
        message = f"{source}: {' '.join(str(error).split())}; correct the configuration"
        raise ConfigError(message) from error
    finally:
        gin.clear_config()


def _resolve(bound: dict[str, Any]) -> dict[str, Any]:
    """Replace @references by the names they stand for, and an E0 dict by its text."""
    values: dict[str, Any] = {}
    for name, reference in bound.items():
        value = reference() if callable(reference) else reference
        if name == "algorithm" and isinstance(value, dict):
            values.update(value)
        elif name == "E0s" and isinstance(value, dict):
            values[name] = repr(value)
        else:
            values[name] = value
    return values


def gin_text(config: TrainConfig) -> str:
    """Return the complete configuration as a gin file that repeats the run."""
    lines = []
    for name, values in _sections_of(config).items():
        lines += [f"{name}.{key} = {value!r}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)
