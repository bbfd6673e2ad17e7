"""Where a run writes: every file carries the run's tag and says where it came from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mace_jax.artifacts.provenance import Input, make_provenance
from mace_jax.artifacts.train_config import TrainConfig
from mace_jax.errors import ConfigError

TOOL = "mace-jax-train"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        folder: where they are.
        tag: what every name starts with.
        reproducible: whether time and host are left out of them.
    """

    folder: Path
    tag: str
    reproducible: bool = False

    def path(self, suffix: str) -> Path:
        """Return the path of one of them, such as ``.metrics``."""
        return self.folder / f"{self.tag}{suffix}"

    def provenance(self, inputs: Sequence[Input], seed: int | None = None) -> dict[str, Any]:
        """Return the provenance record of a file of this run."""
        return make_provenance(TOOL, inputs, seed=seed, reproducible=self.reproducible)

    def require_free(self, *, force: bool) -> None:
        """Refuse to write over an earlier run of the same tag.

        Raises:
            ConfigError: one of its results exists.
        """
        suffixes = (".config.json", ".gin", ".metrics", "_best.msgpack", "_last.msgpack")
        taken = [path for path in map(self.path, suffixes) if path.exists()]
        if taken and not force:
            message = (
                f"{taken[0]}: a run named {self.tag!r} exists already; "
                "give --force to replace it or --name to choose another name"
            )
            raise ConfigError(message)


def run_files(config: TrainConfig, default_name: str, *, reproducible: bool = False) -> RunFiles:
    """Return where the run writes; the tag is its name, with a timestamp if asked for."""
    tag = config.logs.name or default_name
    if config.logs.include_timestamp:
        tag = f"{datetime.now().astimezone():%Y%m%d_%H%M}_{tag}"
    return RunFiles(Path(config.logs.directory), tag, reproducible)
