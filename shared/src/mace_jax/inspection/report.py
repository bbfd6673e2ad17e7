"""What is said of a file: as an object, and as lines for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mace_jax.artifacts.provenance import file_sha256
from mace_jax.artifacts.versioned import MADE_BY, validate
from mace_jax.cli.command import Result
from mace_jax.errors import ArtifactError, MaceJaxError
from mace_jax.inspection.inputs import FoundInput, InputSearch
from mace_jax.inspection.summaries import summarize
from mace_jax.inspection.tagged_file import TaggedFile, read_tagged_file
from mace_jax_schemas import current_version


@dataclass(frozen=True)
class Report:
    """What a file is.

    Attributes:
        artifact: the file.
        sha256: its digest; None if none were computed.
        n_bytes: its size.
        kind: of the file; None if it is none of ours.
        version: of its format; None if Torch MACE wrote it, and of extended XYZ.
        newest: version of its kind that is written today.
        valid: whether the schema of its own version allows what it says; None without one.
        problem: why it cannot be read, if so.
        provenance: who made it, when and how; the inputs are apart.
        inputs: what it was made from.
        summary: what matters of this kind.
    """

    artifact: str
    sha256: str | None
    n_bytes: int
    kind: str | None = None
    version: int | None = None
    newest: int | None = None
    valid: bool | None = None
    problem: str | None = None
    provenance: Mapping[str, Any] | None = None
    inputs: Sequence[FoundInput] = ()
    summary: Mapping[str, Any] | None = None

    def lines(self) -> list[str]:
        """Return the report for people."""
        rows: list[tuple[str, Any]] = [("kind", self._kind()), ("size", f"{self.n_bytes:,} bytes")]
        if self.sha256:
            rows.append(("sha256", self.sha256))
        if self.problem:
            rows.append(("PROBLEM", self.problem))
        rows += [*self._origin(), *(self.summary or {}).items()]
        width = max(len(name) for name, _ in rows)
        return [self.artifact, *(f"  {name:<{width}}  {_text(value)}" for name, value in rows)]

    def _kind(self) -> str:
        if self.kind is None:
            return "none of the contract's"
        if self.kind == "extxyz":
            return "extxyz, data; none of the contract's"
        if self.version is None:
            return f"{self.kind}, written by Torch MACE"
        newest = "the newest" if self.version == self.newest else f"the newest is {self.newest}"
        return f"{self.kind} version {self.version} ({newest}), schema {_validity(self.valid)}"

    def _origin(self) -> list[tuple[str, Any]]:
        if self.provenance is None:
            return []
        made = self.provenance
        rows = [("made by", f"{made['tool']} {made['tool_version']}")]
        rows += [("at", f"{made['created_utc']} on {made['host']}")] if "host" in made else []
        rows += [("command", " ".join(made["command"]))] if made["command"] else []
        rows += [("seed", str(made["seed"]))] if made["seed"] is not None else []
        return rows + [("from", _input_line(item)) for item in self.inputs]


def inspect_file(path: Path, search: InputSearch, *, quick: bool) -> Report:
    """Find out everything about a file; what is wrong with it is part of the report.

    Args:
        path: of the file.
        search: where its inputs may be.
        quick: compute no digests, and don't read all structures of a dataset.

    Raises:
        ArtifactError: there is no such file.
    """
    digest = None if quick else file_sha256(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ArtifactError(message) from error
    try:
        file = read_tagged_file(path)
    except ArtifactError as error:
        return Report(str(path), digest, size, problem=_one_line(error))
    invalid = _schema_problem(file)
    try:
        problem, summary = invalid, summarize(file, quick=quick)
    except MaceJaxError as error:
        problem, summary = invalid or _one_line(error), {}
    provenance = dict((file.document or {}).get("provenance", {})) if not invalid else {}
    inputs = provenance.pop("inputs", [])
    return Report(
        str(path),
        digest,
        size,
        file.kind,
        file.version,
        current_version(file.kind) if file.kind in MADE_BY else None,
        None if file.version is None else not invalid,
        problem,
        provenance or None,
        [] if quick else [search.find(item, path) for item in inputs],
        summary,
    )


def _schema_problem(file: TaggedFile) -> str | None:
    """Say what the schema of the file's own version has against it."""
    if file.document is None or file.version is None or file.container == "arrow":
        return None
    if file.kind not in MADE_BY or not 1 <= file.version <= current_version(file.kind):
        return (
            f"{file.path}: {file.kind} version {file.version} is not known here; "
            "upgrade mace-jax-shared"
        )
    try:
        validate(file.document, file.kind, file.version, str(file.path))
    except ArtifactError as error:
        return _one_line(error)
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _validity(valid: bool | None) -> str:
    return "valid" if valid else "NOT valid"


def _input_line(item: FoundInput) -> str:
    version = f" v{item.version}" if item.version is not None else ""
    place = f" ({item.path})" if item.path else ""
    return (
        f"{item.role}: {item.name}, {item.kind}{version}, {item.sha256[:12]}…, {item.state}{place}"
    )


def _text(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:.7g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Inspection(Result):
    """Reports of several files, printed as text, or as the ``summary`` of one object."""

    reports: Sequence[Report] = ()

    def __str__(self) -> str:
        """Return the reports for people."""
        return "\n\n".join("\n".join(report.lines()) for report in self.reports)

    def as_json(self) -> str:
        """Return ``{artifact, sha256, summary: {files}}``; the digest is that of the report."""
        first = self.reports[0]
        digest = first.sha256 if first.artifact == str(self.artifact) else None
        files = [_object(report) for report in self.reports]
        summary = {"files": files}
        return json.dumps({"artifact": str(self.artifact), "sha256": digest, "summary": summary})


def _object(report: Report) -> dict[str, Any]:
    return {**asdict(report), "inputs": [item._asdict() for item in report.inputs]}
