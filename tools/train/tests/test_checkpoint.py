"""A run that is stopped anywhere and goes on ends with the same bytes as one that never stopped."""

import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import jax
import msgpack
import numpy as np
import pytest

from mace_jax.artifacts.checkpoint import read_checkpoint
from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.errors import ArtifactError, IncompatibleError, StoppedError
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.checkpoint import require_same_run, run_identity
from mace_jax_train.loop import train
from mace_jax_train.named_leaves import named_leaves, with_named_leaves
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import prepare_run

RESULTS = (".metrics", "_best.msgpack", "_last.msgpack")


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def long_config(make_config):
    return make_config(optimizer={"max_epochs": 2})


def begin(config, folder):
    files = RunFiles(folder, "run", reproducible=True)
    return prepare_run(config, files, track_silently), files


def results(files):
    return {suffix: files.path(suffix).read_bytes() for suffix in RESULTS}


@pytest.fixture(scope="module")
def uninterrupted(long_config, tmp_path_factory):
    """What a run leaves that nothing interrupts, and its outcome."""
    run, files = begin(long_config, tmp_path_factory.mktemp("uninterrupted"))
    assert len(run.loaders["train"]) >= 3
    assert len(run.loaders["valid"]) >= 2
    outcome = train(run, files, show_nothing)
    return results(files), outcome


def go_on_until_finished(run, files, show, expected):
    """Train again and again from the latest checkpoint; return how often it was stopped."""
    stops = 0
    while stops < 40:
        latest = files.checkpoint()
        try:
            train(run, files, show, latest if latest.exists() else None)
        except expected:
            stops += 1
        else:
            return stops
    pytest.fail("it makes no progress")


def test_stopped_by_a_signal_again_and_again(long_config, uninterrupted, tmp_path, signalled):
    run, files = begin(long_config, tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    stops = go_on_until_finished(run, files, signalled("SIGTERM"), StoppedError)
    assert signal.getsignal(signal.SIGTERM) is before
    assert stops >= 4
    assert results(files) == uninterrupted[0]


@pytest.mark.slow
def test_killed_at_every_step(long_config, uninterrupted, tmp_path):
    """With a checkpoint after every step, which changes nothing, each attempt gets one further."""
    config = replace(long_config, train=replace(long_config.train, checkpoint_steps=1))
    run, files = begin(config, tmp_path)

    @contextmanager
    def show(description, total, done=0):
        steps = iter(range(2))

        def advance(note):
            if next(steps) == 1:
                raise KilledError

        yield advance

    stops = go_on_until_finished(run, files, show, KilledError)
    assert stops == 2 * len(run.loaders["train"]) - 1
    assert results(files) == uninterrupted[0]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["valid", "test"])
def test_killed_in_every_evaluation(long_config, uninterrupted, tmp_path, split):
    """Each evaluation fails once, after its first batch, and once more by a signal."""
    run, files = begin(long_config, tmp_path)
    loader = run.loaders[split]
    attempts = []

    class Fragile(type(loader)):
        def __init__(self):
            vars(self).update(vars(loader))

        def in_order(self):
            attempts.append(None)
            for number, item in enumerate(loader.in_order()):
                if number == 1 and len(attempts) % 3 == 1:
                    raise KilledError
                if number == 1 and len(attempts) % 3 == 2:
                    os.kill(os.getpid(), signal.SIGUSR1)
                yield item

    run.loaders[split] = Fragile()
    n_evaluations = {"valid": 3, "test": 1}[split]
    stops = go_on_until_finished(run, files, show_nothing, (KilledError, StoppedError))
    assert (stops, len(attempts)) == (2 * n_evaluations, 3 * n_evaluations)
    assert results(files) == uninterrupted[0]


METHODS = {
    "two stages": {
        "optimizer": {"accumulate": 3, "scheduler": {"name": "reduce_on_plateau", "patience": 1}},
        "train": {"swa_config": {"start_interval": 1, "min_snapshots_for_eval": 2}},
    },
    "schedulefree": {
        "optimizer": {"algorithm": "schedulefree", "scheduler": {"name": "exponential_decay"}},
        "train": {"ema_decay": None},
    },
    "frozen parts": {
        "optimizer": {"accumulate": 3, "freeze": ["interactions"], "lr_factors": {"readouts": 2.0}},
        "train": {"swa_config": {"start_interval": 1}},
    },
    "adapters": {
        "optimizer": {"algorithm": "schedulefree", "freeze": ["embedding"], "lora": {"rank": 2}},
        "train": {"ema_decay": None},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_state_is_kept(make_config, tmp_path, name):
    """Killed inside groups of batches, between epochs, and before the test, in stage two."""
    sections = METHODS[name]
    optimizer = sections["optimizer"] | {"max_epochs": 3}
    config = make_config(optimizer=optimizer, train=sections["train"])
    whole = begin(config, tmp_path / "whole")
    train(*whole, show_nothing)
    config = replace(config, train=replace(config.train, checkpoint_steps=1))
    run, files = begin(config, tmp_path / "killed")
    test, unharmed = run.loaders["test"], []

    class FragileOnce(type(test)):
        def __init__(self):
            vars(self).update(vars(test))

        def in_order(self):
            if not unharmed:
                unharmed.append(True)
                raise KilledError
            return test.in_order()

    run.loaders["test"] = FragileOnce()

    @contextmanager
    def show(description, total, done=0):
        steps = iter(range(total))

        def advance(note):
            if next(steps) == 5:
                raise KilledError

        yield advance

    stops = go_on_until_finished(run, files, show, KilledError)
    assert stops == 1 + (3 * len(run.loaders["train"]) - 1) // 5
    assert results(files) == results(whole[1])


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_signal_ends_the_run_with_a_message(make_config, prepare, number, code, signalled):
    run, files = prepare(make_config())
    message = (
        rf"run\.checkpoint: stopped by {number} in epoch 1, after 2 of \d+ batches; run the same "
        "command again to go on"
    )
    with pytest.raises(StoppedError, match=message) as stopped:
        train(run, files, signalled(number))
    assert stopped.value.exit_code == code
    assert read_metrics(files.path(".metrics"))[0]["status"] == "stopped"
    found = read_checkpoint(files.checkpoint())
    assert (found.epoch, found.batch) == (1, 2)


def test_a_second_signal_ends_it_at_once(make_config, prepare):
    run, files = prepare(make_config())

    @contextmanager
    def show(description, total, done=0):
        def advance(note):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        yield advance

    with pytest.raises(KeyboardInterrupt):
        train(run, files, show)
    assert read_checkpoint(files.checkpoint()).epoch == 1


def test_each_row_is_there_once(uninterrupted, tmp_path):
    path = tmp_path / "run.metrics"
    path.write_bytes(uninterrupted[0][".metrics"])
    _, rows = read_metrics(path)
    keys = [(row["mode"], row["epoch"]) for row in rows]
    assert len(keys) == len(set(keys))
    assert keys[-1] == ("eval_test", uninterrupted[1].best_row["epoch"])


def test_more_epochs_in_another_run_are_those_of_a_longer_run(
    make_config, uninterrupted, long_config, tmp_path
):
    short = replace(long_config, optimizer=replace(long_config.optimizer, max_epochs=1))
    run, files = begin(short, tmp_path / "short")
    train(run, files, show_nothing)
    run, longer = begin(long_config, tmp_path / "long")
    train(run, longer, show_nothing, files.checkpoint())
    assert results(longer) == uninterrupted[0]


@pytest.fixture(scope="module")
def saved(make_config, tmp_path_factory):
    """A run of one epoch and its checkpoint."""
    run, files = begin(make_config(optimizer={"max_epochs": 1}), tmp_path_factory.mktemp("saved"))
    train(run, files, show_nothing)
    return run, files.checkpoint()


def test_what_is_kept(make_config, prepare):
    config = make_config(
        optimizer={"max_epochs": 7},
        train={"checkpoint_every": 2, "checkpoint_keep": 2, "checkpoint_best": True},
    )
    run, files = prepare(config)
    outcome = train(run, files, show_nothing)
    names = sorted(path.name for path in files.folder.glob("*.checkpoint"))
    kept = [f"run.epoch_0000{epoch}.checkpoint" for epoch in (4, 6)]
    assert names == ["run.best.checkpoint", "run.checkpoint", *kept]
    epochs = {name: read_checkpoint(files.folder / name).epoch for name in names}
    best = outcome.best_row["epoch"]
    assert list(epochs.values()) == [best + 1, 8, 5, 7]
    assert {path.name for path in files.checkpoints()} == set(names)


def test_a_checkpoint_inside_an_epoch(make_config, prepare):
    run, files = prepare(make_config(train={"checkpoint_steps": 1}))

    @contextmanager
    def show(description, total, done=0):
        steps = iter(range(total))

        def advance(note):
            if next(steps) == 1:
                raise KilledError

        yield advance

    with pytest.raises(KilledError):
        train(run, files, show)
    found = read_checkpoint(files.checkpoint())
    assert (found.epoch, found.batch) == (1, 1)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"optimizer": {"lr": 0.02}}, "config/optimizer/lr was 0.01, now 0.02"),
        ({"flags": {"seed": 1}}, "config/flags/seed was 0, now 1"),
        ({"loss": {"forces_weight": 10.0}}, "config/loss/forces_weight was 100.0, now 10.0"),
        ({"model": {"hidden_irreps": "5x0e"}}, "hidden_irreps was '4x0e', now '5x0e'"),
        ({"datasets": {"n_edge": 25}}, "data/train/plan was"),
        ({"datasets": {"valid_path": None}}, r"data/valid/datasets was \[.*\], now None"),
        ({"train": {"ema_decay": None}}, "config/train/ema_decay was 0.99, now None"),
    ],
)
def test_another_run_is_refused_and_what_differs_named(
    saved, make_config, prepare, sections, named
):
    _, checkpoint = saved
    run, files = prepare(make_config(**sections))
    with pytest.raises(IncompatibleError, match=rf"run\.checkpoint: .*{named}.*--force"):
        train(run, files, show_nothing, checkpoint)
    assert not files.path(".metrics").exists()


def test_other_data_are_refused(saved, make_config, data, prepare):
    _, checkpoint = saved
    run, files = prepare(make_config(datasets={"train_path": data["valid_path"]}))
    with pytest.raises(IncompatibleError, match=r"data/train/datasets was \['[0-9a-f]{64}'\]"):
        train(run, files, show_nothing, checkpoint)


@pytest.mark.parametrize(
    "sections",
    [
        {"logs": {"level": "ERROR", "name": "other"}},
        {"wandb_run": {"project": "p"}},
        {"train": {"log_errors": "TotalMAE", "checkpoint_steps": 3, "max_skipped_steps": 2}},
        {"datasets": {"num_workers": 2}},
        {"optimizer": {"max_epochs": 9}},
        {"flags": {"device": "cpu"}},
    ],
    ids=str,
)
def test_what_cannot_change_results_may_differ(saved, make_config, sections):
    run, checkpoint = saved
    other = replace(run, config=make_config(**sections))
    assert other.config != run.config
    require_same_run(read_checkpoint(checkpoint).identity, run_identity(other), checkpoint)


def test_epochs_count_where_the_schedule_depends_on_them(make_config, saved):
    run, checkpoint = saved
    scheduler = {"name": "warmup_cosine_decay"}
    one, two = (
        run_identity(
            replace(run, config=make_config(optimizer={"max_epochs": n, "scheduler": scheduler}))
        )
        for n in (3, 4)
    )
    with pytest.raises(IncompatibleError, match="config/optimizer/max_epochs was 3, now 4"):
        require_same_run(one, two, checkpoint)


def test_a_truncated_or_changed_checkpoint_is_refused(saved, tmp_path):
    _, checkpoint = saved
    content = checkpoint.read_bytes()
    path = tmp_path / "run.checkpoint"
    for length in np.linspace(0, len(content) - 1, 12).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"run\.checkpoint: "):
            read_checkpoint(path)
    for place in np.linspace(0, len(content) - 1, 40).astype(int):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ArtifactError, match=r"run\.checkpoint: "):
            read_checkpoint(path)


def test_another_kind_and_a_newer_version_are_refused(saved, tmp_path):
    _, checkpoint = saved
    with pytest.raises(ArtifactError, match="kind 'model_bundle', expected 'checkpoint'"):
        read_checkpoint(checkpoint.with_name("run_best.msgpack"))
    with pytest.raises(ArtifactError, match="kind 'checkpoint', expected 'model_bundle'"):
        read_model_bundle(checkpoint)
    document = msgpack.unpackb(checkpoint.read_bytes())
    document["header"]["schema"]["version"] = 2
    path = tmp_path / "newer.checkpoint"
    path.write_bytes(msgpack.packb(document))
    with pytest.raises(ArtifactError, match="version 2, expected at most 1; upgrade"):
        read_checkpoint(path)


def test_arrays_of_another_form_are_refused():
    form = {"a": np.zeros(3, np.float32), "b": (np.zeros((), np.int32), np.zeros(2, bool))}
    leaves = named_leaves(
        {"a": np.ones(3, np.float32), "b": (np.int32(7), np.array([True, False]))}
    )
    assert sorted(leaves) == ["a", "b/0", "b/1"]
    found = with_named_leaves(form, leaves, "c")
    assert jax.tree.structure(found) == jax.tree.structure(form)
    assert (int(found["b"][0]), found["a"].tolist()) == (7, [1.0] * 3)
    for changed, message in (
        ({"a": leaves["a"]}, "c/b/0: missing"),
        ({**leaves, "z": leaves["a"]}, "c/z: not part of"),
        ({**leaves, "a": leaves["a"][:2]}, r"c/a: float32 \(2,\), expected float32 \(3,\)"),
        ({**leaves, "a": leaves["a"].astype("f8")}, r"c/a: float64 \(3,\), expected float32"),
    ):
        with pytest.raises(ArtifactError, match=message):
            with_named_leaves(form, changed, "c")
