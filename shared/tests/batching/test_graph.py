"""Structures as graphs: elements, heads, E0s, pairs, and what a model is told beside atoms."""

import dataclasses

import numpy as np
import pytest

from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.batching.graph import GraphBuilder, assumed_inputs, model_input
from mace_jax.errors import DataError
from mace_jax.structures.neighbor_list import neighbor_list, pair_list

E0 = {"pbe": {1: -13.587222780835477, 6: -1029.4889999855063, 8: -2041.8396277138045, 14: -1.0}}
BUILDER = GraphBuilder(4.0, (1, 6, 8, 14), ("pbe",), E0)
CHARGE = EmbeddingSpec("total_charge", "categorical", "graph", 4, num_classes=5, offset=2)
FIELD = EmbeddingSpec("field", "continuous", "graph", 4, in_dim=3, key="external_field")
CHARGES = EmbeddingSpec("charges", "continuous", "atom", 4)
TENSOR = EmbeddingSpec("tensor", "continuous", "atom", 4, in_dim=2)


def told(structure, **values):
    inputs = {name: np.asarray(value, float) for name, value in values.items()}
    return dataclasses.replace(structure, inputs=inputs, place="frame 3")


def test_defect_11_an_unknown_element_is_refused(water):
    with pytest.raises(DataError, match=r"frame 3: unknown element H \(1\)"):
        BUILDER._replace(elements=(6, 8)).build(dataclasses.replace(water, place="frame 3"))


def test_heads(water):
    two = BUILDER._replace(heads=("pbe", "r2scan"), atomic_energies={**E0, "r2scan": E0["pbe"]})
    assert BUILDER.build(water).head == 0
    assert two.build(dataclasses.replace(water, head="r2scan")).head == 1
    assert two.build(water, head="r2scan").head == 1
    with pytest.raises(DataError, match=r"frame 3: head 'Default', expected one of"):
        two.build(dataclasses.replace(water, place="frame 3"))


def test_the_e0s_are_those_of_the_head(water):
    shifted = {number: energy + 1 for number, energy in E0["pbe"].items()}
    two = BUILDER._replace(heads=("pbe", "x"), atomic_energies={**E0, "x": shifted})
    one, other = (two.build(water, head=head).interaction_energy for head in two.heads)
    assert one - other == pytest.approx(3.0)


def test_structures_are_built_together_as_alone(water, crystal):
    together = BUILDER.build_all([water, crystal, water])
    for graph, structure in zip(together, [water, crystal, water], strict=True):
        alone = BUILDER.build(structure)
        np.testing.assert_array_equal(graph.species, alone.species)
        assert graph.interaction_energy == alone.interaction_energy
        assert graph.structure is structure
        for one, other in zip(graph.pairs, alone.pairs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_given_pairs_are_not_searched_for(crystal):
    few = pair_list(neighbor_list(crystal, 3.0))
    assert len(few.senders) < len(BUILDER.build(crystal).pairs.senders)
    (graph,) = BUILDER.build_all([crystal], [few])
    assert graph.pairs is few


@pytest.mark.parametrize(
    ("spec", "values", "expected"),
    [
        (CHARGE, {"total_charge": -2}, [[-2]]),
        (CHARGE, {"total_charge": [2]}, [[2]]),
        (FIELD, {"external_field": [1, 2, 3]}, [[1, 2, 3]]),
        (CHARGES, {"charges": [1, 2, 3]}, [[1], [2], [3]]),
        (CHARGES, {"charges": [[1], [2], [3]]}, [[1], [2], [3]]),
        (TENSOR, {"tensor": [[1, 2], [3, 4], [5, 6]]}, [[1, 2], [3, 4], [5, 6]]),
    ],
)
def test_inputs_get_one_row_for_each_atom_or_structure(water, spec, values, expected):
    np.testing.assert_array_equal(model_input(told(water, **values), spec), expected)


@pytest.mark.parametrize(
    ("name", "per", "expected"),
    [
        ("total_charge", "graph", [[0]]),
        ("total_spin", "graph", [[1]]),
        ("elec_temp", "graph", [[0]]),
        ("charges", "atom", [[0], [0], [0]]),
    ],
)
def test_a_structure_that_says_nothing_is_a_cold_neutral_singlet(water, name, per, expected):
    spec = EmbeddingSpec(name, "continuous", per, 4)
    np.testing.assert_array_equal(model_input(water, spec), expected)


def test_labels_serve_as_inputs_but_inputs_come_first(water):
    labelled = dataclasses.replace(water, properties={"charges": np.array([0.5, -0.25, -0.25])})
    assert model_input(labelled, CHARGES)[:, 0].tolist() == [0.5, -0.25, -0.25]
    both = dataclasses.replace(labelled, inputs={"charges": np.array([1.0, 2.0, 3.0])})
    assert model_input(both, CHARGES)[:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        (FIELD, {}, "has no external_field, which the model needs; add it"),
        (FIELD, {"field": [1, 2, 3]}, "has no external_field"),
        (FIELD, {"external_field": [1, 2]}, r"external_field: shape \(2,\), expected \(1, 3\)"),
        (CHARGES, {"charges": [1, 2]}, r"charges: shape \(2,\), expected \(3, 1\)"),
        (CHARGES, {"charges": 1}, r"charges: shape \(\), expected \(3, 1\)"),
        (CHARGE, {"total_charge": 3}, "total_charge 3, expected a whole number from -2 to 2"),
        (CHARGE, {"total_charge": -3}, "total_charge -3, expected a whole number from -2 to 2"),
        (CHARGE, {"total_charge": 0.5}, "total_charge 0.5, expected a whole number"),
        (CHARGE, {"total_charge": np.nan}, "total_charge nan, expected a whole number"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(water, spec, values, message):
    with pytest.raises(DataError, match=f"^frame 3: {message}"):
        model_input(told(water, **values), spec)


def test_what_is_assumed_is_said(water):
    structures = [told(water, total_charge=1), water, told(water, charges=[1, 2, 3])]
    assert list(assumed_inputs(structures, [CHARGE, FIELD, CHARGES])) == [
        "total_charge: given by 1 of 3 structures; 0 is assumed for the others",
        "charges: given by 1 of 3 structures; 0 is assumed for the others",
    ]
    assert list(assumed_inputs(structures[:1], [CHARGE])) == []


def test_a_model_without_energy_needs_no_e0s(water):
    graph = GraphBuilder(4.0, (1, 8), ("Default",), {}).build(water)
    assert graph.interaction_energy == water.properties["energy"]


def test_config_types_multiply_the_weights_of_their_structures(water, crystal):
    builder = BUILDER._replace(config_type_weights={"bulk": 4.0})
    graphs = builder.build_all([water, crystal])
    assert [graph.structure.weight for graph in graphs] == [1.0, 1.5 * 4.0]
    assert crystal.weight == 1.5
    assert graphs[0].structure is water
