import h5py
import pytest

from mace_jax.artifacts.dataset_mace_layout import (
    read_structure,
    structure_paths,
    write_structures,
)


@pytest.fixture
def file(tmp_path, water, crystal):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_structures(file, [water, crystal] * 6, drop_last=False)
        yield file


def test_paths_are_in_numeric_and_not_in_text_order(file):
    assert list(file["config_batch_0"])[:3] == ["config_0", "config_1", "config_10"]
    assert structure_paths(file) == [f"config_batch_0/config_{index}" for index in range(12)]


def test_an_entry_that_is_not_a_label_is_left_alone(file):
    file["config_batch_0/config_0/properties/total_charge"] = 1.0
    assert read_structure(file, "config_batch_0/config_0").properties.keys() == {
        "energy",
        "forces",
    }
