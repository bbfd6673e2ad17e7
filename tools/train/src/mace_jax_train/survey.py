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
from mace_jax.structures.isolated_atoms import IsolatedAtoms
from mace_jax.structures.neighbor_list import count_neighbors, neighbor_pairs
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.structure import Structure
from mace_jax.structures.training_sums import TrainingSums
from mace_jax_train.run_heads import (
    RunHead,
    kept_heads,
    require_judged_heads,
    require_known_heads,
    run_heads,
)
from mace_jax_train.split_data import SplitData
from mace_jax_train.starting_model import StartingModel
from mace_jax_train.usable_labels import LabelsOfHeads

log = logging.getLogger(__name__)


class TrainingData(NamedTuple):
    """What a run learns from.

    Attributes:
        data: its structures.
        sums: over them; the neighbours are counted only where there is no statistics file.
        elements: atomic numbers that the run's model knows, ascending.
        given: the statistics file, if there is one.
        labels: split -> label -> structures that have it with a weight above 0, of all splits.
        heads: of the run.
        kept: names of further heads, which stay as the starting model has them.
        first_in: head in the data -> atomic number -> the first structure that has it.
    """

    data: SplitData
    sums: TrainingSums
    elements: tuple[int, ...]
    given: Statistics | None
    labels: Mapping[str, Mapping[str, int]]
    heads: tuple[RunHead, ...]
    kept: tuple[str, ...]
    first_in: Mapping[str, Mapping[int, str]]

    def sums_of(self, head: RunHead) -> TrainingSums:
        """Return the sums over the structures of one head.

        Its isolated atoms are there unless a statistics file says what E0s are: a run that goes on
        reads what it has converted, where there are none.
        """
        sums, name = TrainingSums(self.sums.r_max), head.data_name
        sums.heads[name] = self.sums.heads[name]
        if self.given is None:
            atoms = self.sums.isolated_atoms.of_head(name)
            sums.isolated_atoms.merge(IsolatedAtoms({name: atoms}))
        return sums


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
        ArtifactError, DataError: a structure is damaged or does not fit the model, is of a head
            that the run does not have, or the training data of a head lack what the loss needs.
        ConfigError: a config type that is given a weight occurs nowhere in them, what the data
            call a head is no name for one, or ``train.best_head`` has nothing to be judged by.
    """
    elements = config.datasets.atomic_numbers or (given.atomic_numbers if given else ())
    known = sorted_elements(elements)
    sums: list[TrainingSums] = []
    counts: dict[str, Mapping[str, int]] = {}
    heads: tuple[RunHead, ...] = ()
    kept: tuple[str, ...] = ()
    first_in: dict[str, dict[int, str]] = {}
    for split, data in splits.items():
        require = partial(_require_elements, starting, known)
        found_in = first_in if split == "train" else {}
        labels = LabelsOfHeads(config.datasets, len(data.datasets))
        edges = split == "train" and given is None
        sums.append(_survey(data, require, told, labels, found_in, r_max, count_edges=edges))
        for dataset, found in zip(data.datasets, labels.of_datasets(), strict=True):
            log.info("%s: %s: %s", split, dataset.name, found.summary())
        total = labels.total()
        counts[split] = total.found
        require_known_heads(config.datasets, [one.name for one in heads], total.heads, str(data))
        if split == "train":
            labels.require(config, data)
            heads = run_heads(config, total.heads, str(data))
            kept = kept_heads(config, total.heads)
            for head in heads if len(heads) > 1 else ():
                labels.of_head(head.data_name).require_head(config, head.config, str(data))
        if split == ("valid" if "valid" in splits else "train"):
            require_judged_heads(config.train, heads, total.heads, str(data))
        if not known and not starting:
            known = _elements_of(sums)
    elements = known or _elements_of(sums)
    return TrainingData(splits["train"], sums[0], elements, given, counts, heads, kept, first_in)


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
    labels: LabelsOfHeads,
    first_in: dict[str, dict[int, str]],
    r_max: float,
    *,
    count_edges: bool,
) -> TrainingSums:
    """Read every structure of a split and sum up what they hold."""
    sums = TrainingSums(r_max)
    assumed: Counter[EmbeddingSpec] = Counter()
    for number, dataset in enumerate(data.datasets):
        if dataset.r_max not in (None, r_max):
            text = "%s: stores the neighbours at %g Å, not at r_max %g Å: they are searched again"
            log.warning(text, dataset.name, dataset.r_max, r_max)
        for structure in data.of_dataset(number):
            require(structure)
            for spec in told:
                model_input(structure, spec)
                assumed[spec] += spec.source not in {**structure.inputs, **structure.properties}
            n_neighbors = np.zeros(len(structure), np.int64)
            if count_edges:
                n_neighbors = count_neighbors(neighbor_pairs(structure, r_max), len(structure))
            for element in dict.fromkeys(structure.atomic_numbers.tolist()):
                first_in.setdefault(structure.head, {}).setdefault(element, structure.place)
            sums.add(structure, n_neighbors)
            labels.add(number, structure)
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
