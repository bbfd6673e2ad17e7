"""Which weights are the best: those with the lowest metric of a head, or of all, weighted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mace_jax.artifacts.train_config_consistency import WEIGHTED

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
    def of(
        cls, metric: str, head: str, weights: Mapping[str, float], evaluated: Sequence[str]
    ) -> "BestRule":
        """Return the rule of ``train.best_metric`` and ``train.best_head``.

        Args:
            metric: the former.
            head: the latter.
            weights: of all heads.
            evaluated: heads that have rows; a head of weight 0 decides nothing, but if it is named
                or alone.
        """
        if head != WEIGHTED:
            return cls(metric, {head: 1.0})
        counting = {name: weights[name] for name in evaluated if weights[name]}
        return cls(metric, counting if len(counting) > 1 else dict.fromkeys(counting, 1.0))

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
