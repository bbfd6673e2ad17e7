"""Saving where a run stands, and going on from there as if it had never stopped."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flax import nnx

from mace_jax.artifacts.atomic_write import atomic_file
from mace_jax.artifacts.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.artifacts.versioned import Document, parse_json
from mace_jax.batching.cursor import Cursor, plan_digest, require_cursor_fits
from mace_jax.errors import IncompatibleError
from mace_jax_train.method import TrainState
from mace_jax_train.named_leaves import named_leaves, with_named_leaves
from mace_jax_train.progress import Best, EpochTotals, Progress
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import Run

# What cannot change the results of a run, or is compared by what it led to.
_NOT_COMPARED: Mapping[str, str] = {
    "flags": "device debug distributed process_count process_index coordinator_address "
    "coordinator_port",
    "datasets": "train_path valid_path test_path train_plan valid_plan test_plan statistics_file "
    "num_workers",
    "datasets.heads": "train_path valid_path test_path readout",
    "model": "start_from torch_checkpoint foundation_model torch_head torch_param_dtype",
    "train": "log_errors max_skipped_steps resume_from checkpoint_dir checkpoint_steps "
    "checkpoint_every checkpoint_keep checkpoint_best",
}
_COMPARED_SECTIONS = ("flags", "datasets", "model", "loss", "optimizer", "train")
_TOTALS = ("n_steps", "gradient_norm", "n_graph", "pairs", "pair_slots", "seconds")


def run_identity(run: Run) -> Document:
    """Return what a run is a function of; its results are the same wherever this is the same."""
    bundle = run.bundle
    network = {
        "model": asdict(bundle.config),
        "dtype": bundle.dtype,
        "heads": bundle.heads,
        "atomic_energies": bundle.atomic_energies,
        "scale": bundle.scale,
        "shift": bundle.shift,
        "starting_model": bundle.model_card.get("starting_model", {}).get("sha256"),
    }
    data = {
        split: {
            "datasets": [dataset.sha256 for dataset in loader.plan.datasets],
            "plan": plan_digest(loader.plan),
        }
        for split, loader in run.loaders.items()
    }
    return _plain({"config": _compared(run.config), "network": network, "data": data})


def _compared(config: TrainConfig) -> Document:
    sections = {
        name: _without(asdict(getattr(config, name)), _NOT_COMPARED.get(name, ""))
        for name in _COMPARED_SECTIONS
    }
    of_heads = _NOT_COMPARED["datasets.heads"]
    heads = [_without(head, of_heads) for head in sections["datasets"]["heads"]]
    sections["datasets"]["heads"] = heads
    if config.optimizer.scheduler.name != "warmup_cosine_decay":
        del sections["optimizer"]["max_epochs"]  # only says when to stop
    return sections


def _without(options: Document, names: str) -> Document:
    return {option: value for option, value in options.items() if option not in names.split()}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def require_same_run(found: Document, expected: Document, path: Path) -> None:
    """Check that a checkpoint belongs to a run.

    Args:
        found: identity in the checkpoint.
        expected: identity of the run.
        path: of the checkpoint.

    Raises:
        IncompatibleError: something differs; the first three such things are named.
    """
    before, now = dict(_leaves(found)), dict(_leaves(expected))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        shown = [f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in names[:3]]
        more = f", and {len(names) - 3} more" if len(names) > 3 else ""
        message = (
            f"{path}: {'; '.join(shown)}{more}; go on with the data and options that the run began "
            "with, or begin it anew with --force"
        )
        raise IncompatibleError(message)


def _leaves(document: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict):
        for name, item in document.items():
            yield from _leaves(item, f"{place}/{name}" if place else name)
    else:
        yield place, document


def load_progress(path: Path, run: Run, initial: TrainState, weights: nnx.State) -> Progress:
    """Read where a run stood.

    Args:
        path: of the checkpoint.
        run: that goes on.
        initial: state of the form that is expected.
        weights: of the form of those that are evaluated.

    Raises:
        ArtifactError: it is damaged or of another kind.
        IncompatibleError: it belongs to another run.
    """
    found = read_checkpoint(path)
    require_same_run(found.identity, run_identity(run), path)
    loader = run.loaders["train"]
    cursor = Cursor(found.plan_digest, found.epoch, found.batch)
    require_cursor_fits(cursor, loader.plan, len(loader))
    best = None
    if found.best_row is not None:
        best = Best(found.best_row, with_named_leaves(weights, found.best, f"{path}: arrays/best"))
    return Progress(
        state=with_named_leaves(initial, found.state, f"{path}: arrays/state"),
        epoch=found.epoch,
        batch=found.batch,
        totals=EpochTotals(**found.totals, errors=list(found.errors)),
        best=best,
        waited=found.waited,
        rows=[parse_json(line) for line in found.rows],
        lines=list(found.rows),
        lr=found.lr,
        n_skipped=found.n_skipped,
    )


class Checkpoints:
    """The checkpoints of a run: the latest one, and those that are kept beside it."""

    def __init__(self, run: Run, files: RunFiles, provenance: dict[str, Any]) -> None:
        """Write nothing yet."""
        self._config, self._files, self._provenance = run.config.train, files, provenance
        self._identity = run_identity(run)
        self._plan_digest = self._identity["data"]["train"]["plan"]

    @property
    def latest(self) -> Path:
        """Path of the latest one."""
        return self._files.checkpoint()

    def save(self, progress: Progress, *, ended: int | None = None, improved: bool = False) -> None:
        """Replace the latest checkpoint, after those that are to be kept of the same instant.

        Args:
            progress: where the run stands.
            ended: the epoch that has just ended, if one has.
            improved: whether its evaluation was the best.
        """
        every = self._config.checkpoint_every
        paths = []
        if ended is not None and every and ended % every == 0:
            paths.append(self._files.checkpoint(f".epoch_{ended:05d}"))
        if improved and self._config.checkpoint_best:
            paths.append(self._files.checkpoint(".best"))
        first, *others = [*paths, self.latest]
        write_checkpoint(first, self._content(progress), self._provenance)
        for path in others:
            with atomic_file(path) as temporary:
                shutil.copyfile(first, temporary)
        for path in self._files.epoch_checkpoints()[: -self._config.checkpoint_keep]:
            path.unlink()

    def _content(self, progress: Progress) -> Checkpoint:
        best, totals = progress.best, progress.totals
        return Checkpoint(
            identity=self._identity,
            plan_digest=self._plan_digest,
            epoch=progress.epoch,
            batch=progress.batch,
            best_row=best.row if best else None,
            waited=progress.waited,
            totals={name: getattr(totals, name) for name in _TOTALS},
            lr=progress.lr,
            n_skipped=progress.n_skipped,
            rows=progress.lines,
            state=named_leaves(progress.state),
            best=named_leaves(best.weights if best else None),
            errors=totals.errors,
        )
