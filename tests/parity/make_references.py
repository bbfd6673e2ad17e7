"""Make the checkpoints and numbers in ``data/`` that ``test_torch_parity.py`` compares with.

Run once, with torch==2.13.0 and mace-torch==0.3.16 (without cuequivariance, so that its couplings
are the full basis): ``python tests/parity/make_references.py``. The tests need neither of them.

``structures.npz`` has the inputs, ``<name>.model.xz`` is what ``torch.save(model)`` writes, in
float64 with random weights, and ``<name>.npz`` has ``<structure>__<head>__<property>``: energy,
forces and, with a cell, stress and virials, in the signs of this project.
"""

import io
import lzma
from pathlib import Path

import numpy as np
import torch
from mace import data, modules, tools
from mace.tools import torch_geometric

from e3nn import o3  # isort: skip  # after mace, which lets torch 2.13 read e3nn's tables

DATA = Path(__file__).parent / "data"
ELEMENTS = [1, 6, 8]
E0 = np.array([-13.587, -1029.433, -2041.839])
BLOCKS = modules.interaction_classes
COMMON = {
    "r_max": 4.0,
    "num_bessel": 5,
    "num_polynomial_cutoff": 5,
    "interaction_cls": BLOCKS["RealAgnosticResidualInteractionBlock"],
    "interaction_cls_first": BLOCKS["RealAgnosticResidualInteractionBlock"],
    "num_elements": len(ELEMENTS),
    "MLP_irreps": o3.Irreps("6x0e"),
    "atomic_energies": E0,
    "avg_num_neighbors": 1.3,  # few, so that products of many factors count
    "atomic_numbers": ELEMENTS,
    "gate": torch.nn.functional.silu,
    "use_reduced_cg": False,
    "radial_MLP": [16, 16],
}
MODELS = {
    "scale_shift_one_layer": {
        "hidden_irreps": "4x0e",
        "max_ell": 2,
        "num_interactions": 1,
        "correlation": 2,
        "atomic_inter_scale": 0.83,
        "atomic_inter_shift": -0.27,
    },
    "scale_shift_two_layers": {
        "hidden_irreps": "4x0e+4x1o",
        "max_ell": 2,
        "num_interactions": 2,
        "correlation": 3,
        "atomic_inter_scale": 0.83,
        "atomic_inter_shift": -0.27,
    },
    "scale_shift_two_heads": {
        "hidden_irreps": "4x0e",
        "max_ell": 1,
        "num_interactions": 2,
        "correlation": 2,
        "heads": ["rough", "fine"],
        "atomic_energies": np.stack([E0, E0 + 0.5]),
        "atomic_inter_scale": [0.83, 1.21],
        "atomic_inter_shift": [-0.27, 0.19],
    },
    "mace_proper_e0": {
        "interaction_cls_first": BLOCKS["RealAgnosticInteractionBlock"],
        "hidden_irreps": "4x0e",
        "max_ell": 3,
        "num_interactions": 2,
        "correlation": 3,
    },
    "mace_pseudoscalars": {
        "hidden_irreps": "4x0e+4x0o+4x1o+4x1e",
        "max_ell": 1,
        "num_interactions": 2,
        "correlation": 2,
    },
}

MOLECULE = np.array(
    [
        [0.047, -0.012, 0.021],  # C
        [1.187, 0.071, -0.055],  # O
        [-0.561, 0.923, 0.118],  # H
        [-0.532, -0.951, -0.087],  # H
        [2.113, 1.804, 0.766],  # O
        [1.301, 2.215, 1.075],  # H
    ]
)
CELL = np.array([[3.9, 0.2, -0.1], [1.3, 3.6, 0.3], [-0.7, 0.9, 4.4]])
FRACTIONS = np.array([[0.05, 0.11, 0.08], [0.46, 0.57, 0.31], [0.27, 0.18, 0.72]])
STRUCTURES = {
    "molecule": {
        "numbers": np.array([6, 8, 1, 1, 8, 1]),
        "positions": MOLECULE,
        "cell": np.zeros((3, 3)),
        "pbc": np.array([False] * 3),
    },
    "triclinic": {
        "numbers": np.array([6, 8, 1]),
        "positions": FRACTIONS @ CELL,
        "cell": CELL,
        "pbc": np.array([True] * 3),
    },
    "isolated_atom": {
        "numbers": np.array([8]),
        "positions": np.array([[0.3, -0.2, 0.1]]),
        "cell": np.zeros((3, 3)),
        "pbc": np.array([False] * 3),
    },
}


def build(name: str) -> torch.nn.Module:
    """Return a model with the weights that mace-torch draws."""
    torch.manual_seed(list(MODELS).index(name))
    own = MODELS[name] | {"hidden_irreps": o3.Irreps(MODELS[name]["hidden_irreps"])}
    model_class = modules.ScaleShiftMACE if "atomic_inter_scale" in own else modules.MACE
    return model_class(**COMMON | own)


def evaluate(
    model: torch.nn.Module, structure: dict[str, np.ndarray], head: str
) -> dict[str, np.ndarray]:
    """Return mace-torch's numbers."""
    periodic = bool(structure["pbc"].all())
    config = data.Configuration(
        atomic_numbers=structure["numbers"],
        positions=structure["positions"],
        properties={},
        property_weights={},
        cell=structure["cell"],
        pbc=tuple(structure["pbc"]),
        head=head,
    )
    graph = data.AtomicData.from_config(
        config,
        z_table=tools.AtomicNumberTable(ELEMENTS),
        cutoff=COMMON["r_max"],
        heads=model.heads,
    )
    (batch,) = torch_geometric.dataloader.DataLoader([graph], batch_size=1)
    out = model(batch.to_dict(), compute_stress=periodic, compute_virials=periodic)
    found = {"energy": out["energy"][0], "forces": out["forces"]}
    if periodic:
        found |= {"stress": out["stress"][0], "virials": out["virials"][0]}
    return {name: value.detach().numpy() for name, value in found.items()}


def main() -> None:
    """Write everything into ``data/``."""
    torch.set_default_dtype(torch.float64)
    DATA.mkdir(exist_ok=True)
    inputs = {
        f"{name}__{key}": value
        for name, structure in STRUCTURES.items()
        for key, value in structure.items()
    }
    np.savez_compressed(DATA / "structures.npz", **inputs)
    for name in MODELS:
        model = build(name)
        file = io.BytesIO()
        torch.save(model, file)
        checkpoint = lzma.compress(file.getvalue(), preset=9 | lzma.PRESET_EXTREME)
        (DATA / f"{name}.model.xz").write_bytes(checkpoint)
        results = {
            f"{key}__{head}__{label}": value
            for key, structure in STRUCTURES.items()
            for head in model.heads
            for label, value in evaluate(model, structure, head).items()
        }
        np.savez_compressed(DATA / f"{name}.npz", **results)
        print(f"{name}: {len(checkpoint)} bytes")


if __name__ == "__main__":
    main()
