"""One step on several devices: each computes its own batch of a group, and all agree on the sums.

The state is the same on every device. With one device everything here is the identity.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import islice
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.errors import ConfigError, IncompatibleError
from mace_jax.model.compiling import jit
from mace_jax_train.processes import Processes

Tree = TypeVar("Tree")
Item = TypeVar("Item")

_AXIS = "process"


@dataclass(frozen=True)
class Devices:
    """The devices that train together, those of all processes.

    Attributes:
        mesh: one axis of all devices, or None: there is one, and no sum to agree on.
        processes: that have them.
    """

    mesh: Mesh | None = None
    processes: Processes = field(default_factory=Processes)

    @property
    def n_batch(self) -> int:
        """Batches of a group, one for each device: the ``processes`` of a plan."""
        return self.mesh.size if self.mesh else 1

    @cached_property
    def own(self) -> tuple[int, ...]:
        """Places in a group of the batches that this process makes."""
        if self.mesh is None:
            return (0,)
        here, devices = self.processes.index, enumerate(self.mesh.devices.flat)
        return tuple(place for place, device in devices if device.process_index == here)

    def group(self, index: int) -> range:
        """Return all batches of the group that batch ``index`` of the plan belongs to."""
        first = index - index % self.n_batch
        return range(first, first + self.n_batch)

    def compiled(self, step: Callable[[Any, Any], Any], *, donate: bool = False) -> Any:
        """Compile a function of a state and a batch.

        Args:
            step: its results must be the same on all devices: made of the state and of
                what ``total`` returns.
            donate: whether the memory of the state is given away.

        Returns: what ``jax.jit`` does, for a state from ``replicated`` and a batch from ``put``.
        """
        donated = (0,) if donate else ()
        if self.mesh is None:
            return jit(step, donate_argnums=donated)

        def on_each(state: Any, group: Any) -> Any:
            return step(state, jax.tree.map(lambda leaf: leaf[0], group))

        on_all = jax.shard_map(
            on_each,
            mesh=self.mesh,
            in_specs=(PartitionSpec(), PartitionSpec(_AXIS)),
            out_specs=PartitionSpec(),
            # with it, a gradient by what is replicated would be summed already, without weights
            check_vma=False,
        )
        return jit(on_all, donate_argnums=donated)

    def total(self, sums: Tree, n_graph: Array) -> Tree:
        """Add up over the batches of a group, inside a step.

        Args:
            sums: of a batch; those of an empty one count as 0, whatever they are.
            n_graph: graphs of the batch.
        """
        if self.mesh is None:
            return sums
        counted = jax.tree.map(lambda leaf: jnp.where(n_graph > 0, leaf, 0), sums)
        flat, unflatten = ravel_pytree(counted)  # one message instead of one for each array
        return unflatten(jax.lax.psum(flat, _AXIS))

    def replicated(self, state: Tree) -> Tree:
        """Put what all processes have alike on all devices.

        Raises:
            IncompatibleError: the processes do not have the same.
        """
        if self.mesh is None:
            return state
        try:
            return jax.device_put(state, NamedSharding(self.mesh, PartitionSpec()))
        except AssertionError as error:  # how jax says so
            message = (
                "the processes do not begin with the same numbers; start them on machines of one "
                "kind, with the same files and options"
            )
            raise IncompatibleError(message) from error

    def groups(self, items: Iterable[Item]) -> Iterator[Sequence[Item]]:
        """Yield what a loader of ``own`` batches yields, as many at a time as a step takes."""
        items = iter(items)
        while group := tuple(islice(items, len(self.own))):
            yield group

    def put(self, batches: Sequence[GraphBatch]) -> GraphBatch:
        """Send this process's batches of a group to its devices.

        A step on the CPU reads the loader's arrays where they are: at once and at no cost.
        """
        if self.mesh is None:
            (batch,) = batches
            return batch if jax.default_backend() == "cpu" else jax.device_put(batch)
        return _spread(self.mesh, [jax.tree.map(np.asarray, batch) for batch in batches])

    def added(self, counts: Sequence[Sequence[int]]) -> Any:
        """Add up what is counted for each device, over all of them, without waiting for it.

        Args:
            counts: of each of this process's devices.

        Returns: the sums, an array that can be fetched later.
        """
        rows = [np.array(row, np.int32) for row in counts]
        return sum(rows) if self.mesh is None else _summing(self.mesh)(_spread(self.mesh, rows))


@cache
def _summing(mesh: Mesh) -> Any:
    """Return the compiled sum over devices."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda rows: rows.sum(axis=0, dtype=rows.dtype), out_shardings=everywhere)


def _spread(mesh: Mesh, trees: Sequence[Tree]) -> Tree:
    """Give each of this process's devices its own; a first axis is that of all devices."""
    sharding = NamedSharding(mesh, PartitionSpec(_AXIS))

    def spread(*leaves: Any) -> Array:
        local = np.stack(leaves)
        shape = (mesh.size, *local.shape[1:])
        return jax.make_array_from_process_local_data(sharding, local, shape)

    return jax.tree.map(spread, *trees)


ONE_DEVICE = Devices()


def all_devices(processes: Processes) -> Devices:
    """Return all devices that jax has, in all processes; the ``device`` has been chosen before.

    Raises:
        ConfigError: the processes have different numbers of them.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = np.bincount([device.process_index for device in devices])
    if len(set(counts)) > 1:
        message = (
            f"devices of the processes: {counts.tolist()}, expected as many in each; "
            "set CUDA_VISIBLE_DEVICES or JAX_LOCAL_DEVICE_IDS"
        )
        raise ConfigError(message)
    return Devices(Mesh(np.array(devices), (_AXIS,)), processes) if len(devices) > 1 else ONE_DEVICE
