"""Adapters beside linear layers: one network with them, and the same one with them merged."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.artifacts.train_config_sections import LoRAConfig, OptimizerConfig
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.errors import ConfigError, StoppedError
from mace_jax.model.activation import normalized_activation
from mace_jax.model.initial_weights import Dense
from mace_jax.model.linear import EquivariantLinear, SpeciesEmbedding
from mace_jax.model.load import load_model, parameter_table, split_trainable
from mace_jax.model.mlp import FullyConnectedNet
from mace_jax.model.predict import properties
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.error_metrics import metrics
from mace_jax_train.loop import train
from mace_jax_train.lora import A, B, adapted_matrices
from mace_jax_train.method import make_method
from mace_jax_train.optimizer import weight_decays
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import Run, prepare_run
from mace_jax_train.trained_parts import trained_parts

pytestmark = pytest.mark.usefixtures("float64")

LORA = LoRAConfig(rank=3, alpha=1.5)
SECTION = {"rank": LORA.rank, "alpha": LORA.alpha}
EVERY_LAYER = {
    "max_ell": 1,
    "num_interactions": 2,
    "hidden_irreps": "4x0e + 4x1o",
    "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
    "correlation": 1,
}


@pytest.fixture(scope="module")
def run(make_config, tmp_path_factory) -> Run:
    config = make_config(flags={"dtype": "float64"}, model=EVERY_LAYER, optimizer={"lora": SECTION})
    return prepare_run(config, RunFiles(tmp_path_factory.mktemp("run"), "run"), track_silently)


@pytest.fixture(scope="module")
def batch(run) -> GraphBatch:
    loader = run.loaders["train"]
    return pad_batch(loader.graphs(loader.plan.batches[0]), loader.shapes[0], "float64")


# Layers that compute as mace-torch does: what the layer makes, and beside it what two further
# layers make of it, one after the other. Adapters are found by the identity of the layer.
ADAPTERS: dict[int, dict] = {}
SCALE = LORA.alpha / LORA.rank


class BesideLinear(EquivariantLinear):
    def __call__(self, features):
        result = super().__call__(features)
        for irrep, (a, b) in ADAPTERS[id(self)].items():
            x = next(x for found, x in features.items() if str(found) == irrep)
            (key,) = (found for found in result if str(found) == irrep)
            result[key] += SCALE * (x @ a / a.shape[0] ** 0.5) @ b / b.shape[0] ** 0.5
        return result


class BesideEmbedding(SpeciesEmbedding):
    def __call__(self, species):
        ((a, b),) = ADAPTERS[id(self)].values()
        one_hot = jax.nn.one_hot(species, len(a), dtype=a.dtype)
        beside = SCALE * (one_hot @ a / len(a) ** 0.5) @ b / len(b) ** 0.5
        return super().__call__(species) + beside[:, None]


class BesideDense(Dense):
    def __call__(self, x):
        ((a, b),) = ADAPTERS[id(self)].values()
        return super().__call__(x) + SCALE * (x @ a) @ b


class BesideNet(FullyConnectedNet):
    def __call__(self, x):
        activation = normalized_activation("silu")
        for index, weight in enumerate(self.layers):
            a, b = ADAPTERS[id(self)][index]
            x = activation(x) if index else x
            x = (x @ weight[...] + SCALE * (x @ a) @ b) / len(a) ** 0.5
        return x


BESIDE = {
    EquivariantLinear: BesideLinear,
    SpeciesEmbedding: BesideEmbedding,
    Dense: BesideDense,
    FullyConnectedNet: BesideNet,
}


def with_adapters_beside(model, adapters):
    """Return the network with layers that do not merge."""
    found = dict(nnx.to_flat_state(adapters))
    for path, layer in nnx.iter_modules(model):
        if type(layer) not in BESIDE:
            continue
        of_layer = [key for key in found if key[: len(path)] == path and key[-1] == A]
        ADAPTERS[id(layer)] = {
            key[-2]: (found[key][...], found[*key[:-1], B][...]) for key in of_layer
        }
        layer.__class__ = BESIDE[type(layer)]
    return model


@pytest.fixture(scope="module")
def trained(run):
    """Adapters as they may be after training."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), run.parts.trained)


@pytest.fixture(scope="module")
def predict(run):
    network = run.parts.network
    return jax.jit(lambda weights, batch: properties(network(weights), batch))


def test_every_linear_layer_has_an_adapter_of_mace_torch_and_nothing_else(run):
    paths = ["/".join(map(str, path)) for path in adapted_matrices(run.model, LORA)]
    weights = parameter_table(split_trainable(run.model)[1])
    bare = {"alpha", "beta", "bias", "scale"}
    others = {
        name
        for name in weights
        if name.split("/")[-1] in bare
        or "symmetric_contractions" in name
        or "interactions/1/skip_tp" in name  # a matrix for each element
    }
    assert set(paths) == weights.keys() - others
    assert {weights[path].ndim for path in paths} == {2}


def test_adapters_begin_as_the_identity(run):
    parts = run.parts
    joined = parameter_table(parts.joined(parts.trained, parts.frozen))
    for name, array in parameter_table(split_trainable(run.model)[1]).items():
        assert joined[name].tobytes() == array.tobytes()
    table = parameter_table(parts.trained)
    assert all((table[name] != 0).all() == name.endswith(A) for name in table)
    other_seed = replace(run.config, flags=replace(run.config.flags, seed=1))
    again, other = (
        parameter_table(trained_parts(run.model, config).trained)
        for config in (run.config, other_seed)
    )
    for name in table:
        np.testing.assert_array_equal(table[name], again[name])
        assert name.endswith(B) or (table[name] != other[name]).all()


def test_merged_is_unmerged(run, batch, trained, predict):
    parts = run.parts
    merged = predict(parts.joined(trained, parts.frozen), batch)
    model = with_adapters_beside(nnx.clone(run.model), trained)
    unmerged = jax.jit(lambda batch: properties(model, batch))(batch)
    before = predict(parts.frozen, batch)
    for name in ("energy", "forces"):
        size = np.abs(unmerged[name]).max()
        assert_allclose(merged[name], unmerged[name], rtol=1e-12, atol=1e-12 * size)
        assert np.abs(merged[name] - before[name]).max() > 1e-3 * size


def test_adapted_networks_turn_with_the_structure(run, batch, trained, predict):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    weights = run.parts.joined(trained, run.parts.frozen)
    turned = batch._replace(positions=batch.positions @ turn.T)
    one, two = predict(weights, batch), predict(weights, turned)
    assert_allclose(two["energy"], one["energy"], rtol=1e-10)
    assert_allclose(two["forces"], one["forces"] @ turn.T, rtol=1e-8, atol=1e-10)


def test_no_adapter_beside_what_is_frozen(run, make_config):
    config = make_config(
        model=EVERY_LAYER, optimizer={"lora": SECTION, "freeze": ("interactions",)}
    )
    trained = parameter_table(trained_parts(run.model, config).trained)
    assert {name.split("/")[0] for name in trained} == {"node_embedding", "products", "readouts"}
    every = ("embedding", "interactions", "products", "readouts")
    with pytest.raises(ConfigError, match="nothing is left that trains"):
        trained_parts(run.model, make_config(optimizer={"lora": SECTION, "freeze": every}))


def test_of_adapters_those_of_the_products_decay(run):
    """As in mace-torch, which looks for ``linear.weight`` in the names of the interactions'."""
    found = weight_decays(OptimizerConfig(weight_decay=0.5), run.parts.trained)
    expected = [
        np.full(array.size, 0.5 * name.startswith("products"))
        for name, array in parameter_table(run.parts.trained).items()
    ]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert any("interactions/1/linear/" in name for name in parameter_table(run.parts.trained))


@pytest.fixture(scope="module")
def small_config(make_config):
    return make_config(
        flags={"dtype": "float64"}, optimizer={"lora": SECTION, "lr": 0.1, "max_epochs": 1}
    )


def begin(config, folder):
    files = RunFiles(folder, "run", reproducible=True)
    return prepare_run(config, files, track_silently), files


BUNDLES = ("_best.msgpack", "_last.msgpack")


def loss_at_start(files):
    return read_metrics(files.path(".metrics"))[1][0]["loss"]


def test_a_run_leaves_ordinary_bundles(small_config, tmp_path, caplog):
    caplog.set_level("INFO", "mace_jax_train.trained_parts")
    run, files = begin(small_config, tmp_path)
    outcome = train(run, files, show_nothing)
    assert "adapters of rank 3, alpha 1.5, beside 7 matrices train" in caplog.text
    assert re.search(r"readouts.0 +4 +15   1\n", caplog.text)
    for suffix in BUNDLES:
        bundle = read_model_bundle(files.path(suffix))
        weights = parameter_table(split_trainable(load_model(bundle, suffix))[1])
        start = run.bundle.parameters
        assert bundle.parameters.keys() == start.keys()
        changed = {name for name in weights if (weights[name] != start[name]).any()}
        assert changed == {"/".join(map(str, path)) for path in adapted_matrices(run.model, LORA)}
    assert outcome.best_row["loss"] < loss_at_start(files)
    network, weights = split_trainable(load_model(read_model_bundle(outcome.best), "best"))
    evaluate = make_method(run.config, network, 1).eval_step
    errors = [
        jax.device_get(evaluate(weights, batch)) for _, batch in run.loaders["valid"].in_order()
    ]
    assert metrics(errors)["loss"] == pytest.approx(outcome.best_row["loss"], rel=1e-12)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bytes(small_config, tmp_path, signalled):
    run, files = begin(small_config, tmp_path / "whole")
    train(run, files, show_nothing)
    run, again = begin(small_config, tmp_path / "stopped")
    with pytest.raises(StoppedError):
        train(run, again, signalled("SIGTERM"))
    train(run, again, show_nothing, again.checkpoint())
    for suffix in (*BUNDLES, ".metrics"):
        assert again.path(suffix).read_bytes() == files.path(suffix).read_bytes()
