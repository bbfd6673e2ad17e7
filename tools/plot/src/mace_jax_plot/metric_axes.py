"""The axes of learning curves: the name and unit of every metric, epochs, logarithms."""

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

_LABELS = {
    "e": "energy (meV)",
    "e_per_atom": "energy (meV/atom)",
    "f": "force (meV/Å)",
    "stress": "stress (meV/Å³)",
    "virials": "virial (meV)",
    "virials_per_atom": "virial (meV/atom)",
    "mu": "dipole",  # in whatever unit the labels have
    "mu_per_atom": "dipole by atoms",
}


def axis_label(key: str) -> str:
    """Return what the axis of a metric is called, such as ``force RMSE (meV/Å)``."""
    if key == "loss":
        return "loss"
    kind, _, quantity = key.removeprefix("rel_").partition("_")
    name, _, unit = _LABELS.get(quantity, quantity).partition(" (")
    if key.startswith("rel_"):
        return f"relative {name} {kind.upper()} (%)"
    return f"{name} {kind.upper()} ({unit}" if unit else f"{name} {kind.upper()}"


def factor(key: str) -> int:
    """Return how many of the axis's unit are one of the metrics file's."""
    return 1000 if "(meV" in axis_label(key) else 1


def label_axes(axes: Axes, key: str, *, logarithmic: bool) -> None:
    """Name the axes of a panel whose curves are drawn, and scale them."""
    axes.set_xlabel("epoch")
    axes.set_ylabel(axis_label(key))
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: _minor_label(axes, value))


def _minor_label(axes: Axes, value: float) -> str:
    """Label 2 and 5 between powers of ten, or everything where there is hardly one of these."""
    low, high = axes.get_ylim()
    return f"{value:g}" if high < 5 * low or f"{value:e}"[0] in "25" else ""
