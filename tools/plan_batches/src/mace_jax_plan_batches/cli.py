"""The command line of mace-jax-plan-batches."""

import logging
from dataclasses import asdict
from pathlib import Path

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath, PositiveFloat, force_option, reproducible_option

log = logging.getLogger(__name__)


@click.command(
    cls=ToolCommand,
    tool="mace-jax-plan-batches",
    examples=(
        "mace-jax-plan-batches data/train --r-max 5.0 --n-edge 2048 --output train.plan.json",
        "mace-jax-plan-batches data/val --r-max 5.0 --n-edge 4096 --output valid.plan.json --json",
    ),
)
@click.argument("dataset", type=FilePath)
@click.option("--r-max", type=PositiveFloat(), required=True, help="cutoff of the model, Å")
@click.option("--n-edge", type=click.IntRange(1), required=True, help="edges per batch, at most")
@click.option(
    "--seed", type=click.IntRange(0), default=0, help="of the order in which graphs are packed"
)
@click.option("--output", "-o", type=FilePath, required=True, help="the plan, *.plan.json")
@force_option
@reproducible_option
def main(
    dataset: Path,
    r_max: float,
    n_edge: int,
    seed: int,
    output: Path,
    force: bool,
    reproducible: bool,
) -> Result:
    """Plan fixed-shape batches for DATASET (HDF5 file, folder or glob)."""
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax.artifacts.batch_plan import write_batch_plan
    from mace_jax.artifacts.dataset import Dataset
    from mace_jax.artifacts.provenance import make_provenance
    from mace_jax.batching.plan import plan_batches, plan_lines
    from mace_jax.cli.progress import track_on_stderr

    require_absent(output, force=force)
    with Dataset(dataset) as data:
        plan = plan_batches(data, r_max, n_edge, seed, track_on_stderr)
        provenance = make_provenance(
            "mace-jax-plan-batches",
            [data.as_input("dataset")],
            seed=seed,
            reproducible=reproducible,
        )
    write_batch_plan(output, plan, provenance)
    for line in plan_lines(plan):
        log.info(line)
    return Result(output, {"caps": asdict(plan.caps), **asdict(plan.report)})
