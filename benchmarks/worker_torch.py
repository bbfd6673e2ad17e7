"""The worker that measures mace-torch: its own model, data loader, loss and training step."""

import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import systems
import torch
from dynamics import Dynamics
from mace import data, modules, tools
from mace.calculators import MACECalculator
from mace.tools import torch_geometric
from mace.tools.train import take_step
from protocol import serve

from e3nn import o3  # isort: skip  # after mace, which lets this torch read e3nn's tables

CPU = torch.device("cpu")
FORCES_ONLY = {"forces": True, "virials": False, "stress": False}


class MakeModel:
    """Writes a network with random weights."""

    def __init__(self, *, hidden_irreps: str, dtype: str, network: str) -> None:
        """Build the network in ``dtype`` and save it as ``network``."""
        torch.set_default_dtype(getattr(torch, dtype))
        torch.manual_seed(0)
        settings = dict(systems.NETWORK)
        for key in ("interaction_cls", "interaction_cls_first"):
            settings[key] = modules.interaction_classes[settings[key]]
        settings["MLP_irreps"] = o3.Irreps(settings["MLP_irreps"])
        settings["gate"] = modules.gate_dict[settings["gate"]]
        model = modules.ScaleShiftMACE(
            **settings,
            hidden_irreps=o3.Irreps(hidden_irreps),
            num_elements=len(systems.ELEMENTS),
            atomic_numbers=list(systems.ELEMENTS),
            atomic_energies=np.zeros(len(systems.ELEMENTS)),
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
        torch.save(model, network)


class _Batches:
    """A saved network and the batches for it."""

    def __init__(self, *, network: str, dtype: str, batch: int, structures: dict[str, Any]) -> None:
        torch.set_default_dtype(getattr(torch, dtype))
        self.model = torch.load(network, map_location=CPU)
        keys = data.KeySpecification(
            info_keys={"energy": "REF_energy"}, arrays_keys={"forces": "REF_forces"}
        )
        table = tools.AtomicNumberTable(list(systems.ELEMENTS))
        self.graphs = [
            data.AtomicData.from_config(
                data.config_from_atoms(atoms, key_specification=keys, head_name="Default"),
                z_table=table,
                cutoff=systems.R_MAX,
                heads=["Default"],
            )
            for atoms in systems.structures(**structures)
        ]
        self.batch_size = batch
        self.batches = self._endless()

    def loader(self, *, shuffle: bool) -> torch_geometric.dataloader.DataLoader:
        """Return the data loader of mace-torch's training."""
        return torch_geometric.dataloader.DataLoader(
            self.graphs, batch_size=self.batch_size, shuffle=shuffle, drop_last=shuffle
        )

    def _endless(self) -> Iterator[torch_geometric.batch.Batch]:
        while True:
            yield from self.loader(shuffle=True)

    def first_batch(self) -> torch_geometric.batch.Batch:
        """Return the batch that all programs begin with."""
        return next(iter(self.loader(shuffle=False)))


class Train(_Batches):
    """Training steps."""

    def __init__(self, **settings: Any) -> None:
        """Set loss and optimizer up."""
        super().__init__(**settings)
        self.loss = modules.WeightedEnergyForcesLoss(systems.ENERGY_WEIGHT, systems.FORCES_WEIGHT)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=systems.LEARNING_RATE, amsgrad=True
        )

    def step(self, batch: torch_geometric.batch.Batch) -> float:
        """Train on a batch and return its loss."""
        loss, _ = take_step(
            model=self.model,
            loss_fn=self.loss,
            batch=batch,
            optimizer=self.optimizer,
            ema=None,
            output_args=FORCES_ONLY,
            max_grad_norm=systems.MAX_GRAD_NORM,
            device=CPU,
        )
        return loss.item()

    def first(self) -> dict[str, Any]:
        """Take the first step."""
        batch = self.first_batch()
        n_edge = batch.edge_index.shape[1]
        start = time.perf_counter()
        loss = self.step(batch)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "n_edge": n_edge, "values": {"loss": [loss]}}

    def repeat(self, n_steps: int) -> dict[str, float]:
        """Return the seconds of a step."""
        start = time.perf_counter()
        for batch in itertools.islice(self.batches, n_steps):
            self.step(batch)
        return {"seconds": (time.perf_counter() - start) / n_steps}


class Evaluate(_Batches):
    """Energies and forces."""

    def __init__(self, **settings: Any) -> None:
        """Free the weights from gradients, as mace-torch's own evaluation does."""
        super().__init__(**settings)
        self.model.requires_grad_(requires_grad=False)

    def step(self, batch: torch_geometric.batch.Batch) -> tuple[np.ndarray, np.ndarray]:
        """Return energies and forces of a batch."""
        output = self.model(batch.to_dict(), training=False, compute_force=True)
        return output["energy"].detach().numpy(), output["forces"].detach().numpy()

    def first(self) -> dict[str, Any]:
        """Evaluate the first batch."""
        batch = self.first_batch()
        n_edge = batch.edge_index.shape[1]
        start = time.perf_counter()
        energy, forces = self.step(batch)
        seconds = time.perf_counter() - start
        values = {"energy": energy.tolist(), "forces": forces.ravel().tolist()}
        return {"seconds": seconds, "n_edge": n_edge, "values": values}

    def repeat(self, n_steps: int) -> dict[str, float]:
        """Return the seconds of a batch."""
        start = time.perf_counter()
        for batch in itertools.islice(self.batches, n_steps):
            self.step(batch)
        return {"seconds": (time.perf_counter() - start) / n_steps}


class Calculate(Dynamics):
    """Molecular dynamics with mace-torch's calculator."""

    def __init__(self, *, network: str, dtype: str, system: str, data: str) -> None:
        """Load the calculator."""
        calculator = MACECalculator(model_paths=network, device="cpu", default_dtype=dtype)
        super().__init__(systems.moving_structure(system, data), calculator)


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    serve({"make": MakeModel, "train": Train, "evaluate": Evaluate, "calculator": Calculate})
