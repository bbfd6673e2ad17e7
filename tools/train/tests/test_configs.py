"""The configurations that come with the project."""

from pathlib import Path

import pytest

from mace_jax.artifacts.train_config import term_weights
from mace_jax_train.gin_config import load_train_config

CONFIGS = Path(__file__).parents[3] / "configs"
OF_THE_USER = {"finetune": {"datasets": {"train_path": "surface.xyz"}}}


def load(name):
    return load_train_config([CONFIGS / f"{name}.gin"], [], OF_THE_USER.get(name, {}))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.gin")), ids=lambda path: path.stem)
def test_each_is_complete_and_says_nothing_in_vain(path, caplog):
    config = load(path.stem)
    assert config.datasets.n_edge
    assert not caplog.records
    if path.stem in OF_THE_USER:
        assert config.model.r_max is None
    else:
        assert config.model.r_max


def test_aspirin_small():
    config = load("aspirin_small")
    assert (config.model.hidden_irreps, config.optimizer.max_epochs) == ("32x0e", 20)
    assert term_weights(config.loss) == {"energy": 20.0, "forces": 100.0}
    for path in (config.datasets.train_path, config.datasets.valid_path):
        assert (CONFIGS.parent / path).is_file()


def test_aspirin():
    config = load("aspirin")
    assert (config.model.hidden_irreps, config.model.max_ell) == ("64x0e + 64x1o", 3)
    assert config.model.model == "ScaleShiftMACE"
    assert term_weights(config.loss) == {"energy": 1.0, "forces": 100.0}
    stage_two = config.train.swa_config
    assert (stage_two.start_interval, stage_two.lr) == (75, 1e-3)
    assert term_weights(stage_two.loss) == {"energy": 1000.0, "forces": 100.0}


def test_mace_mp_0b3():
    config = load("mace_mp_0b3")
    assert config.flags.dtype == "float64"
    assert config.model.interaction_cls == "RealAgnosticDensityResidualInteractionBlock"
    assert config.model.interaction_cls_first == "RealAgnosticDensityInteractionBlock"
    assert config.model.distance_transform == "Agnesi"
    assert config.model.pair_repulsion
    assert config.loss.loss_cls == "universal"
    assert term_weights(config.loss) == {"energy": 1.0, "forces": 10.0, "stress": 100.0}
    scheduler = config.optimizer.scheduler
    assert (scheduler.name, scheduler.factor, scheduler.patience) == ("reduce_on_plateau", 0.8, 5)


def test_finetune_says_nothing_of_the_network():
    text = (CONFIGS / "finetune.gin").read_text()
    assert "model." not in text
    assert load("finetune").optimizer.lr == 1e-4
