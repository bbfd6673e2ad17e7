"""The flags of multi-head fine-tuning are written out as heads, learning rate, average and loss."""

import json
import logging

import pytest

from mace_jax.artifacts.train_config_sections import HeadConfig, OptimizerConfig, TrainSection
from mace_jax.errors import ConfigError
from mace_jax_train.cli import main as command
from mace_jax_train.flag_options import given_flags
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.gin_text import gin_text

MODEL = ("--foundation-model", "small")
NEW = ("--train-path", "new.xyz", "--valid-path", "new_valid.xyz")
OLD = ("--multiheads_finetuning", "--pt_train_file", "old.h5")


@pytest.fixture(autouse=True)
def logging_as_before():
    """Parsing starts the logging of the command."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


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
