"""The same file at the newest version of its format, by the migrations that readers use.

Who made the file stays as it is; the file before is added to its inputs, as ``upgraded_from``.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mace_jax.artifacts.atomic_write import atomic_file, write_bytes
from mace_jax.artifacts.metrics import metrics_line, read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.versioned import Document, check_document, write_json
from mace_jax.errors import ArtifactError
from mace_jax.inspection.tagged_file import TaggedFile
from mace_jax_schemas import current_version

ROLE = "upgraded_from"


def is_newest(file: TaggedFile) -> bool:
    """Return whether there is nothing to upgrade.

    Raises:
        ArtifactError: the file has no version: it is Torch MACE's, or data, or part of a plan.
    """
    if file.version is None or file.container == "arrow":
        others = {"arrow": "belongs to a plan", "extxyz": "holds data, without a tag"}
        what = others.get(file.container, "is Torch MACE's, without a tag")
        message = f"{file.path}: {what}, expected a file with a version; it is read as it is"
        raise ArtifactError(message)
    document = file.document or {}
    if file.container in ("msgpack", "pickle"):
        check_document(document, file.kind, file.path, place="header")
    else:
        check_document(document, file.kind, file.path)
    return file.version == current_version(file.kind)


def write_upgraded(file: TaggedFile, target: Path) -> None:
    """Write the newest version of a file atomically; ``target`` may be the file itself.

    Raises:
        ArtifactError: it is damaged or too old, or its structures would have to change as well.
    """
    document = check_document(file.document, file.kind, file.path)
    if file.container == "extxyz":
        message = (
            f"{file.path}: extxyz of version {file.version}, whose predictions have other names "
            f"than those of version {current_version(file.kind)}; create it with mace-jax-predict"
        )
        raise ArtifactError(message)
    before = Input(ROLE, file.path, file.kind, file.version, file_sha256(file.path)).to_json()
    provenance = document["provenance"]
    inputs = [*provenance["inputs"], before]
    _WRITERS[file.container](
        file, {**document, "provenance": {**provenance, "inputs": inputs}}, target
    )


def _json(file: TaggedFile, document: Document, target: Path) -> None:
    write_json(target, document, file.kind)


def _json_lines(file: TaggedFile, document: Document, target: Path) -> None:
    _, rows = read_metrics(file.path)
    lines = [metrics_line(row) for row in (document, *rows)]
    write_bytes(target, "\n".join([*lines, ""]).encode())


def _msgpack(file: TaggedFile, document: Document, target: Path) -> None:
    """Read and write the model: the newest version has constants among its arrays."""
    write_model_bundle(target, read_model_bundle(file.path), document["provenance"])


def _hdf5(file: TaggedFile, document: Document, target: Path) -> None:
    """Copy the file, structures and all, and change what it says about itself."""
    import h5py

    from mace_jax.artifacts.dataset_attributes import write_attributes

    with atomic_file(target) as temporary:
        shutil.copyfile(file.path, temporary)
        with h5py.File(temporary, "r+") as copy:
            write_attributes(copy, document)


def _npz(file: TaggedFile, document: Document, target: Path) -> None:
    with np.load(file.path, allow_pickle=False) as found:
        arrays: dict[str, Any] = {name: found[name] for name in found.files if name != "metadata"}
    with atomic_file(target) as temporary, temporary.open("wb") as new:
        np.savez(new, **arrays, metadata=np.array(json.dumps(document)))


def _parquet(file: TaggedFile, document: Document, target: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(file.path).replace_schema_metadata({"mace_jax": json.dumps(document)})
    with atomic_file(target) as temporary:
        pq.write_table(table, temporary)


_WRITERS: Mapping[str, Callable[[TaggedFile, Document, Path], None]] = {
    "json": _json,
    "json_lines": _json_lines,
    "msgpack": _msgpack,
    "hdf5": _hdf5,
    "npz": _npz,
    "parquet": _parquet,
}
