import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.artifacts.train_config_sections import OptimizerConfig
from mace_jax.model.mace import MACE
from mace_jax_train.optimizer import clip, decayed, make_optimizer, weight_decays

pytestmark = pytest.mark.usefixtures("float64")

CONFIG = OptimizerConfig(algorithm="adam", lr=0.1, b1=0.8, b2=0.9, eps=1e-3)


FULLY_CONNECTED = {"linear_up", "linear", "conv_tp_weights", "skip_tp"}
ATTENTION = {"linear_up", "linear_down", "linear", "conv_tp_weights", "skip_linear"}
NON_LINEAR = {
    *("linear_up", "linear_1", "linear_2", "linear_res", "conv_tp_weights", "density_fn"),
    *("source_embedding", "target_embedding", "skip_tp", "alpha", "beta"),
}


@pytest.mark.parametrize(
    ("first", "later", "parts"),
    [
        ("RealAgnosticInteractionBlock", "", [FULLY_CONNECTED, FULLY_CONNECTED]),
        ("RealAgnosticResidualInteractionBlock", "", [FULLY_CONNECTED, FULLY_CONNECTED]),
        (
            "RealAgnosticDensityInteractionBlock",
            "RealAgnosticAttResidualInteractionBlock",
            [FULLY_CONNECTED | {"density_fn"}, ATTENTION],
        ),
        (
            "RealAgnosticResidualNonLinearInteractionBlock",
            "RealAgnosticDensityResidualInteractionBlock",
            [NON_LINEAR, FULLY_CONNECTED | {"density_fn"}],
        ),
    ],
)
def test_decay_picks_the_weights_that_mace_torch_picks(first, later, parts):
    """mace_run_train: what has ``linear.weight`` in its name, and everything in the products."""
    config = ModelConfig(
        model="MACE",
        r_max=3.0,
        num_bessel=2,
        num_polynomial_cutoff=5,
        max_ell=1,
        num_interactions=2,
        hidden_irreps="2x0e + 2x1o",
        MLP_irreps="2x0e",
        correlation=1,
        radial_MLP=(2,),
        gate="silu",
        interaction_cls=later or "RealAgnosticResidualInteractionBlock",
        interaction_cls_first=first,
        avg_num_neighbors=1.0,
        atomic_numbers=(1,),
    )
    model = MACE(config, scale=[1.0], shift=[0.0], dtype="float64", rng=np.random.default_rng(0))
    mask = decayed(nnx.state(model, nnx.Param))
    marks = {
        "/".join(str(part) for part in path): bool(
            np.all(leaf[...] if hasattr(leaf, "shape") else leaf.get_value())
        )
        for path, leaf in nnx.to_flat_state(mask)
    }
    for layer, names in enumerate(parts):
        root = f"interactions/{layer}/"
        assert {name.split("/")[2] for name in marks if name.startswith(root)} == names
    decayed_linear = re.compile(r"interactions/./(skip_)?linear/")
    expected = {
        name for name in marks if name.startswith("products/") or decayed_linear.match(name)
    }
    assert {name for name, marked in marks.items() if marked} == expected
    assert {name.split("/")[0] for name in marks} == {
        "node_embedding",
        "interactions",
        "products",
        "readouts",
    }


PARAMETERS = {"products": np.array([0.3, -1.2, 0.7]), "readouts": np.array([1.1, -0.4])}
IS_DECAYED = np.array([1, 1, 1, 0, 0])
LR = [0.1, 0.1, 0.02, 0.02, 0.3, 0.3]


def gradients() -> list[np.ndarray]:
    """They shrink, so that the maximum that AMSGrad keeps matters."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=5) / t**2 for t in range(1, len(LR) + 1)]


def numpy_steps(config, factors=1.0):
    """torch.optim.Adam, AdamW and SGD, each weight at ``factors`` times the rate.

    AMSGrad keeps the largest moment, corrected afterwards.
    """
    p = np.concatenate(list(PARAMETERS.values()))
    m, v, largest = 0.0, 0.0, 0.0
    decay = config.weight_decay * IS_DECAYED
    for t, (g, rate) in enumerate(zip(gradients(), LR, strict=True), start=1):
        lr = rate * factors
        if config.algorithm == "adamw":
            p = p * (1 - lr * decay)
        else:
            g = g + decay * p  # noqa: PLW2901
        m = config.b1 * m + (1 - config.b1) * g
        v = config.b2 * v + (1 - config.b2) * g**2
        largest = np.maximum(largest, v)
        second = (largest if config.algorithm == "amsgrad" else v) / (1 - config.b2**t)
        adam = m / (1 - config.b1**t) / (np.sqrt(second) + config.eps)
        p = p - lr * (g if config.algorithm == "sgd" else adam)
    return p


def steps(config, factors=None):
    """Return parameters and state after some steps of changing length."""
    found, _ = ravel_pytree({name: jnp.asarray(value) for name, value in PARAMETERS.items()})
    state = make_optimizer(config, 1.0).init(found)
    for gradient, lr in zip(gradients(), LR, strict=True):
        decays = weight_decays(config, PARAMETERS)
        optimizer = make_optimizer(config, jnp.asarray(lr), decays, factors)
        updates, state = optimizer.update(jnp.asarray(gradient), state, found)
        found += updates
    return found, state


ALGORITHMS = ["adam", "amsgrad", "adamw", "sgd"]


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_steps(algorithm, decay):
    config = replace(CONFIG, algorithm=algorithm, weight_decay=decay)
    expected = numpy_steps(config)
    assert_allclose(steps(config)[0], expected, rtol=1e-12)
    others = [replace(config, algorithm=other) for other in ALGORITHMS if other != algorithm]
    if not decay:  # then these are the same
        others = [other for other in others if {other.algorithm, algorithm} != {"adam", "adamw"}]
    others.append(replace(config, weight_decay=0.1))
    for other in others:
        assert np.abs(numpy_steps(other) - expected).max() > 1e-3


FACTORS = np.array([2.0, 2.0, 1.0, 0.1, 1.0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_weight_has_a_rate_of_its_own(algorithm):
    """Decay that is part of the step goes with it, as in the parameter groups of torch."""
    config = replace(CONFIG, algorithm=algorithm, weight_decay=0.3)
    found, _ = steps(config, jnp.asarray(FACTORS))
    assert_allclose(found, numpy_steps(config, FACTORS), rtol=1e-12)
    assert_array_equal(np.abs(found - steps(config)[0]) > 1e-4, FACTORS != 1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("b2", 0.99),
        ("eps", 0.1),
        ("weight_decay", 0.01),
        ("schedule_free_b1", 0.5),
        ("schedule_free_weight_lr_power", 0.0),
        (None, None),
        ("factors", FACTORS),
    ],
)
def test_schedule_free(option, value):
    """Algorithm 1 of Defazio et al. 2024 with x, y and z, decay at y, and Adam's second moment."""
    config = replace(CONFIG, algorithm="schedulefree", weight_decay=0.3)
    plain, _ = steps(config)
    factors = value if option == "factors" else np.ones(5)
    if option and option != "factors":
        config = replace(config, **{option: value})
    b1, power = config.schedule_free_b1, config.schedule_free_weight_lr_power
    x = y = z = np.concatenate(list(PARAMETERS.values()))
    v, weights, largest = 0.0, 0.0, 0.0
    for t, (g, lr) in enumerate(zip(gradients(), LR, strict=True), start=1):
        v = config.b2 * v + (1 - config.b2) * g**2
        direction = g / (np.sqrt(v / (1 - config.b2**t)) + config.eps)
        z = z - lr * factors * (direction + config.weight_decay * IS_DECAYED * y)
        largest = max(largest, lr)
        weights += largest**power
        c = largest**power / weights
        x = (1 - c) * x + c * z
        y = b1 * x + (1 - b1) * z
    found, state = steps(config, jnp.asarray(factors))
    assert_allclose(found, y, rtol=1e-10)
    assert_allclose(optax.contrib.schedule_free_eval_params(state, found), x, rtol=1e-10)
    assert not option or np.abs(found - plain).max() > 1e-3


def test_only_gradients_that_are_too_long_are_clipped():
    """As torch's ``clip_grad_norm_`` does it: factor 2 / (5 + 1e-6)."""
    gradient = jnp.array([3.0, -4.0])
    assert_allclose(clip(gradient, 2.0), np.array([3.0, -4.0]) * 2 / (5 + 1e-6), rtol=1e-15)
    assert (clip(gradient, 6.0) == gradient).all()


@pytest.mark.parametrize(("option", "value"), [("b1", 0.5), ("b2", 0.5), ("eps", 0.1)])
def test_defect_6_the_numbers_of_the_optimizer_count(option, value):
    """mace-jax: ``--beta``, ``--beta2`` and ``--epsilon`` have no effect."""
    changed = replace(CONFIG, **{option: value})
    assert_allclose(steps(changed)[0], numpy_steps(changed), rtol=1e-12)
    assert np.abs(steps(changed)[0] - steps(CONFIG)[0]).max() > 1e-3
