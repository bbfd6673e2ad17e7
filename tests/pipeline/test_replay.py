"""Replay structures are chosen, labelled by a model, prepared like other data, and predicted."""

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize("suffix", [".xyz", ".h5"])
def test_a_model_finds_no_errors_in_what_it_labelled(chain, invoke, tmp_path, monkeypatch, suffix):
    """Through files of every step; float64, as other batches add up in another order."""
    monkeypatch.chdir(tmp_path)
    model = chain / "run" / "tiny_best.msgpack"
    precise = ("--dtype", "float64")
    chosen, taught = f"chosen{suffix}", f"taught{suffix}"
    invoke(
        *("mace-jax-select-replay", chain / "data" / "train", "--number", 6, "--output", chosen),
        *("--method", "stratified", "--head", "Default"),
    )
    invoke(
        *("mace-jax-predict", model, chosen, "--output", taught, "--as-labels", *precise),
        *("--head-name", "pt_head"),
    )
    invoke(
        *("mace-jax-preprocess", "--train-file", taught, "--valid-file", taught, "--h5-prefix"),
        *("data", "--compute-statistics", "--E0s", "average"),
    )
    outcome = invoke(
        *("mace-jax-predict", model, "data/val", "--output", "found.npz", "--json", *precise),
        *("--head", "Default"),
    )
    summary = json.loads(outcome.out)["summary"]
    assert summary["n_labels"] == {"energy": 6, "forces": 6}
    assert summary["mae_e"] < 1e-10
    assert summary["rmse_f"] < 1e-13
    statistics = json.loads(Path("data/statistics.json").read_text())
    assert list(statistics["heads"]) == ["pt_head"]
