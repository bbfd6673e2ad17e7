import logging

import pytest

from mace_jax.cli.progress import track_on_stderr
from mace_jax.tracking import track_silently


@pytest.mark.parametrize("track", [track_silently, track_on_stderr])
def test_items_pass_unchanged_and_lazily(track, capsys):
    items = iter(range(5))
    tracked = track(items, "counting", 5)
    assert next(tracked) == 0
    assert next(items) == 1
    assert list(tracked) == [2, 3, 4]
    assert capsys.readouterr().out == ""


def test_a_plain_line_where_there_is_no_terminal(caplog):
    with caplog.at_level(logging.INFO):
        list(track_on_stderr(range(3), "counting edges", 3))
    assert [record.getMessage() for record in caplog.records] == ["counting edges: 3"]
