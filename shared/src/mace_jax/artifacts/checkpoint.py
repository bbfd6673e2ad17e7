"""Checkpoints: all that a training run needs to go on as if it had never stopped, in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.header_and_arrays import read_header_and_arrays, write_header_and_arrays
from mace_jax.artifacts.versioned import Document, tag
from mace_jax.errors import ArtifactError

KIND = "checkpoint"

_DTYPES = ("<f4", "<f8", "<i4", "<i8", "<u4", "|u1", "|b1")


@dataclass(frozen=True)
class Checkpoint:
    """A training run at one instant.

    Attributes:
        identity: what the run is a function of: ``config``, ``network`` and ``data``.
        plan_digest, epoch, batch: place in the training data, as in ``batching.cursor.Cursor``.
        best_row: metrics of the best evaluation, if there was one.
        waited: evaluations since.
        totals: sums over the steps of the epoch so far, as in the schema.
        lr: learning rate of the last step.
        n_skipped: steps of the run that were left out.
        rows: of the metrics file so far, as its lines.
        state: path -> array, of what training changes on the device.
        best: path -> array, of the best weights.
        errors: sums over the epoch so far.
    """

    identity: Document
    plan_digest: str
    epoch: int
    batch: int
    best_row: Document | None
    waited: int
    totals: Mapping[str, Any]
    lr: float | None
    n_skipped: int
    rows: Sequence[str]
    state: Mapping[str, NDArray[Any]]
    best: Mapping[str, NDArray[Any]]
    errors: Sequence[NDArray[Any]]


def write_checkpoint(path: Path, checkpoint: Checkpoint, provenance: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    header: Document = {
        "schema": tag(KIND),
        "provenance": provenance,
        "identity": checkpoint.identity,
        "cursor": {
            "plan_digest": checkpoint.plan_digest,
            "epoch": checkpoint.epoch,
            "batch": checkpoint.batch,
        },
        "best": {"row": checkpoint.best_row, "waited": checkpoint.waited},
        "totals": dict(checkpoint.totals),
        "lr": checkpoint.lr,
        "n_skipped": checkpoint.n_skipped,
    }
    parts = {
        "state": checkpoint.state,
        "best": checkpoint.best,
        "errors": {str(place): array for place, array in enumerate(checkpoint.errors)},
    }
    arrays = {f"{part}/{name}": a for part, named in parts.items() for name, a in named.items()}
    text = "".join(f"{row}\n" for row in checkpoint.rows)
    arrays["rows"] = np.frombuffer(text.encode(), np.uint8)
    write_header_and_arrays(path, KIND, header, arrays, _DTYPES)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check its digest.

    Raises:
        ArtifactError: it is missing, truncated, damaged or of another kind.
    """
    header, arrays, _ = read_header_and_arrays(path, KIND, _DTYPES)
    parts: dict[str, dict[str, NDArray[Any]]] = {"state": {}, "best": {}, "errors": {}}
    rows = arrays.pop("rows", np.zeros(0, np.uint8)).tobytes().decode().splitlines()
    for place, array in arrays.items():
        part, _, name = place.partition("/")
        if part not in parts:
            message = f"{path}: arrays/{place}: expected one of {', '.join(parts)} first"
            raise ArtifactError(message)
        parts[part][name] = array
    return Checkpoint(
        identity=header["identity"],
        **header["cursor"],
        best_row=header["best"]["row"],
        waited=header["best"]["waited"],
        totals=header["totals"],
        lr=header["lr"],
        n_skipped=header["n_skipped"],
        rows=rows,
        state=parts["state"],
        best=parts["best"],
        errors=[array for _, array in sorted(parts["errors"].items(), key=_by_number)],
    )


def _by_number(item: tuple[str, NDArray[Any]]) -> tuple[int, str]:
    return len(item[0]), item[0]
