"""What the records of torch, e3nn, NumPy and mace objects hold: children, tensors, irreps."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mace_jax.equivariance.irreps import Irrep, Irreps
from mace_jax.errors import ArtifactError
from mace_jax.torch_models.torch_archive import Record

State = dict[str, NDArray[Any]]

_MAX_MODULES = 20_000  # a model of two layers has 200
_MAX_NAME = 500  # letters of a module's full name


def child(module: Record, *names: str) -> Record:
    """Return a submodule by path.

    Raises:
        ArtifactError: there is none of that name.
    """
    for name in names:
        found = _modules(module).get(name)
        if not isinstance(found, Record):
            message = f"{module.short_name} has no submodule {name!r}; the file is damaged"
            raise ArtifactError(message)
        module = found
    return module


def has_child(module: Record, name: str) -> bool:
    """Return whether a module has a submodule of that name."""
    return _modules(module).get(name) is not None


def children(module: Record, name: str) -> list[Any]:
    """Return the entries of a ``ModuleList``."""
    return list(_modules(child(module, name)).values())


def attribute(module: Record, name: str, default: Any = None) -> Any:
    """Return a plain attribute; files of older versions lack some, hence the default."""
    return module.state.get(name, default)


def submodules(module: Record) -> dict[str, Record]:
    """Return a module and all below it by name, as torch's ``named_modules``.

    Raises:
        ArtifactError: there are more than any model has; few bytes can stand for endless many.
    """
    found = {"": module}
    waiting = [""]
    while waiting:
        name = waiting.pop()
        for child_name, submodule in _modules(found[name]).items():
            if isinstance(submodule, Record):
                full_name = f"{name}.{child_name}" if name else str(child_name)
                found[full_name] = submodule
                waiting.append(full_name)
        if len(found) > _MAX_MODULES or len(name) > _MAX_NAME:
            message = "modules in modules without end; the file is damaged"
            raise ArtifactError(message)
    return found


def state_dict(model: Record) -> State:
    """Return the tensors of a model by their names in torch's state dict."""
    state: State = {}
    for name, module in submodules(model).items():
        for group in ("_parameters", "_buffers"):
            tensors = module.state.get(group) if isinstance(module.state, dict) else None
            for tensor, value in (tensors or {}).items():
                if isinstance(value, np.ndarray):
                    state[f"{name}.{tensor}" if name else str(tensor)] = value
    return state


def _modules(module: Record) -> dict[str, Any]:
    state = module.state
    return (state.get("_modules") or {}) if isinstance(state, dict) else {}


def irreps_text(value: Any) -> str:
    """Return irreps, given as text or as an e3nn record, as text such as ``8x0e + 8x1o``."""
    if isinstance(value, str):
        return value.replace(" ", "").replace("+", " + ")
    (entries,) = value.args
    pairs = [_pair(entry) for entry in entries]
    return " + ".join(f"{channels}x{Irrep(*_pair(irrep))}" for channels, irrep in pairs)


def irreps(value: Any) -> Irreps:
    """Return irreps, given as text or as an e3nn record."""
    return Irreps.parse(irreps_text(value), "irreps")


def _pair(record: Record) -> tuple[Any, Any]:
    """Return the two items of a tuple subclass, given singly or as one tuple."""
    first, second = record.args[0] if len(record.args) == 1 else record.args
    return first, second


def function_name(value: Any) -> str:
    """Return the last part of the name of torch's functions, such as ``silu``; ``None`` for none.

    torch pickles some of them as ``getattr(owner, name)``. Others keep their full name.
    """
    if value is None:
        return "None"
    if isinstance(value, str):
        return value.rsplit(".", 1)[-1]
    owner, name = value.class_name.rsplit(".", 1)
    if isinstance(value, Record) and name == "getattr":
        owner, name = str(getattr(value.args[0], "class_name", "")), str(value.args[-1])
    return name if owner.startswith(("torch.", "mace.")) else f"{owner}.{name}"


def number(value: Any) -> float:
    """Return a number given as such, as a tensor, or as a NumPy scalar's record."""
    if isinstance(value, Record) or np.size(value) == 1:
        return float(numpy_array(value).item())
    message = f"{value!r} is not a number"
    raise ArtifactError(message)


def numpy_array(value: Any) -> NDArray[Any]:
    """Return a tensor, list, number, or the record of a NumPy array or scalar, as an array."""
    if not isinstance(value, Record):
        return np.asarray(value)
    if value.short_name == "scalar":
        dtype, content = value.args
        return np.frombuffer(_raw(content), _numeric_dtype(dtype), count=1).reshape(())
    if value.short_name == "_reconstruct":
        _, shape, dtype, fortran, content = value.state
        array = np.frombuffer(_raw(content), _numeric_dtype(dtype))
        return array.reshape(shape, order="F" if fortran else "C")
    message = f"{value.class_name} is not an array"
    raise ArtifactError(message)


def _numeric_dtype(record: Record) -> np.dtype[Any]:
    dtype = np.dtype(str(record.args[0]))
    if dtype.kind not in "biuf":
        message = f"dtype {record.args[0]} is not a number"
        raise ArtifactError(message)
    big_endian = isinstance(record.state, tuple) and record.state[1] == ">"
    return dtype.newbyteorder(">" if big_endian else "<")


def _raw(content: Any) -> bytes:
    """Return bytes; Python 2 pickles carry them as latin-1 text."""
    if isinstance(content, Record):  # _codecs.encode(text, "latin1")
        return str(content.args[0]).encode("latin-1")
    return content.encode("latin-1") if isinstance(content, str) else bytes(content)
