"""Every option of a run has an effect: it is given, and what it is about must change.

Below each option has a value that is not its default, and what is observed of it: never the
configuration itself, but what a run makes of it. What no observation here reaches has a test of its
own, which must fail where the option is ignored.
"""

import ast
import json
import logging
import lzma
import multiprocessing
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.train_config_fields import FIELDS, is_section
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import pad_batch
from mace_jax.errors import MaceJaxError
from mace_jax.model.energy_forces import pair_vectors
from mace_jax.structures.structure import Structure
from mace_jax.tracking import track_silently
from mace_jax_train.beginning import find_beginning
from mace_jax_train.cli import main as command
from mace_jax_train.flag_options import given_flags
from mace_jax_train.flags import FLAGS, Flag
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.gin_names import PARAMETERS
from mace_jax_train.head_options import read_heads
from mace_jax_train.inputs import open_datasets
from mace_jax_train.launcher import plan_launch
from mace_jax_train.loss import make_loss
from mace_jax_train.method import make_method
from mace_jax_train.run_files import RunFiles, run_files
from mace_jax_train.start import Run, chosen_backend, prepare_run
from mace_jax_train.starting_model import read_starting_model
from mace_jax_train.step import GradientSum
from mace_jax_train.topology import INDEX, find_topology

pytestmark = pytest.mark.usefixtures("logging_as_before")

HERE = Path(__file__).parent
TORCH_MODELS = HERE.parents[2] / "tests" / "parity" / "data"
N_EPOCHS = 6

SMALL = """
datasets.train_path = '$train'
datasets.valid_path = '$valid'
datasets.test_path = '$test'
datasets.E0s = {1: -13.6, 8: -2041.8}
datasets.n_edge = 20
model.r_max = 3.0
model.num_bessel = 3
model.max_ell = 0
model.num_interactions = 1
model.hidden_irreps = '4x0e'
model.correlation = 2
model.radial_MLP = (8,)
optimizer.max_epochs = 6
"""
# The first number, vector or tensor of each label is under Torch MACE's key, the second is not.
LABELS = " ".join(
    f'{prefix}{name}="{" ".join([number] * size)}"'
    for prefix, number in (("REF_", "1.0"), ("my_", "2.0"))
    for name, size in {
        "energy": 1,
        "stress": 9,
        "virials": 9,
        "dipole": 3,
        "polarizability": 9,
    }.items()
)
COLUMNS = ":".join(f"{p}forces:R:3:{p}charges:R:1" for p in ("REF_", "my_"))
LABELLED = (
    f'2\nLattice="9 0 0 0 9 0 0 0 9" pbc="T T T" Properties=species:S:1:pos:R:3:{COLUMNS} '
    f"{LABELS} head=one my_head=two\nO 0 0 0 {'1.0 ' * 4}{'2.0 ' * 4}\nH 1 0 0 {'1.0 ' * 4}"
    f"{'2.0 ' * 4}\n"
)


def frozen(tree: Any) -> Any:
    """Return arrays as their bytes, which can be compared."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), tree)


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or what it says that is wrong."""
    try:
        return function(*arguments)
    except MaceJaxError as error:
        return str(error)


class Observatory:
    """What can be observed of a configuration; each method makes of it what a run makes of it."""

    def __init__(self, new_folder: Callable[[], Path], base: TrainConfig) -> None:
        self.new_folder = new_folder
        with self.prepared(base) as run:
            self.all_weights = run.parts
        self.batch, self.predicted = _labels_and_predictions()

    @contextmanager
    def prepared(self, config: TrainConfig) -> Iterator[Run]:
        files = RunFiles(self.new_folder(), "run")
        with (
            jax.enable_x64(config.flags.dtype == "float64"),
            closing(prepare_run(config, files, track_silently)) as run,
        ):
            yield run

    def network(self, config):
        """Weights, constants and E0s that a run begins with."""
        with self.prepared(config) as run:
            bundle = run.bundle
            return (
                frozen(dict(bundle.parameters)),
                bundle.atomic_energies,
                bundle.scale,
                bundle.shift,
            )

    def network_or_error(self, config):
        return attempt(self.network, config)

    def energies(self, config):
        """The energies of atoms that the network says with which a run begins."""
        with self.prepared(config) as run:
            batch, r_max = run.loaders["train"].batch(0), run.bundle.config.r_max
            return frozen(run.model(pair_vectors(batch, r_max), batch))

    def batches(self, config):
        """The batches of the first epoch and of the evaluations after it."""
        with self.prepared(config) as run:
            loaders = dict(run.loaders)
            found = {"train": list(loaders.pop("train").epoch(0, 1))}
            found |= {split: list(loader.in_order()) for split, loader in loaders.items()}
        return {split: [(index, frozen(batch)) for index, batch in found[split]] for split in found}

    def labels(self, config):
        """Labels and heads of the training data."""
        with ExitStack() as stack:
            files = RunFiles(self.new_folder(), "run")
            _, splits = open_datasets(config, (), files, stack)
            return [(frozen(dict(one.properties)), one.head) for one in splits["train"]]

    def starting_model(self, config):
        """The model that training begins with."""
        starting = attempt(read_starting_model, config, track_silently)
        if starting is None or isinstance(starting, str):
            return starting
        return frozen(dict(starting.bundle.parameters)), starting.bundle.atomic_energies

    def losses(self, config):
        """The loss of each stage, of one batch with every label."""
        stage_two = config.train.swa_config
        stages = [config.loss, stage_two.loss] if stage_two else [config.loss]
        return [float(make_loss(stage)(self.predicted, self.batch)) for stage in stages]

    def weights(self, config):
        """The weights that are evaluated after each epoch of one update, of given gradients."""
        return self._updated(config, self.all_weights)

    def parts(self, config):
        """The same, of the parts of the network that train."""
        with self.prepared(config) as run:
            return self._updated(config, run.parts)

    def _updated(self, config, parts):
        with jax.disable_jit():
            method = make_method(config, parts.network, 1, joined=parts.joined)
            state, found = method.initial_state(parts.trained, parts.frozen), []
            n_weight = ravel_pytree(parts.trained)[0].size
            rng = np.random.default_rng(0)
            gradients = rng.normal(size=(N_EPOCHS, n_weight)).astype(np.float32) / 100
            for epoch, gradient in enumerate(gradients, start=1):
                one = jnp.ones((), jnp.int32)
                state = method.begin_epoch(state, epoch)
                state = state._replace(accumulated=GradientSum(jnp.asarray(gradient), one, one))
                state = method.end_epoch(state, epoch)
                found.append(frozen(ravel_pytree(method.evaluated(state))[0]))
                state = method.after_evaluation(state, 1 - epoch / 100)
        return found

    def processes(self, config):
        """The processes that train together, and those that are started for it on two GPUs."""
        gpus = {"CUDA_VISIBLE_DEVICES": "0,1", "JAX_PLATFORMS": "cpu"}
        started = [
            attempt(plan_launch, launcher, config.flags, gpus) for launcher in ("auto", "local")
        ]
        indices = [
            each if isinstance(each, str) else [of[INDEX] for of in each] for each in started
        ]
        return attempt(find_topology, config.flags, {}), indices

    def workers(self, config):
        """How many processes make batches."""
        with self.prepared(config) as run:
            run.loaders["train"].batch(0)
            return len(multiprocessing.active_children())

    def kernels(self, config):
        """What computes the network."""
        return chosen_backend(config.flags)

    def files(self, config):
        """Where a run writes, and the checkpoint that it goes on from."""
        files = run_files(config, "run")
        beginning = attempt(lambda: find_beginning(config, files, [], force=False))
        return files.path(".metrics"), files.checkpoint(), beginning


def _labels_and_predictions():
    rng = np.random.default_rng(0)
    shapes = {"energy": (), "forces": (2, 3), "stress": (3, 3), "virials": (3, 3), "dipole": (3,)}
    structure = Structure(
        np.array([1, 8]),
        np.array([[0.0, 0, 0], [1, 0, 0]]),
        10 * np.eye(3),
        np.ones(3, dtype=bool),
        {name: np.array(rng.normal(size=shape)) for name, shape in shapes.items()},
    )
    builder = GraphBuilder(3.0, (1, 8), ("Default",), {"Default": {1: 0.0, 8: 0.0}})
    batch = pad_batch([builder.build(structure)], Caps.enclosing(2, 2, 1), "float32")
    predicted = {name: jnp.zeros_like(getattr(batch, name)) for name in shapes}
    return batch, predicted


Look = Observatory


class Option(NamedTuple):
    """How an option shows: its observation, a value, and what else both configurations say."""

    observe: Callable[[Observatory, TrainConfig], Any]
    value: Any
    beside: str = ""
    config: str = "small"


TWO_LAYERS = "-b model.num_interactions=2"
VECTORS = f"{TWO_LAYERS} -b model.max_ell=1 -b model.hidden_irreps='\"4x0e + 4x1o\"'"
HEADS = {"Default": {"E0s": "{1: -13.0, 8: -2041.0}"}}
PROCESSES = "--process-count 2 --process-index 0"
LABELLED_DATA = "--train-path $labelled --valid-path None --test-path None"
DIPOLES = "--loss energy_forces_dipole -b model.model=@EnergyDipolesMACE"
EXPONENTIAL = "--scheduler exponential --lr-scheduler-gamma 0.5"
PLATEAU = "--scheduler plateau --scheduler-patience 1 --scheduler-threshold 0.5"

OPTIONS = {
    "flags.seed": Option(Look.network, 3),
    "flags.dtype": Option(Look.network, "float64"),
    "flags.device": Option(Look.processes, "cuda"),
    "flags.backend": Option(Look.kernels, "cueq"),
    "flags.cueq_conv_fusion": Option(Look.kernels, False, "--backend cueq"),
    "flags.cueq_optimize_all": Option(Look.kernels, False, "--backend cueq"),
    "flags.distributed": Option(Look.processes, True),
    "flags.process_count": Option(Look.processes, 2, "--device cuda"),
    "flags.process_index": Option(Look.processes, 1, "--process-count 2"),
    "flags.coordinator_address": Option(Look.processes, "node7", PROCESSES),
    "flags.coordinator_port": Option(Look.processes, 999, PROCESSES),
    "logs.name": Option(Look.files, "other"),
    "logs.directory": Option(Look.files, "elsewhere"),
    "logs.include_timestamp": Option(Look.files, True),
    "datasets.train_path": Option(Look.batches, "$valid", "--valid-path None"),
    "datasets.valid_path": Option(Look.batches, "$test", "--test-path None"),
    "datasets.test_path": Option(Look.batches, "$valid", "--valid-path None"),
    "datasets.statistics_file": Option(Look.network, "$statistics"),
    "datasets.train_plan": Option(Look.batches, "$train_plan"),
    "datasets.valid_plan": Option(Look.batches, "$valid_plan"),
    "datasets.test_plan": Option(Look.batches, "$test_plan"),
    "datasets.r_max": Option(Look.network_or_error, 2.5, "-b model.r_max=None"),
    "datasets.n_edge": Option(Look.batches, 30),
    "datasets.atomic_numbers": Option(
        Look.network, (1, 6, 8), "-b 'datasets.E0s={1: -13.6, 6: -1029.0, 8: -2041.8}'"
    ),
    "datasets.E0s": Option(Look.network, "{1: -13.0, 8: -2041.0}"),
    **{
        f"datasets.{name}_key": Option(Look.labels, f"my_{name}", LABELLED_DATA)
        for name in (
            *("energy", "forces", "stress", "virials", "dipole", "polarizability", "charges"),
            "head",
        )
    },
    "datasets.heads": Option(Look.network, HEADS),
    "datasets.config_type_weights": Option(Look.batches, {"Default": 3.0}),
    "datasets.shuffle": Option(Look.batches, False),
    "datasets.max_batches": Option(Look.batches, 2),
    "datasets.num_workers": Option(Look.workers, 1, "--valid-path None --test-path None"),
    "model.r_max": Option(Look.network, 2.5),
    "model.model": Option(Look.network, "ScaleShiftMACE"),
    "model.num_bessel": Option(Look.network, 4),
    "model.num_polynomial_cutoff": Option(Look.energies, 3),
    "model.max_ell": Option(Look.network, 1),
    "model.num_interactions": Option(Look.network, 2),
    "model.hidden_irreps": Option(Look.network, "5x0e"),
    "model.MLP_irreps": Option(Look.network, "8x0e", TWO_LAYERS),
    "model.correlation": Option(Look.network, 1),
    "model.radial_MLP": Option(Look.network, (6,)),
    "model.gate": Option(Look.energies, "tanh", TWO_LAYERS),
    "model.interaction_cls": Option(
        Look.network, "RealAgnosticDensityResidualInteractionBlock", TWO_LAYERS
    ),
    "model.interaction_cls_first": Option(Look.network, "RealAgnosticDensityInteractionBlock"),
    "model.avg_num_neighbors": Option(Look.energies, 7.0),
    "model.scaling": Option(Look.network, "no_scaling"),
    "model.radial_type": Option(Look.network, "gaussian"),
    "model.distance_transform": Option(Look.energies, "Agnesi"),
    "model.apply_cutoff": Option(Look.energies, False),
    "model.pair_repulsion": Option(Look.energies, True),
    "model.readout_cls": Option(Look.network, "NonLinearBiasReadoutBlock", TWO_LAYERS),
    "model.edge_irreps": Option(Look.network, "2x0e", TWO_LAYERS),
    "model.use_edge_irreps_first": Option(
        Look.network, True, f"{TWO_LAYERS} -b model.edge_irreps='\"2x0e\"'"
    ),
    "model.use_so3": Option(Look.network, True, VECTORS),
    "model.use_reduced_cg": Option(Look.network, True, f"{VECTORS} -b model.correlation=3"),
    "model.use_agnostic_product": Option(Look.network, True),
    "model.use_last_readout_only": Option(Look.network, True, TWO_LAYERS),
    "model.keep_last_layer_irreps": Option(Look.network, True, VECTORS),
    "model.start_from": Option(Look.network, "$bundle"),
    "model.torch_checkpoint": Option(Look.starting_model, "$one_head", config="bare"),
    "model.foundation_model": Option(Look.starting_model, "$one_head", config="bare"),
    "model.torch_head": Option(
        Look.network,
        "fine",
        "--n-edge 60 --torch-checkpoint $two_heads --torch-head rough",
        config="bare",
    ),
    "model.torch_param_dtype": Option(
        Look.starting_model, "float32", "--torch-checkpoint $one_head", config="bare"
    ),
    "loss.loss_cls": Option(Look.losses, "huber"),
    "loss.energy_weight": Option(Look.losses, 7.0),
    "loss.forces_weight": Option(Look.losses, 7.0),
    "loss.stress_weight": Option(Look.losses, 7.0),
    "loss.virials_weight": Option(Look.losses, 7.0, "--loss virials"),
    "loss.dipole_weight": Option(Look.losses, 7.0, DIPOLES),
    "loss.huber_delta": Option(Look.losses, 0.5, "--loss huber"),
    "optimizer.algorithm": Option(Look.weights, "sgd"),
    "optimizer.lr": Option(Look.weights, 0.5),
    "optimizer.b1": Option(Look.weights, 0.5),
    "optimizer.b2": Option(Look.weights, 0.5),
    "optimizer.eps": Option(Look.weights, 0.5),
    "optimizer.weight_decay": Option(Look.weights, 0.5),
    "optimizer.schedule_free_b1": Option(Look.weights, 0.5, "--optimizer schedulefree"),
    "optimizer.schedule_free_weight_lr_power": Option(
        Look.weights, 1.0, "--optimizer schedulefree --warmup-epochs 3"
    ),
    "optimizer.freeze": Option(Look.parts, "readouts"),
    "optimizer.lr_factors": Option(Look.parts, {"readouts": 0.5}),
    "optimizer.lora": Option(Look.parts, {}),
    "optimizer.lora.rank": Option(Look.parts, 1, "--lora"),
    "optimizer.lora.alpha": Option(Look.parts, 3.0, "--lora"),
    "optimizer.scheduler.name": Option(Look.weights, "exponential_decay"),
    "optimizer.scheduler.decay_rate": Option(Look.weights, 0.5, "--scheduler exponential"),
    "optimizer.scheduler.transition_steps": Option(Look.weights, 2, EXPONENTIAL),
    "optimizer.scheduler.transition_begin": Option(Look.weights, 2, EXPONENTIAL),
    "optimizer.scheduler.staircase": Option(
        Look.weights, False, f"{EXPONENTIAL} -b exponential_decay.transition_steps=2"
    ),
    "optimizer.scheduler.end_value": Option(Look.weights, 0.005, EXPONENTIAL),
    "optimizer.scheduler.boundaries_and_scales": Option(
        Look.weights,
        {2: 0.1},
        "--scheduler piecewise_constant "
        "-b 'piecewise_constant_schedule.boundaries_and_scales={4: 0.5}'",
    ),
    "optimizer.scheduler.factor": Option(Look.weights, 0.5, PLATEAU),
    "optimizer.scheduler.patience": Option(
        Look.weights, 1, "--scheduler plateau --scheduler-threshold 0.5"
    ),
    "optimizer.scheduler.threshold": Option(
        Look.weights, 0.5, "--scheduler plateau --scheduler-patience 1"
    ),
    "optimizer.scheduler.min_lr": Option(Look.weights, 0.009, PLATEAU),
    "optimizer.scheduler.warmup_epochs": Option(Look.weights, 3),
    "train.ema_decay": Option(Look.weights, 0.5, "-b train.ema_decay=None"),
    "train.max_grad_norm": Option(Look.weights, 0.001),
    "train.checkpoint_dir": Option(Look.files, "scratch"),
    "train.resume_from": Option(Look.files, "none.checkpoint"),
    "train.swa_config": Option(Look.weights, {}),
    "train.swa_config.start_interval": Option(Look.weights, 1, "--swa"),
    "train.swa_config.lr": Option(Look.weights, 0.5, "--swa"),
    "train.swa_config.update_interval": Option(Look.weights, 2, "--swa"),
    "train.swa_config.min_snapshots_for_eval": Option(Look.weights, 2, "--swa"),
    "train.swa_config.max_snapshots": Option(Look.weights, 1, "--swa"),
    "train.swa_config.prefer_swa_params": Option(Look.weights, False, "--swa"),
    "train.swa_config.loss.loss_cls": Option(Look.losses, "huber", "--swa"),
    "train.swa_config.loss.energy_weight": Option(Look.losses, 7.0, "--swa"),
    "train.swa_config.loss.forces_weight": Option(Look.losses, 7.0, "--swa"),
    "train.swa_config.loss.stress_weight": Option(Look.losses, 7.0, "--swa"),
    "train.swa_config.loss.virials_weight": Option(Look.losses, 7.0, "--swa --loss virials"),
    "train.swa_config.loss.dipole_weight": Option(Look.losses, 7.0, f"--swa {DIPOLES}"),
    "train.swa_config.loss.huber_delta": Option(Look.losses, 0.5, "--swa --loss huber"),
}
_WANDB = ("enabled", "project", "entity", "group", "name", "tags", "notes", "mode", "dir")
ELSEWHERE = {
    "flags.debug": "test_effects.py::test_debug_stops_at_a_nan_and_shows_the_traceback",
    "logs.level": "test_effects.py::test_less_is_said_where_less_is_asked_for",
    "optimizer.max_epochs": "test_loop.py::test_evaluations_between_epochs_are_skipped",
    "optimizer.accumulate": "test_start.py::test_more_batches_for_an_update_than_an_epoch_has",
    "train.eval_interval": "test_loop.py::test_evaluations_between_epochs_are_skipped",
    "train.eval_train": "test_loop.py::test_everything_may_be_evaluated_at_every_evaluation",
    "train.eval_test": "test_loop.py::test_everything_may_be_evaluated_at_every_evaluation",
    "train.log_errors": "test_loop.py::test_everything_may_be_evaluated_at_every_evaluation",
    "train.best_metric": "test_loop.py::test_a_metric_that_is_not_found_cannot_be_the_best",
    "train.best_head": "test_heads.py::test_the_best_by_a_head_or_by_all",
    "train.patience": "test_loop.py::test_patience",
    "train.max_skipped_steps": "test_loop.py::test_a_bounded_number_of_steps_may_be_skipped",
    "train.checkpoint_steps": "test_checkpoint.py::test_a_checkpoint_inside_an_epoch",
    "train.checkpoint_every": "test_checkpoint.py::test_what_is_kept",
    "train.checkpoint_keep": "test_checkpoint.py::test_what_is_kept",
    "train.checkpoint_best": "test_checkpoint.py::test_what_is_kept",
    **{f"wandb_run.{key}": "test_wandb_run.py::test_every_setting_is_handed_on" for key in _WANDB},
    "tensorboard.enabled": "test_tensorboard_events.py::test_a_run_that_begins_anew_is_shown_alone",
    "tensorboard.dir": "test_tensorboard_events.py::test_a_folder_of_ones_own",
}


def configured(*arguments: str) -> TrainConfig:
    """Return the configuration that a command line makes."""
    with command.make_context("mace-jax-train", list(arguments)) as context:
        configs, bindings = context.params["configs"], context.params["bindings"]
        return load_train_config(configs, bindings, *given_flags(context))


@pytest.fixture(scope="module")
def paths(tmp_path_factory, data) -> dict[str, str]:
    """What values are filled in with: a path for each name."""
    folder = tmp_path_factory.mktemp("effects")
    named = {name.removesuffix("_path"): path for name, path in data.items()}
    for name, text in (
        ("small.gin", Template(SMALL).substitute(named)),
        ("bare.gin", f"datasets.train_path = {named['train']!r}\n"),
        ("labelled.xyz", LABELLED),
        ("heads.json", json.dumps(HEADS)),
    ):
        (folder / name).write_text(text)
        named[name.split(".")[0]] = str(folder / name)
    return named


@pytest.fixture(scope="module")
def observatory(tmp_path_factory, paths) -> Observatory:
    """Make what values name, too: plans and statistics of other data, and models to begin with."""

    def new_folder() -> Path:
        return tmp_path_factory.mktemp("run")

    def prepared(*arguments: str) -> Path:
        folder = new_folder()
        config = configured(paths["small"], *arguments)
        with closing(prepare_run(config, RunFiles(folder, "run"), track_silently)) as run:
            write_model_bundle(
                folder / "start.msgpack", run.bundle, make_provenance("mace-jax-train", [])
            )
        return folder

    planned = prepared("--n-edge", "60")
    paths |= {
        f"{split}_plan": str(planned / f"run.{split}.plan.json")
        for split in ("train", "valid", "test")
    }
    other = prepared("--train-path", paths["valid"], "--valid-path", "None", "--seed", "1")
    paths |= {
        "statistics": str(other / "run.statistics.json"),
        "bundle": str(other / "start.msgpack"),
    }
    for name, stored in (("one_head", "layers_1"), ("two_heads", "json_density_heads")):
        path = other / f"{stored}.model"
        path.write_bytes(lzma.decompress((TORCH_MODELS / f"{stored}.model.xz").read_bytes()))
        paths[name] = str(path)
    return Observatory(new_folder, configured(paths["small"]))


def as_flag(flag: Flag, value: Any) -> list[str]:
    """Return a flag and a value as they are written."""
    name = flag.names.split()[0]
    if flag.value is not None:
        return [name]
    if "/" in name:
        on, off = name.split("/")
        return [on if value else off]
    if flag.parse is read_heads:
        value = "$heads"
    if flag.words:
        value = next(word for word, meaning in flag.words.items() if meaning == value)
    return [name, str(list(value) if isinstance(value, tuple) else value)]


def as_binding(target: str, value: Any) -> list[str]:
    """Return a gin binding that sets an option."""
    return ["-b", f"{next(name for name in PARAMETERS if PARAMETERS[name] == target)}={value!r}"]


FLAGLESS = OPTIONS.keys() - {flag.target for flag in FLAGS}
GIVEN = [
    *((flag.names, flag.target, partial(as_flag, flag)) for flag in FLAGS),
    *((target, target, partial(as_binding, target)) for target in sorted(FLAGLESS)),
]


@pytest.fixture(scope="module")
def observed(observatory, paths):
    """Return a function to what is observed of an option beside some arguments, looked at once."""

    @cache
    def observed(option: str, *arguments: str) -> Any:
        observe, _, beside, config = OPTIONS[option]
        words = Template(f"$config {beside}").substitute(paths, config=paths[config])
        return observe(observatory, configured(*shlex.split(words), *arguments))

    return observed


@pytest.mark.parametrize(
    ("target", "written"),
    [pytest.param(*item, id=name) for name, *item in GIVEN if item[0] in OPTIONS],
)
def test_what_an_option_is_about_changes(observed, paths, target, written):
    words = [Template(word).substitute(paths) for word in written(OPTIONS[target].value)]
    assert observed(target, *words) != observed(target)


def test_every_option_is_observed_here_or_has_a_test_elsewhere():
    """Who adds an option says here how it shows."""
    leaves = {name for name, hint in FIELDS.items() if not is_section(hint)}
    assert OPTIONS.keys() | ELSEWHERE.keys() == leaves | {"optimizer.lora", "train.swa_config"}
    assert not OPTIONS.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_a_test_elsewhere_is_there(test):
    name, function = test.split("::")
    tree = ast.parse((HERE / name).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
@pytest.mark.parametrize("option", ELSEWHERE)
def test_the_test_of_an_option_fails_where_it_is_ignored(option):
    command = [sys.executable, "-m", "pytest", "-p", "ignored_option", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-x", str(HERE / ELSEWHERE[option])],
        env={
            **os.environ,
            "PYTHONPATH": f"{HERE}:{os.environ.get('PYTHONPATH', '')}",
            "IGNORED_OPTION": option,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout


# --- what only the command itself shows


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    """Return a function to what the command says of data that are not there."""
    monkeypatch.chdir(tmp_path)

    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            command.main(["--train-path", "absent.h5", *arguments])
        return capsys.readouterr().err

    return said


def test_less_is_said_where_less_is_asked_for(said):
    assert "backend: dense on cpu, float32" in said()
    assert said("--log-level", "ERROR").startswith("error: absent.h5: no HDF5 file there")


def test_compiled_programs_are_kept_unless_they_are_not_wanted(said):
    assert "compiled programs: kept in" in said()
    assert "compiled programs" not in said("--no-compile-cache")


class WhatJaxStopsAt(logging.Handler):
    """Looks, when a run says how it computes, whether jax would stop at a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("backend:"):
            self.seen.append(jax.config.jax_debug_nans)


def test_debug_stops_at_a_nan_and_shows_the_traceback(said):
    handler, logger = WhatJaxStopsAt(), logging.getLogger("mace_jax.model.computing")
    logger.addHandler(handler)
    try:
        assert "Traceback" not in said()
        assert "Traceback" in said("--debug")
    finally:
        logger.removeHandler(handler)
    assert handler.seen == [False, True]
