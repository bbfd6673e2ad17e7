"""The table of errors that is printed."""

from collections.abc import Iterator, Sequence

from mace_jax.artifacts.label_errors import QUANTITIES, SHOWN, Group, LabelErrors


def error_table(errors: LabelErrors) -> Iterator[str]:
    """Yield the lines of a table of RMSE and MAE; none where nothing predicted has labels.

    The summary of the errors has more quantities than have a place here.
    """
    names = [name for name in SHOWN if name in errors.all.sums]
    if not names:
        return
    rows = [_header(names), _row("all", "", errors.all, names)]
    rows += [_row(kind, name, group, names) for kind, name, group in errors.shown_groups()]
    rows = [row for row in rows if any(row[3:])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        left = [text.ljust(width) for text, width in zip(row[:2], widths, strict=False)]
        right = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join(left + right).rstrip()


def _header(names: Sequence[str]) -> list[str]:
    columns = [f"{name}, {QUANTITIES[name].unit}".rstrip(", ") for name in names]
    return ["RMSE / MAE of", "", "number", *columns]


def _row(kind: str, name: str, group: Group, names: Sequence[str]) -> list[str]:
    metrics = group.metrics()
    return [
        kind,
        name,
        str(group.n),
        *(
            f"{metrics[f'rmse_{quantity}']:.3g} / {metrics[f'mae_{quantity}']:.3g}"
            if f"rmse_{quantity}" in metrics
            else ""
            for quantity in names
        ),
    ]
