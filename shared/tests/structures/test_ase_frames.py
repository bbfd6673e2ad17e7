import sqlite3

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from mace_jax.errors import DataError
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import read_structures, stream_structures

FORCES = np.array([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])


def molecule(x=1.0):
    return Atoms("HO", positions=[[0, 0, 0], [0, 0, x]])


def calculated(energy):
    atoms = molecule()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=FORCES)
    return atoms


@pytest.fixture(params=["a.db", "a.json"])
def database(request, tmp_path):
    path = tmp_path / request.param
    with connect(path) as file:
        file.write(molecule(), REF_energy=-1.0, config_type="wire", data={"REF_forces": FORCES})
        file.write(calculated(-2.0), total_charge=1)
        file.write(molecule())
    return path


def test_rows_of_a_database_with_their_pairs_data_and_results(database):
    (first, second, third), counts = read_structures(database, inputs=["total_charge"])
    assert first.place == f"{database}: frame 0"
    assert first.properties["energy"] == -1
    assert first.config_type == "wire"
    np.testing.assert_array_equal(first.properties["forces"], FORCES)
    assert second.properties["energy"] == -2
    np.testing.assert_array_equal(second.properties["forces"], FORCES)
    assert second.inputs["total_charge"] == 1
    assert third.properties == {}
    assert counts.summary() == (
        "energy 2/3 (REF_energy 1, calculator 1), forces 2/3 (REF_forces 1, calculator 1)"
    )


def test_a_bad_row_is_named_and_reading_goes_on(tmp_path):
    path = tmp_path / "a.db"
    with connect(path) as file:
        for value in (-1.0, "low", -3.0):
            file.write(molecule(), REF_energy=value)
    with pytest.raises(DataError, match=r"a\.db: frame 1: REF_energy: energy cannot be used"):
        read_structures(path)
    errors = []
    good = list(stream_structures(path, LabelKeys(), LabelCounts(), on_bad=errors.append))
    assert [float(s.properties["energy"]) for s in good] == [-1, -3]
    assert len(errors) == 1


def test_a_database_of_many_rows_with_gaps_is_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("mace_jax.structures.ase_frames._ROWS_AT_ONCE", 3)
    path = tmp_path / "a.db"
    with connect(path) as file:
        for i in range(10):
            file.write(molecule(), REF_energy=-float(i))
        file.delete([1, 4, 5, 6])
    structures, _ = read_structures(path)
    assert [float(s.properties["energy"]) for s in structures] == [-1, -2, -6, -7, -8, -9]


@pytest.mark.parametrize("name", ["a.db", "a.json", "a.traj", "a.cif"])
def test_a_file_of_another_kind_is_an_error(tmp_path, name):
    path = tmp_path / name
    path.write_text("this is no such file\n" * 50)
    with pytest.raises(DataError, match=rf"{name}: frame 0: ASE cannot read it .*; correct the fi"):
        read_structures(path)


def test_an_unknown_format_is_an_error(tmp_path):
    path = tmp_path / "a.strange"
    path.write_text("no atoms here\n")
    with pytest.raises(DataError, match=r"a\.strange: frame 0: ASE cannot read it"):
        read_structures(path)


def test_a_damaged_database_ends_where_it_is_damaged(tmp_path):
    path = tmp_path / "a.db"
    with connect(path) as file:
        for i in range(5):
            file.write(molecule(), REF_energy=-float(i))
    with sqlite3.connect(path) as file:
        file.execute("UPDATE systems SET key_value_pairs = '{broken' WHERE id = 3")
    errors = []
    good = list(stream_structures(path, LabelKeys(), LabelCounts(), on_bad=errors.append))
    assert len(good) == 2
    assert "frame 2: ASE cannot read it" in str(*errors)


@pytest.mark.parametrize("name", ["frames.txt", "frames"])
def test_extended_xyz_under_another_name_is_read_by_its_own_reader(tmp_path, name):
    path = tmp_path / name
    text = "2\nProperties=species:S:1:pos:R:3 REF_energy=-1\nH 0 0 0\nO 0 0 1\n"
    path.write_text(text + "\n" + text)  # ASE would stop at the blank line
    assert len(read_structures(path)[0]) == 2


def test_every_image_of_a_trajectory_is_read(tmp_path):
    path = tmp_path / "a.traj"
    ase.io.write(path, [calculated(-float(i)) for i in range(5)])
    structures, counts = read_structures(path)
    assert [float(s.properties["energy"]) for s in structures] == [0, -1, -2, -3, -4]
    assert counts.total("forces") == 5
    assert "positions" not in counts.seen_keys
