import contextlib
import json

import pytest

from mace_jax.artifacts.metrics import MetricsLog, read_metrics, without_times
from mace_jax.errors import ArtifactError

ROW = {
    "mode": "valid",
    "head": "Default",
    "epoch": 0,
    "interval": 0,
    "loss": 1.5,
    "time": 0.25,
    "lr": 0.01,
    "rmse_e": None,
    "mae_f": 0.125,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.metrics"


@pytest.fixture
def log(path, provenance):
    log = MetricsLog(path, provenance)
    log.append(ROW)
    log.append({**ROW, "epoch": 1}, {**ROW, "epoch": 1, "mode": "eval_test"})
    return log


def test_a_log_can_be_read_while_the_run_goes_on(log, path, provenance):
    header, rows = read_metrics(path)
    assert header["status"] == "running"
    assert header["provenance"] == provenance
    assert rows == [
        ROW,
        {**ROW, "epoch": 1},
        {**ROW, "epoch": 1, "mode": "eval_test"},
    ]


def test_a_log_without_rows_is_complete(path, provenance):
    MetricsLog(path, provenance)
    assert read_metrics(path)[1] == []


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (ValueError, "stopped"), (KeyboardInterrupt, "stopped")],
)
def test_the_header_says_how_the_run_ended(path, provenance, error, status):
    with contextlib.suppress(ValueError, KeyboardInterrupt), MetricsLog(path, provenance) as log:
        log.append(ROW)
        assert read_metrics(path)[0]["status"] == "running"
        if error:
            raise error
    header, rows = read_metrics(path)
    assert header["status"] == status
    assert rows == [ROW]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_reproducible_row_keeps_no_times(path, provenance):
    timed = {**ROW, "graphs_per_second": 12.5, "n_compilations": 3, "n_updates": 7}
    MetricsLog(path, provenance).append(without_times(timed))
    without = {**timed, "time": None, "graphs_per_second": None, "n_compilations": None}
    assert read_metrics(path)[1] == [without]


def test_a_log_goes_on_with_the_rows_of_a_run_that_is_continued(log, path, provenance):
    _, rows = read_metrics(path)
    MetricsLog(path, provenance, rows[:2]).append({**ROW, "epoch": 2})
    header, found = read_metrics(path)
    assert header["status"] == "running"
    assert [row["epoch"] for row in found] == [0, 1, 2]


def test_a_file_of_version_1_is_read_but_has_no_columns_of_version_2(log, path):
    text = path.read_text().replace(
        '"kind": "metrics", "version": 2', '"kind": "metrics", "version": 1'
    )
    path.write_text(text)
    header, rows = read_metrics(path)
    assert header["schema"]["version"] == 2
    assert len(rows) == 3
    path.write_text(text + json.dumps({**ROW, "n_updates": 1}) + "\n")
    with pytest.raises(ArtifactError, match=r"line 5.*n_updates"):
        read_metrics(path)


def test_every_line_is_json_on_its_own(log, path):
    lines = path.read_text().splitlines()
    assert json.loads(lines[0])["schema"] == {"kind": "metrics", "version": 2}
    assert [json.loads(line)["epoch"] for line in lines[1:]] == [0, 1, 1]


def test_half_a_line_is_refused(log, path):
    content = path.read_bytes().rstrip()
    starts = {0, *(i + 1 for i, byte in enumerate(content) if byte == ord("\n"))}
    for length in range(0, len(content), 11):
        if length in starts or length + 1 in starts:
            continue
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"run\.metrics: not complete JSON lines"):
            read_metrics(path)


@pytest.mark.parametrize(
    "row",
    [
        "{}",
        "[]",
        "3",
        json.dumps({**ROW, "loss": "low"}),
        json.dumps({**ROW, "mode": "training"}),
        json.dumps({**ROW, "epoch": -1}),
        json.dumps({**ROW, "typo": 1}),
        json.dumps({**ROW, "loss": float("nan")}),
        json.dumps({name: ROW[name] for name in ROW if name != "lr"}),
    ],
)
def test_a_row_that_does_not_fit_the_schema_is_refused_with_its_line(log, path, row):
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(ArtifactError, match=r"run\.metrics: .*line 5|not complete JSON"):
        read_metrics(path)


@pytest.mark.parametrize(
    "header",
    [
        "",
        json.dumps(ROW),
        '{"schema": {"kind": "metrics", "version": 1}}',
        '{"schema": {"kind": "metrics", "version": 2}}',
        '{"schema": {"kind": "metrics", "version": 3}}',
        '{"schema": {"kind": "dataset", "version": 1}}',
    ],
)
def test_a_wrong_header_is_refused(log, path, header):
    path.write_text("\n".join([header, *path.read_text().splitlines()[1:]]))
    with pytest.raises(ArtifactError, match=r"run\.metrics: "):
        read_metrics(path)


def test_missing_and_binary_files_are_refused(path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_metrics(path)
    for content in (b"", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(ArtifactError):
            read_metrics(path)


def test_a_number_that_is_not_finite_is_never_written(log, path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        log.append({**ROW, "loss": float("nan")})
    assert path.read_bytes() == before
