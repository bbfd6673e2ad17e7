"""Do the training data have what the loss wants to learn?"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mace_jax.artifacts.train_config import term_weights
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.structure import Structure, weighted_by_config_type


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
        # mace-torch's own default names this one
        unknown = self.config_type_weights.keys() - self.config_types.keys() - {"Default"}
        if unknown:
            message = (
                f"datasets.config_type_weights: no structure of config type "
                f"{', '.join(sorted(unknown))} in {place}, expected some of "
                f"{', '.join(sorted(self.config_types))}; correct the name"
            )
            raise ConfigError(message)


def _terms(config: TrainConfig) -> Iterator[tuple[str, str, float]]:
    """Yield option, term and weight of everything that is learned, in stage two also."""
    stage_two = config.train.swa_config
    losses = {"loss": config.loss, "train.swa_config.loss": stage_two and stage_two.loss}
    for section, loss in losses.items():
        for term, weight in term_weights(loss).items() if loss else ():
            yield f"{section}.{term}_weight", term, weight
