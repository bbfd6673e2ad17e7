"""What becomes of a run that is started again: it goes on, begins anew, or is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from mace_jax.artifacts.metrics import MetricsLog, read_metrics
from mace_jax.artifacts.provenance import file_sha256
from mace_jax.artifacts.train_config import read_train_config
from mace_jax.errors import ConfigError, IncompatibleError, StoppedError
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.beginning import find_beginning, prepared_run
from mace_jax_train.loop import train
from mace_jax_train.run_files import RunFiles
from mace_jax_train.run_lock import locked

RESULTS = (".metrics", "_best.msgpack", "_last.msgpack")


def start(config, files, *, show=show_nothing, force=False):
    beginning = find_beginning(config, files, [], force=force)
    with prepared_run(config, files, beginning, track_silently) as run:
        return train(run, files, show, beginning.checkpoint)


def with_train(config, **train):
    return replace(config, train=replace(config.train, **train))


def with_epochs(config, n):
    return replace(config, optimizer=replace(config.optimizer, max_epochs=n))


@pytest.fixture(scope="module")
def config(make_config, train_xyz):
    """Of a run that converts its training data first."""
    return make_config(
        datasets={"train_path": train_xyz, "test_path": None}, optimizer={"max_epochs": 2}
    )


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path / "run", "run", reproducible=True)


@pytest.fixture
def interrupted(config, files, signalled):
    with pytest.raises(StoppedError):
        start(config, files, show=signalled("SIGTERM"))
    return files


def results(files):
    return {suffix: files.path(suffix).read_bytes() for suffix in RESULTS}


def prepared(files):
    suffixes = (".train.plan.json", ".valid.plan.json", ".statistics.json", ".config.json", ".gin")
    paths = [*map(files.path, suffixes), files.path(".data") / "train" / "train_0.h5"]
    return {path.name: (file_sha256(path), path.stat().st_mtime_ns) for path in paths}


def test_an_interrupted_run_goes_on_with_what_it_prepared(config, interrupted, tmp_path, caplog):
    before = prepared(interrupted)
    caplog.set_level("INFO", "mace_jax_train")
    start(config, interrupted)
    assert "the run was interrupted and goes on" in caplog.text
    assert "goes on in epoch 1, after 2 of" in caplog.text
    assert prepared(interrupted) == before
    whole = RunFiles(tmp_path / "whole", "run", reproducible=True)
    start(config, whole)
    assert results(interrupted) == results(whole)


@pytest.mark.slow
def test_a_finished_run_is_refused_and_replaced_with_force(config, files):
    start(config, files)
    before = results(files)
    with pytest.raises(ConfigError, match=r"a run named 'run' exists already; give --force"):
        start(config, files)
    assert results(files) == before
    start(replace(config, flags=replace(config.flags, seed=1)), files, force=True)
    assert results(files)["_last.msgpack"] != before["_last.msgpack"]
    _, rows = read_metrics(files.path(".metrics"))
    assert [row["epoch"] for row in rows] == [0, 1, 1, 2, 2]


def test_an_interrupted_run_with_other_options_is_refused_and_begins_anew_with_force(
    config, interrupted, signalled, caplog
):
    other = replace(config, optimizer=replace(config.optimizer, lr=0.02))
    with pytest.raises(IncompatibleError, match=r"config/optimizer/lr was 0\.01, now 0\.02"):
        start(other, interrupted)
    caplog.clear()
    caplog.set_level("INFO")
    with pytest.raises(StoppedError):
        start(other, interrupted, show=signalled("SIGTERM"), force=True)
    assert "goes on" not in caplog.text
    start(other, interrupted)
    assert "goes on in epoch 1" in caplog.text
    assert read_train_config(interrupted.path(".config.json")).optimizer.lr == 0.02


def test_a_run_that_goes_on_says_its_new_options(config, interrupted):
    start(with_train(config, max_skipped_steps=3), interrupted)
    assert read_train_config(interrupted.path(".config.json")).train.max_skipped_steps == 3
    assert "train.max_skipped_steps = 3" in interrupted.path(".gin").read_text()


def test_interrupted_before_its_first_checkpoint_it_begins_anew(config, interrupted):
    interrupted.checkpoint().unlink()
    outcome = start(config, interrupted)
    assert outcome.epochs == 2


def test_trained_models_without_a_checkpoint_are_not_replaced(config, interrupted):
    interrupted.checkpoint().unlink()
    interrupted.path("_best.msgpack").write_bytes(b"of weeks")
    with pytest.raises(ConfigError, match="exists already"):
        start(config, interrupted)
    assert interrupted.path("_best.msgpack").read_bytes() == b"of weeks"


def test_data_that_changed_meanwhile_are_refused(config, interrupted, tmp_path, train_xyz):
    """The run would go on with what it converted, which is not what its data are now."""
    changed = tmp_path / "changed.xyz"
    changed.write_text(Path(train_xyz).read_text().replace("0.1", "0.2", 1))
    other = replace(config, datasets=replace(config.datasets, train_path=str(changed)))
    with pytest.raises(
        IncompatibleError, match=r"changed\.xyz: is not what .*train_0\.h5 was converted"
    ):
        start(other, interrupted)


def test_two_processes_do_not_train_the_same_run(config, interrupted):
    with (
        locked(interrupted),
        pytest.raises(ConfigError, match="another process trains 'run'; choose another --name"),
    ):
        start(config, interrupted)
    start(config, interrupted)
    assert not list(interrupted.folder.glob(".*.lock"))


def test_a_file_of_metrics_that_says_running_is_that_of_a_killed_run(config, interrupted):
    header, rows = read_metrics(interrupted.path(".metrics"))
    MetricsLog(interrupted.path(".metrics"), header["provenance"], rows)
    assert read_metrics(interrupted.path(".metrics"))[0]["status"] == "running"
    assert start(config, interrupted).epochs == 2


# --- resume_from


def test_a_checkpoint_that_is_not_there_is_named(config, files):
    with pytest.raises(ConfigError, match=r"none\.checkpoint: no such checkpoint"):
        start(with_train(config, resume_from="none.checkpoint"), files)
    assert not files.folder.exists()


def test_a_finished_run_is_trained_further(config, files, tmp_path):
    start(config, files)
    longer = with_epochs(with_train(config, resume_from=str(files.checkpoint())), 4)
    start(longer, files)
    whole = RunFiles(tmp_path / "whole", "run", reproducible=True)
    start(with_epochs(config, 4), whole)
    assert results(files) == results(whole)


def test_an_earlier_checkpoint_of_the_run_needs_force(config, files):
    config = with_train(config, checkpoint_every=1, checkpoint_keep=2)
    start(config, files)
    before = results(files)
    earlier = with_train(config, resume_from=str(files.checkpoint(".epoch_00001")))
    with pytest.raises(ConfigError, match="exists already"):
        start(earlier, files)
    start(earlier, files, force=True)
    assert results(files) == before


@pytest.mark.slow
def test_another_run_goes_on_from_a_checkpoint_and_after_an_interruption_from_its_own(
    make_config, tmp_path, signalled, caplog
):
    config = make_config(optimizer={"max_epochs": 1})
    first = RunFiles(tmp_path / "first", "run", reproducible=True)
    start(config, first)
    second = RunFiles(tmp_path / "second", "run", reproducible=True)
    longer = with_epochs(with_train(config, resume_from=str(first.checkpoint())), 3)
    with pytest.raises(StoppedError, match="in epoch 2"):
        start(longer, second, show=signalled("SIGTERM"))
    caplog.set_level("INFO", "mace_jax_train")
    start(longer, second)
    assert "second/run.checkpoint: the run was interrupted and goes on" in caplog.text
    whole = RunFiles(tmp_path / "whole", "run", reproducible=True)
    start(with_epochs(config, 3), whole)
    assert results(second) == results(whole)


def test_checkpoints_may_have_a_folder_of_their_own(config, files, tmp_path, signalled):
    apart = replace(files, checkpoint_folder=tmp_path / "scratch")
    with pytest.raises(StoppedError, match=r"scratch/run\.checkpoint"):
        start(config, apart, show=signalled("SIGTERM"))
    assert not list(files.folder.glob("*.checkpoint"))
    assert start(config, apart).epochs == 2
