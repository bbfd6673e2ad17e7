"""Read all data once before a run, so that nothing of it stops the run later."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.batching.graph import DEFAULT_INPUTS, model_input
from mace_jax.elements import sorted_elements, species_index
from mace_jax.errors import DataError
from mace_jax.structures.neighbor_list import count_neighbors, neighbor_pairs
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.structure import Structure
from mace_jax.structures.training_sums import TrainingSums
from mace_jax_train.split_data import SplitData
from mace_jax_train.starting_model import StartingModel
from mace_jax_train.usable_labels import UsableLabels

log = logging.getLogger(__name__)


class TrainingData(NamedTuple):
    """What a run learns from.

    Attributes:
        data: its structures.
        sums: over them; the neighbours are counted only where there is no statistics file.
        elements: atomic numbers that the run's model knows, ascending.
        given: the statistics file, if there is one.
        labels: split -> label -> structures that have it with a weight above 0, of all splits.
    """

    data: SplitData
    sums: TrainingSums
    elements: tuple[int, ...]
    given: Statistics | None
    labels: Mapping[str, Mapping[str, int]]


def survey_splits(
    config: TrainConfig,
    splits: Mapping[str, SplitData],
    starting: StartingModel | None,
    given: Statistics | None,
    told: Sequence[EmbeddingSpec],
    r_max: float,
) -> TrainingData:
    """Read every structure, and find out which elements the model of the run needs.

    They are those of ``datasets.atomic_numbers``, of the statistics file, or of the data: all of
    them for a model that knows more already, and those of the training data for a fresh network.

    Args:
        config: of the run.
        splits: their data, those of training first.
        starting: the model that training begins with.
        given: the statistics file.
        told: what the model is told of a structure beside atoms and positions.
        r_max: cutoff, Å.

    Raises:
        ArtifactError, DataError: a structure is damaged or does not fit the model, or the training
            data are of several heads or lack what the loss needs.
        ConfigError: a config type that is given a weight occurs nowhere in them.
    """
    elements = config.datasets.atomic_numbers or (given.atomic_numbers if given else ())
    known = sorted_elements(elements)
    sums: list[TrainingSums] = []
    counts: dict[str, Mapping[str, int]] = {}
    for split, data in splits.items():
        require = partial(_require_elements, starting, known)
        labels = [UsableLabels(config.datasets.config_type_weights or {}) for _ in data.datasets]
        edges = split == "train" and given is None
        sums.append(_survey(data, require, told, labels, r_max, count_edges=edges))
        for dataset, found in zip(data.datasets, labels, strict=True):
            log.info("%s: %s: %s", split, dataset.path, found.summary())
        counts[split] = sum((found.found for found in labels), Counter())
        if split == "train":
            _require_labels(config, data, labels)
            _require_one_head(data, labels)
        if not known and not starting:
            known = _elements_of(sums)
    return TrainingData(splits["train"], sums[0], known or _elements_of(sums), given, counts)


def _require_elements(
    starting: StartingModel | None, known: tuple[int, ...], structure: Structure
) -> None:
    if starting:
        starting.require_elements(structure)
    if known:
        species_index(structure.atomic_numbers, known, structure.place)


def _survey(
    data: SplitData,
    require: Callable[[Structure], None],
    told: Sequence[EmbeddingSpec],
    labels: Sequence[UsableLabels],
    r_max: float,
    *,
    count_edges: bool,
) -> TrainingSums:
    """Read every structure of a split and sum up what they hold; the labels by dataset."""
    sums = TrainingSums(r_max)
    assumed: Counter[EmbeddingSpec] = Counter()
    for dataset, found in zip(data.datasets, labels, strict=True):
        if dataset.r_max not in (None, r_max):
            text = "%s: stores the neighbours at %g Å, not at r_max %g Å: they are searched again"
            log.warning(text, dataset.path, dataset.r_max, r_max)
        for structure in dataset:
            require(structure)
            for spec in told:
                model_input(structure, spec)
                assumed[spec] += spec.source not in {**structure.inputs, **structure.properties}
            n_neighbors = np.zeros(len(structure), np.int64)
            if count_edges:
                n_neighbors = count_neighbors(neighbor_pairs(structure, r_max), len(structure))
            sums.add(structure, n_neighbors)
            found.add(structure)
    n = len(data)
    for spec in +assumed:
        text = "%s: %s: given by %d of %d structures; %g is assumed for the others"
        default = DEFAULT_INPUTS[spec.name]
        log.warning(text, data.name, spec.source, n - assumed[spec], n, default)
    return sums


def _elements_of(parts: Sequence[TrainingSums]) -> tuple[int, ...]:
    return sorted_elements(
        number for sums in parts for head in sums.heads.values() for number in head.elements
    )


def _require_labels(config: TrainConfig, data: SplitData, labels: Sequence[UsableLabels]) -> None:
    """Check that there is something to learn from, and warn of datasets without a part of it.

    Raises:
        ConfigError, DataError: as of ``UsableLabels.require``.
    """
    total = UsableLabels(config.datasets.config_type_weights or {})
    for found in labels:
        total.merge(found)
    total.require(config, str(data))
    for dataset, found in zip(data.datasets, labels, strict=True):
        if missing := found.missing(config):
            text = "%s: no %s in any structure: other data alone teach it"
            log.warning(text, dataset.path, " and no ".join(missing))


def _require_one_head(data: SplitData, labels: Sequence[UsableLabels]) -> None:
    """Check that the training data are of one head.

    Raises:
        DataError: they are of several, whose energies cannot be told apart yet.
    """
    if len({head for found in labels for head in found.heads}) != 1:
        heads = [", ".join(sorted(found.heads)) for found in labels]
        what = "; ".join(
            f"{dataset.path}: {f'structures of heads {names}' if names else 'no structures'}"
            for dataset, names in zip(data.datasets, heads, strict=True)
        )
        message = f"{what}, expected those of one head; train on such data"
        raise DataError(message)
