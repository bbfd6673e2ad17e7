"""The batch plan: which graphs share a batch, padded to which shape, for which data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.artifacts.atomic_write import atomic_directory_entries
from mace_jax.artifacts.batches import Batches, read_batches, write_batches
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.versioned import Document, check_document, read_json, tag, write_json
from mace_jax.errors import ArtifactError, ConfigError, IncompatibleError

KIND = "batch_plan"
# Plans of more graphs keep their batches in an Arrow file.
MOST_IN_JSON = 100_000


@dataclass(frozen=True)
class Caps:
    """The padded shape of a batch.

    Attributes:
        n_node, n_edge, n_graph: atoms, directed edges (two to a pair of neighbours), structures.
        n_neighbor: neighbours in a row of the neighbour table.
        n_row: rows of the table; an atom has one, or more if it has more neighbours.
    """

    n_node: int
    n_edge: int
    n_graph: int
    n_neighbor: int
    n_row: int

    @property
    def n_pair(self) -> int:
        """Pairs of neighbours."""
        return max(self.n_edge // 2, 1)

    @classmethod
    def enclosing(cls, n_node: int, n_edge: int, n_graph: int) -> "Caps":
        """Return caps with room for any distribution of the edges over the nodes."""
        n_neighbor = max(-(-n_edge // n_node), 1)
        return cls(n_node, n_edge, n_graph, n_neighbor, n_node + n_edge // n_neighbor)

    @classmethod
    def covering(cls, several: Sequence["Caps"]) -> "Caps":
        """Return caps that hold whatever one of ``several`` holds."""
        n_node = max(caps.n_node for caps in several)
        return cls(
            n_node,
            max(caps.n_edge for caps in several),
            max(caps.n_graph for caps in several),
            max(caps.n_neighbor for caps in several),
            n_node + max(caps.n_row - caps.n_node for caps in several),
        )


@dataclass(frozen=True)
class PlannedDataset:
    """Data that a plan was made for.

    Attributes:
        name: file or folder name, for people.
        sha256: digest of the data.
        n_structures: structures in it.
    """

    name: str
    sha256: str
    n_structures: int


@dataclass(frozen=True)
class Waste:
    """The share of padded slots that is empty, of ``n_batches`` batches."""

    n_batches: int
    edge_waste: float
    node_waste: float
    graph_waste: float


@dataclass(frozen=True)
class PlanReport:
    """How well a plan packs.

    Attributes:
        n_graphs, n_batches: totals; skipped graphs are not counted.
        n_batches_lower_bound: ceil(all edges / edge cap), where batches of larger graphs count with
            what their shape holds; no packing needs fewer.
        edge_waste, node_waste, graph_waste: share of the padded slots that is empty.
        requested_n_edge: the edge cap that was asked for.
        largest_graph: ``{id, n_node, n_edge}`` of the planned graph with most edges.
        shapes: the same for each shape.
    """

    n_graphs: int
    n_batches: int
    n_batches_lower_bound: int
    edge_waste: float
    node_waste: float
    graph_waste: float
    requested_n_edge: int
    largest_graph: dict[str, int]
    shapes: tuple[Waste, ...]


@dataclass(frozen=True)
class BatchPlan:
    """Batches of graph ids, each padded to one of a few shapes.

    Ids run through the datasets in order. Batches are ordered by shape, and every ``processes`` of
    them are a group: one batch for each process, all of one shape, at the same time.

    Attributes:
        datasets: what the plan was made for, in order.
        r_max: cutoff the edges were counted with, Å.
        seed: seed of the order in which graphs were packed.
        processes: batches of a group.
        shapes: the padded shapes; one node and one graph of each are always padding.
        shape_counts: batches of each shape, multiples of ``processes``.
        batches: graph ids of each batch; every id occurs once, unless it is skipped. A batch is
            empty only in a plan for several processes whose graphs were too few.
        skipped: ids of graphs that are in no batch, ascending.
        report: how well it packs.
    """

    datasets: tuple[PlannedDataset, ...]
    r_max: float
    seed: int
    processes: int
    shapes: tuple[Caps, ...]
    shape_counts: tuple[int, ...]
    batches: Batches
    skipped: tuple[int, ...]
    report: PlanReport

    @property
    def n_structures(self) -> int:
        """Structures in all datasets."""
        return sum(dataset.n_structures for dataset in self.datasets)

    @property
    def shape(self) -> NDArray[np.int64]:
        """Index of each batch's shape, ``[n_batch]``."""
        return np.repeat(np.arange(len(self.shapes)), self.shape_counts)

    @property
    def caps(self) -> Caps:
        """A shape that holds every batch."""
        return Caps.covering(self.shapes)


def write_batch_plan(
    path: Path, plan: BatchPlan, provenance: dict[str, Any], *, most_in_json: int = MOST_IN_JSON
) -> None:
    """Write a plan atomically; one of more than ``most_in_json`` graphs with an Arrow file.

    Raises:
        ConfigError: a folder is in the way, or the plan itself has the Arrow file's name.
    """
    document = {"schema": tag(KIND), "provenance": provenance, **_content(plan)}
    if len(plan.batches.ids) <= most_in_json:
        write_json(path, document | {"batches": plan.batches.to_lists()}, KIND)
        return
    arrow = path.with_suffix(".arrow").name
    if path.is_dir() or path.with_name(arrow).is_dir() or arrow == path.name:
        message = f"{path}: cannot stand beside the batches, {arrow}; name the plan *.plan.json"
        raise ConfigError(message)
    with atomic_directory_entries(path.parent, [arrow, path.name]) as folder:
        metadata = {"schema": tag(KIND), "provenance": provenance}
        digest = write_batches(folder / arrow, plan.batches, metadata)
        named = {"batches": {"file": arrow, "sha256": digest}}
        write_json(folder / path.name, document | named, KIND)


def _content(plan: BatchPlan) -> Document:
    """Return what the file says, but for the batches."""
    return {
        "datasets": [asdict(dataset) for dataset in plan.datasets],
        "r_max": plan.r_max,
        "seed": plan.seed,
        "processes": plan.processes,
        "shapes": [
            {"n_batches": n_batches, **asdict(caps)}
            for n_batches, caps in zip(plan.shape_counts, plan.shapes, strict=True)
        ],
        "skipped": list(plan.skipped),
        "report": asdict(plan.report) | {"shapes": [asdict(waste) for waste in plan.report.shapes]},
    }


def read_batch_plan(path: Path) -> BatchPlan:
    """Read a plan, wherever its batches are kept.

    Raises:
        ArtifactError: it is damaged, or a graph is missing or planned twice.
    """
    document = check_document(read_json(path), KIND, path)
    batches = document["batches"]
    if isinstance(batches, dict):
        batches = read_batches(path.with_name(batches["file"]), batches["sha256"], path)
    else:
        batches = Batches.from_lists(batches)
    report = document["report"]
    shapes = [dict(shape) for shape in document["shapes"]]
    plan = BatchPlan(
        datasets=tuple(PlannedDataset(**dataset) for dataset in document["datasets"]),
        r_max=document["r_max"],
        seed=document["seed"],
        processes=document["processes"],
        shape_counts=tuple(shape.pop("n_batches") for shape in shapes),
        shapes=tuple(Caps(**shape) for shape in shapes),
        batches=batches,
        skipped=tuple(document["skipped"]),
        report=PlanReport(
            **{**report, "shapes": tuple(Waste(**waste) for waste in report["shapes"])}
        ),
    )
    _check_batches(plan, path)
    _check_shapes(plan, path)
    return plan


def _check_batches(plan: BatchPlan, path: Path) -> None:
    planned, skipped = plan.batches.ids, np.array(plan.skipped, np.int64)
    ids = np.sort(np.concatenate([planned, skipped]))
    if not np.array_equal(ids, np.arange(plan.n_structures)):
        found = f"{len(planned)} graphs planned"
        found += f" and {len(skipped)} skipped" if len(skipped) else ""
        raise _damaged(path, "batches", found, f"each of {plan.n_structures} once")
    empty = np.flatnonzero(plan.batches.n_graph == 0)
    if plan.processes == 1 and len(empty):
        raise _damaged(path, f"batches/{empty[0]}", "holds no graph", "one at least")


def _check_shapes(plan: BatchPlan, path: Path) -> None:
    total = sum(plan.shape_counts)
    if total != len(plan.batches):
        raise _damaged(path, "shapes", f"{total} batches", f"the {len(plan.batches)} of /batches")
    for index, (count, caps) in enumerate(zip(plan.shape_counts, plan.shapes, strict=True)):
        if count % plan.processes:
            expected = f"a multiple of {plan.processes} processes"
            raise _damaged(path, f"shapes/{index}/n_batches", str(count), expected)
        most = int(plan.batches.n_graph[plan.shape == index].max())
        if most >= caps.n_graph:
            expected = f"at least {most + 1}"
            raise _damaged(path, f"shapes/{index}/n_graph", str(caps.n_graph), expected)


def _damaged(path: Path, place: str, found: str, expected: str) -> ArtifactError:
    message = f"{path}: at /{place}: {found}, expected {expected}; create the plan again"
    return ArtifactError(message)


def require_plan_fits(
    plan: BatchPlan, path: Path, datasets: Sequence[Dataset], r_max: float
) -> None:
    """Check that a plan was made for these data and this cutoff.

    Raises:
        IncompatibleError: other data or another cutoff.
    """
    remedy = "plan again with mace-jax-plan-batches"
    if len(plan.datasets) != len(datasets):
        message = (
            f"{path}: was made for {len(plan.datasets)} datasets, expected {len(datasets)}; "
            f"{remedy}"
        )
        raise IncompatibleError(message)
    for planned, dataset in zip(plan.datasets, datasets, strict=True):
        if planned.sha256 != dataset.sha256():
            message = (
                f"{path}: was made for other data ({planned.name}, {planned.n_structures} "
                f"structures, sha256 {planned.sha256[:12]}…), expected {dataset.path} "
                f"({len(dataset)} structures, sha256 {dataset.sha256()[:12]}…); {remedy}"
            )
            raise IncompatibleError(message)
    if plan.r_max != r_max:
        message = f"{path}: was made for r_max {plan.r_max} Å, expected {r_max} Å; {remedy}"
        raise IncompatibleError(message)


def batch_plan_input(role: str, path: Path) -> Input:
    """Describe a plan in a provenance record."""
    return Input(role, path, KIND, tag(KIND)["version"], file_sha256(path))
