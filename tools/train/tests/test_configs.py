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
    """Source: mace_mp_0b3/mace-mp0-b3.sh of ACEsuit/mace-foundations, and mace_run_train."""
    config = load("mace_mp_0b3")
    model, optimizer, training = config.model, config.optimizer, config.train
    assert (config.flags.dtype, model.model) == ("float64", "MACE")
    assert (model.r_max, model.num_bessel, model.num_polynomial_cutoff) == (6.0, 10, 5)
    assert (model.hidden_irreps, model.max_ell, model.correlation) == ("128x0e + 128x1o", 3, 3)
    assert (model.MLP_irreps, model.num_interactions) == ("16x0e", 2)
    assert model.interaction_cls == "RealAgnosticDensityResidualInteractionBlock"
    assert model.interaction_cls_first == "RealAgnosticDensityInteractionBlock"
    assert (model.distance_transform, model.pair_repulsion) == ("Agnesi", True)
    assert model.scaling == "rms_forces_scaling"
    assert (config.loss.loss_cls, config.loss.huber_delta) == ("universal", 0.01)
    assert term_weights(config.loss) == {"energy": 1.0, "forces": 10.0, "stress": 10.0}
    assert (optimizer.algorithm, optimizer.lr, optimizer.weight_decay) == ("amsgrad", 0.005, 1e-8)
    assert optimizer.max_epochs == 100
    scheduler = optimizer.scheduler
    assert (scheduler.name, scheduler.factor, scheduler.patience) == ("reduce_on_plateau", 0.8, 5)
    assert (training.ema_decay, training.max_grad_norm, training.patience) == (0.99999, 100.0, 40)


def test_finetune_says_nothing_of_the_network():
    text = (CONFIGS / "finetune.gin").read_text()
    assert "model." not in text
    assert load("finetune").optimizer.lr == 1e-4
