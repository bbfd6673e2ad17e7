"""A msgpack map of ``header`` and ``arrays``: the form of model bundles and checkpoints.

``header`` is JSON-like and validated by the schema of its kind; ``arrays`` maps a path to dtype,
shape and little-endian C-order bytes. ``header.content_sha256`` is a digest of all the rest.
Nothing in the file is ever executed.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.provenance import canonical_json
from mace_jax.artifacts.versioned import Document, check_document
from mace_jax.errors import ArtifactError

Arrays = Mapping[str, NDArray[Any]]


def write_header_and_arrays(
    path: Path, kind: str, header: Document, arrays: Arrays, dtypes: Collection[str]
) -> None:
    """Write a file atomically, one array at a time.

    Args:
        path: target.
        kind: of the file.
        header: all of it but for the digest.
        arrays: by path.
        dtypes: NumPy's codes of those that may occur, little-endian, such as ``<f4``.

    Raises:
        ValueError: an array of another dtype.
    """
    packed = {name: _pack_array(array, dtypes) for name, array in sorted(arrays.items())}
    header = {**header, "content_sha256": _content_sha256(header, packed)}
    check_document(header, kind, path)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(_pieces(header, packed))


def pack_header_and_arrays(
    place: Path, kind: str, header: Document, arrays: Arrays, dtypes: Collection[str]
) -> bytes:
    """Return the bytes of such a file, to be kept inside another one.

    Arguments as of ``write_header_and_arrays``; ``place`` is for messages.
    """
    packed = {name: _pack_array(array, dtypes) for name, array in sorted(arrays.items())}
    header = {**header, "content_sha256": _content_sha256(header, packed)}
    check_document(header, kind, place)
    return b"".join(_pieces(header, packed))


def _pieces(header: Document, packed: Mapping[str, Any]) -> Iterator[bytes]:
    packer = msgpack.Packer()
    yield packer.pack_map_header(2)
    yield packer.pack("header") + packer.pack(header)
    yield packer.pack("arrays") + packer.pack_map_header(len(packed))
    for name, entry in packed.items():
        yield packer.pack(name) + packer.pack(entry)


def read_header_and_arrays(
    path: Path, kind: str, dtypes: Collection[str]
) -> tuple[Document, dict[str, NDArray[Any]], int]:
    """Read a file and check its digest.

    Returns: the header at the current version, the arrays, and the version of the file.

    Raises:
        ArtifactError: it is missing, truncated, damaged or of another kind.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ArtifactError(message) from error
    return unpack_header_and_arrays(content, path, kind, dtypes)


def unpack_header_and_arrays(
    content: bytes, path: Path, kind: str, dtypes: Collection[str]
) -> tuple[Document, dict[str, NDArray[Any]], int]:
    """Return what ``read_header_and_arrays`` does, of a file's bytes; ``path`` is for messages.

    Raises:
        ArtifactError: they are truncated, damaged or of another kind.
    """
    document = _unpack(content, path, kind)
    original, packed = document["header"], document["arrays"]
    header = check_document(original, kind, path, place="header")
    arrays = {name: _unpack_array(entry, path, name, dtypes) for name, entry in packed.items()}
    if _content_sha256(original, packed) != original["content_sha256"]:
        message = f"{path}: content_sha256 differs from the content; get the file again"
        raise ArtifactError(message)
    return header, arrays, original["schema"]["version"]


def _unpack(content: bytes, path: Path, kind: str) -> dict[str, Any]:
    expected = f"expected a {kind.replace('_', ' ')}"
    try:
        document = msgpack.unpackb(content)
        canonical_json(document["header"])  # text keys and plain values only
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        message = (
            f"{path}: not a complete msgpack file ({error or type(error).__name__}), "
            f"{expected}; get the file again"
        )
        raise ArtifactError(message) from error
    if not (
        isinstance(document, dict)
        and set(document) == {"header", "arrays"}
        and isinstance(document["arrays"], dict)
    ):
        message = f"{path}: not a map of header and arrays, {expected}"
        raise ArtifactError(message)
    return document


def _pack_array(array: NDArray[Any], dtypes: Collection[str]) -> dict[str, Any]:
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    if array.dtype.str not in dtypes:
        message = f"dtype {array.dtype}, expected one of {list(dtypes)}"
        raise ValueError(message)
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data  # no copy
    return {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": content}


def _unpack_array(entry: Any, path: Path, name: str, dtypes: Collection[str]) -> NDArray[Any]:
    place = f"{path}: arrays/{name}"
    if not (
        isinstance(entry, dict)
        and set(entry) == {"dtype", "shape", "bytes"}
        and isinstance(entry["bytes"], bytes)
        and isinstance(entry["shape"], list)
        and all(isinstance(size, int) and size >= 0 for size in entry["shape"])
    ):
        message = f"{place}: not an array of dtype, shape and bytes; get the file again"
        raise ArtifactError(message)
    if entry["dtype"] not in dtypes:
        message = f"{place}: dtype {entry['dtype']!r}, expected one of {list(dtypes)}"
        raise ArtifactError(message)
    array = np.frombuffer(entry["bytes"], dtype=np.uint8)
    dtype = np.dtype(entry["dtype"])
    expected = dtype.itemsize
    for size in entry["shape"]:  # Python integers, so a huge shape cannot overflow
        expected *= size
    if array.size != expected:
        message = (
            f"{place}: {array.size} bytes, expected {expected} for shape {entry['shape']}; "
            "get the file again"
        )
        raise ArtifactError(message)
    try:
        return array.view(dtype).reshape(entry["shape"])
    except ValueError as error:
        message = f"{place}: shape {entry['shape']}: {error}; get the file again"
        raise ArtifactError(message) from error


def _content_sha256(header: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the digest of everything in the file but the digest itself."""
    rest = {name: value for name, value in header.items() if name != "content_sha256"}
    digest = hashlib.sha256(canonical_json(rest))
    for name, entry in sorted(arrays.items()):
        digest.update(canonical_json([name, entry["dtype"], entry["shape"]]))
        digest.update(entry["bytes"])
    return digest.hexdigest()
