"""Write one small file of every kind at its current version into this folder.

Run it when a kind gets a new version. Files that exist are left alone: a stored archive stands for
the files that people have, so it never changes.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from mace_jax.artifacts.batch_plan import (
    BatchPlan,
    Caps,
    PlannedDataset,
    PlanReport,
    Waste,
    write_batch_plan,
)
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.checkpoint import Checkpoint, write_checkpoint
from mace_jax.artifacts.dataset import DatasetWriter, write_dataset_file
from mace_jax.artifacts.index import IndexRow, IndexWriter, index_row
from mace_jax.artifacts.metrics import MetricsLog, metrics_line
from mace_jax.artifacts.model_bundle import (
    EmbeddingSpec,
    ModelBundle,
    ModelConfig,
    write_model_bundle,
)
from mace_jax.artifacts.predictions import Predictions
from mace_jax.artifacts.predictions_writer import write_predictions
from mace_jax.artifacts.selection import Selection, write_selection
from mace_jax.artifacts.statistics import write_statistics
from mace_jax.artifacts.train_config import write_train_config
from mace_jax.artifacts.train_config_sections import (
    DatasetsConfig,
    FlagsConfig,
    HeadConfig,
    LogsConfig,
    LossConfig,
    ModelSection,
    OptimizerConfig,
    ScheduleConfig,
    SWAConfig,
    TensorboardConfig,
    TrainConfig,
    TrainSection,
    WandbConfig,
)
from mace_jax.artifacts.training_sums import write_training_sums
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.statistics import HeadStatistics, Statistics
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure
from mace_jax.structures.training_sums import TrainingSums
from mace_jax_export_lammps.lammps_model import LammpsModel, write_lammps_model
from mace_jax_schemas import current_version

HERE = Path(__file__).parent
DIGEST = "0123456789abcdef" * 4
BLOCKS = ("RealAgnosticResidualInteractionBlock", "RealAgnosticInteractionBlock")

PROVENANCE = {
    "tool": "mace-jax-shared",
    "tool_version": "0.1.0",
    "command": ["--seed", "3", "~/data/train set.xyz"],
    "seed": 3,
    "inputs": [
        {"role": "train", "name": "a.xyz", "kind": "extxyz", "version": None, "sha256": DIGEST},
        {
            "role": "model",
            "name": "m.msgpack",
            "kind": "model_bundle",
            "version": 1,
            "sha256": DIGEST,
        },
    ],
}


def _ramp(*shape: int) -> np.ndarray:
    return np.arange(1.0, np.prod(shape, dtype=int) + 1).reshape(shape) / 8


_SYMMETRIC = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]]) / 64

STRUCTURES = [
    Structure(
        np.array([8, 1, 1]),
        np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]),
        np.zeros((3, 3)),
        np.zeros(3, dtype=bool),
        {"energy": np.array(-14.25), "forces": _ramp(3, 3)},
        {"energy": 1.0, "forces": 0.5},
    ),
    Structure(
        np.array([6, 14]),
        np.array([[0.0, 0.0, 0.0], [1.125, 1.0, 1.25]]),
        np.array([[3.125, 0.0, 0.25], [0.5, 3.25, 0.0], [0.0, 0.5, 3.0]]),
        np.array([True, True, False]),
        {
            "energy": np.array(-9.5),
            "forces": _ramp(2, 3),
            "stress": _SYMMETRIC,
            "virials": -30 * _SYMMETRIC,
            "dipole": _ramp(3),
            "charges": _ramp(2),
            "polarizability": 2 * _SYMMETRIC,
        },
        dict.fromkeys(PROPERTY_SHAPES, 2.0),
        weight=1.5,
        config_type="slab",
        head="pbe",
    ),
]

# What the file of version 1 holds: nothing of heads, nor of the spread of the energies.
STATISTICS_1 = Statistics((1, 8), {1: -13.625, 8: -432.25}, 12.5, -3.75, 1.125, 5.0)
STATISTICS = replace(
    STATISTICS_1,
    energy_std=0.625,
    heads={
        "pbe": HeadStatistics({1: -13.625, 8: -432.25}, -3.5, 1.25, 0.5),
        "r2scan": HeadStatistics({1: -13.625, 8: -432.25}, -4.0, 1.0, None),
    },
)

SELECTION = Selection(
    dataset_name="replay.h5",
    dataset_sha256=DIGEST,
    method="farthest-point",
    number=3,
    filtering_type="combinations",
    elements=(1, 8),
    head="pt_head",
    counts={"read": 9, "isolated_atoms": 2, "candidates": 5},
    sources=("a.xyz", "more"),
    source=np.array([0, 0, 1]),
    frame=np.array([2, 5, 0]),
    digest=(DIGEST[:32], DIGEST[1:33], DIGEST[2:34]),
)

# Made up, not summed: how a factor is rounded depends on the machine.
SUMS = TrainingSums.from_json(
    {
        "r_max": 5.0,
        "isolated_atoms": {"pbe": {"1": -13.625}},
        "heads": {
            "pbe": {
                "n_structures": 4,
                "labels": {"energy": 3, "forces": 1},
                "n_edges": 12,
                "n_receivers": 6,
                "n_atoms": {"1": 4, "8": 2, "26": 1},
                "n_structures_with": {"1": 2, "8": 2, "26": 1},
                "n_force_components": 9,
                "force_squares": "57/4",
                "energy_per_atom": "-25/2",
                "shares": {
                    "1": "6004799503160661/4503599627370496",
                    "8": "6004799503160661/9007199254740992",
                    "26": "1",
                },
                "rows": {
                    "n_rows": 3,
                    "elements": [1, 8, 26],
                    "total": [[-2.75, -1.5, 0.0, 20.0], [0.0, 0.0, -1.0, 8.0]],
                    "per_atom": [[-1.75, -1.25, -0.5, -0.5, 8.0], [0.0, 0.5, 0.25, -0.75, 3.0]],
                },
            }
        },
    }
)
# Pairs of STRUCTURES, some of them across a cell; made up but possible.
PAIRS = [
    PairList(np.array([0, 0, 1], "i4"), np.array([1, 2, 2], "i4"), np.zeros((3, 3), "i4")),
    PairList(
        np.array([1, 0], "i4"), np.array([0, 0], "i4"), np.array([[0, 0, 0], [-1, 2, 0]], "i4")
    ),
]


def index_rows() -> list[IndexRow]:
    """Return the rows that describe STRUCTURES with PAIRS."""
    return [
        index_row(structure, np.bincount(np.concatenate(pairs[:2])), "set.xyz", frame)
        for frame, (structure, pairs) in enumerate(zip(STRUCTURES, PAIRS, strict=True))
    ]


_REPORT = PlanReport(
    4,
    4,
    1,
    0.25,
    0.5,
    0.5,
    40,
    {"id": 1, "n_node": 2, "n_edge": 40},
    (Waste(2, 0.25, 0.5, 0.125), Waste(2, 0.5, 0.25, 0.0)),
)

PLAN = BatchPlan(
    datasets=(PlannedDataset("train", DIGEST, 3), PlannedDataset("more", DIGEST[::-1], 2)),
    r_max=5.0,
    seed=3,
    processes=2,
    shapes=(Caps.enclosing(9, 70, 3), Caps.enclosing(7, 52, 2)),
    shape_counts=(2, 2),
    batches=Batches.from_lists([[2, 0], [1], [4], []]),
    skipped=(3,),
    report=_REPORT,
)

# What the file of version 2 holds.
PLAN_2 = BatchPlan(
    datasets=PLAN.datasets[:1],
    r_max=5.0,
    seed=3,
    processes=1,
    shapes=(Caps.enclosing(7, 52, 3),),
    shape_counts=(2,),
    batches=Batches.from_lists([[2, 0], [1]]),
    skipped=(),
    report=replace(
        _REPORT, n_graphs=3, n_batches=2, graph_waste=0.5, shapes=(Waste(2, 0.25, 0.5, 0.5),)
    ),
)

_OF_VERSION_3 = TrainConfig(
    DatasetsConfig(
        "train",
        "valid",
        None,
        "statistics.json",
        "train.plan.json",
        r_max=5.0,
        n_edge=500,
        atomic_numbers=(1, 8),
        E0s="{1: -13.625}",
        energy_key="dft_energy",
    ),
    FlagsConfig(3, "float64", "cpu", "cueq", False, False, debug=True),
    LogsConfig("run", "out", True),
    ModelSection(
        5.0,
        "ScaleShiftMACE",
        radial_MLP=(8, 8),
        gate="tanh",
        avg_num_neighbors=12.5,
        correlation=(3, 2),
        radial_type="gaussian",
        distance_transform="Agnesi",
        apply_cutoff=False,
        pair_repulsion=True,
        readout_cls="NonLinearBiasReadoutBlock",
        edge_irreps="4x0e + 4x1o",
        use_agnostic_product=True,
    ),
    LossConfig(energy_weight=1.0, forces_weight=10.0, stress_weight=0.5),
    OptimizerConfig("adam", 0.125, max_epochs=7),
    TrainSection(None, 2.5, 2, patience=20),
)
# What the file of version 4 holds.
TRAIN_CONFIG_4 = replace(
    _OF_VERSION_3,
    flags=replace(_OF_VERSION_3.flags, distributed=True, process_count=2, process_index=1),
    logs=replace(_OF_VERSION_3.logs, level="DEBUG"),
    datasets=replace(
        _OF_VERSION_3.datasets,
        virials_key="dft_virials",
        config_type_weights={"surface": 2.5},
        shuffle=False,
        num_workers=2,
    ),
    model=replace(_OF_VERSION_3.model, foundation_model="small", torch_head="Surface"),
    loss=LossConfig("huber", 1.0, 10.0, 0.5, huber_delta=0.125),
    optimizer=replace(
        _OF_VERSION_3.optimizer,
        accumulate=2,
        scheduler=ScheduleConfig(
            "piecewise_constant_schedule", boundaries_and_scales=((2.0, 0.5), (4.0, 0.25))
        ),
    ),
    train=replace(
        _OF_VERSION_3.train,
        log_errors="TotalMAE",
        swa_config=SWAConfig(
            5, 1e-3, loss=LossConfig("universal", 1000.0, 100.0, 10.0, huber_delta=0.125)
        ),
        checkpoint_every=3,
        resume_from="run.checkpoint",
    ),
    wandb_run=WandbConfig(True, "mace", tags=("a", "b"), mode="offline"),
)
TRAIN_CONFIG_5 = replace(
    TRAIN_CONFIG_4,
    datasets=replace(TRAIN_CONFIG_4.datasets, train_path=("train", "more.xyz")),
    tensorboard=TensorboardConfig(True, "events"),
)
TRAIN_CONFIG = replace(
    TRAIN_CONFIG_5,
    datasets=replace(
        TRAIN_CONFIG_5.datasets,
        train_path=None,
        valid_path=None,
        test_path=None,
        heads=(
            HeadConfig("pt_head", ("old", "more.h5"), E0s="foundation", readout="Surface"),
            HeadConfig(
                "new",
                "new.xyz",
                "new_valid.xyz",
                weight=2.5,
                forces_weight=0.5,
                energy_key="dft_energy",
                config_type_weights={"slab": 2.0},
            ),
        ),
    ),
    train=replace(TRAIN_CONFIG_5.train, best_head="new"),
)

# What the files of version 1 hold; read, they say what version 1 took for granted.
BUNDLE_1 = ModelBundle(
    config=ModelConfig(
        model="ScaleShiftMACE",
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=1,
        num_interactions=2,
        hidden_irreps="2x0e + 2x1o",
        MLP_irreps="2x0e",
        correlation=2,
        radial_MLP=(4, 4),
        gate="silu",
        interaction_cls=BLOCKS[0],
        interaction_cls_first=BLOCKS[1],
        avg_num_neighbors=12.5,
        atomic_numbers=(1, 8),
    ),
    dtype="float64",
    heads=("pbe", "r2scan"),
    atomic_energies={"pbe": {1: -13.625, 8: -432.25}, "r2scan": {1: -13.5, 8: -432.0}},
    scale={"pbe": 0.75, "r2scan": 0.5},
    shift={"pbe": 0.125, "r2scan": 0.0},
    parameters={
        "node_embedding/w": _ramp(2, 3),
        "radial/0/w": _ramp(2, 2).astype(np.float32),
        "index": np.array([1, 0], dtype=np.int32),
        "radial_embedding/bessel_fn/bessel_weights": np.pi / 5 * np.arange(1, 9),
    },
    license="MIT",
    model_card={"data": "made up"},
)
PREDICTIONS_1 = Predictions(
    np.array([3, 2]),
    {
        "energy": np.array([-14.25, -9.5]),
        "forces": _ramp(5, 3),
        "stress": np.stack([np.zeros((3, 3)), _SYMMETRIC]),
        "node_energy": _ramp(5),
    },
)

BUNDLE = replace(
    BUNDLE_1,
    config=replace(
        BUNDLE_1.config,
        correlation=(3, 2),
        radial_type="gaussian",
        distance_transform="Agnesi",
        apply_cutoff=False,
        pair_repulsion=True,
        readout_cls="NonLinearBiasReadoutBlock",
        edge_irreps="2x0e",
        use_edge_irreps_first=True,
        use_so3=True,
        use_reduced_cg=True,
        use_agnostic_product=True,
        use_last_readout_only=True,
        keep_last_layer_irreps=True,
        use_embedding_readout=True,
        embedding_specs=(
            EmbeddingSpec("total_spin", "categorical", "graph", 4, num_classes=3, offset=1),
            EmbeddingSpec("field", "continuous", "atom", 2, in_dim=3, use_bias=False, key="E"),
        ),
    ),
    parity={
        "reference": "mace-torch 0.3.16",
        "dtype": "float64",
        "tolerance": 1e-9,
        "errors": {"energy": 0.0, "forces": 2.5e-13},
        "structures": [
            {
                "name": "water",
                "head": "pbe",
                "atomic_numbers": [8, 1, 1],
                "positions": STRUCTURES[0].positions.tolist(),
                "cell": STRUCTURES[0].cell.tolist(),
                "pbc": [False, False, False],
                "inputs": {"total_spin": 1.0},
                "quantities": {"energy": -14.25, "forces": _ramp(3, 3).tolist()},
            }
        ],
    },
)

_ERRORS = {
    f"{relative}{norm}_{what}": 0.25
    for relative in ("", "rel_")
    for norm in ("mae", "rmse")
    for what in ("e", "e_per_atom", "f", "stress")
}
# What the file of version 1 holds.
METRICS_1 = [
    {
        "mode": mode,
        "head": "Default",
        "epoch": epoch,
        "interval": epoch,
        "loss": 1.5,
        "time": 0.5,
        "lr": 0.125,
        **({**_ERRORS, "mae_stress": None} if mode == "valid" else {}),
    }
    for epoch in (0, 1)
    for mode in ("train", "valid")
]
METRICS = [
    {
        **row,
        **(
            {"rmse_virials_per_atom": 0.25, "mae_mu": 0.25, "lr": None}
            if row["mode"] == "valid"
            else {"gradient_norm": 2.5, "edge_padding": 0.125}
        ),
        "n_updates": 7,
        "graphs_per_second": 62.5,
        "n_skipped": 1,
        "n_compilations": 2,
    }
    for row in METRICS_1
]

CHECKPOINT = Checkpoint(
    identity={
        "config": {"optimizer": {"lr": 0.125, "scheduler": {"name": "constant"}}},
        "network": {"dtype": "float32", "heads": ["Default"]},
        "data": {"train": {"datasets": [DIGEST], "plan": DIGEST[::-1]}},
    },
    plan_digest=DIGEST[::-1],
    epoch=2,
    batch=1,
    best_row=METRICS[1],
    waited=1,
    totals={
        "n_steps": 1,
        "gradient_norm": 2.5,
        "n_graph": 2,
        "pairs": 12,
        "pair_slots": 16,
        "seconds": 0.5,
    },
    lr=0.125,
    n_skipped=1,
    rows=[metrics_line(row) for row in METRICS],
    state={
        "parameters/w": _ramp(2, 3).astype(np.float32),
        "optimizer/count": np.array(3, np.int32),
        "key": np.array([1, 2], np.uint32),
        "finite": np.array(True),
    },
    best={"w": _ramp(2, 3)},
    errors=[np.array(float(place)) for place in range(11)],
)

PREDICTIONS = Predictions(
    PREDICTIONS_1.n_node,
    {
        **PREDICTIONS_1.quantities,
        "virials": np.stack([_SYMMETRIC, -30 * _SYMMETRIC]),
        "dipole": _ramp(2, 3),
        "atomic_dipoles": -_ramp(5, 3),
        "charges": _ramp(5) - 0.5,
        "polarizability": np.stack([2 * _SYMMETRIC, 3 * _SYMMETRIC]),
    },
)

# A network of many kinds of layers; ``network.npz`` is what it predicts of STRUCTURES.
NETWORK_HEADS = ("Default", "pbe")
NETWORK_CONFIG = ModelConfig(
    model="ScaleShiftMACE",
    r_max=3.0,
    num_bessel=3,
    num_polynomial_cutoff=5,
    max_ell=1,
    num_interactions=2,
    hidden_irreps="2x0e + 2x1o",
    MLP_irreps="2x0e",
    correlation=(1, 3),
    radial_MLP=(4,),
    gate="silu",
    interaction_cls="RealAgnosticResidualNonLinearInteractionBlock",
    interaction_cls_first="RealAgnosticDensityInteractionBlock",
    avg_num_neighbors=1.5,
    atomic_numbers=(1, 6, 8, 14),
    radial_type="gaussian",
    distance_transform="Agnesi",
    pair_repulsion=True,
    readout_cls="NonLinearBiasReadoutBlock",
    use_reduced_cg=True,
    embedding_specs=(
        EmbeddingSpec("total_charge", "categorical", "graph", 2, num_classes=5, offset=2),
    ),
)


def network_bundle() -> ModelBundle:
    """Return a bundle of ``NETWORK_CONFIG``; jax must have float64 enabled."""
    from mace_jax.model.load import build_model, model_parameters

    scale, shift = (0.75, 0.5), (0.125, 0.0)
    rng = np.random.default_rng(0)
    model = build_model(NETWORK_CONFIG, scale=scale, shift=shift, dtype="float64", rng=rng)
    energies = {1: -13.625, 6: -1029.5, 8: -2041.75, 14: -7881.25}
    return ModelBundle(
        config=NETWORK_CONFIG,
        dtype="float64",
        heads=NETWORK_HEADS,
        atomic_energies=dict.fromkeys(NETWORK_HEADS, energies),
        scale=dict(zip(NETWORK_HEADS, scale, strict=True)),
        shift=dict(zip(NETWORK_HEADS, shift, strict=True)),
        parameters=model_parameters(model),
    )


def _write_metrics(path: Path) -> None:
    with MetricsLog(path, PROVENANCE) as log:
        log.append(*METRICS)


def _write_predictions(path: Path) -> None:
    write_predictions(path, PREDICTIONS, STRUCTURES, "pbe", PROVENANCE)


def _write_network(path: Path) -> None:
    import jax

    with jax.enable_x64(True):
        write_model_bundle(path, network_bundle(), PROVENANCE)


SELF_TEST = {
    "atomic_numbers": [1, 8],
    "positions": [[0.0, 0.0, 0.0], [0.5, 0.25, 1.0]],
    "energy": -2.5,
    "forces": [[0.5, 0.25, 1.0], [-0.5, -0.25, -1.0]],
    "tolerance": 1e-9,
}


def lammps_model() -> LammpsModel:
    """Return a network without parameters; reading it does not build it."""
    bundle = replace(BUNDLE, heads=BUNDLE.heads[:1])
    return LammpsModel(bundle, {"total_charge": -1.0}, SELF_TEST, "model.msgpack")


def _write_lammps_model(path: Path) -> None:
    write_lammps_model(path, lammps_model(), PROVENANCE)


def _write_large_plan(path: Path) -> None:
    write_batch_plan(path, PLAN, PROVENANCE, most_in_json=0)


def _write_network_predictions(path: Path) -> None:
    import jax

    from mace_jax.model.predict import predict

    with jax.enable_x64(True):
        found = predict(network_bundle(), "network.msgpack", STRUCTURES, n_edge=100)
    write_predictions(path, found, STRUCTURES, "each structure's own", PROVENANCE)


def _write_flat(path: Path) -> None:
    with DatasetWriter(path, PROVENANCE, layout="flat", r_max=4.0) as writer:
        writer.write(STRUCTURES, PAIRS)


def _write_index(path: Path) -> None:
    with IndexWriter(path, PROVENANCE, r_max=4.0, dataset_name="train") as writer:
        writer.write(index_rows())
        writer.dataset_sha256 = DIGEST


# file name -> (kind, writer)
WRITERS = {
    "train.h5": ("dataset", lambda path: write_dataset_file(path, STRUCTURES, PROVENANCE)),
    "flat.h5": ("dataset", _write_flat),
    "train.parquet": ("index", _write_index),
    "statistics.json": ("statistics", lambda path: write_statistics(path, STATISTICS, PROVENANCE)),
    "train.sums.json": (
        "training_sums",
        lambda path: write_training_sums(path, SUMS, PROVENANCE),
    ),
    "replay.selection.json": (
        "selection",
        lambda path: write_selection(path, SELECTION, PROVENANCE),
    ),
    "train.plan.json": ("batch_plan", lambda path: write_batch_plan(path, PLAN, PROVENANCE)),
    "large.plan.json": ("batch_plan", _write_large_plan),
    "run.config.json": (
        "train_config",
        lambda path: write_train_config(path, TRAIN_CONFIG, PROVENANCE),
    ),
    "model.msgpack": ("model_bundle", lambda path: write_model_bundle(path, BUNDLE, PROVENANCE)),
    "network.msgpack": ("model_bundle", _write_network),
    "network.npz": ("predictions", _write_network_predictions),
    "model.pkl": ("lammps_model", _write_lammps_model),
    "run.metrics": ("metrics", _write_metrics),
    "run.checkpoint": (
        "checkpoint",
        lambda path: write_checkpoint(path, CHECKPOINT, PROVENANCE),
    ),
    "predictions.npz": ("predictions", _write_predictions),
    "predictions.extxyz": ("predictions", _write_predictions),
    "predictions.parquet": ("predictions", _write_predictions),
    "predictions.h5": ("predictions", _write_predictions),
}


def archive_path(root: Path, name: str) -> Path:
    """Return where the archive of a file at its current version stands."""
    kind = WRITERS[name][0]
    return root / kind / f"v{current_version(kind)}" / name


def write_archives(root: Path) -> None:
    """Write every archive that is not there yet."""
    for name, (_, write) in WRITERS.items():
        path = archive_path(root, name)
        if path.exists():
            print(f"{path}: kept", file=sys.stderr)
            continue
        write(path)
        print(path)


if __name__ == "__main__":
    write_archives(HERE)
