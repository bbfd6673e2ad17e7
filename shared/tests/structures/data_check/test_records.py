import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mace_jax.structures.data_check.records import Names, Places, Records, input_digest


@given(st.lists(st.text() | st.from_regex(r"[a-c]\.xyz: frame [0-9]{1,12}", fullmatch=True)))
def test_every_place_comes_back(texts):
    places = Places()
    for text in texts:
        places.append(text)
    assert [places[index] for index in range(len(texts))] == texts


def test_a_name_groups_its_indices():
    names = Names()
    for name in ("pbe", "scan", "pbe"):
        names.append(name)
    assert {name: found.tolist() for name, found in names.groups()} == {"pbe": [0, 2], "scan": [1]}
    assert names[1] == "scan"


def test_compositions_of_some(make):
    records = Records()
    compositions = [[1, 1, 8], [6], [1, 6, 6, 6]]
    for numbers in compositions:
        records.append(make(numbers), "train")
    assert records.n_atoms().tolist() == [3, 1, 4]
    ((part, table),) = records.compositions(np.array([2, 0]))
    assert part == slice(0, 2)
    assert table[:, [1, 6, 8]].tolist() == [[1, 3, 0], [2, 0, 1]]
    assert table.sum() == 7


def test_many_compositions_come_in_parts(make):
    records = Records()
    structures = [make([number]) for number in (1, 6, 8)]
    for structure in structures * 2000:
        records.append(structure, "train")
    found = list(records.compositions(np.arange(6000)))
    assert len(found) == 2
    table = np.concatenate([part for _, part in found])
    np.testing.assert_array_equal(table.argmax(axis=1), [1, 6, 8] * 2000)
    assert found[-1][0].stop == 6000


def test_some_ninety_bytes_are_kept_of_a_structure(make):
    """Those for stresses, 32, are in a class of their own."""
    records = Records()
    structure = make([1, 6, 8])
    for _ in range(1000):
        records.append(structure, "train")
    kept = sum(
        column.itemsize * len(column)
        for part in (
            *(records, records.heads, records.splits),
            *(records.places, records.places._texts),
        )
        for column in vars(part).values()
        if hasattr(column, "itemsize")
    )
    assert (kept + len(records._geometry)) / 1000 < 70


def test_what_a_model_is_told_makes_the_digest(make):
    structure = make([1, 8])
    charged = dataclasses.replace(structure, inputs={"total_charge": np.array(1.0)})
    others = [
        charged,
        dataclasses.replace(charged, inputs={"total_charge": np.array(2.0)}),
        dataclasses.replace(structure, head="scan"),
        make([1, 8], seed=1),
    ]
    assert len({input_digest(each) for each in [structure, *others]}) == 5
    unlabelled = dataclasses.replace(structure, properties={}, place="elsewhere", weight=2.0)
    assert input_digest(unlabelled) == input_digest(structure)
