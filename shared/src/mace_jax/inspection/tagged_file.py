"""The tag and provenance of any file, found by its first bytes, whatever it is called.

Nothing is executed: the pickle that LAMMPS loads is taken apart, not loaded.
"""

import json
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mace_jax.artifacts.versioned import Document, parse_json
from mace_jax.errors import ArtifactError

_COMMENT_ENTRY = re.compile(r'mace_jax_(\w+)=(?:"(.*?)"(?=\s+\w+=|\s*$)|(\S+))')
_ATTRIBUTES = ("layout", "n_structures", "shard_index", "shard_count", "r_max")


class TaggedFile(NamedTuple):
    """A file and what it says about itself, not validated.

    Attributes:
        path: of the file.
        container: ``hdf5``, ``parquet``, ``arrow``, ``npz``, ``pickle``, ``msgpack``, ``json``,
            ``json_lines`` or ``extxyz``.
        document: the object with ``schema`` and ``provenance``; None in a file of Torch MACE, which
            writes no tag, and in extended XYZ that holds data, unless these say who wrote them.
        kind: of the file; ``extxyz`` of data.
        version: of its format; None without a tag.
    """

    path: Path
    container: str
    document: Document | None
    kind: str
    version: int | None


def read_tagged_file(path: Path) -> TaggedFile:
    """Find out what a file is.

    Raises:
        ArtifactError: it cannot be read, or is no file of the contract.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ArtifactError(message) from error
    container = _container(path, start)
    try:
        document = _READERS[container](path)
        if container == "hdf5" and document is None:
            return TaggedFile(path, container, None, "dataset", None)
        if container == "json" and "schema" not in document and "atomic_energies" in document:
            return TaggedFile(path, container, None, "statistics", None)
        if container == "extxyz" and "schema" not in document:
            origin = document if "tool" in document["provenance"] else None
            return TaggedFile(path, container, origin, "extxyz", None)
        schema = document["schema"]
        kind, version = schema["kind"], schema["version"]
        if not (isinstance(kind, str) and isinstance(version, int)):
            raise TypeError(schema)
    except ArtifactError:
        raise
    except Exception as error:
        message = (
            f"{path}: has no schema tag where {container} files keep it "
            f"({type(error).__name__}: {error}); give a file that a MACE-JAX tool wrote"
        )
        raise ArtifactError(message) from error
    return TaggedFile(path, container, document, kind, version)


def _container(path: Path, start: bytes) -> str:
    magic = {
        b"\x89HDF": "hdf5",
        b"PAR1": "parquet",
        b"ARROW1": "arrow",
        b"PK\x03\x04": "npz",
        b"\x80\x04": "pickle",
        b"\x82\xa6header": "msgpack",
    }
    found = next((name for first, name in magic.items() if start.startswith(first)), None)
    if found:
        return found
    if start.lstrip().startswith(b"{"):
        return "json_lines" if path.suffix == ".metrics" else "json"
    if start.split(b"\n")[0].strip().isdigit():
        return "extxyz"
    message = (
        f"{path}: starts with {start[:8]!r}, expected a file of one of the contract's kinds; "
        "give a file that a MACE-JAX tool wrote"
    )
    raise ArtifactError(message)


def _hdf5(path: Path) -> Document | None:
    import h5py

    with h5py.File(path) as file:
        attributes: Mapping[str, Any] = dict(file.attrs)
    if "schema" not in attributes:
        return None
    tag = json.loads(attributes["schema"])
    if tag["kind"] == "predictions":
        return {name: json.loads(text) for name, text in attributes.items()}
    return {
        "schema": tag,
        "provenance": json.loads(attributes["provenance"]),
        **{name: _plain(attributes[name]) for name in _ATTRIBUTES if name in attributes},
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _parquet(path: Path) -> Document:
    import pyarrow.parquet as pq

    return parse_json(pq.read_metadata(path).metadata[b"mace_jax"])


def _arrow(path: Path) -> Document:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return parse_json(pa.ipc.open_file(file).schema.metadata[b"mace_jax"])


def _npz(path: Path) -> Document:
    with zipfile.ZipFile(path) as file, file.open("metadata.npy") as member:
        return parse_json(str(np.lib.format.read_array(member, allow_pickle=False)[()]))


def _msgpack(path: Path) -> Document:
    """Read the header alone; the arrays behind it may be large."""
    import msgpack

    with path.open("rb") as file:
        unpacker = msgpack.Unpacker(file)
        unpacker.read_map_header()
        unpacker.skip()
        return unpacker.unpack()


def lammps_document(path: Path) -> dict[str, Any]:
    """Return the header and the packed bundle inside the pickle that LAMMPS loads."""
    import msgpack

    with path.open("rb") as file:
        (content,) = [item for _, item, _ in pickletools.genops(file) if isinstance(item, bytes)]
    return msgpack.unpackb(content)


def comment_entries(comment: str) -> dict[str, Any]:
    """Return the metadata on the comment line of the first frame of extxyz predictions."""
    return {
        name: parse_json(quoted.replace('\\"', '"') if quoted else plain)
        for name, quoted, plain in _COMMENT_ENTRY.findall(comment)
    }


def _extxyz(path: Path) -> Document:
    with path.open(encoding="utf-8") as file:
        file.readline()
        entries = comment_entries(file.readline())
    numbers = sorted(int(name[6:]) for name in entries if name.startswith("input_"))
    inputs = [entries.pop(f"input_{number}") for number in numbers]
    top = ("schema", "head", "quantities", "labels", "n_graph", "n_skipped")
    document = {name: entries.pop(name) for name in top if name in entries}
    return {**document, "provenance": {**entries, "inputs": inputs}}


def _json_lines(path: Path) -> Document:
    with path.open("rb") as file:
        return parse_json(file.readline())


_READERS: Mapping[str, Callable[[Path], Any]] = {
    "hdf5": _hdf5,
    "parquet": _parquet,
    "arrow": _arrow,
    "npz": _npz,
    "pickle": lambda path: lammps_document(path)["header"],
    "msgpack": _msgpack,
    "json": lambda path: parse_json(path.read_bytes()),
    "json_lines": _json_lines,
    "extxyz": _extxyz,
}
