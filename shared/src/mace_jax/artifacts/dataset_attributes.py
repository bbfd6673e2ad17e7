"""What an HDF5 file of a dataset says about itself, as attributes of its root."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py

from mace_jax.artifacts.versioned import Document, check_document
from mace_jax.errors import ArtifactError

KIND = "dataset"
_COUNTS = ("n_structures", "shard_index", "shard_count")


def write_attributes(file: h5py.File, attributes: Document) -> None:
    """Write checked attributes; objects become JSON text."""
    for name, value in attributes.items():
        file.attrs[name] = json.dumps(value) if isinstance(value, Mapping) else value


def read_attributes(file: h5py.File, path: Path) -> Document | None:
    """Return the checked root attributes; None for a file written by Torch MACE, which has none.

    Raises:
        ArtifactError: one is missing or makes no sense.
    """
    if "schema" not in file.attrs:
        return None
    try:
        attributes: dict[str, Any] = {
            "schema": json.loads(file.attrs["schema"]),
            "provenance": json.loads(file.attrs["provenance"]),
            "layout": str(file.attrs["layout"]),
            **{name: int(file.attrs[name]) for name in _COUNTS},
        }
        if "r_max" in file.attrs:
            attributes["r_max"] = _finite(float(file.attrs["r_max"]))
    except (KeyError, ValueError, TypeError) as error:
        message = f"{path}: root attributes: {error}; create it again with mace-jax-preprocess"
        raise ArtifactError(message) from error
    return check_document(attributes, KIND, path)


def _finite(number: float) -> float:
    if not math.isfinite(number):
        message = f"at /r_max: {number}, expected a finite number"
        raise ValueError(message)
    return number


def check_one_set(folder: Path, tags: Sequence[Document | None]) -> None:
    """Check that the files of a folder are all shards of one set, in one layout.

    Args:
        folder: for messages.
        tags: attributes of each file; None for one of Torch MACE.

    Raises:
        ArtifactError: one is missing, or there is one too many.
    """
    known = [attributes for attributes in tags if attributes]
    if not known:
        return
    count = known[0]["shard_count"]
    found = sorted(attributes["shard_index"] for attributes in known)
    counts = {attributes["shard_count"] for attributes in known}
    if len(known) != len(tags) or len(counts) > 1 or found != list(range(count)):
        message = (
            f"{folder}: holds shards {found} of {count}, expected all of one set and nothing else; "
            "copy the missing files or create the set again"
        )
        raise ArtifactError(message)


def one_layout(path: Path, layouts: Sequence[str]) -> str:
    """Return the layout that all files have.

    Raises:
        ArtifactError: they have several.
    """
    first, *others = sorted(set(layouts))
    if others:
        message = f"{path}: files of layouts {first} and {others[0]}, expected one; convert some"
        raise ArtifactError(message)
    return first
