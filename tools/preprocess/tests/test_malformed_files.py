"""Malformed files given to the command: one line, exit 1, nothing written; or passed over."""

import bz2
import gzip
import lzma
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import pyarrow as pa
import pytest

from mace_jax.artifacts.dataset import Dataset
from mace_jax_preprocess.cli import main

COLUMNS = "Properties=species:S:1:pos:R:3"
LABELLED = f"{COLUMNS}:REF_forces:R:3 REF_energy=-1.5"
ROWS = ("O 0 0 0 0.1 0.2 0.3", "H 0.96 0 0 -0.1 0 0", "H -0.24 0.93 0 0 -0.2 -0.3")
CUBE = 'Lattice="5 0 0 0 5 0 0 0 5"'


def frame(comment: str = LABELLED, rows: tuple[str, ...] = ROWS, count: object = None) -> bytes:
    lines = (str(len(rows) if count is None else count), comment, *rows, "")
    return "\n".join(lines).encode()


def labelled(extra: str, rows: tuple[str, ...] = ROWS) -> bytes:
    return frame(f"{LABELLED} {extra}", rows)


def energy(text: str) -> bytes:
    return frame(f"{COLUMNS}:REF_forces:R:3 REF_energy={text}")


def numbered(*numbers: str) -> bytes:
    rows = tuple(f"{number} {i} 0 0" for i, number in enumerate(numbers))
    return frame("Properties=Z:I:1:pos:R:3 REF_energy=1", rows)


def rows(*texts: str) -> bytes:
    return frame(rows=texts)


GOOD = frame()
ISOLATED = f"{COLUMNS} config_type=IsolatedAtom"

# A frame, and what is said of it; the next frame can be found.
FRAMES = {
    "a column too few": (rows(ROWS[0], "H 1 0 0 1 1"), r"atom 1 .line 9.: 6 columns, expected 7"),
    "a column too many": (rows(ROWS[0], f"{ROWS[1]} 1"), r"atom 1 .*: 8 columns, expected 7"),
    "fewer properties than columns": (frame(COLUMNS), "7 columns, expected 4 .species, pos"),
    "Properties in small letters": (frame(LABELLED.lower()), "7 columns, expected 4"),
    "Properties without pos": (
        frame("Properties=species:S:1 REF_energy=1", ("O", "H")),
        "no pos:R:3, expected the positions",
    ),
    "a key twice": (labelled("REF_energy=2"), "REF_energy is given 2 times, expected once"),
    "a quote left open": (labelled('note="dft'), "is never closed, expected"),
    "no atoms": (frame(rows=()), "has no atoms .*expected at least one; remove the frame"),
    "not UTF-8": (labelled("by=Andr\\").replace(b"\\", b"\xe9"), "byte 0xe9 at column .*UTF-8"),
    "a NUL byte": (labelled("by=\0"), "a NUL byte, expected UTF-8 text"),
    "deuterium": (rows("D 0 0 0 0 0 0"), "atom 0: unknown element 'D', expected a chemical symbol"),
    "a label of an atom": (rows("O1 0 0 0 0 0 0"), "atom 0: unknown element 'O1'"),
    "a number as symbol": (rows("8 0 0 0 0 0 0"), "atom 0: unknown element '8'"),
    "atomic number 0": (numbered("8", "0"), "atom 1: atomic number 0, expected 1 to 118"),
    "atomic number 119": (numbered("8", "119"), "atom 1: atomic number 119, expected 1 to 118"),
    "negative atomic number": (numbered("-8"), "atom 0: atomic number -8, expected 1 to 118"),
    "pbc without Lattice": (labelled('pbc="T T T"'), "periodic along a, b, c with no cell"),
    "Lattice of eight": (labelled('Lattice="5 0 0 0 5 0 0 0"'), "8 numbers, expected the nine"),
    "Lattice of ten": (labelled('Lattice="5 0 0 0 5 0 0 0 5 5"'), "10 numbers, expected the nine"),
    "Lattice with a NaN": (labelled('Lattice="nan 0 0 0 5 0 0 0 5"'), "Lattice is 'nan"),
    "no volume": (
        labelled('Lattice="5 0 0 10 0 0 0 0 5"'),
        "cell vectors in one plane or on one line, expected independent",
    ),
    "a vector of zero": (labelled('Lattice="5 0 0 0 5 0 0 0 0"'), "vector of zero length"),
    "a cell in metres": (
        labelled('Lattice="5e-10 0 0 0 5e-10 0 0 0 5e-10"'),
        "images of an atom nearer than 0.1 Å, expected cell vectors in Å",
    ),
    "a short vector": (labelled('Lattice="1e-6 0 0 0 5 0 0 0 5"'), "images of an atom nearer"),
    "a short period": (
        labelled('Lattice="1e-6 0 0 0 5 0 0 0 5" pbc="T F F"'),
        "periodic along a with images of an atom nearer",
    ),
    "a cell beyond all numbers": (
        labelled('Lattice="1e300 0 0 0 5 0 0 0 5"'),
        r"cell is 1e\+300, expected one up to 1e\+12",
    ),
    "two atoms at one place": (
        rows(*ROWS, ROWS[1]),
        "atoms (1 and 3|3 and 1) are at the same place; remove one",
    ),
    "an atom at the place of an image": (
        labelled(CUBE, (*ROWS, "H 5.96 0 0 0 0 0")),
        "atoms (1 and 3|3 and 1) are at the same place",
    ),
    "infinite position": (rows("O inf 0 0 0 0 0"), "positions of atom 0 is inf, expected a finite"),
    "a position out of range": (
        rows(ROWS[0], "H 0 1e308 0 0 0 0"),
        r"positions of atom 1 is 1e\+308, expected one up to 1e\+12",
    ),
    "infinite force": (rows("O 0 0 0 0 0 -inf"), "forces of atom 0 is -inf, expected a finite"),
    "a force out of range": (rows("O 0 0 0 1e200 0 0"), r"forces of atom 0 is 1e\+200, expected"),
    "stars for a force": (rows("O 0 0 0 ****** 0 0"), r"REF_forces '\*+', expected a number"),
    "two forces an atom": (
        frame(f"{COLUMNS}:REF_forces:R:2 REF_energy=1", ("O 0 0 0 1 1", "H 1 0 0 1 1")),
        r"forces cannot be used: shape \(2, 2\), expected \(2, 3\)",
    ),
    "an energy with its unit": (energy('"-1.5 eV"'), "'-1.5 eV' is not a number"),
    "an energy of None": (energy("None"), "REF_energy: energy cannot be used: 'None' is not a"),
    "a decimal comma": (energy("-1,5"), r"energy cannot be used: shape \(2,\), expected \(\)"),
    "an energy too large to hold": (energy("1e999"), "energy is inf, expected a finite number"),
    "an energy too large to square": (energy("1e308"), r"energy is 1e\+308, expected one up to"),
    "stress with a NaN": (labelled('REF_stress="1 2 3 4 5 nan"'), "REF_stress: stress cannot be"),
    "virials with an inf": (labelled('REF_virials="1 2 3 4 5 inf"'), "REF_virials: virials cannot"),
    "stress of two rows": (
        labelled("REF_stress=[[1,2,3],[4,5,6]]"),
        r"stress cannot be used: shape \(2, 3\), expected \(6,\), \(9,\) or \(3, 3\)",
    ),
    "ragged stress": (labelled("REF_stress=[[1,2,3],[4,5],[6]]"), "REF_stress: stress cannot be"),
    "pressure as stress": (labelled("REF_stress=3.5"), r"stress cannot be used: shape \(\)"),
    "charges with a NaN": (
        frame(f"{COLUMNS}:REF_charges:R:1 REF_energy=1", ("O 0 0 0 nan", "H 1 0 0 1")),
        "charges of atom 0 is nan, expected a finite number",
    ),
    "an infinite weight": (labelled("config_weight=1e400"), "config_weight is inf, expected a num"),
    "a weight too large": (labelled("config_weight=1e200"), r"config_weight is 1e\+200, expected"),
}

# Of these the next frame cannot be told, so that the rest is one bad frame.
LOST = {
    "a count that is a word": (frame(count="three"), "'three', expected the number of atoms"),
    "a count with a sign": (frame(count="+3"), r"'\+3', expected the number of atoms"),
    "a negative count": (frame(count=-3), "'-3', expected the number of atoms"),
    "a count too small": (frame(count=2), "follows its 2 atoms, expected the next frame"),
    "a count too large": (frame(count=4), "atom 3 .*: 1 columns, expected 7"),
    "a huge count": (frame(count=10**15), "the file ends after 8 of 1000000000000000 atoms"),
    "no comment line": (
        GOOD.replace(LABELLED.encode() + b"\n", b""),
        "7 columns, expected 4 .*nothing after",
    ),
    "UTF-16": (GOOD.decode().encode("utf-16"), "expected the number of atoms"),
    "only carriage returns": (GOOD.replace(b"\n", b"\r"), "expected the number of atoms"),
}


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def compressed(compress: Callable[[bytes], bytes]) -> bytes:
    """Return a file that lacks its last bytes."""
    return compress(GOOD * 30)[:-6]


def foreign_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["energies"] = [1.0, 2.0]


# Files in which nothing is found, or where the damage ends them: name, content, what is said.
DAMAGED = r"frame \d+: the file is damaged or cut off: .*; get it again"
FILES = {
    "empty": ("a.xyz", b"", "holds no structures, expected at least one; check"),
    "blank lines": ("a.xyz", b"\n \n\n", "holds no structures, expected at least one; check"),
    "empty .gz": ("a.xyz.gz", b"", "holds no structures, expected at least one; check"),
    "executable": ("a.xyz", b"\x7fELF\2\1\1" + bytes(900), "frame 0: line 1: .*expected the num"),
    "count alone": ("a.xyz", b"3\n", "frame 0: the file ends after 0 of 3 atoms; get it again"),
    "cut in a frame": ("a.xyz", GOOD + GOOD[:70], "frame 1: the file ends after 1 of 3 atoms"),
    "cut .gz": ("a.xyz.gz", compressed(gzip.compress), DAMAGED),
    "cut .bz2": ("a.xyz.bz2", compressed(bz2.compress), DAMAGED),
    "cut .xz": ("a.xyz.xz", compressed(lzma.compress), DAMAGED),
    "cut .zst": ("a.xyz.zst", compressed(zstd), DAMAGED),
    "text as .gz": ("a.xyz.gz", GOOD, DAMAGED),
    "text as .zst": ("a.xyz.zst", GOOD, DAMAGED),
    "text as .xz": ("a.xyz.xz", GOOD, DAMAGED),
    "noise after .gz": ("a.xyz.gz", gzip.compress(GOOD) + b"noise", DAMAGED),
    "text as .db": (
        "a.db",
        b"energies\n",
        "frame 0: ASE cannot read it .*expected a format of ASE's; corr",
    ),
    "text as .json": ("a.json", b"{", "frame 0: ASE cannot read it .*expected a format of ASE's"),
    "text as .h5": ("a.h5", GOOD, "not a complete HDF5 file .*; create it again"),
    "empty .h5": ("a.h5", b"", "not a complete HDF5 file .*; create it again"),
    "foreign .h5": (
        "a.h5",
        foreign_hdf5,
        "holds no config_batch_.*expected a MACE dataset; create",
    ),
    "folder": ("a.xyz", Path.mkdir, r"no HDF5 file there, expected \*.h5; create it"),
    "missing": ("a.xyz", lambda _: None, "no such file; check the path"),
    "missing glob": ("*.xyz", lambda _: None, "no file matches; check the path"),
    "broken link": ("a.xyz", lambda path: path.symlink_to("no"), "cannot be read .*check the path"),
}


Preprocess = Callable[..., tuple[int, str]]


@pytest.fixture
def preprocess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Preprocess:
    """Return a function that runs the command in an empty folder: exit code and last line."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> tuple[int, str]:
        common = ("--train_file", name, "--valid_fraction", "0", "--h5_prefix", "out")
        with pytest.raises(SystemExit) as stopped:
            main([*common, *arguments])
        err = capfd.readouterr().err
        assert "Traceback" not in err
        return stopped.value.code, err.rstrip("\n").rpartition("\n")[2]

    return run


def assert_refused(outcome: tuple[int, str], message: str) -> str:
    """Check the exit code, the line and that there is no output; return the line."""
    code, line = outcome
    assert code == 1, line
    assert re.match(f"error: {message}", line), line
    assert "; " in line, "what to do is missing"
    assert not Path("out").exists()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("name", FRAMES)
def test_a_bad_frame_is_refused_or_passed_over(preprocess, name):
    bad, message = FRAMES[name]
    Path("a.xyz").write_bytes(GOOD + bad + GOOD)
    said = assert_refused(preprocess("a.xyz"), f"a.xyz: frame 1: .*{message}")
    assert preprocess("a.xyz", "--skip-bad", "1")[0] == 0
    assert Path("out/skipped.txt").read_text() == f"{said}\n"
    with Dataset(Path("out/train")) as dataset:
        assert len(dataset) == 2


@pytest.mark.parametrize("name", LOST)
def test_where_no_next_frame_is_found_what_came_before_is_kept(preprocess, name):
    bad, message = LOST[name]
    Path("a.xyz").write_bytes(GOOD + bad + GOOD)
    said = assert_refused(preprocess("a.xyz"), f"a.xyz: frame 1: .*{message}")
    assert preprocess("a.xyz", "--skip-bad", "1")[0] == 0
    assert Path("out/skipped.txt").read_text() == f"{said}\n"
    with Dataset(Path("out/train")) as dataset:
        assert len(dataset) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused(preprocess, name):
    path, content, message = FILES[name]
    make = partial(Path.write_bytes, data=content) if isinstance(content, bytes) else content
    make(Path(path))
    assert_refused(preprocess(path), f"{re.escape(path)}: {message}")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("", "isolated atom H has no energy; give it one"),
        (f"REF_energy=-1 {CUBE}", "IsolatedAtom H is periodic with images nearer than 8 Å"),
    ],
)
def test_a_bad_isolated_atom_is_never_passed_over(preprocess, extra, message):
    """Without it another E0 would be taken."""
    Path("a.xyz").write_bytes(GOOD + frame(f"{ISOLATED} {extra}", ("H 0 0 0",)) + GOOD)
    assert_refused(preprocess("a.xyz", "--skip-bad", "9"), f"a.xyz: frame 1: {message}")


@pytest.mark.parametrize("n_processes", ["1", "2"])
def test_one_bad_frame_more_than_allowed_stops(preprocess, n_processes):
    bad = [content for content, _ in FRAMES.values()]
    Path("a.xyz").write_bytes(GOOD + b"".join(content + GOOD for content in bad))
    few = ("--skip-bad", str(len(bad) - 1), "--num_process", n_processes)
    last = 2 * len(bad) - 1
    assert_refused(preprocess("a.xyz", *few), f"a.xyz: frame {last}: .*have been passed over")
    enough = ("--skip-bad", str(len(bad)), "--num_process", n_processes)
    assert preprocess("a.xyz", *enough)[0] == 0
    listed = Path("out/skipped.txt").read_text().splitlines()
    assert [line.split(": ")[1] for line in listed] == [f"frame {i}" for i in range(1, last + 1, 2)]


def test_where_every_frame_is_bad_the_first_is_named(preprocess):
    Path("a.xyz").write_bytes(energy("nan") * 3)
    outcome = preprocess("a.xyz", "--skip-bad", "9")
    assert_refused(outcome, "a.xyz: frame 0: energy is nan.*; .*no structure is left to train on")


def test_a_frame_of_another_file_is_named_with_its_file(preprocess):
    Path("a.xyz").write_bytes(GOOD * 2)
    Path("b.xyz").write_bytes(GOOD + energy("nan"))
    assert_refused(preprocess("*.xyz"), "b.xyz: frame 1: energy is nan")
    assert_refused(preprocess("a.xyz", "--valid_file", "b.xyz"), "b.xyz: frame 1: energy is nan")
