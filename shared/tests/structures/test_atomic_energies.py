import json

import pytest

from mace_jax.errors import ConfigError, DataError
from mace_jax.structures.atomic_energies import (
    parse_e0_choice,
    require_atomic_energies,
)


@pytest.mark.parametrize("text", ["{1: -13.6, 8: -432}", '{"1": -13.6, "8": -432.0}'])
def test_parse_a_dict_or_a_json_file(tmp_path, text):
    assert parse_e0_choice(text).common == {1: -13.6, 8: -432.0}
    path = tmp_path / "e0s.json"
    path.write_text(json.dumps({"1": -13.6, "8": -432}))
    assert parse_e0_choice(str(path)).common == {1: -13.6, 8: -432.0}


@pytest.mark.parametrize(
    "text",
    ["avrage", "{1: }", "[1, 2]", "{'H': -13.6}", "{1: 'low'}", "{1: None}", "missing.json", "3"],
)
def test_what_cannot_be_parsed_is_a_config_error(text):
    with pytest.raises(ConfigError, match=r"E0s: .*cannot be read.*expected 'average'"):
        parse_e0_choice(text)


@pytest.mark.parametrize("text", ["{1: 1e999}", "{1.5: -13.6}"])
def test_numbers_that_mean_nothing_are_refused(text):
    with pytest.raises(ConfigError):
        parse_e0_choice(text)


def test_exactly_the_required_elements_are_kept_and_none_is_taken_as_zero():
    assert require_atomic_energies({1: -1.0, 6: -2.0, 8: -3.0}, (1, 8), "here") == {1: -1, 8: -3}
    with pytest.raises(DataError, match=r"here: no E0 for C \(6\)"):
        require_atomic_energies({1: -1.0}, (1, 6), "here")


def test_one_choice_for_all_heads():
    assert parse_e0_choice("Average").of_head("any") == "average"
    assert parse_e0_choice("{1: -13.6}").of_head("any") == {1: -13.6}


@pytest.mark.parametrize("source", ["given", "file"])
def test_a_choice_for_each_head(tmp_path, source):
    text = '{"Default": {"1": -13.6}, "surface": "average"}'
    if source == "file":
        path = tmp_path / "e0s.json"
        path.write_text(text)
        text = str(path)
    choice = parse_e0_choice(text)
    assert choice.source == source
    assert choice.of_head("Default") == {1: -13.6}
    assert choice.of_head("surface") == "average"
    assert choice.of_head("bulk") == {}


@pytest.mark.parametrize(
    "text", ["{'a': {1: -1.0}, 2: -3.0}", "{'a': 'avrage'}", "{'a': {1: 'x'}}", "{'a': {'b': {}}}"]
)
def test_a_wrong_choice_of_a_head_is_refused(text):
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_e0_choice(text)
