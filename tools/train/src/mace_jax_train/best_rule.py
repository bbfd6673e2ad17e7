"""Which weights are the best: those with the lowest metric of a head, or of all, weighted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mace_jax.artifacts.train_config_sections import TrainSection
from mace_jax.errors import ConfigError
from mace_jax.structures.head_names import WEIGHTED
from mace_jax_train.head_losses import HeadFactors

Row = Mapping[str, Any]


class BestRule(NamedTuple):
    """What decides.

    Attributes:
        metric: column of the metrics file.
        weights: head -> what its metric is multiplied by before all are added up; heads that are
            not named do not count.
    """

    metric: str
    weights: Mapping[str, float]

    @classmethod
    def of(cls, config: TrainSection, factors: HeadFactors, rows: Sequence[Row]) -> "BestRule":
        """Return the rule of ``best_metric`` and ``best_head``.

        A head of weight 0, or one that is not evaluated, decides nothing, unless it is named.

        Args:
            config: of the loop.
            factors: the heads and their weights.
            rows: of an evaluation, by head.
        """
        if config.best_head != WEIGHTED:
            return cls(config.best_metric, {config.best_head: 1.0})
        evaluated = {row["head"] for row in rows}
        heads = zip(factors.names, factors.weights, strict=True)
        counting = {name: weight for name, weight in heads if weight and name in evaluated}
        alone = dict.fromkeys(counting, 1.0)
        return cls(config.best_metric, counting if len(counting) > 1 else alone)

    def value(self, rows: Sequence[Row]) -> float | None:
        """Return what is to be lowest, of the rows of an evaluation; None where one lacks it."""
        values = {row["head"]: row.get(self.metric) for row in rows}
        found = [(weight, values.get(head)) for head, weight in self.weights.items()]
        if any(value is None for _, value in found):
            return None
        return sum(weight * value for weight, value in found if value is not None)

    def shown(self, rows: Sequence[Row]) -> Row:
        """Return the row that stands for an evaluation: that of the only head that counts."""
        if len(self.weights) > 1:
            return rows[-1]
        (head,) = self.weights
        return next(row for row in rows if row["head"] == head)

    def require_found(self, rows: Sequence[Row], split: str) -> None:
        """Check that an evaluation finds what decides.

        Args:
            rows: of the evaluation, by head.
            split: what was evaluated.

        Raises:
            ConfigError: a head has no structures there, or nothing of the metric.
        """
        of_heads = {row["head"]: row for row in rows}
        missing = [head for head in self.weights if head not in of_heads]
        if missing or not self.weights:
            message = (
                f"train.best_head: {missing[0] if missing else 'none of weight above 0'!r} has no "
                f"structures in {split}; name its data, or another head"
            )
            raise ConfigError(message)
        for head in self.weights:
            row = of_heads[head]
            known = [name for name in row if name == "loss" or "mae_" in name or "rmse_" in name]
            found = [name for name in known if row[name] is not None]
            if self.metric not in found:
                of_head = f" for head {head}" if len(rows) > 1 else ""
                message = (
                    f"train.best_metric: {self.metric!r} is not found by the evaluation of "
                    f"{split}{of_head}, expected one of {', '.join(found)}"
                )
                raise ConfigError(message)
