"""Where a run stands: all that changes while it trains, which is what a checkpoint keeps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from mace_jax.artifacts.metrics import metrics_line
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.structures.head_names import ALL_HEADS
from mace_jax_train.best_rule import BestRule
from mace_jax_train.error_metrics import BatchErrors, metrics_of_heads, with_speed
from mace_jax_train.method import StepReport, TrainState

Row = dict[str, Any]


class BatchSize(NamedTuple):
    """How large a batch, or a group of them, is: structures, pairs, and the room for pairs."""

    n_graph: int
    pairs: int
    pair_slots: int

    @classmethod
    def of(cls, batch: GraphBatch) -> "BatchSize":
        """Count a batch, which is on the host."""
        return cls(int(batch.graph_mask.sum()), int(batch.pair_mask.sum()), len(batch.pair_mask))


@dataclass
class EpochTotals:
    """Sums over the steps of an epoch; of one that was skipped only size and time count.

    Attributes:
        n_steps: steps that were taken.
        gradient_norm: sum of theirs.
        n_graph, pairs, pair_slots: sizes of all batches.
        seconds: time for all of it.
        errors: sums of the errors, leaf by leaf in float64.
    """

    n_steps: int = 0
    gradient_norm: float = 0.0
    n_graph: int = 0
    pairs: int = 0
    pair_slots: int = 0
    seconds: float = 0.0
    errors: list[NDArray[np.float64]] = field(default_factory=list)
    _form: Any = None  # of the errors as a tree; whatever is left of an epoch brings it back

    def add(self, size: BatchSize, report: StepReport) -> None:
        """Add a step, whose report is on the host."""
        self.n_graph += size.n_graph
        self.pairs += size.pairs
        self.pair_slots += size.pair_slots
        leaves, self._form = jax.tree.flatten(report.errors)
        if report.skipped:
            return
        self.n_steps += 1
        self.gradient_norm += float(report.gradient_norm)
        leaves = [np.asarray(leaf, np.float64) for leaf in leaves]
        before = self.errors or [np.zeros_like(leaf) for leaf in leaves]
        self.errors = [total + leaf for total, leaf in zip(before, leaves, strict=True)]

    def columns(self, heads: Sequence[str]) -> dict[str, Row]:
        """Return what the metrics file says of these steps, by head, of all heads last."""
        found: dict[str, Row] = {heads[0] if len(heads) == 1 else ALL_HEADS: {"loss": None}}
        if self.n_steps:
            errors: BatchErrors = jax.tree.unflatten(self._form, self.errors)
            found = {**metrics_of_heads([errors], heads)}
        whole = {
            "time": self.seconds,
            "graphs_per_second": self.n_graph / self.seconds if self.seconds else None,
            "edge_padding": self.padding,
            "gradient_norm": self.gradient_norm / self.n_steps if self.n_steps else None,
        }
        return with_speed(found, whole)

    def note(self) -> str:
        """Return what is shown beside the progress."""
        speed = self.n_graph / self.seconds if self.seconds else 0.0
        return f"{speed:.0f} graphs/s, {100 * self.padding:.1f}% padding"

    @property
    def padding(self) -> float:
        """Share of the room for edges that was empty."""
        return 1 - self.pairs / self.pair_slots if self.pair_slots else 0.0


class Best(NamedTuple):
    """The best evaluation so far: its row of the metrics, and the weights it is of."""

    row: Row
    weights: nnx.State


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        state: what training changes on the device.
        epoch: the one that is under way; 0 before the first evaluation.
        batch: batches of it that are done. With all of them done, its evaluation comes next.
        totals: of this epoch's steps so far.
        best: of the evaluations of this stage.
        waited: evaluations since.
        rows, lines: of the metrics file so far; the same as values and as text.
        lr: learning rate of the last step.
        n_skipped: steps of the run that were left out.
    """

    state: TrainState
    epoch: int = 0
    batch: int = 0
    totals: EpochTotals = field(default_factory=EpochTotals)
    best: Best | None = None
    waited: int = 0
    rows: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    lr: float | None = None
    n_skipped: int = 0

    def record(self, *rows: Row) -> None:
        """Add rows of the metrics file."""
        self.rows += rows
        self.lines += map(metrics_line, rows)

    def judge(self, rows: Sequence[Row], rule: BestRule, weights: nnx.State) -> bool:
        """Take over an evaluation whose value is the lowest, with its weights.

        A value that is missing or not a number is never the lowest.

        Args:
            rows: of one mode, by head.
            rule: what is best.
            weights: that were evaluated.

        Returns: whether it is.
        """
        value, row, lowest = rule.value(rows), dict(rule.shown(rows)), math.inf
        if self.best:
            of_best = (row["mode"], self.best.row["epoch"])
            known = [one for one in self.rows if (one["mode"], one["epoch"]) == of_best]
            found = rule.value(known or [self.best.row])
            lowest = math.inf if found is None else found
        if value is None or not value < lowest:
            self.waited += 1
            return False
        # a copy, because the next step gives the memory of its input away
        self.best, self.waited = Best(row, jax.tree.map(np.array, weights)), 0
        return True
