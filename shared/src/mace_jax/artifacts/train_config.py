"""The configuration of a training run: what a run is a function of, checked and as a file."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import msgspec

from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.train_config_ranges import check_ranges
from mace_jax.artifacts.train_config_sections import (
    SECTIONS,
    LossConfig,
    LossName,
    SWAConfig,
    TrainConfig,
)
from mace_jax.artifacts.versioned import check_document, read_json, tag, write_json
from mace_jax.errors import ConfigError

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


def train_config_from_sections(sections: dict[str, dict[str, Any]], source: str) -> TrainConfig:
    """Check names and types of a configuration given as plain data.

    Raises:
        ConfigError: an unknown key, a wrong type or an impossible value.
    """
    unknown = set(sections) - set(SECTIONS)
    if unknown:
        message = f"{source}: unknown section {', '.join(sorted(unknown))}"
        raise ConfigError(message)
    try:
        for name, section in SECTIONS.items():
            unknown = set(sections.get(name, {})) - {item.name for item in fields(section)}
            if unknown:
                message = f"{source}: {name}: unknown {', '.join(sorted(unknown))}"
                raise ConfigError(message)
        config = msgspec.convert(sections, TrainConfig, strict=True)
    except msgspec.ValidationError as error:
        message = f"{source}: {error}; correct the value"
        raise ConfigError(message) from error
    check_ranges(config, source)
    return _resolved(config, source)


def _resolved(config: TrainConfig, source: str) -> TrainConfig:
    """Replace every default that depends on something else by its value."""
    # the loss ``weighted`` has a stress term only where one is asked for
    optional = {"stress": 0.0} if config.loss.loss_cls == "weighted" else {}
    loss = _with_weights(config.loss, _WEIGHTS | optional, f"{source}: loss")
    train = config.train
    if train.swa_config:
        train = replace(train, swa_config=_resolved_stage_two(config, train.swa_config, source))
    return replace(config, loss=loss, train=train)


def _resolved_stage_two(config: TrainConfig, stage_two: SWAConfig, source: str) -> SWAConfig:
    first, optimizer = config.loss, config.optimizer
    loss = stage_two.loss or LossConfig(first.loss_cls, huber_delta=first.huber_delta)
    optional = {"stress": 0.0} if loss.loss_cls == "weighted" and not first.stress_weight else {}
    start, lr = stage_two.start_interval, stage_two.lr
    return replace(
        stage_two,
        start_interval=max(1, optimizer.max_epochs // 4 * 3) if start is None else start,
        lr=min(1e-3, optimizer.lr) if lr is None else lr,
        loss=_with_weights(loss, _STAGE_TWO | optional, f"{source}: train.swa_config.loss"),
    )


def _with_weights(loss: LossConfig, defaults: dict[str, float], place: str) -> LossConfig:
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
                f"{place}: {term}_weight = {given[term]}, but the loss {loss.loss_cls} has no such "
                f"term; remove it or choose {having}"
            )
            raise ConfigError(message)
    weights: dict[str, Any] = {
        f"{term}_weight": defaults[term] if given[term] is None else given[term] for term in terms
    }
    if not any(weights.values()):
        message = f"{place}: all weights are 0, so nothing would be learned; set one"
        raise ConfigError(message)
    return replace(loss, **weights)


def term_weights(loss: LossConfig) -> dict[str, float]:
    """Return the terms that count and their weights, of a resolved loss."""
    weights = {term: getattr(loss, f"{term}_weight") for term in LOSS_TERMS[loss.loss_cls]}
    return {term: weight for term, weight in weights.items() if weight}


def write_train_config(path: Path, config: TrainConfig, provenance: dict[str, Any]) -> None:
    """Write ``<tag>.config.json`` atomically."""
    document = {"schema": tag(KIND), "provenance": provenance, **asdict(config)}
    write_json(path, document, KIND)


def read_train_config(path: Path) -> TrainConfig:
    """Read ``<tag>.config.json``.

    Raises:
        ArtifactError: it is damaged or of another kind.
        ConfigError: a value is impossible.
    """
    document = check_document(read_json(path), KIND, path)
    sections = {name: document[name] for name in SECTIONS}
    return train_config_from_sections(sections, str(path))


def train_config_input(path: Path) -> Input:
    """Describe a configuration in a provenance record."""
    return Input("config", path, KIND, tag(KIND)["version"], file_sha256(path))
