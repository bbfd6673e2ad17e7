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


def test_counts_and_their_summary():
    counts = LabelCounts(n_structures=5)
    assert counts.summary() == "no labels in 5 structures"
    counts.found.update({("energy", "REF_energy"): 3, ("energy", "energy"): 2})
    counts.found["forces", "REF_forces"] = 4
    assert counts.total("energy") == 5
    assert counts.total("stress") == 0
    assert counts.summary() == ("energy 5/5 (REF_energy 3, energy 2), forces 4/5 (REF_forces)")
