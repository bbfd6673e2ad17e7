"""What the records of torch, e3nn and mace modules hold: children, tensors, irreps, weights."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import ArtifactError
from mace_jax_convert.torch_archive import Record


def child(module: Record, *names: str) -> Record:
    """Return a submodule by path.

    Raises:
        ArtifactError: there is none of that name.
    """
    for name in names:
        children = module.state.get("_modules", {})
        if name not in children:
            message = f"{module.short_name} has no submodule {name!r}; the file is damaged"
            raise ArtifactError(message)
        module = children[name]
    return module


def has_child(module: Record, name: str) -> bool:
    """Return whether a module has a submodule of that name."""
    return name in module.state.get("_modules", {})


def children(module: Record, name: str) -> list[Record]:
    """Return the entries of a ``ModuleList``."""
    return list(child(module, name).state.get("_modules", {}).values())


def tensor(module: Record, name: str) -> NDArray[Any]:
    """Return a parameter or buffer.

    Raises:
        ArtifactError: there is none of that name.
    """
    for group in ("_parameters", "_buffers"):
        value = module.state.get(group, {}).get(name)
        if isinstance(value, np.ndarray):
            return value
    message = f"{module.short_name} has no tensor {name!r}; the file is damaged"
    raise ArtifactError(message)


def attribute(module: Record, name: str, default: Any = None) -> Any:
    """Return a plain attribute; files of older versions lack some, hence the default."""
    return module.state.get(name, default)


def irreps(value: Any) -> list[tuple[int, str]]:
    """Return irreps as (multiplicity, name), such as ``[(8, "0e"), (8, "1o")]``."""
    if isinstance(value, str):
        pairs = [entry.split("x") for entry in value.replace(" ", "").split("+")]
        return [(int(multiplicity), name) for multiplicity, name in pairs]
    (entries,) = value.args
    return [(multiplicity, irrep_name(irrep)) for multiplicity, irrep in map(_pair, entries)]


def irrep_name(record: Record) -> str:
    """Return the name of an e3nn ``Irrep``, such as ``1o``."""
    ell, parity = _pair(record)
    return f"{ell}{'e' if parity == 1 else 'o'}"


def irreps_text(value: list[tuple[int, str]]) -> str:
    """Return irreps as text, such as ``8x0e + 8x1o``."""
    return " + ".join(f"{multiplicity}x{name}" for multiplicity, name in value)


def _pair(record: Record) -> tuple[Any, Any]:
    """Return the two items of a tuple subclass, given singly or as one tuple."""
    first, second = record.args[0] if len(record.args) == 1 else record.args
    return first, second


def linear_weights(module: Record) -> dict[str, NDArray[Any]]:
    """Return the matrices of an e3nn ``Linear``: irrep -> ``[inputs, outputs]``.

    Its weight is one row of blocks, input irreps outside and output irreps inside; inputs of the
    same irrep are stacked.
    """
    flat = tensor(module, "weight")
    blocks: dict[str, list[NDArray[Any]]] = {}
    start = 0
    for n_in, name_in in irreps(attribute(module, "irreps_in")):
        for n_out, name_out in irreps(attribute(module, "irreps_out")):
            if name_in == name_out:
                block = flat[start : start + n_in * n_out].reshape(n_in, n_out)
                blocks.setdefault(name_out, []).append(block)
                start += n_in * n_out
    _require_used_up(module, flat, start)
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def species_linear_weights(module: Record) -> dict[str, NDArray[Any]]:
    """Return the weights of a ``FullyConnectedTensorProduct`` with the elements' one-hot.

    Returns: irrep -> ``[inputs, n_elements, outputs]``.
    """
    flat = tensor(module, "weight")
    ((n_elements, _),) = irreps(attribute(module, "irreps_in2"))
    outputs = irreps(attribute(module, "irreps_out"))
    weights = {}
    start = 0
    for n_in, name_in in irreps(attribute(module, "irreps_in1")):
        for n_out, name_out in outputs:
            if name_in == name_out:
                size = n_in * n_elements * n_out
                weights[name_in] = flat[start : start + size].reshape(n_in, n_elements, n_out)
                start += size
    _require_used_up(module, flat, start)
    return weights


def _require_used_up(module: Record, flat: NDArray[Any], used: int) -> None:
    if used != flat.size:
        message = (
            f"{module.short_name}: {flat.size} weights, expected {used} from its irreps; "
            "the file is damaged or of another version"
        )
        raise ArtifactError(message)
