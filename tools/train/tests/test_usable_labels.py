"""A run whose loss has nothing to learn from does not start."""

import numpy as np
import pytest

from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.structure import Structure
from mace_jax_train.usable_labels import UsableLabels


def structure(*labels, **options):
    shapes = {"energy": (), "forces": (2, 3), "stress": (3, 3), "virials": (3, 3), "dipole": (3,)}
    return Structure(
        np.array([1, 8]),
        np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
        np.zeros((3, 3)),
        np.zeros(3, dtype=bool),
        {name: np.ones(shapes[name]) for name in labels},
        **options,
    )


def counted(structures, weights=None):
    labels = UsableLabels(weights or {})
    for item in structures:
        labels.add(item)
    return labels


def config_of(make_config, loss, swa_loss=None, weights=None):
    train = {"swa_config": {"loss": swa_loss}} if swa_loss else {}
    model = {"model": "EnergyDipolesMACE"}  # which predicts whatever may be in a loss
    return make_config(
        loss=loss, train=train, model=model, datasets={"config_type_weights": weights}
    )


SOME = [structure("energy", "forces"), structure("energy", "virials")]


def test_summary():
    assert counted(SOME).summary() == "energy 2/2, forces 1/2, virials 1/2"
    assert counted([structure()]).summary() == "no labels in 1 structures"


@pytest.mark.parametrize(
    ("loss_cls", "missing"),
    [
        ("weighted", None),
        ("ef", None),
        ("forces_only", None),
        ("l1l2", None),
        ("virials", None),
        ("stress", "stress"),
        ("huber", "stress"),
        ("universal", "stress"),
        ("dipole", "dipole"),
        ("energy_forces_dipole", "dipole"),
    ],
)
def test_every_term_of_a_loss_needs_a_label(make_config, loss_cls, missing):
    config = config_of(make_config, {"loss_cls": loss_cls})
    if missing is None:
        counted(SOME).require(config, "train.h5")
        return
    message = (
        f"train.h5: {missing} found in 0 of 2 structures, those of weight 0 left out, "
        f"but loss.{missing}_weight is 1.0; set it to 0 or name the key"
    )
    with pytest.raises(DataError, match=message):
        counted(SOME).require(config, "train.h5")


def test_a_term_of_weight_0_needs_none(make_config):
    config = config_of(make_config, {"loss_cls": "stress", "stress_weight": 0.0})
    counted(SOME).require(config, "train.h5")


def test_the_loss_of_stage_two_needs_labels_too(make_config):
    config = config_of(make_config, {"loss_cls": "ef"}, {"loss_cls": "stress"})
    message = r"stress found in 0 of 2 .*train\.swa_config\.loss\.stress_weight is 10\.0"
    with pytest.raises(DataError, match=message):
        counted(SOME).require(config, "train.h5")


@pytest.mark.parametrize(
    "item",
    [
        structure("energy", "forces", weight=0.0),
        structure("energy", "forces", property_weights={"energy": 0.0, "forces": 0.0}),
        structure("energy", "forces", config_type="odd"),
    ],
    ids=["structure", "label", "config type"],
)
def test_labels_of_weight_0_do_not_count(make_config, item):
    config = config_of(make_config, {"loss_cls": "ef"}, weights={"odd": 0.0})
    labels = counted([item, structure("energy")], {"odd": 0.0})
    assert labels.summary() == "energy 1/2"
    with pytest.raises(DataError, match="forces found in 0 of 2 structures"):
        labels.require(config, "train.h5")


def test_a_weight_of_a_config_type_that_does_not_occur_is_refused(make_config):
    weights = {"Default": 1.0, "surfce": 2.0}
    labels = counted([*SOME, structure(config_type="surface")], weights)
    message = (
        "config_type_weights: no structure of config type surfce in train.h5, "
        "expected some of Default, surface; correct the name"
    )
    with pytest.raises(ConfigError, match=message):
        labels.require(config_of(make_config, {"loss_cls": "ef"}), "train.h5")
    counted([structure("energy", "forces", config_type="bulk")], {"Default": 1.0}).require(
        config_of(make_config, {"loss_cls": "ef"}), "train.h5"
    )
