"""Errors that mace-jax makes in silence and that no other test here is about."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.model.predict import predict

E0 = {1: -13.6, 8: -2041.8}


def structures_of(path):
    with Dataset(Path(path)) as dataset:
        return list(dataset)


def energies_of_pairs(structures):
    """Return what the data were made with: the sum of exp(-r) over pairs."""
    found = []
    for structure in structures:
        vectors = structure.positions[:, None] - structure.positions
        lengths = np.linalg.norm(vectors, axis=-1)[np.triu_indices(len(structure), 1)]
        found.append(np.exp(-lengths).sum())
    return found


@pytest.mark.parametrize("source", ["dict", "statistics file"])
def test_defect_2_e0s_are_found_by_atomic_number_and_not_by_place(
    make_config, prepare, data, source
):
    """The elements are H and O: their places 0 and 1 are no atomic numbers."""
    datasets = {"E0s": str(dict(reversed(E0.items())))}
    run, files = prepare(make_config(datasets=datasets))
    if source == "statistics file":
        path = str(files.path(".statistics.json"))
        datasets = {"E0s": None, "statistics_file": path, "test_path": None}
        run, _ = prepare(make_config(datasets=datasets))
    expected = energies_of_pairs(structures_of(data["train_path"]))
    graphs = run.loaders["train"].graphs(range(len(expected)))
    assert [graph.interaction_energy for graph in graphs] == pytest.approx(expected, abs=1e-9)


def test_defect_3_the_scale_leaves_e0s_alone_and_is_saved(make_config, prepare, data, tmp_path):
    with jax.enable_x64(True):
        run, _ = prepare(make_config(flags={"dtype": "float64"}))
    path = tmp_path / "model.msgpack"
    write_model_bundle(path, run.bundle, make_provenance("mace-jax-train", []))
    bundle = read_model_bundle(path)
    assert bundle.scale["Default"] == run.bundle.scale["Default"] != 1
    structures = structures_of(data["train_path"])[:2]
    scales = {"unscaled": 1.0, "saved": bundle.scale["Default"]}
    with jax.enable_x64(True):
        energies = {
            name: predict(
                replace(bundle, scale={"Default": scale}), str(path), structures, n_edge=40
            ).quantities["energy"]
            for name, scale in scales.items()
        }
    e0s = np.array([sum(E0[int(z)] for z in s.atomic_numbers) for s in structures])
    unscaled = energies["unscaled"] - e0s
    assert np.abs(unscaled).min() > 1e-6
    np.testing.assert_allclose(energies["saved"] - e0s, scales["saved"] * unscaled, rtol=1e-6)


def test_defect_17_weights_and_head_of_a_structure_in_hdf5_count(
    make_config, prepare, tmp_path, data
):
    structures = structures_of(data["train_path"])
    weighted = [
        replace(
            s,
            weight=1.0 + i,
            property_weights={"forces": 0.5},
            config_type="odd" if i % 2 else "even",
            head="pbe",
        )
        for i, s in enumerate(structures)
    ]
    path = tmp_path / "weighted.h5"
    write_dataset_file(path, weighted, make_provenance("mace-jax-preprocess", []))
    datasets = {"train_path": str(path), "config_type_weights": {"odd": 3.0}}
    run, _ = prepare(make_config(datasets=datasets))
    loader = run.loaders["train"]
    for index, batch in loader.in_order():
        ids = loader.plan.batches[index]
        expected = [(1.0 + i) * (3 if i % 2 else 1) for i in ids]
        assert batch.energy_weight[: len(ids)].tolist() == expected
        assert batch.forces_weight[: len(ids)].tolist() == [weight / 2 for weight in expected]
    assert {graph.structure.head for graph in loader.graphs(range(12))} == {"pbe"}
