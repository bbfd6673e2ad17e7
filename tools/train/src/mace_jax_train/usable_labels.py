"""Do the training data have what the loss wants to learn?"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mace_jax.artifacts.train_config import term_weights
from mace_jax.artifacts.train_config_sections import DatasetsConfig, HeadConfig, TrainConfig
from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.structure import Structure, weighted_by_config_type
from mace_jax_train.run_heads import configured_heads
from mace_jax_train.split_data import SplitData

log = logging.getLogger(__name__)


@dataclass
class UsableLabels:
    """How many structures have a label that counts, of a weight above 0.

    Attributes:
        config_type_weights: what the weights of structures are multiplied by.
        n_structures: all of them.
        found: structures by label.
        config_types: structures by config type.
        heads: structures by head.
    """

    config_type_weights: Mapping[str, float]
    n_structures: int = 0
    found: Counter[str] = field(default_factory=Counter)
    config_types: Counter[str] = field(default_factory=Counter)
    heads: Counter[str] = field(default_factory=Counter)

    def add(self, structure: Structure) -> None:
        """Count one structure."""
        weighted = weighted_by_config_type(structure, self.config_type_weights)
        self.n_structures += 1
        self.config_types[structure.config_type] += 1
        self.heads[structure.head] += 1
        self.found.update(name for name in structure.properties if weighted.label_weight(name))

    def merge(self, other: "UsableLabels") -> None:
        """Count the structures of ``other``, too."""
        self.n_structures += other.n_structures
        for own, counts in (
            (self.found, other.found),
            (self.config_types, other.config_types),
            (self.heads, other.heads),
        ):
            own.update(counts)

    def summary(self) -> str:
        """Return one line such as ``energy 12/12, forces 10/12``."""
        parts = [f"{name} {count}/{self.n_structures}" for name, count in self.found.items()]
        return ", ".join(parts) or f"no labels in {self.n_structures} structures"

    def missing(self, config: TrainConfig) -> list[str]:
        """Return the terms of the losses for which no structure has a label that counts."""
        terms = dict.fromkeys(term for _, term, _ in _terms(config))
        return [term for term in terms if not self.found[term]]

    def require(self, config: TrainConfig, place: str) -> None:
        """Check that every term of the losses, and every given weight, has something to act on.

        Args:
            config: of the run.
            place: the training data, for messages.

        Raises:
            DataError: no structure has a label that counts for a term.
            ConfigError: a weight is given for a config type that does not occur.
        """
        for option, term, weight in _terms(config):
            if not self.found[term]:
                message = (
                    f"{place}: {term} found in 0 of {self.n_structures} structures, those of "
                    f"weight 0 left out, but {option} is {weight}; set it to 0 or name the key"
                )
                raise DataError(message)
        self.require_config_types(self.config_type_weights, place)

    def require_config_types(self, weights: Mapping[str, float], place: str) -> None:
        """Check that there are structures of every config type that is given a weight.

        Raises:
            ConfigError: there are none.
        """
        # mace-torch's own default names this one
        unknown = weights.keys() - self.config_types.keys() - {"Default"}
        if unknown:
            message = (
                f"datasets.config_type_weights: no structure of config type "
                f"{', '.join(sorted(unknown))} in {place}, expected some of "
                f"{', '.join(sorted(self.config_types))}; correct the name"
            )
            raise ConfigError(message)

    def require_head(self, config: TrainConfig, head: HeadConfig, place: str) -> None:
        """Check that the structures counted, those of a head, teach it something.

        Args:
            config: of the run.
            head: whose they are.
            place: the training data, for messages.

        Raises:
            DataError: none has a label that counts, or none has an energy that is to be learned.
        """
        asked = {t: option for option, t, _ in _terms(config) if getattr(head, f"{t}_weight")}
        found = [term for term in asked if self.found[term]]
        missing = ["energy"] if "energy" in asked and "energy" not in found else []
        missing = missing if found else list(asked)
        if missing:
            message = (
                f"datasets.heads: {head.name}: {' and '.join(missing)} found in 0 of "
                f"{self.n_structures} structures in {place}, those of weight 0 left out; name the "
                f"keys of this head's labels, such as energy_key, or set energy_weight to 0"
            )
            raise DataError(message)
        for term in asked.keys() - set(found):
            text = "head %s: no %s in any of %d structures: the other heads alone teach it"
            log.warning(text, head.name, term, self.n_structures)


class LabelsOfHeads:
    """What is usable of a split, by dataset and head, each with the weights of its head."""

    def __init__(self, config: DatasetsConfig, n_datasets: int) -> None:
        """Count nothing yet."""
        self._config = config
        self._heads = {head.name: head for head in configured_heads(config)}
        self._parts: list[dict[str, UsableLabels]] = [{} for _ in range(n_datasets)]

    def add(self, dataset: int, structure: Structure) -> None:
        """Count one structure of a dataset."""
        head = structure.head
        weights = self._heads.get(head, self._config).config_type_weights or {}
        self._parts[dataset].setdefault(head, UsableLabels(weights)).add(structure)

    def of_datasets(self) -> list[UsableLabels]:
        """Return the counts of each dataset."""
        return [self._merged(part.values()) for part in self._parts]

    def of_head(self, head: str) -> UsableLabels:
        """Return the counts of a head."""
        return self._merged(part[head] for part in self._parts if head in part)

    def total(self) -> UsableLabels:
        """Return the counts of everything."""
        return self._merged(self.of_datasets())

    def _merged(self, parts: Iterable[UsableLabels]) -> UsableLabels:
        total = UsableLabels(self._config.config_type_weights or {})
        for part in parts:
            total.merge(part)
        return total

    def require(self, config: TrainConfig, data: SplitData) -> None:
        """Check that there is something to learn from, and warn of datasets without a part of it.

        Args:
            config: of the run.
            data: that was counted.

        Raises:
            ConfigError, DataError: as of ``UsableLabels.require``.
        """
        self.total().require(config, str(data))
        for section in config.datasets.heads:
            of_types = section.config_type_weights or {}
            self.of_head(section.name).require_config_types(of_types, str(data))
        for dataset, found in zip(data.datasets, self.of_datasets(), strict=True):
            if missing := found.missing(config):
                text = "%s: no %s in any structure: other data alone teach it"
                log.warning(text, dataset.name, " and no ".join(missing))


def _terms(config: TrainConfig) -> Iterator[tuple[str, str, float]]:
    """Yield option, term and weight of everything that is learned, in stage two also."""
    stage_two = config.train.swa_config
    losses = {"loss": config.loss, "train.swa_config.loss": stage_two and stage_two.loss}
    for section, loss in losses.items():
        for term, weight in term_weights(loss).items() if loss else ():
            yield f"{section}.{term}_weight", term, weight
