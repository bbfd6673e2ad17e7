"""Sums over a part of a training set, for ``statistics.json`` of parts prepared apart."""

from pathlib import Path
from typing import Any

from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.versioned import check_document, read_json, tag, write_json
from mace_jax.errors import ArtifactError
from mace_jax.structures.training_sums import TrainingSums

KIND = "training_sums"


def write_training_sums(path: Path, sums: TrainingSums, provenance: dict[str, Any]) -> None:
    """Write the sums atomically; numbers survive exactly."""
    write_json(path, {"schema": tag(KIND), "provenance": provenance, **sums.to_json()}, KIND)


def read_training_sums(path: Path) -> TrainingSums:
    """Read sums, to be merged with those of the other parts.

    Raises:
        ArtifactError: the file is damaged.
    """
    document = check_document(read_json(path), KIND, path)
    try:
        return TrainingSums.from_json(document)
    except ValueError as error:
        message = f"{path}: parts that do not fit together ({error}); create the file again"
        raise ArtifactError(message) from error


def training_sums_input(role: str, path: Path) -> Input:
    """Describe a file of sums in a provenance record."""
    return Input(role, path, KIND, tag(KIND)["version"], file_sha256(path))
