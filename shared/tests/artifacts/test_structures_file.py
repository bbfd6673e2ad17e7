"""Structures written to extended XYZ and HDF5 are read back as they were, to the last bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mace_jax.artifacts.dataset import Dataset
from mace_jax.artifacts.structures_file import writing_structures
from mace_jax.errors import ConfigError, DataError
from mace_jax.inspection.tagged_file import comment_entries
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import PROPERTY_SHAPES, Structure, property_shape

numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.1 + 0.2, 1 / 3, 1e-17, -1e12])
SYMMETRIC = ("stress", "virials", "polarizability")


@st.composite
def labelled(draw):
    n = draw(st.integers(1, 4))
    names = draw(st.sets(st.sampled_from(list(PROPERTY_SHAPES))))
    labels = {
        name: draw(arrays(float, property_shape(name, n), elements=numbers)) for name in names
    }
    for name in set(SYMMETRIC) & names:
        labels[name] = np.triu(labels[name]) + np.triu(labels[name], 1).T
    periodic = draw(st.booleans())
    weights = {name: draw(st.sampled_from([0.0, 0.1, 1.0])) for name in sorted(names)}
    return Structure(
        draw(arrays(np.int64, n, elements=st.integers(1, 118))),
        draw(arrays(float, (n, 3), elements=numbers)),
        np.diag([5 / 3, 7.0, 1e2]) + (0.1 if periodic else 0),
        np.array([periodic, False, periodic]),
        labels,
        weights,
        draw(st.sampled_from([0.0, 1.0, 2.5])),
        draw(st.sampled_from(["Default", "a slab", 'of "iron"', "12", "größer"])),
        draw(st.sampled_from(["Default", "pt_head"])),
    )


def assert_same(found, expected):
    for name in ("atomic_numbers", "positions", "cell", "pbc"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.properties.keys() == expected.properties.keys()
    for name, value in expected.properties.items():
        np.testing.assert_array_equal(found.properties[name], value)
        assert found.label_weight(name) == expected.label_weight(name)
    for name in ("weight", "config_type", "head"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize("suffix", [".xyz", ".extxyz", ".h5", ".flat.h5"])
@given(structures=st.lists(labelled(), min_size=1, max_size=3))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_is_read_is_what_was_written(tmp_path, provenance, suffix, structures):
    path = tmp_path / f"out{suffix}"
    layout = "flat" if "flat" in suffix else "mace"
    with writing_structures(path, provenance, layout=layout) as writer:
        for structure in structures:
            writer.write([structure])
    if suffix.endswith(".h5"):
        with Dataset(path) as dataset:
            found = list(dataset)
            assert dataset.layout == layout
    else:
        found, _ = read_structures(path)
    for one, expected in zip(found, structures, strict=True):
        assert_same(one, expected)


def test_first_frame_says_where_the_file_came_from(tmp_path, provenance, water):
    item = {"role": "labels", "name": "m.msgpack", "kind": "model_bundle", "version": 2}
    provenance["inputs"] = [{**item, "sha256": "0" * 64}]
    with writing_structures(tmp_path / "out.xyz", provenance) as writer:
        writer.write([water, water])
    lines = (tmp_path / "out.xyz").read_text().splitlines()
    entries = comment_entries(lines[1])
    assert (entries["tool"], entries["seed"]) == ("mace-jax-tests", 3)
    assert entries["input_0"] == provenance["inputs"][0]
    assert comment_entries(lines[6]) == {}


def test_inputs_of_models_stay_in_extended_xyz_and_are_refused_by_hdf5(tmp_path, provenance, water):
    potential = np.array([0.1, 0.2, 1 / 3])
    told = replace(water, inputs={"total_charge": np.array(-1.0), "potential": potential})
    with writing_structures(tmp_path / "out.xyz", provenance) as writer:
        writer.write([told])
    (found,), _ = read_structures(tmp_path / "out.xyz", inputs=["total_charge", "potential"])
    assert found.inputs["total_charge"] == -1
    np.testing.assert_array_equal(found.inputs["potential"], potential)
    with (
        pytest.raises(DataError, match=r"out\.h5: .*total_charge, potential, .*no place.*\.xyz"),
        writing_structures(tmp_path / "out.h5", provenance) as writer,
    ):
        writer.write([told])
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    "name", ["T", "1.50", "1 2", "x=y", "back\\slash", "two\nlines", "_JSON 1"]
)
def test_a_name_that_would_be_read_as_another_is_refused(tmp_path, provenance, water, name):
    for field in ("config_type", "head"):
        with (
            pytest.raises(DataError, match="structure: extended XYZ cannot hold the name"),
            writing_structures(tmp_path / "out.xyz", provenance) as writer,
        ):
            writer.write([replace(water, **{field: name})])
    assert not list(tmp_path.iterdir())


def test_unknown_suffix(tmp_path, provenance):
    with (
        pytest.raises(ConfigError, match=r"unknown suffix '\.csv', expected one of \.h5"),
        writing_structures(tmp_path / "out.csv", provenance),
    ):
        pass


def test_provenance_of_hdf5_is_an_attribute(tmp_path, provenance, water):
    import h5py

    with writing_structures(tmp_path / "out.h5", provenance) as writer:
        writer.write([water])
    with h5py.File(tmp_path / "out.h5") as file:
        assert json.loads(file.attrs["provenance"]) == provenance
