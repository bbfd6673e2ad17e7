"""``<tag>.metrics``: one JSON line per evaluation, a header line first.

The whole file is replaced at every evaluation, so a reader never meets half a line; the header's
``status`` says whether the run is still going. Use ``MetricsLog`` as a context manager.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mace_jax.artifacts.atomic_write import write_bytes
from mace_jax.artifacts.versioned import Document, check_document, check_part, parse_json, tag
from mace_jax.errors import ArtifactError

KIND = "metrics"


# Columns that say how long something took, not what came of it.
TIMES = ("time", "graphs_per_second", "n_compilations")


class MetricsLog:
    """The metrics file of a run that is going on."""

    def __init__(
        self, path: Path, provenance: dict[str, Any], rows: Sequence[Document] = ()
    ) -> None:
        """Start a log at ``path``, with the rows of a run that is continued."""
        self.path = path
        self._header = {"schema": tag(KIND), "provenance": provenance, "status": "running"}
        self._lines: list[str] = []
        self.append(*rows)

    def append(self, *rows: Document) -> None:
        """Add rows and replace the file."""
        self._lines += map(metrics_line, rows)
        self._write()

    def __enter__(self) -> "MetricsLog":
        """Return the log itself."""
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Say how the run ended: ``finished``, or ``stopped`` by an error or a signal."""
        self._header["status"] = "stopped" if error else "finished"
        self._write()

    def _write(self) -> None:
        lines = [metrics_line(self._header), *self._lines, ""]
        write_bytes(self.path, "\n".join(lines).encode())


def metrics_line(row: Document) -> str:
    """Return a row, or the header, as a line of the file.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(row, allow_nan=False)


def without_times(row: Document) -> Document:
    """Return the row of a reproducible file."""
    return {name: None if name in TIMES else value for name, value in row.items()}


def read_metrics(path: Path) -> tuple[Document, list[Document]]:
    """Return the header and the rows.

    Raises:
        ArtifactError: it is missing, damaged or of another kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        header, *rows = [parse_json(line) for line in lines]
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ArtifactError(message) from error
    except ValueError as error:
        message = f"{path}: not complete JSON lines ({error}); run mace-jax-train again"
        raise ArtifactError(message) from error
    checked = check_document(header, KIND, path, place="line 1")
    version = header["schema"]["version"]
    return checked, [
        check_part(row, KIND, version, path, place=f"line {number}")
        for number, row in enumerate(rows, start=2)
    ]
