"""What a run writes down while it trains: metrics, reports, model bundles and checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mace_jax.artifacts.metrics import TIMES, MetricsLog, without_times
from mace_jax.artifacts.model_bundle import write_model_bundle
from mace_jax.model.load import parameter_table
from mace_jax.torch_models.select_head import with_heads_of
from mace_jax_train.checkpoint import Checkpoints
from mace_jax_train.method import Method
from mace_jax_train.progress import Best, Progress, Row
from mace_jax_train.recipe import run_recipe
from mace_jax_train.reports import Report
from mace_jax_train.run_files import TOOL, RunFiles
from mace_jax_train.start import Run, parameter_count
from mace_jax_train.trackers import trackers


class Record:
    """The files of a run that change while it trains; of several processes the first writes them.

    Attributes:
        checkpoint: path of the latest one.
    """

    def __init__(
        self,
        run: Run,
        files: RunFiles,
        method: Method,
        progress: Progress,
        provenance: dict[str, Any],
        journal: MetricsLog | None,
        report: Report,
    ) -> None:
        """Write nothing yet; arguments as of ``recorded``, and what it opens."""
        self._run, self._files, self._method, self._progress = run, files, method, progress
        self._provenance, self._journal, self._report = provenance, journal, report
        self._checkpoints = Checkpoints(run, files, provenance)
        self._recipe = run_recipe(run)
        self._is_first = run.devices.processes.is_first
        self.checkpoint = self._checkpoints.latest

    def rows(self, mode: str, by_head: Mapping[str, Row]) -> list[Row]:
        """Return rows of the metrics file."""
        return [self._row(mode, head, columns) for head, columns in by_head.items()]

    def _row(self, mode: str, head: str, columns: Row) -> Row:
        progress = self._progress
        row = {
            "mode": mode,
            "head": head,
            "epoch": progress.epoch,
            "interval": progress.epoch,
            "n_updates": int(progress.state.n_updates),
            **columns,
            "lr": progress.lr,
            "n_skipped": progress.n_skipped,
            "n_compilations": self._method.n_compilations,
        }
        return without_times(row) if self._files.reproducible else row

    def add(self, *rows: Row) -> None:
        """Add rows to the metrics file, and report them."""
        self._progress.record(*rows)
        self._report(rows)
        if self._journal:
            self._journal.append(*rows)

    def save_checkpoint(self, *, ended: int | None = None, improved: bool = False) -> None:
        """Save where the run stands; arguments as of ``Checkpoints.save``."""
        if self._is_first:
            self._checkpoints.save(self._progress, ended=ended, improved=improved)

    def save_bundle(self, suffix: str, saved: Best) -> None:
        """Write a model bundle of some weights, and what was found for them."""
        if not self._is_first:
            return
        bundle = self._run.bundle
        found = {name: value for name, value in saved.row.items() if name not in TIMES}
        bundle = replace(
            bundle,
            parameters={**bundle.parameters, **parameter_table(saved.weights)},
            model_card={
                **bundle.model_card,
                **self._recipe.card(self._provenance),
                "trained_with": TOOL,
                "metrics": found,
            },
        )
        if self._run.kept:
            bundle = with_heads_of(bundle, self._run.kept)
        write_model_bundle(self._files.path(suffix), bundle, self._provenance)


@contextmanager
def recorded(run: Run, files: RunFiles, method: Method, progress: Progress) -> Iterator[Record]:
    """Open the metrics file and the reports beside it, which the first process writes.

    Args:
        run: under way.
        files: where to write.
        method: that trains it.
        progress: where it stands, whenever something is written.
    """
    provenance = files.provenance(run.inputs, run.config.flags.seed)
    if not run.devices.processes.is_first:
        yield Record(run, files, method, progress, provenance, None, lambda _rows: None)
        return
    facts = {"parameters": parameter_count(run)}
    with (
        MetricsLog(files.path(".metrics"), provenance, progress.rows) as journal,
        trackers(run.config, files.tag, facts, progress.rows, progress.epoch) as report,
    ):
        yield Record(run, files, method, progress, provenance, journal, report)
