"""The command line of mace-jax-train."""

import logging
import os
import sys
import tempfile
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mace_jax.cli.command import Result, set_log_level
from mace_jax.cli.options import (
    FilePath,
    compile_cache_option,
    force_option,
    reproducible_option,
)
from mace_jax_train.flag_options import TrainCommand, config_options, given_flags

log = logging.getLogger(__name__)


@click.command(
    cls=TrainCommand,
    tool="mace-jax-train",
    params=config_options(),
    examples=(
        "mace-jax-train configs/aspirin_small.gin --print-config",
        "mace-jax-train configs/aspirin_small.gin --seed 1 --name seed1 --dry-run",
    ),
)
@click.argument("configs", nargs=-1, type=FilePath)
@click.option("--like", type=FilePath, help="bundle whose training is repeated, as flags change it")
@click.option("--binding", "-b", "bindings", multiple=True, metavar="KEY=VALUE", help="gin binding")
@click.option("--print-config", is_flag=True, help="show the resolved configuration on stderr")
@click.option("--dry-run", is_flag=True, help="check everything, show shapes and memory, stop")
@click.option(
    "--launcher",
    type=click.Choice(["none", "local", "auto"]),
    default="auto",
    show_default=True,
    help="start a process for each of several GPUs (auto), as many as --process-count says "
    "(local), or only this one (none)",
)
@compile_cache_option
@force_option
@reproducible_option
@click.pass_context
def main(
    ctx: click.Context,
    configs: tuple[Path, ...],
    like: Path | None,
    bindings: tuple[str, ...],
    print_config: bool,
    dry_run: bool,
    launcher: Any,
    compile_cache: bool,
    force: bool,
    reproducible: bool,
) -> Result | None:
    """Train a MACE model as CONFIGS (gin files, or bundles) say; flags win over them.

    A flag that is not given changes nothing. Where nothing is possible, None takes away what a file
    says.
    """
    from mace_jax_train.children import run_children
    from mace_jax_train.gin_config import load_train_config
    from mace_jax_train.gin_text import gin_text
    from mace_jax_train.launcher import plan_launch
    from mace_jax_train.run_files import default_name, run_files
    from mace_jax_train.topology import find_topology
    from mace_jax_train.trackers import require_trackers

    configs = (like, *configs) if like else configs
    config = load_train_config(configs, bindings, *given_flags(ctx))
    set_log_level(config.logs.level)
    require_trackers(config)
    launched = [] if dry_run else plan_launch(launcher, config.flags, os.environ)
    if launched:
        command = [sys.executable, "-P", "-m", "mace_jax_train", *sys.argv[1:]]
        sys.exit(run_children(command, launched))
    files = run_files(config, default_name(configs), reproducible=reproducible)
    topology = None if dry_run else find_topology(config.flags, os.environ)
    if print_config and not (topology and topology.index):
        click.echo(gin_text(config), err=True)  # asked for, so --quiet does not silence it
    if dry_run:
        return _dry_run(config, configs, compile_cache)
    return _train(config, files, configs, force, topology, compile_cache)


def _computing(flags: Any, compile_cache: bool) -> AbstractContextManager[None]:
    from mace_jax.model.computing import computing
    from mace_jax_train.start import chosen_backend

    return computing(
        flags.dtype,
        backend=chosen_backend(flags),
        device=flags.device,
        compile_cache=compile_cache,
        debug_nans=flags.debug,
    )


def _dry_run(config: Any, configs: tuple[Path, ...], compile_cache: bool) -> Result:
    """Prepare the run in a folder that is thrown away, compile its steps, and describe it."""
    from mace_jax.cli.progress import track_on_stderr
    from mace_jax_train.data_parallel import all_devices
    from mace_jax_train.dry_run import describe_run
    from mace_jax_train.head_table import head_table
    from mace_jax_train.inputs import split_sources
    from mace_jax_train.processes import Processes
    from mace_jax_train.recipe import require_devices_of_recipes, require_files_of_recipes
    from mace_jax_train.run_files import RunFiles
    from mace_jax_train.start import prepare_run

    with (
        tempfile.TemporaryDirectory() as folder,
        _computing(config.flags, compile_cache),
    ):
        files, devices = RunFiles(Path(folder), "dry_run"), all_devices(Processes())
        require_files_of_recipes(config, configs, track_on_stderr)
        require_devices_of_recipes(configs, devices.n_batch)
        run = prepare_run(config, files, track_on_stderr, devices)
        with closing(run):
            summary = describe_run(run)
    for line in head_table(summary["heads"]):
        log.info("%s", line)
    log.info(
        "dry run: %d parameters, %d steps an epoch, about %.0f MB for a step on each of %d "
        "devices, compiled in %.1f s; nothing was trained",
        summary["parameters"],
        summary["steps_per_epoch"],
        summary["step_memory_bytes"] / 1e6,
        summary["devices"],
        summary["compile_seconds"],
    )
    return Result(split_sources(config.datasets, "train")[0].path, summary)


def _train(
    config: Any,
    files: Any,
    configs: tuple[Path, ...],
    force: bool,
    topology: Any,
    compile_cache: bool,
) -> Result | None:
    """Train, as one process of the topology; the first has a result."""
    from mace_jax.cli.progress import show_on_stderr, track_on_stderr
    from mace_jax_train.beginning import agreed_beginning, find_beginning, prepared_run
    from mace_jax_train.data_parallel import all_devices
    from mace_jax_train.loop import train
    from mace_jax_train.processes import joined
    from mace_jax_train.recipe import require_devices_of_recipes
    from mace_jax_train.start import parameter_count

    with joined(topology) as processes:
        files = replace(files, tag=processes.agreed("tag", files.tag))
        beginning = agreed_beginning(
            processes,
            lambda: find_beginning(config, files, configs, force=force, track=track_on_stderr),
        )
        with _computing(config.flags, compile_cache):
            devices = all_devices(processes)
            require_devices_of_recipes(configs, devices.n_batch)
            with prepared_run(config, files, beginning, track_on_stderr, devices) as run:
                log.info("network: %d parameters", parameter_count(run))
                outcome = train(run, files, show_on_stderr, beginning.checkpoint)
    if not processes.is_first:
        return None
    return Result(
        outcome.best,
        {"epochs": outcome.epochs, "best": outcome.best_row, "test": outcome.test_row},
    )
