"""Steps of training beside mace-torch's: same weights, batches, loss and settings, in float64."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.train_config_sections import (
    DatasetsConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
    SWAConfig,
    TrainConfig,
    TrainSection,
)
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.model.load import graph_builder, load_model, parameter_table, split_trainable
from mace_jax.structures.structure import Structure
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax_convert.to_torch import mace_torch_talks_less
from mace_jax_train.method import make_method

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("MACE_JAX_LIVE_TORCH"), reason="needs mace-torch; run `nox -s torch`"
    ),
    pytest.mark.filterwarnings("ignore"),
]

BATCHES = (
    ("dimer", "molecule"),
    ("water_box",),
    ("triclinic", "slab"),
    ("carbon", "apart"),
    ("molecule", "water_box"),
)
LR, WEIGHT_DECAY, EMA_DECAY, MAX_NORM = 0.01, 0.05, 0.3, 1000.0
WEIGHTS, STAGE_TWO_WEIGHTS = (2.0, 10.0), (30.0, 5.0)  # of energy and forces


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True), mace_torch_talks_less():
        yield
    torch.set_default_dtype(before)


@dataclass
class Pair:
    """A model of mace-torch, its batches, and the same here before any training."""

    model: Any
    theirs: list[Any]
    ours: list[GraphBatch]
    network: Any
    parameters: Any
    folder: Path

    def table(self) -> dict[str, np.ndarray]:
        """Return the weights of mace-torch's model as ours."""
        import torch

        torch.save(self.model, self.folder / "now.model")
        return dict(convert_torch_model(self.folder / "now.model").parameters)


@pytest.fixture
def pair(torch_models, tmp_path) -> Pair:
    import torch
    from mace import data, tools
    from mace.tools import torch_geometric

    model = torch_models.build("plain_then_residual")
    torch.save(model, tmp_path / "start.model")
    bundle = convert_torch_model(tmp_path / "start.model")
    rng = np.random.default_rng(0)
    atoms = {each.info["name"]: each for each in torch_models.known_to(model)}
    for each in atoms.values():
        each.info["REF_energy"] = float(rng.normal() * len(each))
        each.arrays["REF_forces"] = rng.normal(size=(len(each), 3))
    keys = data.KeySpecification(
        info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"}
    )
    items = {
        name: data.AtomicData.from_config(
            data.config_from_atoms(each, key_specification=keys),
            z_table=tools.AtomicNumberTable(model.atomic_numbers.tolist()),
            cutoff=float(model.r_max),
            heads=model.heads,
        )
        for name, each in atoms.items()
    }
    theirs = [
        next(iter(torch_geometric.dataloader.DataLoader([items[n] for n in names], len(names))))
        for names in BATCHES
    ]
    network, parameters = split_trainable(load_model(bundle, "start"))
    return Pair(model, theirs, _our_batches(atoms, bundle), network, parameters, tmp_path)


def _our_batches(atoms: dict[str, Any], bundle: Any) -> list[GraphBatch]:
    builder = graph_builder(bundle)
    names = list(atoms)
    graphs = [
        builder.build(
            Structure(
                each.numbers.astype(np.int64),
                each.positions,
                np.array(each.cell),
                each.pbc,
                {
                    "energy": np.array(each.info["REF_energy"]),
                    "forces": each.arrays["REF_forces"],
                },
            )
        )
        for each in atoms.values()
    ]
    ids = [[names.index(name) for name in batch] for batch in BATCHES]
    sizes = GraphSizes.from_lists([graph.n_neighbors for graph in graphs])
    caps = padded_caps(sizes, Batches.from_lists(ids))
    return [pad_batch([graphs[i] for i in batch], caps, "float64") for batch in ids]


def arguments(*flags: str) -> Any:
    """Return mace_run_train's arguments, all but these by default."""
    from mace import tools

    common = f"--name test --lr {LR} --weight_decay {WEIGHT_DECAY}".split()
    return tools.build_default_arg_parser().parse_args([*common, *flags])


def torch_step(pair: Pair, index: int, optimizer: Any, loss: Any, ema: Any = None) -> None:
    """Take mace-torch's own step."""
    import torch
    from mace.tools.train import take_step

    take_step(
        model=pair.model,
        loss_fn=loss,
        batch=pair.theirs[index],
        optimizer=optimizer,
        ema=ema,
        output_args={"forces": True, "virials": False, "stress": False},
        max_grad_norm=MAX_NORM,
        device=torch.device("cpu"),
    )


def our_method(pair: Pair, steps_per_epoch: int, *, train: dict[str, Any], **optimizer: Any) -> Any:
    config = TrainConfig(
        DatasetsConfig("live"),
        loss=LossConfig("weighted", *WEIGHTS, 0.0),
        optimizer=OptimizerConfig(lr=LR, weight_decay=WEIGHT_DECAY, **optimizer),
        train=TrainSection(max_grad_norm=MAX_NORM, **train),
    )
    method = make_method(config, pair.network, steps_per_epoch)
    return method, method.initial_state(pair.parameters)


def assert_equal(pair: Pair, weights: Any) -> None:
    """Compare all weights to 1e-8, and see that each has moved."""
    ours, theirs, before = parameter_table(weights), pair.table(), parameter_table(pair.parameters)
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=0, atol=1e-8, err_msg=name)
        assert np.abs(array - before[name]).max() > 1e-4, name


@pytest.mark.parametrize(
    ("algorithm", "flags", "settings"),
    [
        ("adam", "--beta 0.8", {"b1": 0.8}),
        ("amsgrad", "", {}),
        ("adamw", "--optimizer adamw", {}),
        (
            "schedulefree",
            "--optimizer schedulefree --beta1_schedulefree 0.8 --beta2_schedulefree 0.9",
            {"schedule_free_b1": 0.8, "b2": 0.9},
        ),
    ],
)
def test_five_steps(pair, algorithm, flags, settings):
    """With weight decay, a moving average, and gradients of which some are clipped."""
    from mace.modules.loss import WeightedEnergyForcesLoss
    from mace.tools.scripts_utils import get_optimizer, get_params_options
    from torch_ema import ExponentialMovingAverage

    schedule_free = algorithm == "schedulefree"
    if schedule_free:
        pytest.importorskip("schedulefree")
    given = arguments(*flags.split())
    given.amsgrad = algorithm == "amsgrad"  # the flag can only say yes
    optimizer = get_optimizer(given, get_params_options(given, pair.model))
    ema = ExponentialMovingAverage(pair.model.parameters(), EMA_DECAY)
    if schedule_free:
        optimizer.train()
    train = {"ema_decay": EMA_DECAY}
    method, state = our_method(pair, 5, train=train, algorithm=algorithm, **settings)
    norms = []
    for index, batch in enumerate(pair.ours):
        torch_step(pair, index, optimizer, WeightedEnergyForcesLoss(*WEIGHTS), ema)
        state, report = method.train_step(state, batch)
        norms.append(float(report.gradient_norm))
    assert min(norms) < MAX_NORM < max(norms)
    assert_equal(pair, state.parameters)
    if schedule_free:
        optimizer.eval()
    else:
        ema.copy_to(pair.model.parameters())
    assert_equal(pair, method.evaluated(state))
    moved = [
        np.abs(one - other).max()
        for one, other in zip(
            parameter_table(state.parameters).values(),
            parameter_table(method.evaluated(state)).values(),
            strict=True,
        )
    ]
    assert min(moved) > 1e-5


LOSSES = (3.0, 2.0, 2.0, 2.0, 2.0, 1.0)
SCHEDULES = {
    "exponential_decay": (
        "--scheduler ExponentialLR --lr_scheduler_gamma 0.7",
        {"decay_rate": 0.7},
    ),
    "reduce_on_plateau": (
        "--scheduler ReduceLROnPlateau --lr_factor 0.5 --scheduler_patience 1",
        {"factor": 0.5, "patience": 1},
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stage_two", [False, True])
def test_epochs(pair, name, stage_two):
    """The order of things is that of mace-torch's ``train``; stage two begins after 4 epochs of 6.

    One step an epoch; ``LOSSES`` are what each evaluation is said to have found.
    """
    from mace.modules.loss import WeightedEnergyForcesLoss
    from mace.tools.scripts_utils import LRScheduler, get_optimizer, get_params_options, get_swa

    flags, settings = SCHEDULES[name]
    energy, forces = STAGE_TWO_WEIGHTS
    swa_flags = f"--start_swa 4 --swa_lr {LR / 7} --swa_energy_weight {energy}"
    swa_flags += f" --swa_forces_weight {forces} --loss weighted --max_num_epochs 6"
    given = arguments(*flags.split(), *swa_flags.split())
    optimizer = get_optimizer(given, get_params_options(given, pair.model))
    scheduler = LRScheduler(optimizer, given)
    loss = WeightedEnergyForcesLoss(*WEIGHTS)
    swa = get_swa(given, pair.model, optimizer, [])[0] if stage_two else None
    ours = SWAConfig(4, LR / 7, loss=LossConfig("weighted", energy, forces, 0.0))
    train = {"ema_decay": None, "swa_config": ours if stage_two else None}
    schedule = ScheduleConfig(name, **settings)
    method, state = our_method(pair, 1, train=train, scheduler=schedule)
    for epoch, evaluated in enumerate(LOSSES):
        if swa is None or epoch < swa.start:
            if epoch > 0:
                scheduler.step(metrics=LOSSES[epoch - 1])
        else:
            loss = swa.loss_fn
            swa.scheduler.step()
        rate = optimizer.param_groups[0]["lr"]
        torch_step(pair, epoch % 5, optimizer, loss)

        state = method.begin_epoch(state, epoch + 1)
        state, report = method.train_step(state, pair.ours[epoch % 5])
        state = method.after_evaluation(method.end_epoch(state, epoch + 1), evaluated)
        assert float(report.lr) == pytest.approx(rate, rel=1e-12)
    assert rate < 0.6 * LR
    assert_equal(pair, state.parameters)
