import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.batches import Batches, read_batches, write_batches

LISTS = st.lists(st.lists(st.integers(0, 2**40), max_size=5), max_size=8)


@given(LISTS)
def test_lists_of_ids_and_back(lists):
    batches = Batches.from_lists(lists)
    assert batches.to_lists() == lists
    assert len(batches) == len(lists)
    assert [batch.tolist() for batch in batches] == lists
    assert batches.n_graph.tolist() == [len(ids) for ids in lists]
    assert (batches.ids.dtype, batches.offsets.dtype) == (np.int64, np.int64)


def test_single_batches_by_place():
    batches = Batches.from_lists([[5, 3], [], [4]])
    assert batches[0].tolist() == [5, 3]
    assert batches[1].tolist() == []
    assert batches[-1].tolist() == batches[np.int64(2)].tolist() == [4]
    assert batches[1:].to_lists() == [[], [4]]
    for place in (3, -4):
        with pytest.raises(IndexError):
            batches[place]


@given(LISTS, st.data())
def test_batches_can_be_chosen(lists, data):
    order = data.draw(st.lists(st.sampled_from(range(len(lists))))) if lists else []
    chosen = Batches.from_lists(lists).select(np.array(order, int))
    assert chosen.to_lists() == [lists[index] for index in order]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8))
def test_sums_over_each_batch(lists):
    sizes = np.arange(10) ** 2
    sums = Batches.from_lists(lists).sums(sizes.astype(np.uint8))
    assert sums.tolist() == [sum(index**2 for index in ids) for ids in lists]


def test_equal_are_the_same_ids_in_the_same_batches():
    several = [[[1, 2], [3]], [[1], [2, 3]], [[2, 1], [3]], [[1, 2], [3], []], []]
    for (i, one), (j, other) in itertools.product(enumerate(several), repeat=2):
        assert (Batches.from_lists(one) == Batches.from_lists(other)) == (i == j)
    assert Batches.from_lists([[1]]) != [[1]]


@settings(max_examples=30, deadline=None)
@given(lists=LISTS)
def test_an_arrow_file_keeps_them(lists, tmp_path_factory):
    path = tmp_path_factory.mktemp("arrow") / "a.arrow"
    batches = Batches.from_lists(lists)
    digest = write_batches(path, batches, {})
    assert read_batches(path, digest, path) == batches
