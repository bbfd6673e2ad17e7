"""The tag every file carries: its kind and format version, checked before anything else is read.

A file of the version before the current one is upgraded in memory by a pure function; a newer one
is refused, and so is an older one. Validation is by the JSON schemas of ``mace_jax_schemas``.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mace_jax.artifacts.atomic_write import write_bytes
from mace_jax.errors import ArtifactError
from mace_jax_schemas import current_version, load_schema

Document = dict[str, Any]

MADE_BY = {
    "dataset": "mace-jax-preprocess",
    "index": "mace-jax-preprocess",
    "statistics": "mace-jax-preprocess",
    "training_sums": "mace-jax-preprocess",
    "selection": "mace-jax-select-replay",
    "batch_plan": "mace-jax-plan-batches",
    "train_config": "mace-jax-train",
    "model_bundle": "mace-jax-train or mace-jax-from-torch",
    "metrics": "mace-jax-train",
    "checkpoint": "mace-jax-train",
    "predictions": "mace-jax-predict",
    "lammps_model": "mace-create-lammps-model",
}


# What version 1 of bundles took for granted of every network.
_NETWORK_OF_VERSION_1 = {
    "radial_type": "bessel",
    "distance_transform": "None",
    "apply_cutoff": True,
    "pair_repulsion": False,
    "readout_cls": "NonLinearReadoutBlock",
    "edge_irreps": None,
    "use_edge_irreps_first": False,
    "use_so3": False,
    "use_reduced_cg": False,
    "use_agnostic_product": False,
    "use_last_readout_only": False,
    "keep_last_layer_irreps": False,
}


def _model_bundle_v1_to_v2(header: Document) -> Document:
    """Version 2 has every architecture, and can say what a model was compared with."""
    embeddings = {"use_embedding_readout": False, "embedding_specs": []}
    model = {**header["model"], **_NETWORK_OF_VERSION_1, **embeddings}
    return {**_of_version(header, 2), "model": model, "parity": None}


def _statistics_v1_to_v2(statistics: Document) -> Document:
    """Version 2 knows heads and the spread of the energies."""
    return {**_of_version(statistics, 2), "energy_std": None, "heads": {}}


def _train_config_v5_to_v6(config: Document) -> Document:
    """Version 6 has heads, and can train parts of a network, at other rates, or adapters."""
    return {
        **_of_version(config, 6),
        "datasets": {**config["datasets"], "heads": []},
        "optimizer": {**config["optimizer"], "freeze": None, "lr_factors": None, "lora": None},
        "train": {**config["train"], "best_head": "weighted"},
    }


def _predictions_v2_to_v3(metadata: Document) -> Document:
    """Version 3 may hold labels and descriptors, and structures may have been passed over."""
    return {**_of_version(metadata, 3), "labels": [], "n_skipped": 0}


def _metrics_v1_to_v2(line: Document) -> Document:
    """Version 2 has more columns, all of them optional; only the header says which it is."""
    return _of_version(line, 2) if "schema" in line else line


def _batch_plan_v2_to_v3(plan: Document) -> Document:
    """Version 3 has several datasets, shapes and processes, and may skip graphs."""
    kept = {name: item for name, item in plan.items() if name not in ("dataset", "caps")}
    wastes = ("n_batches", "edge_waste", "node_waste", "graph_waste")
    return {
        **_of_version(kept, 3),
        "datasets": [plan["dataset"]],
        "processes": 1,
        "shapes": [{"n_batches": len(plan["batches"]), **plan["caps"]}],
        "skipped": [],
        "report": {
            **plan["report"],
            "shapes": [{name: plan["report"][name] for name in wastes}],
        },
    }


def _dataset_v1_to_v2(attributes: Document) -> Document:
    """Version 2 has the flat layout, too."""
    return _of_version(attributes, 2)


def _of_version(document: Document, version: int) -> Document:
    return {**document, "schema": {**document["schema"], "version": version}}


# (kind, version n) -> function that turns a document of version n into version n + 1
MIGRATIONS: Mapping[tuple[str, int], Callable[[Document], Document]] = {
    ("batch_plan", 2): _batch_plan_v2_to_v3,
    ("dataset", 1): _dataset_v1_to_v2,
    ("metrics", 1): _metrics_v1_to_v2,
    ("model_bundle", 1): _model_bundle_v1_to_v2,
    ("predictions", 2): _predictions_v2_to_v3,
    ("statistics", 1): _statistics_v1_to_v2,
    ("train_config", 5): _train_config_v5_to_v6,
}


def tag(kind: str) -> Document:
    """Return the schema tag that writers put into new files of ``kind``."""
    return {"kind": kind, "version": current_version(kind)}


def check_document(document: Any, kind: str, path: Path, *, place: str = "") -> Document:
    """Check the tag, upgrade by one version if needed, and validate.

    Args:
        document: what was parsed from the file.
        kind: the kind it must be.
        path: the file, for messages.
        place: where in the file the document stands, if not at the top.

    Returns: the document at the current version.

    Raises:
        ArtifactError: another kind, a version that can't be read, or invalid content.
    """
    where = f"{path}: {place}" if place else str(path)
    return _upgraded(document, kind, _check_tag(document, kind, where), where)


def check_part(document: Any, kind: str, version: int, path: Path, *, place: str) -> Document:
    """Validate an untagged part of a file of a version that was checked, and upgrade it."""
    return _upgraded(document, kind, version, f"{path}: {place}")


def _upgraded(document: Any, kind: str, version: int, where: str) -> Document:
    validate(document, kind, version, where)
    if version < current_version(kind):
        document = MIGRATIONS[kind, version](document)
        validate(document, kind, current_version(kind), where)
    return document


def parse_json(text: str | bytes) -> Any:
    """Parse JSON proper: NaN and Infinity are not in it.

    Raises:
        ValueError: it is no JSON.
    """

    def refuse(name: str) -> Any:
        message = f"{name} is not a JSON number"
        raise ValueError(message)

    return json.loads(text, parse_constant=refuse)


def _check_tag(document: Any, kind: str, where: str) -> int:
    schema = document.get("schema") if isinstance(document, dict) else None
    if not (
        isinstance(schema, dict)
        and isinstance(schema.get("kind"), str)
        and isinstance(schema.get("version"), int)
    ):
        message = f"{where}: has no schema tag, expected kind {kind!r}; {_remake(kind)}"
        raise ArtifactError(message)
    if schema["kind"] != kind:
        message = f"{where}: kind {schema['kind']!r}, expected {kind!r}; give a {kind} file"
        raise ArtifactError(message)
    version, current = schema["version"], current_version(kind)
    if version > current:
        message = (
            f"{where}: {kind} version {version}, expected at most {current}; "
            "upgrade mace-jax-shared"
        )
        raise ArtifactError(message)
    if version < current and (kind, version) not in MIGRATIONS:
        message = f"{where}: {kind} version {version}, expected {current}; {_remake(kind)}"
        raise ArtifactError(message)
    return version


def _remake(kind: str) -> str:
    return f"create it with {MADE_BY[kind]}"


def validate(document: Document, kind: str, version: int, where: str) -> None:
    """Check a document against the schema of ``version``, which may be one no longer read.

    Raises:
        ArtifactError: the schema forbids something in it.
    """
    from jsonschema.exceptions import best_match

    error = best_match(_validator(kind, version).iter_errors(document))
    if error is None:
        return
    pointer = "/" + "/".join(str(part) for part in error.absolute_path)
    found = error.message if len(error.message) <= 200 else error.message[:197] + "..."
    message = f"{where}: at {pointer}: {found}; {_remake(kind)}"
    raise ArtifactError(message)


@cache
def _validator(kind: str, version: int) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    def retrieve(uri: str) -> Resource[Any]:
        name, number = uri.removeprefix("mace-jax:").split("/v")
        return Resource.from_contents(load_schema(name, int(number)))

    registry: Any = Registry(retrieve=retrieve)  # type: ignore[call-arg]
    return Draft202012Validator(load_schema(kind, version), registry=registry)


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ArtifactError: it is missing or not complete JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ArtifactError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"{path}: not complete JSON ({error}); create the file again"
        raise ArtifactError(message) from error


def write_json(path: Path, document: Document, kind: str) -> None:
    """Validate ``document`` and write it atomically."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    validate(json.loads(text), kind, current_version(kind), str(path))
    write_bytes(path, text.encode() + b"\n")
