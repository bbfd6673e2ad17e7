"""What mace-torch predicts, through its own data pipeline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import model_inputs
from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.structures.structure import Structure
from mace_jax_convert.to_torch import mace_torch_talks_less, torch_model

_PER_GRAPH = ("energy", "virials", "dipole", "polarizability")
_PER_ATOM = ("node_energy", "forces", "atomic_dipoles", "charges")


def evaluate_torch(
    bundle: ModelBundle, structures: Sequence[Structure]
) -> list[dict[str, NDArray[np.float64]]]:
    """Return mace-torch's numbers in float64, for each structure and its head.

    Left out is what mace-torch gets wrong: derivatives of a Chebyshev basis, and node energies
    that lack the energy of an embedding readout.
    """
    model = torch_model(bundle.astype("float64"))

    import torch

    wrong = set()
    if bundle.config.radial_type == "chebyshev":
        wrong |= {"forces", "virials"}
    if bundle.config.use_embedding_readout or bundle.config.model == "EnergyDipolesMACE":
        wrong |= {"node_energy"}
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mace_torch_talks_less():
            numbers = [_numbers(model, bundle, structure) for structure in structures]
    finally:
        torch.set_default_dtype(dtype)
    return [
        {name: values for name, values in found.items() if name not in wrong} for found in numbers
    ]


def _numbers(
    model: Any, bundle: ModelBundle, structure: Structure
) -> dict[str, NDArray[np.float64]]:
    import torch

    batch = _batch(model, bundle, structure)
    has_energy = bool(bundle.atomic_energies)
    # optimized, models with embeddings fail from the second call on: a leaf is changed in place
    with torch.jit.optimized_execution(False):  # type: ignore[no-untyped-call]
        found = model(
            batch,
            compute_force=has_energy,
            compute_virials=has_energy,
            compute_stress=has_energy,
        )
    numbers = {}
    for name in _PER_GRAPH + _PER_ATOM:
        if found.get(name) is not None:
            values = found[name][0] if name in _PER_GRAPH else found[name]
            numbers[name] = values.detach().numpy().astype(np.float64)
    return numbers


def _batch(model: Any, bundle: ModelBundle, structure: Structure) -> dict[str, Any]:
    """Return mace-torch's input."""
    from ase import Atoms
    from mace import data, tools
    from mace.tools import torch_geometric

    atoms = Atoms(
        numbers=structure.atomic_numbers,
        positions=structure.positions,
        cell=structure.cell,
        pbc=structure.pbc,
    )
    specs = getattr(model, "embedding_specs", None)
    keys = {**tools.DefaultKeys.keydict(), "charges_key": "charges", "embedding_specs": specs}
    for spec in model_inputs(bundle.config):
        values = structure.inputs[spec.source]
        if spec.per == "graph":
            atoms.info[spec.source] = float(values[0, 0])
        else:
            atoms.arrays[spec.source] = values[:, 0] if spec.in_dim == 1 else values
    config = data.config_from_atoms(
        atoms,
        key_specification=data.update_keyspec_from_kwargs(data.KeySpecification(), keys),
        head_name=structure.head,
    )
    graph = data.AtomicData.from_config(
        config,
        z_table=tools.AtomicNumberTable(list(bundle.config.atomic_numbers)),
        cutoff=bundle.config.r_max,
        heads=list(bundle.heads),
    )
    (batch,) = torch_geometric.dataloader.DataLoader([graph], batch_size=1)
    return dict(batch.to_dict())
