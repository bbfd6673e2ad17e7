"""Evaluate checkpoints of mace-torch with this library: no torch, one compilation a model."""

import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.artifacts.predictions import Predictions
from mace_jax.model.predict import predict
from mace_jax.structures.read_structures import read_structures
from mace_jax.structures.structure import Structure
from mace_jax.torch_models.from_torch import convert_torch_model


@pytest.fixture(scope="module", autouse=True)
def _fast(fast_compilation: None) -> None:
    """All of these tests compile."""


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path], ModelBundle]:
    """Return a function from an xz-compressed checkpoint to a bundle."""

    def from_xz(path: Path) -> ModelBundle:
        plain = tmp_path / path.stem
        plain.write_bytes(lzma.decompress(path.read_bytes()))
        return convert_torch_model(plain)

    return from_xz


@pytest.fixture
def structures_of() -> Callable[[Path, ModelBundle], list[Structure]]:
    """Return a function that reads the structures of elements that a model knows, by name."""

    def read(path: Path, bundle: ModelBundle) -> list[Structure]:
        keys = [spec.source for spec in model_inputs(bundle.config)]
        elements = set(bundle.config.atomic_numbers)
        structures, _ = read_structures(path, inputs=keys)
        return [found for found in structures if elements.issuperset(found.atomic_numbers)]

    return read


@pytest.fixture
def evaluate() -> Callable[..., Predictions]:
    """Return a function that predicts structures by their own heads, padded to one shape."""

    def predictions(
        bundle: ModelBundle, structures: list[Structure], dtype: str = "float64"
    ) -> Predictions:
        with jax.enable_x64(dtype == "float64"):
            return predict(bundle.astype(dtype), "bundle", structures, n_edge=1)

    return predictions


@pytest.fixture
def assert_agree() -> Callable[..., None]:
    """Return a function that compares our numbers with those of mace-torch.

    Tolerance 1e-9 of the largest number, at least 1: both sides compute in float64 and differ by
    the order of their sums, which leaves some 1e-13, while a wrong factor, sign or path shows at
    1e-3 and more. In a model that is or was float32 the couplings are rounded, as is the prefactor
    of mace-torch's ZBL repulsion.
    """

    def compare(
        bundle: ModelBundle,
        structures: Sequence[Structure],
        ours: Predictions,
        theirs: Predictions,
        *,
        was_float32: bool = False,
    ) -> None:
        relative = 2e-6 if was_float32 or bundle.dtype == "float32" else 1e-9
        assert ours.n_node.tolist() == theirs.n_node.tolist()
        assert ours.quantities.keys() == theirs.quantities.keys()
        for index, structure in enumerate(structures):
            found, expected = ours.of_structure(index), theirs.of_structure(index)
            if bundle.config.use_embedding_readout or bundle.config.model == "EnergyDipolesMACE":
                del expected["node_energy"]  # lacks the energy of the readout, or all but E0
                assert found["node_energy"].sum() == pytest.approx(found["energy"], rel=1e-12)
            if not structure.pbc.all():  # mace-torch stretches the cell along open directions
                expected.pop("stress", None)
            for quantity, values in expected.items():
                limit = relative * max(1, np.abs(values).max())
                what = f"{quantity} of structure {index}, head {structure.head}"
                np.testing.assert_allclose(
                    found[quantity], values, rtol=0, atol=limit, err_msg=what
                )

    return compare
