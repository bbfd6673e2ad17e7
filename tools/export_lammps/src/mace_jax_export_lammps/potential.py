"""The object that LAMMPS's ``pair_style mliap unified`` loads and calls every step.

LAMMPS wants no more of it than the attributes and methods below, so no LAMMPS is needed to make or
test it. It computes in one of two ways, whichever the LAMMPS that runs it offers:

- ``staged``: processes exchange the features of atoms after every layer. Each computes the energies
  of its own atoms alone; periodic images of own atoms are these atoms themselves.
- ``halo``: without an exchange, every process computes the features of all ghosts that messages can
  come from, in each layer those within the cutoff times the number of layers after it.
"""

import os
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.batching.domain import DomainRoom, domain_room, pad_domain
from mace_jax.errors import ConfigError, DataError, IncompatibleError, MaceJaxError
from mace_jax_export_lammps.exchange import (
    GhostExchange,
    NodeExchange,
    NoExchange,
    check_exchange,
    process_token,
)
from mace_jax_export_lammps.lammps_model import LammpsModel, unpack_lammps_model
from mace_jax_export_lammps.neighborhood import (
    NeighborEntries,
    Neighborhood,
    check_entries,
    exchanged_neighborhood,
    halo_neighborhood,
)
from mace_jax_export_lammps.self_test import check_self_test, entries_of

# Beyond the cutoff times the layers, so that rounding loses no pair.
_HALO_MARGIN = 1 + 1e-6
# Of LAMMPS's data, what versions before the one that this is tested with may lack.
_NEEDED = ("nlocal", "ntotal", "pair_i", "pair_j", "rij", "elems", "update_pair_forces")
_MEANING = {
    "staged": "processes exchange features",
    "halo": "no exchange in this LAMMPS, so every process computes its ghosts, too",
}
# How launchers of MPI tell a process how many there are, and which it is.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")
_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")


def load_potential(document: bytes) -> "MACEPotential":
    """Return the object for LAMMPS; what the file calls.

    Raises:
        ArtifactError: the document is damaged or of another version.
        ConfigError: what computes with the network is not installed.
    """
    if any(find_spec(name) is None for name in ("jax", "flax")):
        message = (
            "the Python that LAMMPS runs has no jax; install mace-jax-export-lammps[model] there"
        )
        raise ConfigError(message)
    return MACEPotential(unpack_lammps_model(document))


class MACEPotential:
    """A model as LAMMPS's ``mliap unified`` wants it.

    Attributes:
        element_types: symbols, in the order in which LAMMPS numbers elements.
        ndescriptors, nparams: asked for by LAMMPS, without a meaning here.
        rcutfac: half of the cutoff of LAMMPS's neighbour list, Å.
        mode: ``staged`` or ``halo``; known once LAMMPS has set ``interface``.
    """

    ndescriptors = nparams = 1

    def __init__(self, model: LammpsModel) -> None:
        """Keep the model; the network is built by the first step."""
        self._model, self._bundle = model, model.bundle
        config = model.bundle.config
        self.element_types = model.elements
        self.mode = "halo"
        self._interface: Any = None
        self._network: Any = None
        self._room: DomainRoom | None = None
        self._token = process_token()
        self._alone, self._tested = True, False
        self._source = model.source
        energies = model.bundle.atomic_energies[model.bundle.heads[0]]
        self._atomic_energies = np.array([energies[number] for number in config.atomic_numbers])

    @property
    def interface(self) -> Any:
        """What LAMMPS reaches this object through."""
        return self._interface

    @interface.setter
    def interface(self, interface: Any) -> None:
        """Find out what the LAMMPS that loads this object offers, and say what is chosen.

        Raises:
            IncompatibleError: it is too old.
        """
        self._interface = interface
        couple = sys.modules.get(type(interface).__module__)
        data_class = getattr(couple, "MLIAPDataPy", None)
        if not all(hasattr(data_class, name) for name in _NEEDED):
            message = (
                f"{self._source}: this LAMMPS tells Python too little of its atoms, expected "
                f"{', '.join(_NEEDED)}; use a LAMMPS of 4 February 2025 or newer"
            )
            raise IncompatibleError(message)
        self.mode = "staged" if hasattr(data_class, "forward_exchange") else "halo"
        config, elements = self._bundle.config, " ".join(self.element_types)
        _say(
            f"{config.model}, head {self._bundle.heads[0]}, {self._bundle.dtype}, "
            f"{config.num_interactions} layers of {config.r_max:g} Å, elements {elements}, "
            f"units metal; {self.mode}: {_MEANING[self.mode]}"
        )
        # It does not count the symbols itself, and what it says last is all that a crash leaves.
        _say(
            f"now pair_coeff * * with one of {elements} for each atom type; with fewer symbols "
            "than types LAMMPS crashes"
        )

    @property
    def cutoff(self) -> float:
        """Cutoff of LAMMPS's neighbour list, Å."""
        config = self._bundle.config
        if self.mode == "staged":
            return config.r_max
        return config.r_max * config.num_interactions * _HALO_MARGIN

    @property
    def rcutfac(self) -> float:
        """Half of the cutoff."""
        return self.cutoff / 2

    @property
    def n_compilations(self) -> int:
        """How often a part of the network has been compiled."""
        return 0 if self._network is None else int(self._network.n_compilations)

    def compute_descriptors(self, data: Any) -> None:
        """Do nothing: ``compute_forces`` does it all."""

    def compute_gradients(self, data: Any) -> None:
        """Do nothing: ``compute_forces`` does it all."""

    def compute_forces(self, data: Any) -> None:
        """Give LAMMPS energies of own atoms and pair forces.

        Raises:
            DataError: an atom has no element, or a number is not finite.
            CheckFailedError: the self-test failed.
            IncompatibleError: LAMMPS keeps its arrays where NumPy cannot read them, leaves out
                atoms, or exchanges wrongly.
        """
        try:
            self._compute(data)
        except MaceJaxError as error:
            if self._alone and _from_launcher(_SIZES, 1) == 1:
                raise
            # LAMMPS would wait for ever for the other processes, which have no error
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    def _compute(self, data: Any) -> None:
        entries = read_entries(data, self._source)
        check_entries(entries, self._source)
        first = self._network is None
        if first:
            self._build()
        near, exchange = self._neighborhood(data, entries, check=first)
        if entries.n_local == 0:
            self._pass_on(exchange)
            data.energy = 0.0  # else LAMMPS adds whatever was there
            return
        self._room = domain_room(near.layers, self._room)
        if not self._tested:
            self._run_self_test(exchange)
        energies, gradient = self._evaluate(near, self._room, exchange)
        write_results(data, energies, near.entry_forces(gradient, len(entries.vectors)))

    def _build(self) -> None:
        """Build the network; it is compiled when it is evaluated first."""
        from mace_jax.model.domain_network import DomainNetwork

        inputs = {name: [[value]] for name, value in self._model.inputs.items()}
        self._network = DomainNetwork(self._bundle, self._source, inputs)

    def _neighborhood(
        self, data: Any, entries: NeighborEntries, *, check: bool
    ) -> tuple[Neighborhood, NodeExchange | None]:
        """Return the pairs, and the exchange if other processes take part.

        Args:
            data: of LAMMPS.
            entries: its list.
            check: whether to check the exchange; the same on all processes.
        """
        config = self._bundle.config
        if self.mode == "halo":
            return self._halo(entries), None
        ghosts = GhostExchange(data)
        owners = ghosts.owners(self._token)
        self._alone &= ghosts.stands_alone(owners)
        if check and self._network.widths:
            check_exchange(
                ghosts, owners, max(self._network.widths), self._bundle.dtype, self._source
            )
        near = exchanged_neighborhood(entries, config.r_max, owners)
        if self._alone:
            return near, None
        return near, NodeExchange(ghosts, near.atoms, len(entries.species))

    def _halo(self, entries: NeighborEntries) -> Neighborhood:
        config = self._bundle.config
        n_layers, n_elements = config.num_interactions, len(config.atomic_numbers)
        return halo_neighborhood(entries, config.r_max, n_layers, n_elements)

    def _pass_on(self, exchange: NodeExchange | None) -> None:
        """Take part in the exchange of a step without having atoms."""
        if exchange is not None:
            rows = [np.zeros((0, width), self._bundle.dtype) for width in self._network.widths]
            for row in rows:
                exchange.forward(row)
            for row in reversed(rows):
                exchange.reverse(row)

    def _evaluate(
        self, near: Neighborhood, room: DomainRoom, exchange: NodeExchange | NoExchange | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the energy of each own atom, E0 included, and derivatives by pair vectors.

        Raises:
            DataError: one is not finite.
        """
        first = near.layers[0]
        domains = pad_domain(near.layers, room, self._bundle.config.r_max, self._bundle.dtype)
        energies, gradient = self._network.evaluate(domains, exchange)
        own = slice(first.n_local)
        energies = energies[own] + self._atomic_energies[first.species[own]]
        gradient = gradient[: len(first.senders)]
        if not (np.isfinite(energies).all() and np.isfinite(gradient).all()):
            message = (
                f"{self._source}: energy or forces are not finite; look for atoms that are very "
                "close, or take a smaller timestep"
            )
            raise DataError(message)
        return energies, gradient

    def _run_self_test(self, exchange: NodeExchange | None) -> None:
        """Run the self-test in the padded shape and by the programs of the step that follows."""
        self._tested = True
        if self._model.self_test is None:
            return

        def evaluate(
            entries: NeighborEntries,
        ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            owners = np.arange(entries.n_local)
            near = (
                self._halo(entries)
                if self.mode == "halo"
                else exchanged_neighborhood(entries, self._bundle.config.r_max, owners)
            )
            self._room = domain_room(near.layers, self._room)
            alone = None if exchange is None else NoExchange()
            energies, gradient = self._evaluate(near, self._room, alone)
            return energies, near.entry_forces(gradient, len(entries.vectors))

        record = self._model.self_test
        check_self_test(record, entries_of(record, self._bundle), evaluate, self._source)
        _say("self-test passed")


def read_entries(data: Any, source: str) -> NeighborEntries:
    """Return LAMMPS's atoms and neighbour list; arrays are LAMMPS's own, not to be written to.

    Raises:
        IncompatibleError: they are not in the host's memory, or atoms are left out.
    """
    n_local, n_total, n_entry = int(data.nlocal), int(data.ntotal), int(data.npairs)
    if int(data.nlistatoms) != n_local:
        message = (
            f"{source}: LAMMPS lists {data.nlistatoms} of {n_local} atoms, expected all; do not "
            "combine this pair_style with others by pair_style hybrid"
        )
        raise IncompatibleError(message)
    if n_entry and not isinstance(data.rij, np.ndarray):
        message = (
            f"{source}: LAMMPS keeps its lists on a GPU ({type(data.rij).__module__}), expected "
            "NumPy arrays; run this pair_style on the host"
        )
        raise IncompatibleError(message)
    return NeighborEntries(
        species=data.elems if n_total else np.zeros(0, np.int32),
        n_local=n_local,
        centers=data.pair_i if n_entry else np.zeros(0, np.int32),
        neighbors=data.pair_j if n_entry else np.zeros(0, np.int32),
        vectors=data.rij if n_entry else np.zeros((0, 3)),
    )


def write_results(data: Any, energies: NDArray[np.float64], forces: NDArray[np.float64]) -> None:
    """Give LAMMPS the energy of each own atom, their sum, and the pair forces.

    Args:
        data: LAMMPS's own object.
        energies: eV, ``[n_local]``.
        forces: of each entry of the list, eV/Å, ``[n_entry, 3]``.
    """
    data.energy = float(energies.sum())
    try:
        target = data.eatoms
    except AttributeError:  # LAMMPS without KOKKOS lets it be set, with KOKKOS be written to
        data.eatoms = energies
    else:
        target[:] = energies
    if len(forces):
        data.update_pair_forces(forces)


def _from_launcher(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), default)


def _say(text: str) -> None:
    """Print for the user of LAMMPS, once for all processes."""
    if _from_launcher(_RANKS, 0) == 0:
        print(f"mace-jax: {text}", file=sys.stderr, flush=True)
