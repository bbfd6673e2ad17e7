"""Where a file came from: which tool made it, how, and from which inputs, by digest."""

import hashlib
import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mace_jax.errors import ArtifactError


@dataclass(frozen=True)
class Input:
    """A file that something was made from."""

    role: str
    path: Path
    kind: str
    version: int | None
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the provenance record."""
        return {
            "role": self.role,
            "name": self.path.name,
            "kind": self.kind,
            "version": self.version,
            "sha256": self.sha256,
        }


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        ArtifactError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ArtifactError(message) from error


def files_sha256(paths: Sequence[Path]) -> str:
    """Return one digest of several files in order; of a single file, that file's own."""
    return joined_sha256([file_sha256(path) for path in paths])


def joined_sha256(digests: Sequence[str]) -> str:
    """Return the digest of several files from those of each, in order."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def external_input(role: str, path: Path, kind: str) -> Input:
    """Describe an input that is not one of our own kinds, such as an extxyz file."""
    return Input(role, path, kind, None, file_sha256(path))


def make_provenance(
    tool: str,
    inputs: Sequence[Input],
    *,
    seed: int | None = None,
    reproducible: bool = False,
) -> dict[str, Any]:
    """Return the provenance record of a file that ``tool`` is about to write.

    Args:
        tool: distribution name, such as ``"mace-jax-train"``.
        inputs: everything the content depends on.
        seed: random seed, if one was used.
        reproducible: leave out time, host and command line, which names where files lie, so that
            equal inputs give equal bytes.
    """
    record: dict[str, Any] = {
        "tool": tool,
        "tool_version": version(tool),
        "command": [] if reproducible else [_trim_home(argument) for argument in sys.argv[1:]],
        "seed": seed,
        "inputs": [item.to_json() for item in inputs],
    }
    if not reproducible:
        record["created_utc"] = datetime.now(UTC).isoformat(timespec="seconds")
        record["host"] = platform.node()
    return record


def _trim_home(argument: str) -> str:
    home = str(Path.home())
    return argument if home == "/" else re.sub(rf"{re.escape(home)}(?=/|$)", "~", argument)


def canonical_json(document: Any) -> bytes:
    """Return JSON with sorted keys, UTF-8, for digests."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
