import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mace_jax.elements import MAX_ATOMIC_NUMBER, sorted_elements, species_index, symbol
from mace_jax.errors import DataError

atomic_numbers = st.lists(st.integers(1, MAX_ATOMIC_NUMBER), min_size=1)


@given(atomic_numbers, atomic_numbers)
def test_species_index_finds_the_element_or_refuses(numbers, known):
    elements = sorted_elements(known)
    if set(numbers) <= set(elements):
        index = species_index(numbers, elements, "here")
        assert [elements[i] for i in index] == numbers
        assert index.dtype == np.int32
    else:
        with pytest.raises(DataError):
            species_index(numbers, elements, "here")


@pytest.mark.parametrize("unknown", [1, 7, 9])
def test_an_unknown_element_is_named_and_never_mapped_to_a_neighbour(unknown):
    with pytest.raises(DataError, match=rf"a\.xyz: frame 3: unknown element {symbol(unknown)} "):
        species_index([6, unknown, 8], (6, 8), "a.xyz: frame 3")


def test_sorted_elements_are_distinct_ascending_integers():
    assert sorted_elements(np.array([8, 1, 1, 6])) == (1, 6, 8)
