import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from extxyz import cextxyz
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.errors import DataError
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import read_structures, stream_structures
from mace_jax.units import symmetric_matrix

COLUMNS = "Properties=species:S:1:pos:R:3"
LABELLED = f"{COLUMNS}:REF_forces:R:3 REF_energy=-1.5"
# The strict grammar of the C parser lacks `,` in a bare value; ASE reads it.
ASE_ONLY = "note=a,b"


def frame(comment=LABELLED, atoms=("H 0 0 0 0.1 0.2 0.3", "H 0 0 1 -0.1 -0.2 -0.3")):
    return "\n".join([str(len(atoms)), comment, *atoms, ""])


def write(path, text):
    path.write_text(text)
    return path


def c_parser_reads(path):
    handle = cextxyz.cfopen(str(path), "r")
    try:
        cextxyz.read_frame_dicts(handle)
    except cextxyz.ExtXYZError:
        return False
    finally:
        cextxyz.cfclose(handle)
    return True


@pytest.fixture(params=["C parser", "ASE"])
def parser_comment(request, tmp_path):
    """What to add to a comment line so that the named parser reads the file."""
    extra = "" if request.param == "C parser" else f" {ASE_ONLY}"
    probe = write(tmp_path / "probe.xyz", frame(LABELLED + extra))
    assert c_parser_reads(probe) == (request.param == "C parser")
    return extra


def assert_same(structure, other):
    np.testing.assert_array_equal(structure.atomic_numbers, other.atomic_numbers)
    np.testing.assert_array_equal(structure.pbc, other.pbc)
    np.testing.assert_allclose(structure.positions, other.positions, rtol=1e-14)
    np.testing.assert_allclose(structure.cell, other.cell, rtol=1e-14)
    assert structure.properties.keys() == other.properties.keys()
    for name, value in structure.properties.items():
        np.testing.assert_allclose(value, other.properties[name], rtol=1e-14)
    assert structure.property_weights == other.property_weights
    assert structure.weight == other.weight
    assert structure.config_type == other.config_type
    assert structure.head == other.head


# --- which label wins, and the count of it


@pytest.mark.parametrize(
    ("keys", "energy", "found"),
    [
        ("REF_energy=-1 energy=-2", -1, "REF_energy"),
        ("energy=-2", -2, None),
        ("REF_energy=0", 0, "REF_energy"),
    ],
)
def test_ref_energy_wins_over_energy(tmp_path, parser_comment, keys, energy, found):
    path = write(tmp_path / "a.xyz", frame(f"{COLUMNS}:forces:R:3 {keys}{parser_comment}"))
    (structure,), counts = read_structures(path)
    assert structure.properties["energy"] == energy
    np.testing.assert_array_equal(structure.properties["forces"][0], [0.1, 0.2, 0.3])
    assert counts.total("energy") == 1
    if found:
        assert counts.found["energy", found] == 1


def test_a_calculator_comes_last(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]])
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=np.ones((2, 3)))
    atoms.info["REF_energy"] = -1.0
    path = tmp_path / "a.traj"
    ase.io.write(path, atoms)
    (structure,), counts = read_structures(path)
    assert structure.properties["energy"] == -1.0
    np.testing.assert_array_equal(structure.properties["forces"], np.ones((2, 3)))
    assert counts.summary() == "energy 1/1 (REF_energy), forces 1/1 (calculator)"


def test_a_key_of_the_users_own_is_used_alone(tmp_path, parser_comment):
    text = frame(f"{LABELLED} energy=-2 dft=-3{parser_comment}")
    path = write(tmp_path / "a.xyz", text)
    (structure,), _ = read_structures(path, LabelKeys({"energy": "dft"}))
    assert structure.properties["energy"] == -3
    (structure,), counts = read_structures(path, LabelKeys({"energy": "absent"}))
    assert "energy" not in structure.properties
    assert "forces" in structure.properties
    assert counts.total("energy") == 0
    assert {"REF_energy", "dft"} <= counts.seen_keys.keys()


def test_the_users_own_key_may_be_called_energy(tmp_path, parser_comment):
    text = frame(f"{COLUMNS}:forces:R:3 REF_energy=-1 energy=-2{parser_comment}")
    keys = LabelKeys({"energy": "energy", "forces": "forces"})
    (structure,), _ = read_structures(write(tmp_path / "a.xyz", text), keys)
    assert structure.properties["energy"] == -2
    assert "forces" in structure.properties


def test_counts_over_frames(tmp_path):
    plain = f"{COLUMNS}:f:R:3"
    text = frame() + frame(f"{plain} energy=-2") + frame(plain)
    structures, counts = read_structures(write(tmp_path / "a.xyz", text))
    assert [s.properties.keys() for s in structures] == [{"energy", "forces"}, {"energy"}, set()]
    assert counts.summary() == "energy 2/3 (REF_energy 1, energy 1), forces 1/3 (REF_forces)"


def test_charges_are_found_as_ase_writes_them(tmp_path, parser_comment):
    text = frame(f"{COLUMNS}:charge:R:1 charge=-1{parser_comment}", ["H 0 0 0 0.5", "O 0 0 1 -1.5"])
    (structure,), _ = read_structures(write(tmp_path / "a.xyz", text), inputs=["charge"])
    assert structure.properties["charges"].tolist() == [0.5, -1.5]
    assert structure.inputs["charge"] == -1


def test_a_file_without_labels_is_read_and_says_so(tmp_path, parser_comment):
    text = frame(f"{COLUMNS}{parser_comment}", ["H 0 0 0"])
    (structure,), counts = read_structures(write(tmp_path / "a.xyz", text))
    assert structure.properties == {}
    assert structure.property_weights == {}
    assert counts.summary() == "no labels in 1 structures"


def test_weights_config_type_and_head(tmp_path, parser_comment):
    comment = (
        f"{LABELLED} config_weight=2 config_energy_weight=0.5 config_type=surface head=pbe"
        f"{parser_comment}"
    )
    path = write(tmp_path / "a.xyz", frame(comment) + frame(LABELLED + parser_comment))
    named, plain = read_structures(path, head="r2scan")[0]
    assert (named.weight, named.config_type, named.head) == (2.0, "surface", "pbe")
    assert named.property_weights == {"energy": 0.5, "forces": 1.0}
    assert (plain.weight, plain.config_type, plain.head) == (1.0, "Default", "r2scan")


@pytest.mark.parametrize("weight", ["-1", "heavy", "nan"])
def test_an_impossible_weight_is_refused(tmp_path, weight):
    path = write(tmp_path / "a.xyz", frame(f"{LABELLED} config_weight={weight}"))
    with pytest.raises(DataError, match=r"a\.xyz: frame 0: weight"):
        read_structures(path)


def test_keys_of_head_and_config_type_may_be_the_users_own(tmp_path, parser_comment):
    comment = f"{LABELLED} head=pbe theory=r2scan config_type=a group=300{parser_comment}"
    path = write(tmp_path / "a.xyz", frame(comment))
    keys = LabelKeys(head="theory", config_type="group")
    (structure,), counts = read_structures(path, keys)
    assert (structure.head, structure.config_type) == ("r2scan", "300")
    assert counts.heads == {"r2scan": 1}
    (structure,), _ = read_structures(path, LabelKeys(head="absent"), head="wb97")
    assert structure.head == "wb97"


def test_only_good_frames_are_counted(tmp_path):
    path = write(tmp_path / "a.xyz", frame() + frame(f"{LABELLED} config_weight=-1") + frame())
    counts, errors = LabelCounts(), []
    stream = stream_structures(path, LabelKeys(), counts, on_bad=errors.append)
    assert next(stream).place == f"{path}: frame 0"
    assert counts.n_structures == 1
    assert next(stream).place == f"{path}: frame 2"
    assert next(stream, None) is None
    assert counts.summary() == "energy 2/2 (REF_energy), forces 2/2 (REF_forces)"
    assert "config_weight" not in counts.seen_keys
    assert len(errors) == 1


def test_what_is_raised_for_a_bad_frame_ends_the_reading(tmp_path):
    path = write(tmp_path / "a.xyz", frame() + frame(f"{LABELLED} config_weight=-1") + frame())

    def refuse(error):
        raise DataError(f"enough: {error}")

    stream = stream_structures(path, LabelKeys(), LabelCounts(), on_bad=refuse)
    next(stream)
    with pytest.raises(DataError, match=r"enough: .*frame 1"):
        next(stream)


# --- geometry as ASE has it


@pytest.mark.parametrize(
    "cell",
    [
        "",
        'pbc="F F F"',
        'pbc="T F T" Lattice="5 1 2 0 6 3 0 0 7"',
        'Lattice="5 1 2 0 6 3 0 0 7"',
        'pbc=F Lattice="5 1 2 0 6 3 0 0 7"',
        'pbc=T Lattice="5 1 2 0 6 3 0 0 7"',
        "Lattice={5 1 2 0 6 3 0 0 7}",
    ],
)
def test_cell_and_pbc_are_those_of_ase(tmp_path, cell):
    path = write(tmp_path / "a.xyz", frame(f"{LABELLED} {cell}"))
    assert c_parser_reads(path)
    (structure,), _ = read_structures(path)
    atoms = ase.io.read(path)
    np.testing.assert_array_equal(structure.cell, atoms.cell[:])
    np.testing.assert_array_equal(structure.pbc, atoms.pbc)


vectors = st.lists(st.floats(-20, 20).map(lambda x: x + 0.0), min_size=3, max_size=3)


@st.composite
def labelled_atoms(draw):
    n = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    periodic = draw(st.booleans())
    atoms = Atoms(
        numbers=draw(st.lists(st.integers(1, 118), min_size=n, max_size=n)),
        positions=np.array(draw(st.lists(vectors, min_size=n, max_size=n))),
        cell=rng.normal(size=(3, 3)) + 4 * np.eye(3) if periodic else None,
        pbc=draw(st.tuples(*[st.booleans()] * 3)) if periodic else False,
    )
    atoms.info["REF_energy"] = float(rng.normal() * 1e4)
    atoms.arrays["REF_forces"] = rng.normal(size=(n, 3))
    voigt = rng.normal(size=6)
    stress = draw(st.sampled_from([None, voigt, symmetric_matrix(voigt)]))
    if stress is not None:
        atoms.info["REF_stress"] = stress
    return atoms


@settings(max_examples=40, deadline=None)
@given(st.lists(labelled_atoms(), min_size=1, max_size=3), st.booleans())
def test_what_ase_writes_is_read_alike_by_both_parsers(frames, calculator):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.xyz"
        if calculator:
            for atoms in frames:
                results = {"energy": atoms.info.pop("REF_energy")}
                results["forces"] = atoms.arrays.pop("REF_forces")
                stress = atoms.info.pop("REF_stress", None)
                if stress is not None:
                    results["stress"] = stress
                atoms.calc = SinglePointCalculator(atoms, **results)
        ase.io.write(path, frames, format="extxyz")
        assert c_parser_reads(path)
        fast, _ = read_structures(path)
        lines = path.read_text().replace("Properties=", f"{ASE_ONLY} Properties=")
        slow, _ = read_structures(write(Path(folder) / "b.xyz", lines))
        assert not c_parser_reads(Path(folder) / "b.xyz")
        assert len(fast) == len(slow) == len(frames)
        for one, other, atoms in zip(fast, slow, ase.io.read(path, ":"), strict=True):
            assert_same(one, other)
            results = atoms.calc.results if calculator else {}
            np.testing.assert_array_equal(one.atomic_numbers, atoms.numbers)
            np.testing.assert_allclose(one.positions, atoms.positions, rtol=1e-14)
            np.testing.assert_array_equal(one.cell, atoms.cell[:])
            np.testing.assert_array_equal(one.pbc, atoms.pbc)
            energy = results["energy"] if calculator else atoms.info["REF_energy"]
            assert one.properties["energy"] == energy
            forces = results["forces"] if calculator else atoms.arrays["REF_forces"]
            np.testing.assert_array_equal(one.properties["forces"], forces)
            stress = results.get("stress", atoms.info.get("REF_stress"))
            assert ("stress" in one.properties) == (stress is not None)
            if stress is not None:
                expected = symmetric_matrix(stress)
                np.testing.assert_array_equal(one.properties["stress"], expected)


# --- wrong files


@pytest.mark.parametrize("extra", ["", f" {ASE_ONLY}"])
def test_a_truncated_file_is_an_error_wherever_it_is_cut(tmp_path, extra):
    one = frame(LABELLED + extra)
    text = one * 2
    last_number = len(text) - len("-0.3\n")
    for cut in range(len(one) + 1, last_number + 1):
        path = write(tmp_path / "cut.xyz", text[:cut])
        with pytest.raises(DataError, match=r"cut\.xyz: frame 1"):
            read_structures(path)


def test_a_frame_boundary_is_not_a_truncation(tmp_path):
    assert len(read_structures(write(tmp_path / "a.xyz", frame()))[0]) == 1
    assert len(read_structures(write(tmp_path / "b.xyz", (frame() * 2)[:-1]))[0]) == 2
    assert len(read_structures(write(tmp_path / "c.xyz", frame() + "\n  \n"))[0]) == 1


@pytest.mark.parametrize("between", ["\n", "  \n", "\n\n"])
@pytest.mark.parametrize("extra", ["", f" {ASE_ONLY}"])
def test_frames_after_a_blank_line_are_never_dropped_silently(tmp_path, between, extra):
    one = frame(LABELLED + extra)
    path = write(tmp_path / "a.xyz", one + between + one)
    try:
        structures, _ = read_structures(path)
    except DataError:
        return
    assert len(structures) == 2


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
def test_an_empty_file_is_an_error(tmp_path, text):
    with pytest.raises(DataError, match="holds no structures"):
        read_structures(write(tmp_path / "a.xyz", text))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_structures(tmp_path / "absent.xyz")


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (frame(atoms=("H 0 0 0 1 1 1", "H 0 0 1 nan 0 0")), "REF_forces|forces of atom 1"),
        (frame(atoms=("H 0 0 0 1 1 1", "H 0 inf 1 0 0 0")), "positions of atom 1"),
        (frame(f"{COLUMNS}:REF_forces:R:3 REF_energy=nan"), "energy"),
        (frame(f"{LABELLED} REF_stress=_JSON [1,2]"), "frame 1"),
        (frame(f'{LABELLED} REF_stress="1 2 3"'), "REF_stress: stress cannot be used"),
        (frame(f"{COLUMNS}:REF_forces:R:3 REF_energy=low"), "REF_energy: energy cannot be used"),
        (frame(atoms=("Qq 0 0 0 1 1 1",)), "Qq"),
        (frame(atoms=("X 0 0 0 1 1 1",)), "atom 0: atomic number 0"),
        (frame(f'{LABELLED} Lattice="[[5,0,0],[0,5,0],[0,0,5]]"'), "frame 1"),
        ("three\n", "frame"),
    ],
)
def test_a_bad_frame_is_named(tmp_path, bad, place):
    path = write(tmp_path / "bad.xyz", frame() + bad)
    with pytest.raises(DataError, match=rf"bad\.xyz: frame \d.*({place})|{place}"):
        read_structures(path)


def test_nan_forces_name_frame_and_atom(tmp_path):
    text = frame() + frame(atoms=("H 0 0 0 1 1 1", "H 0 0 1 0 nan 0"))
    with pytest.raises(DataError, match=r"bad\.xyz: frame 1: forces of atom 1 is nan"):
        read_structures(write(tmp_path / "bad.xyz", text))


def test_a_frame_of_no_atoms_does_not_crash_the_parser(tmp_path):
    path = write(tmp_path / "a.xyz", frame(atoms=()))
    code = (
        "import sys; from pathlib import Path\n"
        "from mace_jax.errors import DataError\n"
        "from mace_jax.structures.read_structures import read_structures\n"
        "try: read_structures(Path(sys.argv[1]))\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-300:]}"
    assert "a.xyz: frame 0" in done.stdout


def test_a_binary_file_is_an_error(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(DataError, match=r"a\.xyz"):
        read_structures(path)


def test_a_symbol_that_is_no_element_is_named_with_its_atom(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("2\nProperties=species:S:1:pos:R:3 energy=1\nh 0 0 0\nXx 0 0 1\n")
    with pytest.raises(DataError, match=r"a\.xyz: frame 0: atom 1: unknown element 'Xx'"):
        read_structures(path)


# --- columns and entries that a model is told


def test_inputs_are_kept_where_they_are_asked_for(tmp_path, parser_comment):
    comment = f'{COLUMNS}:spin:R:1:pair:R:2 total_charge=-1 field="1.0 2.0 3.0"{parser_comment}'
    atoms = ("H 0 0 0 0.5 1 2", "H 0 0 1 -0.5 3 4")
    path = write(tmp_path / "a.xyz", frame(comment, atoms) + frame(COLUMNS, ("H 0 0 0",)))
    (first, second), _ = read_structures(path, inputs=["total_charge", "spin", "pair", "field"])
    expected = {
        "total_charge": np.array(-1.0),
        "spin": np.array([0.5, -0.5]),
        "pair": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "field": np.array([1.0, 2.0, 3.0]),
    }
    assert first.inputs.keys() == expected.keys()
    for name, value in expected.items():
        assert first.inputs[name].dtype == np.float64
        np.testing.assert_array_equal(first.inputs[name], value)
    assert second.inputs == {}
    (plain, _), _ = read_structures(path)
    assert plain.inputs == {}


def test_inputs_that_are_no_numbers_are_refused(tmp_path, parser_comment):
    path = write(tmp_path / "a.xyz", frame(f"{LABELLED} total_charge=minus{parser_comment}"))
    with pytest.raises(DataError, match=r"a\.xyz: frame 0: total_charge cannot be used"):
        read_structures(path, inputs=["total_charge"])


@pytest.mark.parametrize(
    ("comment", "atom", "message"),
    [
        ("total_charge=nan", "0.5", "total_charge is nan"),
        ("total_charge=inf", "0.5", "total_charge is inf"),
        ("total_charge=1", "nan", "spin of atom 0 is nan"),
    ],
)
def test_inputs_that_are_not_finite_are_named(tmp_path, parser_comment, comment, atom, message):
    text = frame(f"{COLUMNS}:spin:R:1 {comment}{parser_comment}", (f"H 0 0 0 {atom}",))
    path = write(tmp_path / "a.xyz", text)
    with pytest.raises(DataError, match=rf"a\.xyz: frame 0: {message}"):
        read_structures(path, inputs=["total_charge", "spin"])
