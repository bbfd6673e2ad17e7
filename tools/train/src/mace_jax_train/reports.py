"""What trackers are told of an epoch, in names that are the same for all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
# Takes the new rows of the metrics file, those of one epoch.
Report = Callable[[Sequence[Row]], None]

# What says which row it is, and what it took; the others are metrics.
_NOT_METRICS = ("mode", "head", "epoch", "interval", "time")


def report_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return what is reported of the rows of one epoch.

    Every metric is ``mode/metric``, or ``mode:head/metric`` of a head that has a name;
    ``timing/train_seconds`` and ``timing/eval_seconds`` add up to ``timing/interval_seconds``.
    """
    seconds = {"train": 0.0, "eval": 0.0}
    report: dict[str, float] = {"epoch": rows[0]["epoch"], "interval": rows[0]["epoch"]}
    for row in rows:
        head = row.get("head")
        name = row["mode"] if head in (None, "Default") else f"{row['mode']}:{head}"
        seconds["train" if row["mode"] == "train" else "eval"] += row.get("time") or 0.0
        report |= {
            f"{name}/{key}": value
            for key, value in row.items()
            if key not in _NOT_METRICS and isinstance(value, (int, float))
        }
    report |= {f"timing/{kind}_seconds": value for kind, value in seconds.items()}
    return report | {"timing/interval_seconds": sum(seconds.values())}


def in_one_line(error: Exception) -> str:
    """Return what an error says, for a warning."""
    return " ".join(str(error).split()).rstrip(".")
