import dataclasses
import json

import numpy as np
import pytest

from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.atomic_energies import (
    average_atomic_energies,
    parse_atomic_energies,
    require_atomic_energies,
    take_isolated_atoms,
    total_atomic_energy,
)
from mace_jax.structures.structure import Structure


def make(numbers, energy=None, config_type="Default", pbc=False):
    return Structure(
        np.array(numbers),
        np.arange(3.0 * len(numbers)).reshape(-1, 3),
        np.eye(3) * 9,
        np.full(3, pbc),
        {} if energy is None else {"energy": np.array(energy)},
        config_type=config_type,
    )


def test_total_is_summed_in_float64():
    energies = {1: -13.587222780835477, 8: -432.3}
    assert total_atomic_energy(np.array([8, 1, 1]), energies) == -432.3 - 2 * 13.587222780835477


def test_least_squares_recovers_e0s_to_float64():
    energies = {1: -13.6, 6: -1029.7, 8: -2041.9}
    compositions = [[1, 1, 8], [6, 8], [1, 1, 1, 1, 6], [1, 6, 8, 8], [6, 6]]
    data = [make(numbers, total_atomic_energy(numbers, energies)) for numbers in compositions]
    data.append(make([1] * 7))  # unlabelled: left out, not taken as 0 eV
    found = average_atomic_energies(data, (1, 6, 8))
    assert found == pytest.approx(energies, rel=1e-12)


def test_least_squares_is_the_best_fit_of_contradicting_data():
    found = average_atomic_energies([make([1, 1], -2.0), make([1, 1], -4.0)], (1,))
    assert found == pytest.approx({1: -1.5})


def test_elements_in_fixed_proportion_share_the_minimum_norm_solution():
    data = [make([1, 1, 8] * n, -20.0 * n) for n in (1, 2, 3)]
    # 2 a + b = -20 with the least a² + b²
    assert average_atomic_energies(data, (1, 8)) == pytest.approx({1: -8.0, 8: -4.0})


def test_an_element_that_does_not_occur_gets_zero():
    assert average_atomic_energies([make([1], -13.0)], (1, 6))[6] == pytest.approx(0.0)


def test_no_energies_at_all_is_an_error():
    with pytest.raises(DataError, match="none of the 2 structures has an energy"):
        average_atomic_energies([make([1]), make([8])], (1, 8))


def test_isolated_atoms_are_taken_out():
    data = [
        make([1], -13.6, "IsolatedAtom"),
        make([1, 1], -30.0, "IsolatedAtom"),
        make([8], -432.0, "IsolatedAtom"),
        make([6], -5.0),
        make([6], -5.0, "IsolatedAtom", pbc=True),
        make([1], -13.6, "IsolatedAtom"),
    ]
    rest, energies = take_isolated_atoms(data)
    assert energies == {1: -13.6, 8: -432.0}
    assert rest == [data[1], data[3], data[4]]


def test_isolated_atoms_that_disagree_are_refused():
    data = [make([1], -13.6, "IsolatedAtom"), make([8], -1.0), make([1], -13.5, "IsolatedAtom")]
    data[2] = dataclasses.replace(data[2], place="train.xyz: frame 2")
    message = r"^train\.xyz: frame 2: isolated atom H has -13\.5 eV, another frame -13\.6 eV"
    with pytest.raises(DataError, match=message):
        take_isolated_atoms(data)


def test_an_isolated_atom_without_energy_is_refused():
    broken = dataclasses.replace(
        make([8], -1.0, "IsolatedAtom"), properties={}, place="train.xyz: frame 0"
    )
    with pytest.raises(DataError, match=r"^train\.xyz: frame 0: isolated atom O has no energy"):
        take_isolated_atoms([broken])


@pytest.mark.parametrize("text", ["{1: -13.6, 8: -432}", '{"1": -13.6, "8": -432.0}'])
def test_parse_a_dict_or_a_json_file(tmp_path, text):
    assert parse_atomic_energies(text) == {1: -13.6, 8: -432.0}
    path = tmp_path / "e0s.json"
    path.write_text(json.dumps({"1": -13.6, "8": -432}))
    assert parse_atomic_energies(str(path)) == {1: -13.6, 8: -432.0}


@pytest.mark.parametrize(
    "text",
    ["avrage", "{1: }", "[1, 2]", "{'H': -13.6}", "{1: 'low'}", "{1: None}", "missing.json", "3"],
)
def test_what_cannot_be_parsed_is_a_config_error(text):
    with pytest.raises(ConfigError, match=r"E0s: .*cannot be read.*expected 'average'"):
        parse_atomic_energies(text)


@pytest.mark.parametrize("text", ["{1: 1e999}", "{1.5: -13.6}"])
def test_numbers_that_mean_nothing_are_refused(text):
    with pytest.raises(ConfigError):
        parse_atomic_energies(text)


def test_exactly_the_required_elements_are_kept_and_none_is_taken_as_zero():
    assert require_atomic_energies({1: -1.0, 6: -2.0, 8: -3.0}, (1, 8), "here") == {1: -1, 8: -3}
    with pytest.raises(DataError, match=r"here: no E0 for C \(6\)"):
        require_atomic_energies({1: -1.0}, (1, 6), "here")
