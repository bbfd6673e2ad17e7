import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mace_jax.structures.exact_sum import ExactSum

floats = st.floats(allow_nan=False, allow_infinity=False)


def summed(values):
    total = ExactSum()
    for value in values:
        total.add(value)
    return total


@given(st.lists(floats), st.randoms())
def test_the_sum_is_exact_whatever_the_order(values, random):
    expected = sum(map(Fraction, values), Fraction(0))
    random.shuffle(values)
    assert summed(values).fraction() == expected


@given(st.lists(floats))
def test_many_at_once_are_the_same_as_one_by_one(values):
    total = ExactSum()
    total.add_all(np.array(values, np.float64))
    assert total == summed(values)


@given(st.lists(st.floats(-1e300, 1e300)))
def test_as_a_float_it_is_rounded_once(values):
    assert float(summed(values)) == math.fsum(values)


@given(st.lists(floats), st.lists(floats))
def test_parts_merge_through_json(first, second):
    total = ExactSum.from_json(summed(first).to_json())
    total.merge(summed(second))
    assert total == summed(first + second)


def test_nothing_of_a_small_number_is_lost():
    assert float(summed([1e300, 5e-324, -1e300])) == 5e-324


def test_json_is_a_fraction_for_people():
    assert summed([-14.25, 0.5]).to_json() == "-55/4"


@pytest.mark.parametrize("text", ["1/3", "x"])
def test_what_is_no_sum_of_floats_is_refused(text):
    with pytest.raises(ValueError, match=r"no sum of floats|Invalid literal"):
        ExactSum.from_json(text)
