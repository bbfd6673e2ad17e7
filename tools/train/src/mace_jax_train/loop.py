"""The training loop: load, build, for each batch step, log, evaluate, save."""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mace_jax.artifacts.metrics import MetricsLog
from mace_jax.artifacts.model_bundle import ModelBundle, write_model_bundle
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.batching.loader import PlannedLoader
from mace_jax.errors import DivergedError
from mace_jax.model.load import parameter_table, split_trainable
from mace_jax.tracking import Track
from mace_jax_train.error_metrics import BatchErrors, metrics
from mace_jax_train.method import Method, make_method
from mace_jax_train.run_files import TOOL, RunFiles
from mace_jax_train.start import HEAD, Run
from mace_jax_train.step import StepReport, TrainState

log = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        best: path of the bundle with the lowest validation loss.
        best_row: its metrics on the validation set, or on the training set without one.
        test_row: its metrics on the test set, if there is one.
        epochs: epochs done.
    """

    best: Path
    best_row: Row
    test_row: Row | None
    epochs: int


@dataclass
class Best:
    """The best evaluation so far and how many have passed since."""

    parameters: nnx.State
    row: Row = field(default_factory=lambda: {"loss": math.inf})
    waited: int = 0

    def improved_by(self, row: Row, parameters: nnx.State) -> bool:
        """Take over a lower loss with a copy of its parameters; count what is not lower."""
        if row["loss"] >= self.row["loss"]:
            self.waited += 1
            return False
        # a copy, because the training step gives its input's memory away
        self.row, self.parameters = row, jax.tree.map(jnp.copy, parameters)
        self.waited = 0
        return True


def train(run: Run, files: RunFiles, track: Track) -> Outcome:
    """Train until ``max_epochs`` or until ``patience`` evaluations brought nothing better.

    Raises:
        DivergedError: a loss or gradient is not finite; the files of the best epoch remain.
    """
    config = run.config
    network, parameters = split_trainable(run.model)
    method = make_method(config, network, len(run.loaders["train"]))
    state = method.initial_state(parameters)
    record = files.provenance(run.inputs, config.flags.seed)
    judged = "valid" if "valid" in run.loaders else "train"
    best = Best(method.evaluated(state))

    journal = MetricsLog(files.path(".metrics"), record, reproducible=files.reproducible)
    with journal:
        epochs = range(1, config.optimizer.max_epochs + 1)
        for epoch in track(epochs, "training", len(epochs)):
            started = time.perf_counter()
            state = method.begin_epoch(state, epoch)
            state, errors = _train_epoch(method, state, run.loaders["train"], config, epoch)
            state = method.end_epoch(state, epoch)
            rows = {"train": _row("train", epoch, metrics(errors), started, config.optimizer.lr)}
            if epoch % config.train.eval_interval and epoch != epochs[-1]:
                journal.append(*rows.values())
                continue
            evaluated = method.evaluated(state)
            rows[judged] = _evaluate(run, method, evaluated, judged, epoch)
            state = method.after_evaluation(state, rows[judged]["loss"])
            journal.append(*rows.values())
            _log_rows(rows)
            _save(files.path("_last.msgpack"), run, evaluated, rows[judged], record)
            if best.improved_by(rows[judged], evaluated):
                _save(files.path("_best.msgpack"), run, best.parameters, best.row, record)
            elif best.waited == config.train.patience:
                log.info("stopped: no better loss in %d evaluations", best.waited)
                break
        test_row = None
        if "test" in run.loaders:
            test_row = _evaluate(run, method, best.parameters, "test", epoch)
            journal.append(test_row)
            _log_rows({"test (best)": test_row})
    return Outcome(files.path("_best.msgpack"), best.row, test_row, epoch)


def _train_epoch(
    method: Method, state: TrainState, loader: PlannedLoader, config: TrainConfig, epoch: int
) -> tuple[TrainState, list[BatchErrors]]:
    """Step through all batches; each report is read one step late, so the device never waits."""
    errors: list[BatchErrors] = []
    pending: tuple[int, StepReport] | None = None
    for index, batch in on_device(loader.epoch(config.flags.seed, epoch)):
        state, report = method.train_step(state, batch)
        if pending:
            errors.append(_finite(*pending, epoch))
        pending = (index, report)
    if pending:
        errors.append(_finite(*pending, epoch))
    return state, errors


def on_device(batches: Iterable[tuple[int, GraphBatch]]) -> Iterator[tuple[int, GraphBatch]]:
    """Send every batch to the device while the one before it is computed."""
    sent = ((index, jax.device_put(batch)) for index, batch in batches)
    ahead = next(sent, None)
    while ahead is not None:
        current, ahead = ahead, next(sent, None)
        yield current


def _finite(index: int, report: StepReport, epoch: int) -> BatchErrors:
    """Return the errors of a step.

    Raises:
        DivergedError: its loss or gradient is not finite.
    """
    errors, norm, *_ = jax.device_get(report)
    if not (math.isfinite(errors.loss) and math.isfinite(norm)):
        message = (
            f"epoch {epoch}: batch {index}: loss {errors.loss / errors.n_graph}, gradient norm "
            f"{norm}, expected finite numbers; check the labels or lower optimizer.lr"
        )
        raise DivergedError(message)
    return errors


def _evaluate(run: Run, method: Method, parameters: nnx.State, split: str, epoch: int) -> Row:
    """Return the metrics of a split as a row of the metrics file."""
    started = time.perf_counter()
    batches = on_device(run.loaders[split].in_order())
    errors = [jax.device_get(method.eval_step(parameters, batch)) for _, batch in batches]
    row = _row(
        "eval_test" if split == "test" else split,
        epoch,
        metrics(errors),
        started,
        run.config.optimizer.lr,
    )
    if not math.isfinite(row["loss"]):
        message = (
            f"epoch {epoch}: {split}: loss {row['loss']}, expected a finite number; "
            "check the labels or lower optimizer.lr"
        )
        raise DivergedError(message)
    return row


def _row(mode: str, epoch: int, values: dict[str, float | None], started: float, lr: float) -> Row:
    return {
        "mode": mode,
        "head": HEAD,
        "epoch": epoch,
        "interval": epoch,
        **values,
        "time": time.perf_counter() - started,
        "lr": lr,
    }


def _log_rows(rows: dict[str, Row]) -> None:
    for name, row in rows.items():
        shown = (("rmse_e_per_atom", "meV/atom"), ("rmse_f", "meV/Å"), ("rmse_stress", "meV/Å³"))
        parts = [
            f"{key} {1000 * row[key]:.2f} {unit}" for key, unit in shown if row[key] is not None
        ]
        log.info(
            "epoch %d: %s: loss %.6g, %s (%.1f s)",
            row["epoch"],
            name,
            row["loss"],
            ", ".join(parts),
            row["time"],
        )


def _save(
    path: Path, run: Run, parameters: nnx.State, row: Row, provenance: dict[str, Any]
) -> None:
    bundle: ModelBundle = replace(
        run.bundle,
        parameters={**run.bundle.parameters, **parameter_table(parameters)},
        model_card={
            "trained_with": TOOL,
            "metrics": {name: value for name, value in row.items() if name != "time"},
        },
    )
    write_model_bundle(path, bundle, provenance)
