"""Non-linearity of features: scalars by themselves, everything else times a scalar."""

from mace_jax.equivariance.irreps import SCALAR, Irreps
from mace_jax.model.activation import normalized_activation
from mace_jax.model.irreps import Features


def gated(features: Features, irreps: Irreps, scalars: str, gates: str) -> Features:
    """Apply a gate.

    Args:
        features: of ``gate_input(irreps)``: among the scalars, those of the result come first,
            then one gate for each channel that is not a scalar.
        irreps: of the result.
        scalars: activation of the scalars.
        gates: activation of the gates.

    Returns: ``[n, 2l+1, channels]`` per irrep of ``irreps``.

    Source: mace-torch ``GatedEquivariantBlock``, e3nn ``Gate``.
    """
    start = irreps.get(SCALAR, 0)
    result: Features = {}
    for irrep, channels in irreps.items():
        if irrep == SCALAR:
            result[irrep] = normalized_activation(scalars)(features[SCALAR][..., :channels])
        else:
            gate = features[SCALAR][..., start : start + channels]
            result[irrep] = features[irrep] * normalized_activation(gates)(gate)
            start += channels
    return result
