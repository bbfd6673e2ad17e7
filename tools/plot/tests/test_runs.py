"""Curves of several runs in one figure."""

import re

import pytest
from matplotlib.colors import to_hex

from mace_jax_plot.report import write_report


def rows_of(n_epochs: int, size: float = 1.0, head: str = "Default") -> list[dict]:
    common = {"head": head, "interval": 1, "time": 1.0, "lr": 0.1, "rmse_e_per_atom": 0.01}
    return [
        {**common, "mode": mode, "epoch": epoch, "loss": size / epoch, "rmse_f": size}
        for epoch in range(1, n_epochs + 1)
        for mode in ("train", "valid")
    ]


def legend_of(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture
def draw(run, drawn, tmp_path):
    """Return a function that draws metrics files and returns the figure."""

    def draw(*arguments):
        code, out, err = run(*arguments, "--output", tmp_path / "runs.png", "--force")
        assert (code, out) == (0, f"{tmp_path / 'runs.png'}\n"), err
        return drawn[-1]

    return draw


def test_metric_that_one_run_lacks_is_named(write, run, tmp_path):
    first, second = write(rows_of(2), name="a"), write(rows_of(2), name="b")
    second.write_text(second.read_text().replace('"rmse_f"', '"mae_f"'))
    code, _, err = run(first, second, "-o", tmp_path / "o.png")
    assert code == 2
    assert "b.metrics: no values of 'rmse_f', expected some of" in err


def test_run_without_evaluations_is_named(write, run, tmp_path):
    code, _, err = run(write(rows_of(2), name="a"), write([], name="b"), "-o", tmp_path / "o.png")
    assert code == 1
    assert "b.metrics: no evaluations" in err


def test_every_run_has_a_color_and_a_name(write, draw):
    runs = [write(rows_of(3, size), name=f"lr{size}") for size in (1.0, 2.0)]
    figure = draw(*runs)
    assert legend_of(figure) == ["lr1.0", "lr2.0", "training", "validation"]
    loss, _, force = figure.axes
    assert [line.get_ydata()[-1] for line in force.get_lines()] == [1000, 1000, 2000, 2000]
    colors = [line.get_color() for line in loss.get_lines()]
    handles = [line.get_color() for line in figure.legends[0].legend_handles[:2]]
    assert colors == [handles[0]] * 2 + [handles[1]] * 2
    assert len({line.get_linestyle() for line in loss.get_lines()}) == 2


def test_every_head_has_a_row(write, draw):
    one = write([*rows_of(2, head="pbe"), *rows_of(2, head="scan")], name="one")
    other = write(rows_of(2, head="pbe"), name="other", status="running")
    figure = draw(one, other, "--keys", "rmse_f")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["head pbe", "", "head scan", ""]
    assert [len(axes.get_lines()) for axes in figure.axes] == [4, 4, 2, 2]
    assert legend_of(figure)[:2] == ["one", "other (running)"]


def test_one_run_looks_as_beside_its_metrics_file(write, run, tmp_path):
    path = write(rows_of(3))
    for arguments in ([path, "--output", tmp_path / "o.svg"], ["--path", path]):
        assert run(*arguments, "--output-format", "svg")[0] == 0
    assert (tmp_path / "o.svg").read_bytes() == path.with_suffix(".svg").read_bytes()


def test_runs_of_one_name_are_told_apart_by_their_folders(write, draw, tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(write(rows_of(2)).rename(tmp_path / folder / "run.metrics"))
    names = legend_of(draw(*paths))[:2]
    assert [name[-5:] for name in names] == ["a/run", "b/run"]
    assert all(len(name) <= 40 for name in names)


def test_many_runs_have_as_many_colors_and_room_for_all_names(write, draw):
    figure = draw(*(write(rows_of(2), name=f"run{k:02}") for k in range(30)))
    shades = {to_hex(line.get_color()) for line in figure.axes[0].get_lines()}
    assert len(shades) == 30
    assert len(legend_of(figure)) == 32
    figure.canvas.draw()
    bottom = min(axes.get_tightbbox().y0 for axes in figure.axes)
    assert figure.legends[0].get_window_extent().y1 < bottom + 1  # pixel
    assert all(axes.get_window_extent().height > 200 for axes in figure.axes)


def test_report_has_one_figure_of_all_runs_and_a_row_for_each(write, tmp_path):
    runs = [write(rows_of(3, size), name=f"lr{size}") for size in (1.0, 2.0)]
    waiting = write([], name="waiting", status="running")
    write_report(tmp_path / "r.html", [*runs, waiting])
    text = (tmp_path / "r.html").read_text()
    assert text.count("<img") == 1
    assert 'alt="learning curves of lr1.0, lr2.0"' in text
    assert re.search(r"<td>lr2\.0</td><td>valid</td>", text)
    assert "waiting (running) has no evaluations yet" in text
