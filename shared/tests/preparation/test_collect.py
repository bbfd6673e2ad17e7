"""What is read is the same whoever parses it, and whatever is wrong with some of it."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset
from mace_jax.errors import DataError
from mace_jax.preparation.collect import Choice, collect
from mace_jax.preparation.processes import Processes
from mace_jax.preparation.sources import Source, stream_source
from mace_jax.preparation.splits import ByGeometry, Fractions
from mace_jax.structures.label_keys import LabelCounts, LabelKeys

N = 700  # three portions
COLUMNS = "Properties=species:S:1:pos:R:3"


def frame(number, extra=""):
    return f"2\n{COLUMNS} energy=-{number}.5 {extra}\nO 0 0 0\nH 0 0 {1 + number / 1000}\n"


def isolated(symbol, energy):
    return f"1\n{COLUMNS} energy={energy} config_type=IsolatedAtom\n{symbol} 0 0 0\n"


FRAMES = [frame(number, f"head={'ab'[number % 2]}") for number in range(N)]
BAD = {
    3: frame(3).replace("O 0 0 0", "Q 0 0 0"),
    300: frame(300).replace("H", "H 1"),
    301: frame(301).replace("energy=-301.5", "energy=nan"),
    699: "",
}


@pytest.fixture(scope="module")
def processes():
    with Processes(1) as one, Processes(2) as two:
        yield {1: one, 2: two}


def path_of(folder, frames):
    path = Path(folder) / "a.xyz"
    path.write_text("".join(frames))
    return path


def collected(path, processes, on_bad=None, **choice):
    with tempfile.TemporaryDirectory() as folder:
        choice = Choice(LabelKeys(), **choice)
        provenance = {"tool": "t", "tool_version": "0", "command": [], "seed": 1, "inputs": []}
        found = collect(
            [Source(path, "train")], choice, Path(folder), provenance, processes, on_bad
        )
        content = {}
        for split, spool in found.spools.items():
            with Dataset(spool.path) as dataset:
                energies = [float(s.properties["energy"]) for s in dataset]
                content[split] = energies, [s.head for s in dataset], dict(spool.labels)
        (counts,) = found.counts.values()
        return content, found.isolated.heads, counts


@pytest.mark.parametrize("n_processes", [1, 2])
def test_everything_is_read_in_order(tmp_path, processes, n_processes):
    frames = [*FRAMES[:400], isolated("H", -13.5), *FRAMES[400:], isolated("O", -100.0)]
    path = path_of(tmp_path, frames)
    content, atoms, counts = collected(path, processes[n_processes])
    energies, heads, labels = content["train"]
    assert energies == [-number - 0.5 for number in range(N)]
    assert heads == ["ab"[number % 2] for number in range(N)]
    assert labels == {"energy": N}
    assert atoms == {"Default": {1: -13.5, 8: -100.0}}
    streamed = LabelCounts()
    assert len(list(stream_source(Source(path, "train"), LabelKeys(), streamed))) == N + 2
    assert counts == streamed


@pytest.mark.parametrize("n_processes", [1, 2])
@pytest.mark.parametrize("part", [(0, 3), (2, 3)])
def test_parts_and_splits_are_chosen_frame_by_frame(tmp_path, processes, n_processes, part):
    path, split_of = path_of(tmp_path, FRAMES), ByGeometry(Fractions(0.2, 0.1))
    content, _, counts = collected(path, processes[n_processes], split_of=split_of, part=part)
    expected = {}
    for number, structure in stream_source(Source(path, "train"), LabelKeys(), LabelCounts()):
        if number % 3 == part[0]:
            energy = float(structure.properties["energy"])
            expected.setdefault(split_of(structure), []).append(energy)
    assert {split: energies for split, (energies, _, _) in content.items()} == expected
    assert set(expected) == {"train", "valid", "test"}
    assert counts.n_structures == N


@pytest.mark.parametrize("n_processes", [1, 2])
def test_bad_frames_are_told_in_order_and_passed_over(tmp_path, processes, n_processes):
    path = path_of(tmp_path, [BAD.get(number, text) for number, text in enumerate(FRAMES)])
    streamed, errors = [], []
    good = stream_source(Source(path, "train"), LabelKeys(), LabelCounts(), streamed.append)
    numbers = [number for number, _ in good]
    assert [len(numbers), len(streamed)] == [N - 4, 3]
    content, _, _ = collected(path, processes[n_processes], errors.append)
    assert [str(error) for error in errors] == [str(error) for error in streamed]
    assert content["train"][0] == [-number - 0.5 for number in numbers]
    with pytest.raises(DataError) as first:
        collected(path, processes[n_processes])
    assert str(first.value) == str(streamed[0])


@pytest.mark.parametrize("n_processes", [1, 2])
def test_where_the_next_frame_is_not_found_nothing_more_is_read(tmp_path, processes, n_processes):
    frames = [*FRAMES[:255], frame(255) + "H 0 0 9\n", *FRAMES[256:]]
    errors = []
    content, _, _ = collected(path_of(tmp_path, frames), processes[n_processes], errors.append)
    (error,) = errors
    assert "frame 255" in str(error)
    assert "nothing after it can be read" in str(error)
    assert content["train"][0] == [-number - 0.5 for number in range(255)]


@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_frame_that_cannot_be_used_ends_it_after_the_bad_ones_before_it(
    tmp_path, processes, n_processes
):
    crystal = isolated("O", -1.0).replace("energy", 'Lattice="2 0 0 0 2 0 0 0 2" energy')
    frames = [*FRAMES[:300], BAD[3], crystal, BAD[300], *FRAMES[300:]]
    errors = []
    with pytest.raises(DataError, match="frame 301: IsolatedAtom O is periodic"):
        collected(path_of(tmp_path, frames), processes[n_processes], errors.append)
    (error,) = errors
    assert "frame 300: atom 0: unknown element 'Q'" in str(error)


def test_a_file_without_frames_is_refused(tmp_path, processes):
    with pytest.raises(DataError, match=r"a\.xyz: holds no structures"):
        collected(path_of(tmp_path, [""]), processes[2])


def test_where_each_structure_is_from(tmp_path, processes):
    from mace_jax.preparation.spool import read_origins

    paths = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    paths[0].write_text("".join([BAD[3], *FRAMES[:5]]))
    paths[1].write_text("".join(FRAMES[:300]))
    provenance = {"tool": "t", "tool_version": "0", "command": [], "seed": 1, "inputs": []}
    sources = [Source(path, "train") for path in paths]
    found = collect(
        sources, Choice(LabelKeys()), tmp_path, provenance, processes[2], lambda _: None
    )
    origins = read_origins(found.spools["train"].path, np.array([0, 4, 5, 304]))
    assert origins["source"].tolist() == [0, 0, 1, 1]
    assert origins["frame"].tolist() == [1, 5, 0, 299]
