"""A split of several files trains as one file of the same structures in the same order."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mace_jax.artifacts.batch_plan import write_batch_plan
from mace_jax.artifacts.dataset import Dataset, DatasetWriter, write_dataset_file
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.batching.plan import plan_batches
from mace_jax.errors import ConfigError, DataError, IncompatibleError, StoppedError
from mace_jax.structures.block_neighbors import block_pairs
from mace_jax.structures.label_keys import LabelCounts, LabelKeys
from mace_jax.structures.read_structures import stream_structures
from mace_jax.structures.structure_block import StructureBlock
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.beginning import find_beginning, prepared_run
from mace_jax_train.loop import train
from mace_jax_train.run_files import RunFiles

PROVENANCE = make_provenance("mace-jax-preprocess", [])
ISOLATED = (
    '1\nProperties=species:S:1:pos:R:3 pbc="F F F" config_type=IsolatedAtom REF_energy={}\n'
    "{} 0 0 0\n"
)


def start(config, files, show=show_nothing):
    beginning = find_beginning(config, files, [], force=False)
    with prepared_run(config, files, beginning, track_silently) as run:
        return train(run, files, show, beginning.checkpoint)


@pytest.fixture(scope="module")
def structures(train_xyz):
    return list(stream_structures(Path(train_xyz), LabelKeys(), LabelCounts()))


@pytest.fixture(scope="module")
def frames(train_xyz):
    """The frames of the file as text."""
    text, frames = Path(train_xyz).read_text().splitlines(keepends=True), []
    while text:
        n = int(text[0]) + 2
        frames.append("".join(text[:n]))
        text = text[n:]
    return frames


@pytest.fixture
def part(tmp_path, structures, frames):
    """Return a function that writes some of the structures, in the format of the suffix."""

    def write(name, wanted, r_max=3.0):
        path = tmp_path / name
        if path.suffix == ".xyz":
            path.write_text("".join(frames[wanted]))
        elif name.startswith("flat"):
            block = StructureBlock.of(structures[wanted])
            with DatasetWriter(path, PROVENANCE, layout="flat", r_max=r_max) as writer:
                writer.write_block(replace(block, pairs=block_pairs(block, r_max)))
        else:
            write_dataset_file(path, structures[wanted], PROVENANCE)
        return str(path)

    return write


@pytest.fixture
def config(make_config):
    """Return a function to a configuration of a quick run on the training data alone."""

    def make(train_path, **datasets):
        rest = {"train_path": train_path, "valid_path": None, "test_path": None, **datasets}
        return make_config(datasets=rest, optimizer={"max_epochs": 2})

    return make


FIRST, LAST = slice(0, 5), slice(5, None)


def trained(config, files):
    """Return all numbers that a run ends with."""
    outcome = start(config, files)
    bundle = read_model_bundle(outcome.best)
    arrays = {name: array.tobytes() for name, array in bundle.parameters.items()}
    statistics = read_statistics(files.path(".statistics.json"))
    return arrays, bundle.atomic_energies, statistics, read_metrics(files.path(".metrics"))[1]


@pytest.fixture(scope="module")
def whole(make_config, train_xyz, tmp_path_factory):
    """What a run of one file ends with."""
    rest = {"train_path": train_xyz, "valid_path": None, "test_path": None, "E0s": "average"}
    files = RunFiles(tmp_path_factory.mktemp("whole"), "run", reproducible=True)
    return trained(make_config(datasets=rest, optimizer={"max_epochs": 2}), files)


@pytest.mark.parametrize("names", [("a.h5", "b.h5"), ("a.xyz", "flat.h5"), ("flat.h5", "b.xyz")])
def test_two_halves_train_to_the_bytes_of_the_whole(config, part, whole, tmp_path, names):
    halves = RunFiles(tmp_path, "run", reproducible=True)
    paths = (part(names[0], FIRST), part(names[1], LAST))
    found = trained(config(paths, E0s="average"), halves)
    assert found == whole
    assert len(found[-1]) == 5


def test_every_structure_has_a_number_of_its_own(config, prepare, part, structures):
    run, _ = prepare(config((part("a.xyz", LAST), part("flat.h5", FIRST))))
    loader = run.loaders["train"]
    assert sorted(loader.plan.batches.ids.tolist()) == list(range(12))
    found = [graph.structure.properties["energy"] for graph in loader.graphs(range(12))]
    expected = [one.properties["energy"] for one in (*structures[LAST], *structures[FIRST])]
    np.testing.assert_array_equal(found, expected)
    assert [item.role for item in run.inputs[:2]] == ["train", "train"]


def test_a_plan_for_the_same_datasets_is_taken(config, prepare, part, tmp_path):
    paths, path = (part("a.h5", FIRST), part("flat.h5", LAST)), tmp_path / "train.plan.json"
    datasets = [Dataset(Path(name)) for name in paths]
    plan = plan_batches(datasets, 3.0, 16, seed=9)
    write_batch_plan(path, plan, make_provenance("mace-jax-plan-batches", []))
    run, _ = prepare(config(paths, train_plan=str(path)))
    assert run.loaders["train"].plan == plan
    for other, message in (
        (paths[::-1], "was made for other data"),
        (paths[:1], "was made for 2 datasets, expected 1"),
    ):
        with pytest.raises(IncompatibleError, match=message):
            prepare(config(other, train_plan=str(path)))


@pytest.mark.parametrize(
    ("pattern", "n_datasets"), [("*.h5", 1), ("*.xyz", 2), ("part*", 4), ("part_0.*", 2)]
)
def test_globs(config, prepare, part, tmp_path, pattern, n_datasets):
    for name, wanted in (("0.h5", (0, 3)), ("1.h5", (3, 6)), ("0.xyz", (6, 9)), ("1.xyz", (9, 12))):
        part(f"part_{name}", slice(*wanted))
    run, _ = prepare(config(str(tmp_path / pattern)))
    assert len(run.loaders["train"].plan.datasets) == n_datasets


@pytest.mark.parametrize(
    "second",
    ["a.h5", "*.h5", "copy.h5", "folder/../a.h5", "folder", "folder/b.h5", "b.xyz", "copy.xyz"],
)
def test_the_same_data_twice(config, prepare, part, tmp_path, second):
    (tmp_path / "folder").mkdir()
    first = (part("a.h5", FIRST), part("b.xyz", LAST), part("folder/b.h5", FIRST))
    if second == "copy.h5":
        shutil.copy(first[0], tmp_path / second)
    if second == "copy.xyz":
        shutil.copy(first[1], tmp_path / second)
    given = first[:2] if "folder" not in second or ".." in second else first[2:]
    message = r"holds data that .* holds, too, so that train would read them twice; name them once"
    with pytest.raises(DataError, match=message):
        prepare(config((*given, str(tmp_path / second))))


def test_data_of_two_heads_train_two_heads(config, prepare, part, structures, tmp_path):
    other = tmp_path / "other.h5"
    changed = [replace(structure, head="r2scan") for structure in structures[LAST]]
    write_dataset_file(other, changed, PROVENANCE)
    run, _ = prepare(config((part("a.h5", FIRST), str(other))))
    assert run.bundle.heads == ("Default", "r2scan")


def test_elements_are_those_of_all_files(config, prepare, structures, tmp_path):
    of_hydrogen = [
        replace(one, atomic_numbers=np.ones_like(one.atomic_numbers)) for one in structures[FIRST]
    ]
    paths = []
    for name, some in (("hydrogen", of_hydrogen), ("others", structures[LAST])):
        paths.append(str(tmp_path / f"{name}.h5"))
        write_dataset_file(Path(paths[-1]), some, PROVENANCE)
    run, _ = prepare(config(tuple(paths)))
    assert run.bundle.config.atomic_numbers == (1, 8)
    with pytest.raises(DataError, match=r"others\.h5.* O"):
        prepare(config(tuple(paths), atomic_numbers=(1,)))


def test_files_without_a_label_and_with_other_neighbours_are_named(
    config, prepare, part, structures, tmp_path, caplog
):
    other = tmp_path / "energies.h5"
    changed = [
        replace(structure, properties={"energy": structure.properties["energy"]})
        for structure in structures[LAST]
    ]
    write_dataset_file(other, changed, PROVENANCE)
    prepare(config((part("flat.h5", FIRST, r_max=2.5), str(other))))
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert f"{other}: no forces in any structure: other data alone teach it" in warnings
    assert any("stores the neighbours at 2.5 Å, not at r_max 3 Å" in text for text in warnings)


def test_isolated_atoms_may_have_a_file_of_their_own(config, prepare, part, tmp_path):
    atoms = tmp_path / "atoms.xyz"
    atoms.write_text(ISOLATED.format(-13.5, "H") + ISOLATED.format(-2041.5, "O"))
    run, _ = prepare(config((str(atoms), part("a.h5", FIRST)), E0s="isolated_atom"))
    assert run.bundle.atomic_energies == {"Default": {1: -13.5, 8: -2041.5}}
    assert [data.n_structures for data in run.loaders["train"].plan.datasets] == [5]
    with pytest.raises(DataError, match=r"atoms\.xyz: isolated atoms only, expected structures"):
        prepare(config(str(atoms), E0s="isolated_atom"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.xyz", r"none\.xyz: no such file"),
        ("none*.xyz", r"none\*\.xyz: no file matches"),
    ],
)
def test_paths_that_name_nothing(config, prepare, part, path, message):
    with pytest.raises(DataError, match=message):
        prepare(config((part("a.h5", FIRST), path)))


def test_no_path_at_all(config):
    with pytest.raises(ConfigError, match=r"datasets\.valid_path = \(\), but it names no data"):
        config("train.h5", valid_path=())


# --- going on


def test_a_run_of_several_files_goes_on_with_what_it_converted(
    config, part, tmp_path, signalled, caplog
):
    atoms = tmp_path / "atoms.xyz"
    atoms.write_text(ISOLATED.format(-13.5, "H") + ISOLATED.format(-2041.5, "O"))
    paths = (str(atoms), part("a.xyz", FIRST), part("flat.h5", LAST))
    settings = config(paths, E0s="isolated_atom")
    files = RunFiles(tmp_path / "run", "run", reproducible=True)
    with pytest.raises(StoppedError):
        start(settings, files, show=signalled("SIGTERM"))
    converted = files.path(".data") / "train" / "train_1.h5"
    made = converted.stat().st_mtime_ns
    caplog.set_level("INFO", "mace_jax_train")
    start(settings, files)
    assert "goes on in epoch 1" in caplog.text
    assert converted.stat().st_mtime_ns == made
    whole = RunFiles(tmp_path / "whole", "run", reproducible=True)
    start(settings, whole)
    for suffix in (".metrics", "_best.msgpack", "_last.msgpack"):
        assert files.path(suffix).read_bytes() == whole.path(suffix).read_bytes()


def test_a_run_of_another_name_goes_on_from_a_checkpoint_of_the_same_extxyz(config, part, tmp_path):
    """What is converted has the same digest at any time, on any machine, for any command."""
    settings = config((part("a.xyz", FIRST), part("b.h5", LAST)))
    first, second = RunFiles(tmp_path / "first", "one"), RunFiles(tmp_path / "second", "two")
    start(settings, first)
    longer = replace(
        settings,
        train=replace(settings.train, resume_from=str(first.checkpoint())),
        optimizer=replace(settings.optimizer, max_epochs=3),
    )
    assert start(longer, second).epochs == 3
    files = [files.path(".data") / "train" / "train_0.h5" for files in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
