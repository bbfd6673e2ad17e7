"""Every flag sets its value and no other; every value has a flag or a reason to have none."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args

import click
import pytest

from mace_jax.artifacts.train_config_fields import FIELDS, choices, is_section, without_none
from mace_jax.artifacts.train_config_sections import HeadConfig
from mace_jax.errors import ConfigError
from mace_jax_train.cli import main as command
from mace_jax_train.flag_options import given_flags
from mace_jax_train.flags import FLAGS, IGNORED
from mace_jax_train.gin_config import load_train_config

CONFIGS = Path(__file__).parents[3] / "configs"
DATA = ["--train-path", "train.h5"]

ARCHITECTURE = "the network's architecture is written down in a gin file, or given with -b"
SCHEDULE = "a schedule in such detail is written down in a gin file, or given with -b"
WITHOUT_FLAG = {
    "datasets.r_max": "--r-max sets model.r_max, which is the same",
    "model.model": ARCHITECTURE,
    "model.num_bessel": ARCHITECTURE,
    "model.num_polynomial_cutoff": ARCHITECTURE,
    "model.max_ell": ARCHITECTURE,
    "model.num_interactions": ARCHITECTURE,
    "model.hidden_irreps": ARCHITECTURE,
    "model.MLP_irreps": ARCHITECTURE,
    "model.correlation": ARCHITECTURE,
    "model.radial_MLP": ARCHITECTURE,
    "model.gate": ARCHITECTURE,
    "model.interaction_cls": ARCHITECTURE,
    "model.interaction_cls_first": ARCHITECTURE,
    "model.avg_num_neighbors": ARCHITECTURE,
    "model.radial_type": ARCHITECTURE,
    "model.distance_transform": ARCHITECTURE,
    "model.apply_cutoff": ARCHITECTURE,
    "model.pair_repulsion": ARCHITECTURE,
    "model.readout_cls": ARCHITECTURE,
    "model.edge_irreps": ARCHITECTURE,
    "model.use_edge_irreps_first": ARCHITECTURE,
    "model.use_so3": ARCHITECTURE,
    "model.use_reduced_cg": ARCHITECTURE,
    "model.use_agnostic_product": ARCHITECTURE,
    "model.use_last_readout_only": ARCHITECTURE,
    "model.keep_last_layer_irreps": ARCHITECTURE,
    "optimizer.scheduler.transition_steps": SCHEDULE,
    "optimizer.scheduler.transition_begin": SCHEDULE,
    "optimizer.scheduler.staircase": SCHEDULE,
    "optimizer.scheduler.end_value": SCHEDULE,
    "optimizer.scheduler.boundaries_and_scales": SCHEDULE,
    "optimizer.scheduler.min_lr": SCHEDULE,
}

# What a flag makes sense with.
EXPONENTIAL = ["-b", "optimizer.scheduler=@exponential_decay"]
PLATEAU = ["--scheduler", "plateau"]
WITH = {
    "--virials-weight": ["--loss", "virials"],
    "--dipole-weight": ["--loss", "energy_forces_dipole", "-b", "model.model=@EnergyDipolesMACE"],
    "--schedule-free-b1": ["--optimizer", "schedulefree"],
    "--schedule-free-weight-lr-power": ["--optimizer", "schedulefree"],
    "--lr-scheduler-gamma": EXPONENTIAL,
    "--lr-factor": PLATEAU,
    "--scheduler-patience": PLATEAU,
    "--scheduler-threshold": PLATEAU,
    "--swa-virials-weight": ["--swa", "--loss", "virials"],
    "--swa-dipole-weight": [
        *("--swa", "--loss", "energy_forces_dipole", "-b", "model.model=@EnergyDipolesMACE")
    ],
    "--ema": ["-b", "train.ema_decay=None"],
}
HEADS_FILE = str(Path(__file__).parent / "heads.yaml")
# Values of which one type is not like any other: (as it is written, what it is).
VALUES = {
    "--optimizer": ("sgd", "sgd"),
    "--loss": ("huber", "huber"),
    "--swa-loss": ("huber", "huber"),
    "--scheduler": ("plateau", "reduce_on_plateau"),
    "--atomic-numbers": ("[1, 8]", (1, 8)),
    "--config-type-weights": ("{'bulk': 2.0}", {"bulk": 2.0}),
    "--suffle": ("False", False),
    "--start-from": ("model.msgpack", "model.msgpack"),
    "--wandb-tag": ("first", ("first",)),
    "--heads": ("{'Default': {'weight': 2.0}}", (HeadConfig("Default", weight=2.0),)),
    "--heads-config": (HEADS_FILE, (HeadConfig("Default", weight=2.0),)),
    "--freeze": ("embedding,readouts.0", ("embedding", "readouts.0")),
    "--lr-factors": ("readouts=2,embedding=1e-1", {"readouts": 2.0, "embedding": 0.1}),
}
# What else changes, by what is resolved from it.
ALSO = {
    "--loss": {"loss.stress_weight"},
    "--swa-loss": {"train.swa_config.loss.stress_weight"},
}


pytestmark = pytest.mark.usefixtures("logging_as_before")


def parse(*arguments):
    context = command.make_context("mace-jax-train", list(map(str, arguments)))
    with context:
        return context, given_flags(context)


def resolve(*arguments):
    """Return every value by its dotted name of the configuration that arguments make."""
    context, given = parse(*arguments)
    config = load_train_config(context.params["configs"], context.params["bindings"], *given)
    return dict(values(config))


def values(section, prefix=""):
    for item in fields(section):
        value, name = getattr(section, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from values(value, f"{name}.")
        else:
            yield name, value


def first_name(flag):
    return flag.names.split()[0].split("/")[0]


def sample(flag, name):
    """Return a value that is not the default: (words on the command line, what it is)."""
    if flag.value is not None:
        return [], flag.value
    if name in VALUES:
        written, value = VALUES[name]
        return [written], value
    kind, words = without_none(FIELDS[flag.target]), choices(FIELDS[flag.target])
    if words:
        return [words[-1]], words[-1]
    if tuple[str, ...] in get_args(kind):
        return ["['a.h5', 'b/*.xyz']"], ("a.h5", "b/*.xyz")
    return {int: (["3"], 3), float: (["0.25"], 0.25), str: (["word"], "word")}[kind]


def context_of(flag):
    """Return the arguments that a flag makes sense with."""
    context = [*DATA, *WITH.get(first_name(flag), [])]
    if flag.target.startswith("train.swa_config.") and "--swa" not in context:
        context.append("--swa")
    if flag.target.startswith("optimizer.lora."):
        context.append("--lora")
    if flag.target.startswith("wandb_run."):
        context.append("--wandb")
    if flag.target.startswith("tensorboard."):
        context.append("--tensorboard")
    return context


def changed_by(before, after):
    return {name for name in after if after[name] != before[name]}


# test_replay_finetuning.py tests those that are written out as other values
SINGLE = [flag for flag in FLAGS if not flag.target.startswith("replay.")]
SWITCHES = [flag for flag in SINGLE if "/" in flag.names]
SPELLINGS = [
    pytest.param(flag, spelling, id=spelling)
    for flag in SINGLE
    if flag not in SWITCHES and flag.names not in ("--swa", "--lora")
    for name in flag.names.split()
    for spelling in dict.fromkeys([name, f"--{name[2:].replace('-', '_')}"])
]


@pytest.mark.parametrize(("flag", "spelling"), SPELLINGS)
def test_each_flag_changes_its_value_and_no_other(flag, spelling):
    name, context = first_name(flag), context_of(flag)
    written, value = sample(flag, name)
    before, after = resolve(*context), resolve(*context, spelling, *written)
    assert after[flag.target] == value
    assert changed_by(before, after) - ALSO.get(name, set()) == {flag.target}


@pytest.mark.parametrize("flag", SWITCHES, ids=first_name)
def test_each_switch_turns_its_value_on_and_off_and_changes_no_other(flag):
    on, off = flag.names.split("/")
    found = {True: resolve(*context_of(flag), on), False: resolve(*context_of(flag), off)}
    assert all(found[value][flag.target] is value for value in found)
    assert changed_by(found[True], found[False]) == {flag.target}


def test_stage_two_as_mace_torch_has_it():
    before, after = resolve(*DATA), resolve(*DATA, "--swa")
    assert before.pop("train.swa_config") is None
    assert not changed_by(after, {**after, **before})
    assert after["train.swa_config.start_interval"] == 75
    assert after["train.swa_config.lr"] == 1e-3
    assert after["train.swa_config.loss.energy_weight"] == 1000.0


def test_every_value_has_a_flag_or_a_reason():
    leaves = {name for name, hint in FIELDS.items() if not is_section(hint)}
    sections = {"train.swa_config", "optimizer.lora"}
    assert {flag.target for flag in SINGLE} - sections == leaves - WITHOUT_FLAG.keys()


def test_no_flag_is_given_twice():
    names = [name for flag in FLAGS for name in flag.names.replace("/", " ").split()]
    assert len(names) == len(set(names))


def test_no_flag_changes_nothing():
    assert parse()[1] == ({}, {})


@pytest.mark.parametrize(
    "flag", [flag for flag in FLAGS if "swa" in flag.names], ids=lambda flag: flag.names
)
def test_any_flag_of_stage_two_turns_it_on(flag):
    name = first_name(flag)
    context = [part for part in WITH.get(name, []) if part != "--swa"]
    written = [] if flag in SWITCHES else sample(flag, name)[0]
    assert resolve(*DATA, *context)["train.swa_config"] is None
    assert "train.swa_config.lr" in resolve(*DATA, *context, name, *written)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (4, 1.0)),
        (["--lora_rank", "2"], (2, 1.0)),
        (["--lora-alpha", "8"], (4, 8.0)),
        (["--lora"], (4, 1.0)),
    ],
)
def test_any_flag_of_lora_turns_it_on(arguments, expected):
    """The defaults are those of mace-torch, whose ``--lora_rank`` alone does nothing."""
    found = resolve(*DATA, *arguments)
    rank_and_alpha = found.get("optimizer.lora.rank"), found.get("optimizer.lora.alpha")
    assert rank_and_alpha == (expected if arguments else (None, None))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["0"], None),
        (["4"], ("embedding",)),
        (["5"], ("embedding", "interactions")),
        (["6"], ("embedding", "interactions", "products")),
        (["readouts, products.0"], ("readouts", "products.0")),
        (["readouts", "products.0"], ("readouts", "products.0")),
        (["None"], None),
    ],
)
def test_frozen_parts_by_name_or_as_mace_torch_counts_them(written, expected):
    given = [argument for text in written for argument in ("--freeze", text)]
    config = [*DATA, "-b", "optimizer.freeze='products'"]
    assert resolve(*config)["optimizer.freeze"] == ("products",)
    assert resolve(*config, *given)["optimizer.freeze"] == expected


def test_factors_as_mace_torch_writes_them():
    written = '{"embedding_lr_factor": 0.5, "readouts_lr_factor": 1}'
    found = resolve(*DATA, "--lr_params_factors", written)["optimizer.lr_factors"]
    assert found == {"embedding": 0.5, "readouts": 1.0}


@pytest.mark.parametrize(
    "arguments", [["--wandb-project", "p"], ["--wandb-tag", "a"], ["--wandb-mode", "offline"]]
)
def test_any_flag_of_wandb_turns_it_on_unless_it_is_turned_off(arguments):
    assert resolve(*DATA, *arguments)["wandb_run.enabled"]
    assert not resolve(*DATA, *arguments, "--no-wandb")["wandb_run.enabled"]


def test_a_folder_for_tensorboard_turns_it_on_unless_it_is_turned_off():
    assert resolve(*DATA, "--tensorboard-dir", "events")["tensorboard.enabled"]
    off = resolve(*DATA, "--tensorboard-dir", "events", "--no-tensorboard")
    assert not off["tensorboard.enabled"]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_one_path_or_several(split):
    name, value = f"--{split}-path", f"datasets.{split}_path"
    assert resolve(*DATA, name, "a b.h5")[value] == "a b.h5"
    assert resolve(*DATA, name, "['a b.h5']")[value] == ("a b.h5",)
    with pytest.raises(click.UsageError, match="not a path or a list of paths"):
        parse(name, "['a.h5', ")


def test_tags_are_given_one_by_one():
    tags = resolve(*DATA, "--wandb-tag", "a", "--wandb-tag", "b")["wandb_run.tags"]
    assert tags == ("a", "b")


@pytest.mark.parametrize("numbers", [["1", "6", "8"], ["[1, 6, 8]"], ["1,6,8"], ["1 6 8"]])
@pytest.mark.parametrize("name", ["--atomic-numbers", "--atomic_numbers"])
def test_atomic_numbers_as_several_words_or_one(name, numbers):
    found = resolve(*DATA, name, *numbers, "--seed", 3)
    assert (found["datasets.atomic_numbers"], found["flags.seed"]) == ((1, 6, 8), 3)


def test_the_word_none_takes_away_what_a_file_says():
    config = CONFIGS / "aspirin_small.gin"
    found = resolve(config, "--valid-path", "None", "--ema-decay", "None", "--clip_grad", "None")
    assert found["datasets.valid_path"] is found["train.ema_decay"] is None
    assert found["train.max_grad_norm"] is None
    assert resolve(config)["train.ema_decay"] == 0.99


def test_ema_is_weaker_than_its_decay():
    for arguments in (["--ema", "--ema-decay", "0.5"], ["--ema-decay", "0.5", "--ema"]):
        assert resolve(*DATA, *arguments)["train.ema_decay"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--backend", "dense", "--enable-cueq"], ("--backend", "--enable-cueq")),
        (["--suffle", "no", "--shuffle"], ("--suffle", "--shuffle")),
    ],
)
def test_flags_that_contradict_each_other(arguments, names):
    with pytest.raises(click.UsageError, match="contradict each other") as caught:
        parse(*arguments)
    assert all(name in caught.value.message for name in names)
    assert parse("--only-cueq", "--enable-cueq")[1][0] == {"flags": {"backend": "cueq"}}


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("--optimizr", "--optimizer"),
        ("--max-epoch", "--max-epochs"),
        ("--shufle", "--shuffle"),
        ("--swa_energy_wieght", "--swa-energy-weight"),
        ("--optimizer.lr=1", "-b optimizer.lr=VALUE"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_nearest(wrong, nearest):
    with pytest.raises(click.UsageError) as caught:
        parse(wrong)
    assert nearest in caught.value.format_message()
    assert "--suffle" not in caught.value.format_message()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "-1"], r"--lr: optimizer\.lr = -1"),
        (["--seed", "-1"], r"--seed: flags\.seed = -1"),
        (["--batch-max-edges", "0"], r"--batch-max-edges: datasets\.n_edge = 0"),
        (["--config-type-weights", "3"], r"--config-type-weights: datasets\.config_type_weights"),
        (["--lr-factor", "0.5"], r"--lr-factor: .*constant has no such parameter.*reduce_on_plat"),
        (["--optimizer", "sgd", "--beta", "0.5"], r"--beta: .*sgd has no such parameter"),
        (["--virials-weight", "2"], r"--virials-weight: .*the loss weighted has no such term"),
        (["--lora-rank", "0"], r"--lora-rank: optimizer\.lora\.rank = 0"),
        (["--lr-factors", "readouts=0"], r"--lr-factors: .*factor of readouts .*optimizer\.freeze"),
        (["--lr-factors", "{'readouts': 'a'}"], r"--lr-factors: optimizer\.lr_factors: expected"),
        (["--swa-start", "100"], r"--swa-start: .*100 epochs in all, so it never begins"),
    ],
)
def test_a_value_that_cannot_be_is_blamed_on_its_flag(arguments, message):
    with pytest.raises(ConfigError, match=message):
        resolve(*DATA, *arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--lr", "fast"], "--lr"),
        (["--optimizer", "lbfgs"], "schedulefree"),
        (["--scheduler", "exponential_decay"], "exponential"),
        (["--atomic-numbers", "0"], "atomic numbers"),
        (["--config-type-weights", "{"], "literal"),
        (["--lr-factors", "readouts=fast"], "literal"),
        (["--max-epochs", "1.5"], "--max-epochs"),
    ],
)
def test_a_word_of_another_type_is_a_usage_error(arguments, named):
    with pytest.raises(click.UsageError) as caught:
        parse(*arguments)
    assert named in caught.value.format_message()


@pytest.mark.parametrize("name", IGNORED)
def test_what_is_there_for_old_scripts_only_says_so(name, capsys):
    words, used = IGNORED[name]
    _, (sections, _) = parse(name, words[0] if words else "0.9")
    assert sections == {}
    assert used in capsys.readouterr().err
    for word in words[1:]:
        parse(name, word)
    assert capsys.readouterr().err == ""


def test_the_help_has_every_flag_but_hidden_ones_under_the_title_of_its_section():
    context = click.Context(command, info_name="mace-jax-train", max_content_width=200)
    text = command.get_help(context)
    for flag in FLAGS:
        name = first_name(flag)
        assert (f"  {name} " in text or f"  {name}," in text) != flag.hidden, name
    assert not any(name in text for name in IGNORED)
    stage_two = text.split("Stage two:")[1].split("Weights & Biases:")[0]
    assert "--swa-energy-weight" in stage_two
    assert "--energy-key" not in stage_two


def test_the_command_that_the_readme_names_for_fine_tuning():
    found = resolve(
        *(CONFIGS / "finetune.gin", "--torch-checkpoint", "checkpoints/foundation.pt"),
        *("--torch-head", "Surface", "--train-path", "data/surface.xyz", "--valid-path", "None"),
        *("--r-max", "4.5", "--print-config"),
    )
    assert found["model.torch_checkpoint"] == "checkpoints/foundation.pt"
    assert (found["model.torch_head"], found["model.r_max"]) == ("Surface", 4.5)
    assert (found["datasets.train_path"], found["datasets.valid_path"]) == (
        "data/surface.xyz",
        None,
    )
