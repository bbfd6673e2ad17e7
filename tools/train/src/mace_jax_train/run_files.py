"""Where a run writes: every file carries the run's tag and says where it came from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mace_jax.artifacts.atomic_write import atomic_directory_entries
from mace_jax.artifacts.provenance import Input, make_provenance
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.errors import ConfigError

TOOL = "mace-jax-train"
# What is made before the training, the configuration last: with it all is there.
PREPARED = (
    ".data",
    ".train.plan.json",
    ".valid.plan.json",
    ".test.plan.json",
    ".statistics.json",
    ".gin",
    ".config.json",
)
RESULTS = (".metrics", "_best.msgpack", "_last.msgpack")


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        folder: where they are.
        tag: what every name starts with.
        reproducible: whether what differs from run to run is left out of them.
        destination: where they go in the end, if that is another folder.
    """

    folder: Path
    tag: str
    reproducible: bool = False
    destination: Path | None = None

    def path(self, suffix: str) -> Path:
        """Return the path of one of them, such as ``.metrics``."""
        return self.folder / f"{self.tag}{suffix}"

    def final(self, path: Path) -> Path:
        """Return where ``path`` is found in the end: one of these files, or any other."""
        if self.destination is None or not path.is_relative_to(self.folder):
            return path
        return self.destination / path.relative_to(self.folder)

    def provenance(self, inputs: Sequence[Input], seed: int | None = None) -> dict[str, Any]:
        """Return the provenance record of a file of this run."""
        return make_provenance(TOOL, inputs, seed=seed, reproducible=self.reproducible)

    def require_free(self, configs: Sequence[Path], *, force: bool) -> None:
        """Refuse to write over an earlier run of the same tag, and ever over what is read.

        Args:
            configs: the configuration files of this run.
            force: whether an earlier run may be replaced.

        Raises:
            ConfigError: one of the files exists, or is one of ``configs``.
        """
        taken = [path for path in map(self.path, (*PREPARED, *RESULTS)) if path.exists()]
        own = {path.resolve() for path in taken} & {path.resolve() for path in configs}
        if own:
            message = (
                f"{own.pop()}: is read as configuration and would be replaced by this run; "
                "give --name or --log-dir"
            )
            raise ConfigError(message)
        if taken and not force:
            message = (
                f"{taken[0]}: a run named {self.tag!r} exists already; "
                "give --force to replace it or --name to choose another name"
            )
            raise ConfigError(message)

    @contextmanager
    def staged(self) -> Iterator["RunFiles"]:
        """Yield the same files in a temporary folder; they appear together, or not at all."""
        names = [self.path(suffix).name for suffix in PREPARED]
        with atomic_directory_entries(self.folder, names) as folder:
            yield replace(self, folder=folder, destination=self.folder)


def run_files(config: TrainConfig, default_name: str, *, reproducible: bool = False) -> RunFiles:
    """Return where the run writes; the tag is its name, with a timestamp if asked for."""
    tag = config.logs.name or default_name
    if config.logs.include_timestamp:
        tag = f"{datetime.now().astimezone():%Y%m%d_%H%M}_{tag}"
    return RunFiles(Path(config.logs.directory), tag, reproducible)
