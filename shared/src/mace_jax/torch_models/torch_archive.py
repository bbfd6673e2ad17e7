"""Read a ``torch.save`` file without torch and without running anything it contains.

The file is a zip archive of a pickle and raw storages. Python's own unpickler is not used: even
with every class forbidden, a few bytes make it crash, hang or allocate gigabytes. The pickle is
read by a stack machine that knows the opcodes that ``torch.save`` writes and nothing else: plain
data stays what it is, tensors become read-only views of their storage, and everything else becomes
an inert ``Record`` of its name, arguments and state. Nothing is imported or called on the file's
behalf, no object of this process is within its reach, and memory is bounded before it is used.
"""

import functools
import io
import math
import pickletools
import stat
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from mace_jax.errors import ArtifactError

# A MACE model of 89 elements has a pickle of 0.25 MB with 13 thousand opcodes.
_MAX_PICKLE_BYTES = 2**26
_MAX_OPCODES = 1_000_000  # each makes an object of up to 300 bytes
_MAX_DIRECTORY_BYTES = 2**24  # of the zip archive; zipfile makes tenfold of it
_MAX_PROTOCOL = 5
_MAX_INTEGER_BITS = 512  # what fits is also a finite float
_MAX_NESTING = 100
_MAX_PARTS = 1_000_000
_MAX_DIMENSIONS = 32
_MAX_KEY = 8  # parts of a dictionary key
_LOCAL_HEADER_BYTES = 30  # before name and content of each zip entry
_MAX_NAME = 200  # letters of a class or module
_MESSAGE_LENGTH = 300

_ZIP_START = b"PK\x03\x04"
_SAVE = "give the file of torch.save(model, path)"
_AGAIN = "get the file again"
_OTHER_FORMATS = {
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": (
        "a torch.save file in the format before torch 1.6",
        "load it in torch and torch.save it again",
    ),
    **{bytes((0x80, protocol)): ("a plain pickle", _SAVE) for protocol in range(2, 6)},
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _SAVE),
    b"\x93NUMPY": ("a NumPy array", _SAVE),
    b"\x82\xa6header": ("a model bundle already", "use it as it is"),
    b"\x1f\x8b": ("a gzip file", "unpack it first"),
    b"\xfd7zXZ\x00": ("an xz file", "unpack it first"),
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file with git lfs pull"),
    b"<": ("a web page", "download the file itself"),
}

_STORAGE_DTYPES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}


class Global:
    """The name of a class or function that is never imported.

    Attributes:
        class_name: full name, such as ``torch.nn.functional.silu``.
    """

    __slots__ = ("class_name",)

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name


class Record:
    """What is left of an object of a class that is never imported.

    Attributes:
        class_name: full name of the class, such as ``mace.modules.models.MACE``.
        args: what it was constructed from.
        state: what would have been set on it, usually a dictionary.
        items: what would have been put into it, were it a list, set or dictionary.
    """

    __slots__ = ("args", "class_name", "items", "state")

    def __init__(self, class_name: str, args: Iterable[Any] = ()) -> None:
        self.class_name = class_name
        self.args: tuple[Any, ...] = tuple(args)
        self.state: Any = {}
        self.items: list[Any] = []

    @property
    def short_name(self) -> str:
        """Return the class name without its module."""
        return self.class_name.rsplit(".", 1)[-1]


def read_torch_archive(path: Path) -> Any:
    """Return the object of a ``torch.save`` file, with every class an inert ``Record``.

    Tensors are read-only and share the memory of their storage, which is read once.

    Raises:
        ArtifactError: it is missing, damaged, or not such a file.
    """
    try:
        _require_file(path)
        with _GuardedFile(io.FileIO(path)) as file:
            _require_zip(file)
            with zipfile.ZipFile(file) as archive:
                file.limit = None
                return _read_model(archive)
    except ArtifactError as error:
        message = f"{path}: {one_line(error)}"
        raise ArtifactError(message) from error
    except OSError as error:
        message = f"{path}: cannot be read ({one_line(error.strerror or error)}); check the path"
        raise ArtifactError(message) from error
    except Exception as error:  # a damaged file can raise anything
        message = f"{path}: damaged ({type(error).__name__}: {one_line(error)}); {_AGAIN}"
        raise ArtifactError(message) from error


def one_line(text: object) -> str:
    """Return a short text without line breaks and terminal codes, which the file may choose."""
    line = " ".join(str(text).split())
    if len(line) > _MESSAGE_LENGTH:  # keep the end, which says what to do
        line = f"{line[: _MESSAGE_LENGTH // 2]} ... {line[-_MESSAGE_LENGTH // 2 :]}"
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _refuse(what: str, advice: str = _AGAIN) -> NoReturn:
    message = f"{what}; {advice}"
    raise ArtifactError(message)


# The zip archive


class _GuardedFile(io.BufferedReader):
    """Refuses to read too much at once, as long as there is a limit.

    ``zipfile`` makes objects of the whole directory of an archive before anyone can look at it.
    """

    limit: int | None = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None and size is not None and size > self.limit:
            _refuse(f"a zip directory of {size} bytes, expected at most {self.limit}", _SAVE)
        return super().read(size)


def _require_file(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):  # a pipe would block, a device might never end
        what = "a directory" if stat.S_ISDIR(mode) else "a pipe or device"
        _refuse(f"{what}, expected a file", _SAVE)


def _require_zip(file: io.BufferedReader) -> None:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(64)
    if start.startswith(_ZIP_START):
        if zipfile.is_zipfile(file):
            return
        what, advice = "a zip archive without its end, cut off or damaged", _AGAIN
    elif not start:
        what, advice = "an empty file", _AGAIN
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size:
        what, advice = "a safetensors file", _SAVE
    else:
        formats = (value for key, value in _OTHER_FORMATS.items() if start.startswith(key))
        what, advice = next(formats, ("a file of unknown format", _SAVE))
    _refuse(f"{what}, expected a torch.save archive", advice)


def _read_model(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        _refuse(f"{len(pickles)} data.pkl entries, expected one", _SAVE)
    root = pickles[0].removesuffix("data.pkl")
    if any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in names):
        advice = "give that, which MACE writes without _compiled in its name"
        _refuse("a TorchScript archive, expected one of torch.save(model, path)", advice)
    entries = _plain_entries(archive)
    order = entries.get(f"{root}byteorder")
    if order and archive.read(order) != b"little":
        what = "byteorder: big-endian storages, expected little-endian"
        _refuse(what, "save the model on a little-endian machine")
    pickled = entries[pickles[0]]
    if pickled.file_size > _MAX_PICKLE_BYTES:
        found = f"{pickled.file_size} bytes, expected at most {_MAX_PICKLE_BYTES}"
        _refuse(f"data.pkl: {found}", _SAVE)

    @functools.cache
    def read_storage(key: str) -> bytes:
        entry = entries.get(f"{root}data/{key}")
        if entry is None:
            _refuse(f"storage {key!r} is missing")
        return archive.read(entry)

    return _StackMachine(read_storage).run(archive.read(pickled))


def _plain_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by name.

    They are stored as they are and side by side, so that all together are no larger than the file.
    """
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    ends = [*(info.header_offset for info in infos[1:]), archive.start_dir]
    entries: dict[str, zipfile.ZipInfo] = {}
    for info, end in zip(infos, ends, strict=True):
        problem = ""
        if {"", ".", ".."} & set(info.filename.removesuffix("/").split("/")):
            problem = "a name that leaves the archive"
        elif info.filename in entries:
            problem = "a name that occurs twice"
        elif info.compress_type != zipfile.ZIP_STORED:
            problem = "compressed, which torch.save never does"
        elif info.flag_bits & 1:
            problem = "encrypted"
        elif info.compress_size != info.file_size:
            problem = f"{info.compress_size} bytes stored, {info.file_size} declared"
        elif info.header_offset + _LOCAL_HEADER_BYTES + info.file_size > end:
            problem = f"its {info.file_size} bytes overlap with what follows"
        if problem:
            _refuse(f"entry {info.filename[:100]!r}: {problem}")
        entries[info.filename] = info
    return entries


# The pickle

_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Record("builtins.set"),  # as in protocol 2; nothing is hashed
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class _Storage:
    """The bytes that tensors view."""

    content: bytes
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.content) // self.dtype.itemsize


class _StackMachine:
    """Runs a pickle of protocol 2 to 5 as far as it holds data."""

    def __init__(self, read_storage: Callable[[str], bytes]) -> None:
        self._read_storage = read_storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._globals: dict[str, Global] = {}

    def run(self, content: bytes) -> Any:
        """Return the object that is left in the end."""
        position: int | None = 0
        try:
            for count, step in enumerate(pickletools.genops(content)):
                opcode, argument, position = step
                if count == _MAX_OPCODES:
                    _refuse(f"more than {count} opcodes", _SAVE)
                if opcode.name != "STOP":
                    self._step(opcode.name, argument)
            (result,) = self._stack
            _require_bounded(result)
        except ArtifactError as error:
            message = f"data.pkl: byte {position}: {error}"
            raise ArtifactError(message) from error
        except Exception as error:  # a damaged pickle can raise anything
            reason = f"{type(error).__name__}: {one_line(error)}"
            message = f"data.pkl: byte {position}: damaged ({reason}); {_AGAIN}"
            raise ArtifactError(message) from error
        return result

    def _step(self, name: str, argument: Any) -> None:
        if isinstance(argument, int) and argument.bit_length() > _MAX_INTEGER_BITS:
            _refuse(f"an integer of {argument.bit_length()} bits")
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _NEW:
            self._stack.append(_NEW[name]())
        elif name in _TUPLES:
            items = [self._stack.pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif name in self._STEPS:
            self._STEPS[name](self, argument)
        else:
            _refuse(f"opcode {name}, which torch.save does not write")

    def _pop_to_mark(self, _: Any = None) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _proto(self, protocol: int) -> None:
        if protocol > _MAX_PROTOCOL:
            _refuse(f"pickle protocol {protocol}, expected at most {_MAX_PROTOCOL}")

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            _refuse(f"object {index} is used before it is defined")
        self._stack.append(self._memo[index])

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _frozenset(self, _: Any) -> None:
        self._stack.append(Record("builtins.frozenset", [self._pop_to_mark()]))

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        _extend(self._stack[-1], [value])

    def _appends(self, _: Any) -> None:
        values = self._pop_to_mark()
        _extend(self._stack[-1], values)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        _set_items(self._stack[-1], [key, value])

    def _setitems(self, _: Any) -> None:
        entries = self._pop_to_mark()
        _set_items(self._stack[-1], entries)

    def _global(self, names: str) -> None:
        self._push_global(*names.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_global(module, name)

    def _push_global(self, *names: Any) -> None:
        for part in names:  # they go into messages, and may be taken from the memo many times
            if type(part) is not str or len(part) > _MAX_NAME or not part.isprintable():
                _refuse("a class whose name is not short plain text")
        name = ".".join(names)
        self._stack.append(self._globals.setdefault(name, Global(name)))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(_call(function, arguments))

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, OrderedDict):  # torch hangs versions on that of state_dict
            _refuse(f"a state for a {type(target).__name__}")

    def _binpersid(self, _: Any) -> None:
        self._stack.append(self._storage(self._stack.pop()))

    def _storage(self, reference: Any) -> _Storage:
        if type(reference) is not tuple or len(reference) != 5:
            _refuse("a reference to something that is not a storage")
        kind, storage_class, key, _, size = reference
        if type(kind) is not str or kind != "storage" or not isinstance(storage_class, Global):
            _refuse("a reference to something that is not a storage")
        if type(key) is not str or type(size) is not int:
            _refuse("a storage without name or size")
        dtype = _STORAGE_DTYPES.get(storage_class.class_name)
        if dtype is None:
            advice = "save the model in float32 or float64"
            _refuse(f"storage class {storage_class.class_name} is not supported", advice)
        storage = _Storage(self._read_storage(key), np.dtype(dtype))
        if len(storage.content) != size * storage.dtype.itemsize:
            found = f"{len(storage.content)} bytes"
            _refuse(f"storage {key!r} holds {found}, expected {size} numbers of {dtype}")
        return storage

    _STEPS: ClassVar[dict[str, Callable[["_StackMachine", Any], Any]]] = {
        "PROTO": _proto,
        "FRAME": lambda _self, _length: None,
        "MARK": _mark,
        "POP": lambda self, _: self._stack.pop(),
        "POP_MARK": _pop_to_mark,
        "BINPUT": _put,
        "LONG_BINPUT": _put,
        "MEMOIZE": _put,
        "BINGET": _get,
        "LONG_BINGET": _get,
        "TUPLE": _tuple,
        "FROZENSET": _frozenset,
        "APPEND": _append,
        "APPENDS": _appends,
        "ADDITEMS": _appends,
        "SETITEM": _setitem,
        "SETITEMS": _setitems,
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _reduce,
        "NEWOBJ": _reduce,
        "BUILD": _build,
        "BINPERSID": _binpersid,
    }


def _call(function: Any, arguments: Any) -> Any:
    """Return what is kept of a call; only the functions of ``_REBUILD`` are called.

    The arguments are not copied: the memo can bring the same million many times.
    """
    if not isinstance(function, Global) or type(arguments) is not tuple:
        _refuse(f"a call of a {type(function).__name__} with a {type(arguments).__name__}")
    rebuild = _REBUILD.get(function.class_name)
    return rebuild(*arguments) if rebuild else Record(function.class_name, arguments)


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _grad: Any,
    _hooks: Any,
    metadata: Any = None,
) -> NDArray[Any]:
    """Return a view of ``storage``; offset and strides count numbers, not bytes."""
    if not isinstance(storage, _Storage) or type(shape) is not tuple or type(strides) is not tuple:
        _refuse("a tensor without storage, shape or strides")
    if metadata:
        _refuse("a conjugate or negative view is not supported", "save the model in plain tensors")
    if not len(shape) == len(strides) <= _MAX_DIMENSIONS:
        _refuse(f"a tensor of {len(shape)} dimensions and {len(strides)} strides")
    if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
        _refuse("a tensor whose offset, shape or strides are not natural numbers")
    if 0 in shape:
        return np.ndarray(shape, storage.dtype, b"")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= len(storage):
        _refuse(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} reaches outside its "
            f"storage of {len(storage)} numbers"
        )
    if math.prod(shape) > len(storage):  # a copy could be of any size
        what = f"a tensor of shape {shape} expanded from {len(storage)} numbers is not supported"
        _refuse(what, "save it as contiguous()")
    step = storage.dtype.itemsize
    byte_strides = [stride * step for stride in strides]
    return np.ndarray(shape, storage.dtype, storage.content, offset * step, byte_strides)


def _rebuild_parameter(data: Any, _grad: Any, _hooks: Any, _state: Any = None) -> Any:
    return data


def _rebuild_dict() -> OrderedDict[Any, Any]:
    return OrderedDict()


_REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "collections.OrderedDict": _rebuild_dict,
}


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, Record):
        target.items.extend(values)
    elif isinstance(target, list):
        target.extend(values)
    else:
        _refuse(f"entries for a {type(target).__name__}, expected a list")


def _set_items(target: Any, entries: list[Any]) -> None:
    pairs = zip(entries[::2], entries[1::2], strict=True)
    if isinstance(target, Record):
        target.items.extend(pairs)
        return
    if not isinstance(target, dict):
        _refuse(f"entries for a {type(target).__name__}, expected a dictionary")
    for key, value in pairs:
        atoms = key if isinstance(key, tuple) else (key,)
        if len(atoms) > _MAX_KEY:
            _refuse(f"a dictionary key of {len(atoms)} parts")  # hashed anew for every entry
        for atom in atoms:
            if not isinstance(atom, str | int | float | Global | Record | None):
                # hashing a tuple of tuples could take for ever, or more than the stack
                _refuse(f"a dictionary key that is a {type(key).__name__} of {type(atom).__name__}")
            if isinstance(atom, int) and atom.bit_length() >= sys.hash_info.width - 4:
                _refuse("a dictionary key that is a huge integer")  # all could have the same hash
        target[key] = value


def _require_bounded(result: Any) -> None:
    """Refuse lists in lists that are too deep, or have too many parts, to be shown or compared.

    Few bytes suffice: each list may hold the one before twice.
    """
    too_large = f"data nested deeper than {_MAX_NESTING} or of more than {_MAX_PARTS} parts"
    measured: dict[int, tuple[int, int]] = {}  # parts when unfolded, and depth, by identity
    waiting = [result]

    def measure(value: Any, level: int) -> tuple[int, int]:
        if isinstance(value, Record) and id(value) not in measured:
            measured[id(value)] = 1, 0  # nothing looks through it
            waiting.append(value)
        if id(value) in measured:
            return measured[id(value)]
        if not isinstance(value, list | tuple | dict):
            return 1, 0
        if level > _MAX_NESTING:  # or without end
            _refuse(too_large, _SAVE)
        parts = depth = 1
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            more, below = measure(part, level + 1)
            parts, depth = parts + more, max(depth, 1 + below)
        if parts > _MAX_PARTS or depth > _MAX_NESTING:
            _refuse(too_large, _SAVE)
        measured[id(value)] = parts, depth
        return parts, depth

    while waiting:
        value = waiting.pop()
        held = (value.args, value.state, value.items) if isinstance(value, Record) else (value,)
        for part in held:
            measure(part, 0)
