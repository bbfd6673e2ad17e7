"""A pytest plugin: a run ignores the option that the environment variable names.

So it is found out whether a test would notice.
"""

import os
from dataclasses import replace
from typing import Any

from mace_jax.artifacts.train_config_sections import DatasetsConfig, TrainConfig
from mace_jax_train import gin_config

_OPTION = os.environ["IGNORED_OPTION"]
_DEFAULTS = TrainConfig(DatasetsConfig("train.h5"))
_resolved = gin_config.train_config_from_sections


def _ignoring(*arguments: Any, **keywords: Any) -> TrainConfig:
    """Resolve a configuration, and give the option its default again."""
    config, (section, name) = _resolved(*arguments, **keywords), _OPTION.split(".")
    default = getattr(getattr(_DEFAULTS, section), name)
    return replace(config, **{section: replace(getattr(config, section), **{name: default})})


gin_config.train_config_from_sections = _ignoring
