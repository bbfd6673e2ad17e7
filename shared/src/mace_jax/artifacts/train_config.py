"""The configuration of a training run: what a run is a function of, checked and as a file."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_origin

import msgspec

from mace_jax.artifacts.train_config_consistency import check_consistency
from mace_jax.artifacts.train_config_fields import FIELDS, choices, is_section, without_none
from mace_jax.artifacts.train_config_ranges import check_ranges
from mace_jax.artifacts.train_config_sections import (
    SECTIONS,
    LossConfig,
    LossName,
    SWAConfig,
    TrainConfig,
)
from mace_jax.artifacts.versioned import Document, check_document, read_json, tag, write_json
from mace_jax.errors import ConfigError, did_you_mean

KIND = "train_config"

# Weights that mace_run_train gives the terms of each loss; stage two has others.
_WEIGHTS = {"energy": 1.0, "forces": 100.0, "stress": 1.0, "virials": 1.0, "dipole": 1.0}
_STAGE_TWO = {"energy": 1000.0, "forces": 100.0, "stress": 10.0, "virials": 10.0, "dipole": 1.0}
LOSS_TERMS: dict[LossName, tuple[str, ...]] = {
    "weighted": ("energy", "forces", "stress"),
    "ef": ("energy", "forces"),
    "forces_only": ("forces",),
    "stress": ("energy", "forces", "stress"),
    "virials": ("energy", "forces", "virials"),
    "huber": ("energy", "forces", "stress"),
    "universal": ("energy", "forces", "stress"),
    "l1l2": ("energy", "forces"),
    "dipole": ("dipole",),
    "energy_forces_dipole": ("energy", "forces", "dipole"),
}


def train_config_from_sections(
    sections: dict[str, dict[str, Any]],
    source: str,
    places: Mapping[str, str] = MappingProxyType({}),
) -> TrainConfig:
    """Check a configuration given as plain data, and fill in every default.

    Args:
        sections: section -> name -> value; what is not there is as by default.
        source: where they are from, for messages.
        places: dotted name -> where just this value is from.

    Raises:
        ConfigError: an unknown key, a wrong type, an impossible value, or two that contradict.
    """

    def where(name: str) -> str:
        return places.get(name, source)

    _require_known(sections, TrainConfig, "", source)
    try:
        config = msgspec.convert(sections, TrainConfig, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_type_message(str(error), where)) from error
    check_ranges(config, where)
    config = _resolved(config, frozenset(_names(sections)), where)
    check_consistency(config, where)
    return config


def _require_known(values: Mapping[str, Any], section: type, prefix: str, source: str) -> None:
    """Refuse keys that the section, or one inside it or in a list of it, does not have.

    Raises:
        ConfigError: names the nearest key that there is.
    """
    known = {item.name: item.type for item in fields(section)}
    for name, value in values.items():
        if name not in known:
            place = f"{source}: {prefix.rstrip('.')}".rstrip(": ")
            message = f"{place}: unknown {name}; {did_you_mean(name, known)}"
            raise ConfigError(message)
        of_items = without_none(known[name])
        if get_origin(of_items) is tuple:
            of_items = get_args(of_items)[0]
        if is_section(of_items):
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, Mapping):
                    _require_known(item, of_items, f"{prefix}{name}.", source)


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of everything that was given."""
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")


def _type_message(error: str, where: Callable[[str], str]) -> str:
    """Say what msgspec says (``Expected … - at `$.optimizer.lr` ``) the way we do."""
    what, _, path = error.partition(" - at ")
    name = re.sub(r"\[.*", "", path.strip("`$."))
    words = choices(FIELDS.get(name, Any))
    found = re.fullmatch(r"Invalid enum value '(.*)'", what)
    todo = did_you_mean(found[1], words) if found and words else "correct the value"
    return f"{where(name)}: {name}: {what[:1].lower()}{what[1:]}; {todo}".replace(": : ", ": ")


def _resolved(
    config: TrainConfig, given: frozenset[str], where: Callable[[str], str]
) -> TrainConfig:
    """Replace every default that depends on something else by its value."""
    # the loss ``weighted`` has a stress term only where one is asked for
    optional = {"stress": 0.0} if config.loss.loss_cls == "weighted" else {}
    loss = _with_weights(config.loss, _WEIGHTS | optional, "loss", where)
    train = config.train
    if config.optimizer.algorithm == "schedulefree" and "train.ema_decay" not in given:
        train = replace(train, ema_decay=None)
    if train.swa_config:
        stage_two = _resolved_stage_two(config, train.swa_config, given, where)
        train = replace(train, swa_config=stage_two)
    return replace(config, loss=loss, train=train)


def _resolved_stage_two(
    config: TrainConfig, stage_two: SWAConfig, given: frozenset[str], where: Callable[[str], str]
) -> SWAConfig:
    first, optimizer, section = config.loss, config.optimizer, "train.swa_config.loss"
    of_first = {
        name: getattr(first, name)
        for name in ("loss_cls", "huber_delta")
        if f"{section}.{name}" not in given
    }
    loss = replace(stage_two.loss or LossConfig(), **of_first)
    optional = {"stress": 0.0} if loss.loss_cls == "weighted" and not first.stress_weight else {}
    start, lr = stage_two.start_interval, stage_two.lr
    return replace(
        stage_two,
        start_interval=max(1, optimizer.max_epochs // 4 * 3) if start is None else start,
        lr=min(1e-3, optimizer.lr) if lr is None else lr,
        loss=_with_weights(loss, _STAGE_TWO | optional, section, where),
    )


def _with_weights(
    loss: LossConfig, defaults: dict[str, float], section: str, where: Callable[[str], str]
) -> LossConfig:
    """Give every term of a loss its weight.

    Raises:
        ConfigError: a weight belongs to no term of the loss, or nothing would be learned.
    """
    given = {term: getattr(loss, f"{term}_weight") for term in _WEIGHTS}
    terms = LOSS_TERMS[loss.loss_cls]
    for term in given.keys() - set(terms):
        if given[term]:
            having = ", ".join(name for name, found in LOSS_TERMS.items() if term in found)
            message = (
                f"{where(f'{section}.{term}_weight')}: {section}.{term}_weight = {given[term]}, "
                f"but the loss {loss.loss_cls} has no such term; set it to 0 or choose {having}"
            )
            raise ConfigError(message)
    weights: dict[str, Any] = {
        f"{term}_weight": defaults[term] if given[term] is None else given[term] for term in terms
    }
    if not any(weights.values()):
        message = (
            f"{where(section)}: {section}: all weights are 0, so nothing would be learned; set one"
        )
        raise ConfigError(message)
    return replace(loss, **weights)


def term_weights(loss: LossConfig) -> dict[str, float]:
    """Return the terms that count and their weights, of a resolved loss."""
    weights = {term: getattr(loss, f"{term}_weight") for term in LOSS_TERMS[loss.loss_cls]}
    return {term: weight for term, weight in weights.items() if weight}


def train_config_document(config: TrainConfig, provenance: dict[str, Any]) -> Document:
    """Return a configuration as plain data with its tag."""
    return {"schema": tag(KIND), "provenance": provenance, **asdict(config)}


def train_config_of_document(document: Any, path: Path, *, place: str = "") -> TrainConfig:
    """Return the configuration that a document of any version still read says.

    Args:
        document: what was parsed.
        path: of the file, for messages.
        place: where in the file it stands, if not at the top.

    Raises:
        ArtifactError: it is damaged or of another kind.
        ConfigError: a value is impossible.
    """
    document = check_document(document, KIND, path, place=place)
    sections = {name: document[name] for name in SECTIONS}
    return train_config_from_sections(sections, f"{path}: {place}" if place else str(path))


def write_train_config(path: Path, config: TrainConfig, provenance: dict[str, Any]) -> None:
    """Write ``<tag>.config.json`` atomically."""
    write_json(path, train_config_document(config, provenance), KIND)


def read_train_config(path: Path) -> TrainConfig:
    """Read ``<tag>.config.json``.

    Raises:
        ArtifactError: it is damaged or of another kind.
        ConfigError: a value is impossible.
    """
    return train_config_of_document(read_json(path), path)
