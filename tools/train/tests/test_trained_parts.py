"""Parts of a network by name: which weights are theirs, and what trains."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.artifacts.train_config_sections import (
    DatasetsConfig,
    LoRAConfig,
    OptimizerConfig,
    TrainConfig,
)
from mace_jax.errors import ConfigError
from mace_jax.model.load import parameter_table
from mace_jax.model.mace import MACE
from mace_jax_train.trained_parts import (
    PartRow,
    log_parts,
    lr_factor,
    lr_factors,
    part_lines,
    part_rows,
    trained_parts,
)

NETWORK = ModelConfig(
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
    interaction_cls="RealAgnosticResidualInteractionBlock",
    interaction_cls_first="RealAgnosticInteractionBlock",
    avg_num_neighbors=1.0,
    atomic_numbers=(1, 8),
)
MODEL = MACE(NETWORK, scale=[1.0], shift=[0.0], dtype="float32", rng=np.random.default_rng(0))
WEIGHTS = parameter_table(nnx.state(MODEL, nnx.Param))
CONFIG = TrainConfig(DatasetsConfig("train.h5"))


def divide(**optimizer):
    return trained_parts(MODEL, replace(CONFIG, optimizer=OptimizerConfig(**optimizer)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("embeding",), "'embeding' is no part .*; did you mean embedding?"),
        (("interactions.2",), "'interactions.2' .*; did you mean interactions.[01]"),
        (("interactions.0.linear_upp",), "did you mean interactions.0.linear_up?"),
        (("readouts", "-1"), "'-1' .*; expected one of embedding, interactions, node_emb"),
        (("radial_embedding",), "no part of this network that has weights"),
        (("readouts.0.linear.weights.0e.more",), "no part"),
        (("interactions", "products", "readouts", "embedding"), "nothing is left that trains"),
    ],
)
def test_what_cannot_be_frozen(names, message):
    with pytest.raises(ConfigError, match=rf"^optimizer\.freeze: .*{message}"):
        divide(freeze=names)


def test_a_factor_of_no_part():
    with pytest.raises(ConfigError, match=r"lr_factors: 'readout' .*; did you mean readouts?"):
        divide(lr_factors={"readout": 2.0})


@pytest.mark.parametrize(
    ("optimizer", "idle"),
    [
        ({"freeze": ("readouts.0",), "lr_factors": {"readouts": 2.0}}, []),
        ({"freeze": ("readouts",), "lr_factors": {"readouts": 2.0, "products": 2.0}}, ["readouts"]),
        (
            {"lora": LoRAConfig(), "lr_factors": {"products.0.symmetric_contractions": 2.0}},
            ["products.0.symmetric_contractions"],
        ),
    ],
)
def test_a_factor_that_does_nothing_is_told(optimizer, idle, caplog):
    divide(**optimizer)
    assert [record.args[0] for record in caplog.records if "does nothing" in record.msg] == idle


@pytest.mark.parametrize(("rank", "is_told"), [(1, False), (50, True)])
def test_adapters_larger_than_the_network_are_told(rank, is_told, caplog):
    config = OptimizerConfig(lora=LoRAConfig(rank=rank))
    log_parts(trained_parts(MODEL, replace(CONFIG, optimizer=config)), config)
    assert ("more parameters than the network" in caplog.text) == is_told


PREFIXES = sorted({".".join(name.split("/")[:depth]) for name in WEIGHTS for depth in (1, 2, 3, 5)})


@given(names=st.lists(st.sampled_from(PREFIXES), max_size=3).map(tuple))
def test_frozen_is_what_lies_in_a_part_and_nothing_is_lost(names):
    expected = {
        weight
        for weight in WEIGHTS
        if any(f"{weight}/".startswith(f"{name.replace('.', '/')}/") for name in names)
    }
    if expected == WEIGHTS.keys():
        return
    parts = divide(freeze=names)
    trained, frozen = parameter_table(parts.trained), parameter_table(parts.frozen)
    assert frozen.keys() == expected
    assert trained.keys() == WEIGHTS.keys() - expected
    joined = parts.joined(parts.trained, parts.frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(nnx.state(MODEL, nnx.Param))
    for name, array in parameter_table(joined).items():
        np.testing.assert_array_equal(array, WEIGHTS[name])


def test_other_names():
    of_radial = parameter_table(divide(freeze=("interactions.*.conv_tp_weights",)).frozen)
    assert of_radial.keys() == {
        name for name in WEIGHTS if name.split("/")[2:3] == ["conv_tp_weights"]
    }
    assert len(of_radial) == 4
    assert parameter_table(divide(freeze=("embedding",)).frozen).keys() == {"node_embedding/weight"}


FACTORS = {"interactions": 2.0, "interactions.*.linear": 3.0, "interactions.1.linear": 4.0}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("readouts/0/linear", 1.0),
        ("interactions/0/linear_up", 2.0),
        ("interactions/0/linear", 3.0),
        ("interactions/1/linear", 4.0),
    ],
)
def test_the_innermost_factor_counts(path, expected):
    assert lr_factor(tuple(path.split("/")), FACTORS) == expected


def test_factors_stand_in_the_order_of_the_weights():
    parts = divide(freeze=("products",), lr_factors=FACTORS)
    found = lr_factors(OptimizerConfig(lr_factors=FACTORS), parts.trained)
    expected = [
        np.full(array.size, lr_factor(tuple(name.split("/")), FACTORS))
        for name, array in parameter_table(parts.trained).items()
    ]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert set(np.array(found)) == {1.0, 2.0, 3.0, 4.0}
    assert lr_factors(OptimizerConfig(), parts.trained) is None


def test_the_table():
    config = OptimizerConfig(
        freeze=("embedding", "readouts.1.linear_1"), lr_factors={"readouts": 0.5, "products.0": 2.0}
    )
    rows = part_rows(trained_parts(MODEL, replace(CONFIG, optimizer=config)), config)
    n = {row.part: row.parameters for row in rows}
    assert rows[-3:] == [
        PartRow("readouts.0", 2, 2, (0.5,)),
        PartRow("readouts.1", 6, 2, (0.5,)),
        PartRow("all", sum(w.size for w in WEIGHTS.values()), n["all"] - 4 - 4, (0.5, 1.0, 2.0)),
    ]
    assert sum(n.values()) == 2 * n["all"]
    assert [line.split() for line in part_lines(rows)] == [
        ["part", "parameters", "trained", "lr", "factor"],
        ["interactions.0", *2 * [str(n["interactions.0"])], "1"],
        ["interactions.1", *2 * [str(n["interactions.1"])], "1"],
        ["node_embedding", "4", "0", "frozen"],
        ["products.0", *2 * [str(n["products.0"])], "2"],
        ["products.1", *2 * [str(n["products.1"])], "1"],
        ["readouts.0", "2", "2", "0.5"],
        ["readouts.1", "6", "2", "0.5"],
        ["all", str(n["all"]), str(n["all"] - 8), "0.5,", "1,", "2"],
    ]
