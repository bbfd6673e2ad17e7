import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.structures.composition_rows import CompositionRows

E0 = {1: -13.6, 6: -1029.7, 8: -2041.9}


def counts_of(numbers):
    return np.bincount(numbers, minlength=119)


def rows_of(data):
    rows = CompositionRows()
    for numbers, energy in data:
        rows.add(counts_of(numbers)[None], np.array([energy]))
    return rows


def random_data(n, elements=(1, 6, 8), noise=0.1, seed=0):
    rng = np.random.default_rng(seed)
    compositions = [rng.choice(elements, rng.integers(1, 40)) for _ in range(n)]
    values = {z: E0.get(z, -10.0 * z) for z in elements}
    return [
        (numbers, sum(values[z] for z in numbers) + rng.normal(0, noise) * len(numbers))
        for numbers in compositions
    ]


def design(data, elements):
    counts = np.array([counts_of(numbers)[list(elements)] for numbers, _ in data], float)
    return counts, np.array([energy for _, energy in data])


def test_least_squares_is_numpys_on_the_whole_matrix():
    data = random_data(3000)
    found = rows_of(data).fit({})
    counts, energies = design(data, (1, 6, 8))
    expected, squares, rank, sizes = np.linalg.lstsq(counts, energies)
    assert list(found.energies) == [1, 6, 8]
    assert list(found.energies.values()) == pytest.approx(expected, rel=1e-12)
    assert found.residual_rms == pytest.approx((squares[0] / 3000) ** 0.5, rel=1e-9)
    assert found.condition == pytest.approx(sizes[0] / sizes[-1], rel=1e-9)
    assert (found.rank, found.n_structures, found.coupled) == (rank, 3000, ())


def test_exact_energies_give_exact_e0s():
    data = random_data(50, noise=0.0)
    found = rows_of(data).fit({})
    assert found.energies == pytest.approx(E0, rel=1e-12)
    assert found.residual_rms < 1e-8


def test_the_condition_number_is_not_squared():
    """One atom in 10⁵ of oxygen: normal equations would lose its E0."""
    n = 100_000
    data = [
        (counts_of([1] * (n + i) + [8] * (n + j)), n * -2055.5 + i * -13.6 + j * -2041.9)
        for i in range(3)
        for j in range(3)
    ]
    rows = CompositionRows()
    for counts, energy in data:
        rows.add(counts[None], np.array([energy]))
    found = rows.fit({})
    assert found.condition > 1e5
    assert found.energies == pytest.approx({1: -13.6, 8: -2041.9}, rel=1e-8)


@pytest.mark.parametrize("n", [3, 3000])
def test_elements_in_fixed_proportion_share_the_minimum_norm_solution(n):
    data = [([1, 1, 8] * (i % 7 + 1), -20.0 * (i % 7 + 1)) for i in range(n)]
    found = rows_of(data).fit({})
    assert found.energies == pytest.approx({1: -8.0, 8: -4.0})  # 2 a + b = -20, least a² + b²
    assert (found.rank, found.coupled) == (1, ((1, 8),))


def test_only_the_elements_that_occur_together_are_coupled():
    data = [
        *(([11, 17] * n + [6] * m, -100.0 * n - 5.0 * m) for n in range(1, 4) for m in range(3)),
        *(([1, 1, 8] * n, -20.0 * n) for n in (1, 2)),
    ]
    found = rows_of(data).fit({})
    assert found.coupled == ((1, 8), (11, 17))
    assert (found.rank, len(found.energies)) == (3, 5)
    assert found.energies[6] == pytest.approx(-5.0)
    assert found.energies[11] == pytest.approx(-50.0)


def test_fewer_compositions_than_elements_is_numpys_minimum_norm():
    data = [([1, 6, 8, 8], -50.0), ([1, 1, 6], -30.0)]
    found = rows_of(data).fit({})
    expected = np.linalg.lstsq(*design(data, (1, 6, 8)))[0]
    assert list(found.energies.values()) == pytest.approx(expected)
    assert (found.rank, found.coupled) == (2, ((1, 6, 8),))


def test_elements_with_given_e0_are_left_to_them():
    data = random_data(200, noise=0.0)
    found = rows_of(data).fit({8: -2041.9 + 3.0})
    counts, energies = design(data, (1, 6))
    target = energies - design(data, (8,))[0][:, 0] * (-2041.9 + 3.0)
    assert list(found.energies) == [1, 6]
    expected = np.linalg.lstsq(counts, target)[0]
    assert list(found.energies.values()) == pytest.approx(expected, rel=1e-10)
    assert rows_of(data).fit(E0).energies == {}


def test_one_composition_of_two_energies_gives_their_mean():
    found = rows_of([([1, 1], -2.0), ([1, 1], -4.0)]).fit({})
    assert found.energies == pytest.approx({1: -1.5})
    assert found.residual_rms == pytest.approx(1.0)


def test_squared_deviations_lose_nothing_to_large_e0s():
    data = random_data(2500)
    per_atom = [(e - sum(E0[z] for z in numbers)) / len(numbers) for numbers, e in data]
    found = rows_of(data).squared_deviations(E0)
    assert found == pytest.approx(np.var(per_atom) * 2500, rel=1e-9)


MIXED = random_data(1300, elements=(1, 6, 8, 26), seed=1)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, len(MIXED)), max_size=3), st.randoms())
def test_parts_merge_to_the_whole_through_json(cuts, random):
    """Elements that only some of the parts have included."""
    data = MIXED
    bounds = [0, *sorted(cuts), len(data)]
    parts = [rows_of(data[a:b]) for a, b in pairwise(bounds)]
    random.shuffle(parts)
    merged = CompositionRows()
    for part in parts:
        merged.merge(CompositionRows.from_json(json.loads(json.dumps(part.to_json()))))
    whole = rows_of(data)
    assert merged.n_rows == whole.n_rows
    assert merged.fit({}).energies == pytest.approx(whole.fit({}).energies, abs=1e-10)
    assert merged.fit({}).residual_rms == pytest.approx(whole.fit({}).residual_rms, rel=1e-10)
    energies = {**E0, 26: -260.0}
    expected = whole.squared_deviations(energies)
    assert merged.squared_deviations(energies) == pytest.approx(expected, rel=1e-10)


def test_merging_leaves_the_other_as_it_was():
    first, second = rows_of(random_data(10)), rows_of(random_data(10, (1, 26)))
    before = second.to_json()
    first.merge(second)
    assert second.to_json() == before


def test_blocks_are_the_same_as_one_by_one():
    counts = np.array([counts_of(numbers) for numbers, _ in MIXED])
    energies = np.array([energy for _, energy in MIXED])
    rows = rows_of(MIXED[:5])
    rows.add(counts[5:], energies[5:])
    assert rows.fit({}).energies == pytest.approx(rows_of(MIXED).fit({}).energies, abs=1e-10)
    assert rows.n_rows == len(MIXED)
