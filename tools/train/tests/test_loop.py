"""Whole runs of a tiny network: what they write, when they stop, and that they repeat."""

import logging
import math
import multiprocessing
import re
import shutil
from contextlib import closing, contextmanager

import h5py
import jax
import numpy as np
import pytest

from mace_jax.artifacts.metrics import read_metrics
from mace_jax.artifacts.model_bundle import read_model_bundle
from mace_jax.batching.loader import PlannedLoader
from mace_jax.errors import ConfigError, DataError, DivergedError
from mace_jax.model.load import load_model, parameter_table, split_trainable
from mace_jax.structures.structure import Structure
from mace_jax.tracking import show_nothing, track_silently
from mace_jax_train.best_rule import BestRule
from mace_jax_train.error_metrics import metrics
from mace_jax_train.loop import train
from mace_jax_train.method import make_method
from mace_jax_train.progress import Progress
from mace_jax_train.run_files import RunFiles
from mace_jax_train.start import prepare_run

EPOCHS = 3


class Compilations(logging.Handler):
    """Collects the names of compiled functions."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith("Compiling "):
            self.names.append(message.split()[1].removeprefix("jit(").removesuffix(")"))


@pytest.fixture(scope="module")
def run_once(tmp_path_factory, make_config):
    """Return a function that trains with a seed: (files, outcome, names of what was compiled)."""

    def run(seed: int):
        files = RunFiles(tmp_path_factory.mktemp("run"), "run")
        ready = prepare_run(make_config(flags={"seed": seed}), files, track_silently)
        assert len(ready.loaders["train"]) > 1
        assert len(ready.loaders["valid"]) > 1
        compiled = Compilations()
        logger = logging.getLogger("jax._src.interpreters.pxla")
        logger.addHandler(compiled)
        propagate, logger.propagate = logger.propagate, False
        try:
            with jax.log_compiles():
                outcome = train(ready, files, show_nothing)
        finally:
            logger.removeHandler(compiled)
            logger.propagate = propagate
        return files, outcome, compiled.names

    return run


@pytest.fixture(scope="module")
def first(run_once):
    return run_once(0)


CONSTANTS = {"radial_embedding/bessel_fn/bessel_weights"}


def parameters_of(files, suffix):
    return read_model_bundle(files.path(suffix)).parameters


def test_files_of_a_run(first):
    files, outcome, _ = first
    header, rows = read_metrics(files.path(".metrics"))
    assert header["status"] == "finished"
    modes = [(row["mode"], row["epoch"]) for row in rows]
    evaluations = [(mode, epoch) for epoch in range(1, EPOCHS + 1) for mode in ("train", "valid")]
    best_epoch = outcome.best_row["epoch"]
    assert modes == [("valid", 0), *evaluations, ("eval_test", best_epoch)]
    losses = {row["epoch"]: row["loss"] for row in rows if row["mode"] == "valid"}
    assert outcome.best_row["loss"] == min(losses[epoch] for epoch in range(1, EPOCHS + 1))
    assert losses[outcome.best_row["epoch"]] == outcome.best_row["loss"]
    assert outcome.test_row == rows[-1]
    assert rows[0]["loss"] > losses[EPOCHS]  # it learns
    assert (rows[0]["n_updates"], rows[0]["lr"]) == (0, None)
    best = read_model_bundle(outcome.best)
    assert best.model_card["metrics"]["loss"] == outcome.best_row["loss"]
    assert best.scale["Default"] == pytest.approx(best.scale["Default"]) != 1.0


def test_what_an_epoch_says_of_its_steps(first, by_hand):
    """Counts, padding and the mean gradient norm, from the batches of the epoch one by one."""
    files, *_ = first
    run, _, _, norms = by_hand
    loader = run.loaders["train"]
    _, rows = read_metrics(files.path(".metrics"))
    for row in (row for row in rows if row["mode"] == "train"):
        batches = [batch for _, batch in loader.epoch(run.config.flags.seed, row["epoch"])]
        assert row["n_updates"] == row["epoch"] * len(loader)
        assert row["edge_padding"] == pytest.approx(
            1 - np.mean(np.concatenate([batch.pair_mask for batch in batches]))
        )
        assert 0 < row["edge_padding"] < 1
        assert row["gradient_norm"] == pytest.approx(np.mean(norms[row["epoch"] - 1]), rel=1e-5)
        assert row["graphs_per_second"] == pytest.approx(12 / row["time"])
        assert (row["lr"], row["n_skipped"]) == (pytest.approx(run.config.optimizer.lr), 0)


def test_steps_are_compiled_once(first):
    """Once for each shape and mode, and the metrics say so; validation and test share a shape."""
    files, _, compiled = first
    assert compiled.count("train_step") == 1
    assert compiled.count("eval_step") == 1
    _, rows = read_metrics(files.path(".metrics"))
    assert [row["n_compilations"] for row in rows] == [1, *[2] * (len(rows) - 1)]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(first, run_once):
    again, _, _ = run_once(0)
    for suffix in ("_best.msgpack", "_last.msgpack"):
        one, two = parameters_of(first[0], suffix), parameters_of(again, suffix)
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    other, _, _ = run_once(1)
    three = parameters_of(other, "_last.msgpack")
    assert {name for name in one if (one[name] == three[name]).all()} == CONSTANTS


@pytest.mark.slow
def test_workers_change_no_bit_and_find_data_that_have_been_moved(make_config, tmp_path, train_xyz):
    """What was prepared in a temporary folder is where it belongs when the workers open it."""
    files = RunFiles(tmp_path / "run", "run")
    found = []
    for n_workers in (0, 2):
        config = make_config(datasets={"train_path": train_xyz, "num_workers": n_workers})
        with files.staged() as staged:
            run = prepare_run(config, staged, track_silently)
        with closing(run):
            train(run, files, show_nothing)
        found.append(parameters_of(files, "_last.msgpack"))
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])
    assert not multiprocessing.active_children()


@pytest.fixture(scope="module")
def by_hand(make_config, tmp_path_factory):
    """Parameters of every step, averages and gradient norms of every epoch, from the method."""
    files = RunFiles(tmp_path_factory.mktemp("by_hand"), "run")
    run = prepare_run(make_config(), files, track_silently)
    network, parameters = split_trainable(run.model)
    method = make_method(run.config, network, len(run.loaders["train"]))
    state = method.initial_state(parameters)
    steps, epochs, norms = [parameter_table(state.parameters)], [], []
    for epoch in range(1, EPOCHS + 1):
        norms.append([])
        state = method.begin_epoch(state, epoch)
        for _, batch in run.loaders["train"].epoch(run.config.flags.seed, epoch):
            state, report = method.train_step(state, batch)
            norms[-1].append(float(report.gradient_norm))
            steps.append({k: v.copy() for k, v in parameter_table(state.parameters).items()})
        state = method.end_epoch(state, epoch)
        epochs.append({k: v.copy() for k, v in parameter_table(method.evaluated(state)).items()})
    assert method.n_compilations == 1
    return run, steps, epochs, norms


def test_the_average_warms_up(by_hand):
    """The decay of step n is min(0.99, (1 + n) / (10 + n)), as in torch_ema."""
    run, steps, epochs, _ = by_hand
    assert run.config.train.ema_decay == 0.99
    expected = {name: value.astype(np.float64) for name, value in steps[0].items()}
    for n, parameters in enumerate(steps[1:], start=1):
        decay = min(0.99, (1 + n) / (10 + n))
        for name, value in parameters.items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in expected.items():
        np.testing.assert_allclose(epochs[-1][name], value, rtol=1e-4, atol=1e-6)
        assert np.abs(epochs[-1][name] - steps[-1][name]).max() > 1e-4


def test_the_best_bundle_holds_the_average_of_the_best_epoch(first, by_hand):
    files, outcome, _ = first
    _, _, epochs, _ = by_hand
    for suffix, epoch in (("_best.msgpack", outcome.best_row["epoch"]), ("_last.msgpack", EPOCHS)):
        parameters = parameters_of(files, suffix)
        assert parameters.keys() - epochs[epoch - 1].keys() == CONSTANTS
        for name, value in epochs[epoch - 1].items():
            np.testing.assert_array_equal(parameters[name], value)


def test_defect_4_the_best_bundle_has_the_loss_it_claims(first, by_hand):
    _, outcome, _ = first
    run, *_ = by_hand
    bundle = read_model_bundle(outcome.best)
    network, parameters = split_trainable(load_model(bundle, "best"))
    evaluate = make_method(run.config, network, 1).eval_step
    for split, row in (("valid", outcome.best_row), ("test", outcome.test_row)):
        errors = [evaluate(parameters, batch) for _, batch in run.loaders[split].in_order()]
        found = metrics(jax.device_get(errors))
        for name in ("loss", "mae_e", "rmse_f"):
            assert found[name] == pytest.approx(row[name], rel=1e-5)


ARCHITECTURES = {
    "density": {
        "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
        "radial_type": "gaussian",
        "distance_transform": "Agnesi",
        "pair_repulsion": True,
        "use_reduced_cg": True,
    },
    "non-linear": {
        "interaction_cls_first": "RealAgnosticResidualNonLinearInteractionBlock",
        "num_interactions": 2,
        "correlation": (1, 2),
        "apply_cutoff": False,
        "readout_cls": "NonLinearBiasReadoutBlock",
        "use_last_readout_only": True,
        "use_agnostic_product": True,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_another_architecture_learns_and_keeps_its_constants(make_config, prepare, name):
    config = make_config(
        model=ARCHITECTURES[name],
        datasets={"valid_path": None, "test_path": None},
        optimizer={"max_epochs": 4},
    )
    run, files = prepare(config)
    before = dict(run.bundle.parameters)
    trained = parameter_table(split_trainable(run.model)[1])
    outcome = train(run, files, show_nothing)
    best = read_model_bundle(outcome.best)
    for field, value in ARCHITECTURES[name].items():
        assert getattr(best.config, field) == value
    assert best.parameters.keys() == before.keys()
    unchanged = {path for path, array in before.items() if (best.parameters[path] == array).all()}
    assert before.keys() - trained.keys() <= unchanged
    assert len(unchanged & trained.keys()) <= 2  # weights of what no data have
    _, rows = read_metrics(files.path(".metrics"))
    losses = [row["loss"] for row in rows if row["mode"] == "train"]
    assert losses[-1] < losses[0]


def test_patience(make_config, prepare):
    """With a step too small to change anything no evaluation beats the first."""
    config = make_config(
        optimizer={"lr": 1e-30, "max_epochs": 50}, train={"ema_decay": None, "patience": 2}
    )
    run, files = prepare(config)
    outcome = train(run, files, show_nothing)
    assert (outcome.epochs, outcome.best_row["epoch"]) == (3, 1)
    header, rows = read_metrics(files.path(".metrics"))
    assert header["status"] == "finished"
    assert max(row["epoch"] for row in rows) == 3


@pytest.fixture
def spoiled(make_config, prepare):
    """Return a function that makes a run in which the energy of structure 0 turns NaN in epoch 2.

    It returns the run, its files, and the batch of the structure.
    """

    def make(**train):
        config = make_config(optimizer={"max_epochs": 4}, train=train)
        run, files = prepare(config)
        loader = run.loaders["train"]

        class Spoiled(PlannedLoader):
            epochs = 0

            def resume(self, seed, cursor):
                self.epochs += 1
                return super().resume(seed, cursor)

        def graphs(ids):
            found = loader.graphs(ids)
            if 0 in ids and run.loaders["train"].epochs == 2:
                at = list(ids).index(0)
                found[at] = found[at]._replace(interaction_energy=np.nan)
            return found

        places = loader.graphs.places
        run.loaders["train"] = Spoiled(graphs, loader.plan, "float32", places=places)
        (index,) = (i for i, batch in enumerate(loader.plan.batches) if 0 in batch)
        return run, files, index

    return make


def test_defect_14_a_step_that_is_not_finite_stops_the_run_and_keeps_the_best(spoiled):
    run, files, index = spoiled()
    place = rf"^epoch 2: batch {index}: loss nan.*config_0(, \S+)* of \S+/train\.h5"
    with pytest.raises(DivergedError, match=place + r".*optimizer\.lr"):
        train(run, files, show_nothing)
    best = read_model_bundle(files.path("_best.msgpack"))
    assert best.model_card["metrics"]["epoch"] == 1
    header, rows = read_metrics(files.path(".metrics"))
    assert header["status"] == "stopped"
    assert {row["epoch"] for row in rows} == {0, 1}


def test_a_bounded_number_of_steps_may_be_skipped(spoiled, caplog):
    """The epoch is that of the other batches, and everything stays finite."""
    run, files, index = spoiled(max_skipped_steps=1)
    outcome = train(run, files, show_nothing)
    assert outcome.epochs == 4
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith(f"epoch 2: batch {index}: loss nan")
    assert warning.endswith("skipped, 1 of at most 1")
    _, rows = read_metrics(files.path(".metrics"))
    skipped = {row["epoch"]: row["n_skipped"] for row in rows if row["mode"] == "train"}
    assert skipped == {1: 0, 2: 1, 3: 1, 4: 1}
    assert all(np.isfinite(row["loss"]) for row in rows)
    updates = [row["n_updates"] for row in rows if row["mode"] == "train"]
    assert np.diff(updates).tolist() == [len(run.loaders["train"]) - (e == 2) for e in (2, 3, 4)]


def test_an_evaluation_that_is_not_finite_is_not_saved(make_config, prepare):
    config = make_config(optimizer={"lr": 1e30}, train={"max_grad_norm": None, "ema_decay": None})
    run, files = prepare(config)
    with pytest.raises(DivergedError, match=r"batch \d+: loss .*lower optimizer\.lr"):
        train(run, files, show_nothing)
    assert not files.path("_best.msgpack").exists()
    assert not files.path("_last.msgpack").exists()


def test_evaluations_between_epochs_are_skipped(make_config, prepare):
    config = make_config(optimizer={"max_epochs": 5}, train={"eval_interval": 2})
    run, files = prepare(config)
    train(run, files, show_nothing)
    _, rows = read_metrics(files.path(".metrics"))
    assert [row["epoch"] for row in rows if row["mode"] == "train"] == [1, 2, 3, 4, 5]
    assert [row["epoch"] for row in rows if row["mode"] == "valid"] == [0, 2, 4, 5]


@pytest.mark.parametrize("label", ["energy", "forces"])
def test_a_label_that_is_not_a_number_is_named(make_config, prepare, tmp_path, data, label):
    path = tmp_path / "bad.h5"
    shutil.copy(data["train_path"], path)
    with h5py.File(path, "r+") as file:
        item = file["config_batch_0/config_4/properties"][label]
        bad = np.array(item)
        bad[(0,) * item.ndim] = np.nan
        item[...] = bad
    with pytest.raises(DataError, match=rf"bad\.h5: .*config_4: {label} .*nan"):
        prepare(make_config(datasets={"train_path": str(path)}))


def test_a_term_without_any_label_is_refused(make_config, prepare):
    with pytest.raises(DataError, match=r"stress found in 0 of 12 structures.*stress_weight"):
        prepare(make_config(loss={"stress_weight": 1.0}))


def test_isolated_structures_train(make_config, prepare, tmp_path, data):
    """A dataset with atoms that have no neighbours gives finite gradients."""
    from mace_jax.artifacts.dataset import Dataset, write_dataset_file
    from mace_jax.artifacts.provenance import make_provenance

    with Dataset(data["train_path"]) as dataset:
        structures = list(dataset)[:3]
    labels = {"energy": np.array(-13.6), "forces": np.zeros((1, 3))}
    atom = Structure(
        np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool), labels
    )
    path = tmp_path / "atoms.h5"
    write_dataset_file(path, [*structures, atom], make_provenance("mace-jax-preprocess", []))
    config = make_config(
        datasets={"train_path": str(path), "valid_path": None, "test_path": None},
        optimizer={"max_epochs": 2},
    )
    run, files = prepare(config)
    outcome = train(run, files, show_nothing)
    assert np.isfinite(outcome.best_row["loss"])


# --- what is evaluated, what is best, and when it ends


def rows_of(files):
    return read_metrics(files.path(".metrics"))[1]


def test_everything_may_be_evaluated_at_every_evaluation(make_config, prepare, caplog):
    """The test row of the best epoch is there already, and the end adds none."""
    caplog.set_level("INFO", "mace_jax_train")
    shown = {"eval_train": True, "eval_test": True, "log_errors": "TotalMAE"}
    run, files = prepare(make_config(train=shown))
    outcome = train(run, files, show_nothing)
    assert "MAE E" in caplog.text
    assert "RMSE" not in caplog.text
    modes = ("valid", "eval_train", "eval_test")
    keys = [(row["mode"], row["epoch"]) for row in rows_of(files)]
    each = [(mode, epoch) for epoch in (1, 2, 3) for mode in ("train", *modes)]
    assert keys == [*((mode, 0) for mode in modes), *each]
    assert outcome.test_row in rows_of(files)
    assert outcome.test_row["epoch"] == outcome.best_row["epoch"]


def test_without_validation_data_the_training_data_decide(make_config, prepare):
    """Evaluated with the weights that are saved, which is not what the steps found."""
    datasets = {"valid_path": None, "test_path": None}
    run, files = prepare(make_config(datasets=datasets, train={"ema_decay": None}))
    outcome = train(run, files, show_nothing)
    assert outcome.best_row["mode"] == "eval_train"
    losses = {row["mode"]: row["loss"] for row in rows_of(files) if row["epoch"] == 3}
    assert losses.keys() == {"train", "eval_train"}
    assert losses["train"] != losses["eval_train"] == outcome.best_row["loss"]


@pytest.mark.slow
def test_the_best_is_by_the_metric_that_is_named(make_config, prepare):
    """With a step that is too long the two metrics disagree on the best epoch."""
    found = {}
    for metric in ("rmse_e_per_atom", "rmse_f"):
        config = make_config(
            optimizer={"max_epochs": 8, "lr": 0.1},
            train={"best_metric": metric, "ema_decay": None, "patience": 8},
        )
        run, files = prepare(config)
        outcome = train(run, files, show_nothing)
        values = {r["epoch"]: r[metric] for r in rows_of(files) if r["mode"] == "valid"}
        del values[0]
        assert outcome.best_row[metric] == min(values.values())
        best = read_model_bundle(files.path("_best.msgpack"))
        assert best.model_card["metrics"]["epoch"] == min(values, key=values.get)
        found[metric] = outcome.best_row["epoch"]
    assert found["rmse_e_per_atom"] != found["rmse_f"]


@pytest.mark.parametrize("metric", ["rmse_forces", "rmse_stress", "time", "epoch"])
def test_a_metric_that_is_not_found_cannot_be_the_best(make_config, prepare, metric):
    """Unknown, without labels, or no metric: said before the first step."""
    run, files = prepare(make_config(train={"best_metric": metric}))
    with pytest.raises(
        ConfigError, match=rf"^train\.best_metric: '{metric}' .*one of loss, mae_e,"
    ):
        train(run, files, show_nothing)
    assert rows_of(files) == []


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_defect_14_what_is_not_a_number_is_never_the_best(value):
    progress, rule = Progress(state=None), BestRule("loss", {"Default": 1.0})

    def row(epoch, loss):
        return {"mode": "valid", "head": "Default", "epoch": epoch, "loss": loss}

    assert not progress.judge([row(1, value)], rule, {})
    assert progress.judge([row(2, 2.0)], rule, {})
    assert not progress.judge([row(3, value)], rule, {})
    assert (progress.best.row, progress.waited) == (row(2, 2.0), 1)


STAGES = {"swa_config": {"start_interval": 3}, "ema_decay": None}


@pytest.mark.slow
def test_stage_two_has_a_best_of_its_own_and_that_of_stage_one_is_kept(make_config, prepare):
    run, files = prepare(make_config(optimizer={"max_epochs": 5}, train=STAGES))
    outcome = train(run, files, show_nothing)
    assert outcome.best_row["epoch"] > 3
    one = read_model_bundle(files.path("_stage_one.msgpack")).model_card["metrics"]
    losses = {r["epoch"]: r["loss"] for r in rows_of(files) if r["mode"] == "valid"}
    assert one["epoch"] == min((1, 2, 3), key=losses.get)
    assert outcome.best_row["epoch"] == min((4, 5), key=losses.get)


@pytest.mark.slow
def test_impatience_in_stage_one_leads_to_stage_two_and_there_to_the_end(make_config, prepare):
    """With a step too small to change anything each stage ends after its first two evaluations."""
    config = make_config(
        optimizer={"lr": 1e-30, "max_epochs": 50},
        train={
            "ema_decay": None,
            "patience": 1,
            "swa_config": {"start_interval": 30, "lr": 1e-30},
        },
    )
    run, files = prepare(config)
    outcome = train(run, files, show_nothing)
    epochs = [row["epoch"] for row in rows_of(files) if row["mode"] == "valid"]
    assert epochs == [0, 1, 2, 31, 32]
    assert (outcome.epochs, outcome.best_row["epoch"]) == (32, 31)


def test_epochs_of_few_batches_go_on_where_the_last_ended(make_config, prepare):
    """Two epochs of half the batches visit what one epoch of all does, in the same order."""
    whole, _ = prepare(make_config())
    n = len(whole.loaders["train"])
    assert n == 4
    run, files = prepare(make_config(datasets={"max_batches": 2}, optimizer={"max_epochs": 2}))
    loader = run.loaders["train"]
    assert len(loader) == 2
    halves = [index for epoch in (1, 2) for index, _ in loader.epoch(0, epoch)]
    assert halves == [index for index, _ in whole.loaders["train"].epoch(0, 1)]
    train(run, files, show_nothing)
    assert [row["n_updates"] for row in rows_of(files) if row["mode"] == "train"] == [2, 4]


def test_the_progress_says_how_fast_and_how_well_packed(make_config, prepare):
    run, files = prepare(make_config())
    seen = []

    @contextmanager
    def show(description, total, done=0):
        seen.append((description, total, done))
        yield seen.append

    train(run, files, show)
    n_steps = 3 * len(run.loaders["train"])
    first, *notes = seen
    assert first == ("training", n_steps, 0)
    assert len(notes) == n_steps
    padding = 100 * rows_of(files)[1]["edge_padding"]
    assert re.fullmatch(rf"\d+ graphs/s, {padding:.1f}% padding, 2 compiled", notes[3])
