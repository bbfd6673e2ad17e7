"""The flags of multi-head fine-tuning are written out as heads, learning rate, average and loss."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from mace_jax.artifacts.dataset import write_dataset_file
from mace_jax.artifacts.model_bundle import write_model_bundle
from mace_jax.artifacts.provenance import make_provenance
from mace_jax.artifacts.train_config_sections import HeadConfig, OptimizerConfig, TrainSection
from mace_jax.errors import ConfigError, DataError
from mace_jax.torch_models.select_head import select_head
from mace_jax_train.cli import main as command
from mace_jax_train.flag_options import given_flags
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.gin_text import gin_text

PROVENANCE = make_provenance("mace-jax-preprocess", [])
MODEL = ("--foundation-model", "small")
NEW = ("--train-path", "new.xyz", "--valid-path", "new_valid.xyz")
OLD = ("--multiheads_finetuning", "--pt_train_file", "old.h5")


pytestmark = pytest.mark.usefixtures("logging_as_before")


def resolve(*arguments):
    context = command.make_context("mace-jax-train", list(arguments))
    with context:
        given = given_flags(context)
        return load_train_config(context.params["configs"], context.params["bindings"], *given)


def test_defaults_are_those_of_mace_torch():
    config = resolve(*MODEL, *NEW, *OLD)
    old, new = config.datasets.heads
    assert old == HeadConfig("pt_head", ("old.h5",), E0s="foundation")
    assert new == HeadConfig("Default", "new.xyz", "new_valid.xyz")
    assert config.datasets.train_path is config.datasets.valid_path is None
    assert (config.optimizer.lr, config.train.ema_decay) == (1e-4, 0.99999)
    assert (config.loss.loss_cls, config.train.best_head) == ("universal", "Default")


def test_what_is_given_stays(tmp_path):
    config = resolve(
        *(*MODEL, *NEW, *OLD, "--lr", "0.01", "--loss", "ef", "--E0s", "estimated"),
        *("--pt_head_name", "mp", "--pt_valid_file", "v.h5", "--weight_pt_head", "3"),
        *("--foundation-head", "pbe", "--best-head", "mp"),
    )
    old, new = config.datasets.heads
    assert (old.name, old.valid_path, old.weight, old.readout) == ("mp", ("v.h5",), 3.0, "pbe")
    assert (old.E0s, new.E0s, new.readout) == ("foundation", "estimated", "pbe")
    assert (config.optimizer.lr, config.loss.loss_cls) == (0.01, "ef")
    assert (config.train.ema_decay, config.train.best_head) == (0.99999, "mp")


def test_force_mh_ft_lr_trains_as_any_other_run():
    config = resolve(*MODEL, *NEW, *OLD, "--force_mh_ft_lr")
    found = (config.optimizer.lr, config.train.ema_decay)
    assert found == (OptimizerConfig().lr, TrainSection().ema_decay)
    assert config.loss.loss_cls == "universal"


@pytest.mark.parametrize(
    "spelling", [["--multiheads_finetuning=True"], ["--multiheads-finetuning", "True"]]
)
def test_the_words_of_mace_run_train(spelling):
    config = resolve(*MODEL, *NEW, *spelling, "--pt_train_file", "old.h5")
    assert len(config.datasets.heads) == 2
    for off in (["--multiheads_finetuning=False"], ["--multiheads_finetuning", "false"]):
        assert not resolve(*MODEL, *NEW, *off).datasets.heads


def test_several_new_heads_and_keys_of_the_old(tmp_path):
    path = tmp_path / "heads.json"
    heads = {
        "dft": {"train_file": "dft.xyz", "E0s": {"1": -13.6}, "info_keys": {"energy": "e_dft"}},
        "cc": {"train_path": ["cc.xyz", "more.xyz"], "weight": 5, "readout": "fresh"},
        "pt_head": {"forces_key": "f"},
    }
    path.write_text(json.dumps(heads))
    config = resolve(*MODEL, *OLD, "--heads-config", str(path))
    old, dft, cc = config.datasets.heads
    assert (old.name, old.train_path, old.forces_key) == ("pt_head", ("old.h5",), "f")
    assert (dft.train_path, dft.E0s, dft.energy_key) == ("dft.xyz", "{'1': -13.6}", "e_dft")
    assert (cc.train_path, cc.weight, cc.readout) == (("cc.xyz", "more.xyz"), 5.0, "fresh")
    assert config.train.best_head == "cc"


def test_a_head_that_is_kept_is_told_nothing(tmp_path):
    heads = "{'new': {'train_file': 'new.xyz'}, 'mp': {'weight': 0}}"
    config = resolve(*MODEL, *OLD, "--foundation-head", "pbe", "--heads", heads, "--E0s=estimated")
    assert config.datasets.heads[2] == HeadConfig("mp", weight=0.0)
    assert config.train.best_head == "new"


def test_the_configuration_says_all_of_it(tmp_path):
    config = resolve(*MODEL, *NEW, *OLD, "--foundation-head", "pbe")
    path = tmp_path / "again.gin"
    path.write_text(gin_text(config))
    assert load_train_config([path], [], {}) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*NEW, *OLD), "there is no model to begin with; give --foundation-model"),
        ((*MODEL, *NEW, "--multiheads_finetuning"), "no replay data for head pt_head; give --pt_t"),
        ((*MODEL, *OLD), "there are no new data; give --train-path or --heads"),
        (
            (*MODEL, *NEW, *OLD, "--pt_head_name", "Default"),
            "'Default' is the head of the new data",
        ),
        ((*MODEL, *NEW, *OLD, "--E0s", "average"), "give --E0s estimated"),
        ((*MODEL, *NEW, "--pt_train_file", "a.h5"), "--pt_train_file: belongs to multi-head"),
        ((*MODEL, *NEW, "--force_mh_ft_lr"), "--force_mh_ft_lr: belongs to multi-head"),
    ],
)
def test_what_is_missing_is_an_error(arguments, message):
    with pytest.raises(ConfigError) as caught:
        resolve(*arguments)
    assert message in str(caught.value)


# --- as it is trained


E0 = {1: -13.6, 8: -2041.8}
OTHER_E0 = {1: -16.0, 8: -2000.0}


@pytest.fixture
def begin(make_config, prepare, molecules, tmp_path):
    """Return a function from further arguments to a run that fine-tunes a model of random weights.

    The model's weights are small, so that the new data's E0s are known.
    """
    run, _ = prepare(make_config())
    shrunk = {
        name: 1e-3 * array if name.startswith("readouts/") else array
        for name, array in run.bundle.parameters.items()
    }
    bundle = replace(run.bundle, parameters=shrunk)
    write_model_bundle(tmp_path / "old.msgpack", bundle, PROVENANCE)
    changed = []
    for one in molecules(9, 20):
        shift = sum(OTHER_E0[int(z)] - E0[int(z)] for z in one.atomic_numbers)
        labels = {**one.properties, "energy": one.properties["energy"] + shift}
        changed.append(replace(one, properties=labels))
    for name, structures in (("old", molecules(7, 21)), ("new", changed)):
        write_dataset_file(tmp_path / f"{name}.h5", structures, PROVENANCE)

    def make(*arguments, **of_new):
        config = resolve(
            *("--start-from", str(tmp_path / "old.msgpack"), "-b", "datasets.n_edge=60"),
            *("--stress-weight", "0", "--train-path", str(tmp_path / "new.h5")),
            *("--multiheads_finetuning", "--pt_train_file", str(tmp_path / "old.h5"), *arguments),
        )
        old, new = config.datasets.heads
        heads = (old, replace(new, **of_new))
        return prepare(replace(config, datasets=replace(config.datasets, heads=heads)))[0]

    return make


def test_both_heads_begin_with_the_readout_of_the_model(begin):
    run = begin("--E0s", "estimated", "--weight_pt_head", "0.5")
    assert run.bundle.heads == ("pt_head", "Default")
    assert run.factors.weights == (0.5, 1.0)
    assert run.bundle.atomic_energies["pt_head"] == E0
    for number, energy in run.bundle.atomic_energies["Default"].items():
        assert energy == pytest.approx(OTHER_E0[number], abs=0.5)
    assert run.energy_sources == {"pt_head": "model", "Default": "estimated"}
    one, other = (select_head(run.bundle, head) for head in run.bundle.heads)
    for name, array in one.parameters.items():
        np.testing.assert_array_equal(array, other.parameters[name])
    assert one.scale["pt_head"] == other.scale["Default"]


def test_a_fresh_readout_has_e0s_and_scale_of_its_data(begin):
    run = begin("--heads", "{'pt_head': {'E0s': 'estimated'}}", readout="fresh", E0s="average")
    bundle = run.bundle
    assert run.energy_sources == {"pt_head": "estimated", "Default": "average"}
    one, other = (select_head(bundle, head) for head in bundle.heads)
    assert all(np.abs(a).max() < 1e-2 for n, a in one.parameters.items() if "readouts/" in n)
    assert all(np.abs(a).max() > 0.1 for n, a in other.parameters.items() if "readouts/" in n)
    assert bundle.scale["Default"] != bundle.scale["pt_head"]
    with pytest.raises(ConfigError, match="E0s 'estimated', but a fresh readout has none"):
        begin("--E0s", "estimated", readout="fresh")


def test_the_models_own_e0s_by_default_and_isolated_atoms_on_demand(begin):
    assert begin().bundle.atomic_energies == {"pt_head": E0, "Default": E0}
    with pytest.raises(DataError, match="no E0 for H"):
        begin("--E0s", "isolated_atom")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--r-max", "4.0"), ConfigError, "model.r_max = 4.0, not 3.0"),
        (("--foundation-head", "pbe"), ConfigError, "has no head 'pbe', expected one of"),
        (("--energy-weight", "0", "--forces-weight", "0"), ConfigError, "all weights are 0"),
    ],
)
def test_what_does_not_fit_the_model(begin, arguments, error, message):
    with pytest.raises(error) as caught:
        begin(*arguments)
    assert message in str(caught.value)


def test_replay_data_with_other_label_keys(begin, tmp_path):
    atoms = Atoms("OH", [[0, 0, 0], [1, 0, 0]], info={"dft_energy": -2056.0})
    write(tmp_path / "keys.xyz", [atoms])
    with pytest.raises(DataError) as caught:
        begin("--pt_train_file", str(tmp_path / "keys.xyz"))
    assert "keys.xyz: energy found in 0 of 1 structures" in str(caught.value)
    assert "keys present: " in str(caught.value)
    assert "dft_energy" in str(caught.value)
