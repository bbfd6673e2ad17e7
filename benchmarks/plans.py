"""Measure batch plans: empty slots, batches against the lower bound, time and memory.

``python benchmarks/plans.py [--large] [--output FOLDER]`` needs the library only. Each plan is made
in a process of its own, whose peak memory includes the sizes of the graphs. Next-fit and first-fit,
which close or search their batches in the order of the graphs, have the same edge cap and 10 % more
room for nodes than the average batch needs; first-fit only plans few graphs, because its time grows
with their square. ``--large`` adds 10 million graphs. It writes ``plans.json`` and ``plans.md``.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray

from mace_jax.artifacts.batch_plan import PlannedDataset, write_batch_plan
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.provenance import Input, make_provenance
from mace_jax.batching.graph_sizes import GraphSizes, SizedDataset
from mace_jax.batching.plan import PlanSettings, plan_sized

HERE = Path(__file__).parent
ROOM = 1.1
FIRST_FIT_AT_MOST = 20_000


@dataclass(frozen=True)
class Case:
    """One plan.

    Attributes:
        sizes: one of ``SIZES``.
        n_graph: graphs.
        per_batch: average graphs that the edge cap holds, if no graph is larger.
        method: ``plan``, ``next-fit`` or ``first-fit``.
        settings: of ``PlanSettings``, where they are not the default.
    """

    sizes: str
    n_graph: int
    per_batch: int
    method: str = "plan"
    settings: tuple[tuple[str, Any], ...] = ()


def crystals(n: int, rng: np.random.Generator) -> GraphSizes:
    """Sizes as in MPtrj: 1 to 444 atoms, log-normal about 31, with 40 to 80 neighbours."""
    n_node = np.clip(rng.lognormal(3.2, 0.7, n), 1, 444).astype(np.int64)
    return _sizes(n_node, rng.integers(40, 80, n))


def mixed(n: int, rng: np.random.Generator) -> GraphSizes:
    """Half molecules of 2 to 80 atoms with few neighbours, half crystals of 1 to 200 atoms."""
    molecule = rng.random(n) < 0.5
    n_node = np.where(
        molecule,
        np.clip(rng.lognormal(2.8, 0.5, n), 2, 80),
        np.clip(rng.lognormal(3.2, 0.8, n), 1, 200),
    ).astype(np.int64)
    few = np.minimum(n_node - 1, rng.integers(10, 20, n))
    return _sizes(n_node, np.where(molecule, few, rng.integers(30, 80, n)))


SIZES: dict[str, Callable[[int, np.random.Generator], GraphSizes]] = {
    "mixed": mixed,
    "crystals": crystals,
}


def _sizes(n_node: NDArray[np.int64], n_neighbor: NDArray[np.int64]) -> GraphSizes:
    n_neighbors = np.repeat(n_neighbor.astype(np.uint16), n_node)
    return GraphSizes(n_node, n_node * n_neighbor, n_neighbors)


def next_fit(sizes: GraphSizes, limits: tuple[int, int], order: list[int]) -> list[list[int]]:
    """Begin a new batch whenever the next graph does not fit."""
    n_edge, n_node = sizes.n_edge.tolist(), sizes.n_node.tolist()
    batches: list[list[int]] = []
    edges = nodes = -1
    for graph in order:
        edges, nodes = edges - n_edge[graph], nodes - n_node[graph]
        if edges < 0 or nodes < 0:
            batches.append([])
            edges, nodes = limits[0] - n_edge[graph], limits[1] - n_node[graph]
        batches[-1].append(graph)
    return batches


def first_fit(sizes: GraphSizes, limits: tuple[int, int], order: list[int]) -> list[list[int]]:
    """Put every graph into the first batch that still takes it."""
    batches: list[list[int]] = []
    free = np.empty((len(order), 2), np.int64)
    for graph in order:
        size = sizes.n_edge[graph], sizes.n_node[graph]
        fits = np.flatnonzero((free[: len(batches)] >= size).all(axis=1))
        place = int(fits[0]) if fits.size else len(batches)
        if place == len(batches):
            batches.append([])
            free[place] = limits
        batches[place].append(graph)
        free[place] -= size
    return batches


def measure(case: Case) -> dict[str, Any]:
    """Make one plan and return its figures."""
    sizes = SIZES[case.sizes](case.n_graph, np.random.default_rng(0))
    cap = max(int(case.per_batch * sizes.n_edge.mean()), int(sizes.n_edge.max()))
    if case.method == "plan":
        figures = _plan(sizes, PlanSettings(cap, **dict(case.settings)))
    else:
        figures = _naive(sizes, cap, {"next-fit": next_fit, "first-fit": first_fit}[case.method])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**asdict(case), "n_edge": cap, **figures, "peak_bytes": peak}


def _plan(sizes: GraphSizes, settings: PlanSettings) -> dict[str, Any]:
    digest = 64 * "0"
    data = PlannedDataset("synthetic", digest, len(sizes.n_node))
    described = Input("dataset", Path("synthetic"), "dataset", 1, digest)
    sized = SizedDataset(data, 5.0, sizes, str, described)
    plan, times = _timed(lambda: plan_sized([sized], settings))
    with tempfile.TemporaryDirectory() as folder:
        provenance = make_provenance("mace-jax-shared", [described], reproducible=True)
        path = Path(folder) / "a.plan.json"
        _, writing = _timed(lambda: write_batch_plan(path, plan, provenance))
    report = plan.report
    return {
        **times,
        "write_seconds": writing["seconds"],
        "n_batches": report.n_batches,
        "excess": report.n_batches / report.n_batches_lower_bound - 1,
        "edge_waste": report.edge_waste,
        "node_waste": report.node_waste,
        "graph_waste": report.graph_waste,
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what ``work`` returns, and what time it took by the clock and by the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    times = time.perf_counter() - clock, time.process_time() - processor
    return result, {"seconds": times[0], "processor_seconds": times[1]}


def _naive(sizes: GraphSizes, cap: int, method: Callable[..., list[list[int]]]) -> dict[str, Any]:
    order = np.random.default_rng(0).permutation(len(sizes.n_edge)).tolist()
    bound = -(-int(sizes.n_edge.sum()) // cap)
    node_limit = max(int(ROOM * sizes.n_node.sum() / bound), int(sizes.n_node.max()))
    lists, times = _timed(lambda: method(sizes, (cap, node_limit), order))
    batches = Batches.from_lists(lists)
    used = batches.sums(sizes.n_edge), batches.sums(sizes.n_node), batches.n_graph
    edge, node, graph = (
        1 - float(some.mean() / (some.max() + more))
        for some, more in zip(used, (0, 1, 1), strict=True)
    )
    return {
        **times,
        "n_batches": len(batches),
        "excess": len(batches) / bound - 1,
        "edge_waste": edge,
        "node_waste": node,
        "graph_waste": graph,
    }


def cases(*, large: bool) -> list[Case]:
    """Return what is measured."""
    found = []
    for sizes in SIZES:
        for n_graph in (1_000, 20_000, 1_000_000):
            for per_batch in (8, 32):
                found.append(Case(sizes, n_graph, per_batch))
                found.append(Case(sizes, n_graph, per_batch, "next-fit"))
                if n_graph <= FIRST_FIT_AT_MOST:
                    found.append(Case(sizes, n_graph, per_batch, "first-fit"))
        if large:
            found.append(Case(sizes, 10_000_000, 32))
    for settings in ((("n_shapes", 4),), (("processes", 8),), (("near", True),)):
        found.append(Case("mixed", 1_000_000, 32, settings=settings))
    return found


def table(records: list[dict[str, Any]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| sizes | graphs | a batch | method | batches above bound | edges empty | nodes empty "
        "| graphs empty | time | processor | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        options = ", ".join(f"{name}={value}" for name, value in record["settings"])
        method = f"{record['method']} ({options})" if options else record["method"]
        wastes = [record[name] for name in ("excess", "edge_waste", "node_waste", "graph_waste")]
        lines.append(
            f"| {record['sizes']} | {record['n_graph']:,} | {record['per_batch']} | {method} | "
            + " | ".join(f"{waste:.1%}" for waste in wastes)
            + f" | {record['seconds']:.2f} s | {record['processor_seconds']:.2f} s "
            f"| {record['peak_bytes'] / 1e6:.0f} MB |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case in a new process, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="10 million graphs, too")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    records = []
    for case in cases(large=options.large):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            records.append(pool.apply(measure, (case,)))
        print(table(records).splitlines()[-1], flush=True)
    result = {"machine": describe(), "plans": records}
    (options.output / "plans.json").write_text(json.dumps(result, indent=1))
    (options.output / "plans.md").write_text(table(records))
    print(options.output / "plans.md")


if __name__ == "__main__":
    main()
