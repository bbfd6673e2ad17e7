"""Product bases in cuequivariance's layout, put back into that of e3nn.

There all weights of a product basis stand in one tensor, and the couplings are a list of terms
(weight, factors, result, coefficient) of the module's polynomial.
"""

from collections.abc import Iterator
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mace_jax.architecture import Layer, architecture
from mace_jax.artifacts.model_bundle import ModelConfig
from mace_jax.equivariance.couplings import count_full_couplings
from mace_jax.errors import ArtifactError
from mace_jax.torch_models.torch_archive import Record
from mace_jax.torch_models.torch_layout import weights_name
from mace_jax.torch_models.torch_modules import State, attribute, child, children, numpy_array

_TENSORS = ("weight", "projection")
_MAX_NUMBERS = 2**27  # of a dense coupling tensor; three factors of l up to 3 make 2**20


class _Term(NamedTuple):
    """A term of a product basis: coefficient times a weight times components of the features."""

    weight: int
    factors: tuple[int, ...]
    result: int
    coefficient: float


def e3nn_layout(model: Record, config: ModelConfig, state: State) -> State:
    """Return the tensors of a model with those of its product bases as e3nn's layout has them.

    Args:
        model: its record, which has the couplings.
        config: its hyper-parameters, but for ``use_reduced_cg``.
        state: its tensors; returned as it is if the layout is e3nn's.
    """
    products = children(model, "products")
    for index, layer in enumerate(architecture(config).layers):
        root = f"products.{index}.symmetric_contractions"
        if f"{root}.weight" not in state:
            continue
        module = child(products[index], "symmetric_contractions")
        replaced = dict(_product(module, layer, root, state))
        state = {
            name: array
            for name, array in state.items()
            if name not in [f"{root}.{tensor}" for tensor in _TENSORS]
        } | replaced
    return state


def _product(
    module: Record, layer: Layer, root: str, state: State
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield weights and coupling tensors under the names that e3nn's layout gives them.

    With a projection the weights are those of the full basis, in its order; without one each
    belongs to the one coupling that uses it.
    """
    weights = state[f"{root}.weight"]
    projection = state.get(f"{root}.projection")
    n_own = weights.shape[1] if projection is None else projection.shape[1]
    terms = list(_terms(module))
    n_seen = 0
    for k, target in enumerate(layer.output_irreps):
        for degree in range(layer.correlation, 0, -1):
            tensor = _coupling_tensor(terms, layer, k, degree, n_own)
            if projection is None:
                rows = np.flatnonzero(tensor.any(axis=tuple(range(tensor.ndim - 1))))
                tensor = tensor[..., rows]
            else:
                count = count_full_couplings(layer.message_irreps, target, degree)
                rows = np.arange(n_seen, n_seen + count)
                tensor = tensor @ projection[rows].T
            n_seen += len(rows)
            if len(rows):
                name = f"{root}.contractions.{k}"
                yield f"{name}.{weights_name(layer.correlation, degree)}", weights[:, rows]
                yield f"{name}.U_matrix_{degree}", tensor.astype(weights.dtype)
    if n_seen != weights.shape[1]:
        message = f"{root}.weight: {weights.shape[1]} couplings, expected {n_seen}"
        raise ArtifactError(message)


def _coupling_tensor(
    terms: list[_Term], layer: Layer, k: int, degree: int, n_weights: int
) -> NDArray[np.float64]:
    """Return ``[2l+1, dim, …, dim, n_weights]`` of the terms that lead to output ``k``."""
    outputs = list(layer.output_irreps)
    first = sum(irrep.dim for irrep in outputs[:k])
    dim = sum(irrep.dim for irrep in layer.message_irreps)
    if outputs[k].dim * dim**degree * n_weights > _MAX_NUMBERS:
        message = f"{n_weights} couplings of {degree} factors of {dim} components are too many"
        raise ArtifactError(message)
    tensor = np.zeros((outputs[k].dim, *[dim] * degree, n_weights))
    for term in terms:
        component = term.result - first
        if len(term.factors) == degree and 0 <= component < outputs[k].dim:
            orders = set(permutations(term.factors))
            for factors in orders:
                tensor[(component, *factors, term.weight)] += term.coefficient / len(orders)
    return tensor


def _terms(module: Record) -> Iterator[_Term]:
    """Yield the terms of a ``cuequivariance_torch.SymmetricContraction``."""
    polynomial = attribute(attribute(module, "etp"), "polynomial")
    for _, product in attribute(polynomial, "operations"):
        for path in attribute(product, "paths"):
            weight, *factors, result = attribute(path, "indices")
            coefficient = float(numpy_array(attribute(path, "coefficients")))
            yield _Term(weight, tuple(factors), result, coefficient)
