"""The repulsion of nuclei at short distances."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from mace_jax.batching.graph_batch import GraphBatch
from mace_jax.model.constant import constant
from mace_jax.model.neighbors import nodes_from_rows, slots_from_pairs
from mace_jax.model.radial import element_radii, polynomial_cutoff


class ZBLBasis(nnx.Module):
    """Ziegler–Biersack–Littmark potential, cut off smoothly at the sum of covalent radii.

    Source: mace-torch class of the same name.
    """

    def __init__(self, atomic_numbers: tuple[int, ...], p: int, *, dtype: str) -> None:
        """Keep the constants; ``p`` is the order of the envelope."""
        self.p = p
        self.atomic_numbers = atomic_numbers
        self.c = constant([0.1818, 0.5099, 0.2802, 0.02817], dtype)
        self.a_exp = constant(0.300, dtype)
        self.a_prefactor = constant(0.4543, dtype)
        self.covalent_radii = element_radii(atomic_numbers, dtype)

    def __call__(self, lengths: Array, batch: GraphBatch) -> Array:
        """Return half the repulsion with all neighbours, eV, ``[n_node]``.

        Args:
            lengths: of the pairs, Å, ``[n_pair]``, not zero.
            batch: the graphs.
        """
        senders, receivers = batch.pair_senders, batch.pair_receivers
        numbers = jnp.asarray(self.atomic_numbers, lengths.dtype)[batch.species]
        radii = self.covalent_radii[...][batch.species]
        z_u, z_v = numbers[senders], numbers[receivers]
        exponent = self.a_exp[...]
        x = lengths * (z_u**exponent + z_v**exponent) / (self.a_prefactor[...] * 0.529)
        decay = jnp.asarray([3.2, 0.9423, 0.4028, 0.2016], lengths.dtype)
        screening = jnp.exp(-decay * x[:, None]) @ self.c[...]
        envelope = polynomial_cutoff(lengths, radii[senders] + radii[receivers], self.p)
        energy = 0.5 * 14.3996 * z_u * z_v / lengths * screening * envelope
        return nodes_from_rows(slots_from_pairs(energy, batch).sum(axis=1), batch)
