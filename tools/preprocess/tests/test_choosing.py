"""Choices by hand-made sets, and far points by brute force."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax_preprocess.candidates import reduced_composition
from mace_jax_preprocess.choosing import (
    ElementMeans,
    choose_farthest,
    choose_random,
    choose_stratified,
)
from mace_jax_preprocess.element_filter import ElementFilter

H, C, N, O = 1, 6, 7, 8
MOLECULES = {
    "H2": {H},
    "CO": {C, O},
    "H2O": {H, O},
    "CH3OH": {C, H, O},
    "HCN": {H, C, N},
    "N2": {N},
}


@pytest.mark.parametrize(
    ("kind", "elements", "passing"),
    [
        ("none", set(), set(MOLECULES)),
        ("combinations", {H, C, O}, {"H2", "CO", "H2O", "CH3OH"}),
        ("combinations", {N}, {"N2"}),
        ("exclusive", {H, C, O}, {"CH3OH"}),
        ("exclusive", {H}, {"H2"}),
        ("exclusive", {C, N}, set()),
        ("inclusive", {H}, {"H2", "H2O", "CH3OH", "HCN"}),
        ("inclusive", {H, C}, {"CH3OH", "HCN"}),
        ("inclusive", {C, O, N}, set()),
    ],
)
def test_filtering_types(kind, elements, passing):
    element_filter = ElementFilter(kind, frozenset(elements))
    assert {name for name, own in MOLECULES.items() if element_filter.passes(own)} == passing


@given(n=st.integers(1, 40), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=50, deadline=None)
def test_random_choices_are_distinct_ascending_and_of_the_seed(n, seed, data):
    number = data.draw(st.integers(1, n))
    chosen = choose_random(n, number, seed)
    assert len(chosen) == number
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen.min() <= chosen.max() < n
    np.testing.assert_array_equal(chosen, choose_random(n, number, seed))


def test_every_structure_is_chosen_as_often_by_chance():
    counts = Counter(k for seed in range(600) for k in choose_random(6, 2, seed).tolist())
    assert set(counts) == set(range(6))
    assert all(abs(count - 200) < 50 for count in counts.values())


@pytest.mark.parametrize(
    ("number", "counts"),
    [
        (3, {0: 1, 1: 1, 2: 1}),
        (5, {0: 2, 1: 2, 2: 1}),
        (9, {0: 4, 1: 4, 2: 1}),
        (11, {0: 5, 1: 5, 2: 1}),
        (13, {0: 7, 1: 5, 2: 1}),
    ],
)
def test_strata_get_as_many_as_they_have_room_for(number, counts):
    strata = np.array([0] * 10 + [1] * 5 + [2])
    chosen = choose_stratified(strata, number, seed=3)
    assert len(set(chosen.tolist())) == number
    assert Counter(strata[chosen].tolist()) == counts


def test_fewer_than_strata_are_of_different_strata_by_chance():
    strata = np.repeat(np.arange(6), [50, 1, 1, 1, 1, 1])
    found = set()
    for seed in range(40):
        chosen = strata[choose_stratified(strata, 2, seed)].tolist()
        assert len(set(chosen)) == 2
        found |= set(chosen)
    assert found == set(range(6))


def test_choice_inside_a_stratum_is_by_chance():
    found = {tuple(choose_stratified(np.zeros(4, int), 1, seed)) for seed in range(40)}
    assert found == {(0,), (1,), (2,), (3,)}


def test_supercells_have_one_composition():
    names = [reduced_composition(np.array(numbers)) for numbers in ([8, 1, 1], [1, 8, 1, 1, 8, 1])]
    assert names[0] == names[1]
    assert reduced_composition(np.array([8, 8, 1, 1])) not in names
    assert reduced_composition(np.array([8])) == reduced_composition(np.array([8, 8, 8]))


def brute_force(structures, number, first):
    """Far points of dense vectors, one part an element, zero where it does not occur."""
    elements = sorted({z for numbers, _ in structures for z in numbers.tolist()})
    parts = [
        [
            features[numbers == z].mean(axis=0) if z in numbers else np.zeros(features.shape[1])
            for z in elements
        ]
        for numbers, features in structures
    ]
    vectors = np.array(parts).reshape(len(structures), -1)
    chosen = [first]
    while len(chosen) < number:
        distance = np.linalg.norm(vectors[:, None] - vectors[chosen], axis=2).min(axis=1)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), data=st.data())
@settings(max_examples=60, deadline=None)
def test_far_points_are_those_of_brute_force(seed, n, data):
    generator = np.random.default_rng(seed)
    structures = []
    means = ElementMeans()
    for _ in range(n):
        numbers = generator.choice([H, C, O], generator.integers(1, 6))
        features = generator.normal(size=(len(numbers), 3))
        structures.append((numbers, features))
        means.add(numbers, features)
    number = data.draw(st.integers(1, n))
    chosen = choose_farthest(means, number, seed).tolist()
    assert chosen == brute_force(structures, number, chosen[0])
    assert choose_farthest(means, number, seed).tolist() == chosen


def test_a_line_of_points_by_hand():
    """From 0 the farthest is 10, then the middle; equal structures come last, each once."""
    means = ElementMeans()
    for x in (0.0, 4.0, 5.0, 5.0, 10.0):
        means.add(np.array([1, 1]), np.array([[x - 1], [x + 1]]))
    seed = next(s for s in range(99) if choose_farthest(means, 1, s).tolist() == [0])
    assert choose_farthest(means, 5, seed).tolist() == [0, 4, 2, 1, 3]


def test_single_precision_tells_near_structures_apart():
    """Features of one element are large and alike; their differences are what counts."""
    means = ElementMeans()
    for x in (0, 1, 3):
        means.add(np.array([6]), np.array([[1000 + x * 2**-10]], np.float32))
    seed = next(s for s in range(99) if choose_farthest(means, 1, s).tolist() == [1])
    assert choose_farthest(means, 2, seed).tolist() == [1, 2]
