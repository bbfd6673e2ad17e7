import bz2
import gzip
import lzma
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from mace_jax.errors import DataError
from mace_jax.structures.input_files import expand_inputs
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import read_structures, stream_structures

FRAME = "2\nProperties=species:S:1:pos:R:3 REF_energy={}\nH 0 0 0\nO 0 0 1.5\n"
N_FRAMES = 2000
TEXT = "".join(FRAME.format(-float(i)) for i in range(N_FRAMES)).encode()


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
PACKED = {suffix: pack(TEXT) for suffix, pack in PACKERS.items()}


def energies(path):
    structures, counts = read_structures(path)
    assert counts.n_structures == len(structures)
    return [float(structure.properties["energy"]) for structure in structures]


def read_all(path):
    errors = []
    good = stream_structures(path, LabelKeys(), LabelCounts(), on_bad=errors.append)
    return list(good), [str(error) for error in errors]


EXPECTED = [-float(i) for i in range(N_FRAMES)]


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz"])
def test_compressed_files_read_the_same(tmp_path, name, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(PACKED[suffix])
    assert len(PACKED[suffix]) < len(TEXT) / 2
    assert energies(path) == EXPECTED


@pytest.mark.parametrize("suffix", PACKED)
def test_files_that_were_packed_in_parts_read_whole(tmp_path, suffix):
    path = tmp_path / f"a.xyz{suffix}"
    pack = PACKERS[suffix]
    path.write_bytes(pack(TEXT[:12345]) + pack(TEXT[12345:]))
    assert energies(path) == EXPECTED


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("left", [0.5, 0.999])
def test_a_compressed_file_that_is_cut_off_is_one_bad_place(tmp_path, suffix, left):
    path = tmp_path / f"a.xyz{suffix}"
    path.write_bytes(PACKED[suffix][: int(len(PACKED[suffix]) * left)])
    with pytest.raises(DataError, match=r"frame \d+: the file is damaged or cut off: .*; get it"):
        read_structures(path)
    good, (message,) = read_all(path)
    assert f"frame {len(good)}: " in message
    assert [float(s.properties["energy"]) for s in good] == EXPECTED[: len(good)]


def test_a_wrong_checksum_is_an_error(tmp_path):
    path = tmp_path / "a.xyz.gz"
    data = bytearray(PACKED[".gz"])
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged or cut off: CRC check failed"):
        read_structures(path)


@pytest.mark.parametrize("suffix", PACKED)
def test_a_suffix_that_is_not_true_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a.xyz{suffix}"
    path.write_bytes(TEXT)
    with pytest.raises(DataError, match="frame 0: the file is damaged or cut off"):
        read_structures(path)


def test_a_compressed_file_of_nothing_holds_no_structures(tmp_path):
    (tmp_path / "a.xyz.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="holds no structures"):
        read_structures(tmp_path / "a.xyz.gz")


READ_STANDARD_INPUT = """
from pathlib import Path
from mace_jax.errors import DataError
from mace_jax.structures.read_structures import read_structures
try:
    structures, _ = read_structures(Path("-"))
    print(len(structures), structures[1].place)
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", ["", *PACKED])
def test_standard_input_is_unpacked_by_its_first_bytes(suffix):
    done = subprocess.run(
        [sys.executable, "-c", READ_STANDARD_INPUT],
        input=PACKED.get(suffix, TEXT),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == f"{N_FRAMES} standard input: frame 1"


def test_an_error_on_standard_input_names_it():
    done = subprocess.run(
        [sys.executable, "-c", READ_STANDARD_INPUT], input=b"", capture_output=True, check=True
    )
    assert done.stdout.decode().startswith("standard input: holds no structures")


@pytest.mark.parametrize("data", [TEXT, PACKED[".gz"]], ids=["plain", "gz"])
def test_a_pipe_is_read_once_from_start_to_end(tmp_path, data):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    assert energies(pipe) == EXPECTED
    writer.join()


def peak_memory(path):
    tracemalloc.start()
    for _ in stream_structures(path, LabelKeys(), LabelCounts()):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path):
    few, many = tmp_path / "few.xyz.gz", tmp_path / "many.xyz.gz"
    few.write_bytes(gzip.compress(FRAME.format(-1.0).encode() * 300))
    many.write_bytes(gzip.compress(FRAME.format(-1.0).encode() * 3000))
    read_structures(few)  # what is imported and cached once doesn't count
    assert peak_memory(many) < 1.1 * peak_memory(few) + 20_000


# --- patterns


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.xyz", "a.xyz", "c.db", "sub/d.xyz", "odd[1].xyz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["b.xyz", "a.xyz"], ["b.xyz", "a.xyz"]),
        (["c.db", "[ab].xyz"], ["c.db", "a.xyz", "b.xyz"]),
        (["?.xyz"], ["a.xyz", "b.xyz"]),
        (["**/d.xyz"], ["sub/d.xyz"]),
        (["odd[1].xyz"], ["odd[1].xyz"]),
        (["-", "a.xyz"], ["-", "a.xyz"]),
        ([], []),
    ],
)
def test_patterns(folder, patterns, expected):
    assert expand_inputs([Path(p) for p in patterns]) == [Path(p) for p in expected]


def test_patterns_may_be_absolute(folder):
    assert expand_inputs([folder / "sub" / "*.xyz"]) == [folder / "sub" / "d.xyz"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["z*.xyz"], r"z\*\.xyz: no file matches; check the path"),
        (["a.xyz", "z.xyz"], r"z\.xyz: no such file; check the path"),
        (["*.xyz", "sub/../a.xyz"], r"a\.xyz: named twice, by \*\.xyz and sub/\.\./a\.xyz; name"),
        (["a.xyz", "a.xyz"], r"a\.xyz: named twice"),
        (["-", "-"], "-: named twice"),
    ],
)
def test_patterns_that_name_nothing_or_one_file_twice_are_refused(folder, patterns, message):
    with pytest.raises(DataError, match=message):
        expand_inputs([Path(p) for p in patterns])
