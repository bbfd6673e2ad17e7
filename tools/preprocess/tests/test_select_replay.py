"""The command mace-jax-select-replay: what is chosen of files made here, and what is written."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset, DatasetWriter
from mace_jax.artifacts.model_bundle import (
    EmbeddingSpec,
    ModelBundle,
    ModelConfig,
    write_model_bundle,
)
from mace_jax.artifacts.provenance import file_sha256, make_provenance
from mace_jax.artifacts.selection import read_selection
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import structure_digest
from mace_jax_preprocess.choosing import ElementMeans, choose_farthest
from mace_jax_preprocess.cli_select_replay import main

FORMULAS = ["H2O", "CO", "H2O", "CH4", "H2", "H2O", "N2", "H4O2", "CO", "H2O"]


def frame(index: int, **info: object) -> ase.Atoms:
    """Return a structure whose energy, -100 - index, tells which frame it was."""
    atoms = ase.Atoms(FORMULAS[index])
    generator = np.random.default_rng(index)
    apart = 1.2 * np.arange(len(atoms))[:, None]
    atoms.positions = np.round(apart + 0.1 * generator.normal(size=(len(atoms), 3)), 8)
    atoms.info["REF_energy"] = -100.0 - index
    atoms.arrays["REF_forces"] = np.round(generator.normal(size=(len(atoms), 3)), 8)
    atoms.info.update(info)
    return atoms


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, the current one, with ten frames in data.xyz."""
    monkeypatch.chdir(tmp_path)
    ase.io.write("data.xyz", [frame(index) for index in range(10)], format="extxyz")
    return tmp_path


@pytest.fixture
def select(folder: Path, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs the command."""
    return lambda *arguments: call(main, *arguments)


def structures_of(path: str) -> list:
    if path.endswith(".h5"):
        with Dataset(Path(path)) as dataset:
            return list(dataset)
    return read_structures(Path(path))[0]


def numbers_of(path: str) -> list[int]:
    """Return which frames a file holds, told from their energies."""
    return [round(-100 - float(one.properties["energy"])) for one in structures_of(path)]


# --- which


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], range(10)),
        (["--elements", "H,O"], [0, 2, 4, 5, 7, 9]),
        (["--elements", "8 1"], [0, 2, 4, 5, 7, 9]),
        (["--elements", "[1, 8]", "--filtering-type", "exclusive"], [0, 2, 5, 7, 9]),
        (["--elements", "C", "--filtering-type", "inclusive"], [1, 3, 8]),
        (["--filtering-type", "none"], range(10)),
    ],
)
def test_elements(select, arguments, expected):
    outcome = select("data.xyz", *arguments, "-o", "out.xyz")
    assert outcome.code == 0, outcome.err
    assert numbers_of("out.xyz") == list(expected)


def test_elements_of_new_data(select):
    ase.io.write("new.xyz", [ase.Atoms("CO"), ase.Atoms("OPt")], format="extxyz")
    outcome = select("data.xyz", "--elements-of", "new.xyz", "--energy-key", "REF_energy")
    assert outcome.code == 2
    outcome = select(
        *("data.xyz", "--elements-of", "new.xyz", "--energy-key", "REF_energy", "-o", "out.xyz")
    )
    assert outcome.code == 0, outcome.err
    assert numbers_of("out.xyz") == [1, 8]
    assert "warning: data.xyz: no structure has Pt of the new data" in outcome.err
    roles = [item["role"] for item in document("out")["provenance"]["inputs"]]
    assert roles == ["structures", "elements"]


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_the_seed_decides(select, method):
    found = []
    for seed in (1, 1, 2, 3):
        outcome = select(
            *("data.xyz", "-n", 3, "--method", method, "--seed", seed, "-o", "out.xyz", "--force")
        )
        assert outcome.code == 0, outcome.err
        found.append(numbers_of("out.xyz"))
        assert len(found[-1]) == 3
        assert found[-1] == sorted(found[-1])
    assert found[0] == found[1]
    assert len({tuple(numbers) for numbers in found}) > 1


def test_stratified_by_composition(select):
    """H2O, with its dimer, has five structures, CO two, CH4, H2 and N2 one each."""
    outcome = select("data.xyz", "-n", 7, "--method", "stratified", "-o", "out.xyz", "--json")
    assert json.loads(outcome.out)["summary"]["compositions"] == 5
    formulas = Counter(FORMULAS[index].replace("H4O2", "H2O") for index in numbers_of("out.xyz"))
    assert formulas == {"H2O": 2, "CO": 2, "CH4": 1, "H2": 1, "N2": 1}


def test_isolated_atoms_are_left_out(select):
    atom = ase.Atoms("H", info={"REF_energy": -13.6, "config_type": "IsolatedAtom"})
    ase.io.write("data.xyz", [atom, frame(0), frame(1)], format="extxyz")
    outcome = select("data.xyz", "-o", "out.xyz", "--json")
    assert numbers_of("out.xyz") == [0, 1]
    assert "1 isolated atoms are left out" in outcome.err
    assert json.loads(outcome.out)["summary"]["isolated_atoms"] == 1
    assert read_selection(Path("out.selection.json")).frame.tolist() == [1, 2]


# --- from and to which files


def write_all_kinds(folder: Path) -> list[str]:
    """Write the ten frames as two shards of HDF5, a flat file, a database and compressed text."""
    structures, _ = read_structures(folder / "data.xyz")
    provenance = make_provenance("mace-jax-preprocess", [])
    (folder / "shards").mkdir()
    for shard, part in enumerate((structures[:3], structures[3:])):
        path = folder / "shards" / f"train_{shard}.h5"
        with DatasetWriter(path, provenance, n_in_set=10, shard=(shard, 2)) as writer:
            writer.write(part)
    with DatasetWriter(folder / "flat.h5", provenance, layout="flat") as writer:
        writer.write(structures)
    with ase.db.connect(folder / "data.db") as database:
        for index in range(10):
            atoms = frame(index)
            data = {"REF_forces": atoms.arrays["REF_forces"]}
            energy = atoms.info["REF_energy"]
            database.write(atoms, key_value_pairs={"REF_energy": energy}, data=data)
    with gzip.open(folder / "packed.xyz.gz", "wb") as file:
        file.write((folder / "data.xyz").read_bytes())
    return ["data.xyz", "shards", "shards/*.h5", "flat.h5", "data.db", "packed.xyz.gz"]


@pytest.mark.parametrize("output", ["out.xyz", "out.h5"])
def test_every_kind_of_file_gives_the_same(select, folder, output):
    found = []
    for path in write_all_kinds(folder):
        outcome = select(path, "-n", 4, "--head", "pt_head", "-o", output, "--force")
        assert outcome.code == 0, outcome.err
        found.append(structures_of(output))
    expected = {one.properties["energy"].item(): one for one in structures_of("data.xyz")}
    for structures in found:
        assert len(structures) == 4
        for one in structures:
            same = expected[one.properties["energy"].item()]
            np.testing.assert_array_equal(one.positions, same.positions)
            np.testing.assert_array_equal(one.properties["forces"], same.properties["forces"])
            assert one.head == "pt_head"
    energies = [[one.properties["energy"].item() for one in structures] for structures in found]
    assert all(numbers == energies[0] for numbers in energies)


def test_several_files_and_standard_input(select, folder, monkeypatch):
    ase.io.write("more.xyz", [frame(3), frame(4)], format="extxyz")
    outcome = select(
        "more.xyz", "data.xyz", "--elements", "C,H", "-o", "out.h5", "--layout", "flat"
    )
    assert outcome.code == 0, outcome.err
    assert numbers_of("out.h5") == [3, 4, 3, 4]
    selection = read_selection(Path("out.selection.json"))
    assert selection.sources == ("more.xyz", "data.xyz")
    assert selection.source.tolist() == [0, 0, 1, 1]
    assert selection.frame.tolist() == [0, 1, 3, 4]


def test_what_models_are_told_is_kept_if_it_is_asked_for(select):
    ase.io.write("data.xyz", [frame(k, total_charge=k - 1) for k in range(3)], format="extxyz")
    assert select("data.xyz", "--keep", "total_charge", "-o", "out.xyz").code == 0
    found, _ = read_structures(Path("out.xyz"), inputs=["total_charge"])
    assert [float(one.inputs["total_charge"]) for one in found] == [-1, 0, 1]
    outcome = select("data.xyz", "--keep", "total_charge", "-o", "out.h5", "--force")
    assert outcome.code == 1
    assert "out.h5: data.xyz: frame 0 has total_charge, for which HDF5 has no place" in outcome.err


def test_heads_stay_unless_one_is_given(select):
    ase.io.write("data.xyz", [frame(0, head="a"), frame(1, head="b")], format="extxyz")
    assert select("data.xyz", "-o", "out.xyz").code == 0
    assert [one.head for one in structures_of("out.xyz")] == ["a", "b"]
    assert read_selection(Path("out.selection.json")).head is None


def test_bad_frames_are_passed_over_and_numbers_stay_those_of_the_file(select):
    text = Path("data.xyz").read_text().replace("REF_energy=-101.0", "REF_energy=nan")
    Path("data.xyz").write_text(text)
    outcome = select("data.xyz", "-o", "out.xyz")
    assert outcome.code == 1
    assert "data.xyz: frame 1: " in outcome.err
    assert not Path("out.xyz").exists()
    assert select("data.xyz", "-o", "out.xyz", "--skip-bad", 1).code == 0
    assert numbers_of("out.xyz") == [0, *range(2, 10)]
    assert read_selection(Path("out.selection.json")).frame.tolist() == [0, *range(2, 10)]


# --- what is said about it


def document(stem: str) -> dict:
    return json.loads(Path(f"{stem}.selection.json").read_text())


@pytest.mark.parametrize("output", ["out.xyz", "out.h5"])
def test_ids_and_provenance(select, output):
    outcome = select(
        *("data.xyz", "-n", 3, "--elements", "H,O", "--seed", 5, "-o", output, "--json")
    )
    result = json.loads(outcome.out)
    assert result["artifact"] == output
    assert result["sha256"] == file_sha256(Path(output))
    selection = read_selection(Path("out.selection.json"))
    assert (selection.dataset_name, selection.dataset_sha256) == (output, result["sha256"])
    assert (selection.method, selection.number, selection.elements) == ("random", 3, (1, 8))
    assert selection.counts == {"read": 10, "isolated_atoms": 0, "candidates": 6}
    assert selection.frame.tolist() == numbers_of(output)
    original = structures_of("data.xyz")
    digests = [structure_digest(original[k]) for k in selection.frame]
    assert list(selection.digest) == digests
    assert [structure_digest(one) for one in structures_of(output)] == digests
    provenance = document("out")["provenance"]
    assert (provenance["tool"], provenance["seed"]) == ("mace-jax-preprocess", 5)
    (item,) = provenance["inputs"]
    assert (item["role"], item["name"]) == ("structures", "data.xyz")
    assert item["sha256"] == file_sha256(Path("data.xyz"))


def test_reproducible_means_the_same_bytes(select):
    names = ("out.xyz", "out.selection.json")
    found = []
    for _ in range(2):
        arguments = ("-n", 4, "-o", "out.xyz", "--reproducible", "--force")
        assert select("data.xyz", *arguments).code == 0
        found.append([Path(name).read_bytes() for name in names])
    assert found[0] == found[1]


# --- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["-n", 11],
            1,
            "data.xyz: 10 structures may be chosen (any elements), expected --number 11",
        ),
        (["-n", 7, "--elements", "H,O"], 1, "6 structures may be chosen (no elements but H, O)"),
        (["--elements", "H,S"], 1, "data.xyz: no structure has S, which --elements names"),
        (
            ["--elements", "C,N", "--filtering-type", "exclusive"],
            1,
            "data.xyz: 0 of 10 structures may be chosen, expected some with exactly the elements "
            "C, N; give other",
        ),
        (["--elements", "H,Xx"], 2, "unknown element 'Xx'; give symbols or atomic numbers"),
        (["--elements", "0"], 2, "unknown element '0'"),
        (["--elements", ","], 2, "names no element"),
        (["--elements", "H", "--filtering-type", "none"], 2, "none with --elements; leave one out"),
        (["--filtering-type", "exclusive"], 2, "exclusive without --elements; give --elements or"),
        (["--elements", "H", "--elements-of", "data.xyz"], 2, "both say which elements"),
        (["-n", 3, "--method", "farthest-point"], 2, "one without the other; give both or none"),
        (["--model", "no.msgpack"], 2, "one without the other; give both or none"),
        (["--method", "farthest-point", "--model", "m"], 2, "nothing without --number"),
        (["-n", 0], 2, "0 is not in the range"),
        (["--energy-key", "dft"], 1, "energy found in 0 of 10 structures under 'dft'"),
        (["-n", 1, "--method", "farthest-point", "--model", "no"], 1, "no: cannot be read"),
        (["--output", "out.csv"], 2, "out.csv: unknown suffix '.csv'"),
        (["--head", "T"], 1, "extended XYZ cannot hold the name 'T'"),
    ],
)
def test_errors_leave_nothing_behind(select, folder, arguments, code, message):
    before = sorted(folder.iterdir())
    outcome = select("data.xyz", "-o", "out.xyz", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err.splitlines()[-1]
    assert sorted(folder.iterdir()) == before


def test_fewer_are_taken_if_that_is_allowed(select):
    outcome = select("data.xyz", "-n", 11, "-o", "out.xyz", "--allow-fewer")
    assert outcome.code == 0
    assert "warning: 10 structures of 11 that are wanted: all are taken" in outcome.err
    assert read_selection(Path("out.selection.json")).number == 11


@pytest.mark.parametrize("existing", ["out.xyz", "out.selection.json"])
def test_existing_output_stays(select, existing):
    Path(existing).write_text("mine")
    outcome = select("data.xyz", "-o", "out.xyz")
    assert outcome.code == 2
    assert f"{existing}: exists already; give --force" in outcome.err
    assert Path(existing).read_text() == "mine"


# --- far from each other


def write_bundle(path: Path, **changes: object) -> Path:
    """Write a tiny untrained network that knows H, C, O."""
    from mace_jax.model.load import build_model, model_parameters

    block = "RealAgnosticResidualInteractionBlock"
    config = ModelConfig(
        model="ScaleShiftMACE",
        r_max=3.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=1,
        num_interactions=1,
        hidden_irreps="4x0e",
        MLP_irreps="4x0e",
        correlation=1,
        radial_MLP=(8,),
        gate="silu",
        interaction_cls=block,
        interaction_cls_first=block,
        avg_num_neighbors=2.0,
        atomic_numbers=(1, 6, 8),
        **changes,
    )
    model = build_model(
        config, scale=[1.0], shift=[0.0], dtype="float32", rng=np.random.default_rng(0)
    )
    energies = {"pbe": {1: -13.0, 6: -1030.0, 8: -430.0}}
    parameters = model_parameters(model)
    found = ModelBundle(
        config, "float32", ("pbe",), energies, {"pbe": 1.0}, {"pbe": 0.0}, parameters
    )
    write_model_bundle(path, found, make_provenance("mace-jax-train", [], reproducible=True))
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "model.msgpack")


def features_of(bundle: Path, structures: list) -> list[np.ndarray]:
    """Return descriptors as mace-jax-predict computes them, all structures in one batch."""
    from mace_jax.artifacts.model_bundle import read_model_bundle
    from mace_jax.batching.graph_batch import pad_batch
    from mace_jax.batching.graph_sizes import GraphSizes
    from mace_jax.batching.shape_classes import padded_caps
    from mace_jax.batching.tight_packing import pack_graphs
    from mace_jax.model.load import graph_builder
    from mace_jax.model.predict import Predictor

    model = read_model_bundle(bundle)
    graphs = graph_builder(model).build_all(structures, head="pbe")
    sizes = GraphSizes.from_lists([graph.n_neighbors for graph in graphs])
    caps = padded_caps(sizes, pack_graphs(sizes, 10_000, seed=0))
    batch = pad_batch(graphs, caps, "float32")
    ((_, rows),) = Predictor(model, "", with_descriptors=True)([(0, batch)])
    return np.split(rows["descriptors"], np.cumsum([len(one) for one in structures])[:-1])


def test_far_points_of_a_model(select, bundle):
    """In batches of a few edges, and with the structures in another order, they are the same."""
    candidates = [0, 1, 2, 3, 4, 5, 7, 8, 9]
    structures = [structures_of("data.xyz")[k] for k in candidates]
    means = ElementMeans()
    for one, features in zip(structures, features_of(bundle, structures), strict=True):
        means.add(one.atomic_numbers, features)
    expected = sorted(candidates[k] for k in choose_farthest(means, 4, seed=7))
    for edges in (20, 10_000):
        outcome = select(
            *("data.xyz", "-n", 4, "--method", "farthest-point", "--model", bundle, "--seed", 7),
            *("--elements", "H,C,O", "--batch-max-edges", edges, "-o", "out.xyz", "--force"),
        )
        assert outcome.code == 0, outcome.err
        assert numbers_of("out.xyz") == expected
    selection = read_selection(Path("out.selection.json"))
    assert selection.method == "farthest-point"
    (_, model) = document("out")["provenance"]["inputs"]
    assert (model["role"], model["sha256"]) == ("model", file_sha256(bundle))


def test_far_points_are_of_all_compositions(select, bundle):
    """Structures of other elements are farther than those that differ in positions alone."""
    outcome = select(
        *("data.xyz", "-n", 4, "--method", "farthest-point", "--model", bundle),
        *("--elements", "H,C,O", "-o", "out.h5"),
    )
    assert outcome.code == 0, outcome.err
    formulas = {FORMULAS[index].replace("H4O2", "H2O") for index in numbers_of("out.h5")}
    assert formulas == {"H2O", "CO", "CH4", "H2"}


def test_compiled_programs_are_kept_unless_they_are_not_wanted(select, bundle):
    arguments = ("-n", 2, "--method", "farthest-point", "--model", bundle, "--elements", "H,C,O")
    assert "compiled programs: kept in" in select("data.xyz", *arguments, "-o", "a.xyz").err
    silent = select("data.xyz", *arguments, "-o", "b.xyz", "--no-compile-cache")
    assert silent.code == 0
    assert "compiled programs" not in silent.err


def test_an_element_unknown_to_the_model(select, bundle):
    arguments = ("-n", 4, "--method", "farthest-point", "--model", bundle, "-o", "out.xyz")
    outcome = select("data.xyz", *arguments)
    assert outcome.code == 1
    assert "data.xyz: frame 6: unknown element N (7), expected one of [1, 6, 8]" in outcome.err
    assert not Path("out.xyz").exists()


def test_what_a_model_is_told_is_kept_and_what_is_assumed_is_said(select, folder):
    spec = EmbeddingSpec("total_charge", "categorical", "graph", 2, num_classes=3, offset=1)
    model = write_bundle(folder / "charged.msgpack", embedding_specs=(spec,))
    frames = [frame(0), frame(1, total_charge=-1), frame(2, total_charge=1)]
    ase.io.write("data.xyz", frames, format="extxyz")
    arguments = ("-n", 2, "--method", "farthest-point", "--model", model, "-o", "out.xyz")
    outcome = select("data.xyz", *arguments)
    assert outcome.code == 0, outcome.err
    assert "total_charge: given by 2 of 3 structures; 0 is assumed for the others" in outcome.err
    given = {index: one.info.get("total_charge") for index, one in enumerate(frames)}
    found, _ = read_structures(Path("out.xyz"), inputs=["total_charge"])
    for index, one in zip(numbers_of("out.xyz"), found, strict=True):
        assert one.inputs.get("total_charge") == given[index]


def test_without_jax(select, bundle, monkeypatch):
    """A package that is not installed has no place where it could be found."""
    monkeypatch.setattr("mace_jax_preprocess.model_descriptors.find_spec", lambda name: None)
    arguments = ("-n", 4, "--method", "farthest-point", "--model", bundle, "-o", "out.xyz")
    outcome = select("data.xyz", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert 'needs jax; install "mace-jax-preprocess[model]"' in outcome.err
