import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mace_jax.artifacts.index import (
    Index,
    IndexRow,
    IndexWriter,
    atoms_of_elements,
    hill_formula,
    index_row,
    merge_indices,
    read_index,
)
from mace_jax.elements import SYMBOLS
from mace_jax.errors import ArtifactError, DataError, IncompatibleError
from mace_jax.structures.structure import PROPERTY_SHAPES, structure_digest

PROVENANCE = {"tool": "t", "tool_version": "0", "command": [], "seed": None, "inputs": []}
DIGEST = "ab" * 32


def numbers(*values):
    return np.array([SYMBOLS.index(value) for value in values])


def row(frame=0, n_neighbors=(2, 1, 1)):
    has_label = {name: name in ("energy", "forces") for name in PROPERTY_SHAPES}
    counts = np.array(n_neighbors, np.uint16)
    return IndexRow(
        source="a.xyz",
        frame=frame,
        formula="H2O",
        n_atoms=len(counts),
        n_edges=int(counts.sum()),
        n_neighbors=counts,
        head="Default",
        config_type="Ü κ",
        weight=1.5,
        digest="0" * 32,
        **has_label,
    )


def write(path, rows, *, r_max=4.0, digest=DIGEST, name="train"):
    with IndexWriter(path, PROVENANCE, r_max=r_max, dataset_name=name) as writer:
        writer.write(rows)
        writer.dataset_sha256 = digest
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.parquet", [row(0), row(1, [0])])


# --- rows


@pytest.mark.parametrize(
    ("symbols", "formula"),
    [
        (["O", "H", "H"], "H2O"),
        (["O", "H", "C", "H", "H", "H"], "CH4O"),
        (["Na", "Cl"], "ClNa"),
        (["O", "C", "Br", "Al"], "CAlBrO"),
        (["H", "Br"], "BrH"),
        (["C"], "C"),
        (["Co", "C", "Cs"] * 12, "C12Co12Cs12"),
        (["Og"], "Og"),
    ],
)
def test_formulas_in_hills_order(symbols, formula):
    assert hill_formula(numbers(*symbols)) == formula


@given(st.lists(st.integers(1, 118), min_size=1, max_size=12))
def test_formulas_with_carbon_are_those_of_ase(atomic_numbers):
    """Without carbon ASE puts hydrogen first, which Hill does not."""
    from ase.formula import Formula

    atomic_numbers = [6, *atomic_numbers]
    symbols = "".join(SYMBOLS[number] for number in atomic_numbers)
    assert hill_formula(np.array(atomic_numbers)) == Formula(symbols).format("hill")


def test_a_row_says_what_the_structure_is(crystal):
    found = index_row(crystal, np.array([13, 13]), "set.xyz", 7)
    assert found[:5] == ("set.xyz", 7, "CSi", 2, 26)
    assert found.n_neighbors.tolist() == [13, 13]
    assert (found.head, found.config_type, found.weight) == ("pbe", "bulk", 1.5)
    labels = [name for name in PROPERTY_SHAPES if getattr(found, name)]
    assert labels == ["energy", "forces", "stress"]
    assert found.digest == structure_digest(crystal)


def test_neighbors_that_do_not_fit_are_refused_and_never_wrapped(water):
    named = dataclasses.replace(water, place="a.xyz: frame 2")
    assert index_row(named, np.array([1, 65535, 0]), "", 0).n_neighbors[1] == 65535
    with pytest.raises(DataError, match=r"a\.xyz: frame 2: atom 1 has 65536 neighbors"):
        index_row(named, np.array([1, 65536, 0]), "", 0)


# --- round trip


def test_what_is_written_is_read(path):
    index = read_index(path)
    assert (index.dataset_name, index.dataset_sha256, index.r_max) == ("train", DIGEST, 4.0)
    assert index.n_structures == len(index.table) == 2
    for found, expected in zip(index.table.to_pylist(), [row(0), row(1, [0])], strict=True):
        assert found == {**expected._asdict(), "n_neighbors": expected.n_neighbors.tolist()}


def test_columns_that_are_asked_for(path):
    table = read_index(path, ["n_atoms", "n_edges"]).table
    assert table.to_pydict() == {"n_atoms": [3, 1], "n_edges": [4, 0]}
    with pytest.raises(KeyError, match="n_atom"):
        read_index(path, ["n_atom"])


@pytest.mark.parametrize("portion", [1, 1999, 5000])
def test_many_rows_come_in_row_groups_whatever_the_portions(tmp_path, monkeypatch, portion):
    monkeypatch.setattr("mace_jax.artifacts.index._ROW_GROUP", 4000)
    rows = [row(frame) for frame in range(9000)]
    with IndexWriter(tmp_path / "a.parquet", PROVENANCE, r_max=4.0) as writer:
        for start in range(0, len(rows), portion):
            writer.write(rows[start : start + portion])
        writer.dataset_sha256 = DIGEST
    file = pq.ParquetFile(writer.path)
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [4000, 4000, 1000]
    found = read_index(writer.path)
    assert found.table["frame"].to_pylist() == list(range(9000))
    assert found.n_structures == writer.n_structures == 9000


def test_an_index_of_nothing(tmp_path):
    index = read_index(write(tmp_path / "a.parquet", []))
    assert (index.n_structures, len(index.table)) == (0, 0)


def test_pandas_and_others_read_it(path):
    table = pq.read_table(path)
    assert table["formula"].to_pylist() == ["H2O", "H2O"]
    assert table.column_names == list(IndexRow._fields)


def test_equal_rows_give_equal_bytes(tmp_path, path):
    again = write(tmp_path / "b.parquet", [row(0), row(1, [0])])
    assert again.read_bytes() == path.read_bytes()


# --- merging


def test_indices_of_parts_become_one(tmp_path):
    parts = [
        write(tmp_path / f"{i}.parquet", [row(frame) for frame in frames], digest=str(i) * 64)
        for i, frames in enumerate([range(3), [], range(3, 5)])
    ]
    merge_indices(parts, tmp_path / "all.parquet", PROVENANCE, DIGEST, "train")
    index = read_index(tmp_path / "all.parquet")
    assert index.table["frame"].to_pylist() == list(range(5))
    assert (index.dataset_sha256, index.dataset_name, index.r_max) == (DIGEST, "train", 4.0)


def test_indices_of_different_cutoffs_are_refused(tmp_path, path):
    other = write(tmp_path / "b.parquet", [row()], r_max=5.0)
    with pytest.raises(IncompatibleError, match=r"b\.parquet: r_max 5\.0, expected 4\.0"):
        merge_indices([path, other], tmp_path / "all.parquet", PROVENANCE, DIGEST)
    assert not (tmp_path / "all.parquet").exists()


# --- what goes wrong


def test_the_digest_of_the_dataset_must_be_given(tmp_path):
    with pytest.raises(ArtifactError, match="at /dataset/sha256"):
        write(tmp_path / "a.parquet", [row()], digest="")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, path):
    before = path.read_bytes()
    with pytest.raises((TypeError, pa.ArrowException)):
        write(path, [row()._replace(frame="three")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b"PAR1", b"PAR1" * 20])
def test_a_file_that_is_no_parquet(tmp_path, content):
    path = tmp_path / "a.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.parquet: not an index"):
        read_index(path)


def test_a_truncated_file_is_refused_wherever_it_is_cut(path):
    content = path.read_bytes()
    for length in range(0, len(content), len(content) // 50):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"a\.parquet"):
            read_index(path)


def rewrite(path, change_table=lambda table: table, **changes):
    metadata = json.loads(pq.read_metadata(path).metadata[b"mace_jax"])
    table = change_table(pq.read_table(path))
    text = json.dumps({**metadata, **changes})
    pq.write_table(table.replace_schema_metadata({"mace_jax": text}), path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_structures": 3}, "holds 2 rows, expected 3"),
        ({"r_max": 0}, "at /r_max"),
        ({"r_max": float("nan")}, "metadata: NaN"),
        ({"dataset": {"name": "a"}}, "at /dataset"),
        ({"schema": {"kind": "index", "version": 2}}, "index version 2, expected at most 1"),
        ({"schema": {"kind": "predictions", "version": 1}}, "kind 'predictions', expected 'index'"),
        ({"extra": 1}, "'extra' was unexpected"),
    ],
)
def test_wrong_metadata_is_refused(path, changes, message):
    rewrite(path, **changes)
    with pytest.raises(ArtifactError, match=rf"a\.parquet.*{message}"):
        read_index(path)


def test_a_parquet_file_of_others_is_refused(tmp_path):
    pq.write_table(pa.table({"n_atoms": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        ArtifactError, match=r"a\.parquet: has no schema tag, expected kind 'index'"
    ):
        read_index(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns("digest"),
        lambda table: table.append_column("more", pa.array([1, 2])),
        lambda table: table.set_column(3, "n_atoms", table["n_atoms"].cast(pa.int64())),
        lambda table: table.select(table.column_names[::-1]),
    ],
)
def test_other_columns_are_refused(path, change):
    rewrite(path, change)
    with pytest.raises(ArtifactError, match=r"a\.parquet: columns .*, expected source dictionary"):
        read_index(path)


def test_counts_of_neighbors_must_fit_the_atoms(path):
    def change(table):
        return table.set_column(3, table.schema.field(3), pa.array([3, 2], pa.int32()))

    rewrite(path, change)
    with pytest.raises(ArtifactError, match="row 1: n_neighbors of 1 atoms, expected 2"):
        read_index(path)
    assert read_index(path, ["n_edges"]).n_structures == 2


@given(st.lists(st.lists(st.sampled_from([1, 2, 6, 8, 27, 118]), min_size=1), min_size=1))
def test_atoms_of_elements_are_counted_in_formulas(structures):
    formulas = [hill_formula(np.array(atomic_numbers)) for atomic_numbers in structures]
    index = Index(pa.table({"formula": formulas}), 4.0, "train", DIGEST, len(formulas))
    found, counts = np.unique(np.concatenate(structures), return_counts=True)
    assert atoms_of_elements(index) == dict(zip(found.tolist(), counts.tolist(), strict=True))
