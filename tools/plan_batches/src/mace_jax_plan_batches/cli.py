"""The command line of mace-jax-plan-batches."""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath, PositiveFloat, force_option, reproducible_option

if TYPE_CHECKING:
    from mace_jax.artifacts.batch_plan import BatchPlan

# Memory of a training step for each edge of its batch: that of hidden irreps 128x0e + 128x1o in
# float32, twice what was measured for 64x0e + 64x1o and rounded up.
BYTES_PER_EDGE = 120_000

log = logging.getLogger(__name__)


@click.command(
    cls=ToolCommand,
    tool="mace-jax-plan-batches",
    examples=(
        "mace-jax-plan-batches data/train --r-max 5.0 --n-edge 2048 --output train.plan.json",
        "mace-jax-plan-batches data/val --r-max 5 --target-edges 4096 --output v.plan.json --json",
    ),
)
@click.argument("datasets", metavar="DATASET...", nargs=-1, required=True, type=FilePath)
@click.option(
    "--r-max", type=PositiveFloat(), help="cutoff of the model, Å  [default: that of an index]"
)
@click.option("--n-edge", type=click.IntRange(1), help="edges per batch, at most")
@click.option(
    "--target-edges", type=click.IntRange(1), help="edges per batch, about: what packs best"
)
@click.option(
    "--max-memory", type=PositiveFloat(), metavar="GB", help="memory of a training step, at most"
)
@click.option(
    "--bytes-per-edge",
    type=PositiveFloat(),
    default=BYTES_PER_EDGE,
    help="of a training step, for --max-memory; this is enough for 128x0e + 128x1o in float32, "
    "float64 needs twice as much, --dry-run of mace-jax-train tells",
)
@click.option("--shapes", type=click.IntRange(1), default=1, help="padded shapes, at most")
@click.option(
    "--oversize",
    type=click.Choice(["raise", "own-shape", "skip", "error"]),
    default="raise",
    help="if a graph has more edges: raise the cap of the largest shape, add a shape for such "
    "graphs, leave them out, or stop",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    help="processes that train together: each gets as many batches of the same shapes",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, help="of the order in which graphs are packed"
)
@click.option("--output", "-o", type=FilePath, required=True, help="the plan, *.plan.json")
@force_option
@reproducible_option
def main(datasets: tuple[Path, ...], output: Path, **options: Any) -> Result:
    """Plan fixed-shape batches for DATASETs, numbered through in this order.

    Each is an HDF5 file, folder or glob, or the index of one (*.parquet): then the data need not be
    at hand. Of --n-edge, --target-edges and --max-memory exactly one is given.
    """
    from contextlib import ExitStack

    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.artifacts.batch_plan import write_batch_plan
    from mace_jax.artifacts.provenance import make_provenance
    from mace_jax.batching.graph_sizes import size_files
    from mace_jax.batching.plan import PlanSettings, plan_sized
    from mace_jax.batching.plan_report import plan_lines
    from mace_jax.cli.progress import track_on_stderr

    n_edge = _edge_cap(**options)
    settings = PlanSettings(
        n_edge,
        near=options["target_edges"] is not None,
        n_shapes=options["shapes"],
        oversize=options["oversize"],
        processes=options["processes"],
        seed=options["seed"],
    )
    require_absent(output, force=options["force"], inputs=datasets)
    with ExitStack() as stack:
        sized = size_files(datasets, options["r_max"], stack, track_on_stderr)
        started = time.perf_counter()
        plan = plan_sized(sized, settings)
        seconds = time.perf_counter() - started
    provenance = make_provenance(
        "mace-jax-plan-batches",
        [item.input for item in sized],
        seed=settings.seed,
        reproducible=options["reproducible"],
    )
    write_batch_plan(output, plan, provenance)
    for line in [*plan_lines(plan), f"planned in {seconds:.2f} s"]:
        log.info(line)
    return Result(output, _summary(plan) | {"seconds": seconds})


def _summary(plan: "BatchPlan") -> dict[str, Any]:
    """Return the report, each shape with its caps, and the caps that cover all shapes."""
    shapes = [
        {**asdict(caps), **asdict(waste)}
        for caps, waste in zip(plan.shapes, plan.report.shapes, strict=True)
    ]
    return {
        "caps": asdict(plan.caps),
        **asdict(plan.report),
        "shapes": shapes,
        "processes": plan.processes,
        "n_skipped": len(plan.skipped),
    }


def _edge_cap(
    *,
    n_edge: int | None,
    target_edges: int | None,
    max_memory: float | None,
    bytes_per_edge: float,
    **_others: Any,
) -> int:
    """Return the edges of a batch that were asked for, one way or the other.

    Raises:
        click.UsageError: none or several of the flags are given, or the memory is too small.
    """
    given = [value for value in (n_edge, target_edges, max_memory) if value is not None]
    if len(given) != 1:
        message = f"{len(given)} of --n-edge, --target-edges and --max-memory given, expected one"
        raise click.UsageError(message)
    if max_memory is None:
        return int(given[0])
    edges = int(max_memory * 1e9 / bytes_per_edge)
    if not edges:
        message = f"--max-memory {max_memory} GB: less than --bytes-per-edge {bytes_per_edge:g}"
        raise click.UsageError(message)
    log.info("%g GB at %g bytes per edge: %d edges", max_memory, bytes_per_edge, edges)
    return edges
