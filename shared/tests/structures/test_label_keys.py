import pytest

from mace_jax.structures.label_keys import CALCULATOR, LabelCounts, LabelKeys, find_label


@pytest.mark.parametrize(
    ("given", "info", "calculated", "expected"),
    [
        ({}, {"REF_energy": 1, "energy": 2}, {"energy": 3}, ("REF_energy", 1)),
        ({}, {"energy": 2}, {"energy": 3}, ("energy", 2)),
        ({}, {}, {"energy": 3}, (CALCULATOR, 3)),
        ({}, {}, {}, None),
        ({"energy": "dft"}, {"dft": 0, "REF_energy": 1}, {"energy": 3}, ("dft", 0)),
        ({"energy": "dft"}, {"REF_energy": 1, "energy": 2}, {"energy": 3}, None),
        ({"forces": "dft"}, {"dft": 0, "energy": 2}, {}, ("energy", 2)),
    ],
)
def test_which_label_wins(given, info, calculated, expected):
    assert find_label("energy", LabelKeys(given), (info, {}), calculated) == expected


def test_per_frame_wins_over_per_atom():
    assert find_label("charges", LabelKeys(), ({"charges": 1}, {"charges": 2}), {})[1] == 1


def counted(*structures):
    counts = LabelCounts()
    for head, found in structures:
        counts.add(head, found, [*found.values(), "note"])
    return counts


REF = {"energy": "REF_energy", "forces": "REF_forces"}


def test_counts_and_their_summary():
    assert LabelCounts(n_structures=5).summary() == "no labels in 5 structures"
    counts = counted(*[("pbe", REF)] * 3, ("pbe", {"energy": "energy", "forces": "REF_forces"}))
    counts.add("pbe", {"energy": "energy"}, ["energy"])
    assert counts.total("energy") == 5
    assert counts.total("stress") == 0
    assert counts.summary() == "energy 5/5 (REF_energy 3, energy 2), forces 4/5 (REF_forces)"
    assert counts.seen_keys == {"REF_energy": 3, "REF_forces": 4, "energy": 2, "note": 4}


def test_counts_of_each_head():
    counts = counted(("pbe", REF), ("pbe", {"energy": "energy"}), ("r2scan", {}))
    assert counts.heads == {"pbe": 2, "r2scan": 1}
    assert counts.total("energy", "pbe") == 2
    assert counts.total("forces", "pbe") == 1
    assert counts.total("energy", "r2scan") == 0
    assert counts.total("energy", "absent") == 0
    assert counts.head_summaries() == {
        "pbe": "energy 2/2, forces 1/2",
        "r2scan": "energy 0/1, forces 0/1",
    }
    assert counted(("pbe", {})).head_summaries() == {"pbe": "no labels in 1 structures"}


def test_merged_counts_are_those_of_all_structures():
    parts = [("pbe", REF)], [("r2scan", {"energy": "energy"}), ("pbe", {})], []
    merged = LabelCounts()
    for part in parts:
        merged.merge(counted(*part))
    assert merged == counted(*[structure for part in parts for structure in part])
