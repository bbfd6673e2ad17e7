"""The training loop: step through an epoch, evaluate, keep the best, save."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.errors import DivergedError
from mace_jax.tracking import Advance, Show
from mace_jax_train.best_rule import BestRule
from mace_jax_train.checkpoint import load_progress
from mace_jax_train.evaluate import ahead, evaluate, log_rows
from mace_jax_train.interruption import StopSignals
from mace_jax_train.method import Method, StepReport, make_method
from mace_jax_train.progress import BatchSize, Best, EpochTotals, Progress, Row
from mace_jax_train.record import Record, recorded
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        best: path of the bundle with the best evaluation.
        best_row: its metrics on the validation set, or on the training set without one.
        test_row: its metrics on the test set, if there is one.
        epochs: epochs done.
    """

    best: Path
    best_row: Row
    test_row: Row | None
    epochs: int


def train(run: Run, files: RunFiles, show: Show, checkpoint: Path | None = None) -> Outcome:
    """Train until ``max_epochs`` or until ``patience`` evaluations brought nothing better.

    Args:
        run: ready to start.
        files: where to write.
        show: progress.
        checkpoint: to go on from.

    Raises:
        ConfigError: ``best_metric`` is nothing that the evaluations find.
        DivergedError: a loss or gradient is not finite; the files of the best epoch remain.
        IncompatibleError: the checkpoint belongs to another run.
        StoppedError: a signal stopped it; it can go on from its checkpoint.
    """
    parts, n_steps, devices = run.parts, run.n_steps, run.devices
    method = make_method(run.config, parts.network, n_steps, devices, run.factors, parts.joined)
    progress = Progress(method.initial_state(parts.trained, parts.frozen))
    if checkpoint is not None:
        progress = load_progress(checkpoint, run, progress.state, method.evaluated(progress.state))
        progress.state = run.devices.replicated(progress.state)
    n_done = n_steps * max(progress.epoch - 1, 0) + progress.batch
    with (
        StopSignals(devices.processes.count) as signals,
        recorded(run, files, method, progress) as record,
        show("training", n_steps * run.config.optimizer.max_epochs, n_done) as advance,
    ):
        training = _Training(run, method, progress, record, signals, advance)
        training.begin()
        while training.goes_on():
            training.train_epoch()
            improved = training.evaluate_epoch()
            training.end_epoch(improved)
        return training.outcome(files.path("_best.msgpack"))


class _Training:
    """A run under way; every method leaves ``progress`` such that a checkpoint may be taken."""

    def __init__(
        self,
        run: Run,
        method: Method,
        progress: Progress,
        record: Record,
        signals: StopSignals,
        advance: Advance,
    ) -> None:
        self.run, self.method, self.progress, self.record = run, method, progress, record
        self.signals, self.advance = signals, advance
        self.devices = run.devices
        self.config, self.max_epochs = run.config.train, run.config.optimizer.max_epochs
        self.loader = run.loaders["train"]
        self.evaluated = {"valid": "valid"} if "valid" in run.loaders else {"eval_train": "train"}
        (self.judged,) = self.evaluated
        if self.config.eval_train:
            self.evaluated["eval_train"] = "train"
        if self.config.eval_test and "test" in run.loaders:
            self.evaluated["eval_test"] = "test"
        self.started = self.last_report = time.perf_counter()

    def begin(self) -> None:
        """Evaluate the weights that the run starts with, or say where it goes on."""
        progress = self.progress
        weights = self.method.evaluated(progress.state)  # evaluations are of this state's stage now
        if progress.best:  # there is no file of it, if the checkpoint is of another run
            self.record.save_bundle("_best.msgpack", progress.best)
        if progress.epoch > 0:
            log.info("goes on in %s", self.place())
            return
        rows = self.evaluate(weights)
        self.require_best_metric(rows)
        self.record.add(*rows)
        log_rows(rows, self.config.log_errors)
        progress.epoch = 1
        self.record.save_checkpoint()

    def goes_on(self) -> bool:
        """Return whether there is anything left to train."""
        return self.progress.epoch <= self.max_epochs and not self.waited_enough()

    def train_epoch(self) -> None:
        """Take the steps that are left; each report is read one late, so the device never waits."""
        progress, n_steps = self.progress, self.run.n_steps
        if progress.batch == n_steps:
            return
        if progress.batch == 0:
            self.begin_epoch()
        self.last_report = time.perf_counter()
        cursor = self.loader.cursor(progress.epoch, progress.batch * len(self.devices.own))
        groups = self.devices.groups(self.loader.resume(self.run.config.flags.seed, cursor))
        unread: list[Any] = []
        for index, sizes, batch in ahead(map(self.sent, groups)):
            with self.devices.processes.waiting("the other processes in a step"):
                progress.state, report = self.method.train_step(progress.state, batch)
                counts = self.devices.added([(self.signals.asked(), *size) for size in sizes])
                progress.batch += 1
                self.read(unread)
                unread.append((index, report, counts))
            if self.checkpoint_is_due() and progress.batch < n_steps:
                self.read(unread)
                self.stop_if_asked()
                self.record.save_checkpoint()
        self.read(unread)
        progress.state = self.method.end_epoch(progress.state, progress.epoch)
        self.record.add(*self.record.rows("train", progress.totals.columns(self.method.heads)))

    def sent(
        self, group: Sequence[tuple[int, GraphBatch]]
    ) -> tuple[int, list[BatchSize], GraphBatch]:
        """Send this process's batches of a step to its devices; return the index of one, too."""
        indices, batches = zip(*group, strict=True)
        return indices[0], [BatchSize.of(batch) for batch in batches], self.devices.put(batches)

    def begin_epoch(self) -> None:
        """Begin an epoch; the first of stage two has a best of its own, as in mace-torch."""
        progress, stage = self.progress, self.method.stage
        epoch = progress.epoch
        if stage(epoch) != stage(epoch - 1) and progress.best:
            log.info("epoch %d: stage two begins; the best so far is kept apart", epoch)
            self.record.save_bundle("_stage_one.msgpack", progress.best)
            progress.best, progress.waited = None, 0
        progress.state = self.method.begin_epoch(progress.state, epoch)

    def read(self, unread: list[tuple[int, StepReport, Any]]) -> None:
        """Take in the report of a step, if there is one.

        Raises:
            DivergedError: the step was skipped, and no more may be.
        """
        progress, totals = self.progress, self.progress.totals
        while unread:
            index, *on_device = unread.pop()
            report, (asked, *size) = jax.device_get(on_device)
            self.signals.hear(asked)
            if report.skipped:
                self.skip(index, report)
            totals.add(BatchSize(*map(int, size)), report)
            progress.lr = float(report.lr)
            now = time.perf_counter()
            totals.seconds += now - self.last_report
            self.last_report = now
            self.advance(f"{totals.note()}, {self.method.n_compilations} compiled")

    def skip(self, index: int, report: StepReport) -> None:
        """Count a step that changed nothing, because it was not finite."""
        progress, most = self.progress, self.config.max_skipped_steps
        errors, group = report.errors, self.devices.group(index)
        progress.n_skipped += 1
        message = (
            f"epoch {progress.epoch}: batch {', '.join(map(str, group))}: loss "
            f"{errors.loss / errors.n_graph}, gradient norm {report.gradient_norm}, expected "
            f"finite numbers; check the labels of {self.loader.structures(*group)}, or lower "
            "optimizer.lr"
        )
        if progress.n_skipped > most:
            raise DivergedError(message)
        log.warning("%s; skipped, %d of at most %d", message, progress.n_skipped, most)

    def evaluate_epoch(self) -> bool:
        """Evaluate the weights, where it is time to, and keep the best.

        Returns: whether these are the best.
        """
        progress = self.progress
        if progress.epoch % self.config.eval_interval and progress.epoch != self.max_epochs:
            return False
        weights = self.method.evaluated(progress.state)
        rows = self.evaluate(weights)
        trained = [row for row in progress.rows if self.is_row(row, "train")]
        log_rows([*trained, *rows], self.config.log_errors)
        judged = [row for row in rows if self.is_row(row, self.judged)]
        rule = self.best_rule(judged)
        improved = progress.judge(judged, rule, weights)
        for suffix in ("_last.msgpack", "_best.msgpack") if improved else ("_last.msgpack",):
            self.record.save_bundle(suffix, Best(dict(rule.shown(judged)), weights))
        loss = rule._replace(metric="loss").value(judged)
        progress.state = self.method.after_evaluation(
            progress.state, math.inf if loss is None else loss
        )
        self.record.add(*rows)
        return improved

    def is_row(self, row: Row, mode: str) -> bool:
        """Return whether a row is of a mode in the epoch that is under way."""
        return (row["mode"], row["epoch"]) == (mode, self.progress.epoch)

    def best_rule(self, judged: Sequence[Row]) -> BestRule:
        """Return what decides which weights are the best, of rows of the judged mode."""
        return BestRule.of(self.config, self.run.factors, judged)

    def evaluate(self, weights: nnx.State) -> list[Row]:
        """Return the rows of an evaluation, mode after mode."""
        return [
            row
            for mode, split in self.evaluated.items()
            for row in self.record.rows(mode, self.evaluate_split(weights, split))
        ]

    def evaluate_split(self, weights: nnx.State, split: str) -> dict[str, Row]:
        """Return what an evaluation finds for a split, by head."""
        loader = self.run.loaders[split]
        return evaluate(self.method, weights, loader, self.signals.asked, self.pause)

    def end_epoch(self, improved: bool) -> None:
        """Go to the next epoch and save."""
        progress, ended = self.progress, self.progress.epoch
        progress.epoch, progress.batch, progress.totals = self.following_epoch(), 0, EpochTotals()
        self.record.save_checkpoint(ended=ended, improved=improved)
        self.stop_if_asked()

    def following_epoch(self) -> int:
        """Return the next epoch; impatience ends stage one, and the run where there is no other."""
        epoch, stage = self.progress.epoch, self.method.stage
        if not self.waited_enough():
            return epoch + 1
        waited, metric = self.progress.waited, self.config.best_metric
        for later in range(epoch + 1, self.max_epochs + 1):
            if stage(later) != stage(epoch):
                log.info("no better %s in %d evaluations: on to stage two", metric, waited)
                self.progress.waited = 0
                return later
        log.info("stopped: no better %s in %d evaluations", metric, waited)
        return epoch + 1

    def waited_enough(self) -> bool:
        """Return whether patience is at its end."""
        patience = self.config.patience
        return patience is not None and self.progress.waited >= patience

    def checkpoint_is_due(self) -> bool:
        """Return whether to save inside an epoch."""
        every = self.config.checkpoint_steps
        return self.signals.stopping or bool(every and not self.progress.batch % every)

    def pause(self, asked: bool) -> None:
        """Stop in an evaluation, if a signal asked for it.

        Raises:
            StoppedError: one did.
        """
        self.signals.hear(asked)
        self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Save and stop, if a signal asked for it.

        Raises:
            StoppedError: one did.
        """
        if self.signals.stopping:
            self.record.save_checkpoint()
            raise self.signals.error(self.place(), self.record.checkpoint)

    def place(self) -> str:
        """Return where the run stands."""
        progress = self.progress
        return f"epoch {progress.epoch}, after {progress.batch} of {self.run.n_steps} batches"

    def outcome(self, bundle: Path) -> Outcome:
        """Evaluate the best weights, whose bundle is named, on the test set, and sum up."""
        best, epochs = self.progress.best, self.progress.epoch - 1
        if best is None:
            message = f"{self.config.best_metric}: not a number in any evaluation; lower the lr"
            raise DivergedError(message)
        test_row = self.test_row(best) if "test" in self.run.loaders else None
        log.info(
            "trained %d epochs in %.0f s, compiled %d programs, skipped %d steps; best: epoch %d",
            epochs,
            time.perf_counter() - self.started,
            self.method.n_compilations,
            self.progress.n_skipped,
            best.row["epoch"],
        )
        return Outcome(bundle, best.row, test_row, epochs)

    def test_row(self, best: Best) -> Row:
        """Return the row of the test set for the best weights; it may have been written then."""
        of_epoch = ("eval_test", best.row["epoch"])
        found = [row for row in self.progress.rows if (row["mode"], row["epoch"]) == of_epoch]
        if found:
            return found[-1]
        weights = self.devices.replicated(jax.tree.map(jnp.asarray, best.weights))
        of_best = ("epoch", "interval", "n_updates", "lr", "n_skipped")
        known = {name: best.row[name] for name in of_best}
        by_head = self.evaluate_split(weights, "test")
        rows = [row | known for row in self.record.rows("eval_test", by_head)]
        self.record.add(*rows)
        log_rows(rows, self.config.log_errors)
        return rows[-1]

    def require_best_metric(self, rows: Sequence[Row]) -> None:
        """Check that there is something to be best by.

        Raises:
            ConfigError: the evaluations do not find it.
        """
        judged = [row for row in rows if self.is_row(row, self.judged)]
        self.best_rule(judged).require_found(judged, self.evaluated[self.judged])
