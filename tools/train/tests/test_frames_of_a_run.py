"""A run that was given extended XYZ speaks of its files and frames, not of what it made of them."""

import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mace_jax.artifacts.model_bundle import write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.errors import DataError, DivergedError
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.beginning import Beginning, prepared_run
from mace_jax_train.loop import train
from mace_jax_train.run_files import RunFiles

ATOM = (
    '1\nProperties=species:S:1:pos:R:3 pbc="F F F" config_type=IsolatedAtom REF_energy={}\n'
    "{} 0 0 0\n"
)
# Three isolated atoms, which are in no HDF5 file, come first.
ATOMS = ATOM.format(-13.6, "H") + ATOM.format(-2041.8, "O") + ATOM.format(-7000, "Si")
SILICON = '2\nProperties=species:S:1:pos:R:3 pbc="F F F" REF_energy=-7010.0\nSi 0 0 0\nH 1.5 0 0\n'
N_FRAMES = 12 + 3


@pytest.fixture
def xyz(tmp_path, train_xyz) -> str:
    """The path of a file with isolated atoms and molecules of H and O."""
    path = tmp_path / "given" / "mine.xyz"
    path.parent.mkdir()
    path.write_text(ATOMS + Path(train_xyz).read_text())
    return str(path)


@pytest.fixture
def files(tmp_path) -> RunFiles:
    return RunFiles(tmp_path / "run", "run", reproducible=True)


def with_silicon(path: str) -> str:
    Path(path).write_text(Path(path).read_text() + SILICON)
    return path


@pytest.fixture
def bundle(make_config, prepare, tmp_path) -> str:
    """The path of a model of H and O."""
    run, _ = prepare(make_config())
    with closing(run):
        path = tmp_path / "start.msgpack"
        write_model_bundle(path, run.bundle, make_provenance("mace-jax-train", []))
    return str(path)


def test_an_element_that_the_model_of_the_beginning_does_not_know(
    make_config, prepare, bundle, xyz
):
    config = make_config(datasets={"train_path": with_silicon(xyz), "E0s": None})
    config = replace(config, model=replace(type(config.model)(), start_from=bundle))
    with pytest.raises(DataError, match=rf"^{xyz}: frame {N_FRAMES}: Si \(14\): not known to"):
        prepare(config)


def test_an_element_that_the_run_is_not_to_know(make_config, prepare, xyz):
    datasets = {"train_path": with_silicon(xyz), "atomic_numbers": (1, 8)}
    with pytest.raises(DataError, match=rf"^{xyz}: frame {N_FRAMES}: .*14"):
        prepare(make_config(datasets=datasets))


@pytest.mark.parametrize("e0s", ["{1: -13.6, 8: -2041.8}", None])
def test_an_element_without_an_e0(make_config, prepare, xyz, e0s):
    text = Path(with_silicon(xyz)).read_text()
    Path(xyz).write_text(text.replace(ATOM.format(-7000, "Si"), ""))
    message = rf"head 'Default': no E0 for Si \(14\), first in {xyz}: frame {N_FRAMES - 1}; give it"
    with pytest.raises(DataError, match=message):
        prepare(make_config(datasets={"train_path": xyz, "E0s": e0s}))


def test_a_structure_of_too_many_edges(make_config, prepare, xyz, caplog):
    prepare(make_config(datasets={"train_path": xyz, "n_edge": 8}))[0].close()
    assert f"{xyz}: frame 3: has 12 edges" in caplog.text


def test_what_is_said_of_labels_names_the_file(make_config, prepare, xyz, caplog):
    caplog.set_level("INFO")
    prepare(make_config(datasets={"train_path": xyz}))[0].close()
    assert f"train: {xyz}: energy 12/12, forces 12/12" in caplog.text


def test_workers_and_a_run_that_goes_on_say_the_same(make_config, files, xyz):
    config = make_config(datasets={"train_path": xyz})
    found = []
    for beginning in (Beginning(), Beginning(continued=True)):
        with prepared_run(config, files, beginning, track_silently) as run:
            graphs = run.loaders["train"].graphs
            found.append(graphs([11])[0].structure.place)
            found.append(run.loaders["train"].structures(0).rpartition(" of ")[2])
    with closing(run):
        elsewhere = pickle.loads(pickle.dumps(graphs))
        found.append(elsewhere([11])[0].structure.place)
    assert set(found[::2]) == {f"{xyz}: frame 14"}
    assert set(found[1::2]) == {xyz}


def test_numbers_that_diverge(make_config, files, xyz):
    config = make_config(
        datasets={"train_path": xyz, "valid_path": None, "test_path": None},
        optimizer={"lr": 1e30},
        train={"max_grad_norm": None, "ema_decay": None},
    )
    with (
        prepared_run(config, files, Beginning(), track_silently) as run,
        pytest.raises(DivergedError, match=rf"the labels of frame \d+, frame .* of {xyz}, or"),
    ):
        train(run, files, show_nothing)
