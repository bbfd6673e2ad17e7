"""Irreps of every layer, by hand for some configurations; and what is impossible."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.architecture import (
    Readout,
    architecture,
    dipole_hidden_irreps,
    model_inputs,
    predicts_energy,
)
from mace_jax.artifacts.model_bundle import EmbeddingSpec, ModelConfig
from mace_jax.equivariance.irreps import Irrep, products
from mace_jax.errors import ConfigError

FIRST, LATER = "RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"
CONFIG = ModelConfig(
    model="ScaleShiftMACE",
    r_max=5.0,
    num_bessel=8,
    num_polynomial_cutoff=5,
    max_ell=2,
    num_interactions=3,
    hidden_irreps="4x0e + 4x1o",
    MLP_irreps="16x0e",
    correlation=3,
    radial_MLP=(64, 64, 64),
    gate="silu",
    interaction_cls=LATER,
    interaction_cls_first=FIRST,
    avg_num_neighbors=10.0,
    atomic_numbers=(1, 8),
)
SPIN = EmbeddingSpec("total_spin", "categorical", "graph", 4, num_classes=3)
DIPOLES = replace(CONFIG, model="AtomicDipolesMACE", MLP_irreps="4x1o")


def layers_of(**changes):
    return architecture(replace(CONFIG, **changes)).layers


def texts(layer):
    names = ("node_irreps", "edge_irreps", "message_irreps", "output_irreps")
    return [str(getattr(layer, name)) for name in names]


MESSAGES = "4x0e + 4x1o + 4x2e"


def test_layers():
    found = architecture(CONFIG)
    assert found.channels == 4
    assert [str(irrep) for irrep in found.harmonics] == ["0e", "1o", "2e"]
    hidden = "4x0e + 4x1o"
    assert [texts(layer) for layer in found.layers] == [
        ["4x0e", "4x0e", MESSAGES, hidden],
        [hidden, hidden, MESSAGES, hidden],
        [hidden, hidden, MESSAGES, "4x0e"],
    ]
    assert [layer.block for layer in found.layers] == [FIRST, LATER, LATER]
    assert [layer.correlation for layer in found.layers] == [3, 3, 3]
    assert found.readouts == (
        Readout("LinearReadoutBlock", 0),
        Readout("LinearReadoutBlock", 1),
        Readout("NonLinearReadoutBlock", 2),
    )


def test_paths_of_the_first_and_of_later_layers():
    first, later, _ = layers_of()
    assert [(str(path.node), str(path.edge), str(path.message)) for path in first.paths] == [
        *(("0e", "0e", "0e"), ("0e", "1o", "1o"), ("0e", "2e", "2e"))
    ]
    # 0e: two ways, 1o: 0e·1o, 1o·0e, 1o·2e, 2e: 0e·2e, 1o·1o
    assert str(later.path_irreps) == "8x0e + 12x1o + 8x2e"
    assert later.n_weights == 28
    assert str(later.gate_irreps) == "12x0e + 4x1o + 4x2e"


irreps_text = st.sets(
    st.builds(Irrep, st.integers(0, 3), st.sampled_from([-1, 1])), max_size=4
).map(lambda others: " + ".join(f"4x{i}" for i in [Irrep(0, 1), *sorted(others - {Irrep(0, 1)})]))


@settings(deadline=None)
@given(irreps_text, st.integers(0, 3), st.booleans(), st.integers(1, 3))
def test_paths_are_all_couplings_that_end_in_a_message(hidden, max_ell, use_so3, n_layers):
    config = replace(
        CONFIG, hidden_irreps=hidden, max_ell=max_ell, use_so3=use_so3, num_interactions=n_layers
    )
    found = architecture(config)
    assert len(found.layers) == n_layers
    for layer, following in zip(found.layers, found.layers[1:], strict=False):
        assert layer.output_irreps == following.node_irreps
    for layer in found.layers:
        expected = {
            (node, edge, message)
            for node in layer.edge_irreps
            for edge in found.harmonics
            for message in products(node, edge)
            if message in layer.message_irreps
        }
        assert {path[:3] for path in layer.paths} == expected
        assert len(layer.paths) == len(expected)
        assert [path.message for path in layer.paths] == sorted(
            path.message for path in layer.paths
        )
        assert all(path.channels == layer.edge_irreps[path.node] for path in layer.paths)
        assert set(layer.message_irreps.values()) == {4}


def test_one_layer_is_read_out_linearly():
    found = architecture(replace(CONFIG, num_interactions=1))
    assert found.readouts == (Readout("LinearReadoutBlock", 0),)
    assert texts(found.layers[0])[3] == "4x0e"


def test_only_the_last_readout():
    found = architecture(
        replace(CONFIG, use_last_readout_only=True, readout_cls="NonLinearBiasReadoutBlock")
    )
    assert found.readouts == (Readout("NonLinearBiasReadoutBlock", 2),)


def test_the_last_layer_keeps_its_irreps():
    assert texts(layers_of(keep_last_layer_irreps=True)[2])[3] == "4x0e + 4x1o"


def test_edge_irreps():
    first, later, _ = layers_of(edge_irreps="2x0e + 3x1o")
    assert (texts(first)[1], texts(later)[1]) == ("4x0e", "2x0e + 3x1o")
    first, later, _ = layers_of(edge_irreps="2x0e + 3x1o", use_edge_irreps_first=True)
    assert (texts(first)[1], texts(later)[1]) == ("2x0e", "2x0e + 3x1o")
    assert later.path_irreps != layers_of()[1].path_irreps
    assert texts(layers_of(use_edge_irreps_first=True)[0])[1] == "4x0e"


def test_pseudoscalars_bring_messages_of_both_parities_after_the_first_layer():
    first, later, _ = layers_of(hidden_irreps="4x0e + 4x0o + 4x1o", max_ell=1)
    assert texts(first)[2] == "4x0e + 4x1o"
    assert texts(later)[2] == "4x0o + 4x0e + 4x1o + 4x1e"


def test_without_inversion_all_harmonics_are_even():
    found = architecture(replace(CONFIG, use_so3=True, hidden_irreps="4x0e + 4x1e"))
    assert [str(irrep) for irrep in found.harmonics] == ["0e", "1e", "2e"]
    assert texts(found.layers[1])[2] == "4x0e + 4x1e + 4x2e"


def test_a_correlation_for_each_layer():
    assert [layer.correlation for layer in layers_of(correlation=(1, 2, 3))] == [1, 2, 3]


@pytest.mark.parametrize(
    ("model", "last", "kinds"),
    [
        ("AtomicDipolesMACE", "4x1o", "DipoleReadoutBlock"),
        ("EnergyDipolesMACE", "4x0e + 4x1o", "DipoleReadoutBlock"),
        ("AtomicDielectricMACE", "4x0e + 4x1o + 4x2e", "DipolePolarReadoutBlock"),
    ],
)
def test_dipole_models_keep_what_they_predict(model, last, kinds):
    config = replace(DIPOLES, model=model, hidden_irreps="4x0e + 4x1o + 4x2e")
    found = architecture(config)
    assert texts(found.layers[-1])[3] == last
    assert texts(found.layers[0])[3] == "4x0e + 4x1o + 4x2e"
    assert [readout.kind for readout in found.readouts] == [
        *(f"Linear{kinds}", f"Linear{kinds}", f"NonLinear{kinds}")
    ]
    assert [readout.layer for readout in found.readouts] == [0, 1, 2]


@pytest.mark.parametrize(("text", "used"), [("2x1o", "2x1o"), ("2x0e", ""), ("2x0e + 2x1e", "")])
def test_hidden_features_that_no_dipole_can_use_are_left_out_if_all_are(text, used):
    assert str(dipole_hidden_irreps(replace(DIPOLES, MLP_irreps=text))) == used


def test_what_models_are_told():
    assert model_inputs(CONFIG) == ()
    assert model_inputs(replace(CONFIG, embedding_specs=(SPIN,))) == (SPIN,)
    (charges,) = model_inputs(DIPOLES)
    assert (charges.name, charges.per) == ("charges", "atom")
    (total,) = model_inputs(replace(DIPOLES, model="AtomicDielectricMACE"))
    assert (total.name, total.per) == ("total_charge", "graph")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("MACE", True),
        ("ScaleShiftMACE", True),
        ("EnergyDipolesMACE", True),
        ("AtomicDipolesMACE", False),
        ("AtomicDielectricMACE", False),
    ],
)
def test_which_models_have_energies(model, expected):
    assert predicts_energy(replace(CONFIG, model=model)) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_irreps": "banana"}, "hidden_irreps: 'banana', expected each irrep once"),
        ({"hidden_irreps": "4x0e + 4x1o + 4x0e"}, "hidden_irreps: .*each irrep once"),
        ({"hidden_irreps": "4x1o"}, "hidden_irreps: 4x1o, expected 0e and the same number"),
        ({"hidden_irreps": "4x0o"}, "hidden_irreps: 4x0o, expected 0e and the same number"),
        ({"hidden_irreps": "4x0e + 8x1o"}, r"hidden_irreps: 4x0e \+ 8x1o, .*the same number"),
        ({"edge_irreps": "2x0"}, "edge_irreps: '2x0', expected each irrep once"),
        ({"edge_irreps": "2x1e"}, "edge_irreps: 2x1e, expected some of the features' 4x0e"),
        (
            {"edge_irreps": "2x1o", "use_edge_irreps_first": True},
            "edge_irreps: 2x1o, expected some of the features' 4x0e$",
        ),
        ({"MLP_irreps": "16x1o"}, "MLP_irreps: 16x1o, expected scalars such as 16x0e"),
        ({"atomic_numbers": (8, 1)}, r"atomic_numbers: \[8, 1\], expected ascending numbers"),
        ({"atomic_numbers": (1, 1)}, r"atomic_numbers: \[1, 1\], expected ascending numbers"),
        ({"embedding_specs": (SPIN, SPIN)}, "embedding_specs: .*, expected each name once"),
        ({"correlation": (3, 3)}, r"correlation: \[3, 3\], expected 3 numbers, one for each layer"),
        ({"correlation": (3,) * 4}, r"correlation: .*, expected 3 numbers"),
        (
            {"model": "AtomicDipolesMACE", "hidden_irreps": "4x0e"},
            "hidden_irreps: 4x0e, expected vectors, too, for dipoles",
        ),
        (
            {"model": "EnergyDipolesMACE", "hidden_irreps": "4x0e"},
            "hidden_irreps: 4x0e, expected vectors, too, for dipoles",
        ),
        (
            {"model": "AtomicDipolesMACE", "MLP_irreps": "4x0e + 4x1o"},
            r"MLP_irreps: 4x0e \+ 4x1o, expected only irreps of 1x1o",
        ),
        (
            {"model": "EnergyDipolesMACE", "MLP_irreps": "4x1o + 4x0e"},
            r"MLP_irreps: 4x1o \+ 4x0e, expected only irreps of .*, by ascending l",
        ),
        ({"model": "EnergyDipolesMACE", "MLP_irreps": "4*1o"}, "MLP_irreps: .*each irrep once"),
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        architecture(replace(CONFIG, **changes))


def test_repeated_neighbours_are_joined():
    assert architecture(replace(CONFIG, hidden_irreps="4x0e + 4x0e")).channels == 8
