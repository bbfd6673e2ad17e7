"""Store some models of ``torch_models.py`` in ``data/``, with mace-torch's numbers.

``python tests/parity/make_references.py`` with torch==2.13.0 and mace-torch==0.3.16, once without
and once with cuequivariance-torch==0.13.0: each environment writes the models it can make. The
tests need none of them.

``structures.extxyz`` has the inputs, ``NAME.model.xz`` is the file that mace-torch writes, and
``NAME.npz`` has its numbers in float64 for all heads, and for each all structures of elements the
model knows: ``n_node``, and quantities one after another as in ``Predictions``.
"""

import io
import lzma
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import torch
import torch_models
from mace.modules.wrapper_ops import CUET_AVAILABLE

DATA = Path(__file__).parent / "data"
STORED = [
    "agnostic_product_mace_plain",
    "all_embeddings_readout_heads",
    "atomic_dipoles",
    "attention_then_residual",
    "bias_readout_three_heads_mace",
    "chebyshev_agnesi",
    "config_nonlinear",
    "correlation_3_2",
    "correlation_4_so3",
    "cue_ir_mul_reduced_l1_correlation_3",
    "cue_mul_ir_full_heads_zbl",
    "dielectric",
    "edge_irreps_first",
    "energy_dipoles",
    "json_density_heads",
    "json_embeddings",
    "keep_last_layer_nonlinear_heads",
    "last_readout_only_mace_heads",
    "layers_1",
    "no_cutoff_density",
    "old_mace",
    "pseudo",
    "r_max_4.5",
    "radial_mlp_one",
    "reduced_l1_correlation_3",
    "soft_l1_gaussian",
    "trainable_all_float32",
    "trainable_bessel",
    "unsorted_elements_l1_zbl",
    "zbl_p8_l1",
]
QUANTITIES = (
    "energy",
    "node_energy",
    "forces",
    "stress",
    "virials",
    "dipole",
    "atomic_dipoles",
    "charges",
    "polarizability",
)


def coarsen(model: torch.nn.Module) -> None:
    """Round large weights to halves: the attention block has 200 000, which nothing compresses."""
    for parameter in model.parameters():
        if parameter.numel() > 10_000:
            parameter.data = torch.round(2 * parameter.data) / 2


def numbers(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return mace-torch's results, one structure after another, head by head."""
    heads = getattr(model, "heads", ["Default"])
    inputs = torch_models.known_to(model)
    results = [
        result
        for head in heads
        for result in torch_models.evaluate(model, inputs, head, torch.float64)
    ]
    arrays = {"n_node": np.array([len(atoms) for _ in heads for atoms in inputs])}
    for key in QUANTITIES:
        if key in results[0]:
            join = np.concatenate if key in torch_models.PER_ATOM else np.stack
            arrays[key] = join([result[key] for result in results])
    return arrays


def write(name: str) -> None:
    """Write one model and its numbers."""
    model = torch_models.build(name)
    coarsen(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        torch_models.save(model, torch_models.settings_of(name).get("form", "model"), path)
        content = path.read_bytes()
    checkpoint = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    (DATA / f"{name}.model.xz").write_bytes(checkpoint)
    np.savez_compressed(DATA / f"{name}.npz", **numbers(model))
    print(f"{name}: {len(checkpoint)} bytes")


def main() -> None:
    """Write what this environment can make."""
    DATA.mkdir(exist_ok=True)
    inputs = io.StringIO()
    ase.io.write(inputs, torch_models.structures(), format="extxyz")
    (DATA / "structures.extxyz").write_text(inputs.getvalue())
    for name in STORED:
        if bool(torch_models.VARIANTS[name].get("cue")) == CUET_AVAILABLE:
            write(name)


if __name__ == "__main__":
    main()
