"""Where a run writes: every file carries the run's tag and says where it came from."""

import re
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
BUNDLES = ("_best.msgpack", "_last.msgpack", "_stage_one.msgpack")
RESULTS = (".metrics", *BUNDLES)


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        folder: where they are.
        tag: what every name starts with.
        reproducible: whether what differs from run to run is left out of them.
        destination: where they go in the end, if that is another folder.
        checkpoint_folder: where checkpoints go, if that is another folder.
    """

    folder: Path
    tag: str
    reproducible: bool = False
    destination: Path | None = None
    checkpoint_folder: Path | None = None

    def path(self, suffix: str) -> Path:
        """Return the path of one of them, such as ``.metrics``."""
        return self.folder / f"{self.tag}{suffix}"

    def checkpoint(self, which: str = "") -> Path:
        """Return the path of a checkpoint: of the latest one, ``.best`` or ``.epoch_00010``."""
        return (self.checkpoint_folder or self.folder) / f"{self.tag}{which}.checkpoint"

    def epoch_checkpoints(self) -> list[Path]:
        """Return the checkpoints of epochs that are there, in order."""
        pattern = re.compile(re.escape(self.tag) + r"\.epoch_(\d+)\.checkpoint")
        folder = self.checkpoint().parent
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        found = {int(match[1]): name for name in names if (match := pattern.fullmatch(name))}
        return [folder / found[epoch] for epoch in sorted(found)]

    def checkpoints(self) -> list[Path]:
        """Return all checkpoints that are there."""
        fixed = (self.checkpoint(), self.checkpoint(".best"))
        return [path for path in fixed if path.exists()] + self.epoch_checkpoints()

    def final(self, path: Path) -> Path:
        """Return where ``path`` is found in the end: one of these files, or any other."""
        if self.destination is None or not path.is_relative_to(self.folder):
            return path
        return self.destination / path.relative_to(self.folder)

    def provenance(self, inputs: Sequence[Input], seed: int | None = None) -> dict[str, Any]:
        """Return the provenance record of a file of this run."""
        return make_provenance(TOOL, inputs, seed=seed, reproducible=self.reproducible)

    def require_free(self, read: Sequence[Path], *, force: bool) -> None:
        """Refuse to write over an earlier run of the same tag, and ever over what is read.

        Args:
            read: what this run is made from.
            force: whether an earlier run may be replaced.

        Raises:
            ConfigError: one of the files exists, or is one of ``read``.
        """
        taken = [path for path in map(self.path, (*PREPARED, *RESULTS)) if path.exists()]
        taken += self.checkpoints()
        own = {path.resolve() for path in taken} & {path.resolve() for path in read}
        if own:
            message = (
                f"{own.pop()}: is read and would be replaced by this run; give --name or --log-dir"
            )
            raise ConfigError(message)
        if taken and not force:
            message = (
                f"{taken[0]}: a run named {self.tag!r} exists already; give --force to replace it, "
                "--name to choose another name, or --resume-from to train it further"
            )
            raise ConfigError(message)

    @contextmanager
    def staged(self) -> Iterator["RunFiles"]:
        """Yield the same files in a temporary folder; they appear together, or not at all."""
        names = [self.path(suffix).name for suffix in PREPARED]
        with atomic_directory_entries(self.folder, names) as folder:
            yield replace(self, folder=folder, destination=self.folder)


def default_name(configs: Sequence[Path]) -> str:
    """Return the name of a run that is given none: that of its first configuration."""
    if not configs:
        return "run"
    name = configs[0].name
    endings = (suffix for suffix in BUNDLES if name.endswith(suffix))
    return name.removesuffix(next(endings, "")).split(".")[0]


def run_files(config: TrainConfig, default_name: str, *, reproducible: bool = False) -> RunFiles:
    """Return where the run writes; the tag is its name, with a timestamp if asked for."""
    tag = config.logs.name or default_name
    if config.logs.include_timestamp:
        tag = f"{datetime.now().astimezone():%Y%m%d_%H%M}_{tag}"
    folder, checkpoints = Path(config.logs.directory), config.train.checkpoint_dir
    return RunFiles(
        folder, tag, reproducible, checkpoint_folder=Path(checkpoints) if checkpoints else None
    )
