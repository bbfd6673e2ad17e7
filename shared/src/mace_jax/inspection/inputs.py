"""The inputs that a file was made from, looked for by name and compared by digest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mace_jax.artifacts.dataset import dataset_files
from mace_jax.artifacts.provenance import file_sha256, files_sha256
from mace_jax.errors import ArtifactError


class FoundInput(NamedTuple):
    """An entry of a provenance record and what became of it.

    Attributes:
        role, name, kind, version, sha256: as recorded.
        state: ``verified``, ``differs`` (something of its name is here), or ``not here``.
        path: where it was found.
    """

    role: str
    name: str
    kind: str
    version: int | None
    sha256: str
    state: str
    path: str | None


@dataclass
class InputSearch:
    """Looks for inputs in folders and one or two folders below them.

    Attributes:
        folders: where to look, beside the file's own folder.
        digests: of what was looked at.
    """

    folders: Sequence[Path]
    digests: dict[Path, str | None] = field(default_factory=dict)

    def find(self, record: dict[str, Any], beside: Path) -> FoundInput:
        """Look for an input of the file ``beside``."""
        other = None
        for path in self._places(record["name"], beside.parent):
            if path.resolve() == beside.resolve():
                continue
            if self._digest(path) == record["sha256"]:
                return FoundInput(**record, state="verified", path=str(path))
            other = other or path
        state = "differs" if other else "not here"
        return FoundInput(**record, state=state, path=str(other) if other else None)

    def _places(self, name: str, own: Path) -> Iterator[Path]:
        for folder in dict.fromkeys([own, *self.folders]):
            below = (path for pattern in ("*/", "*/*/") for path in sorted(folder.glob(pattern)))
            for place in (folder, *below):
                if name and (place / name).exists():
                    yield place / name

    def _digest(self, path: Path) -> str | None:
        """Return the digest; None for a folder that is no dataset."""
        if path not in self.digests:
            try:
                folder = path.is_dir()
                self.digests[path] = (
                    files_sha256(dataset_files(path)) if folder else file_sha256(path)
                )
            except ArtifactError:
                self.digests[path] = None
        return self.digests[path]
