import logging
import re
import sys

import pytest

from mace_jax.cli.progress import show_on_stderr, track_on_stderr
from mace_jax.tracking import show_nothing, track_silently


@pytest.mark.parametrize("track", [track_silently, track_on_stderr])
def test_items_pass_unchanged_and_lazily(track, capsys):
    items = iter(range(5))
    tracked = track(items, "counting", 5)
    assert next(tracked) == 0
    assert next(items) == 1
    assert list(tracked) == [2, 3, 4]
    assert capsys.readouterr().out == ""


def test_a_plain_line_where_there_is_no_terminal(caplog):
    with caplog.at_level(logging.INFO, "mace_jax"):
        list(track_on_stderr(range(3), "counting edges", 3))
    assert [record.getMessage() for record in caplog.records] == ["counting edges: 3"]


@pytest.mark.parametrize("show", [show_nothing, show_on_stderr])
def test_nothing_is_shown_where_there_is_no_terminal(show, caplog, capsys):
    with caplog.at_level(logging.INFO, "mace_jax"), show("training", 10, done=4) as advance:
        advance("5 graphs/s")
    out, err = capsys.readouterr()
    assert (out, "graphs/s" in err) == ("", False)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == (["training: 6"] if show is show_on_stderr else [])


def test_a_terminal_shows_how_far_it_has_come_and_a_note(capsys, monkeypatch, caplog):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with (
        caplog.at_level(logging.INFO, "mace_jax"),
        show_on_stderr("training", 10, done=4) as advance,
    ):
        for _ in range(3):
            advance("5 graphs/s, 2.5% padding")
    out, err = capsys.readouterr()
    assert out == ""
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert re.search(r"training .* 70% .*5 graphs/s, 2\.5% padding", shown)
