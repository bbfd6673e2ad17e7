"""Against the ASE calculator, with ghosts and lists as LAMMPS makes them but without LAMMPS."""

import importlib.util
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import jax
import msgpack
import numpy as np
import pytest
from ase import Atoms

from mace_jax.artifacts.model_bundle import write_model_bundle
from mace_jax.calculator import MACECalculator
from mace_jax.errors import (
    ArtifactError,
    CheckFailedError,
    ConfigError,
    DataError,
    IncompatibleError,
)
from mace_jax_export_lammps.exchange import GhostExchange
from mace_jax_export_lammps.potential import load_potential

_spec = importlib.util.spec_from_file_location(
    "lammps_stand_in", Path(__file__).with_name("lammps_stand_in.py")
)
stand_in = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stand_in)

PROVENANCE = {"tool": "tests", "tool_version": "0", "command": [], "seed": 0, "inputs": []}
LENGTHS = [6.2, 3.5, 5.1]  # one of them hardly longer than the cutoff
ELEMENTS = np.array([6, 8])
KINDS = {"halo": stand_in.MLIAPDataPy, "staged": stand_in.ExchangingData}


def structure(n_atoms=12, seed=3, width=1.0):
    """Return atoms on a jittered grid in the first ``width`` of the box along x."""
    rng = np.random.default_rng(seed)
    grid = np.argwhere(np.ones((3, 2, 3)))[:n_atoms] / [3, 2, 3]
    fractional = (grid + rng.uniform(0, 0.12, grid.shape)) * [width, 1, 1]
    numbers = rng.permutation(np.resize(ELEMENTS, n_atoms))
    return Atoms(numbers, fractional @ np.diag(LENGTHS), cell=LENGTHS, pbc=True)


def connect(potential, mode):
    potential.mode = mode  # LAMMPS's module, which is asked for it, is not there
    return potential


def processes(atoms, potentials, borders=()):
    """Return what LAMMPS hands to each process."""
    world = stand_in.World(len(potentials))
    species = np.searchsorted(ELEMENTS, atoms.numbers)
    return [
        KINDS[potential.mode](
            atoms.positions, LENGTHS, species, potential.cutoff, index, borders, world
        )
        for index, potential in enumerate(potentials)
    ]


def simulate(atoms, potentials, borders=()):
    """Return energy, forces, stress and energies of atoms, collected from all processes."""
    datas = processes(atoms, potentials, borders)
    by_data = {id(data): potential for data, potential in zip(datas, potentials, strict=True)}
    stand_in.run_processes(lambda data: by_data[id(data)].compute_forces(data), datas)
    forces, energies = np.zeros((len(atoms), 3)), np.zeros(len(atoms))
    for data in datas:
        np.add.at(forces, data.tags, data.f)
        if data.nlocal:
            energies[data.tags[: data.nlocal]] = data.given["eatoms"]
    virial = sum(data.virial for data in datas)
    return {
        "energy": sum(data.energy for data in datas),
        "forces": forces,
        "stress": -virial / atoms.get_volume(),
        "energies": energies,
    }


@pytest.fixture(scope="module")
def calculator(tmp_path_factory):
    """Return a function that makes the ASE calculator of a bundle, once."""
    found = {}

    def of_bundle(content):
        if id(content) not in found:
            path = tmp_path_factory.mktemp("ase") / "model.msgpack"
            write_model_bundle(path, content, PROVENANCE)
            found[id(content)] = MACECalculator(path)
        return found[id(content)]

    return of_bundle


@pytest.fixture
def assert_as_ase(calculator):
    """Return a function that compares numbers with the ASE calculator's."""

    def compare(found, atoms, content, relative=1e-12):
        atoms = atoms.copy()
        atoms.calc = calculator(content)
        expected = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
            "energies": atoms.get_potential_energies(),
        }
        for name, values in expected.items():
            scale = np.abs(values).max()
            np.testing.assert_allclose(found[name], values, rtol=0, atol=relative * scale)

    return compare


@pytest.mark.parametrize(
    ("mode", "borders"), [("halo", ()), ("staged", ()), ("halo", (3.0,)), ("staged", (3.0,))]
)
def test_two_layers(load, bundle, assert_as_ase, mode, borders):
    atoms = structure()
    potentials = [connect(load(bundle()), mode) for _ in range(len(borders) + 1)]
    assert_as_ase(simulate(atoms, potentials, borders), atoms, bundle())
    assert max(potential.n_compilations for potential in potentials) <= 3


@pytest.mark.parametrize(("mode", "borders"), [("halo", ()), ("staged", (3.0,))])
def test_three_layers(load, bundle, assert_as_ase, mode, borders):
    """Ghosts that are seen from ghosts only; cotangents that pass two exchanges."""
    atoms, content = structure(), bundle(3)
    potentials = [connect(load(content), mode) for _ in range(len(borders) + 1)]
    assert_as_ase(simulate(atoms, potentials, borders), atoms, content)


@pytest.mark.parametrize("mode", ["halo", "staged"])
def test_one_layer(load, bundle, assert_as_ase, mode):
    """Nothing is exchanged, and ghosts only send."""
    atoms, content = structure(), bundle(1)
    potentials = [connect(load(content), mode) for _ in range(2)]
    assert_as_ase(simulate(atoms, potentials, (3.0,)), atoms, content)


def test_float32(load, bundle, assert_as_ase):
    atoms, content = structure(), bundle(dtype="float32")
    potentials = [connect(load(content), "staged") for _ in range(2)]
    assert_as_ase(simulate(atoms, potentials, (3.0,)), atoms, content, 1e-5)


@pytest.mark.parametrize("mode", ["halo", "staged"])
def test_processes_without_atoms(load, bundle, assert_as_ase, mode):
    """One between those with atoms, whose ghosts it has, and one beyond."""
    atoms = structure(width=0.3)
    potentials = [connect(load(bundle()), mode) for _ in range(3)]
    assert_as_ase(simulate(atoms, potentials, (1.2, 4.0)), atoms, bundle())


def test_dtype_needs_no_switch_of_jax(load, bundle):
    before = jax.config.read("jax_enable_x64")
    found = simulate(structure(), [connect(load(bundle()), "halo")])
    assert found["forces"].dtype == np.float64
    assert jax.config.read("jax_enable_x64") == before


def test_moving_atoms_compile_nothing_anew(load, bundle, assert_as_ase):
    atoms = structure()
    potential = connect(load(bundle()), "staged")
    rng = np.random.default_rng(0)
    for _ in range(20):
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        found = simulate(atoms, [potential])
    assert_as_ase(found, atoms, bundle())
    assert potential.n_compilations <= 2


@pytest.mark.parametrize("mode", ["halo", "staged"])
def test_cutoff_of_lammps_list(load, bundle, mode):
    potential = connect(load(bundle(3)), mode)
    factor = {"halo": 3, "staged": 1}[mode]
    assert potential.cutoff == 2 * potential.rcutfac == pytest.approx(factor * 3.0, rel=1e-5)
    assert potential.cutoff >= factor * 3.0
    assert potential.element_types == ["C", "O"]


def test_the_way_is_chosen_by_what_lammps_offers_and_printed(load, bundle, capfd, monkeypatch):
    for mode, kind in KINDS.items():
        potential = load(bundle())
        monkeypatch.setattr(stand_in, "MLIAPDataPy", kind)
        monkeypatch.setitem(sys.modules, "lammps_stand_in", stand_in)
        potential.interface = stand_in.Interface()
        assert potential.mode == mode
        assert f"elements C O, units metal; {mode}: " in capfd.readouterr().err


def test_an_old_lammps(load, bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps_stand_in", stand_in)
    monkeypatch.delattr(stand_in.MLIAPDataPy, "nlocal")
    with pytest.raises(IncompatibleError, match="use a LAMMPS of 4 February 2025 or newer"):
        load(bundle()).interface = stand_in.Interface()


def test_other_processes_are_silent(load, bundle, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps_stand_in", stand_in)
    monkeypatch.setenv("PMI_RANK", "1")
    load(bundle()).interface = stand_in.Interface()
    assert capfd.readouterr().err == ""


# --- what is wrong is said before the first step


def test_a_python_without_jax(load, bundle, monkeypatch):
    monkeypatch.setattr("mace_jax_export_lammps.potential.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install mace-jax-export-lammps\[model\] there"):
        load(bundle())


def test_a_failed_self_test(load, bundle):
    potential = connect(load(bundle(), self_test=True), "halo")
    potential._model.self_test["forces"][2][1] += 1e-4
    with pytest.raises(CheckFailedError, match=r"self-test: forces differs by .*; create the file"):
        simulate(structure(), [potential])


def test_weights_that_are_not_those_of_the_self_test(load, bundle):
    content = bundle()
    parameters = {name: array * 1.001 for name, array in content.parameters.items()}
    other = replace(content, parameters=parameters)
    potential = connect(load(other, self_test=True), "staged")
    potential._model.self_test.update(load(content, self_test=True)._model.self_test)
    with pytest.raises(CheckFailedError, match="self-test: energy differs"):
        simulate(structure(), [potential])


def test_types_without_an_element(load, bundle):
    potential = connect(load(bundle()), "halo")
    (data,) = processes(structure(), [potential])
    data.elems[3] = -1
    with pytest.raises(DataError, match=r"1 atoms of a type that pair_coeff maps to NULL"):
        potential.compute_forces(data)


def test_atoms_at_one_place(load, bundle):
    potential = connect(load(bundle()), "halo")
    (data,) = processes(structure(), [potential])
    data.rij[7] = 0
    with pytest.raises(DataError, match="are at the same place"):
        potential.compute_forces(data)


def test_numbers_that_are_not_finite(load, bundle):
    potential = connect(load(bundle()), "halo")
    (data,) = processes(structure(), [potential])
    data.rij[data.pair_i == 0] *= 1e-200
    with pytest.raises(DataError, match="energy or forces are not finite"):
        potential.compute_forces(data)


def test_atoms_of_another_pair_style(load, bundle):
    potential = connect(load(bundle()), "halo")
    (data,) = processes(structure(), [potential])
    data.nlistatoms -= 1
    with pytest.raises(IncompatibleError, match="lists 11 of 12 atoms, expected all"):
        potential.compute_forces(data)


def test_lists_on_a_gpu(load, bundle):
    potential = connect(load(bundle()), "staged")
    (data,) = processes(structure(), [potential])
    data.rij = memoryview(data.rij)  # not NumPy's, as CuPy's arrays are not
    with pytest.raises(IncompatibleError, match="keeps its lists on a GPU"):
        potential.compute_forces(data)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_an_exchange_that_garbles_rows(load, bundle, monkeypatch, direction):
    """As if LAMMPS moved some of the columns only, which no number of its own would show."""
    whole = getattr(GhostExchange, direction)

    def partial(self, rows):
        result = whole(self, rows)
        if rows.shape[1] > 2:
            result[self.n_local :, 2:] = rows[self.n_local :, 2:]
            result[: self.n_local, 2:] = rows[: self.n_local, 2:]
        return result

    monkeypatch.setattr(GhostExchange, direction, partial)
    with pytest.raises(IncompatibleError, match="use a LAMMPS newer than"):
        simulate(structure(), [connect(load(bundle()), "staged")])


def document_of(load, bundle, tmp_path):
    load(bundle())
    content = (tmp_path / "model.pkl").read_bytes()
    start = content.index(b"\x82\xa6header")
    return content[start:].rsplit(b"\x94\x85\x94R", 1)[0]


def test_a_file_of_a_newer_version(load, bundle, tmp_path):
    document = document_of(load, bundle, tmp_path)
    content = msgpack.unpackb(document)
    content["header"]["schema"]["version"] += 1
    with pytest.raises(ArtifactError, match=r"pair_style mliap: header.*version 2"):
        load_potential(msgpack.packb(content))


def test_a_file_whose_weights_were_changed(load, bundle, tmp_path):
    document = document_of(load, bundle, tmp_path)
    content = msgpack.unpackb(document)
    content["bundle"] = content["bundle"][:-1] + bytes([content["bundle"][-1] ^ 1])
    with pytest.raises(ArtifactError, match="content_sha256 differs"):
        load_potential(msgpack.packb(content))


def test_a_file_that_is_cut(load, bundle, tmp_path):
    document = document_of(load, bundle, tmp_path)
    with pytest.raises(ArtifactError, match="not a complete document"):
        load_potential(document[: len(document) // 2])
    content = (tmp_path / "model.pkl").read_bytes()
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        pickle.loads(content[: len(content) // 2])
