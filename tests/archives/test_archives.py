"""Files that earlier code wrote are read by today's, and today's are like the stored ones."""

import dataclasses
import importlib.util
import json
import pickle
import pickletools
from pathlib import Path

import h5py
import jax
import msgpack
import numpy as np
import pyarrow.parquet as pq
import pytest

from mace_jax.artifacts.batch_plan import read_batch_plan
from mace_jax.artifacts.checkpoint import read_checkpoint
from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.index import read_index
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.predictions import read_predictions
from mace_jax.artifacts.predictions_file import PredictionsFile
from mace_jax.artifacts.selection import read_selection
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.artifacts.train_config import read_train_config
from mace_jax.artifacts.training_sums import read_training_sums
from mace_jax.artifacts.versioned import MADE_BY
from mace_jax.errors import ArtifactError
from mace_jax.model.predict import predict
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import PROPERTY_SHAPES
from mace_jax_export_lammps.lammps_model import unpack_lammps_model
from mace_jax_schemas import current_version

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("make_archives", HERE / "make_archives.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

# network.npz takes time, and is like predictions.npz; Arrow may write the same in other bytes.
FILES = sorted(made.WRITERS.keys() - {"network.npz", "large.plan.json"})
STORED = sorted(path for path in HERE.glob("*/v*/*") if not path.name.startswith("."))


def stored(pattern):
    found = [path for path in STORED if path.match(pattern)]
    assert found, f"no archive {pattern}"
    return found


def label(value):
    return str(value.relative_to(HERE)) if isinstance(value, Path) else ""


def assert_same(found, expected):
    """Compare dataclasses, mappings and arrays, deeply and exactly."""
    if dataclasses.is_dataclass(expected):
        assert_same(vars(found), vars(expected))
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    else:
        assert found == expected


# --- every stored archive is read


def read_dataset(path):
    with Dataset(path) as dataset:
        return list(dataset)


@pytest.mark.parametrize("path", stored("dataset/*/*.h5"), ids=label)
def test_dataset(path):
    found = read_dataset(path)
    assert len(found) == len(made.STRUCTURES)
    for structure, stored_one in zip(found, made.STRUCTURES, strict=True):
        weights = {name: stored_one.property_weights[name] for name in stored_one.properties}
        expected = dataclasses.replace(stored_one, property_weights=weights, place=structure.place)
        assert_same(structure, expected)


@pytest.mark.parametrize("path", stored("dataset/*/flat.h5"), ids=label)
def test_pairs_of_a_dataset(path):
    with Dataset(path) as dataset:
        assert dataset.r_max == 4.0
        for found, expected in zip(dataset.read_pairs([0, 1]), made.PAIRS, strict=True):
            assert_same(found._asdict(), expected._asdict())


@pytest.mark.parametrize("path", stored("index/*/*.parquet"), ids=label)
def test_index(path):
    index = read_index(path)
    found = (index.dataset_name, index.dataset_sha256, index.r_max, index.n_structures)
    assert found == ("train", made.DIGEST, 4.0, 2)
    for row, expected in zip(index.table.to_pylist(), made.index_rows(), strict=True):
        assert row == {**expected._asdict(), "n_neighbors": expected.n_neighbors.tolist()}


@pytest.mark.parametrize(
    ("path", "read", "expected"),
    [
        *((path, read_statistics, made.STATISTICS_1) for path in stored("statistics/v1/*.json")),
        *((path, read_statistics, made.STATISTICS) for path in stored("statistics/v2/*.json")),
        *((path, read_selection, made.SELECTION) for path in stored("selection/v1/*.json")),
        *((path, read_batch_plan, made.PLAN) for path in stored("batch_plan/v3/*.json")),
        *((path, read_batch_plan, made.PLAN_2) for path in stored("batch_plan/v2/*.json")),
        *(
            (path, read_train_config, made.TRAIN_CONFIG)
            for path in stored("train_config/v6/*.json")
        ),
        *(
            (path, read_train_config, made.TRAIN_CONFIG_5)
            for path in stored("train_config/v5/*.json")
        ),
        *((path, read_model_bundle, made.BUNDLE) for path in stored("model_bundle/v2/model.*")),
        *((path, read_model_bundle, made.BUNDLE_1) for path in stored("model_bundle/v1/model.*")),
        *((path, read_checkpoint, made.CHECKPOINT) for path in stored("checkpoint/v1/*")),
    ],
    ids=label,
)
def test_single_files(path, read, expected):
    assert_same(read(path), expected)


@pytest.mark.parametrize("path", stored("training_sums/*/*.json"), ids=label)
def test_training_sums(path):
    assert_same(read_training_sums(path).to_json(), made.SUMS.to_json())


@pytest.mark.parametrize(
    ("path", "read"),
    [
        *((path, read_train_config) for path in stored("train_config/v[1234]/*.json")),
        *((path, read_batch_plan) for path in stored("batch_plan/v1/*.json")),
    ],
    ids=label,
)
def test_files_two_versions_old_are_refused(path, read):
    with pytest.raises(ArtifactError, match=r"version [1-4], expected [36]; create it"):
        read(path)


@pytest.mark.parametrize("path", stored("metrics/*/*.metrics"), ids=label)
def test_metrics(path):
    header, rows = read_metrics(path)
    assert (header["status"], header["provenance"]) == ("finished", made.PROVENANCE)
    assert rows == (made.METRICS_1 if path.parent.name == "v1" else made.METRICS)


@pytest.mark.parametrize("path", stored("predictions/v[23]/predictions.npz"), ids=label)
def test_predictions_npz(path):
    metadata, found = read_predictions(path)
    assert metadata["provenance"] == made.PROVENANCE
    assert (metadata["labels"], metadata["n_skipped"]) == ([], 0)
    assert_same(found, made.PREDICTIONS)


def test_predictions_two_versions_old_are_refused():
    with pytest.raises(ArtifactError, match=r"predictions version 1, expected 3; create it"):
        read_predictions(HERE / "predictions" / "v1" / "predictions.npz")


@pytest.mark.parametrize("path", stored("predictions/*/*.h5"), ids=label)
def test_predictions_hdf5(path):
    with PredictionsFile(path) as file:
        (block,) = file.blocks()
    assert file.metadata["provenance"] == made.PROVENANCE
    assert_same(dict(block.predictions), dict(made.PREDICTIONS.quantities))
    assert block.labels["stress"].present.tolist() == [False, True]
    expected = made.STRUCTURES[1].properties["stress"]
    np.testing.assert_array_equal(block.labels["stress"].values, expected[None])
    assert (block.config_types, block.heads) == (["Default", "slab"], ["pbe", "pbe"])


@pytest.mark.parametrize("path", stored("predictions/*/*.extxyz"), ids=label)
def test_predictions_extxyz(path):
    """Quantities that are labels, too, can be read back; stress and virials of a cell only."""
    prefix = "MACE_" if path.parent.name == "v3" else ""
    keys = LabelKeys({name: prefix + name for name in PROPERTY_SHAPES})
    expected_of = made.PREDICTIONS_1 if path.parent.name == "v1" else made.PREDICTIONS
    for index, structure in enumerate(read_structures(path, keys)[0]):
        expected = expected_of.of_structure(index)
        without = {"node_energy", "atomic_dipoles"}
        if not structure.pbc.any():
            without |= {"stress", "virials"}
        assert structure.properties.keys() == expected.keys() - without
        for name, value in structure.properties.items():
            np.testing.assert_allclose(value, expected[name], atol=1e-8, err_msg=name)


@pytest.mark.parametrize("path", stored("predictions/*/*.parquet"), ids=label)
def test_predictions_parquet(path):
    table = pq.read_table(path)
    expected = made.PREDICTIONS_1 if path.parent.name == "v1" else made.PREDICTIONS
    assert {"n_node", *expected.quantities} <= set(table.column_names)
    for name, array in expected.quantities.items():
        rows = [np.ravel(row) for row in table[name].to_pylist()]
        np.testing.assert_array_equal(np.concatenate(rows), array.ravel())


def document_in_pickle(path):
    """Return the one argument of the one call."""
    values = [value for _, value, _ in pickletools.genops(path.read_bytes())]
    (document,) = (value for value in values if isinstance(value, bytes))
    return document


@pytest.mark.parametrize("path", stored("lammps_model/*/*.pkl"), ids=label)
def test_lammps_model(path):
    assert_same(unpack_lammps_model(document_in_pickle(path)), made.lammps_model())
    with path.open("rb") as file:
        potential = pickle.load(file)  # as LAMMPS does
    assert potential.element_types == made.lammps_model().elements


@pytest.mark.parametrize("path", stored("model_bundle/*/network.msgpack"), ids=label)
def test_a_stored_network_predicts_what_it_did(path):
    """Float64 sums of another order differ by some 1e-15 of the total energy."""
    version = path.parent.name
    with np.load(HERE / "predictions" / version / "network.npz") as file:  # of any version
        expected = {name: file[name] for name in file.files if name not in ("n_node", "metadata")}
    with jax.enable_x64(True):
        found = predict(read_model_bundle(path), str(path), made.STRUCTURES, n_edge=100)
    assert expected.keys() <= found.quantities.keys()
    for name, array in expected.items():
        atol = 1e-11 * np.abs(array).max()
        np.testing.assert_allclose(found.quantities[name], array, rtol=0, atol=atol, err_msg=name)


def test_every_kind_has_an_archive_of_every_version_that_is_read():
    for kind in MADE_BY:
        for version in range(1, current_version(kind) + 1):
            assert list((HERE / kind / f"v{version}").glob("*")), "run make_archives.py"


@pytest.mark.parametrize("path", STORED, ids=label)
def test_archives_are_small_and_reproducible(path):
    assert path.stat().st_size < 50_000
    assert b"created_utc" not in path.read_bytes()


# --- what is written today has the form of the stored archive


def json_form(value):
    """Names and types, at every depth; numbers and texts are not compared."""
    if isinstance(value, dict):
        return {name: json_form(item) for name, item in value.items()}
    if isinstance(value, list):
        return [json_form(item) for item in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def json_content(path):
    lines = path.read_text().splitlines() if path.suffix == ".metrics" else [path.read_text()]
    documents = [json.loads(line) for line in lines]
    for document in documents:
        if "provenance" in document:
            document["provenance"] = json_form(document["provenance"])
    return documents


def hdf5_form(path):
    form = {}

    def visit(name, item):
        kind = (str(item.dtype), item.shape) if isinstance(item, h5py.Dataset) else "group"
        form[name] = (kind, sorted(item.attrs))

    with h5py.File(path) as file:
        form["/"] = {name: (str(np.asarray(v).dtype)) for name, v in file.attrs.items()}
        form["schema"] = json.loads(file.attrs["schema"])
        form["provenance"] = json_form(json.loads(file.attrs["provenance"]))
        file.visititems(visit)
    return form


def pickle_form(path):
    document = msgpack.unpackb(document_in_pickle(path))
    header = document["header"]
    return {
        "operations": [code.name for code, _, _ in pickletools.genops(path.read_bytes())],
        "order": list(document),
        "header": {**json_form(header), "schema": header["schema"]},
        "bundle": msgpack_content_form(document["bundle"]),
    }


def msgpack_form(path):
    return msgpack_content_form(path.read_bytes())


def msgpack_content_form(content):
    document = msgpack.unpackb(content)
    header = document["header"]
    return {
        "order": list(document),
        "header": {**json_form(header), "schema": header["schema"], "units": header.get("units")},
        "arrays": document["arrays"],
    }


def npz_form(path):
    with np.load(path, allow_pickle=False) as file:
        metadata = json.loads(str(file["metadata"]))
        arrays = {name: file[name] for name in file.files if name != "metadata"}
    form = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
    return {**form, "schema": metadata["schema"], "metadata": json_form(metadata)}


def parquet_form(path):
    metadata = json.loads(pq.read_metadata(path).metadata[b"mace_jax"])
    columns = {field.name: str(field.type) for field in pq.read_schema(path)}
    return {**columns, "schema": metadata["schema"], "metadata": json_form(metadata)}


def extxyz_form(path):
    import ase.io

    return [(sorted(atoms.info), sorted(atoms.arrays)) for atoms in ase.io.read(path, ":")]


FORMS = {
    ".json": json_content,
    ".metrics": json_content,
    ".h5": hdf5_form,
    ".msgpack": msgpack_form,
    ".checkpoint": msgpack_form,
    ".pkl": pickle_form,
    ".npz": npz_form,
    ".parquet": parquet_form,
    ".extxyz": extxyz_form,
}


@pytest.mark.parametrize("name", FILES)
def test_a_format_does_not_change_without_a_new_version(tmp_path, name):
    kind, write = made.WRITERS[name]
    write(tmp_path / name)
    form = FORMS[Path(name).suffix]
    archive = made.archive_path(HERE, name)
    assert form(tmp_path / name) == form(archive), (
        f"{kind} is written differently than at v{current_version(kind)}: raise its version, "
        "add the migration, and run make_archives.py"
    )


@pytest.mark.parametrize("name", FILES)
def test_the_forms_see_a_change(tmp_path, name):
    """The comparison above must not be blind: a file of other content has another form."""
    archive = made.archive_path(HERE, name)
    suffix = Path(name).suffix
    changed = tmp_path / name
    changed.write_bytes(archive.read_bytes())
    if suffix == ".h5":
        with h5py.File(changed, "a") as file:
            file["extra"] = 1.0
    elif suffix == ".npz":
        with np.load(archive) as file:
            np.savez(changed, **{**file, "energy": file["energy"].astype("f4")})
    elif suffix == ".parquet":
        table = pq.read_table(archive)
        table = table.set_column(0, "energy", table["energy"].cast("float"))
        metadata = {"mace_jax": pq.read_metadata(archive).metadata[b"mace_jax"]}
        pq.write_table(table.replace_schema_metadata(metadata), changed)
    elif suffix in (".msgpack", ".checkpoint"):
        document = msgpack.unpackb(archive.read_bytes())
        document["header"]["extra"] = 1
        changed.write_bytes(msgpack.packb(document))
    elif suffix == ".pkl":
        changed.write_bytes(archive.read_bytes().replace(b"self_test", b"self-test"))
    elif suffix == ".extxyz":
        changed.write_text(archive.read_text().replace("node_energy", "atom_energy"))
    else:
        changed.write_text(archive.read_text().replace('"seed"', '"sede"'))
    assert FORMS[suffix](changed) != FORMS[suffix](archive)
