"""A network of frozen weights, compiled for moving atoms: what stays is computed once a list."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from mace_jax.artifacts.model_bundle import ModelBundle
from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.backend import FROZEN
from mace_jax.model.compiling import jit
from mace_jax.model.energy_forces import descriptors, jacobian_by_rows, pair_vectors
from mace_jax.model.load import load_model
from mace_jax.model.predict import properties
from mace_jax.model.split_computation import split_computation

_FETCHED = ("energy", "node_energy", "forces", "stress", "dipole", "charges", "polarizability")

Geometry = list[NDArray[np.floating]]
"""Positions, cell and volume: what moves while a neighbour list is kept."""


class _Program(NamedTuple):
    """The network compiled for one shape, in three parts.

    Attributes:
        of_weights: from weights to what they alone decide.
        prepare: from that and a neighbour list to what stays until the next list.
        step: from that and positions, cell and volume to what the network predicts.
    """

    of_weights: Callable[[nnx.State], list[Array]]
    prepare: Callable[[list[Array], GraphBatch], list[Array]]
    step: Callable[[list[Array], Geometry], dict[str, Array]]


class CompiledNetwork:
    """A network whose weights are arguments, compiled for one shape after another.

    Attributes:
        programs: by shape.
    """

    def __init__(self, graphdef: nnx.GraphDef, r_max: float) -> None:
        """Keep the network; it is compiled when it is used.

        Args:
            graphdef: the network without its weights.
            r_max: its cutoff, Å; of the pairs of a batch the longer ones are padding.
        """
        self.programs: dict[Hashable, _Program] = {}
        self._network = partial(nnx.merge, graphdef)
        self._r_max = r_max
        self.hessian = jit(self._hessian)
        self.descriptors = jit(self._descriptors, static_argnames=("invariants_only", "num_layers"))

    def program(self, parameters: nnx.State, batch: GraphBatch, geometry: Geometry) -> Hashable:
        """Compile for a batch of this shape if that is new, and return its key in ``programs``."""
        periodic = bool(np.isfinite(geometry[-1]))
        shape = (periodic, *(array.shape for array in jax.tree.leaves(batch)))
        if shape not in self.programs:
            staying = parameters, batch
            whole = split_computation(partial(self._predicted, periodic), staying, geometry)
            network = split_computation(
                lambda parameters, batch: whole.prepare((parameters, batch)), *staying
            )
            self.programs[shape] = _Program(
                jit(network.prepare), jit(network.finish), jit(whole.finish)
            )
        return shape

    def _predicted(
        self, periodic: bool, staying: tuple[nnx.State, GraphBatch], geometry: list[Array]
    ) -> dict[str, Array]:
        """Return what the network predicts of a batch whose atoms and cell have moved."""
        parameters, batch = staying
        found = properties(self._network(parameters), self._moved(batch, *geometry))
        if not periodic:
            found.pop("stress", None)
        return {name: found[name] for name in _FETCHED if name in found}

    def _hessian(self, parameters: nnx.State, batch: GraphBatch, geometry: list[Array]) -> Array:
        """Return d²E/dx², eV/Å², ``[n, 3, n, 3]``, of the atoms without padding."""
        positions, *cell = geometry

        def negative_forces(positions: Array) -> Array:
            moved = self._moved(batch, positions, *cell)
            return -properties(self._network(parameters), moved)["forces"][: len(positions)]

        return jacobian_by_rows(negative_forces, positions)

    def _descriptors(
        self,
        parameters: nnx.State,
        batch: GraphBatch,
        geometry: list[Array],
        *,
        invariants_only: bool,
        num_layers: int | None,
    ) -> Array:
        """Return the features of each atom, padding included."""
        return descriptors(
            self._network(parameters),
            self._moved(batch, *geometry),
            invariants_only=invariants_only,
            num_layers=num_layers,
        )

    def _moved(self, batch: GraphBatch, positions: Array, cell: Array, volume: Array) -> GraphBatch:
        """Return the batch with its atoms and cell elsewhere."""
        batch = batch._replace(
            positions=batch.positions.at[: len(positions)].set(positions),
            cell=batch.cell.at[0].set(cell),
            volume=batch.volume.at[0].set(volume),
        )
        # beyond the cutoff a pair is padding, even where radii make the repulsion reach further
        lengths = jnp.linalg.norm(pair_vectors(batch, self._r_max), axis=1)
        return batch._replace(pair_mask=batch.pair_mask & (lengths < self._r_max))


class Member:
    """The weights of one bundle, and the compiled network they belong to.

    Attributes:
        bundle: the model.
        network: shared with bundles that differ in weights alone.
    """

    def __init__(
        self, bundle: ModelBundle, source: str, networks: dict[Hashable, CompiledNetwork]
    ) -> None:
        """Load the weights.

        Args:
            bundle: the model.
            source: its file, for messages.
            networks: those there are, to which this one may be added.
        """
        graphdef, self._parameters = nnx.split(load_model(bundle, source, FROZEN))
        scales = tuple(tuple(values.items()) for values in (bundle.scale, bundle.shift))
        kind = (bundle.config, bundle.dtype, *scales)
        if kind not in networks:
            networks[kind] = CompiledNetwork(graphdef, bundle.config.r_max)
        self.bundle, self.network = bundle, networks[kind]
        self._of_weights: dict[Hashable, list[Array]] = {}

    def prepare(
        self, batch: GraphBatch, geometry: Geometry
    ) -> Callable[[Geometry], dict[str, Array]]:
        """Return a function from positions, cell and volume to what the network predicts."""
        shape = self.network.program(self._parameters, batch, geometry)
        program = self.network.programs[shape]
        if shape not in self._of_weights:
            self._of_weights[shape] = program.of_weights(self._parameters)
        return partial(program.step, program.prepare(self._of_weights[shape], batch))

    def hessian(self, batch: GraphBatch, geometry: Geometry) -> NDArray[np.floating]:
        """Return d²E/dx², eV/Å², ``[n, 3, n, 3]``."""
        return np.asarray(self.network.hessian(self._parameters, batch, geometry))

    def descriptors(
        self,
        batch: GraphBatch,
        geometry: Geometry,
        *,
        invariants_only: bool,
        num_layers: int | None,
    ) -> NDArray[np.floating]:
        """Return the features of each atom after the first layers, or all, ``[n, n_features]``."""
        features = self.network.descriptors(
            self._parameters,
            batch,
            geometry,
            invariants_only=invariants_only,
            num_layers=num_layers,
        )
        return np.asarray(features)[: len(geometry[0])]
