"""Training with frozen parts: they keep every bit, and cost neither memory nor work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.model.load import parameter_table
from mace_jax_train.method import make_method
from mace_jax_train.named_leaves import named_leaves, with_named_leaves
from mace_jax_train.trained_parts import trained_parts

pytestmark = pytest.mark.usefixtures("float64")

FROZEN = ("embedding", "interactions", "products.0.linear")
LORA = {"lora": {"rank": 2, "alpha": 4.0}}
AVERAGED = {"train": {"ema_decay": 0.9}}
TWO_STAGES = {"train": {"ema_decay": 0.9, "swa_config": {"start_interval": 1}}}
ALONE = {"train": {"ema_decay": None}}
MODES = {
    "amsgrad": ({"freeze": FROZEN}, AVERAGED),
    "schedulefree": ({"algorithm": "schedulefree", "freeze": FROZEN}, ALONE),
    "adapters": ({"algorithm": "adam", **LORA}, AVERAGED),
    "adapters, schedulefree": ({"algorithm": "schedulefree", **LORA, "freeze": FROZEN}, ALONE),
    "adapters, two stages": ({**LORA, "accumulate": 2}, TWO_STAGES),
    "two stages": ({"accumulate": 2, "freeze": FROZEN}, TWO_STAGES),
    "adam": ({"algorithm": "adam", "freeze": FROZEN}, AVERAGED),
    "adamw": ({"algorithm": "adamw", "freeze": FROZEN}, AVERAGED),
    "sgd": ({"algorithm": "sgd", "lr": 1e-4, "freeze": FROZEN}, AVERAGED),
}
QUICK = ("amsgrad", "schedulefree", "adapters")


@pytest.fixture(scope="module")
def batches(run) -> list[GraphBatch]:
    loader = run.loaders["train"]
    return [
        pad_batch(loader.graphs(ids), loader.shapes[0], "float64")
        for ids in loader.plan.batches[:3]
    ]


def begin(run, config):
    """Return what trains, a method and its first state."""
    parts = trained_parts(run.model, config)
    method = make_method(config, parts.network, 3, joined=parts.joined)
    return parts, method, method.initial_state(parts.trained, parts.frozen)


def epoch(method, state, batches, number):
    state = method.begin_epoch(state, number)
    for batch in batches:
        state, _ = method.train_step(state, batch)
    return method.end_epoch(state, number)


def names(weights):
    return parameter_table(weights).keys()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODES],
)
def test_what_is_frozen_keeps_every_bit(run, make_config, batches, name):
    """Under decay, averages and both stages; and a run that goes on has the same bits."""
    optimizer, sections = MODES[name]
    factors = {"weight_decay": 0.1, "max_epochs": 3, "lr_factors": {"readouts": 2.0}}
    config = make_config(optimizer={**optimizer, **factors}, **sections)
    parts, method, state = begin(run, config)
    start = parameter_table(parts.joined(parts.trained, parts.frozen))
    frozen = {path: array.copy() for path, array in parameter_table(parts.frozen).items()}
    assert frozen
    n_trained = sum(leaf.size for leaf in jax.tree.leaves(parts.trained))
    assert {leaf.size for leaf in jax.tree.leaves(state.optimizer)} <= {1, n_trained}
    state = epoch(method, state, batches, 1)
    saved = {path: array.copy() for path, array in named_leaves(state).items()}
    state = epoch(method, state, batches, 2)
    for path, array in parameter_table(state.frozen).items():
        assert array.tobytes() == frozen[path].tobytes()
    evaluated = parameter_table(method.evaluated(state))
    trained = {
        path.removesuffix("/lora_A").removesuffix("/lora_B") for path in names(parts.trained)
    }
    assert {path for path in start if evaluated[path].tobytes() != start[path].tobytes()} == trained
    again = epoch(method, with_named_leaves(state, saved, "saved"), batches, 2)
    for path, array in named_leaves(again).items():
        assert array.tobytes() == named_leaves(state)[path].tobytes(), path


def test_frozen_parts_cost_no_work_and_change_no_other_gradient(run, make_config, batches):
    plain = {"algorithm": "sgd", "lr": 0.001}
    found = []
    for freeze in (None, ("embedding", "interactions", "products")):
        config = make_config(
            optimizer={**plain, "freeze": freeze},
            train={"ema_decay": None, "max_grad_norm": None},
        )
        parts, method, state = begin(run, config)
        start = parameter_table(parts.trained)
        compiled = method.stages[0].train_step.lower(state, batches[0]).compile()
        state, _ = compiled(state, batches[0])
        moved = {
            path: array - start[path] for path, array in parameter_table(state.parameters).items()
        }
        found.append((moved, compiled.cost_analysis()["flops"]))
    (all_moved, whole), (moved, rest) = found
    assert rest < 0.9 * whole
    assert moved.keys() == {path for path in all_moved if path.startswith("readouts")}
    for path, step in moved.items():
        assert_allclose(step, all_moved[path], rtol=1e-9, atol=1e-15)
        assert np.abs(step).max() > 0


def test_evaluated_weights_outlive_the_state(run, make_config, batches):
    """A step gives the memory of its state away, that of frozen weights included."""
    config = make_config(optimizer={"freeze": ("interactions",)}, train={"ema_decay": None})
    _, method, state = begin(run, config)
    evaluated = method.evaluated(state)
    before = jax.tree.map(np.array, evaluated)
    method.train_step(state, batches[0])
    jax.tree.map(assert_array_equal, before, jax.tree.map(jnp.array, evaluated))
