"""Reports to Weights & Biases, with a package of that name that keeps what it is told."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from mace_jax.errors import ConfigError
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.reports import report_of
from mace_jax_train.wandb_run import require_wandb, tracker

TRAIN = {"mode": "train", "head": "Default", "epoch": 2, "loss": 1.5, "rmse_s": None, "time": 2.0}
VALID = {"mode": "valid", "head": "surface", "epoch": 2, "loss": 0.5, "rmse_f": 0.25, "time": 1.0}


class FakeRun:
    """Keeps what is logged; fails at the steps that it is told to."""

    def __init__(self, settings):
        self.settings, self.logged, self.ended, self.bad_steps = settings, [], None, ()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        self.ended = "failed" if error else "finished"

    def log(self, values, step):
        if step in self.bad_steps:
            message = "no\nconnection."
            raise RuntimeError(message)
        self.logged.append((step, values))


class FakeWandb(ModuleType):
    """The part of the package that is used; ``refuses`` has the errors that ``init`` raises."""

    def __init__(self):
        super().__init__("wandb")
        error = type("Error", (Exception,), {})
        self.errors = SimpleNamespace(
            Error=error,
            CommError=type("CommError", (error,), {}),
            UsageError=type("UsageError", (error,), {}),
        )
        self.Settings = lambda **settings: settings
        self.runs, self.refuses = [], []
        self.__spec__ = SimpleNamespace()

    def init(self, **settings):
        if self.refuses:
            raise self.refuses.pop()
        self.runs.append(FakeRun(settings))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def config(tmp_path):
    def make(**wandb_run):
        sections = {
            "datasets": {"train_path": "train.h5"},
            "logs": {"directory": str(tmp_path / "results")},
            "wandb_run": {"enabled": True, **wandb_run},
        }
        return load_train_config([], [], sections)

    return make


def test_what_is_reported_of_an_epoch():
    assert report_of([TRAIN, VALID]) == {
        "epoch": 2,
        "interval": 2,
        "train/loss": 1.5,
        "valid:surface/loss": 0.5,
        "valid:surface/rmse_f": 0.25,
        "timing/train_seconds": 2.0,
        "timing/eval_seconds": 1.0,
        "timing/interval_seconds": 3.0,
    }


def test_a_run_is_reported_with_its_tag_and_configuration(wandb, config, tmp_path):
    settings = config(project="aspirin", tags=("a", "b"), mode="offline")
    with tracker(settings, "20260101_run", {"n_parameters": 7}) as report:
        report([TRAIN, VALID])
        report([{**TRAIN, "epoch": 3}])
    (run,) = wandb.runs
    assert run.ended == "finished"
    assert [step for step, _ in run.logged] == [2, 3]
    assert run.logged[0][1] == report_of([TRAIN, VALID])
    reported = run.settings.pop("config")
    assert reported["n_parameters"] == 7
    assert reported["optimizer"]["lr"] == settings.optimizer.lr
    assert run.settings == {
        "name": "20260101_run",
        "dir": str(tmp_path / "results"),
        "project": "aspirin",
        "tags": ("a", "b"),
        "mode": "offline",
        "settings": {"console": "off"},
    }
    assert (tmp_path / "results").is_dir()


def test_every_setting_is_handed_on(wandb, config, tmp_path):
    given = {name: name for name in ("project", "entity", "group", "name", "notes")}
    given |= {"mode": "disabled", "dir": str(tmp_path / "elsewhere"), "tags": ("t",)}
    with tracker(config(**given), "tag"):
        pass
    assert given.items() <= wandb.runs[0].settings.items()


def test_nothing_is_reported_unless_it_is_asked_for(wandb, config):
    with tracker(config(enabled=False), "tag") as report:
        report([TRAIN])
    assert not wandb.runs


def test_a_run_that_fails_is_reported_as_failed(wandb, config):
    with pytest.raises(ZeroDivisionError), tracker(config(), "tag"):
        raise ZeroDivisionError
    assert wandb.runs[0].ended == "failed"


def test_a_report_that_fails_does_not_stop_the_run(wandb, config, caplog):
    with tracker(config(), "tag") as report:
        wandb.runs[0].bad_steps = (2,)
        report([TRAIN])
        report([{**TRAIN, "epoch": 3}])
    assert [step for step, _ in wandb.runs[0].logged] == [3]
    assert caplog.messages == ["wandb: no connection; this report is lost, the run goes on"]


def test_reports_are_kept_where_the_server_cannot_be_reached(wandb, config, caplog):
    wandb.refuses = [wandb.errors.CommError("timed\nout.")]
    with tracker(config(mode="online"), "tag") as report:
        report([TRAIN])
    (run,) = wandb.runs
    assert (run.settings["mode"], len(run.logged)) == ("offline", 1)
    assert "wandb: timed out; the reports are kept in" in caplog.text


def test_nobody_logged_in_is_an_error_before_anything_starts(wandb, config):
    wandb.refuses = [wandb.errors.UsageError("No API key configured.")]
    with (
        pytest.raises(ConfigError, match="No API key configured; run wandb login, or give --wandb"),
        tracker(config(), "tag"),
    ):
        pytest.fail("started")


def test_a_missing_package_is_an_error_that_says_what_to_install(monkeypatch, config):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        require_wandb(config().wandb_run)
    require_wandb(config(enabled=False).wandb_run)
