"""MACE in JAX-MD: the neighbour list and the energy function of a bundle, for its simulators.

JAX-MD's dense lists are used as they are: the neighbours of an atom are a row of ours.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax_md import partition
from numpy.typing import ArrayLike, NDArray

from mace_jax.architecture import READOUT_IRREPS
from mace_jax.artifacts.batch_plan import Caps
from mace_jax.artifacts.model_bundle import ModelBundle, read_model_bundle
from mace_jax.batching.graph import Graph
from mace_jax.batching.graph_batch import GraphBatch, pad_batch
from mace_jax.batching.neighbor_table import NeighborTable
from mace_jax.errors import ConfigError, DataError
from mace_jax.model.backend import FROZEN
from mace_jax.model.load import graph_builder, load_model
from mace_jax.structures.neighbor_list import PairList
from mace_jax.structures.structure import Structure

EnergyFn = Callable[..., Array]
_NO_PAIRS = PairList(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 3), np.int32))


def mace_neighbor_list(
    displacement: Callable[..., Array],
    box: ArrayLike | None,
    model: Path | str,
    atomic_numbers: Sequence[int] | NDArray[np.integer],
    *,
    head: str | None = None,
    dtype: str | None = None,
    inputs: Mapping[str, ArrayLike] | None = None,
    dr_threshold: float = 0.5,
    **neighbor_options: Any,
) -> tuple[partition.NeighborListFns, EnergyFn]:
    """Return JAX-MD's functions of a bundle, as those of its ``energy`` module.

    ``neighbor = neighbor_fn.allocate(R)`` and ``neighbor.update(R)`` make neighbour lists, and
    ``energy_fn(R, neighbor=neighbor)`` is the energy, eV, with E0s; it can be differentiated, and
    takes ``box`` and ``perturbation`` where ``displacement`` does. It is NaN, as are its
    derivatives, where the list has overflowed or the box is narrower than two cutoffs.

    Args:
        displacement: of ``jax_md.space``; Å.
        box: Å, as in ``jax_md.partition.neighbor_list``; None for molecules in free space.
        model: the bundle.
        atomic_numbers: of the atoms, ``[n]``.
        head: readout head; by default the only one.
        dtype: ``float32`` or ``float64``, of the network; by default the bundle's. The energy has
            that of the positions: in float32 the E0s leave it few digits.
        inputs: what else the model is told, such as ``{"total_charge": -1}``.
        dr_threshold: what the list reaches beyond the cutoff, Å.
        neighbor_options: of ``jax_md.partition.neighbor_list``, such as
            ``fractional_coordinates`` and ``capacity_multiplier``.

    Raises:
        ArtifactError: the bundle is missing or damaged.
        ConfigError: the model is one of dipoles, the head or dtype is impossible, float64 is off
            in jax, or the box is not upper triangular or narrower than two cutoffs: JAX-MD knows
            the nearest image alone.
        DataError: the model lacks an element or an input; by ``energy_fn``, the number of atoms is
            another one.
    """
    bundle = _bundle(Path(model), head, dtype)
    r_max = bundle.config.r_max
    if box is not None:
        _check_box(np.asarray(box, np.float64), r_max)
    graph = _graph(bundle, np.asarray(atomic_numbers), head, inputs or {})
    free = {"disable_cell_list": True} if box is None else {}
    neighbor_fn = partition.neighbor_list(
        displacement,
        1.0 if box is None else box,
        r_max,
        dr_threshold,
        format=partition.Dense,
        **(free | neighbor_options),
    )
    return neighbor_fn, _energy_fn(bundle, str(model), graph, displacement)


def _energy_fn(
    bundle: ModelBundle, source: str, graph: Graph, displacement: Callable[..., Array]
) -> EnergyFn:
    """Return the energy of a graph's atoms as a function of positions and neighbours."""
    network: Any = load_model(bundle, source, FROZEN)
    n, r_max = len(graph.structure), bundle.config.r_max
    caps = Caps(n_node=n + 1, n_edge=2, n_graph=2, n_neighbor=1, n_row=n + 1)
    atoms = jax.tree.map(jnp.asarray, pad_batch([graph], caps, bundle.dtype))
    atomic_energies = -graph.interaction_energy  # of a structure whose energy is 0

    def energy_fn(R: Array, neighbor: partition.NeighborList, **kwargs: Any) -> Array:
        if not len(R) == len(neighbor.idx) == n:
            message = (
                f"atoms: {len(R)} positions and a list of {len(neighbor.idx)}, expected {n}, as "
                "there are atomic numbers; use the list of neighbor_fn"
            )
            raise DataError(message)
        batch = _with_neighbors(atoms, neighbor.idx)
        ends = (batch.pair_receivers, batch.pair_senders)
        vectors = jax.vmap(lambda a, b: displacement(a, b, **kwargs))(
            *(R.at[atom].get(mode="clip") for atom in ends)
        ).astype(bundle.dtype)
        near = batch.pair_mask & ((vectors**2).sum(axis=1) < r_max**2)
        vectors = jnp.where(near[:, None], vectors, 2 * r_max)
        energy = network(vectors, batch._replace(pair_mask=near)).sum().astype(R.dtype)
        valid = (neighbor.did_buffer_overflow | neighbor.cell_size_too_small) == 0
        if "box" in kwargs:
            valid &= _width(kwargs["box"]) >= 2 * r_max
        return (energy + atomic_energies) * jnp.where(valid, 1, jnp.nan).astype(R.dtype)

    return energy_fn


def _with_neighbors(atoms: GraphBatch, idx: Array) -> GraphBatch:
    """Return a padded graph of ``n`` atoms with the neighbours of JAX-MD's dense list.

    Args:
        atoms: whose last atom is padding.
        idx: neighbours of each atom, ``[n, k]``; n where there is none.
    """
    n, idx = len(idx), idx.astype(jnp.int32)
    width = max(idx.shape[1], 1)
    idx = jnp.full((n + 1, width), n, jnp.int32).at[:n, : idx.shape[1]].set(idx)
    row = jnp.arange(n + 1, dtype=jnp.int32)[:, None]
    # rounding may leave a pair at the very end of the list in one row only
    matches = idx[idx] == row[:, :, None]
    real = (idx < n) & matches.any(axis=2)
    reverse = width * idx + matches.argmax(axis=2).astype(jnp.int32)
    first = real & (row < idx)
    number = jnp.cumsum(first, dtype=jnp.int32).reshape(first.shape) - 1
    n_pair = max(n * width // 2, 1)
    (slots,) = jnp.nonzero(first.ravel(), size=n_pair, fill_value=n * width)
    table: dict[str, Any] = {
        "row_node": row[:, 0],
        "slot_pair": jnp.where(real, jnp.where(first, number, number.ravel()[reverse]), 0),
        "slot_direction": jnp.where(first, 1, jnp.where(real, -1, 0)).astype(jnp.int8),
        "pair_slots": jnp.stack([slots, reverse.ravel()[slots]], axis=1),
    }
    return atoms._replace(
        pair_receivers=slots // width,
        pair_senders=idx.ravel()[slots],
        pair_mask=jnp.arange(n_pair) <= number[-1, -1],
        table=NeighborTable(**table),
    )


def _bundle(path: Path, head: str | None, dtype: str | None) -> ModelBundle:
    """Read the bundle, in ``dtype``, and check that it can be simulated."""
    bundle = read_model_bundle(path)
    if bundle.config.model in READOUT_IRREPS:
        message = f"{path}: {bundle.config.model}, expected MACE or ScaleShiftMACE; use ASE"
        raise ConfigError(message)
    if dtype not in (None, "float32", "float64"):
        message = f"dtype: {dtype!r}, expected 'float32' or 'float64'; correct the dtype"
        raise ConfigError(message)
    if head not in bundle.heads and (head is not None or len(bundle.heads) > 1):
        message = f"head: {head!r}, expected one of {list(bundle.heads)}; correct the head"
        raise ConfigError(message)
    bundle = bundle if dtype is None else bundle.astype(dtype)
    if bundle.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        message = (
            f"{path}: float64, which jax has turned off; "
            'jax.config.update("jax_enable_x64", True), or dtype="float32"'
        )
        raise ConfigError(message)
    return bundle


def _check_box(box: NDArray[np.float64], r_max: float) -> None:
    """Check that JAX-MD finds every pair of the cutoff in a box."""
    if box.ndim == 2 and np.tril(box, -1).any():
        message = (
            "box: not upper triangular, as JAX-MD's lists need it; "
            "use atoms.cell.standard_form()[0].array.T and fractional coordinates"
        )
        raise ConfigError(message)
    width = float(_width(box))
    if width < 2 * r_max:
        message = (
            f"box: {width:.3f} Å wide, expected at least two cutoffs, {2 * r_max} Å, as JAX-MD "
            "sees one image of an atom; repeat the cell, or simulate with ASE"
        )
        raise ConfigError(message)


def _graph(
    bundle: ModelBundle,
    atomic_numbers: NDArray[np.integer],
    head: str | None,
    inputs: Mapping[str, ArrayLike],
) -> Graph:
    """Return the atoms as a graph without pairs.

    Raises:
        DataError: the model lacks an element or an input.
    """
    structure = Structure(
        atomic_numbers.astype(np.int64),
        np.zeros((len(atomic_numbers), 3)),
        np.zeros((3, 3)),
        np.zeros(3, bool),
        properties={"energy": np.zeros(())},
        place="atoms",
        inputs={name: np.asarray(value, np.float64) for name, value in inputs.items()},
    )
    return graph_builder(bundle).build_all([structure], [_NO_PAIRS], head=head)[0]


def _width(box: Any) -> Any:
    """Return the least distance between opposite faces of a box of JAX-MD, Å.

    Args:
        box: an edge, ``[]``; three, ``[3]``; or lattice vectors as columns, ``[3, 3]``.
    """
    if jnp.ndim(box) < 2:
        return jnp.min(jnp.asarray(box))
    return 1 / jnp.linalg.norm(jnp.linalg.inv(jnp.asarray(box)), axis=1).max()
