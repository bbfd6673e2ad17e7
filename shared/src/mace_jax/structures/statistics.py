"""Numbers of a training set that the model is scaled by; ``TrainingSums`` computes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mace_jax.errors import IncompatibleError

Scaling = Literal["std_scaling", "rms_forces_scaling", "no_scaling"]


@dataclass(frozen=True)
class HeadStatistics:
    """What depends on the head.

    Attributes:
        atomic_energies: E0 by atomic number, eV.
        mean: mean over structures with an energy of (E - ΣE0) / n, eV.
        std: root mean square of all labelled force components, eV/Å.
        energy_std: standard deviation of (E - ΣE0) / n, eV; None if not known.
    """

    atomic_energies: Mapping[int, float]
    mean: float
    std: float
    energy_std: float | None

    def scale_and_shift(self, scaling: Scaling) -> tuple[float, float]:
        """Return the scale and the shift of the interaction energy by mace-torch's names.

        Raises:
            IncompatibleError: ``std_scaling`` without ``energy_std``.
        """
        if scaling == "no_scaling":
            return 1.0, 0.0
        if scaling == "rms_forces_scaling":
            return self.std, self.mean
        if self.energy_std is None:
            message = (
                "std_scaling needs the standard deviation of the energies, which the statistics "
                "lack; compute them again from at least two structures with an energy"
            )
            raise IncompatibleError(message)
        return self.energy_std or 1.0, self.mean


@dataclass(frozen=True)
class Statistics:
    """Statistics of a training set; the first six are those of Torch MACE's ``statistics.json``.

    Attributes:
        atomic_numbers: the elements, ascending.
        atomic_energies: E0 by atomic number, eV; empty where the heads differ in them.
        avg_num_neighbors: mean neighbours within ``r_max`` of the atoms that have any.
        mean, std, energy_std: as in ``HeadStatistics``, over the structures of all heads.
        r_max: cutoff, Å.
        heads: of each head; empty in files that knew nothing of heads.
    """

    atomic_numbers: tuple[int, ...]
    atomic_energies: Mapping[int, float]
    avg_num_neighbors: float
    mean: float
    std: float
    r_max: float
    energy_std: float | None = None
    heads: Mapping[str, HeadStatistics] = field(default_factory=dict)

    def of_head(self, head: str) -> HeadStatistics:
        """Return the statistics of a head; where no heads are known all have the same.

        Raises:
            IncompatibleError: there is no such head.
        """
        if not self.heads:
            return HeadStatistics(self.atomic_energies, self.mean, self.std, self.energy_std)
        if head not in self.heads:
            message = (
                f"statistics: head {head!r}, expected one of {sorted(self.heads)}; "
                "compute them again from the data of this head"
            )
            raise IncompatibleError(message)
        return self.heads[head]
