"""The table of errors that is printed."""

from collections.abc import Iterator, Sequence

from mace_jax_predict.label_errors import QUANTITIES, Group, LabelErrors

# Quantities with a place in the table; the summary has more.
_COLUMNS = ("e_per_atom", "f", "stress", "virials_per_atom", "mu", "charges", "polarizability")


def error_table(errors: LabelErrors) -> Iterator[str]:
    """Yield the lines of a table of RMSE and MAE; none where nothing predicted has labels.

    Config types and heads have lines of their own where there are several, elements always.
    """
    names = [name for name in _COLUMNS if name in errors.all.sums]
    if not names:
        return
    rows = [_header(names), _row("all", "", errors.all, names)]
    for kind, groups in errors.groups.items():
        if kind == "element" or len(groups) > 1:
            rows += [_row(kind, name, groups[name], names) for name in sorted(groups)]
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
