"""Event files are read back, record by record, as TensorBoard does."""

import io
import resource
import struct
import sys
from contextlib import contextmanager

import pytest

from mace_jax.artifacts.metrics import read_metrics
from mace_jax.errors import ConfigError, StoppedError
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.beginning import find_beginning, prepared_run
from mace_jax_train.loop import train
from mace_jax_train.reports import report_of
from mace_jax_train.run_files import RunFiles
from mace_jax_train.tensorboard_events import require_tensorboard, tracker

ROWS = {
    epoch: [
        {"mode": "train", "head": "Default", "epoch": epoch, "loss": 1.5 / epoch, "time": 2.0},
        {"mode": "valid", "head": "Default", "epoch": epoch, "rmse_f": 0.25, "rmse_s": None},
    ]
    for epoch in (1, 2, 3)
}


def test_a_missing_package_is_an_error_that_says_what_to_install(monkeypatch, make_config):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="pip install tensorboardX"):
        require_tensorboard(make_config(tensorboard={"enabled": True}).tensorboard)
    require_tensorboard(make_config().tensorboard)


def test_nothing_is_written_unless_it_is_asked_for(make_config, tmp_path):
    config = make_config(logs={"directory": str(tmp_path)})
    with tracker(config, "run", {}, [], 0) as report:
        report(ROWS[1])
    assert not list(tmp_path.iterdir())


event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def events(folder):
    """Return the events of a folder, those of files that began earlier first."""
    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def shown(folder):
    """Return what TensorBoard shows, by epoch and name: it forgets what a restart writes anew."""
    scalars = {}
    for event in events(folder):
        if event.session_log.status == event_pb2.SessionLog.START:
            scalars = {epoch: values for epoch, values in scalars.items() if epoch < event.step}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                scalars.setdefault(event.step, {})[value.tag] = value.simple_value
    return scalars


def texts(folder):
    values = [value for event in events(folder) for value in event.summary.value]
    return {
        value.tag.removesuffix("/text_summary"): value.tensor.string_val[0].decode()
        for value in values
        if value.metadata.plugin_data.plugin_name == "text"
    }


@pytest.fixture
def config(make_config, tmp_path):
    return make_config(
        tensorboard={"enabled": True},
        logs={"directory": str(tmp_path)},
        datasets={"valid_path": None, "test_path": None},
        optimizer={"max_epochs": 2},
    )


def test_every_metric_is_written_with_its_epoch(config, tmp_path):
    with tracker(config, "run", {"parameters": 7}, [], 0) as report:
        report(ROWS[1])
        report(ROWS[2])
        assert shown(tmp_path / "tensorboard" / "run") == {
            epoch: pytest.approx(report_of(ROWS[epoch])) for epoch in (1, 2)
        }  # already while the run goes on
    found = texts(tmp_path / "tensorboard" / "run")
    assert "    optimizer.lr = 0.01" in found["config"]
    assert "| parameters | 7 |" in found["facts"]


def test_a_folder_of_ones_own(make_config, tmp_path):
    config = make_config(tensorboard={"enabled": True, "dir": str(tmp_path / "events")})
    with tracker(config, "run", {}, [], 0) as report:
        report(ROWS[1])
    assert list(shown(tmp_path / "events" / "run")) == [1]


def test_a_run_that_goes_on_adds_to_its_events(config, tmp_path):
    with tracker(config, "run", {}, [], 0) as report:
        for epoch in (1, 2):
            report(ROWS[epoch])
        report([{**ROWS[3][0], "loss": 99.0}])  # lost, for it came after the checkpoint
    with tracker(config, "run", {}, [*ROWS[1], *ROWS[2]], 2) as report:
        report(ROWS[3])
    folder = tmp_path / "tensorboard" / "run"
    assert len(list(folder.iterdir())) == 2
    assert shown(folder) == {epoch: pytest.approx(report_of(ROWS[epoch])) for epoch in (1, 2, 3)}


def test_a_run_that_begins_anew_is_shown_alone(config, tmp_path):
    for epoch in (2, 1):
        with tracker(config, "run", {}, [], 0) as report:
            report(ROWS[epoch])
    assert list(shown(tmp_path / "tensorboard" / "run")) == [1]


# --- no report can stop a run


def test_a_folder_that_cannot_be_made_is_a_warning(config, tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("in the way")
    with tracker(config, "run", {}, [], 0) as report:
        report(ROWS[1])
    (message,) = caplog.messages
    assert message.startswith("tensorboard: ")
    assert message.endswith("nothing is reported there")


@contextmanager
def full_disk():
    """Let no file grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_report_that_cannot_be_written_is_a_warning(config, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # it may be a file, which cannot grow either
    with tracker(config, "run", {}, [], 0) as report:
        with full_disk():
            report(ROWS[1])
        assert "this report is lost, the run goes on" in caplog.text
    assert (tmp_path / "tensorboard" / "run").is_dir()


# --- in a run


def test_an_interrupted_run_is_shown_as_its_metrics_file_says(config, tmp_path, signalled):
    files = RunFiles(tmp_path, "run")
    for show in (signalled("SIGTERM"), show_nothing):
        beginning = find_beginning(config, files, [], force=False)
        try:
            with prepared_run(config, files, beginning, track_silently) as run:
                train(run, files, show, beginning.checkpoint)
        except StoppedError:
            assert show is not show_nothing
    _, rows = read_metrics(files.path(".metrics"))
    found = shown(tmp_path / "tensorboard" / "run")
    assert list(found) == [0, 1, 2]
    assert len(list((tmp_path / "tensorboard" / "run").iterdir())) == 2
    for row in rows:
        for name in ("loss", "rmse_f", "n_updates"):
            assert found[row["epoch"]][f"{row['mode']}/{name}"] == pytest.approx(row[name])
