"""Distances to numbers: distance transforms, radial bases and the envelope."""

import jax.numpy as jnp
import numpy as np
from ase.data import covalent_radii
from flax import nnx
from jax import Array

from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.model.constant import Constant, constant


def polynomial_cutoff(lengths: Array, r_max: Array | float, p: int) -> Array:
    """Return an envelope that goes from 1 to 0 at ``r_max`` with two vanishing derivatives.

    Args:
        lengths: Å, ``[n_pair]``.
        r_max: cutoff, Å, of all edges or each.
        p: order of the polynomial.

    Returns: ``[n_pair]``; exactly 0 from ``r_max`` on.

    Source: Gasteiger et al. 2020, eq. 8; mace-torch ``PolynomialCutoff``.
    """
    x = lengths / r_max
    envelope = (
        1
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2)
    )
    return jnp.where(x < 1, envelope, 0)


class BesselBasis(nnx.Module):
    """sqrt(2 / r_max) sin(n π r / r_max) / r for n = 1 … num_basis.

    Source: Batatia et al. 2022, eq. 7; mace-torch class of the same name.
    """

    def __init__(self, r_max: float, num_basis: int, *, dtype: str) -> None:
        """Keep the frequencies n π / r_max."""
        self.r_max = r_max
        self.bessel_weights = constant(np.pi / r_max * np.arange(1, num_basis + 1), dtype)

    def __call__(self, lengths: Array) -> Array:
        """Map ``[n_pair]``, none zero, to ``[n_pair, num_basis]``."""
        lengths = lengths[:, None]
        prefactor = jnp.asarray((2 / self.r_max) ** 0.5, lengths.dtype)
        return prefactor * jnp.sin(self.bessel_weights[...] * lengths) / lengths


class GaussianBasis(nnx.Module):
    """Gaussians centred between 0 and r_max, as wide as they are apart.

    Source: mace-torch class of the same name.
    """

    def __init__(self, r_max: float, num_basis: int, *, dtype: str) -> None:
        """Keep the centres."""
        self.width = r_max / (num_basis - 1)
        self.gaussian_weights = constant(np.linspace(0, r_max, num_basis), dtype)

    def __call__(self, lengths: Array) -> Array:
        """Map ``[n_pair]`` to ``[n_pair, num_basis]``."""
        return jnp.exp(-0.5 / self.width**2 * (lengths[:, None] - self.gaussian_weights[...]) ** 2)


class ChebychevBasis(nnx.Module):
    """Chebyshev polynomials T_1 … T_num_basis of the distance in Å.

    Source: mace-torch class of the same name, whose forces lack this basis' derivative.
    """

    def __init__(self, r_max: float, num_basis: int, *, dtype: str) -> None:  # noqa: ARG002
        """Keep the number of functions; they do not depend on the cutoff."""
        self.num_basis = num_basis

    def __call__(self, lengths: Array) -> Array:
        """Map ``[n_pair]`` to ``[n_pair, num_basis]``."""
        values = [jnp.ones_like(lengths), lengths]
        for _ in range(self.num_basis - 1):
            values.append(2 * lengths * values[-1] - values[-2])
        return jnp.stack(values[1:], axis=-1)


class AgnesiTransform(nnx.Module):
    """Distances relative to the covalent radii, mapped to 1 … 0.

    Source: Witt et al. 2023 (doi 10.1063/5.0158783); mace-torch class of the same name.
    """

    def __init__(self, atomic_numbers: tuple[int, ...], *, dtype: str) -> None:
        """Keep the constants and the covalent radii of the elements."""
        self.q, self.p, self.a = (constant(value, dtype) for value in (0.9183, 4.5791, 1.0805))
        self.covalent_radii = element_radii(atomic_numbers, dtype)

    def __call__(self, lengths: Array, sender_species: Array, receiver_species: Array) -> Array:
        """Map ``[n_pair]`` of edges between the given species, each ``[n_pair]``."""
        radii = self.covalent_radii[...]
        x = 2 * lengths / (radii[sender_species] + radii[receiver_species])
        q, p, a = self.q[...], self.p[...], self.a[...]
        return 1 / (1 + a * x**q / (1 + x ** (q - p)))


class SoftTransform(nnx.Module):
    """Distances clamped smoothly to three quarters of the sum of covalent radii.

    Source: mace-torch class of the same name.
    """

    def __init__(self, atomic_numbers: tuple[int, ...], *, dtype: str) -> None:
        """Keep the steepness and the covalent radii of the elements."""
        self.alpha = constant(4.0, dtype)
        self.covalent_radii = element_radii(atomic_numbers, dtype)

    def __call__(self, lengths: Array, sender_species: Array, receiver_species: Array) -> Array:
        """Map ``[n_pair]`` of edges between the given species, each ``[n_pair]``."""
        radii = self.covalent_radii[...]
        r_0 = radii[sender_species] + radii[receiver_species]
        low, high = 3 / 4 * r_0, 4 / 3 * r_0
        steepness = self.alpha[...] / (high - low)
        switch = (1 + jnp.tanh(steepness * (lengths - (low + high) / 2))) / 2
        return low + (lengths - low) * switch


def element_radii(atomic_numbers: tuple[int, ...], dtype: str) -> Constant:
    """Return the covalent radii of the model's elements, Å."""
    return constant(covalent_radii[list(atomic_numbers)], dtype)


_BASES = {"bessel": BesselBasis, "gaussian": GaussianBasis, "chebyshev": ChebychevBasis}
_TRANSFORMS = {"Agnesi": AgnesiTransform, "Soft": SoftTransform}


class RadialEmbeddingBlock(nnx.Module):
    """Radial basis of the transformed distance, and the envelope of the distance itself.

    Source: mace-torch class of the same name.
    """

    def __init__(self, config: ModelConfig, *, dtype: str) -> None:
        """Build the block."""
        self.r_max, self.p = config.r_max, config.num_polynomial_cutoff
        self.apply_cutoff = config.apply_cutoff
        basis = _BASES[config.radial_type]
        self.bessel_fn = basis(config.r_max, config.num_bessel, dtype=dtype)
        transform = _TRANSFORMS.get(config.distance_transform)
        self.distance_transform = transform and transform(config.atomic_numbers, dtype=dtype)

    def __call__(
        self, lengths: Array, sender_species: Array, receiver_species: Array
    ) -> tuple[Array, Array]:
        """Return the basis ``[n_pair, num_bessel]`` and what multiplies messages, ``[n_pair, 1]``.

        The latter is the envelope where it is not part of the basis, and else tells which edges
        are shorter than the cutoff: longer ones never count.
        """
        envelope = polynomial_cutoff(lengths, self.r_max, self.p)[:, None]
        within = (lengths < self.r_max)[:, None]
        if self.distance_transform is not None:
            lengths = self.distance_transform(lengths, sender_species, receiver_species)
        basis = self.bessel_fn(lengths)
        if not self.apply_cutoff:
            return basis, envelope
        return basis * envelope, within.astype(basis.dtype)
