"""Every way in which a file can be wrong: one line that says where, what, and what to do."""

import gzip
import os
import re
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.errors import DataError
from mace_jax.structures.extxyz_frames import NothingFollowsError, parse_raw_frame, raw_frames
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import read_structures, stream_structures

COLUMNS = "Properties=species:S:1:pos:R:3"
LABELLED = f"{COLUMNS}:REF_forces:R:3 REF_energy=-1.5"
ATOMS = ("H 0 0 0 0.1 0.2 0.3", "O 0 0 1 -0.1 -0.2 -0.3")
PLAIN_ATOMS = ("H 0 0 0", "O 0 0 1")
CELL = 'Lattice="5 0 0 0 5 0 0 0 5"'


def frame(comment=LABELLED, atoms=ATOMS, count=None):
    return "\n".join([str(len(atoms) if count is None else count), comment, *atoms, ""])


def labelled(extra):
    return frame(f"{LABELLED} {extra}")


GOOD = frame()

# Bad frames with a right count: reading can go on after them.
BAD_FRAMES = {
    "too few columns": (
        frame(atoms=("H 0 0 0 1 1 1", "O 0 0 1 1 1")),
        r"atom 1 \(line 8\): 6 columns, expected 7 \(species, pos, REF_forces\)",
    ),
    "too many columns": (
        frame(atoms=("H 0 0 0 1 1 1", "O 0 0 1 1 1 1 1")),
        r"atom 1 \(line 8\): 8 columns, expected 7",
    ),
    "too many columns everywhere": (
        frame(COLUMNS),
        r"atom 0 \(line 7\): 7 columns, expected 4 \(species, pos\)",
    ),
    "a row is blank": (frame(atoms=(ATOMS[0], "")), r"atom 1 \(line 8\): 0 columns, expected 7"),
    "no atoms": (frame(atoms=()), r"has no atoms \(line 5\), expected at least one"),
    "no Properties but labels": (frame("REF_energy=1"), "7 columns, expected 4"),
    "Properties in parts": (
        frame(f"{COLUMNS}:REF_forces:R"),
        r"Properties 'species.*': 8 parts, expected name:kind:width",
    ),
    "Properties without a name": (frame("Properties=:S:1:pos:R:3"), ":S:1, expected a name"),
    "Properties empty": (frame('Properties=""'), "Properties '': 1 parts"),
    "Properties of an unknown kind": (
        frame(f"{COLUMNS}:REF_forces:F:3"),
        "REF_forces:F:3, expected a name, one of S, R, I, L",
    ),
    "Properties without a width": (frame(f"{COLUMNS}:REF_forces:R:x"), "REF_forces:R:x"),
    "Properties of zero width": (frame(f"{COLUMNS}:REF_forces:R:0"), "REF_forces:R:0"),
    "Properties of negative width": (frame(f"{COLUMNS}:REF_forces:R:-3"), "REF_forces:R:-3"),
    "Properties of huge width": (
        frame(f"{COLUMNS}:REF_forces:R:99999999999"),
        "REF_forces:R:99999999999",
    ),
    "Properties of large width": (
        frame(f"{COLUMNS}:REF_forces:R:999999"),
        "7 columns, expected 1000003",
    ),
    "Properties twice": (frame(f"{LABELLED} {COLUMNS}"), "Properties is given 2 times"),
    "a property twice": (
        frame(f"{COLUMNS}:pos:R:3"),
        "pos is named 2 times, expected once",
    ),
    "a key twice": (labelled("REF_energy=2"), "REF_energy is given 2 times, expected once"),
    "no symbols": (
        frame("Properties=pos:R:3", ("0 0 0", "0 0 1")),
        "no species:S:1 and no Z:I:1, expected the elements",
    ),
    "no positions": (frame("Properties=species:S:1", ("H", "O")), "no pos:R:3, expected"),
    "positions in a plane": (
        frame("Properties=species:S:1:pos:R:2", ("H 0 0", "O 0 1")),
        "pos:R:2, expected pos:R:3",
    ),
    "symbols that are numbers": (
        frame("Properties=species:I:1:pos:R:3", ("1 0 0 0", "8 0 0 1")),
        "species:I:1, expected species:S:1",
    ),
    "Lattice of six": (
        labelled('Lattice="5 5 5 90 90 90"'),
        "Lattice is 6 numbers, expected the n",
    ),
    "Lattice of eight": (labelled('Lattice="5 0 0 0 5 0 0 0"'), "Lattice is 8 numbers"),
    "Lattice of ten": (labelled('Lattice="5 0 0 0 5 0 0 0 5 5"'), "Lattice is 10 numbers"),
    "Lattice of words": (labelled('Lattice="a b c d e f g h i"'), "Lattice is 'a b c"),
    "Lattice of a NaN": (labelled('Lattice="5 0 0 0 nan 0 0 0 5"'), "Lattice is '5 0 0 0 nan"),
    "Lattice true": (labelled("Lattice=T"), "Lattice is True, expected the nine numbers"),
    "Lattice as JSON": (labelled('Lattice="_JSON [[1], [2, 3]]"'), "Lattice is '_JSON"),
    "periodic without Lattice": (
        labelled('pbc="T T T"'),
        "periodic along a, b, c with no cell, expected independent cell vectors",
    ),
    "a zero vector": (
        labelled('Lattice="5 0 0 0 0 0 0 0 5" pbc="F T F"'),
        "periodic along b with a cell vector of zero length",
    ),
    "vectors in a plane": (
        labelled('Lattice="5 0 0 0 5 0 5 5 0"'),
        "periodic along a, b, c with cell vectors in one plane",
    ),
    "two parallel vectors": (
        labelled('Lattice="1 2 3 2 4 6 0 0 5" pbc="T T F"'),
        "periodic along a, b with cell vectors in one plane or on one line",
    ),
    "pbc of two": (
        labelled(f'{CELL} pbc="T T"'),
        "pbc is .True, True., expected T or F along each",
    ),
    "pbc of words": (labelled(f'{CELL} pbc="T T maybe"'), "pbc is 'T T maybe'"),
    "pbc of numbers": (labelled(f'{CELL} pbc="1 1 2"'), "pbc is .1, 1, 2."),
    "pbc as JSON": (labelled(f'{CELL} pbc="_JSON [[1], 2]"'), "pbc is '_JSON"),
    "an unknown symbol": (
        frame(COLUMNS, ("H 0 0 0", "Xx 0 0 1")),
        "atom 1: unknown element 'Xx', expected a chemical symbol",
    ),
    "a placeholder": (frame(COLUMNS, ("X 0 0 0",)), "atom 0: atomic number 0, expected 1 to 118"),
    "atomic number 0": (
        frame("Properties=Z:I:1:pos:R:3", ("1 0 0 0", "0 0 0 1")),
        "atom 1: atomic number 0, expected 1 to 118",
    ),
    "atomic number 119": (
        frame("Properties=Z:I:1:pos:R:3", ("119 0 0 0",)),
        "atom 0: atomic number 119",
    ),
    "an atomic number that overflows": (
        frame("Properties=Z:I:1:pos:R:3", ("4294967297 0 0 0",)),
        "atom 0: atomic number 4294967297",
    ),
    "an atomic number with a point": (
        frame("Properties=Z:I:1:pos:R:3", ("1.0 0 0 0",)),
        r"atom 0 \(line 7\): Z '1.0', expected an integer",
    ),
    "symbol and number disagree": (
        frame("Properties=species:S:1:Z:I:1:pos:R:3", ("H 1 0 0 0", "O 6 0 0 1")),
        "atom 1: Z 6 of element 'O', expected a chemical symbol and its number",
    ),
    "a position that is no number": (
        frame(atoms=("H 0 0 zero 1 1 1",)),
        r"atom 0 \(line 7\): pos 'zero', expected a number",
    ),
    "stars in place of a number": (
        frame(atoms=("H 0 0 0 1 ******** 1",)),
        r"atom 0 \(line 7\): REF_forces '\*+', expected a number",
    ),
    "a digit separator": (frame(atoms=("H 0 0 1_0 1 1 1",)), "pos '1_0', expected a number"),
    "a position that is not finite": (
        frame(atoms=("H 0 0 inf 1 1 1",)),
        "positions of atom 0 is inf, expected a finite number",
    ),
    "forces with NaN": (
        frame(atoms=("H 0 0 0 1 1 1", "O 0 0 1 1 nan 1")),
        "forces of atom 1 is nan",
    ),
    "forces with inf": (frame(atoms=("H 0 0 0 1 1 -inf",)), "forces of atom 0 is -inf"),
    "forces out of range": (frame(atoms=("H 0 0 0 1 1 1e999",)), "forces of atom 0 is inf"),
    "two forces an atom": (
        frame(f"{COLUMNS}:REF_forces:R:2", ("H 0 0 0 1 1", "O 0 0 1 1 1")),
        r"REF_forces: forces cannot be used: shape \(2, 2\), expected \(2, 3\)",
    ),
    "forces on the comment line": (
        frame(f'{COLUMNS} REF_forces="1 2 3"', PLAIN_ATOMS),
        r"REF_forces: forces cannot be used: shape \(3,\), expected \(2, 3\)",
    ),
    "forces that are text": (
        frame(f"{COLUMNS}:REF_forces:S:3"),
        "REF_forces: forces cannot be used: .* is not a number",
    ),
    "forces that are true or false": (
        frame(f"{COLUMNS}:REF_forces:L:3", ("H 0 0 0 T F true",)),
        "REF_forces: forces cannot be used",
    ),
    "energy that is text": (
        frame(f"{COLUMNS} REF_energy=low", PLAIN_ATOMS),
        "REF_energy: energy cannot be used: 'low' is not a number",
    ),
    "energy that is true": (
        frame(f"{COLUMNS} REF_energy=T", PLAIN_ATOMS),
        "REF_energy: energy cannot be used: True is not a number",
    ),
    "energy without a value": (
        frame(f"{COLUMNS} REF_energy=", PLAIN_ATOMS),
        "REF_energy: energy cannot be used",
    ),
    "energy of three": (
        frame(f'{COLUMNS} REF_energy="1 2 3"', PLAIN_ATOMS),
        r"REF_energy: energy cannot be used: shape \(3,\), expected \(\)",
    ),
    "energy NaN": (frame(f"{COLUMNS} REF_energy=NaN", PLAIN_ATOMS), "energy is nan"),
    "energy as JSON": (
        frame(f'{COLUMNS} REF_energy="_JSON {{}}"', PLAIN_ATOMS),
        "REF_energy: energy cannot be used",
    ),
    "broken JSON": (labelled('a="_JSON [1, 2"'), "a '_JSON .1, 2' is no JSON"),
    "stress of five": (
        labelled('REF_stress="1 2 3 4 5"'),
        r"REF_stress: stress cannot be used: shape \(5,\), expected \(6,\), \(9,\) or \(3, 3\)",
    ),
    "stress of seven": (labelled('REF_stress="1 2 3 4 5 6 7"'), "stress cannot be used: shape"),
    "stress that is not symmetric": (
        labelled('REF_stress="1 2 3 4 5 6 7 8 9"'),
        "stress cannot be used: element 0,2 is 7 and 2,0 is 3, expected a symmetric matrix",
    ),
    "dipole of two": (
        labelled('REF_dipole="1 2"'),
        r"REF_dipole: dipole cannot be used: shape \(2,\), expected \(3,\)",
    ),
    "weight negative": (labelled("config_weight=-1"), "config_weight is -1, expected a number ≥ 0"),
    "weight NaN": (labelled("config_weight=nan"), "config_weight is 'nan', expected a number"),
    "weight true": (labelled("config_weight=T"), "config_weight is True, expected a number"),
    "weight of a label": (
        labelled("config_energy_weight=heavy"),
        "config_energy_weight is 'heavy'",
    ),
    "head that is no name": (labelled('head="1 2"'), "head is .1, 2., expected a name"),
    "config_type true": (labelled("config_type=T"), "config_type is True, expected a name"),
    "a quote that is not closed": (
        labelled('config_type="surface'),
        """comment line: '"surface' is never closed, expected ";""",
    ),
    "a bracket that is not closed": (
        labelled("a={1 2 3"),
        "comment line: '{1 2 3' is never closed, expected }",
    ),
    "a NUL byte in a row": (
        frame(atoms=("H 0 0 0 1 1 \0 1",)),
        "line 7: a NUL byte, expected UTF-8 text",
    ),
    "a NUL byte on the comment line": (labelled("a=b\0c"), "line 6: a NUL byte"),
    "not UTF-8 on the comment line": (
        labelled("author=Andr").encode().replace(b"Andr", b"Andr\xe9"),
        r"line 6: byte 0xe9 at column \d+, expected UTF-8 text",
    ),
    "not UTF-8 in a row": (
        frame(atoms=("H 0 0 0 1 1 X",)).encode().replace(b"X", b"\xff"),
        "line 7: byte 0xff at column 13",
    ),
}

# After these nothing says where the next frame begins.
LOST = {
    "more rows than the count says": (
        frame(count=1),
        r"line 8: 'O 0 0 1 -0.1 -0.2 -0.3' follows its 1 atoms, expected the next frame; "
        r"correct the count \(line 5\)",
    ),
    "fewer rows than the count says": (
        frame(count=3),
        r"atom 2 \(line 9\): 1 columns, expected 7",
    ),
    "no comment line": (f"2\n{PLAIN_ATOMS[0]}\n{PLAIN_ATOMS[1]}\n", "atom 1 .*: 1 columns"),
    "a count that is a word": (frame(count="two"), "line 5: 'two', expected the number of atoms"),
    "a count with a point": (frame(count="2.0"), "line 5: '2.0', expected the number of atoms"),
    "a negative count": (frame(count="-2"), "line 5: '-2', expected the number of atoms"),
    "a count with a digit separator": (frame(count="0_2"), "line 5: '0_2'"),
    "two numbers on the count line": (frame(count="2 2"), "line 5: '2 2'"),
    "an empty count line": (frame(count=""), "line 6: 'Properties=.*…', expected the number of"),
    "garbage": ("and so on\n", "line 5: 'and so on', expected the number of atoms"),
    "a count beyond all numbers": (frame(count="9" * 30), "expected the number of atoms"),
    "binary": (np.random.default_rng(0).bytes(500), "line 5: .*expected the number of atoms"),
}

# The file ends inside its last frame.
CUT = {
    "after the count line": ("2\n", "the file ends after 0 of 2 atoms"),
    "after the comment line": (f"2\n{LABELLED}\n", "the file ends after 0 of 2 atoms"),
    "after a row": (f"2\n{LABELLED}\n{ATOMS[0]}\n", r"after 1 of 2 atoms.*the count \(line 5\)"),
    "inside a row": (f"2\n{LABELLED}\n{ATOMS[0]}\nO 0 0", "atom 1 .*: 3 columns, expected 7"),
    "no comment line": ("2\nH 0 0 0\nO 0 0 1\n", "the file ends after 1 of 2 atoms"),
    "a huge count": (frame(count=10**12), "the file ends after 2 of 1000000000000 atoms"),
}


MEANINGFUL = [
    *(b'"', b"=", b"{", b"}", b"[", b"]", b"[[", b"]]", b"\\", b":", b":R:", b":S:1"),
    *(b"\n", b"\r", b"0", b"-1", b",", b"nan", b"1e999", b"99999999999", b"_JSON "),
]


def content(*parts):
    return b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)


def read_all(path):
    """Return the good structures and the messages about the bad ones."""
    errors = []
    good = stream_structures(path, LabelKeys(), LabelCounts(), on_bad=errors.append)
    return list(good), [str(error) for error in errors]


def assert_one_line(message, path, index):
    assert message.startswith(f"{path}: frame {index}: ")
    assert "\n" not in message
    assert "; " in message, "what to do is missing"


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_named_and_reading_can_go_on_after_it(tmp_path, name):
    bad, expected = BAD_FRAMES[name]
    path = tmp_path / "bad.xyz"
    path.write_bytes(content(GOOD, bad, GOOD))
    with pytest.raises(DataError, match=f"frame 1: .*{expected}") as raised:
        read_structures(path)
    assert_one_line(str(raised.value), path, 1)
    good, messages = read_all(path)
    assert messages == [str(raised.value)]
    assert [structure.place for structure in good] == [f"{path}: frame 0", f"{path}: frame 2"]


@pytest.mark.parametrize("name", LOST)
def test_where_the_next_frame_is_not_known_the_rest_is_one_bad_place(tmp_path, name):
    bad, expected = LOST[name]
    path = tmp_path / "bad.xyz"
    path.write_bytes(content(GOOD, bad, GOOD, GOOD))
    with pytest.raises(DataError, match=f"frame 1: .*{expected}.*nothing after it") as raised:
        read_structures(path)
    assert_one_line(str(raised.value), path, 1)
    good, messages = read_all(path)
    assert messages == [str(raised.value)]
    assert [structure.place for structure in good] == [f"{path}: frame 0"]


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_ends_inside_a_frame(tmp_path, name):
    bad, expected = CUT[name]
    path = tmp_path / "bad.xyz"
    path.write_bytes(content(GOOD, bad))
    with pytest.raises(DataError, match=f"frame 1: .*{expected}") as raised:
        read_structures(path)
    assert_one_line(str(raised.value), path, 1)
    good, messages = read_all(path)
    assert messages == [str(raised.value)]
    assert len(good) == 1


def test_there_are_enough_kinds():
    assert len(BAD_FRAMES) + len(LOST) + len(CUT) > 80


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([None, None, *BAD_FRAMES]), max_size=12), st.booleans())
def test_bad_frames_among_good_ones_are_reported_once_each(names, compressed):
    frames = [GOOD if name is None else BAD_FRAMES[name][0] for name in [None, *names]]
    good_places = [i for i, name in enumerate([None, *names]) if name is None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.xyz.gz" if compressed else "a.xyz")
        data = content(*frames)
        path.write_bytes(gzip.compress(data, 1) if compressed else data)
        good, messages = read_all(path)
        assert [s.place for s in good] == [f"{path}: frame {i}" for i in good_places]
        bad_places = [i for i in range(len(frames)) if i not in good_places]
        assert [message.split(": ")[1] for message in messages] == [
            f"frame {i}" for i in bad_places
        ]


def errors_in(file):
    """The errors of the frames of a file, up to the frame that is the last."""
    for index, raw in enumerate(raw_frames(file, "a.xyz")):
        try:
            parse_raw_frame(raw, f"a.xyz: frame {index}")
        except DataError as error:
            yield error
            if isinstance(error, NothingFollowsError):
                return


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_the_bytes_are_the_error_is_one_of_ours(data):
    original = content(GOOD, labelled(f'{CELL} pbc="T T F" stress="1 2 3 4 5 6" a={{1 2}}'), GOOD)
    spoilt = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(spoilt)))
        end = data.draw(st.integers(start, min(len(spoilt), start + 3)))
        spoilt[start:end] = data.draw(st.binary(max_size=3) | st.sampled_from(MEANINGFUL))
    messages = [str(error) for error in errors_in(BytesIO(spoilt))]
    assert all(re.fullmatch(r"a\.xyz: frame \d: .*; .*", message) for message in messages)


# --- unusual, but right


def rows_of(structures):
    return [
        (s.atomic_numbers.tolist(), s.positions.tolist(), s.cell.tolist(), s.pbc.tolist())
        for s in structures
    ]


def labels_of(structures):
    return [{name: value.tolist() for name, value in s.properties.items()} for s in structures]


UNUSUAL = {
    "windows": lambda text: text.replace("\n", "\r\n"),
    "byte order mark": lambda text: "\ufeff" + text,
    "blank lines": lambda text: "\n" + text.replace(GOOD, GOOD + "\n \n"),
    "no newline at the end": lambda text: text.rstrip("\n"),
    "tabs": lambda text: text.replace(" 0 0 ", "\t0\t0\t"),
    "spaces around": lambda text: re.sub("(?m)^", "  ", text).replace("\n", "  \n"),
    "counts with zeros": lambda text: re.sub("(?m)^2$", "002", text),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_files_read_the_same(tmp_path, name):
    text = GOOD + labelled(f"{CELL} note=x") + GOOD
    plain, other = tmp_path / "plain.xyz", tmp_path / "other.xyz"
    plain.write_text(text)
    other.write_bytes(UNUSUAL[name](text).encode())
    assert other.read_bytes() != plain.read_bytes()
    expected, _ = read_structures(plain)
    found, counts = read_structures(other)
    assert len(expected) == 3
    assert rows_of(found) == rows_of(expected)
    assert labels_of(found) == labels_of(expected)
    assert set(counts.seen_keys) == {"REF_energy", "REF_forces", "note"}


def test_mixed_frames_left_handed_cells_and_atoms_outside_are_right(tmp_path):
    left_handed = f'{COLUMNS} Lattice="0 5 0 5 0 0 0 0 5"'
    text = GOOD + frame(left_handed, ("H 77 -80 0", "O 0 0 1")) + frame("", PLAIN_ATOMS)
    (tmp_path / "a.xyz").write_text(text)
    structures, counts = read_structures(tmp_path / "a.xyz")
    assert np.linalg.det(structures[1].cell) < 0
    assert structures[1].positions[0].tolist() == [77, -80, 0]
    assert counts.summary() == "energy 1/3 (REF_energy), forces 1/3 (REF_forces)"


def test_nan_in_a_column_that_nobody_asks_for_is_right(tmp_path):
    text = frame(f'{COLUMNS}:q:R:1 stress="1 2 3 4 5 6"', ("H 0 0 0 nan", "O 0 0 1 1.5"))
    (tmp_path / "a.xyz").write_text(text)
    (structure,), _ = read_structures(tmp_path / "a.xyz")
    assert structure.properties["stress"][0].tolist() == [1, 6, 5]
    with pytest.raises(DataError, match="q of atom 0 is nan"):
        read_structures(tmp_path / "a.xyz", inputs=["q"])


@pytest.mark.parametrize("key", ["REF_stress", "stress", "virials"])
def test_nine_rounded_numbers_are_the_same_for_both_parsers(tmp_path, key):
    comment = f'{COLUMNS} {CELL} {key}="1 0.1001 0 0.1002 1 0 0 0 1"'
    (tmp_path / "a.xyz").write_text(frame(comment, PLAIN_ATOMS))
    (tmp_path / "b.xyz").write_text(frame(f"{comment} id=12345678901", PLAIN_ATOMS))
    (a,), _ = read_structures(tmp_path / "a.xyz")
    (b,), _ = read_structures(tmp_path / "b.xyz")
    name = key.removeprefix("REF_")
    assert a.properties[name].tolist() == b.properties[name].tolist()
    np.testing.assert_allclose(a.properties[name][0], [1, 0.10015, 0], rtol=1e-15)


def test_integers_beyond_32_bits_keep_their_value(tmp_path):
    comment = f"{COLUMNS}:big:I:1 REF_energy=-3000000000 total=30000000000"
    (tmp_path / "a.xyz").write_text(frame(comment, ("H 0 0 0 5000000000", "O 0 0 1 -7")))
    (structure,), _ = read_structures(tmp_path / "a.xyz", inputs=["big", "total"])
    assert structure.properties["energy"] == -3e9
    assert structure.inputs["total"] == 3e10
    assert structure.inputs["big"].tolist() == [5e9, -7]


@pytest.mark.parametrize("comment", ["", "water, at 300 K", "it's \"water", "H 0 0 0"])
def test_plain_xyz_has_any_comment(tmp_path, comment):
    (tmp_path / "a.xyz").write_text(frame(comment, PLAIN_ATOMS) * 2)
    structures, counts = read_structures(tmp_path / "a.xyz")
    assert [s.atomic_numbers.tolist() for s in structures] == [[1, 8]] * 2
    assert not counts.seen_keys


def test_atomic_numbers_stand_for_symbols(tmp_path):
    text = frame("Properties=Z:I:1:pos:R:3", ("1 0 0 0", "8 0 0 1"))
    (tmp_path / "a.xyz").write_text(text)
    assert read_structures(tmp_path / "a.xyz")[0][0].atomic_numbers.tolist() == [1, 8]


# --- the file as a whole


def test_a_huge_count_allocates_nothing(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(frame(count=10**12))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from mace_jax.errors import DataError\n"
        "from mace_jax.structures.read_structures import read_structures\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))\n"
        "try: read_structures(Path(sys.argv[1]))\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert "the file ends after 2 of 1000000000000 atoms" in done.stdout


def test_a_wrong_count_does_not_swallow_a_file_of_many_frames(tmp_path):
    path = tmp_path / "a.xyz"
    n_frames = 60_000
    path.write_text(frame(count=10**12) + GOOD * n_frames)
    with path.open("rb") as file:
        (error,) = errors_in(file)
        assert "atom 2 (line 5): 1 columns" in str(error)
        assert file.tell() < path.stat().st_size / 2


def test_a_count_of_many_atoms_is_right(tmp_path):
    path = tmp_path / "a.xyz"
    n = 100_002
    path.write_text(frame(COLUMNS, ["H 0 0 0"] * n) + GOOD)
    assert [len(s) for s in read_structures(path)[0]] == [n, 2]


@pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.xyz.gz", "a.db", "a.traj", "a"])
def test_an_empty_file(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with pytest.raises(DataError, match=rf"{name}: (holds no structures|frame 0: ASE cannot)"):
        read_structures(path)


def test_a_folder(tmp_path):
    (tmp_path / "a.xyz").mkdir()
    with pytest.raises(DataError, match=r"a\.xyz: is a folder, expected a file"):
        read_structures(tmp_path / "a.xyz")


def test_a_missing_file_is_an_error_even_if_bad_frames_are_not(tmp_path):
    with pytest.raises(DataError, match=r"a\.xyz: no such file"):
        read_all(tmp_path / "a.xyz")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_must_not_be_read(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(
        DataError, match=r"cannot be opened .Permission denied.; check the path and"
    ):
        read_structures(path)
