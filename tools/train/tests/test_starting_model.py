"""Runs that begin with a model: what is kept of it, what is refused, and that they learn."""

import json
import logging
import lzma
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from mace_jax.artifacts.dataset import Dataset, write_dataset_file
from mace_jax.artifacts.model_bundle import read_model_bundle, write_model_bundle
from mace_jax.artifacts.provenance import file_sha256, make_provenance
from mace_jax.artifacts.statistics import read_statistics
from mace_jax.artifacts.train_config_sections import HeadConfig, TrainConfig
from mace_jax.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    IncompatibleError,
    StoppedError,
)
from mace_jax.model.predict import predict, properties
from mace_jax.structures.structure import Structure
from mace_jax.torch_models.from_torch import convert_torch_model
from mace_jax.torch_models.select_head import select_head
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.loop import train
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import prepare_run
from mace_jax_train.starting_model import HEAD, read_starting_model

STORED = Path(__file__).parents[3] / "tests" / "parity" / "data"
PLAIN = "layers_1"  # float64, elements 1 6 7 8 14 29, r_max 4
HEADS = "json_density_heads"  # rough and fine


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], str]:
    """Return a function from the name of a stored Torch model to its path."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def unpacked(name: str) -> str:
        path = folder / f"{name}.model"
        if not path.exists():
            path.write_bytes(lzma.decompress((STORED / f"{name}.model.xz").read_bytes()))
        return str(path)

    return unpacked


@pytest.fixture(scope="session")
def bundle_file(checkpoint, tmp_path_factory) -> str:
    """The path of a bundle with a licence and a model card."""
    bundle = convert_torch_model(Path(checkpoint(PLAIN)))
    bundle = replace(bundle, license="ASL", model_card={"name": "small"})
    path = tmp_path_factory.mktemp("bundle") / "start.msgpack"
    write_model_bundle(path, bundle, make_provenance("mace-jax-convert", []))
    return str(path)


@pytest.fixture(scope="session")
def mirror(checkpoint, tmp_path_factory) -> Path:
    """A folder to download from, where a stored model has the name of a released one."""
    folder = tmp_path_factory.mktemp("mirror")
    (folder / "mp").mkdir()
    (folder / "mp" / "mace-mh-0.model").write_bytes(Path(checkpoint(PLAIN)).read_bytes())
    return folder


@pytest.fixture
def downloads(mirror, monkeypatch, tmp_path):
    monkeypatch.setenv("MACE_JAX_MIRROR", mirror.as_uri())
    monkeypatch.setenv("MACE_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def starting(make_config) -> Callable[..., TrainConfig]:
    """Return a function from sections to a configuration whose network is that of a model."""

    def make(model: dict, **sections) -> TrainConfig:
        config = make_config(
            **{**sections, "datasets": {"E0s": None, **sections.get("datasets", {})}}
        )
        return replace(config, model=type(config.model)(**model))

    return make


@pytest.fixture
def in_float64():
    with jax.enable_x64(True):
        yield


def write_structures(path: Path, structures: list[Structure]) -> str:
    write_dataset_file(path, structures, make_provenance("mace-jax-preprocess", []))
    return str(path)


def structures_of(path: str) -> list[Structure]:
    with Dataset(Path(path)) as dataset:
        return list(dataset)


def refusal(error: type[Exception], config: TrainConfig) -> str:
    with pytest.raises(error) as caught:
        read_starting_model(config, track_silently)
    return str(caught.value)


# --- which model


def test_a_fresh_network_begins_with_no_model(make_config):
    assert read_starting_model(make_config(), track_silently) is None


def test_two_models_at_once(starting):
    config = starting({"start_from": "a.msgpack", "foundation_model": "small"})
    message = refusal(ConfigError, config)
    assert message.startswith("model.start_from and model.foundation_model: ")


@pytest.mark.parametrize("option", [{"torch_head": "fine"}, {"torch_param_dtype": "float32"}])
def test_an_option_of_a_model_without_one(starting, option):
    (name,) = option
    assert refusal(ConfigError, starting(option)).startswith(f"model.{name} = ")


def test_a_part_that_it_does_not_have_is_said_before_data_are_read(starting, bundle_file, prepare):
    config = starting(
        {"start_from": bundle_file},
        datasets={"train_path": "absent.h5"},
        optimizer={"freeze": ("interactions.9",)},
    )
    with pytest.raises(ConfigError, match=r"optimizer\.freeze: 'interactions\.9' is no part"):
        prepare(config)


@pytest.mark.parametrize("source", ["start_from", "torch_checkpoint"])
def test_a_file_that_does_not_exist(starting, source):
    assert refusal(ArtifactError, starting({source: "absent.msgpack"})).startswith(
        "absent.msgpack:"
    )


def test_an_unknown_released_model(starting):
    message = refusal(ConfigError, starting({"foundation_model": "smal_off"}))
    assert message.startswith("smal_off: no foundation model and no file; choose small_off, ")


def test_a_released_model_may_be_a_path(starting, checkpoint):
    config = starting({"foundation_model": checkpoint(PLAIN)})
    assert read_starting_model(config, track_silently).source.released is None


def test_a_released_model_is_downloaded_and_its_licence_said(starting, downloads, caplog):
    model = read_starting_model(starting({"foundation_model": "mh-0"}), track_silently)
    assert "mp mh-0: Academic Software License, no commercial use" in caplog.text
    assert model.bundle.license == "ASL"
    card = model.bundle.model_card["starting_model"]
    assert (card["license"], card["model_card"]["name"]) == ("ASL", "mh-0")


def test_a_released_model_that_cannot_be_had(starting, downloads):
    message = refusal(ArtifactError, starting({"foundation_model": "mh-1"}))
    assert "put the file at" in message


# --- which head


def test_a_head_must_be_chosen_where_there_are_several(starting, checkpoint):
    path = checkpoint(HEADS)
    model = read_starting_model(starting({"torch_checkpoint": path}), track_silently)
    with pytest.raises(ConfigError) as caught:
        model.of_heads([HeadConfig("Default")], 0)
    assert str(caught.value) == (
        f"{path}: has several heads, expected one of ['rough', 'fine'] for head Default; set "
        "model.torch_head, or readout of the head"
    )


def test_an_unknown_head(starting, checkpoint):
    path = checkpoint(HEADS)
    message = refusal(ConfigError, starting({"torch_checkpoint": path, "torch_head": "coarse"}))
    assert message.startswith(f"{path}: has no head 'coarse', expected one of ['rough', 'fine']")


def test_the_head_chosen_has_the_name_of_the_run(starting, checkpoint):
    config = starting({"torch_checkpoint": checkpoint(HEADS), "torch_head": "fine"})
    found = read_starting_model(config, track_silently).of_heads([HeadConfig(HEAD)], 0).bundle
    expected = select_head(convert_torch_model(Path(checkpoint(HEADS))), "fine")
    assert found.heads == (HEAD,)
    assert found.atomic_energies == {HEAD: expected.atomic_energies["fine"]}
    assert (found.scale, found.shift) == (
        {HEAD: expected.scale["fine"]},
        {HEAD: expected.shift["fine"]},
    )
    for name, array in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array)


def test_heads_are_kept_renamed_dropped_and_added(starting, checkpoint, caplog):
    config = starting({"torch_checkpoint": checkpoint(HEADS)})
    caplog.set_level(logging.INFO)
    heads = [
        HeadConfig("new", readout="fine"),
        HeadConfig("fine"),
        HeadConfig("own", readout="fresh"),
    ]
    model = read_starting_model(config, track_silently)
    found = model.of_heads(heads, 3).bundle
    assert "readouts: new from fine, fine from fine, own from fresh\n" in caplog.text
    assert found.heads == ("new", "fine", "own")
    whole = convert_torch_model(Path(checkpoint(HEADS)))
    assert found.scale == {"new": whole.scale["fine"], "fine": whole.scale["fine"], "own": 1.0}
    fine = select_head(whole, "fine").parameters
    for name, array in fine.items():
        for head in ("new", "fine"):
            kept = select_head(found, head).parameters[name]
            np.testing.assert_allclose(kept, array, rtol=1e-14, err_msg=name)
    fresh = select_head(found, "own").parameters
    differing = {name for name, array in fine.items() if not np.array_equal(fresh[name], array)}
    assert differing == {name for name in fine if name.startswith("readouts/")}
    assert all(0.1 < np.std(fresh[name]) < 3 for name in differing if fresh[name].size > 4)
    assert model.of_kept_heads(heads, (), heads) is None
    assert ": dropped: rough; a head of datasets.heads of weight 0 without data" in caplog.text


def test_a_readout_of_no_head(starting, checkpoint):
    config = starting({"torch_checkpoint": checkpoint(HEADS)})
    heads = (HeadConfig("a", "a.h5", readout="coarse"),)
    config = replace(config, datasets=replace(config.datasets, heads=heads))
    assert "has no head 'coarse', expected one of ['rough', 'fine'] for head a" in refusal(
        ConfigError, config
    )


def test_weights_are_rounded_first(starting, checkpoint):
    config = starting(
        {"torch_checkpoint": checkpoint(PLAIN), "torch_param_dtype": "float32"},
        flags={"dtype": "float64"},
    )
    model = read_starting_model(config, track_silently)
    rounded = model.of_elements(model.bundle.config.atomic_numbers, "float64")
    assert rounded.dtype == "float64"
    for name, array in convert_torch_model(Path(checkpoint(PLAIN))).parameters.items():
        np.testing.assert_array_equal(
            rounded.parameters[name], array.astype(np.float32).astype(np.float64)
        )


# --- whose network


@pytest.mark.parametrize(
    ("model", "datasets", "found"),
    [
        ({"r_max": 4.5}, {}, "model.r_max = 4.5, not 4.0"),
        ({}, {"r_max": 4.5}, "datasets.r_max = 4.5, not 4.0"),
        ({"hidden_irreps": "8x0e"}, {}, "model.hidden_irreps = '8x0e', not '4x0e"),
        ({"correlation": 5}, {}, "model.correlation = 5, not "),
        ({"num_interactions": 3}, {}, "model.num_interactions = 3, not 1"),
        ({"edge_irreps": "4x0e"}, {}, "model.edge_irreps = '4x0e', not None"),
        ({"avg_num_neighbors": 2.0}, {}, "model.avg_num_neighbors = 2.0, not 5.3"),
        ({"pair_repulsion": True}, {}, "model.pair_repulsion = True, not False"),
        ({"model": "AtomicDipolesMACE"}, {}, "model.model = 'AtomicDipolesMACE', not "),
        ({"scaling": "no_scaling"}, {}, "model.scaling = 'no_scaling', not the model's"),
    ],
)
def test_an_option_that_asks_for_another_network(starting, checkpoint, model, datasets, found):
    path = checkpoint(PLAIN)
    config = starting({"torch_checkpoint": path, **model}, datasets=datasets)
    message = refusal(ConfigError, config)
    assert message.startswith(f"{path}: {found}")
    assert message.endswith("leave these options out or begin with another model")


def test_options_that_say_what_the_model_is(starting, checkpoint):
    own = convert_torch_model(Path(checkpoint("correlation_3_2"))).config
    assert own.correlation == (3, 2)
    said = {
        "r_max": 4.0,
        "num_bessel": own.num_bessel,
        "hidden_irreps": own.hidden_irreps.replace(" ", ""),
        "correlation": (3, 2),
        "num_interactions": 2,
        "avg_num_neighbors": own.avg_num_neighbors * (1 + 1e-8),
        "model": "ScaleShiftMACE",
    }
    config = starting({"torch_checkpoint": checkpoint("correlation_3_2"), **said})
    assert read_starting_model(config, track_silently).bundle.config == own


# --- which elements and E0s


@pytest.mark.slow
@pytest.mark.parametrize("name", [PLAIN, HEADS])
def test_before_training_energies_and_forces_are_the_models(
    starting, checkpoint, prepare, data, in_float64, name
):
    """Of two of six elements: the model of all of them says the same."""
    head = {"torch_head": "fine"} if name == HEADS else {}
    config = starting({"torch_checkpoint": checkpoint(name), **head}, flags={"dtype": "float64"})
    run, _ = prepare(config)
    assert run.bundle.config.atomic_numbers == (1, 8)
    whole = convert_torch_model(Path(checkpoint(name))).astype("float64")
    structures = structures_of(data["valid_path"])
    expected = predict(whole, name, structures, n_edge=100, head=whole.heads[-1])
    found = predict(run.bundle, "run", structures, n_edge=100)
    for quantity in ("energy", "forces"):
        limit = 1e-12 * max(1, np.abs(expected.quantities[quantity]).max())
        np.testing.assert_allclose(
            found.quantities[quantity], expected.quantities[quantity], rtol=0, atol=limit
        )
    (_, batch), *_ = run.loaders["valid"].in_order()
    energies = np.asarray(jax.jit(properties)(run.model, batch)["energy"])[batch.graph_mask]
    own = run.bundle.atomic_energies[HEAD]
    for number, energy in zip(run.loaders["valid"].plan.batches[0], energies, strict=True):
        reference = sum(own[int(z)] for z in structures[number].atomic_numbers)
        assert energy + reference == pytest.approx(expected.quantities["energy"][number], rel=1e-13)


def test_exactly_the_elements_asked_for(starting, checkpoint, prepare):
    config = starting(
        {"torch_checkpoint": checkpoint(PLAIN)}, datasets={"atomic_numbers": (1, 8, 29)}
    )
    run, _ = prepare(config)
    assert run.bundle.config.atomic_numbers == (1, 8, 29)
    assert set(run.bundle.atomic_energies[HEAD]) == {1, 8, 29}
    assert run.bundle.parameters["node_embedding/weight"].shape[0] == 3


def test_an_element_asked_for_that_the_model_does_not_know(starting, checkpoint, prepare):
    path = checkpoint(PLAIN)
    config = starting({"torch_checkpoint": path}, datasets={"atomic_numbers": (1, 8, 79)})
    message = rf"^{path}: elements Au \(79\): not among those of the model.*atomic_numbers$"
    with pytest.raises(ConfigError, match=message):
        prepare(config)


def test_an_element_of_the_data_that_was_not_asked_for(starting, checkpoint, prepare):
    config = starting({"torch_checkpoint": checkpoint(PLAIN)}, datasets={"atomic_numbers": (1,)})
    with pytest.raises(DataError, match=r"config_\d+: unknown element O \(8\), expected one of"):
        prepare(config)


def test_an_element_that_the_model_does_not_know_names_the_structure(
    starting, checkpoint, prepare, tmp_path, data
):
    first, second, *rest = structures_of(data["valid_path"])
    gold = replace(second, atomic_numbers=np.full(len(second), 79))
    path = write_structures(tmp_path / "gold.h5", [first, gold, *rest])
    config = starting({"torch_checkpoint": checkpoint(PLAIN)}, datasets={"valid_path": path})
    message = rf"gold\.h5: .*config_1: Au \(79\): not known to {checkpoint(PLAIN)}, expected"
    with pytest.raises(DataError, match=message):
        prepare(config)


@pytest.fixture
def own(checkpoint) -> dict[int, float]:
    """E0s of the model."""
    return dict(convert_torch_model(Path(checkpoint(PLAIN))).atomic_energies[HEAD])


@pytest.mark.parametrize("e0s", [None, "foundation", "Foundation"])
def test_the_models_e0s_are_kept_and_said(starting, checkpoint, prepare, own, caplog, e0s):
    caplog.set_level(logging.INFO)
    config = starting({"torch_checkpoint": checkpoint(PLAIN)}, datasets={"E0s": e0s})
    run, _ = prepare(config)
    assert run.bundle.atomic_energies == {HEAD: {1: own[1], 8: own[8]}}
    rows = [
        line
        for line in caplog.messages
        if line.split()[0:2] in (["Default", "H"], ["Default", "O"])
    ]
    assert [line.split()[3] for line in rows] == ["model", "model"]
    # the data's O is 2000 eV below the model's
    assert "cannot be from the same method" in caplog.text
    assert "use --E0s estimated" in caplog.text


def test_given_e0s_win(starting, checkpoint, prepare):
    given = {1: -13.6, 8: -2041.8}
    config = starting({"torch_checkpoint": checkpoint(PLAIN)}, datasets={"E0s": str(given)})
    run, _ = prepare(config)
    assert run.bundle.atomic_energies == {HEAD: given}


def test_average_is_the_fit_of_the_energies(starting, checkpoint, prepare, data):
    config = starting({"torch_checkpoint": checkpoint(PLAIN)}, datasets={"E0s": "average"})
    run, _ = prepare(config)
    structures = structures_of(data["train_path"])
    counts = [Counter(s.atomic_numbers.tolist()) for s in structures]
    rows = np.array([[count[1], count[8]] for count in counts], float)
    energies = np.array([float(s.properties["energy"]) for s in structures])
    expected, *_ = np.linalg.lstsq(rows, energies, rcond=None)
    found = run.bundle.atomic_energies[HEAD]
    np.testing.assert_allclose([found[1], found[8]], expected, rtol=1e-10)


def test_estimated_e0s_are_what_the_model_is_wrong_by(
    starting, checkpoint, prepare, own, data, tmp_path, in_float64
):
    """Labels are the model's energies of which each H is 0.3 eV higher and each O 7 eV lower."""
    whole = convert_torch_model(Path(checkpoint(PLAIN)))
    structures = structures_of(data["train_path"])
    predicted = predict(whole, PLAIN, structures, n_edge=100).quantities["energy"]
    shift = {1: 0.3, 8: -7.0}
    labelled = []
    for structure, energy in zip(structures, predicted, strict=True):
        label = np.array(energy + sum(shift[int(z)] for z in structure.atomic_numbers))
        labelled.append(replace(structure, properties={**structure.properties, "energy": label}))
    without = {"forces": structures[0].properties["forces"]}
    labelled.append(replace(structures[0], properties=without))
    config = starting(
        {"torch_checkpoint": checkpoint(PLAIN)},
        flags={"dtype": "float64"},
        datasets={
            "E0s": "estimated",
            "train_path": write_structures(tmp_path / "shifted.h5", labelled),
            "valid_path": None,
            "test_path": None,
            "atomic_numbers": (1, 6, 8),
        },
    )
    run, _ = prepare(config)
    found = run.bundle.atomic_energies[HEAD]
    assert found[1] == pytest.approx(own[1] + 0.3, abs=1e-9)
    assert found[8] == pytest.approx(own[8] - 7.0, abs=1e-9)
    assert found[6] == own[6]  # no carbon in the data says anything


@pytest.fixture
def with_atoms(train_xyz, tmp_path) -> dict[str, str | None]:
    """Paths of data that begin with isolated atoms."""
    atoms = {"H": -13.5, "O": -2041.5}
    text = "".join(
        f'1\nProperties=species:S:1:pos:R:3 pbc="F F F" config_type=IsolatedAtom REF_energy={e}\n'
        f"{name} 0 0 0\n"
        for name, e in atoms.items()
    )
    path = tmp_path / "with_atoms.xyz"
    path.write_text(text + Path(train_xyz).read_text())
    return {"train_path": str(path), "valid_path": None, "test_path": None}


def test_isolated_atoms(starting, checkpoint, prepare, own, with_atoms, caplog):
    datasets = with_atoms
    model = {"torch_checkpoint": checkpoint(PLAIN)}
    run, _ = prepare(starting(model, datasets={**datasets, "E0s": "isolated_atom"}))
    assert run.bundle.atomic_energies == {HEAD: {1: -13.5, 8: -2041.5}}
    caplog.clear()
    run, _ = prepare(starting(model, datasets=datasets))
    assert run.bundle.atomic_energies == {HEAD: {1: own[1], 8: own[8]}}
    assert "isolated atoms in the data have other energies than the model's E0s" in caplog.text


@pytest.mark.parametrize("e0s", ["foundation", "estimated"])
def test_a_fresh_network_has_no_e0s_to_keep(make_config, prepare, e0s):
    with pytest.raises(ConfigError, match=rf"^datasets.E0s = '{e0s}', but .* fresh network"):
        prepare(make_config(datasets={"E0s": e0s}))


# --- statistics of another tool


@pytest.fixture
def statistics_file(make_config, prepare) -> Path:
    """Of a fresh run with the cutoff of the stored models."""
    _, files = prepare(make_config(model={"r_max": 4.0}))
    return files.path(".statistics.json")


def test_statistics_choose_elements_and_e0s_but_not_the_scale(
    starting, checkpoint, prepare, statistics_file, own
):
    model = {"torch_checkpoint": checkpoint(PLAIN)}
    datasets = {"statistics_file": str(statistics_file)}
    run, _ = prepare(starting(model, datasets=datasets))
    whole = convert_torch_model(Path(checkpoint(PLAIN)))
    assert run.bundle.config.atomic_numbers == (1, 8)
    assert run.bundle.config.avg_num_neighbors == whole.config.avg_num_neighbors
    assert (run.bundle.scale, run.bundle.shift) == (whole.scale, whole.shift)
    assert run.bundle.atomic_energies == {HEAD: {1: -13.6, 8: -2041.8}}  # as the file has them
    run, _ = prepare(starting(model, datasets={**datasets, "E0s": "foundation"}))
    assert run.bundle.atomic_energies == {HEAD: {1: own[1], 8: own[8]}}


def test_statistics_win_over_isolated_atoms(
    starting, checkpoint, prepare, statistics_file, with_atoms
):
    """A run that goes on reads its converted data, which have none."""
    model = {"torch_checkpoint": checkpoint(PLAIN)}
    datasets = {**with_atoms, "statistics_file": str(statistics_file)}
    run, _ = prepare(starting(model, datasets=datasets))
    assert run.bundle.atomic_energies == {HEAD: {1: -13.6, 8: -2041.8}}


def test_statistics_of_another_cutoff(starting, checkpoint, prepare, statistics_file):
    document = json.loads(statistics_file.read_text())
    document["r_max"] = 4.5
    statistics_file.write_text(json.dumps(document))
    config = starting(
        {"torch_checkpoint": checkpoint(PLAIN)}, datasets={"statistics_file": str(statistics_file)}
    )
    with pytest.raises(IncompatibleError, match=r"r_max 4.5 Å, expected 4.0 Å of the starting"):
        prepare(config)


# --- training


@pytest.mark.parametrize("source", ["start_from", "torch_checkpoint", "foundation_model"])
def test_training_goes_on_from_each_source(
    starting, checkpoint, bundle_file, prepare, downloads, source
):
    named = {
        "start_from": bundle_file,
        "torch_checkpoint": checkpoint(PLAIN),
        "foundation_model": "mh-0",
    }
    config = starting(
        {source: named[source]},
        datasets={"E0s": "average", "test_path": None},
        optimizer={"max_epochs": 3, "lr": 1e-3},
        train={"ema_decay": None},
    )
    run, files = prepare(config)
    with closing(run):
        outcome = train(run, files, show_nothing)
    assert outcome.best_row["epoch"] == 3  # it learns
    best = read_model_bundle(outcome.best)
    assert best.config.atomic_numbers == (1, 8)
    changed = [n for n, a in run.bundle.parameters.items() if (best.parameters[n] != a).any()]
    assert len(changed) > len(run.bundle.parameters) / 2
    assert best.license == {"start_from": "ASL", "foundation_model": "ASL"}.get(source)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bytes(starting, bundle_file, tmp_path, signalled):
    config = starting(
        {"start_from": bundle_file},
        datasets={"E0s": "estimated", "test_path": None},
        optimizer={"max_epochs": 2, "lr": 1e-3},
    )
    whole, stopped = (
        RunFiles(tmp_path / name, "run", reproducible=True) for name in ("whole", "stopped")
    )

    def start(files, show, checkpoint=None):
        with closing(prepare_run(config, files, track_silently)) as run:
            train(run, files, show, checkpoint)

    start(whole, show_nothing)
    with pytest.raises(StoppedError):
        start(stopped, signalled("SIGTERM"))
    start(stopped, show_nothing, stopped.checkpoint())
    for suffix in (".metrics", "_best.msgpack", "_last.msgpack"):
        assert stopped.path(suffix).read_bytes() == whole.path(suffix).read_bytes()


def test_the_files_of_the_run_say_what_it_began_with(starting, bundle_file, prepare):
    run, files = prepare(starting({"start_from": bundle_file}))
    (found,) = [item for item in run.inputs if item.role == "model"]
    assert (found.path, found.sha256) == (Path(bundle_file), file_sha256(Path(bundle_file)))
    assert run.bundle.license == "ASL"
    assert run.bundle.model_card == {
        "starting_model": {
            "file": "start.msgpack",
            "sha256": found.sha256,
            "license": "ASL",
            "model_card": {"name": "small"},
        }
    }
    assert run.bundle.parity is None
    statistics = read_statistics(files.path(".statistics.json"))
    assert statistics.atomic_energies == run.bundle.atomic_energies[HEAD]


def test_a_model_of_dipoles_is_not_trained_on_energies(starting, checkpoint):
    config = starting({"torch_checkpoint": checkpoint("atomic_dipoles")})
    assert "AtomicDipolesMACE predicts dipole, but loss.energy_weight is 1.0" in refusal(
        ConfigError, config
    )


def test_what_a_model_is_told_is_not_lost_on_the_way(
    starting, checkpoint, prepare, train_xyz, tmp_path
):
    """HDF5 keeps no charges of structures, so that frames with them would train the wrong thing."""
    path = tmp_path / "charged.xyz"
    path.write_text(
        Path(train_xyz).read_text().replace("REF_energy=", "total_charge=1 REF_energy=")
    )
    config = starting(
        {"torch_checkpoint": checkpoint("json_embeddings")}, datasets={"train_path": str(path)}
    )
    with pytest.raises(
        DataError, match=r"^.*charged\.xyz: has total_charge, which the model is told"
    ):
        prepare(config)
