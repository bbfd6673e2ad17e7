import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.artifacts.train_config_sections import OptimizerConfig
from mace_jax.model.mace import MACE
from mace_jax_train.optimizer import decayed, make_optimizer

CONFIG = OptimizerConfig(algorithm="adam", lr=0.1, b1=0.8, b2=0.9, eps=1e-3)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


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


def numpy_steps(config, parameters, gradients, max_norm=None):
    """torch.optim.Adam; with AMSGrad it keeps the largest second moment, corrected afterwards."""
    norms = [np.sqrt(sum(np.square(g).sum() for g in gradient.values())) for gradient in gradients]
    result = {}
    for name, start in parameters.items():
        p, m, v, largest = start, 0.0, 0.0, 0.0
        for t, (gradient, norm) in enumerate(zip(gradients, norms, strict=True), start=1):
            g = gradient[name] * (min(1.0, max_norm / norm) if max_norm else 1.0)
            g = g + config.weight_decay * p * (name == "products")
            m = config.b1 * m + (1 - config.b1) * g
            v = config.b2 * v + (1 - config.b2) * g**2
            largest = np.maximum(largest, v)
            second = (largest if config.algorithm == "amsgrad" else v) / (1 - config.b2**t)
            p = p - config.lr * m / (1 - config.b1**t) / (np.sqrt(second) + config.eps)
        result[name] = p
    return result


@pytest.mark.parametrize("algorithm", ["adam", "amsgrad"])
@pytest.mark.parametrize(("decay", "max_norm"), [(0.0, None), (0.3, None), (0.3, 0.5)])
def test_steps(algorithm, decay, max_norm):
    config = replace(CONFIG, algorithm=algorithm, weight_decay=decay)
    rng = np.random.default_rng(0)
    parameters = {"products": rng.normal(size=3), "readouts": rng.normal(size=2)}
    # the gradients shrink, so that the maximum that AMSGrad keeps matters
    gradients = [
        {name: rng.normal(size=value.shape) / t**2 for name, value in parameters.items()}
        for t in range(1, 7)
    ]
    optimizer = make_optimizer(config, max_norm)
    found = {name: jnp.asarray(value) for name, value in parameters.items()}
    state = optimizer.init(found)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, found)
        found = optax.apply_updates(found, updates)
    expected = numpy_steps(config, parameters, gradients, max_norm)
    swapped = replace(config, algorithm={"adam": "amsgrad", "amsgrad": "adam"}[algorithm])
    other = numpy_steps(swapped, parameters, gradients, max_norm)
    for name, value in expected.items():
        assert_allclose(found[name], value, rtol=1e-12)
        assert np.abs(other[name] - value).max() > 1e-3
