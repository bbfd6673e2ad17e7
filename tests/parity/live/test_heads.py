"""Steps of several heads beside mace-torch: same weights, batches, loss and settings, float64."""

import lzma
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.train_config_sections import (
    DatasetsConfig,
    HeadConfig,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
    TrainSection,
)
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.graph_sizes import GraphSizes
from mace_jax.batching.shape_classes import padded_caps
from mace_jax.model.load import graph_builder, load_model, parameter_table, split_trainable
from mace_jax.structures.structure import Structure
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax.torch_models.select_head import select_head, select_heads
from mace_jax_convert.to_torch import mace_torch_talks_less
from mace_jax_train.head_losses import head_factors
from mace_jax_train.method import make_method

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("MACE_JAX_LIVE_TORCH"), reason="needs mace-torch; run `nox -s torch`"
    ),
    pytest.mark.filterwarnings("ignore"),
]

SHARED = Path(__file__).parents[4] / "shared" / "parity" / "open" / "checkpoints"
MODELS = ["two_heads", *(["o04_density_heads2"] if SHARED.exists() else [])]
# names of structures, of each batch; a head after the other has them
BATCHES = (("molecule", "water_box", "dimer"), ("slab", "triclinic"), ("water_box", "triclinic"))
LR, EMA_DECAY, MAX_NORM, WEIGHTS = 1e-4, 0.99999, 10.0, (1.0, 3.0)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True), mace_torch_talks_less():
        yield
    torch.set_default_dtype(before)


@pytest.fixture
def model(torch_models, tmp_path, request) -> Any:
    """A model of two heads of mace-torch."""
    import torch

    if request.param == "two_heads":
        return torch_models.build("two_heads")
    path = tmp_path / "start.model"
    path.write_bytes(lzma.decompress((SHARED / f"{request.param}.model.xz").read_bytes()))
    return torch.load(path, weights_only=False)


def converted(model: Any, folder: Path) -> ModelBundle:
    import torch

    torch.save(model, folder / "now.model")
    return convert_torch_model(folder / "now.model")


def labelled(torch_models: Any, model: Any) -> dict[str, Any]:
    """Structures with random energies, forces and stresses, by name."""
    rng = np.random.default_rng(0)
    atoms = {each.info["name"]: each for each in torch_models.known_to(model)}
    for each in atoms.values():
        each.info["REF_energy"] = float(rng.normal() * len(each))
        each.arrays["REF_forces"] = rng.normal(size=(len(each), 3))
        stress = 0.1 * rng.normal(size=(3, 3))
        if each.pbc.any():
            each.info["REF_stress"] = stress + stress.T
    return atoms


def head_of(number: int, heads: list[str]) -> str:
    return heads[number % len(heads)]


def their_batches(atoms: dict[str, Any], model: Any, weights: tuple[float, ...]) -> list[Any]:
    from mace import data, tools
    from mace.tools import torch_geometric

    keys = data.KeySpecification(
        info_keys={"energy": "REF_energy", "stress": "REF_stress"},
        arrays_keys={"forces": "REF_forces"},
    )

    def item(name: str, number: int) -> Any:
        each = atoms[name].copy()
        each.info["config_weight"] = weights[number % len(weights)]
        return data.AtomicData.from_config(
            data.config_from_atoms(
                each, key_specification=keys, head_name=head_of(number, model.heads)
            ),
            z_table=tools.AtomicNumberTable(model.atomic_numbers.tolist()),
            cutoff=float(model.r_max),
            heads=model.heads,
        )

    batches = [[item(name, number) for number, name in enumerate(names)] for names in BATCHES]
    return [
        next(iter(torch_geometric.dataloader.DataLoader(items, len(items)))) for items in batches
    ]


def our_batches(atoms: dict[str, Any], bundle: ModelBundle) -> list[GraphBatch]:
    builder = graph_builder(bundle)
    batches = []
    for names in BATCHES:
        for number, name in enumerate(names):
            each = atoms[name]
            labels = {
                "energy": np.array(each.info["REF_energy"]),
                "forces": each.arrays["REF_forces"],
            }
            if "REF_stress" in each.info:
                labels["stress"] = each.info["REF_stress"]
            structure = Structure(
                each.numbers.astype(np.int64), each.positions, np.array(each.cell), each.pbc, labels
            )
            head = head_of(number, list(bundle.heads))
            batches.append(builder.build(replace(structure, head=head)))
    ends = np.cumsum([len(names) for names in BATCHES])
    ids = [list(range(end - len(names), end)) for end, names in zip(ends, BATCHES, strict=True)]
    sizes = GraphSizes.from_lists([graph.n_neighbors for graph in batches])
    caps = padded_caps(sizes, Batches.from_lists(ids))
    return [pad_batch([batches[i] for i in batch], caps, "float64") for batch in ids]


def atoms_are_crystals(step: int, atoms: dict[str, Any]) -> bool:
    """Return whether all of a batch are periodic; mace-torch has another volume for the others."""
    return all(atoms[name].pbc.all() for name in BATCHES[step])


CASES = {
    "weighted": (LossConfig("weighted", 2.0, 10.0, 0.0), WEIGHTS),
    # mace_run_train's own with several heads, where weights of structures do not count
    "universal": (LossConfig("universal", 1.0, 100.0, 1.0, huber_delta=0.01), (1.0, 1.0)),
}


@pytest.mark.parametrize("loss", CASES)
@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_steps(torch_models, model, tmp_path, loss):
    """With weight decay, a moving average, and gradients that are clipped."""
    import torch
    from mace import tools
    from mace.modules.loss import UniversalLoss, WeightedEnergyForcesLoss
    from mace.tools.scripts_utils import get_optimizer, get_params_options
    from mace.tools.train import take_step
    from torch_ema import ExponentialMovingAverage

    config, weights = CASES[loss]
    universal = loss == "universal"
    bundle, atoms = converted(model, tmp_path), labelled(torch_models, model)
    flags = ["--name", "test", "--lr", str(LR), "--weight_decay", "5e-7"]
    given = tools.build_default_arg_parser().parse_args(flags)
    optimizer = get_optimizer(given, get_params_options(given, model))
    ema = ExponentialMovingAverage(model.parameters(), EMA_DECAY)
    theirs = UniversalLoss(1.0, 100.0, 1.0) if universal else WeightedEnergyForcesLoss(2.0, 10.0)
    network, parameters = split_trainable(load_model(bundle, "start"))
    heads = [HeadConfig(name, weight=w) for name, w in zip(bundle.heads, weights, strict=True)]
    ours = TrainConfig(
        DatasetsConfig("live"),
        loss=config,
        optimizer=OptimizerConfig(lr=LR, weight_decay=5e-7),
        train=TrainSection(max_grad_norm=MAX_NORM, ema_decay=EMA_DECAY),
    )
    method = make_method(ours, network, 3, heads=head_factors(heads))
    state, found = method.initial_state(parameters), []
    batches = zip(their_batches(atoms, model, weights), our_batches(atoms, bundle), strict=True)
    for step, (batch, own) in enumerate(batches):
        if universal and not atoms_are_crystals(step, atoms):
            continue
        _, values = take_step(
            model=model,
            loss_fn=theirs,
            batch=batch,
            optimizer=optimizer,
            ema=ema,
            output_args={"forces": True, "virials": False, "stress": universal},
            max_grad_norm=MAX_NORM,
            device=torch.device("cpu"),
        )
        state, report = method.train_step(state, own)
        losses = float(report.errors.loss / report.errors.n_graph), float(values["loss"])
        assert losses[0] == pytest.approx(losses[1], rel=1e-10)
        found.append([float(head.n_graph) for head in report.errors.heads])
    assert len(found) == (1 if universal else 3)
    assert all(all(counts) for counts in found)  # every batch is of both heads
    table, before = parameter_table(state.parameters), parameter_table(parameters)
    expected = converted(model, tmp_path).parameters
    for name, array in table.items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-8, err_msg=name)
        assert np.abs(array - before[name]).max() > 1e-6, name


@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_new_heads_begin_as_in_mace_torch(torch_models, model, tmp_path):
    """One head's readout in two new ones, of ``load_foundations_elements``."""
    from mace.tools import AtomicNumberTable
    from mace.tools.finetuning_utils import load_foundations_elements
    from mace.tools.scripts_utils import extract_config_mace_model, remove_pt_head

    old = model.heads[1]
    ours = select_heads(converted(model, tmp_path), {"pt_head": old, "new": old})
    one = remove_pt_head(model, old)
    config = extract_config_mace_model(one)
    config["heads"] = ["pt_head", "new"]
    energies = np.array(config["atomic_energies"]).reshape(1, -1)
    config |= {
        "atomic_energies": np.repeat(energies, 2, axis=0),
        "atomic_inter_scale": [1.0, 1.0],
        "atomic_inter_shift": [0.0, 0.0],
    }
    theirs = type(model)(**config)
    max_l = max(irrep.l for _, irrep in model.products[0].linear.irreps_out)
    table = AtomicNumberTable(model.atomic_numbers.tolist())
    load_foundations_elements(theirs, one, table, load_readout=True, max_L=max_l)
    found = converted(theirs, tmp_path)
    assert (found.scale, found.shift) == (ours.scale, ours.shift)
    for head in ("pt_head", "new"):
        expected = select_head(found, head).parameters
        for name, array in select_head(ours, head).parameters.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-13, err_msg=name)
