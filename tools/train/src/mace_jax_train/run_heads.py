"""The readout heads of a run: those that are configured, or those that the training data name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from mace_jax.artifacts.train_config_consistency import RESERVED, WEIGHTED
from mace_jax.artifacts.train_config_sections import DatasetsConfig, HeadConfig, TrainConfig
from mace_jax.errors import ConfigError, DataError, IncompatibleError
from mace_jax.structures.structure import PROPERTY_SHAPES

# Of a run of one head that nobody has named.
HEAD = "Default"
# What a head has in common with the others where it has nothing of its own.
_COMMON = ("E0s", "config_type_weights", *(f"{name}_key" for name in PROPERTY_SHAPES))


class RunHead(NamedTuple):
    """A head of the run.

    Attributes:
        config: its name in the model, and what is asked of it.
        data_name: its name in sums and statistics of the training data.
    """

    config: HeadConfig
    data_name: str

    @property
    def name(self) -> str:
        """Its name in the model."""
        return self.config.name


def have_own_paths(config: DatasetsConfig) -> bool:
    """Return whether each head has files of its own, so that these say which head it is."""
    return any(head.train_path is not None for head in config.heads)


def configured_heads(config: DatasetsConfig) -> tuple[HeadConfig, ...]:
    """Return the sections of heads, each with what all heads have in common."""
    return tuple(_with_common(head, config) for head in config.heads)


def _with_common(head: HeadConfig, config: DatasetsConfig) -> HeadConfig:
    common = {name: getattr(config, name) for name in _COMMON if getattr(head, name) is None}
    return replace(head, **common)


def run_heads(config: TrainConfig, found: Mapping[str, int], place: str) -> tuple[RunHead, ...]:
    """Return the heads of a run.

    Args:
        config: of the run.
        found: head of training structures -> how many there are, in the order of the data.
        place: the training data, for messages.

    Raises:
        ConfigError: a name is taken, or ``train.best_head`` is none of them.
        DataError: a head that is configured has no training data.
    """
    heads, kept = configured_heads(config.datasets), kept_heads(config, found)
    trained = [head for head in heads if head.name not in kept]
    for head in trained:
        if not found.get(head.name):
            message = (
                f"datasets.heads: {head.name}: no structure of this head in {place}, which has "
                f"{_listed(found)}; name its data, or leave the head out"
            )
            raise DataError(message)
    if heads:
        return tuple(RunHead(head, head.name) for head in trained)
    names = list(found)
    if len(names) == 1:
        alone = HeadConfig(HEAD, readout=config.model.torch_head)
        return (RunHead(_with_common(alone, config.datasets), names[0]),)
    _require_possible(names, config, place)
    return tuple(RunHead(_with_common(HeadConfig(name), config.datasets), name) for name in names)


def kept_heads(config: TrainConfig, found: Mapping[str, int]) -> tuple[str, ...]:
    """Return the heads that are kept as the model that training begins with has them.

    They have weight 0 and no training data.

    Args:
        config: of the run.
        found: head of training structures -> how many there are.
    """
    model = config.model
    if not (model.start_from or model.torch_checkpoint or model.foundation_model):
        return ()
    heads = config.datasets.heads
    return tuple(head.name for head in heads if not (head.weight or found.get(head.name)))


def _require_possible(names: Sequence[str], config: TrainConfig, place: str) -> None:
    taken = sorted(set(names) & set(RESERVED))
    if taken:
        message = f"{place}: head {taken[0]!r}: means all heads together; rename it in the data"
        raise ConfigError(message)
    if config.train.best_head not in (WEIGHTED, *names):
        message = (
            f"train.best_head = {config.train.best_head!r}, but {place} has {', '.join(names)}; "
            f"name one of them, or {WEIGHTED}"
        )
        raise ConfigError(message)


def require_known_heads(
    config: DatasetsConfig, trained: Sequence[str], found: Mapping[str, int], place: str
) -> None:
    """Check that structures are of heads that the run has.

    Args:
        config: of the run's data.
        trained: heads of the training data; one alone serves all structures.
        found: head of structures -> how many there are.
        place: these structures, for messages.

    Raises:
        DataError: one is of another head.
    """
    known = trained or [head.name for head in config.heads]
    unknown = [head for head in found if head not in known]
    if unknown and (config.heads or len(known) > 1):
        message = (
            f"{place}: head {unknown[0]!r} of {found[unknown[0]]} structures, expected one of "
            f"{_listed(known)}; add it to datasets.heads, or correct the data"
        )
        raise DataError(message)


def require_cutoff(heads: Sequence[HeadConfig], r_max: float) -> None:
    """Check that the data of all heads are meant for the run's cutoff.

    Raises:
        IncompatibleError: those of one are not.
    """
    for head in heads:
        if head.r_max is not None and abs(head.r_max - r_max) > 1e-6 * r_max:
            message = (
                f"datasets.heads: {head.name}: r_max {head.r_max} Å, expected {r_max} Å, as all "
                "heads share the network; leave it out, or begin with another model"
            )
            raise IncompatibleError(message)


def _listed(names: Mapping[str, int] | Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
