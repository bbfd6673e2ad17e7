"""Read a ``torch.save`` file without torch and without running anything it contains.

The file is a zip archive with a pickle and raw storages. The pickle is read by an unpickler that
rebuilds tensors as NumPy arrays and plain data as it is; every other class becomes an inert
``Record`` of its name, arguments and state. Nothing is imported or called on the file's behalf.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import ArtifactError

_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class Record:
    """What is left of an object of a class that is never imported.

    Attributes:
        class_name: full name of the class, such as ``mace.modules.models.MACE``.
        args: what it was constructed from.
        state: what would have been set on it, usually a dictionary.
        items: what would have been put into it, were it a list or dictionary.
    """

    class_name: ClassVar[str] = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Record":
        """Keep the arguments."""
        record = super().__new__(cls)
        record.args = (*args, *kwargs.values())
        record.state = {}
        record.items = []
        return record

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: all is kept by ``__new__``, which pickle may call alone."""

    args: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep an entry of a dictionary-like object."""
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Keep an entry of a list-like object."""
        self.items.append(value)

    def extend(self, values: Any) -> None:
        """Keep entries of a list-like object."""
        self.items.extend(values)

    @property
    def short_name(self) -> str:
        """Return the class name without its module."""
        return self.class_name.rsplit(".", 1)[-1]


def read_torch_archive(path: Path) -> Any:
    """Return the object of a ``torch.save`` file, with every class an inert ``Record``.

    Raises:
        ArtifactError: it is missing, damaged, or not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_pickle(archive, path)
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); check the path"
        raise ArtifactError(message) from error
    except zipfile.BadZipFile as error:
        message = f"{path}: not a torch.save file ({error}); save the model with torch >= 1.6"
        raise ArtifactError(message) from error


def _read_pickle(archive: zipfile.ZipFile, path: Path) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        message = f"{path}: {len(pickles)} data.pkl entries, expected one; not a torch.save file"
        raise ArtifactError(message)
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        message = f"{path}: big-endian storages, expected little-endian; save it again"
        raise ArtifactError(message)
    unpickler = _InertUnpickler(io.BytesIO(archive.read(pickles[0])), archive, root)
    try:
        return unpickler.load()
    except ArtifactError as error:
        message = f"{path}: {error}"
        raise ArtifactError(message) from error
    except Exception as error:  # a damaged pickle can raise anything
        message = f"{path}: damaged ({type(error).__name__}: {error}); get the file again"
        raise ArtifactError(message) from error


class _InertUnpickler(pickle.Unpickler):
    """Rebuilds tensors and plain containers; everything else becomes a ``Record``."""

    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file, encoding="utf-8")
        self._archive, self._root = archive, root
        self._records: dict[tuple[str, str], type[Record]] = {}
        self._rebuild: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }

    def find_class(self, module: str, name: str) -> Any:
        key = (module, name)
        if key in self._rebuild:
            return self._rebuild[key]
        if key not in self._records:
            self._records[key] = type("Record", (Record,), {"class_name": f"{module}.{name}"})
        return self._records[key]

    def persistent_load(self, reference: Any) -> NDArray[Any]:
        _, storage_class, key, _, size = reference
        dtype = _STORAGE_DTYPES.get(storage_class.class_name.rsplit(".", 1)[-1])
        if dtype is None:
            message = f"storage {storage_class.class_name} is not supported"
            raise ArtifactError(message)
        storage = np.frombuffer(self._archive.read(f"{self._root}data/{key}"), dtype=dtype)
        if len(storage) != size:
            message = f"storage {key} holds {len(storage)} numbers, expected {size}"
            raise ArtifactError(message)
        return storage


def _rebuild_tensor(
    storage: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> NDArray[Any]:
    """Return a copy of the part of ``storage`` that the tensor views."""
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    repeats = math.prod(shape) > len(storage)  # a copy could be of any size
    if offset < 0 or min(strides, default=0) < 0 or last >= len(storage) or repeats:
        message = f"tensor of shape {shape} reaches outside its storage of {len(storage)} numbers"
        raise ArtifactError(message)
    byte_strides = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides).copy()


def _rebuild_parameter(data: NDArray[Any], *_: Any) -> NDArray[Any]:
    return data
