"""What matters of a file of each kind, in a few lines.

Each function reads the file with the reader that the tools use, so that damage is found out.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.checkpoint import read_checkpoint
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import ModelBundle, read_model_bundle, unpack_model_bundle
from mace_jax.artifacts.predictions import read_predictions
from mace_jax.artifacts.predictions_file import PredictionsFile
from mace_jax.artifacts.recipe import recipe_of
from mace_jax.artifacts.selection import read_selection
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.artifacts.train_config import read_train_config, term_weights
from mace_jax.artifacts.train_config_sections import TrainConfig
from mace_jax.artifacts.training_sums import read_training_sums
from mace_jax.artifacts.versioned import check_document
from mace_jax.elements import symbol
from mace_jax.errors import ArtifactError
from mace_jax.inspection.data_summaries import dataset_summary, extxyz_summary, index_summary
from mace_jax.inspection.tagged_file import TaggedFile, lammps_document

Summary = dict[str, Any]
_ERRORS = ("loss", "rmse_e_per_atom", "rmse_f", "rmse_stress", "mae_e_per_atom", "mae_f")


def summarize(file: TaggedFile, *, quick: bool) -> Summary:
    """Read a file and return what matters.

    Args:
        file: of any kind.
        quick: don't read all structures of a dataset or of extended XYZ.

    Raises:
        MaceJaxError: it is damaged, or of a version that is not read.
    """
    if file.kind == "dataset":
        return dataset_summary(file.path, quick=quick)
    if file.kind == "extxyz":
        return extxyz_summary(file.path, quick=quick)
    if file.container == "arrow":
        return {"holds": "the batches of the plan beside it"}
    if file.kind == "predictions":
        return _predictions(file)
    if file.kind not in _SUMMARIES:
        message = f"{file.path}: unknown kind {file.kind!r}; upgrade mace-jax-shared"
        raise ArtifactError(message)
    return _SUMMARIES[file.kind](file.path)


def _statistics(path: Path) -> Summary:
    found = read_statistics(path)
    return {
        "elements": [symbol(number) for number in found.atomic_numbers],
        "r_max, Å": found.r_max,
        "avg_num_neighbors": found.avg_num_neighbors,
        "mean, eV/atom": found.mean,
        "rms force, eV/Å": found.std,
        "E0s, eV": {symbol(number): energy for number, energy in found.atomic_energies.items()},
        "heads": list(found.heads),
    }


def _training_sums(path: Path) -> Summary:
    sums = read_training_sums(path)
    energies = {head: found.n_energies for head, found in sums.heads.items()}
    return {"r_max, Å": sums.r_max, "energies of each head": energies}


def _batch_plan(path: Path) -> Summary:
    plan = read_batch_plan(path)
    report = plan.report
    return {
        "of datasets": {part.name: part.n_structures for part in plan.datasets},
        "r_max, Å": plan.r_max,
        "graphs": report.n_graphs,
        "batches": f"{report.n_batches} (lower bound {report.n_batches_lower_bound})",
        "padded to": [
            f"{caps.n_edge} edges, {caps.n_node} nodes, {caps.n_graph} graphs: {count} batches"
            for caps, count in zip(plan.shapes, plan.shape_counts, strict=True)
        ],
        "empty slots": f"{report.edge_waste:.1%} of edges, {report.node_waste:.1%} of nodes",
        "processes": plan.processes,
        "skipped": len(plan.skipped),
    }


def _selection(path: Path) -> Summary:
    found = read_selection(path)
    return {
        "structures": len(found.frame),
        "in dataset": found.dataset_name,
        "dataset sha256": found.dataset_sha256,
        "chosen": f"{found.method} of {found.counts['candidates']} candidates",
        "elements": [found.filtering_type, *map(symbol, found.elements)],
        "head": found.head,
        "of": list(found.sources),
    }


def _train_config(path: Path) -> Summary:
    config = read_train_config(path)
    model = config.model
    return {
        "network": f"{model.model} {model.hidden_irreps}, {model.num_interactions} layers",
        "r_max, Å": model.r_max,
        **_method(config),
    }


def _method(config: TrainConfig) -> Summary:
    return {
        "loss": {"name": config.loss.loss_cls, **term_weights(config.loss)},
        "optimizer": f"{config.optimizer.algorithm}, lr {config.optimizer.lr:g}",
        "epochs": config.optimizer.max_epochs,
        "dtype": config.flags.dtype,
        "seed": config.flags.seed,
    }


def _network(bundle: ModelBundle) -> Summary:
    config = bundle.config
    return {
        "network": f"{config.model} {config.hidden_irreps}, {config.num_interactions} layers, "
        f"l up to {config.max_ell}, correlation {config.correlation}",
        "r_max, Å": config.r_max,
        "elements": [symbol(number) for number in config.atomic_numbers],
        "heads": list(bundle.heads),
        "dtype": bundle.dtype,
        "weights": sum(array.size for array in bundle.parameters.values()),
        "licence": bundle.license,
    }


def _model_bundle(path: Path) -> Summary:
    bundle = read_model_bundle(path)
    summary = _network(bundle)
    row = bundle.model_card.get("metrics")
    if isinstance(row, Mapping):
        summary["reached"] = _errors_of(row)
    recipe = recipe_of(bundle, path)
    if recipe:
        summary["trained with"] = _method(recipe.config)
        summary["structures"] = dict(recipe.n_structures)
        summary["E0s from"] = recipe.atomic_energies
        summary["devices"] = recipe.n_devices
        summary["computed with"] = dict(recipe.computed_with)
        summary["recipe's files"] = {
            option: [f"{file.path} {file.sha256[:12]}…" for file in files]
            for option, files in recipe.files.items()
        }
    if bundle.parity:
        parity = bundle.parity
        summary["compared with"] = {"reference": parity["reference"], **parity["errors"]}
    return summary


def _errors_of(row: Mapping[str, Any]) -> Summary:
    return {name: row[name] for name in ("epoch", *_ERRORS) if row.get(name) is not None}


def _metrics(path: Path) -> Summary:
    header, rows = read_metrics(path)
    valid = [row for row in rows if row["mode"] == "valid" and row.get("loss") is not None]
    summary: Summary = {
        "status": header["status"],
        "epochs": max((row["epoch"] for row in rows), default=0),
        "rows": dict(Counter(row["mode"] for row in rows)),
    }
    if valid:
        summary["lowest validation loss"] = _errors_of(min(valid, key=lambda row: row["loss"]))
    return summary


def _checkpoint(path: Path) -> Summary:
    found = read_checkpoint(path)
    return {
        "epoch under way": found.epoch,
        "batches done of it": found.batch,
        "lr": found.lr,
        "rows of metrics": len(found.rows),
        "best": _errors_of(found.best_row) if found.best_row else None,
        "evaluations since": found.waited,
        "skipped steps": found.n_skipped,
        "values": sum(array.size for array in found.state.values()),
    }


def _predictions(file: TaggedFile) -> Summary:
    if file.container == "npz":
        metadata, found = read_predictions(file.path)
        atoms: Summary = {"atoms": int(found.n_node.sum())}
    elif file.container == "hdf5":
        with PredictionsFile(file.path) as predictions:
            metadata, atoms = predictions.metadata, {}
    else:
        metadata, atoms = check_document(file.document, "predictions", file.path), {}
    return {
        "structures": metadata["n_graph"],
        **atoms,
        "quantities": metadata["quantities"],
        "head": metadata["head"],
    }


def _lammps_model(path: Path) -> Summary:
    document = lammps_document(path)
    header = check_document(document["header"], "lammps_model", path, place="header")
    network = _network(unpack_model_bundle(document["bundle"], path))
    return {
        **network,
        "heads": [header["head"]],
        "elements": header["elements"],
        "needs": header["requires"],
        "inputs": header["inputs"],
        "self-test": header["self_test"] is not None,
        "source": header["source"],
    }


_SUMMARIES: Mapping[str, Callable[[Path], Summary]] = {
    "index": index_summary,
    "statistics": _statistics,
    "training_sums": _training_sums,
    "batch_plan": _batch_plan,
    "selection": _selection,
    "train_config": _train_config,
    "model_bundle": _model_bundle,
    "metrics": _metrics,
    "checkpoint": _checkpoint,
    "lammps_model": _lammps_model,
}
