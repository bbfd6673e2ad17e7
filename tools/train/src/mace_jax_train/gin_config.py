"""Gin files, bindings and flags, resolved once into the typed configuration of a run.

A name is looked up in the table of ``gin_names`` and sets one value. Flags win over bindings,
bindings over files, what comes later over what came before; an unknown name is an error.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mace_jax.artifacts.train_config import train_config_from_sections
from mace_jax.artifacts.train_config_consistency import ALGORITHM_PARAMETERS
from mace_jax.artifacts.train_config_fields import FIELDS, is_section
from mace_jax.artifacts.train_config_sections import OptimizerConfig, ScheduleConfig, TrainConfig
from mace_jax.errors import ConfigError, did_you_mean
from mace_jax_train.gin_names import (
    CONFIGURABLES,
    KNOWN,
    ONLY,
    PARAMETERS,
    REFERRED,
    SCHEDULES,
    VALUES,
    WITHOUT_EFFECT,
    WORDS,
)
from mace_jax_train.gin_statements import (
    Macro,
    Reference,
    Statement,
    parse_statements,
    read_statements,
    unqualified,
)
from mace_jax_train.replay_finetuning import SECTION, with_replay

log = logging.getLogger(__name__)

_SECTIONS = frozenset(REFERRED.values())
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class _Setting(NamedTuple):
    """One value of the configuration by its dotted name, or a section that is there or not.

    ``owner`` is the configurable that it was given to.
    """

    name: str
    value: Any
    place: str
    owner: str


def load_train_config(
    configs: Sequence[Path],
    bindings: Sequence[str],
    flags: Mapping[str, Mapping[str, Any]],
    places: Mapping[str, str] = _NOTHING,
) -> TrainConfig:
    """Resolve the configuration of a run.

    Args:
        configs: gin files or ``<tag>.config.json`` of a run, later ones win.
        bindings: gin bindings such as ``optimizer.lr=0.005``.
        flags: section -> name -> value, of the flags that were given.
        places: dotted name of such a value -> the flag, for messages.

    Raises:
        ConfigError: a file, name or value is wrong.
    """
    source = ", ".join(str(path) for path in configs) or "configuration"
    statements = [item for path in configs for item in read_statements(path)]
    for binding in bindings:
        statements += parse_statements(binding, lambda _line: "binding")
    values = {section: given for section, given in flags.items() if section != SECTION}
    settings = [
        *_settings(statements),
        *_given("", values, lambda name: places.get(name, source)),
    ]
    sections, found_at = _nested(list(_with_heads_combined(settings)))
    replay = flags.get(SECTION, {})
    sections = with_replay(sections, replay)
    if replay.get("multiheads_finetuning"):
        found_at.setdefault("datasets.heads", "--multiheads_finetuning")
    datasets = sections.get("datasets", {})
    if not datasets.get("train_path") and not datasets.get("heads"):
        message = f"{source}: datasets.train_path is not set; give --train-path"
        raise ConfigError(message)
    return train_config_from_sections(sections, source, found_at)


def _settings(statements: Sequence[Statement]) -> Iterator[_Setting]:
    """Look every name up, and warn about those that do nothing."""
    macros = {item.configurable: item.value for item in statements if not item.parameter}
    for configurable, parameter, written, place in statements:
        name = f"{configurable}.{parameter}"
        if not parameter:
            continue
        _require_known(configurable, parameter, place)
        value = _resolve(written, macros, place)
        if name in WITHOUT_EFFECT:
            log.warning("%s: %s has no effect: %s", place, name, WITHOUT_EFFECT[name])
        elif name in ONLY:
            _require_only(name, value, place)
        elif name == "optimizer.scheduler":
            word = SCHEDULES.get(value, value) if isinstance(value, str) else value
            yield _Setting("optimizer.scheduler.name", word, place, configurable)
        elif PARAMETERS[name] in REFERRED.values():
            section = PARAMETERS[name]
            yield _Setting(section, _reference_to(section, value, place), place, configurable)
        else:
            yield _Setting(PARAMETERS[name], value, place, configurable)


def _require_known(configurable: str, parameter: str, place: str) -> None:
    """Refuse a name that means nothing.

    Raises:
        ConfigError: names the nearest one.
    """
    if configurable not in CONFIGURABLES:
        message = f"{place}: unknown {configurable}; {did_you_mean(configurable, CONFIGURABLES)}"
        raise ConfigError(message)
    parameters = [name.split(".")[1] for name in KNOWN if name.startswith(f"{configurable}.")]
    if parameter not in parameters:
        todo = did_you_mean(parameter, parameters)
        message = f"{place}: {configurable}: unknown {parameter}; {todo}"
        raise ConfigError(message)


def _require_only(name: str, value: Any, place: str) -> None:
    """Refuse a value that asks for something that does not exist here."""
    only, todo = ONLY[name]
    found = tuple(value) if isinstance(value, list) else value
    if found is not None and found != only:
        message = f"{place}: {name} = {value!r}, expected {only!r}; {todo}"
        raise ConfigError(message)


def _resolve(value: Any, macros: Mapping[str, Any], place: str) -> Any:
    """Replace macros by their values and references by the names they stand for."""
    if isinstance(value, Macro):
        if value.name not in macros:
            message = f"{place}: unknown %{value.name}, expected a name that is defined; define it"
            raise ConfigError(message)
        others = {name: other for name, other in macros.items() if name != value.name}
        return _resolve(macros[value.name], others, place)
    if isinstance(value, Reference):
        name = unqualified(value.name, place)
        if name not in WORDS | CONFIGURABLES:
            message = f"{place}: unknown @{name}; {did_you_mean(name, WORDS | CONFIGURABLES)}"
            raise ConfigError(message)
        return name
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve(item, macros, place) for item in value)
    if isinstance(value, dict):
        return {key: _resolve(item, macros, place) for key, item in value.items()}
    return value


def _reference_to(section: str, value: Any, place: str) -> dict[str, Any] | None:
    """Return an empty section for a reference to it."""
    if value is None:
        return None
    expected = next(name for name, found in REFERRED.items() if found == section)
    if value != expected:
        message = f"{place}: {section} = {value!r}, expected @{expected} or None; correct the value"
        raise ConfigError(message)
    return {}


def _given(
    prefix: str, values: Mapping[str, Any], where: Callable[[str], str]
) -> Iterator[_Setting]:
    """Yield what flags say; a value in a section inside another makes that section."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and is_section(FIELDS.get(name)):
            if name in _SECTIONS:
                yield _Setting(name, {}, where(name), "flags")
            yield from _given(f"{name}.", value, where)
        else:
            yield _Setting(name, value, where(name), "flags")


def _with_heads_combined(settings: Sequence[_Setting]) -> Iterator[_Setting]:
    """Yield settings; where heads are both named and described, all of them are."""
    heads = [item for item in settings if item.name == "datasets.heads"]
    described = [item.value for item in heads if isinstance(item.value, Mapping)]
    named = [item.value for item in heads if isinstance(item.value, list | tuple) and item.value]
    yield from (item for item in settings if item.name != "datasets.heads")
    if described and named and all(isinstance(name, str) for name in named[-1]):
        options = described[-1]
        every = {str(name): options.get(name, {}) for name in (*named[-1], *options)}
        yield heads[-1]._replace(value=every)
    elif heads:
        yield heads[-1]


def _nested(settings: Sequence[_Setting]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return section -> name -> value, and where each value is from; what is not used is told."""
    last = {setting.name: setting.value for setting in settings}
    sections: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    unused: dict[str, list[str]] = defaultdict(list)
    for name, value, place, owner in sorted(settings, key=_outermost_first):
        if not _is_used(owner, last):
            unused[owner].append(f"{place}: {owner}.{name.rpartition('.')[2]}")
            continue
        places[name] = place
        if name not in _SECTIONS:
            _set(sections, name, VALUES[name](value) if name in VALUES else value)
        elif name in FIELDS:
            _set(sections, name, last[name] if last[name] is None else {})
    for owner, names in unused.items():
        log.warning("%s: no effect, because nothing refers to @%s", ", ".join(names), owner)
    return sections, places


def _outermost_first(setting: _Setting) -> tuple[bool, int]:
    """Sort sections before values, so that a reference counts before and behind what it is to."""
    is_value = setting.name not in _SECTIONS
    return is_value, 0 if is_value else setting.name.count(".")


def _is_used(owner: str, last: Mapping[str, Any]) -> bool:
    """Return whether a configurable is a section, or one that is referred to."""
    if owner in REFERRED:
        section = f"{REFERRED[owner]}."
        return all(
            last.get(name) is not None for name in _SECTIONS if section.startswith(f"{name}.")
        )
    if owner in SCHEDULES:
        return bool(last.get("optimizer.scheduler.name", ScheduleConfig.name) == SCHEDULES[owner])
    if owner in ALGORITHM_PARAMETERS:
        return bool(last.get("optimizer.algorithm", OptimizerConfig.algorithm) == owner)
    return True


def _set(sections: dict[str, Any], name: str, value: Any) -> None:
    """Set a value by its dotted name."""
    *path, key = name.split(".")
    inner = sections
    for part in path:
        if inner.get(part) is None:
            inner[part] = {}
        inner = inner[part]
    inner[key] = value
