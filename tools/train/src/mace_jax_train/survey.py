"""Read all data once before a run, so that nothing of it stops the run later."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from mace_jax.architecture import READOUT_IRREPS, predicts_energy
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelConfig
from mace_jax.artifacts.train_config import term_weights
from mace_jax.artifacts.train_config_sections import LossConfig, TrainConfig
from mace_jax.batching.graph import DEFAULT_INPUTS, model_input
from mace_jax.elements import sorted_elements, species_index
from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.neighbor_list import count_neighbors, neighbor_pairs
from mace_jax.structures.statistics import Statistics
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure
from mace_jax.structures.training_sums import TrainingSums
from mace_jax_train.starting_model import StartingModel

log = logging.getLogger(__name__)


class Surveys(NamedTuple):
    """What the data hold.

    Attributes:
        train: sums over the training data.
        elements: atomic numbers that the run's model knows, ascending.
        given: the statistics file, if there is one.
    """

    train: TrainingSums
    elements: tuple[int, ...]
    given: Statistics | None


def survey_splits(
    config: TrainConfig,
    datasets: Mapping[str, Dataset],
    starting: StartingModel | None,
    given: Statistics | None,
    told: Sequence[EmbeddingSpec],
    r_max: float,
) -> Surveys:
    """Read every structure, and find out which elements the model of the run needs.

    They are those of ``datasets.atomic_numbers``, of the statistics file, or of the data: all of
    them for a model that knows more already, and those of the training data for a fresh network.

    Args:
        config: of the run.
        datasets: the splits, the training data first.
        starting: the model that training begins with.
        given: the statistics file.
        told: what the model is told of a structure beside atoms and positions.
        r_max: cutoff, Å.

    Raises:
        ArtifactError, DataError: a structure is damaged or does not fit the model, or the training
            data are of several heads.
    """
    elements = config.datasets.atomic_numbers or (given.atomic_numbers if given else ())
    known = sorted_elements(elements)
    count_edges = starting is None and given is None
    sums: list[TrainingSums] = []
    for split, dataset in datasets.items():
        require = partial(_require_elements, starting, known)
        edges = count_edges and split == "train"
        sums.append(_survey(split, dataset, require, told, r_max, count_edges=edges))
        if not known and not starting:
            known = _elements_of(sums)
    _require_one_head(datasets["train"], sums[0])
    return Surveys(sums[0], known or _elements_of(sums), given)


def _require_elements(
    starting: StartingModel | None, known: tuple[int, ...], structure: Structure
) -> None:
    if starting:
        starting.require_elements(structure)
    if known:
        species_index(structure.atomic_numbers, known, structure.place)


def _survey(
    split: str,
    dataset: Dataset,
    require: Callable[[Structure], None],
    told: Sequence[EmbeddingSpec],
    r_max: float,
    *,
    count_edges: bool,
) -> TrainingSums:
    """Read every structure of a split and sum up what they hold."""
    sums = TrainingSums(r_max)
    labels: Counter[str] = Counter()
    assumed: Counter[EmbeddingSpec] = Counter()
    for structure in dataset:
        require(structure)
        for spec in told:
            model_input(structure, spec)
            assumed[spec] += spec.source not in {**structure.inputs, **structure.properties}
        n_neighbors = np.zeros(len(structure), np.int64)
        if count_edges:
            n_neighbors = count_neighbors(neighbor_pairs(structure, r_max), len(structure))
        sums.add(structure, n_neighbors)
        labels.update(structure.properties.keys())
    n = len(dataset)
    found = ", ".join(f"{name} {labels[name]}/{n}" for name in PROPERTY_SHAPES if labels[name])
    log.info("%s: %s", split, found or f"no labels in {n} structures")
    for spec in +assumed:
        text = "%s: %s: given by %d of %d structures; %g is assumed for the others"
        log.warning(text, split, spec.source, n - assumed[spec], n, DEFAULT_INPUTS[spec.name])
    return sums


def _elements_of(parts: Sequence[TrainingSums]) -> tuple[int, ...]:
    return sorted_elements(
        number for sums in parts for head in sums.heads.values() for number in head.elements
    )


def _require_one_head(dataset: Dataset, sums: TrainingSums) -> None:
    """Check that the training data are of one head.

    Raises:
        DataError: they are of several, whose energies cannot be told apart yet.
    """
    if len(sums.heads) > 1:
        message = (
            f"{dataset.path}: structures of heads {', '.join(sorted(sums.heads))}, expected one "
            "head; train on the data of one"
        )
        raise DataError(message)


def require_labels(config: TrainConfig, dataset: Dataset, sums: TrainingSums) -> None:
    """Check that every term of the loss, in both stages, has a label in the training data.

    Raises:
        DataError: a term has none anywhere.
    """
    (of_head,) = sums.heads.values()
    for place, loss in _losses(config):
        for term, weight in term_weights(loss).items():
            if not of_head.labels[term]:
                message = (
                    f"{dataset.path}: {term} found in 0 of {len(dataset)} structures, but "
                    f"{place}.{term}_weight is {weight}; set it to 0 or name the key"
                )
                raise DataError(message)


def require_predicted(config: TrainConfig, model: ModelConfig) -> None:
    """Check that the model predicts every quantity of the loss, in both stages.

    Raises:
        ConfigError: there is one that it does not.
    """
    predicted = {"energy", "forces", "stress", "virials"} if predicts_energy(model) else set()
    predicted |= {"dipole"} if model.model in READOUT_IRREPS else set()
    for place, loss in _losses(config):
        for term, weight in term_weights(loss).items():
            if term not in predicted:
                message = (
                    f"{place}.{term}_weight is {weight}, but {model.model} predicts "
                    f"{', '.join(sorted(predicted))} only; choose another loss or model"
                )
                raise ConfigError(message)


def _losses(config: TrainConfig) -> Iterator[tuple[str, LossConfig]]:
    """Yield the loss of each stage and where the configuration has it."""
    yield "loss", config.loss
    stage_two = config.train.swa_config
    if stage_two and stage_two.loss:
        yield "train.swa_config.loss", stage_two.loss
