"""The command line of mace-jax-train-plot."""

from pathlib import Path

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath, force_option


@click.command(
    cls=ToolCommand,
    tool="mace-jax-plot",
    examples=(
        "mace-jax-train-plot --path results --keys rmse_e_per_atom,rmse_f --output-format pdf",
        "mace-jax-train-plot --path results/aspirin_small.metrics --output-format png --linear",
    ),
)
@click.option("--path", type=FilePath, required=True, help="a .metrics file, or a folder of them")
@click.option("--keys", default="rmse_e_per_atom,rmse_f", help="metrics, separated by commas")
@click.option("--output-format", type=click.Choice(["pdf", "png", "svg"]), default="png")
@click.option("--linear", is_flag=True, help="linear axes; by default the errors are logarithmic")
@click.option("--start-interval", type=click.IntRange(0), default=0, help="first epoch shown")
@force_option
def main(
    path: Path,
    keys: str,
    output_format: str,
    linear: bool,
    start_interval: int,
    force: bool,
) -> Result:
    """Draw loss and metric curves of training runs, one figure beside each metrics file."""
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax_plot.curves import draw_curves, metrics_files, read_run

    names = [key.strip() for key in keys.split(",") if key.strip()]
    files = metrics_files(path)
    figures = [file.with_suffix(f".{output_format}") for file in files]
    for figure in figures:
        require_absent(figure, force=force)
    runs = [read_run(file, names, start_interval) for file in files]
    for figure, run in zip(figures, runs, strict=True):
        draw_curves(figure, run, names, linear=linear)
    single = figures[0] if len(figures) == 1 else path
    return Result(single, {"figures": [str(figure) for figure in figures]})
