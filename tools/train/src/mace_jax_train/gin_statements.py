"""Gin files as statements: what is bound to what, and in which line.

The parser is gin's own; nothing is imported, registered or called.
"""

import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gin.config_parser import BindingStatement, ConfigParser, ImportStatement, IncludeStatement

from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.recipe import require_recipe
from mace_jax.artifacts.train_config import read_train_config
from mace_jax.errors import ConfigError, did_you_mean
from mace_jax_train.gin_names import CONFIGURABLES, MODULES
from mace_jax_train.gin_text import gin_text


class Reference(NamedTuple):
    """``@name`` or ``@name()``."""

    name: str


class Macro(NamedTuple):
    """``%name``."""

    name: str


class Statement(NamedTuple):
    """``configurable.parameter = value``; without a parameter it defines a macro."""

    configurable: str
    parameter: str
    value: Any
    place: str


class _Values:
    """What gin's parser makes of references and macros: its ``ParserDelegate``."""

    def configurable_reference(self, name: str, _evaluate: bool) -> Reference:
        return Reference(name)

    def macro(self, name: str) -> Macro:
        return Macro(name)


def read_statements(path: Path, including: tuple[Path, ...] = ()) -> Iterator[Statement]:
    """Yield the statements of a gin file, of a saved configuration or of a bundle's recipe."""
    if not path.is_file():
        message = f"{path}: no such file; give a gin file such as configs/aspirin_small.gin"
        raise ConfigError(message)
    if path.suffix in (".json", ".msgpack"):
        config = (
            read_train_config(path)
            if path.suffix == ".json"
            else require_recipe(read_model_bundle(path), path).config
        )
        yield from parse_statements(gin_text(config), lambda _line: str(path))
        return
    if path in including:
        message = f"{path}: includes itself; remove the include"
        raise ConfigError(message)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"{path}: not a text file ({error}); give a gin file"
        raise ConfigError(message) from error
    yield from parse_statements(text, lambda line: f"{path}: line {line}", (*including, path))


def parse_statements(
    text: str, place: Callable[[int], str], including: tuple[Path, ...] = ()
) -> Iterator[Statement]:
    """Yield the statements of a text; ``place`` names its lines."""
    try:
        for item in ConfigParser(text, _Values()):
            if isinstance(item, BindingStatement):
                where = place(item.location.line_num)
                if item.scope:
                    message = f"{where}: {item.scope}/: scopes have no meaning here; remove it"
                    raise ConfigError(message)
                configurable = unqualified(item.selector, where)
                yield Statement(configurable, item.arg_name, item.value, where)
            elif isinstance(item, IncludeStatement):
                yield from read_statements(Path(item.filename), including)
            elif isinstance(item, ImportStatement):
                _require_harmless(item.module, place(item.location.line_num))
    except SyntaxError as error:
        what = " ".join(str(error.msg).split()).rstrip(".")
        message = f"{place(error.lineno or 1)}: {what}; correct the configuration"
        raise ConfigError(message) from error
    except (tokenize.TokenError, ValueError) as error:
        message = f"{place(1)}: {error.args[0]}; correct the configuration"
        raise ConfigError(message) from error


def _require_harmless(module: str, place: str) -> None:
    """Refuse to import anything; mace-jax's files name the modules of their names, which is fine.

    Raises:
        ConfigError: it is a module of something else.
    """
    if module != "mace_jax" and not module.startswith("mace_jax."):
        message = f"{place}: import {module}: a configuration imports nothing; remove it"
        raise ConfigError(message)


def unqualified(selector: str, place: str) -> str:
    """Return a name without the modules of mace-jax before it."""
    *modules, name = selector.split(".")
    if modules and modules[0] not in MODULES:
        message = f"{place}: unknown {selector}; {did_you_mean(selector, CONFIGURABLES)}"
        raise ConfigError(message)
    return name
