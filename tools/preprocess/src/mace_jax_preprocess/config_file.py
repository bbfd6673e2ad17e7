"""Flags from a YAML file."""

from pathlib import Path
from typing import Any

import click

from mace_jax.errors import ConfigError


def read_flags(
    context: click.Context, _option: click.Parameter, path: Path | None
) -> dict[str, Any] | None:
    """Take what a file says for the flags that the command line leaves out.

    Keys are the names of flags, with dashes or underscores; lists and dicts stand for themselves.

    Raises:
        ConfigError: the file cannot be read, is no YAML mapping, or has a key that is no flag.
    """
    if path is None:
        return None
    names = {
        text.lstrip("-"): str(option.name)
        for option in context.command.params
        for text in (*option.opts, *option.secondary_opts)
        if option.expose_value
    }
    flags = {}
    for key, value in _mapping(path).items():
        flag = str(key).replace("_", "-")
        if flag not in names:
            message = (
                f"{path}: {key}: no such flag, expected some of {', '.join(sorted(names))}; "
                "correct or remove it"
            )
            raise ConfigError(message)
        if value is not None:
            flags[names[flag]] = value if isinstance(value, bool) else str(value)
    context.default_map = flags
    return flags


def _mapping(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_bytes())
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ConfigError(message) from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        message = f"{path}: {reason}, expected YAML; correct it"
        raise ConfigError(message) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        message = f"{path}: a {type(found).__name__}, expected flags such as 'seed: 1'; correct it"
        raise ConfigError(message)
    return found
