"""Files of a run, each recognised by its own tag and read by its kind's reader."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import msgpack

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.index import read_index
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.predictions_file import PredictionsFile
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.artifacts.train_config import read_train_config
from mace_jax.errors import ArtifactError


@dataclass(frozen=True)
class Artifact:
    """A file that was read and checked.

    Attributes:
        path: where it is.
        kind: of the contract.
        sha256: of its bytes.
        document: its header or, of JSON, all of it.
        content: what its reader returned.
    """

    path: Path
    kind: str
    sha256: str
    document: dict[str, Any]
    content: Any

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the record of what made it; empty in files of Torch MACE."""
        return self.document.get("provenance", {})


def _predictions(path: Path) -> dict[str, Any]:
    with PredictionsFile(path) as file:
        return file.metadata


def _dataset(path: Path) -> int:
    with Dataset(path) as dataset:
        return len(dataset)


_READERS: dict[str, Any] = {
    "dataset": _dataset,
    "batch_plan": read_batch_plan,
    "index": read_index,
    "metrics": read_metrics,
    "model_bundle": read_model_bundle,
    "predictions": _predictions,
    "statistics": read_statistics,
    "train_config": read_train_config,
}


def read_artifact(path: Path) -> Artifact:
    """Recognise a file by its tag and read it.

    Raises:
        ArtifactError: it is missing, damaged, or of no kind that a report shows.
    """
    digest = file_sha256(path)
    try:
        document = _document(path)
        kind = document["schema"]["kind"]
    except (OSError, ValueError, KeyError, TypeError, msgpack.exceptions.UnpackException) as error:
        message = (
            f"{path}: has no tag that says its kind ({type(error).__name__}: {error}), expected "
            f"one of {', '.join(_READERS)}; give a complete file of the chain"
        )
        raise ArtifactError(message) from error
    if kind not in _READERS:
        message = f"{path}: kind {kind!r}, expected one of {', '.join(_READERS)}; leave it out"
        raise ArtifactError(message)
    return Artifact(path, kind, digest, document, _READERS[kind](path))


def _document(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        start = file.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        with h5py.File(path, "r") as file:
            names = ("schema", "provenance")
            return {name: json.loads(file.attrs[name]) for name in names if name in file.attrs}
    if start.startswith(b"PAR1"):
        import pyarrow.parquet as pq

        return json.loads((pq.ParquetFile(path).metadata.metadata or {})[b"mace_jax"])
    if path.suffix == ".msgpack":
        return msgpack.unpackb(path.read_bytes())["header"]
    text = path.read_text(encoding="utf-8")
    try:
        document = json.loads(text)
    except ValueError:
        document = json.loads(text.partition("\n")[0])  # a metrics file begins with its header
    if isinstance(document, dict) and "schema" not in document and "atomic_energies" in document:
        return {**document, "schema": {"kind": "statistics", "version": 1}}  # of Torch MACE
    return document
