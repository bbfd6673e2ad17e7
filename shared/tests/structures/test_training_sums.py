import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.errors import DataError, IncompatibleError
from mace_jax.structures.structure import Structure
from mace_jax.structures.training_sums import TrainingSums

E0S = {"Default": {1: -13.6, 6: -1029.7, 8: -2041.9}, "scan": {1: -13.5, 6: -1030.1, 8: -2043.0}}
ELEMENTS = (1, 6, 8)


def random_structures(n=150, seed=0):
    """Two heads with E0s of their own; some energies and some forces are missing."""
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(n):
        numbers = rng.choice(ELEMENTS, rng.integers(1, 20))
        head = str(rng.choice(["Default", "scan"]))
        energy = sum(E0S[head][int(z)] for z in numbers) - 4.0 * len(numbers) + rng.normal()
        labels = {"energy": np.array(energy), "forces": rng.normal(0, 2, (len(numbers), 3))}
        kept = {name: value for name, value in labels.items() if rng.random() < 0.8}
        zeros = np.zeros((len(numbers), 3))
        cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
        structures.append(Structure(numbers, zeros, cell, pbc, kept, head=head))
    return structures


DATA = random_structures()
NEIGHBORS = [np.random.default_rng(i).integers(0, 5, len(s)) for i, s in enumerate(DATA)]


def sums_of(indices):
    sums = TrainingSums(5.0)
    for index in indices:
        sums.add(DATA[index], NEIGHBORS[index])
    return sums


def by_hand(structures):
    per_atom = [
        (float(s.properties["energy"]) - sum(E0S[s.head][int(z)] for z in s.atomic_numbers))
        / len(s)
        for s in structures
        if "energy" in s.properties
    ]
    forces = [s.properties["forces"].ravel() for s in structures if "forces" in s.properties]
    return {
        "mean": np.mean(per_atom),
        "energy_std": np.std(per_atom, ddof=1),
        "std": np.sqrt(np.mean(np.concatenate(forces) ** 2)),
    }


def test_statistics_are_numpys_for_each_head_and_for_all():
    assert {s.head for s in DATA} == set(E0S)
    assert any("energy" not in s.properties for s in DATA)
    found = sums_of(range(len(DATA))).statistics(ELEMENTS, E0S)
    for name, value in by_hand(DATA).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-11)
    for head, energies in E0S.items():
        for name, value in by_hand([s for s in DATA if s.head == head]).items():
            assert getattr(found.heads[head], name) == pytest.approx(value, rel=1e-11)
        assert found.heads[head].atomic_energies == energies
    neighbors = np.concatenate(NEIGHBORS)
    assert found.avg_num_neighbors == neighbors.sum() / (neighbors > 0).sum()
    assert (found.atomic_numbers, found.r_max) == (ELEMENTS, 5.0)


def test_heads_that_share_their_e0s_say_so_and_others_have_none_in_common():
    sums = sums_of(range(len(DATA)))
    assert sums.statistics(ELEMENTS, E0S).atomic_energies == {}
    shared = dict.fromkeys(E0S, E0S["scan"])
    assert sums.statistics(ELEMENTS, shared).atomic_energies == E0S["scan"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, len(DATA)), max_size=4), st.randoms())
def test_parts_merge_to_the_whole_through_json(cuts, random):
    bounds = [0, *sorted(cuts), len(DATA)]
    parts = [sums_of(range(a, b)) for a, b in pairwise(bounds)]
    random.shuffle(parts)
    merged = TrainingSums(5.0)
    for part in parts:
        merged.merge(TrainingSums.from_json(json.loads(json.dumps(part.to_json()))))
    whole = sums_of(range(len(DATA)))
    found, expected = merged.statistics(ELEMENTS, E0S), whole.statistics(ELEMENTS, E0S)
    for name in ("mean", "std", "avg_num_neighbors"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.energy_std == pytest.approx(expected.energy_std, rel=1e-11)
    for head, sums in whole.heads.items():
        other = merged.heads[head].to_json()
        rows = {"rows": None}  # rounded, and compared in their own tests
        assert {**other, **rows} == {**sums.to_json(), **rows}
        energies = sums.average_energies({}, head).energies
        assert merged.heads[head].average_energies({}, head).energies == pytest.approx(energies)


def test_the_mean_is_right_to_the_last_bit_however_large_the_energies():
    e0 = -1e6 / 3
    structure = replace(DATA[0], atomic_numbers=np.array([6]), head="Default")
    sums = TrainingSums(5.0)
    for interaction in (0.25, -0.5, 0.125):
        energy = np.array(e0 + interaction)
        sums.add(replace(structure, properties={"energy": energy}), np.array([1]))
    expected = sum(float(e0 + x) - e0 for x in (0.25, -0.5, 0.125)) / 3
    assert sums.statistics((6,), {"Default": {6: e0}}).mean == expected


def test_counts_of_elements_labels_and_structures():
    sums = sums_of(range(len(DATA))).heads["scan"]
    own = [s for s in DATA if s.head == "scan"]
    assert sums.n_structures == len(own)
    assert sums.labels == {
        name: sum(name in s.properties for s in own) for name in ("energy", "forces")
    }
    assert sums.elements == ELEMENTS
    assert sums.n_structures_with(8) == sum((s.atomic_numbers == 8).any() for s in own)
    assert sums.n_structures_with(26) == 0


def test_an_element_without_e0_is_an_error_that_names_the_head():
    sums = sums_of(range(len(DATA)))
    with pytest.raises(DataError, match=r"^head 'scan': no E0 for O \(8\)"):
        sums.statistics(ELEMENTS, {**E0S, "scan": {1: -13.5, 6: -1030.1}})
    with pytest.raises(DataError, match=r"^head 'scan': no E0 for H \(1\), C \(6\), O \(8\)"):
        sums.statistics(ELEMENTS, {"Default": E0S["Default"]})


def test_parts_of_another_cutoff_cannot_be_merged():
    with pytest.raises(IncompatibleError, match=r"r_max 4\.0 Å, expected 5\.0 Å"):
        TrainingSums(5.0).merge(TrainingSums(4.0))


def test_isolated_atoms_travel_with_the_sums():
    atom = replace(DATA[0], atomic_numbers=np.array([1]), properties={"energy": np.array(-13.6)})
    part = TrainingSums(5.0)
    part.isolated_atoms.add(atom)
    whole = TrainingSums(5.0)
    whole.merge(TrainingSums.from_json(part.to_json()))
    assert whole.isolated_atoms.of_head(atom.head) == {1: -13.6}


def test_averages_are_least_squares():
    labelled = [s for s in DATA if s.head == "scan" and "energy" in s.properties]
    counts = np.array([[(s.atomic_numbers == z).sum() for z in ELEMENTS] for s in labelled])
    energies = [float(s.properties["energy"]) for s in labelled]
    expected = np.linalg.lstsq(counts, energies)[0]
    sums = sums_of(range(len(DATA))).heads["scan"]
    found = sums.average_energies({}, "training data")
    assert list(found.energies.values()) == pytest.approx(expected, rel=1e-11)
    assert sums.average_energies({6: -1030.1}, "training data").energies.keys() == {1, 8}


def test_no_energies_at_all_is_an_error():
    sums = TrainingSums(5.0)
    for structure, n_neighbors in zip(DATA[:2], NEIGHBORS[:2], strict=True):
        sums.add(replace(structure, properties={}, head="bare"), n_neighbors)
    with pytest.raises(DataError, match="none of the 2 structures has an energy"):
        sums.heads["bare"].average_energies({}, "training data")
