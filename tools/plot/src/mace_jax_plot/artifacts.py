"""Files of a run, each recognised by its own tag and read by its kind's reader."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.index import read_index
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.predictions_file import PredictionsFile
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.artifacts.selection import read_selection
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.artifacts.train_config import read_train_config
from mace_jax.errors import ArtifactError
from mace_jax.inspection.tagged_file import read_tagged_file


@dataclass(frozen=True)
class Artifact:
    """A file that was read and checked.

    Attributes:
        path: where it is.
        kind: of the contract.
        sha256: of its bytes.
        document: its header or, of JSON, all of it; empty without a tag, as of Torch MACE.
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
    "selection": read_selection,
    "statistics": read_statistics,
    "train_config": read_train_config,
}


def read_artifact(path: Path) -> Artifact:
    """Recognise a file by its tag and read it.

    Raises:
        ArtifactError: it is missing, damaged, or of no kind or form that a report shows.
    """
    digest = file_sha256(path)
    file = read_tagged_file(path)
    if file.kind not in _READERS:
        message = f"{path}: kind {file.kind!r}, expected one of {', '.join(_READERS)}; leave it out"
        raise ArtifactError(message)
    if file.kind == "predictions" and file.container != "hdf5":
        message = f"{path}: predictions as {file.container}, expected .h5; predict into .h5"
        raise ArtifactError(message)
    return Artifact(path, file.kind, digest, file.document or {}, _READERS[file.kind](path))
