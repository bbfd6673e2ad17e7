"""The recipe of a model: all that its training is a function of, so that it can be repeated.

It stands in the model card of the bundle, as ``recipe``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.train_config import train_config_document, train_config_of_document
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.artifacts.versioned import Document
from mace_jax.errors import ArtifactError, ConfigError

_KEY = "recipe"


@dataclass(frozen=True)
class NamedFile:
    """A file, or a dataset of several, as the configuration names it, and its digest."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """What a run was made from.

    Attributes:
        config: of the run, but for what cannot change its results.
        files: option, such as ``datasets.train_path`` -> what it names, in order.
        n_structures: split -> structures.
        atomic_energies: where the E0s are from, in words.
        n_devices: how many trained together, each on a batch of its own.
        computed_with: versions and kind of device, on which the last digits depend.
    """

    config: TrainConfig
    files: Mapping[str, tuple[NamedFile, ...]]
    n_structures: Mapping[str, int]
    atomic_energies: str
    n_devices: int
    computed_with: Mapping[str, str] = field(default_factory=dict)

    def card(self, provenance: dict[str, Any]) -> Document:
        """Return the entry of the model card; ``provenance`` is that of the bundle."""
        files = {option: [asdict(file) for file in named] for option, named in self.files.items()}
        return {
            _KEY: {
                "config": train_config_document(self.config, provenance),
                "files": files,
                "n_structures": dict(self.n_structures),
                "atomic_energies": self.atomic_energies,
                "n_devices": self.n_devices,
                "computed_with": dict(self.computed_with),
            }
        }


class _Document(msgspec.Struct):
    config: Document
    files: dict[str, tuple[NamedFile, ...]]
    n_structures: dict[str, int]
    atomic_energies: str
    n_devices: int
    computed_with: dict[str, str] = {}


def recipe_of(bundle: ModelBundle, path: Path) -> Recipe | None:
    """Return the recipe of a bundle; None if it was not trained here; ``path`` is for messages.

    Raises:
        ArtifactError, ConfigError: it is damaged, or of a version that is not read.
    """
    document = bundle.model_card.get(_KEY)
    if document is None:
        return None
    try:
        found = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        message = f"{path}: model_card/{_KEY}: {error}; train the model again"
        raise ArtifactError(message) from error
    return Recipe(
        train_config_of_document(found.config, path, place=f"model_card/{_KEY}/config"),
        found.files,
        found.n_structures,
        found.atomic_energies,
        found.n_devices,
        found.computed_with,
    )


def require_recipe(bundle: ModelBundle, path: Path) -> Recipe:
    """Return the recipe of a bundle.

    Raises:
        ArtifactError: it is damaged, or of a version that is not read.
        ConfigError: there is none.
    """
    recipe = recipe_of(bundle, path)
    if recipe is None:
        message = (
            f"{path}: has no recipe, expected a bundle that mace-jax-train wrote; give the "
            ".config.json of the run instead"
        )
        raise ConfigError(message)
    return recipe
