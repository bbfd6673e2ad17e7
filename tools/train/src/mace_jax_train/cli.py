"""The command line of mace-jax-train."""

import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mace_jax.cli.command import Result, ToolCommand
from mace_jax.cli.options import (
    AtomicNumbers,
    FilePath,
    PositiveFloat,
    backend_option,
    compile_cache_option,
    force_option,
    reproducible_option,
)

log = logging.getLogger(__name__)


class TrainCommand(ToolCommand):
    """A command that does not wait for the other processes of a run when it has failed."""

    def main(self, args: list[str] | None = None, **_: Any) -> None:  # type: ignore[override]
        """Run and exit."""
        try:
            super().main(args)
        except SystemExit as end:
            if "mace_jax_train.processes" in sys.modules:
                from mace_jax_train.processes import leave

                leave(int(end.code or 0))
            raise


# flag -> (section, name) of the configuration
_FLAGS = {
    "name": ("logs", "name"),
    "log_dir": ("logs", "directory"),
    "seed": ("flags", "seed"),
    "dtype": ("flags", "dtype"),
    "device": ("flags", "device"),
    "backend": ("flags", "backend"),
    "distributed": ("flags", "distributed"),
    "process_count": ("flags", "process_count"),
    "process_index": ("flags", "process_index"),
    "coordinator_address": ("flags", "coordinator_address"),
    "coordinator_port": ("flags", "coordinator_port"),
    "cueq_conv_fusion": ("flags", "cueq_conv_fusion"),
    "cueq_optimize_all": ("flags", "cueq_optimize_all"),
    "train_path": ("datasets", "train_path"),
    "valid_path": ("datasets", "valid_path"),
    "test_path": ("datasets", "test_path"),
    "statistics_file": ("datasets", "statistics_file"),
    "train_plan": ("datasets", "train_plan"),
    "valid_plan": ("datasets", "valid_plan"),
    "test_plan": ("datasets", "test_plan"),
    "batch_max_edges": ("datasets", "n_edge"),
    "r_max": ("model", "r_max"),
    "atomic_numbers": ("datasets", "atomic_numbers"),
    "e0s": ("datasets", "E0s"),
    "energy_key": ("datasets", "energy_key"),
    "forces_key": ("datasets", "forces_key"),
    "stress_key": ("datasets", "stress_key"),
    "scaling": ("model", "scaling"),
    "energy_weight": ("loss", "energy_weight"),
    "forces_weight": ("loss", "forces_weight"),
    "stress_weight": ("loss", "stress_weight"),
    "optimizer": ("optimizer", "algorithm"),
    "lr": ("optimizer", "lr"),
    "beta": ("optimizer", "b1"),
    "beta2": ("optimizer", "b2"),
    "epsilon": ("optimizer", "eps"),
    "weight_decay": ("optimizer", "weight_decay"),
    "max_epochs": ("optimizer", "max_epochs"),
    "clip_grad": ("train", "max_grad_norm"),
    "ema_decay": ("train", "ema_decay"),
    "eval_interval": ("train", "eval_interval"),
    "patience": ("train", "patience"),
}


@click.command(
    cls=TrainCommand,
    tool="mace-jax-train",
    examples=(
        "mace-jax-train configs/aspirin_small.gin --print-config",
        "mace-jax-train configs/aspirin_small.gin --seed 1 --name seed1 --dry-run",
    ),
)
@click.argument("configs", nargs=-1, type=FilePath)
@click.option("--binding", "-b", "bindings", multiple=True, metavar="KEY=VALUE", help="gin binding")
@click.option("--print-config", is_flag=True, help="show the resolved configuration on stderr")
@click.option("--dry-run", is_flag=True, help="check everything, show shapes and memory, stop")
@click.option("--name", help="tag of the run's files [default: name of the first config]")
@click.option("--log-dir", help="folder of the run's files")
@click.option(
    "--seed", type=click.IntRange(0), help="of the initial weights, plans and order of batches"
)
@click.option("--dtype", "--default-dtype", type=click.Choice(["float32", "float64"]))
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "tpu"]))
@click.option(
    "--launcher",
    type=click.Choice(["none", "local", "auto"]),
    default="auto",
    help="start a process for each of several GPUs (auto), as many as --process-count says "
    "(local), or only this one (none)",
)
@click.option("--distributed/--no-distributed", default=None, help="train with other processes")
@click.option("--process-count", type=click.IntRange(1), help="how many train together")
@click.option("--process-index", type=click.IntRange(0), help="which of them this is, from 0")
@click.option("--coordinator-address", help="host of process 0")
@click.option("--coordinator-port", type=click.IntRange(1, 65535), help="where it listens")
@backend_option
@click.option("--enable-cueq", is_flag=True, help="the same as --backend cueq")
@click.option("--only-cueq", is_flag=True, help="the same as --backend cueq")
@click.option(
    "--cueq-conv-fusion/--no-cueq-conv-fusion", default=None, help="messages by cuequivariance"
)
@click.option(
    "--cueq-optimize-all/--no-cueq-optimize-all",
    default=None,
    help="contractions and linear maps by element by cuequivariance",
)
@click.option(
    "--cueq-layout",
    type=click.Choice(["mul_ir", "ir_mul"]),
    help="for Torch's sake: here it is always ir_mul, and the numbers are the same",
)
@click.option(
    "--cueq-group",
    type=click.Choice(["O3", "O3_e3nn"]),
    help="for Torch's sake: here it is always O3_e3nn, and the numbers are the same",
)
@click.option("--train-path", "--train-file", help="HDF5 file, folder or glob, or extxyz")
@click.option("--valid-path", "--valid-file", help="the same, or None")
@click.option("--test-path", "--test-file", help="the same, or None")
@click.option("--statistics-file", help="statistics.json of mace-jax-preprocess")
@click.option("--train-plan", help="plan of mace-jax-plan-batches")
@click.option("--valid-plan", help="plan of mace-jax-plan-batches")
@click.option("--test-plan", help="plan of mace-jax-plan-batches")
@click.option("--batch-max-edges", "--n-edge", type=click.IntRange(1), help="for missing plans")
@click.option("--r-max", type=PositiveFloat(), help="cutoff, Å")
@click.option("--atomic-numbers", type=AtomicNumbers(), help='such as "[1, 6, 8]"')
@click.option("--E0s", "e0s", help="average, a dict literal, or a JSON file")
@click.option("--energy-key", help="where extxyz has the energy")
@click.option("--forces-key", help="where extxyz has the forces")
@click.option("--stress-key", help="where extxyz has the stress")
@click.option("--scaling", type=click.Choice(["rms_forces_scaling", "no_scaling"]))
@click.option("--energy-weight", type=click.FloatRange(0))
@click.option("--forces-weight", type=click.FloatRange(0))
@click.option("--stress-weight", type=click.FloatRange(0))
@click.option("--optimizer", type=click.Choice(["adam", "amsgrad"]))
@click.option("--lr", type=PositiveFloat(), help="learning rate")
@click.option("--beta", type=click.FloatRange(0, 1, False, True), help="of Adam")
@click.option("--beta2", type=click.FloatRange(0, 1, False, True), help="of Adam")
@click.option("--epsilon", type=PositiveFloat(), help="of Adam")
@click.option("--weight-decay", type=click.FloatRange(0))
@click.option("--max-epochs", "--max-num-epochs", type=click.IntRange(1))
@click.option("--clip-grad", type=PositiveFloat(), help="largest norm of the gradient")
@click.option("--ema-decay", type=click.FloatRange(0, 1, False, True))
@click.option("--eval-interval", type=click.IntRange(1), help="epochs between evaluations")
@click.option("--patience", type=click.IntRange(1), help="evaluations without improvement")
@click.option(
    "--num-workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="processes that make the batches of each split; 0: this one, between steps",
)
@compile_cache_option
@force_option
@reproducible_option
def main(
    configs: tuple[Path, ...],
    bindings: tuple[str, ...],
    print_config: bool,
    dry_run: bool,
    launcher: Any,
    enable_cueq: bool,
    only_cueq: bool,
    cueq_layout: str | None,
    cueq_group: str | None,
    num_workers: int,
    compile_cache: bool,
    force: bool,
    reproducible: bool,
    **flags: Any,
) -> Result | None:
    """Train a MACE model as CONFIGS (gin files) say; flags win over them.

    A flag that is not given changes nothing.
    """
    from mace_jax_train.children import run_children
    from mace_jax_train.gin_config import gin_text, load_train_config
    from mace_jax_train.launcher import plan_launch
    from mace_jax_train.run_files import run_files
    from mace_jax_train.topology import find_topology

    if enable_cueq or only_cueq:
        if flags["backend"] == "dense":
            message = "--backend dense and cueq at once; give one of them"
            raise click.UsageError(message)
        flags["backend"] = "cueq"
    for name, given, used in (
        ("layout", cueq_layout, "ir_mul"),
        ("group", cueq_group, "O3_e3nn"),
    ):
        if given not in (None, used):
            log.warning("--cueq-%s %s: %s is used, with the same numbers", name, given, used)
    config = load_train_config(configs, bindings, _flag_sections(flags))
    launched = [] if dry_run else plan_launch(launcher, config.flags, os.environ)
    if launched:
        command = [sys.executable, "-P", "-m", "mace_jax_train", *sys.argv[1:]]
        sys.exit(run_children(command, launched))
    default_name = configs[0].name.split(".")[0] if configs else "run"
    files = run_files(config, default_name, reproducible=reproducible)
    topology = None if dry_run else find_topology(config.flags, os.environ)
    if print_config and not (topology and topology.index):
        click.echo(gin_text(config), err=True)  # asked for, so --quiet does not silence it
    if dry_run:
        return _dry_run(config, compile_cache)
    return _train(config, files, configs, force, topology, compile_cache, num_workers)


def _flag_sections(flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort the flags that were given into sections; the text ``None`` disables a split."""
    sections: dict[str, dict[str, Any]] = {}
    for flag, value in flags.items():
        if value is not None:
            section, name = _FLAGS[flag]
            sections.setdefault(section, {})[name] = None if value == "None" else value
    return sections


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


def _dry_run(config: Any, compile_cache: bool) -> Result:
    """Prepare the run in a folder that is thrown away, compile its steps, and describe it."""
    from mace_jax.cli.progress import track_on_stderr
    from mace_jax_train.dry_run import describe_run
    from mace_jax_train.run_files import RunFiles
    from mace_jax_train.start import prepare_run

    with (
        tempfile.TemporaryDirectory() as folder,
        _computing(config.flags, compile_cache),
    ):
        run = prepare_run(config, RunFiles(Path(folder), "dry_run"), track_on_stderr)
        with closing(run):
            summary = describe_run(run)
    log.info(
        "dry run: %d parameters, %d steps an epoch, about %.0f MB for a step, compiled in %.1f s; "
        "nothing was trained",
        summary["parameters"],
        summary["steps_per_epoch"],
        summary["step_memory_bytes"] / 1e6,
        summary["compile_seconds"],
    )
    return Result(Path(config.datasets.train_path), summary)


def _train(
    config: Any,
    files: Any,
    configs: tuple[Path, ...],
    force: bool,
    topology: Any,
    compile_cache: bool,
    n_workers: int,
) -> Result | None:
    """Train, as one process of the topology; the first has a result."""
    from mace_jax.cli.progress import show_on_stderr, track_on_stderr
    from mace_jax_train.beginning import agreed_beginning, find_beginning, prepared_run
    from mace_jax_train.data_parallel import all_devices
    from mace_jax_train.loop import train
    from mace_jax_train.processes import joined
    from mace_jax_train.start import parameter_count

    with joined(topology) as processes:
        files = replace(files, tag=processes.agreed("tag", files.tag))
        beginning = agreed_beginning(
            processes, lambda: find_beginning(config, files, configs, force=force)
        )
        with (
            _computing(config.flags, compile_cache),
            prepared_run(
                config, files, beginning, track_on_stderr, n_workers, all_devices(processes)
            ) as run,
        ):
            log.info("network: %d parameters", parameter_count(run))
            outcome = train(run, files, show_on_stderr, beginning.checkpoint)
    if not processes.is_first:
        return None
    return Result(
        outcome.best,
        {"epochs": outcome.epochs, "best": outcome.best_row, "test": outcome.test_row},
    )
