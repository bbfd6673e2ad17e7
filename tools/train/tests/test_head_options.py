"""Heads as they may be written: names, mappings, JSON, YAML and gin."""

import json

import pytest

from mace_jax.artifacts.train_config_sections import HeadConfig
from mace_jax.errors import ConfigError
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.gin_text import gin_text
from mace_jax_train.head_options import head_sections, parse_heads, read_heads

HEADS = {
    "pbe": {"train_file": ["a.h5", "b.xyz"], "E0s": {1: -13.6}, "weight": 2},
    "scan": {"train_path": "c.xyz", "info_keys": {"energy": "e"}, "arrays_keys": {"forces": "f"}},
}
SECTIONS = (
    HeadConfig("pbe", ("a.h5", "b.xyz"), E0s="{1: -13.6}", weight=2.0),
    HeadConfig("scan", "c.xyz", energy_key="e", forces_key="f"),
)


def resolved(heads):
    return load_train_config([], [], {"datasets": {"heads": heads}}).datasets.heads


def test_names_of_mace_run_train_mean_the_same():
    assert resolved(HEADS) == SECTIONS


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_files(tmp_path, suffix, wrapped):
    path = tmp_path / f"heads.{suffix}"
    heads = {**HEADS, "pbe": {**HEADS["pbe"], "E0s": "{1: -13.6}"}}
    path.write_text(json.dumps({"heads": heads} if wrapped else heads))  # which is YAML, too
    assert resolved(read_heads(str(path))) == SECTIONS


def test_gin(tmp_path):
    path = tmp_path / "run.gin"
    path.write_text(f"datasets.heads = {HEADS!r}\n")
    config = load_train_config([path], [], {})
    assert config.datasets.heads == SECTIONS
    path.write_text(gin_text(config))
    assert load_train_config([path], [], {}) == config


def test_heads_are_named_and_described(tmp_path):
    path = tmp_path / "run.gin"
    path.write_text(
        "datasets.train_path = 'all.h5'\n"
        "datasets.head_configs = {'scan': {'weight': 3.0}, 'more': {}}\n"
        "datasets.heads = ('pbe', 'scan')\n"
    )
    found = load_train_config([path], [], {}).datasets.heads
    assert found == (HeadConfig("pbe"), HeadConfig("scan", weight=3.0), HeadConfig("more"))


@pytest.mark.parametrize("text", ["a b", "a,b", "['a', 'b']", "('a', 'b')"])
def test_names(text):
    assert head_sections(parse_heads(text)) == ({"name": "a"}, {"name": "b"})


def test_the_name_of_a_head_that_nobody_named_is_no_head():
    assert head_sections(("Default",)) == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{'a': ", "cannot be read"),
        ("- a\n- b\n", "expected a mapping of head names to options"),
        ("", "expected a mapping of head names to options"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "heads.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_heads(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"a": {"train_path": "a.h5", "wieght": 1}}, "unknown wieght; did you mean weight"),
        ({"a": {"train_path": "a.h5", "weight": "much"}}, "datasets.heads"),
        ({"a": "a.h5"}, "datasets.heads: a: 'a.h5', expected a mapping of options; name its data"),
        ({"": {"train_path": "a.h5"}}, "the name '' is empty"),
        ({"a ": {"train_path": "a.h5"}}, "the name 'a ' is empty, or has blanks around it"),
        ({"a\nb": {"train_path": "a.h5"}}, r"the name 'a\nb' is empty"),
        ({"a": {"train_path": "a.h5", "readout": "b"}}, "training begins with none"),
        ({"a": {"energy_key": "e"}}, "a: energy_key is given, but no train_path"),
    ],
)
def test_what_is_no_head(heads, message):
    with pytest.raises(ConfigError) as caught:
        resolved(heads)
    assert message in str(caught.value)


def test_other_writing_systems_and_blanks_are_of_names():
    heads = {name: {"train_path": "a.h5"} for name in ("r²SCAN", "ωB97M-D3 / def2", "メース")}
    assert [head.name for head in resolved(heads)] == list(heads)


@pytest.mark.parametrize(
    ("suffix", "content", "key"),
    [
        ("json", '{"a": {"train_path": "1.h5"}, "a": {"train_path": "2.h5"}}', "a"),
        ("json", '{"a": {"train_path": "1.h5", "train_path": "2.h5"}}', "train_path"),
        ("yaml", "a:\n  train_path: 1.h5\na:\n  train_path: 2.h5\n", "a"),
        ("yaml", "heads:\n  a:\n    weight: 1\n    weight: 2\n", "weight"),
    ],
)
def test_what_a_file_says_twice(tmp_path, suffix, content, key):
    path = tmp_path / f"heads.{suffix}"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"'{key}' is given 2 times, expected once"):
        read_heads(str(path))


def test_what_a_literal_says_twice():
    with pytest.raises(ConfigError, match=r"^--heads: 'a' is given 2 times, expected once"):
        parse_heads("{'a': {'train_path': '1.h5'}, 'a': {'train_path': '2.h5'}}")
    with pytest.raises(ConfigError, match=r"^--heads: 1 is given 2 times"):
        parse_heads("{'a': {'E0s': {1: -13.6, 1: -13.7}}}")


def test_yaml_may_refer_to_what_it_has_said(tmp_path):
    path = tmp_path / "heads.yaml"
    path.write_text(
        "a: &common\n  energy_key: e\n  train_path: a.h5\nb:\n  <<: *common\n  train_path: b.h5\n"
    )
    a, b = resolved(read_heads(str(path)))
    assert (a.train_path, b.train_path, b.energy_key) == ("a.h5", "b.h5", "e")


def test_a_literal_that_is_none():
    with pytest.raises(ConfigError, match=r"--heads: .* is not a literal such as"):
        parse_heads("{'a': ")
