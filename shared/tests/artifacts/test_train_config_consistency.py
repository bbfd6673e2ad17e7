"""Values that are possible by themselves and contradict each other."""

import pytest

from mace_jax.artifacts.train_config import train_config_from_sections
from mace_jax.errors import ConfigError

PIECES = {"name": "piecewise_constant_schedule"}


def config(**sections):
    return train_config_from_sections({"datasets": {"train_path": "train"}, **sections}, "run.gin")


def refusal(**sections):
    with pytest.raises(ConfigError) as caught:
        config(**sections)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"algorithm": "sgd", "b1": 0.5}, "optimizer.b1 = 0.5, but sgd has no such parameter"),
        ({"algorithm": "adam", "schedule_free_b1": 0.5}, "take schedulefree"),
        ({"algorithm": "schedulefree", "b1": 0.5}, "take adam or adamw or amsgrad"),
        ({"scheduler": {"factor": 0.5}}, "constant has no such parameter; .*reduce_on_plateau"),
        (
            {"scheduler": {"name": "reduce_on_plateau", "end_value": 0.5}},
            "take exponential_decay or warmup_cosine_decay",
        ),
        ({"scheduler": PIECES}, r"boundaries_and_scales = \(\), but it needs one boundary"),
        (
            {"scheduler": {**PIECES, "boundaries_and_scales": ((5, 0.1), (5, 0.1))}},
            "the epochs must increase",
        ),
        (
            {"max_epochs": 5, "scheduler": {"name": "warmup_cosine_decay", "warmup_epochs": 5}},
            "warmup_epochs = 5.0, but there are 5 epochs",
        ),
    ],
)
def test_parameters_of_another_choice(optimizer, message):
    with pytest.raises(ConfigError, match=message):
        config(optimizer=optimizer)


def test_a_parameter_with_its_default_value_is_no_contradiction():
    optimizer = {"algorithm": "sgd", "b1": 0.9, "scheduler": {"name": "constant", "factor": 0.8}}
    assert config(optimizer=optimizer).optimizer.algorithm == "sgd"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"train": {"swa_config": {"start_interval": 100}}},
            "start_interval = 100, but there are 100 epochs",
        ),
        (
            {"train": {"swa_config": {}}, "optimizer": {"max_epochs": 1}},
            "raise optimizer.max_epochs",
        ),
        (
            {"train": {"swa_config": {"max_snapshots": 2, "min_snapshots_for_eval": 3}}},
            "max_snapshots = 2, but min_snapshots_for_eval is 3",
        ),
        (
            {"optimizer": {"algorithm": "schedulefree"}, "train": {"ema_decay": 0.9}},
            "ema_decay = 0.9, but schedulefree averages by itself",
        ),
        (
            {"flags": {"debug": True}, "train": {"max_skipped_steps": 1}},
            "max_skipped_steps = 1, but flags.debug stops at the first NaN",
        ),
        (
            {"datasets": {"train_path": "a", "max_batches": 3}, "optimizer": {"accumulate": 4}},
            "accumulate = 4, but an epoch has at most 3 batches",
        ),
        (
            {"flags": {"process_count": 2, "process_index": 2}},
            "process_index = 2, but there are 2 processes",
        ),
        (
            {"loss": {"loss_cls": "dipole"}},
            "loss.dipole_weight = 1.0, but MACE predicts energy, forces, stress, virials",
        ),
        (
            {"model": {"model": "AtomicDipolesMACE"}},
            "loss.energy_weight = 1.0, but AtomicDipolesMACE predicts dipole",
        ),
        (
            {"train": {"swa_config": {"loss": {"loss_cls": "energy_forces_dipole"}}}},
            "train.swa_config.loss.dipole_weight = 1.0, but MACE predicts",
        ),
    ],
)
def test_what_contradicts_is_named(sections, message):
    assert message in refusal(**sections)
    assert refusal(**sections).startswith("run.gin: ")


def test_a_model_that_training_starts_from_may_predict_anything():
    for name in ("start_from", "torch_checkpoint", "foundation_model"):
        found = config(loss={"loss_cls": "dipole"}, model={name: "model"})
        assert found.loss.dipole_weight == 1.0


def test_schedulefree_has_no_other_average_by_default():
    assert config(optimizer={"algorithm": "schedulefree"}).train.ema_decay is None
    assert config(optimizer={"algorithm": "adam"}).train.ema_decay == 0.99


def test_the_loss_of_stage_two_is_that_of_stage_one_where_nothing_else_is_said():
    loss = {"loss_cls": "huber", "huber_delta": 0.5}
    stage_two = {"swa_config": {"loss": {"energy_weight": 7.0}}}
    found = config(loss=loss, train=stage_two).train.swa_config.loss
    assert (found.loss_cls, found.huber_delta, found.energy_weight) == ("huber", 0.5, 7.0)
    stage_two["swa_config"]["loss"] |= {"loss_cls": "ef", "huber_delta": 0.25}
    found = config(loss=loss, train=stage_two).train.swa_config.loss
    assert (found.loss_cls, found.huber_delta) == ("ef", 0.25)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"loss": {"enrgy_weight": 1.0}},
            "loss: unknown enrgy_weight; did you mean energy_weight?",
        ),
        ({"optimizer": {"scheduler": {"gamma": 1.0}}}, "optimizer.scheduler: unknown gamma"),
        ({"train": {"swa_config": {"start_interva": 3}}}, "did you mean start_interval?"),
        ({"train": {"swa_config": {"loss": {"x": 3}}}}, "train.swa_config.loss: unknown x"),
        ({"optimizr": {}}, "unknown optimizr; did you mean optimizer?"),
        ({"loss": {"loss_cls": "hubber"}}, "loss.loss_cls: invalid enum value 'hubber'; did you"),
    ],
)
def test_the_nearest_name_is_told(sections, message):
    assert message in refusal(**sections)


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr"),
        ({"optimizer": {"lr": -1.0}}, "optimizer.lr"),
        ({"optimizer": {"algorithm": "sgd", "b1": 0.5}}, "optimizer.b1"),
        ({"loss": {"virials_weight": 2.0}}, "loss.virials_weight"),
        ({"train": {"swa_config": {"start_interval": 200}}}, "train.swa_config.start_interval"),
        ({"model": {"radial_MLP": [1, "a"]}}, "model.radial_MLP"),
    ],
)
def test_the_place_of_a_value_is_told(sections, name):
    sections = {"datasets": {"train_path": "train"}, **sections}
    with pytest.raises(ConfigError, match=rf"^a\.gin: line 7: {name}"):
        train_config_from_sections(sections, "run", {name: "a.gin: line 7"})
