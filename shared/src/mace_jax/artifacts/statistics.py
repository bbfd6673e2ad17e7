"""``statistics.json``: what training needs to know of its data, in Torch MACE's own form."""

import ast
import re
from pathlib import Path
from typing import Any

from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.versioned import Document, check_document, read_json, tag, write_json
from mace_jax.errors import ArtifactError
from mace_jax.structures.statistics import HeadStatistics, Statistics

KIND = "statistics"
_NUMPY_SCALAR = re.compile(r"np\.float64\(([^()]*)\)")


def write_statistics(path: Path, statistics: Statistics, provenance: dict[str, Any]) -> None:
    """Write ``statistics.json`` atomically."""
    document = {
        "schema": tag(KIND),
        "provenance": provenance,
        "atomic_energies": repr(dict(statistics.atomic_energies)),
        "avg_num_neighbors": statistics.avg_num_neighbors,
        "mean": statistics.mean,
        "std": statistics.std,
        "atomic_numbers": repr(list(statistics.atomic_numbers)),
        "r_max": statistics.r_max,
        "energy_std": statistics.energy_std,
        "heads": {head: _head_to_json(found) for head, found in statistics.heads.items()},
    }
    write_json(path, document, KIND)


def read_statistics(path: Path) -> Statistics:
    """Read our own ``statistics.json`` or one that Torch MACE wrote, which has no tag.

    Raises:
        ArtifactError: it is damaged or lacks a value.
    """
    document = read_json(path)
    if isinstance(document, dict) and "schema" not in document:
        document = _torch_statistics_to_v1(document)
    document = check_document(document, KIND, path)
    try:
        energies = ast.literal_eval(document["atomic_energies"])
        numbers = ast.literal_eval(document["atomic_numbers"])
        return Statistics(
            atomic_numbers=tuple(int(number) for number in numbers),
            atomic_energies={int(number): float(value) for number, value in energies.items()},
            avg_num_neighbors=float(document["avg_num_neighbors"]),
            mean=float(document["mean"]),
            std=float(document["std"]),
            r_max=float(document["r_max"]),
            energy_std=document["energy_std"],
            heads={head: _head_from_json(found) for head, found in document["heads"].items()},
        )
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        message = (
            f"{path}: atomic_energies and atomic_numbers must be a dict and a list literal "
            f"({error}); create the file with mace-jax-preprocess"
        )
        raise ArtifactError(message) from error


def _head_to_json(statistics: HeadStatistics) -> Document:
    energies = {str(number): energy for number, energy in statistics.atomic_energies.items()}
    return {**vars(statistics), "atomic_energies": energies}


def _head_from_json(document: Document) -> HeadStatistics:
    energies = {int(number): float(e) for number, e in document["atomic_energies"].items()}
    return HeadStatistics(**{**document, "atomic_energies": energies})


def _torch_statistics_to_v1(document: Document) -> Document:
    """Add the tag that Torch MACE's file lacks; its fields and text literals are those of v1.

    With NumPy 2 it writes energies as ``np.float64(-13.6)``, which is no literal.
    """
    provenance: Document = {
        "tool": "mace_prepare_data",
        "tool_version": "unknown",
        "command": [],
        "seed": None,
        "inputs": [],
    }
    texts: Document = {
        name: _NUMPY_SCALAR.sub(r"\1", str(document[name]))
        for name in ("atomic_energies", "atomic_numbers")
        if name in document
    }
    schema = {"kind": KIND, "version": 1}
    return {"schema": schema, "provenance": provenance, **document, **texts}


def statistics_training_digests(path: Path) -> list[str]:
    """Return the SHA-256 of the datasets the statistics were computed from, if recorded."""
    inputs = read_json(path).get("provenance", {}).get("inputs", [])
    return [item["sha256"] for item in inputs if item["role"] == "train"]


def statistics_input(path: Path) -> Input:
    """Describe a statistics file in a provenance record."""
    return Input("statistics", path, KIND, tag(KIND)["version"], file_sha256(path))
