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
        "mace-jax-train-plot --report report.html results/aspirin_small.metrics test.h5",
    ),
)
@click.argument("files", type=FilePath, nargs=-1)
@click.option("--path", type=FilePath, help="a .metrics file, or a folder of them")
@click.option("--report", type=FilePath, help="write one HTML page about FILES, of any kind")
@click.option("--keys", default="rmse_e_per_atom,rmse_f", help="metrics, separated by commas")
@click.option("--output-format", type=click.Choice(["pdf", "png", "svg"]), default="png")
@click.option("--linear", is_flag=True, help="linear axes; by default the errors are logarithmic")
@click.option("--start-interval", type=click.IntRange(0), default=0, help="first epoch shown")
@force_option
def main(
    files: tuple[Path, ...],
    path: Path | None,
    report: Path | None,
    keys: str,
    output_format: str,
    linear: bool,
    start_interval: int,
    force: bool,
) -> Result:
    """Draw loss and metric curves of training runs, or write a report of the files of a run.

    The curves are one figure beside each metrics file of --path. The report shows whatever FILES
    are given: metrics, predictions (.h5), model, statistics, plans, indices, configuration.
    """
    from mace_jax.artifacts.atomic_write import require_absent

    _require_one_task(files, path, report)
    if path is None:
        assert report is not None  # noqa: S101 - just checked
        from mace_jax_plot.report import write_report

        require_absent(report, force=force)
        write_report(report, list(files))
        return Result(report, {"files": [str(file) for file in files]})
    from mace_jax_plot.curves import draw_curves, metrics_files, read_run

    names = [key.strip() for key in keys.split(",") if key.strip()]
    found = metrics_files(path)
    figures = [file.with_suffix(f".{output_format}") for file in found]
    for figure in figures:
        require_absent(figure, force=force)
    runs = [read_run(file, names, start_interval) for file in found]
    for figure, run in zip(figures, runs, strict=True):
        draw_curves(figure, run, names, linear=linear)
    single = figures[0] if len(figures) == 1 else path
    return Result(single, {"figures": [str(figure) for figure in figures]})


def _require_one_task(files: tuple[Path, ...], path: Path | None, report: Path | None) -> None:
    if (path is None) == (report is None):
        message = "give either --path, for curves, or --report with FILES"
        raise click.UsageError(message)
    if bool(files) != (report is not None):
        message = "FILES belong to --report, which needs one at least"
        raise click.UsageError(message)
