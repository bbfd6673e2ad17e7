import json
import pickle
import tempfile
import zipfile
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from extxyz import cextxyz
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.predictions import (
    SHAPES,
    Predictions,
    read_predictions,
    require_predictions_suffix,
)
from mace_jax.artifacts.predictions_file import PredictionsFile
from mace_jax.artifacts.predictions_writer import write_predictions
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.structures.label_keys import LabelKeys
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure

# How our reader finds predictions among the labels.
PREDICTED = LabelKeys({name: f"MACE_{name}" for name in PROPERTY_SHAPES})
COLUMNS = ("source", "frame", "head", "config_type", "n_node", "atomic_numbers")
STRESS = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]) / 7


def labels_of(structures):
    known = {name for structure in structures for name in structure.properties}
    return [f"REF_{name}" for name in PROPERTY_SHAPES if name in known]


@pytest.fixture
def structures(water, crystal):
    return [water, crystal]


def hydrogens(n):
    return Structure(
        np.ones(n, np.int64), np.zeros((n, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool)
    )


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    return Predictions(
        np.array([3, 2]),
        {
            "energy": np.array([-14.123456789012345, -9.5]),
            "forces": rng.normal(size=(5, 3)),
            "stress": np.stack([np.zeros((3, 3)), STRESS]),
            "node_energy": rng.normal(size=5),
        },
    )


def row_size(size):
    return 5 if size == "k" else size


def anything(n_node, names, seed=0) -> Predictions:
    """Random numbers for the named quantities; tensors are symmetric."""
    rng = np.random.default_rng(seed)
    quantities = {}
    for name in names:
        length = sum(n_node) if "n" in SHAPES[name] else len(n_node)
        array = rng.normal(size=(length, *(row_size(size) for size in SHAPES[name] if size != "n")))
        quantities[name] = array + array.swapaxes(1, 2) if SHAPES[name] == (3, 3) else array
    return Predictions(np.array(n_node), quantities)


@pytest.fixture
def rich_provenance(provenance):
    digest = "0123456789abcdef" * 4
    entry = {"role": "model", "name": "m.msgpack", "kind": "model_bundle", "version": 1}
    command = ["--model", "it's.msgpack", "--out", "ö [1, 2].npz"]
    return {**provenance, "command": command, "inputs": [{**entry, "sha256": digest}] * 3}


@pytest.fixture
def write(tmp_path, structures, predictions, rich_provenance):
    def write(name):
        path = tmp_path / name
        write_predictions(path, predictions, structures, "pbe", rich_provenance)
        return path

    return write


def test_of_structure_cuts_out_its_atoms(predictions):
    first, second = predictions.of_structure(0), predictions.of_structure(1)
    np.testing.assert_array_equal(first["forces"], predictions.quantities["forces"][:3])
    np.testing.assert_array_equal(second["forces"], predictions.quantities["forces"][3:])
    np.testing.assert_array_equal(second["node_energy"], predictions.quantities["node_energy"][3:])
    assert second["energy"] == -9.5


def test_npz_round_trip_needs_no_pickle(write, predictions, rich_provenance):
    path = write("p.npz")
    metadata, found = read_predictions(path)
    np.testing.assert_array_equal(found.n_node, predictions.n_node)
    assert found.quantities.keys() == predictions.quantities.keys()
    for name, array in predictions.quantities.items():
        np.testing.assert_array_equal(found.quantities[name], array)
        assert found.quantities[name].dtype == array.dtype
    assert metadata["provenance"] == rich_provenance
    assert metadata["head"] == "pbe"
    assert metadata["n_graph"] == 2
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sets(st.sampled_from(list(SHAPES))))
def test_any_quantities_survive_in_npz(n_node, names):
    predictions = anything(n_node, sorted(names))
    structures = [hydrogens(n) for n in n_node]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.npz"
        provenance = {"tool": "t", "tool_version": "0", "command": [], "seed": None, "inputs": []}
        write_predictions(path, predictions, structures, "Default", provenance)
        metadata, found = read_predictions(path)
    assert metadata["quantities"] == sorted(names)
    assert found.quantities.keys() == names
    for index, n in enumerate(n_node):
        own, expected = found.of_structure(index), predictions.of_structure(index)
        for name, value in own.items():
            np.testing.assert_array_equal(value, expected[name])
            assert value.shape == tuple(
                n if size == "n" else row_size(size) for size in SHAPES[name]
            )


@pytest.fixture
def everything():
    return anything([3, 2], SHAPES)


def test_every_quantity_in_extxyz(tmp_path, everything, structures, provenance):
    """By ASE and, told the names, by our reader; a molecule has neither stress nor virials."""
    path = tmp_path / "p.extxyz"
    write_predictions(path, everything, structures, "pbe", provenance)
    for index, atoms in enumerate(ase.io.read(path, ":")):
        found = {**atoms.info, **atoms.arrays}
        for name, value in everything.of_structure(index).items():
            if name in ("stress", "virials") and index == 0:
                assert f"MACE_{name}" not in found
            else:
                np.testing.assert_allclose(found[f"MACE_{name}"], value, atol=1e-8, err_msg=name)
    read, _ = read_structures(path, PREDICTED)
    for index, structure in enumerate(read):
        expected = everything.of_structure(index)
        assert len(structure.properties) == (5 if index == 0 else 7)
        for name, value in structure.properties.items():
            np.testing.assert_allclose(value, expected[name], atol=1e-8, err_msg=name)


def test_every_quantity_in_parquet(tmp_path, everything, structures, provenance):
    path = tmp_path / "p.parquet"
    write_predictions(path, everything, structures, "pbe", provenance)
    table = pq.read_table(path)
    assert table.column_names == [*COLUMNS, *SHAPES, *labels_of(structures)]
    for index, row in enumerate(table.to_pylist()):
        for name, value in everything.of_structure(index).items():
            np.testing.assert_array_equal(np.reshape(row[name], value.shape), value)


@pytest.mark.parametrize("suffix", ["npz", "extxyz", "parquet"])
def test_a_model_without_energy(tmp_path, structures, provenance, suffix):
    path = tmp_path / f"p.{suffix}"
    write_predictions(path, anything([3, 2], ["dipole"]), structures, "pbe", provenance)
    if suffix == "npz":
        assert list(read_predictions(path)[1].quantities) == ["dipole"]
    elif suffix == "parquet":
        names = [*COLUMNS, "dipole", *labels_of(structures)]
        assert pq.read_table(path).column_names == names
    else:
        assert set(read_structures(path, PREDICTED)[0][0].properties) == {"dipole"}


def test_an_unknown_quantity_is_not_written(tmp_path, structures, provenance):
    predictions = Predictions(np.array([3, 2]), {"entropy": np.zeros(2)})
    with pytest.raises(ArtifactError, match="at /quantities/0: 'entropy' is not one of"):
        write_predictions(tmp_path / "p.npz", predictions, structures, "pbe", provenance)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["p.npz", "p.extxyz", "p.parquet"])
def test_equal_content_gives_equal_bytes(write, name):
    first = write(name).read_bytes()
    assert write(name).read_bytes() == first


@pytest.mark.parametrize("name", ["p.extxyz", "p.xyz"])
def test_extxyz_is_read_by_ase(write, predictions, structures, rich_provenance, name):
    frames = ase.io.read(write(name), ":", format="extxyz")
    assert len(frames) == 2
    for index, (atoms, structure) in enumerate(zip(frames, structures, strict=True)):
        predicted = predictions.of_structure(index)
        np.testing.assert_array_equal(atoms.numbers, structure.atomic_numbers)
        np.testing.assert_allclose(atoms.positions, structure.positions, atol=1e-8)
        np.testing.assert_allclose(atoms.cell[:], structure.cell, atol=1e-12)
        np.testing.assert_array_equal(atoms.pbc, structure.pbc)
        assert atoms.info["MACE_energy"] == pytest.approx(predicted["energy"], rel=1e-15)
        for key in ("forces", "node_energy"):
            np.testing.assert_allclose(atoms.arrays[f"MACE_{key}"], predicted[key], atol=1e-8)
    assert "MACE_stress" not in frames[0].info
    np.testing.assert_allclose(frames[1].info["MACE_stress"], STRESS, atol=1e-12)
    info = frames[0].info
    tags = {name: json.loads(str(text)) for name, text in info.items() if "mace_jax" in name}
    assert tags["mace_jax_schema"] == {"kind": "predictions", "version": 3}
    assert tags["mace_jax_head"] == "pbe"
    assert tags["mace_jax_command"] == rich_provenance["command"]
    assert tags["mace_jax_input_2"] == rich_provenance["inputs"][2]


def test_extxyz_is_read_by_our_reader_through_the_c_parser(write, predictions):
    path = write("p.extxyz")
    handle = cextxyz.cfopen(str(path), "r")
    try:
        for _ in range(2):
            cextxyz.read_frame_dicts(handle)
    finally:
        cextxyz.cfclose(handle)
    found, counts = read_structures(path, PREDICTED)
    summary = "energy 2/2 (MACE_energy), forces 2/2 (MACE_forces), stress 1/2 (MACE_stress)"
    assert counts.summary() == summary
    for index, structure in enumerate(found):
        predicted = predictions.of_structure(index)
        assert structure.properties["energy"] == pytest.approx(predicted["energy"], rel=1e-15)
        np.testing.assert_allclose(structure.properties["forces"], predicted["forces"], atol=1e-8)
    np.testing.assert_allclose(found[1].properties["stress"], STRESS, atol=1e-12)


def test_parquet_is_read_by_pyarrow(write, predictions, rich_provenance):
    table = pq.read_table(write("p.parquet"))
    metadata = json.loads(table.schema.metadata[b"mace_jax"])
    assert metadata["schema"] == {"kind": "predictions", "version": 3}
    assert metadata["provenance"] == rich_provenance
    rows = table.to_pylist()
    assert [row["energy"] for row in rows] == predictions.quantities["energy"].tolist()
    assert [row["n_node"] for row in rows] == [3, 2]
    for index, row in enumerate(rows):
        predicted = predictions.of_structure(index)
        np.testing.assert_array_equal(np.reshape(row["forces"], (-1, 3)), predicted["forces"])
        np.testing.assert_array_equal(np.reshape(row["stress"], (3, 3)), predicted["stress"])
        np.testing.assert_array_equal(row["node_energy"], predicted["node_energy"])


def test_an_unknown_suffix_is_a_config_error(tmp_path, write):
    with pytest.raises(ConfigError, match=r"p\.csv: unknown suffix '\.csv'"):
        require_predictions_suffix(tmp_path / "p.csv")
    with pytest.raises(ConfigError, match="unknown suffix"):
        write("p.csv")
    assert not list(tmp_path.iterdir())


def test_every_truncation_is_refused(write):
    path = write("p.npz")
    content = path.read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"p\.npz: not a predictions file"):
            read_predictions(path)


def test_a_flipped_byte_in_an_array_is_refused(write):
    path = write("p.npz")
    content = bytearray(path.read_bytes())
    place = bytes(content).index(np.float64(-9.5).tobytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"p\.npz: not a predictions file"):
        read_predictions(path)


def rewrite(path, change):
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("metadata"),
        lambda arrays: arrays.pop("forces"),
        lambda arrays: arrays.update(extra=np.zeros(1)),
        lambda arrays: arrays.update(metadata=np.array("{")),
        lambda arrays: arrays.update(metadata=np.array("[]")),
        lambda arrays: arrays.update(metadata=np.zeros(3)),
        lambda arrays: arrays.update(forces=arrays["forces"][:-1]),
        lambda arrays: arrays.update(energy=arrays["energy"][:-1]),
        lambda arrays: arrays.update(n_node=np.array([3, 3])),
        lambda arrays: arrays.update(stress=np.zeros((2, 6))),
        lambda arrays: arrays.update(dipole=np.zeros((2, 3))),
    ],
)
def test_contents_that_do_not_fit_are_refused(write, change):
    path = write("p.npz")
    rewrite(path, change)
    with pytest.raises(ArtifactError, match=r"p\.npz: "):
        read_predictions(path)


def test_newer_version(write):
    path = write("p.npz")

    def change(arrays):
        metadata = json.loads(str(arrays["metadata"]))
        metadata["schema"]["version"] = 4
        arrays["metadata"] = np.array(json.dumps(metadata))

    rewrite(path, change)
    with pytest.raises(ArtifactError, match=r"predictions version 4, .*upgrade"):
        read_predictions(path)


@pytest.mark.parametrize("form", ["bytes", "npy", "zip", "object array", "pickle", "absent"])
def test_other_files_are_refused(tmp_path, form):
    path = tmp_path / "p.npz"
    if form == "bytes":
        path.write_bytes(b"nothing of ours")
    elif form == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "hello")
    elif form == "object array":
        np.savez(path, metadata=np.array({"a": 1}, dtype=object))
    elif form == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ArtifactError, match=r"p\.npz: not a predictions file"):
        read_predictions(path)


# --- HDF5


def test_hdf5_holds_predictions_labels_and_what_they_belong_to(write, predictions, structures):
    for size in (1, 2, 100):
        with PredictionsFile(write("p.h5")) as file:
            assert file.metadata["labels"] == [
                name.removeprefix("REF_") for name in labels_of(structures)
            ]
            blocks = list(file.blocks(size))
        assert sum(len(block.n_node) for block in blocks) == len(structures)
        for name, expected in predictions.quantities.items():
            found = np.concatenate([block.predictions[name] for block in blocks])
            np.testing.assert_array_equal(found, expected)
        for name in ("energy", "forces", "stress"):
            present = np.concatenate([block.labels[name].present for block in blocks])
            assert present.tolist() == [name in one.properties for one in structures]
            values = np.concatenate([block.labels[name].values.ravel() for block in blocks])
            own = [one.properties[name].ravel() for one in structures if name in one.properties]
            np.testing.assert_array_equal(values, np.concatenate(own))
        numbers = np.concatenate([block.atomic_numbers for block in blocks])
        expected = np.concatenate([one.atomic_numbers for one in structures])
        np.testing.assert_array_equal(numbers, expected)
        assert [head for block in blocks for head in block.heads] == ["pbe", "pbe"]
        assert [frame for block in blocks for frame in block.frames.tolist()] == [0, 1]
        volumes = np.concatenate([block.volumes for block in blocks])
        assert volumes[0] == np.inf
        assert volumes[1] == pytest.approx(abs(np.linalg.det(structures[1].cell)))


def test_equal_content_gives_equal_bytes_in_hdf5(write):
    first = write("p.h5").read_bytes()
    assert write("p.h5").read_bytes() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("predictions/forces"), "predictions/forces: missing"),
        (lambda file: file.__delitem__("labels/energy"), "labels/energy/present: missing"),
        (lambda file: file.__delitem__("names"), "names: "),
        (lambda file: file.attrs.__delitem__("schema"), "has no schema tag"),
        (lambda file: file.attrs.__setitem__("n_graph", "3"), "n_node: 2 rows, expected 3"),
        (lambda file: file.attrs.__setitem__("head", "{"), "root attributes: "),
        (lambda file: file["n_node"].__setitem__(0, 7), r"atomic_numbers: shape \(5,\)"),
    ],
)
def test_hdf5_that_does_not_fit_is_refused(write, change, message):
    path = write("p.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ArtifactError, match=rf"p\.h5: {message}"):
        PredictionsFile(path)


def test_what_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "p.h5").write_text("nothing of ours")
    with pytest.raises(ArtifactError, match=r"p\.h5: not a predictions file in HDF5"):
        PredictionsFile(tmp_path / "p.h5")


def test_labels_are_kept_beside_predictions_in_extxyz(write, structures):
    """By the names that every reader tries first."""
    found, _ = read_structures(write("p.extxyz"))
    for structure, expected in zip(found, structures, strict=True):
        known = expected.properties.keys() - (
            set() if expected.pbc.any() else {"stress", "virials"}
        )
        assert structure.properties.keys() == known
        for name in known:
            np.testing.assert_allclose(
                structure.properties[name], expected.properties[name], atol=1e-8
            )
