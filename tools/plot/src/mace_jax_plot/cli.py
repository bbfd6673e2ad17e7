"""The command line of mace-jax-train-plot."""

from pathlib import Path

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import FilePath, force_option

FORMATS = ("pdf", "png", "svg")


@click.command(
    cls=ToolCommand,
    tool="mace-jax-plot",
    examples=(
        "mace-jax-train-plot --path results --keys rmse_e_per_atom,rmse_f --output-format pdf",
        "mace-jax-train-plot test.h5 --output parity.pdf",
        "mace-jax-train-plot --report report.html results/aspirin_small.metrics test.h5",
    ),
)
@click.argument("files", type=FilePath, nargs=-1)
@click.option("--path", type=FilePath, help="a .metrics file, or a folder of them")
@click.option("-o", "--output", type=FilePath, help="one figure of FILES: .pdf, .png or .svg")
@click.option("--report", type=FilePath, help="write one HTML page about FILES, of any kind")
@click.option(
    "--keys",
    help="metrics, or quantities of predictions such as f, separated by commas  "
    "[default: rmse_e_per_atom,rmse_f; of predictions all]",
)
@click.option("--output-format", type=click.Choice(FORMATS), default="png", help="with --path")
@click.option("--linear", is_flag=True, help="linear axes; by default the errors are logarithmic")
@click.option("--start-interval", type=click.IntRange(0), default=0, help="first epoch shown")
@force_option
def main(
    files: tuple[Path, ...],
    path: Path | None,
    output: Path | None,
    report: Path | None,
    keys: str | None,
    output_format: str,
    linear: bool,
    start_interval: int,
    force: bool,
) -> Result:
    """Draw learning curves, errors of predictions and sizes, or write a report of a run.

    With --path the curves of each run are a figure beside its metrics file. With --output FILES are
    one figure: the curves of several runs (.metrics); predictions (.h5) against labels, with the
    errors of each element, config type and head; sizes of the structures of an index (.parquet);
    or what the batches of a plan hold and how many of their slots are empty, for atoms and edges,
    too, if the indices of its data are given. --report shows whatever FILES are given: these,
    model, statistics, configuration.
    """
    from mace_jax.artifacts.atomic_write import require_absent

    _require_one_task(files, path, output, report)
    names = [key.strip() for key in keys.split(",") if key.strip()] if keys else None
    if path is not None:
        return _curves(path, names, output_format, linear, start_interval, force)
    target = output or report
    assert target is not None  # noqa: S101 - just checked
    require_absent(target, force=force, inputs=files)
    if output:
        from mace_jax_plot.figures import figure_of
        from mace_jax_plot.style import save

        save(figure_of(files, names, linear=linear, start_interval=start_interval), output)
    else:
        from mace_jax_plot.report import write_report

        write_report(target, list(files))
    return Result(target, {"files": [str(file) for file in files]})


def _curves(
    path: Path,
    names: list[str] | None,
    output_format: str,
    linear: bool,
    start_interval: int,
    force: bool,
) -> Result:
    from mace_jax.artifacts.atomic_write import require_absent
    from mace_jax_plot.curves import draw_curves, metrics_files, read_run
    from mace_jax_plot.figures import METRICS

    names = names or list(METRICS)
    found = metrics_files(path)
    figures = [file.with_suffix(f".{output_format}") for file in found]
    for figure in figures:
        require_absent(figure, force=force)
    runs = [read_run(file, names, start_interval) for file in found]
    for figure, run in zip(figures, runs, strict=True):
        draw_curves(figure, run, names, linear=linear)
    single = figures[0] if len(figures) == 1 else path
    return Result(single, {"figures": [str(figure) for figure in figures]})


def _require_one_task(
    files: tuple[Path, ...], path: Path | None, output: Path | None, report: Path | None
) -> None:
    if sum(target is not None for target in (path, output, report)) != 1:
        message = "give one of --path, for curves, and --output or --report with FILES"
        raise click.UsageError(message)
    if bool(files) != (path is None):
        message = "FILES belong to --output and --report, which need one at least"
        raise click.UsageError(message)
    if output and output.suffix[1:] not in FORMATS:
        message = f"--output {output}: expected a name that ends in .{', .'.join(FORMATS)}"
        raise click.UsageError(message)
