"""Which names readout heads can have."""

# of ``train.best_head``: all heads, each by its weight
WEIGHTED = "weighted"
# of rows of the metrics file: all heads together
ALL_HEADS = "all"
# in HDF5 of Torch MACE: no name, or no such label
NO_NAME = "None"


def why_no_head_name(name: str) -> str | None:
    """Return why a head cannot have a name; None: it can."""
    if name in (WEIGHTED, ALL_HEADS):
        return "means all heads together"
    if name == NO_NAME:
        return "is no name in HDF5, where it means that there is none"
    if name != name.strip() or not name or not name.isprintable():
        return "is empty, or has blanks around it or what cannot be printed"
    return None
