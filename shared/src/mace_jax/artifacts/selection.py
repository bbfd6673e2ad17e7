"""Which structures were chosen from which files, and how: beside the dataset that holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.versioned import check_document, read_json, tag, write_json
from mace_jax.errors import ArtifactError

KIND = "selection"
SUFFIX = ".selection.json"


@dataclass(frozen=True)
class Selection:
    """The choice; n structures in the order in which the dataset holds them.

    Attributes:
        dataset_name, dataset_sha256: the file that holds what was chosen.
        method: how it was chosen.
        number: how many were asked for; None for all.
        filtering_type: what ``elements`` mean, see ``mace-jax-select-replay``.
        elements: atomic numbers.
        head: that was given to what was chosen; None where each kept its own.
        counts: structures that were read, that were isolated atoms, and that could be chosen.
        sources: names of the files that were read, in the order of the provenance's inputs.
        source: which of them each structure is from, ``[n]``.
        frame: its number there, from 0, ``[n]``.
        digest: of its geometry, see ``structure_digest``.
    """

    dataset_name: str
    dataset_sha256: str
    method: str
    number: int | None
    filtering_type: str
    elements: tuple[int, ...]
    head: str | None
    counts: Mapping[str, int]
    sources: tuple[str, ...]
    source: NDArray[np.int64]
    frame: NDArray[np.int64]
    digest: tuple[str, ...]


def selection_path(dataset: Path) -> Path:
    """Return where the selection of a dataset stands: ``replay.selection.json`` of ``replay.h5``.

    Args:
        dataset: a file.
    """
    return dataset.with_suffix(SUFFIX)


def write_selection(path: Path, selection: Selection, provenance: dict[str, Any]) -> None:
    """Write a selection atomically."""
    document = {
        "schema": tag(KIND),
        "provenance": provenance,
        "dataset": {"name": selection.dataset_name, "sha256": selection.dataset_sha256},
        "method": selection.method,
        "number": selection.number,
        "filtering_type": selection.filtering_type,
        "elements": list(selection.elements),
        "head": selection.head,
        "counts": dict(selection.counts),
        "sources": list(selection.sources),
        "structures": {
            "source": selection.source.tolist(),
            "frame": selection.frame.tolist(),
            "digest": list(selection.digest),
        },
    }
    write_json(path, document, KIND)


def read_selection(path: Path) -> Selection:
    """Read a selection.

    Raises:
        ArtifactError: it is missing, damaged or of another kind.
    """
    document = check_document(read_json(path), KIND, path)
    structures = document["structures"]
    lengths = {name: len(values) for name, values in structures.items()}
    if len(set(lengths.values())) > 1 or max(structures["source"]) >= len(document["sources"]):
        message = (
            f"{path}: at /structures: {lengths} of {len(document['sources'])} sources, expected as "
            "many of each, and sources that are listed; create the file again"
        )
        raise ArtifactError(message)
    return Selection(
        document["dataset"]["name"],
        document["dataset"]["sha256"],
        document["method"],
        document["number"],
        document["filtering_type"],
        tuple(document["elements"]),
        document["head"],
        document["counts"],
        tuple(document["sources"]),
        np.array(structures["source"], np.int64),
        np.array(structures["frame"], np.int64),
        tuple(structures["digest"]),
    )
