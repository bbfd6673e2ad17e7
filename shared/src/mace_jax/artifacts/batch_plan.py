"""The batch plan: which graphs share a batch, padded to which shape, for which data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.provenance import Input, file_sha256
from mace_jax.artifacts.versioned import check_document, read_json, tag, write_json
from mace_jax.errors import ArtifactError, IncompatibleError

KIND = "batch_plan"


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
class PlanReport:
    """How well a plan packs.

    Attributes:
        n_graphs, n_batches: totals.
        n_batches_lower_bound: ceil(all edges / edge cap); no plan needs fewer.
        edge_waste, node_waste, graph_waste: share of the padded slots that is empty.
        requested_n_edge: the edge cap that was asked for.
        largest_graph: ``{id, n_node, n_edge}`` of the graph with most edges.
    """

    n_graphs: int
    n_batches: int
    n_batches_lower_bound: int
    edge_waste: float
    node_waste: float
    graph_waste: float
    requested_n_edge: int
    largest_graph: dict[str, int]


@dataclass(frozen=True)
class BatchPlan:
    """Batches of graph ids of one dataset, all padded to ``caps``.

    Attributes:
        dataset_name: file or folder name, for people.
        dataset_sha256: digest of the data the plan was made for.
        n_structures: structures in that data.
        r_max: cutoff the edges were counted with, Å.
        seed: seed of the order in which graphs were packed.
        caps: the padded shape; one node and one graph of it are always padding.
        batches: graph ids of each batch; every id occurs exactly once.
        report: how well it packs.
    """

    dataset_name: str
    dataset_sha256: str
    n_structures: int
    r_max: float
    seed: int
    caps: Caps
    batches: tuple[tuple[int, ...], ...]
    report: PlanReport


def write_batch_plan(path: Path, plan: BatchPlan, provenance: dict[str, Any]) -> None:
    """Write a plan atomically."""
    document = {
        "schema": tag(KIND),
        "provenance": provenance,
        "dataset": {
            "name": plan.dataset_name,
            "sha256": plan.dataset_sha256,
            "n_structures": plan.n_structures,
        },
        "r_max": plan.r_max,
        "seed": plan.seed,
        "caps": asdict(plan.caps),
        "batches": [list(batch) for batch in plan.batches],
        "report": asdict(plan.report),
    }
    write_json(path, document, KIND)


def read_batch_plan(path: Path) -> BatchPlan:
    """Read a plan.

    Raises:
        ArtifactError: it is damaged, or a graph is missing or planned twice.
    """
    document = check_document(read_json(path), KIND, path)
    dataset = document["dataset"]
    batches = tuple(tuple(batch) for batch in document["batches"])
    ids = sorted(graph for batch in batches for graph in batch)
    if ids != list(range(dataset["n_structures"])):
        message = (
            f"{path}: at /batches: {len(ids)} graphs planned, expected each of "
            f"{dataset['n_structures']} once; create the plan again"
        )
        raise ArtifactError(message)
    caps = Caps(**document["caps"])
    most = max(len(batch) for batch in batches)
    if most >= caps.n_graph:
        message = (
            f"{path}: at /caps/n_graph: {caps.n_graph}, expected at least {most + 1}; "
            "create the plan again"
        )
        raise ArtifactError(message)
    return BatchPlan(
        dataset_name=dataset["name"],
        dataset_sha256=dataset["sha256"],
        n_structures=dataset["n_structures"],
        r_max=document["r_max"],
        seed=document["seed"],
        caps=caps,
        batches=batches,
        report=PlanReport(**document["report"]),
    )


def require_plan_fits(plan: BatchPlan, path: Path, dataset: Dataset, r_max: float) -> None:
    """Check that a plan was made for this data and cutoff.

    Raises:
        IncompatibleError: other data or another cutoff.
    """
    remedy = "plan again with mace-jax-plan-batches"
    if plan.dataset_sha256 != dataset.sha256():
        message = (
            f"{path}: was made for other data ({plan.dataset_name}, {plan.n_structures} structures,"
            f" sha256 {plan.dataset_sha256[:12]}…), expected {dataset.path} ({len(dataset)} "
            f"structures, sha256 {dataset.sha256()[:12]}…); {remedy}"
        )
        raise IncompatibleError(message)
    if plan.r_max != r_max:
        message = f"{path}: was made for r_max {plan.r_max} Å, expected {r_max} Å; {remedy}"
        raise IncompatibleError(message)


def batch_plan_input(role: str, path: Path) -> Input:
    """Describe a plan in a provenance record."""
    return Input(role, path, KIND, tag(KIND)["version"], file_sha256(path))
