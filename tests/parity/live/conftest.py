"""mace-torch's models of every kind, where mace-torch is installed."""

import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

LIVE = bool(os.environ.get("MACE_JAX_LIVE_TORCH"))


def import_scripts() -> tuple[ModuleType, ModuleType]:
    """Return ``torch_models`` and ``make_references``, which import torch."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import make_references
        import torch_models

    return torch_models, make_references


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test that takes ``variant`` run for each that this environment can make.

    That takes a quarter of an hour on two cores: every other one, unless all are asked for.
    """
    if "variant" not in metafunc.fixturenames:
        return
    names = []
    if LIVE:
        torch_models, _ = import_scripts()
        names = [
            name
            for name, settings in torch_models.VARIANTS.items()
            if bool(settings.get("cue")) == torch_models.CUET_AVAILABLE
            and not settings.get("no_numbers")
        ]
    if not os.environ.get("MACE_JAX_ALL_VARIANTS"):
        names = names[::2]
    metafunc.parametrize("variant", names)


@pytest.fixture(scope="session")
def torch_models() -> ModuleType:
    return import_scripts()[0]


@pytest.fixture(scope="session")
def make_references() -> ModuleType:
    return import_scripts()[1]
