"""Which flags make a run compute with cuequivariance, and what is said where it is absent."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mace_jax.model.backend import CUEQ, DENSE, Backend
from mace_jax_train.cli import main
from mace_jax_train.gin_config import load_train_config
from mace_jax_train.start import chosen_backend

CUEQ_BINDING = ["-b", "flags.backend='cueq'"]
ABSENT = (
    "error: backend cueq: cuequivariance-jax is not installed; "
    'pip install "mace-jax-shared[cueq]"\n'
)
NO_DATA = (
    "error: absent.h5: no HDF5 file there, expected *.h5; create it with mace-jax-preprocess\n"
)


Train = Callable[..., Any]


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> Iterator[Train]:
    """Return a function that trains on a missing file, in a folder that stays empty."""
    monkeypatch.setitem(sys.modules, "cuequivariance_jax", None)
    monkeypatch.chdir(tmp_path)

    yield lambda *arguments: call(main, "--train-path", "absent.h5", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], DENSE),
        (["--backend", "dense"], DENSE),
        (["--backend", "cueq"], CUEQ),
        (["--enable-cueq"], CUEQ),
        (["--only-cueq"], CUEQ),
        (["--enable_cueq", "--only_cueq"], CUEQ),
        (["--backend", "cueq", "--enable-cueq"], CUEQ),
        (CUEQ_BINDING, CUEQ),
        ([*CUEQ_BINDING, "--backend", "dense"], DENSE),
        (["-b", "flags.backend='dense'", "--enable-cueq"], CUEQ),
        (["--enable-cueq", "--no-cueq-conv-fusion"], Backend(products=True)),
        (["--enable-cueq", "--no-cueq-optimize-all"], Backend(convolution=True)),
        (["--enable-cueq", "--no-cueq-conv-fusion", "--no-cueq-optimize-all"], DENSE),
        ([*CUEQ_BINDING, "-b", "flags.cueq_conv_fusion=False"], Backend(products=True)),
        (
            ["--only-cueq", "-b", "flags.cueq_conv_fusion=False", "--cueq-conv-fusion"],
            CUEQ,
        ),
        (["--cueq-conv-fusion", "--cueq-optimize-all"], DENSE),
        (["--cueq-layout", "ir_mul", "--cueq-group", "O3_e3nn"], DENSE),
    ],
    ids=str,
)
def test_flags_choose_the_backend(train, arguments, expected):
    outcome = train(*arguments, "--print-config", "--quiet")
    *config, _ = outcome.err.splitlines()
    assert chosen_backend(load_train_config([], config, {}).flags) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--backend", "cueq"],
        ["--enable-cueq"],
        ["--only-cueq", "--dry-run"],
        ["--backend", "cueq", "--no-cueq-conv-fusion"],
        ["--backend", "cueq", "--no-cueq-optimize-all"],
        CUEQ_BINDING,
    ],
    ids=str,
)
def test_a_missing_package_is_said_before_data_is_read(train, arguments):
    assert train(*arguments, "--quiet") == (2, "", ABSENT)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [*CUEQ_BINDING, "--backend", "dense"],
        ["--backend", "cueq", "--no-cueq-conv-fusion", "--no-cueq-optimize-all"],
    ],
    ids=str,
)
def test_plain_jax_needs_no_package(train, arguments):
    code, _, err = train(*arguments)
    assert code == 1
    assert "\nbackend: dense on " in err
    assert err.endswith(NO_DATA)


@pytest.mark.parametrize("flag", ["--enable-cueq", "--only-cueq"])
def test_dense_and_cueq_at_once_is_refused(train, flag):
    code, out, err = train("--backend", "dense", flag)
    assert (code, out) == (2, "")
    message = f"Error: --backend and {flag} contradict each other; give one of them\n"
    assert err.endswith(message)


@pytest.mark.parametrize(
    ("arguments", "warnings"),
    [
        (
            ["--cueq-layout", "mul_ir"],
            ["warning: --cueq-layout mul_ir: ir_mul is used, with the same numbers"],
        ),
        (
            ["--cueq-group", "O3"],
            ["warning: --cueq-group O3: O3_e3nn is used, with the same numbers"],
        ),
        (["--cueq-layout", "ir_mul", "--cueq-group", "O3_e3nn"], []),
        ([], []),
    ],
    ids=["layout", "group", "as it is", "not given"],
)
def test_another_layout_or_group_is_said_not_to_be_used(train, arguments, warnings):
    code, _, err = train(*arguments, "--quiet")
    assert code == 1
    assert err.splitlines(keepends=True) == [*(f"{line}\n" for line in warnings), NO_DATA]


@pytest.mark.parametrize(
    "arguments", [["--cueq-layout", "ir"], ["--cueq-group", "SO3"], ["--backend", "torch"]]
)
def test_what_does_not_exist_is_refused(train, arguments):
    code, _, err = train(*arguments)
    assert code == 2
    assert f"Invalid value for '{arguments[0]}': '{arguments[1]}' is not one of" in err
