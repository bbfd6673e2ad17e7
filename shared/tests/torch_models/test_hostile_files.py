"""Hostile and damaged files: nothing of them runs, each is refused in one line with its path.

All are read in one other process, which notes every audited event, new module and new file, and
the memory and time taken. With Python's own unpickler in place of ours it notes that attacks work.
"""

import io
import json
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from mace_jax.errors import ArtifactError
from mace_jax.torch_models.torch_archive import read_torch_archive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")


# Pickles, opcode by opcode


def pickled(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def many(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def numbers(*values: int) -> bytes:
    return many(*map(number, values))


def words(value: str) -> bytes:
    return b"](" + b"".join(map(text, value.split())) + b"e"


def name(full_name: str) -> bytes:
    module, _, function = full_name.rpartition(".")
    return f"c{module}\n{function}\n".encode()


def dotted(module: str, function: str) -> bytes:
    return b"\x80\x04" + text(module) + text(function) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + many(*arguments) + b"R"


ZERO, FOUR = number(0), number(4)
STORAGE, KEY = text("storage"), text("0")
SHAPE, STRIDES = numbers(4), numbers(1)
FLOATS = name("torch.FloatStorage")
REBUILD = name("torch._utils._rebuild_tensor_v2")
DICT = call(name("collections.OrderedDict"))


def storage(kind=STORAGE, of=FLOATS, key=KEY, size=FOUR) -> bytes:
    return many(kind, of, key, text("cpu"), size) + b"Q"


def tensor(data=b"", offset=ZERO, shape=SHAPE, strides=STRIDES, more=b"") -> bytes:
    return call(REBUILD, data or storage(), offset, shape, strides, b"\x89", DICT, more)


# Archives


def entries(content: bytes = pickled(tensor())) -> list[tuple[str, bytes]]:
    data = np.arange(4, dtype="<f4").tobytes()
    return [("a/data.pkl", content), ("a/byteorder", b"little"), ("a/data/0", data)]


def zipped(
    files: Iterable[tuple[str, bytes]],
    change: Callable[[list[zipfile.ZipInfo]], object] = len,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """Return a zip archive; ``change`` may falsify the directory before it is written."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # a name may occur twice
        for entry, content in files:
            archive.writestr(entry, content)
        change(archive.filelist)
    return buffer.getvalue()


def falsified(index: int, **values: object) -> bytes:
    """Return an archive whose directory says something wrong about one entry."""

    def change(infos: list[zipfile.ZipInfo]) -> None:
        for key, value in values.items():
            setattr(infos[index], key, value)

    return zipped(entries(), change)


def renamed(old: str, new: str) -> bytes:
    return zipped((new if entry == old else entry, content) for entry, content in entries())


def large_directory() -> bytes:
    plain = zipped(entries())
    start, end = plain.index(b"PK\x01\x02"), plain.index(b"PK\x05\x06")
    directory = plain[start:end] * 120_000
    counts = (0, 0, 1, 1, len(directory), start, 0)
    return plain[:start] + directory + struct.pack("<4s4H2LH", b"PK\x05\x06", *counts)


# Attacks that work on Python's unpickler: each creates a file of the name it is given


def touch(file: str) -> bytes:
    return text(f"touch {file}")


def code(file: str) -> bytes:
    return text(f"open('{file}','w').close()")


OS = call(name("importlib.import_module"), text("os"))
SYSTEM = name("os.system")
EVAL = name("builtins.eval")
ATTRGETTER = call(name("operator.attrgetter"), text("system"))
INTERPRETER = call(name("code.InteractiveInterpreter"))
BROWSER = call(name("webbrowser.GenericBrowser"), text("touch"))
VARIABLES = call(name("builtins.vars"), call(name("builtins.__import__"), text("os")))
REGISTER = call(name("copyreg.add_extension"), text("os"), text("system"), number(77))


def inner_pickle(file: str) -> bytes:
    content = pickled(call(SYSTEM, touch(file)))
    return b"B" + struct.pack("<I", len(content)) + content


ATTACKS: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda file: call(SYSTEM, touch(file)),
    "posix.system": lambda file: call(name("posix.system"), touch(file)),
    "a dotted name": lambda file: call(dotted("shutil", "os.system"), touch(file)),
    "OBJ": lambda file: b"(" + SYSTEM + touch(file) + b"o",
    "INST": lambda file: b"(" + touch(file) + b"ios\nsystem\n",
    "EXT1": lambda file: REGISTER + b"0\x82\x4d" + many(touch(file)) + b"R",
    "in a list": lambda file: b"]" + call(SYSTEM, touch(file)) + b"a",
    "as a key": lambda file: b"}" + call(SYSTEM, touch(file)) + b"Ns",
    "as a state": lambda file: DICT + call(SYSTEM, touch(file)) + b"b",
    "as a storage": lambda file: call(SYSTEM, touch(file)) + b"Q",
    "as a shape": lambda file: call(SYSTEM, touch(file)) + tensor(shape=b"N"),
    "eval": lambda file: call(EVAL, code(file)),
    "eval of Python 2": lambda file: call(name("__builtin__.eval"), code(file)),
    "exec": lambda file: call(name("builtins.exec"), code(file)),
    "open": lambda file: call(name("builtins.open"), text(file), text("w")),
    "os.mkdir": lambda file: call(name("os.mkdir"), text(file)),
    "Path.touch": lambda file: call(
        dotted("pathlib", "Path.touch"), call(name("pathlib.Path"), text(file))
    ),
    "map": lambda file: call(
        name("builtins.list"), call(name("builtins.map"), EVAL, words(f"open('{file}','w')"))
    ),
    "subprocess.call": lambda file: call(name("subprocess.call"), words(f"touch {file}")),
    "subprocess.run": lambda file: call(name("subprocess.run"), words(f"touch {file}")),
    "getattr": lambda file: call(call(name("builtins.getattr"), OS, text("system")), touch(file)),
    "vars": lambda file: call(
        call(dotted("builtins", "dict.get"), VARIABLES, text("system")), touch(file)
    ),
    "operator.attrgetter": lambda file: call(call(ATTRGETTER, OS), touch(file)),
    "operator.methodcaller": lambda file: call(
        call(name("operator.methodcaller"), text("system"), touch(file)), OS
    ),
    "functools.partial": lambda file: call(call(name("functools.partial"), SYSTEM, touch(file))),
    "runpy": lambda file: call(name("runpy._run_code"), code(file), b"}"),
    "timeit": lambda file: call(name("timeit.timeit"), text("pass"), code(file)),
    "cProfile": lambda file: call(name("cProfile.run"), code(file)),
    "code": lambda file: call(
        dotted("code", "InteractiveInterpreter.runsource"), INTERPRETER, code(file)
    ),
    "webbrowser": lambda file: call(
        dotted("webbrowser", "GenericBrowser.open"), BROWSER, text(file)
    ),
    "a pickle in a pickle": lambda file: call(name("pickle.loads"), inner_pickle(file)),
    "numpy.testing": lambda file: call(
        name("numpy.testing._private.utils.runstring"), code(file), b"}"
    ),
}

# Calls that would need torch, a network or a terminal, or stop the process
CALLS = {
    "torch.load": words("/etc/passwd"),
    "torch.hub.load": words("owner/repository model"),
    "torch.jit.load": words("/etc/passwd"),
    "torch.storage._load_from_bytes": words("x"),
    "torch.fx.graph_module.reduce_graph_module": b"}",
    "torch.utils.cpp_extension.load_inline": words("x void"),
    "torch._utils._rebuild_wrapper_subclass": words("x"),
    "numpy.load": words("/etc/passwd"),
    "numpy.core.multiarray._reconstruct": words("x"),
    "numpy._core.multiarray.scalar": words("x"),
    "numpy.fromfile": words("/etc/passwd"),
    "copyreg._reconstructor": name("subprocess.Popen"),
    "copyreg.__newobj__": name("subprocess.Popen"),
    "mace.modules.models.ScaleShiftMACE": words("x"),
    "mace_jax.torch_models.torch_archive.read_torch_archive": words("/etc/passwd"),
    "joblib.load": words("/etc/passwd"),
    "socket.create_connection": words("localhost 80"),
    "urllib.request.urlopen": words("file:///etc/passwd"),
    "ctypes.CDLL": words("libc.so.6"),
    "pip._internal.main": words("install x"),
    "os._exit": ZERO,
    "os.abort": b"",
    "os.kill": ZERO,
    "sys.exit": ZERO,
    "builtins.breakpoint": b"",
    "builtins.input": b"",
    "time.sleep": number(10**6),
    "signal.pause": b"",
}

# Pickles that are wrong, and what the message says

DAMAGED = {
    "tensor: larger than its storage": (tensor(shape=numbers(5)), "outside"),
    "tensor: behind its storage": (tensor(offset=number(1)), "outside"),
    "tensor: offset below zero": (tensor(offset=number(-1)), "natural"),
    "tensor: offset beyond 64 bits": (tensor(offset=number(10**30)), "outside"),
    "tensor: offset of text": (tensor(offset=text("0")), "natural"),
    "tensor: strides below zero": (tensor(strides=numbers(-1)), "natural"),
    "tensor: strides too large": (tensor(shape=numbers(2, 3), strides=numbers(2, 1)), "outside"),
    "tensor: strides too few": (tensor(shape=numbers(2, 2)), "2 dimensions and 1 strides"),
    "tensor: strides beyond 64 bits": (tensor(shape=numbers(1), strides=numbers(2**99)), "damaged"),
    "tensor: strides of none": (tensor(strides=b"N"), "without"),
    "tensor: shape below zero": (tensor(shape=numbers(-1)), "natural"),
    "tensor: shape beyond 64 bits": (tensor(shape=numbers(2**80)), "outside"),
    "tensor: empty, beyond 64 bits": (
        tensor(shape=numbers(0, 2**80), strides=numbers(1, 1)),
        "damaged",
    ),
    "tensor: shape of text": (tensor(shape=many(text("4"))), "natural"),
    "tensor: shape of fractions": (tensor(shape=many(b"G" + bytes(8))), "natural"),
    "tensor: shape of tuples": (tensor(shape=many(numbers(4))), "natural"),
    "tensor: shape in a list": (tensor(shape=b"]"), "without"),
    "tensor: shape of 50000 dimensions": (
        tensor(shape=many(FOUR * 50_000), strides=many(FOUR * 50_000)),
        "50000 dimensions",
    ),
    "tensor: expanded to a terabyte": (
        tensor(shape=numbers(2**40), strides=numbers(0)),
        "expanded",
    ),
    "tensor: of no storage": (tensor(data=b"N"), "without"),
    "tensor: of a tensor": (tensor(data=tensor()), "without"),
    "tensor: a negative view": (tensor(more=b"}" + text("neg") + b"\x88s"), "negative view"),
    "tensor: too few arguments": (call(REBUILD, storage()), "damaged"),
    "tensor: 100000 arguments": (call(REBUILD, b"N" * 100_000), "damaged"),
    "storage: larger than its entry": (storage(size=number(5)), "16 bytes, expected 5 numbers"),
    "storage: smaller than its entry": (storage(size=number(3)), "16 bytes, expected 3 numbers"),
    "storage: size below zero": (storage(size=number(-4)), "expected -4"),
    "storage: huge size": (storage(size=number(2**62)), "expected"),
    "storage: size of text": (storage(size=text("4")), "without name or size"),
    "storage: of another dtype": (
        tensor() + tensor(storage(of=name("torch.DoubleStorage"))) + b"\x86",
        "expected 4 numbers of <f8",
    ),
    "storage: missing": (storage(key=text("1")), "'1' is missing"),
    "storage: outside the archive": (storage(key=text("../../../etc/passwd")), "missing"),
    "storage: another entry": (storage(key=text("../data.pkl")), "missing"),
    "storage: no text as a name": (storage(key=ZERO), "without name"),
    "storage: a name of two lines": (storage(key=text("1\nerror: \x1b[2J")), "missing"),
    "storage: bfloat16": (storage(of=name("torch.BFloat16Storage")), "BFloat16Storage is not"),
    "storage: complex": (storage(of=name("torch.ComplexFloatStorage")), "ComplexFloatStorage"),
    "storage: quantized": (storage(of=name("torch.QUInt8Storage")), "QUInt8Storage"),
    "storage: untyped": (storage(of=name("torch.storage.UntypedStorage")), "UntypedStorage"),
    "storage: of another module": (storage(of=name("evil.FloatStorage")), "evil.FloatStorage"),
    "storage: of a call": (storage(of=call(FLOATS)), "not a storage"),
    "storage: of another kind": (storage(kind=text("module")), "not a storage"),
    "storage: of a tensor": (storage(kind=tensor()), "not a storage"),
    "storage: two items": (many(STORAGE, FLOATS) + b"Q", "not a storage"),
    "storage: no tuple": (text("12345") + b"Q", "not a storage"),
    "opcode: unknown": (b"\xff", "damaged"),
    "opcode: EXT2": (b"\x83\x01\x00", "opcode EXT2"),
    "opcode: EXT4": (b"\x84\x01\x00\x00\x00", "opcode EXT4"),
    "opcode: NEXT_BUFFER": (b"\x97", "opcode NEXT_BUFFER"),
    "opcode: READONLY_BUFFER": (tensor() + b"\x98", "opcode READONLY_BUFFER"),
    "opcode: PERSID": (b"P0\n", "opcode PERSID"),
    "opcode: NEWOBJ_EX": (SYSTEM + b")}\x92", "opcode NEWOBJ_EX"),
    "opcode: DUP": (b"N2\x86", "opcode DUP"),
    "opcode: PROTO 255": (b"\x80\xff", "protocol 255"),
    "stack: empty": (b"", "damaged"),
    "stack: two objects left": (b"NN", "damaged"),
    "stack: popped below nothing": (b"0", "damaged"),
    "stack: three of two": (b"NN\x87", "damaged"),
    "stack: no mark": (b"Nt", "damaged"),
    "stack: marks only": (b"(((", "damaged"),
    "stack: no end": (b"]" * 10 + b"(", "damaged"),
    "memo: unset": (b"h\x07", "object 7"),
    "memo: unset, far": (b"j\xff\xff\xff\xff", "object 4294967295"),
    "memo: of nothing": (b"q\x00", "damaged"),
    "call: of text": (call(text("os.system"), text("x")), "call of a str"),
    "call: of a call": (call(call(SYSTEM)), "call of a Record"),
    "call: of a tensor": (call(tensor()), "call of a ndarray"),
    "call: of no tuple": (SYSTEM + b"]R", "with a list"),
    "call: a dictionary of pairs": (
        call(name("collections.OrderedDict"), b"]" + numbers(1, 2) + b"a"),
        "damaged",
    ),
    "state: for our own function": (REBUILD + b"N}" + text("__defaults__") + b")s\x86b", "Global"),
    "state: for a class": (name("collections.OrderedDict") + b"N}\x86b", "Global"),
    "state: for a tensor": (tensor() + numbers(1, 2) + b"b", "state for a ndarray"),
    "state: for a list": (b"]}b", "state for a list"),
    "state: for a dictionary": (b"}}b", "state for a dict"),
    "item: of sys.modules": (name("sys.modules") + text("os") + b"Ns", "entries for a Global"),
    "item: of sys.path": (name("sys.path") + text("/tmp") + b"a", "entries for a Global"),
    "item: of a tensor": (tensor() + ZERO + ZERO + b"s", "entries for a ndarray"),
    "item: appended to a tuple": (b")Na", "entries for a tuple"),
    "item: appended to text": (text("a") + text("b") + b"a", "entries for a str"),
    "item: added to a dictionary": (b"}(N\x90", "entries for a dict"),
    "item: set in a list": (b"](" + ZERO + b"Nu", "entries for a list"),
    "item: a key without value": (b"}(Nu", "damaged"),
    "key: a list": (b"}]Ns", "key that is a list"),
    "key: a tensor": (b"}" + tensor() + b"Ns", "key that is a ndarray"),
    "key: a huge integer": (b"}" + number(2**61 - 1) + b"Ns", "huge integer"),
    "key: 400000 tuples, which crash pickle": (b"})" + b"\x85" * 400_000 + b"Ns", "a tuple"),
    "key: tuples to hash for ever": (b"})" + b"q\x00h\x00\x86" * 60 + b"Ns", "a tuple"),
    "set: of tuples to hash for ever": (b"\x8f()" + b"q\x00h\x00\x86" * 60 + b"\x90", "nested"),
    "nested: 100000 lists": (b"]" * 100_000 + b"a" * 99_999, "nested"),
    "nested: 100000 tuples": (b")" + b"\x85" * 100_000, "nested"),
    "nested: 100000 dictionaries": (b"}N" * 100_000 + b"N" + b"s" * 100_000, "nested"),
    "nested: 50000 calls": (
        SYSTEM + b"q\x00" + b"h\x00" * 49_999 + b")R" + b"\x85R" * 49_999,
        "",
    ),
    "nested: 50000 states": (SYSTEM + b"q\x00)R" + b"h\x00)R" * 50_000 + b"b" * 50_000, ""),
    "nested: in itself": (b"]q\x00h\x00a", "nested"),
    "nested: in itself as a tuple": (b"]q\x00h\x00\x85a", "nested"),
    "nested: in its own state": (call(SYSTEM) + b"q\x00}" + text("a") + b"h\x00sb", ""),
    "nested: twice in itself, sixty times": (b")" + b"q\x00h\x00\x86" * 60, "nested"),
    "class: a name of two lines": (dotted("os", "a\nerror: b"), "short plain text"),
    "class: a name with terminal codes": (dotted("os", "\x1b[2J"), "short plain text"),
    "class: a long name": (dotted("os", "a" * 10**6), "short plain text"),
    "class: a name that is a list": (b"]]\x93", "short plain text"),
    "text: not UTF-8": (b"X\x01\x00\x00\x00\xff", "damaged"),
    "length: 4 GB of text": (b"X\xff\xff\xff\xff", "damaged"),
    "length: 4 EB of text": (b"\x8d" + struct.pack("<Q", 2**62), "damaged"),
    "length: 16 EB of text": (b"\x8d" + b"\xff" * 8, "damaged"),
    "length: 4 EB of bytes": (b"\x8e" + struct.pack("<Q", 2**62), "damaged"),
    "length: 4 EB of bytearray": (b"\x96" + struct.pack("<Q", 2**62), "damaged"),
    "length: 2 GB of integer": (b"\x8b\xff\xff\xff\x7f", "damaged"),
    "length: -1 of integer": (b"\x8b\xff\xff\xff\xff", "damaged"),
    "length: an integer of a million digits": (
        b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6,
        "an integer of 7999999 bits",
    ),
    "bomb: memo of 2 billion": (b"]r\xff\xff\xff\x7f", ""),
    "bomb: memo of 20 million": (b"]r\x00\x00\x40\x01", ""),
    "bomb: a frame of 4 EB": (b"\x95" + struct.pack("<Q", 2**62) + b"N", ""),
    "bomb: a million sets": (b"(" + b"\x8f" * 1_000_000 + b"t", "more than 1000000 opcodes"),
    "bomb: 100000 classes": (many(*(name(f"a.b{n}") for n in range(100_000))), ""),
}

# Archives that are wrong

GOOD = zipped(entries())
LARGE = ("a/large", bytes(2**22))

ARCHIVES = {
    "zip: a bomb": (zipped([*entries(), LARGE], compression=zipfile.ZIP_DEFLATED), "compressed"),
    "zip: an LZMA bomb": (zipped([*entries(), LARGE], compression=zipfile.ZIP_LZMA), "compressed"),
    "zip: unknown compression": (falsified(2, compress_type=99), "compressed"),
    "zip: encrypted": (falsified(2, flag_bits=1), "entry 'a/data/0': encrypted"),
    "zip: 4 EB declared": (falsified(2, file_size=2**62, compress_size=2**62), "overlap"),
    "zip: a byte too many declared": (falsified(2, file_size=17, compress_size=17), "damaged"),
    "zip: a byte too few declared": (falsified(2, file_size=15, compress_size=15), "damaged"),
    "zip: two sizes declared": (falsified(2, file_size=99), "16 bytes stored, 99 declared"),
    "zip: two entries of the same bytes": (falsified(2, header_offset=0), "overlap"),
    "zip: an entry behind the file": (falsified(2, header_offset=2**40), "overlap"),
    "zip: an entry inside the directory": (falsified(2, header_offset=len(GOOD) - 30), "overlap"),
    "zip: a wrong checksum": (falsified(2, CRC=1), "Bad CRC-32"),
    "zip: two names": (falsified(2, filename="a/data/1"), "'0' is missing"),
    "zip: names of another entry": (falsified(2, filename="a/data/0\x00"), "damaged"),
    "zip: a name not in UTF-8": (
        zipped([*entries(), ("ä", b"")]).replace("ä".encode(), b"\xff\xff"),
        "damaged",
    ),
    "zip: of a later version": (falsified(2, extract_version=99), "damaged"),
    "zip: a large directory": (large_directory(), "a zip directory of"),
    "zip: a storage twice": (zipped([*entries(), *entries()[2:]]), "occurs twice"),
    "zip: a pickle twice": (zipped([*entries(), *entries()[:1]]), "2 data.pkl entries"),
    "zip: two models": (zipped([*entries(), ("b/data.pkl", b"")]), "2 data.pkl entries"),
    "zip: no pickle": (zipped(entries()[1:]), "0 data.pkl entries"),
    "zip: no folder": (renamed("a/data.pkl", "data.pkl"), "0 data.pkl entries"),
    "zip: a folder above": (renamed("a/data.pkl", "../../a/data.pkl"), "leaves the archive"),
    "zip: an absolute path": (renamed("a/data.pkl", "/tmp/a/data.pkl"), "leaves the archive"),
    "zip: a storage above": (renamed("a/data/0", "a/data/../../../0"), "leaves the archive"),
    "zip: a name of two lines": (renamed("a/data/0", "../\x1b[2J\nerror: b"), "leaves"),
    "zip: a program before it": (b"#!/bin/sh\n" + GOOD, "unknown format"),
    "zip: nothing but its start": (GOOD[:4], "cut off"),
    "zip: nothing but its end": (GOOD[-22:], "unknown format"),
    "zip: an empty archive": (zipped([]), "unknown format"),
    "pickle: empty": (zipped(entries(b"")), "damaged"),
    "pickle: without end": (zipped(entries(b"\x80\x02]")), "damaged"),
    "pickle: text": (zipped(entries(b"hello")), "get the file again"),
}

EXPECTED = {
    **{f"attack: {key}": "" for key in ATTACKS},
    **{f"call: {key}": "" for key in CALLS},
    **{key: words for key, (_, words) in DAMAGED.items()},
    **{key: words for key, (_, words) in ARCHIVES.items()},
}


MEMO_BOMB = "bomb: memo of 20 million"
MAX_BYTES = 250e6


def files() -> dict[str, bytes]:
    """Return the content of every file; an attack would create a file of its number."""
    pickles = {
        **{f"attack: {key}": attack(f"{n}") for n, (key, attack) in enumerate(ATTACKS.items())},
        **{f"call: {key}": call(name(key), argument) for key, argument in CALLS.items()},
        **{key: content for key, (content, _) in DAMAGED.items()},
    }
    return {
        **{key: zipped(entries(pickled(content))) for key, content in pickles.items()},
        **{key: content for key, (content, _) in ARCHIVES.items()},
    }


# The process that reads them

WATCH = """
import gc, json, os, pickle, re, resource, sys, time, zipfile
from pathlib import Path
from mace_jax.errors import ArtifactError
from mace_jax.torch_models.from_torch import convert_torch_model

def unpickle(path):
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("a/data.pkl"))

def watch(event, arguments):
    if not watching or event == "builtins.id":
        return
    if event == "open" and str(arguments[0]) == path and arguments[1] == "r":
        return
    events.append([event, repr(arguments)[:99]])

def read(path):
    try:
        reader(Path(path))
    except Exception as error:
        return isinstance(error, ArtifactError), str(error)
    return False, "nothing raised"

def memory(kind):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(f"{kind}: *\\t *([0-9]+) kB", status)[1])

reader = {"convert_torch_model": convert_torch_model, "unpickle": unpickle}[sys.argv[1]]
paths, report = json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]).open("w")
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
watching, events = False, []
sys.addaudithook(watch)
read(paths["warm up"])  # imports what it needs
gc.freeze()  # collecting is fast then
for name, path in paths.items():
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    modules, before = set(sys.modules), memory("VmRSS")
    started, watching = time.monotonic(), True
    refused, message = read(path)
    gc.collect()
    watching = False
    result = {
        "refused": refused,
        "message": message,
        "events": events[:9],
        "modules": sorted(set(sys.modules) - modules),
        "created": os.listdir(),
        "bytes": memory("VmHWM") - before,
        "seconds": time.monotonic() - started,
    }
    events.clear()
    for file in result["created"]:
        Path(file).rmdir() if Path(file).is_dir() else Path(file).unlink()
    print(json.dumps([name, result]), file=report, flush=True)
"""


@pytest.fixture(scope="session")
def paths(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hostile")
    written = {}
    for number_, (key, content) in enumerate({"warm up": GOOD, **files()}.items()):
        path = folder / f"{number_}.pt"
        path.write_bytes(content)
        written[key] = str(path)
    return written


@pytest.fixture(scope="session")
def watched(tmp_path_factory, paths) -> Callable[[str], dict[str, dict]]:
    """Return a function that has files read by a named reader and returns the reports."""

    def run(reader: str, chosen: Iterable[str]) -> dict[str, dict]:
        folder = tmp_path_factory.mktemp(reader)
        (folder / "empty").mkdir()
        (folder / "paths").write_text(json.dumps({k: paths[k] for k in ("warm up", *chosen)}))
        command = [sys.executable, "-X", "faulthandler", "-c", WATCH]
        subprocess.run(
            [*command, reader, folder / "paths", folder / "report"],
            cwd=folder / "empty",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        lines = (folder / "report").read_text().splitlines()
        return dict(map(json.loads, lines))

    return run


@pytest.fixture(scope="session")
def reports(watched) -> dict[str, dict]:
    return watched("convert_torch_model", EXPECTED)


@pytest.fixture(scope="session")
def reports_of_pickle(watched) -> dict[str, dict]:
    return watched("unpickle", [*(f"attack: {key}" for key in ATTACKS), MEMO_BOMB])


def test_the_good_file_is_read(paths):
    np.testing.assert_array_equal(read_torch_archive(Path(paths["warm up"])), np.arange(4))


@pytest.mark.parametrize("key", ATTACKS)
def test_attacks_work_on_pickle_and_are_seen(reports_of_pickle, key):
    report = reports_of_pickle[f"attack: {key}"]
    assert report["created"] == [str(list(ATTACKS).index(key))]
    assert report["events"]


def test_memory_that_pickle_takes_is_seen(reports_of_pickle):
    assert reports_of_pickle[MEMO_BOMB]["bytes"] > MAX_BYTES


@pytest.mark.parametrize("key", EXPECTED)
def test_hostile_files_are_refused_and_nothing_happens(reports, paths, key):
    report = reports[key]  # missing: the process crashed, or took too long
    assert report["refused"], report["message"]
    assert report["message"].startswith(f"{paths[key]}: ")
    assert report["message"].isprintable()
    assert EXPECTED[key] in report["message"]
    assert len(report["message"]) < 1000
    assert "MemoryError" not in report["message"]
    assert report["events"] == []
    assert report["modules"] == []
    assert report["created"] == []
    assert report["bytes"] < MAX_BYTES
    assert report["seconds"] < 20


def test_nothing_is_written_beside_them(reports, paths):
    folder = Path(paths["warm up"]).parent
    assert sorted(map(str, folder.iterdir())) == sorted(paths.values())


# Damage by chance

NUMBERS = {"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 3.0]}
MODEL = (
    b"}(" + text("a") + tensor() + text("b") + tensor(storage(), number(1), numbers(2), numbers(2))
    + b"u"
)  # fmt: skip


def outcome(path: Path) -> object:
    """Return what is read, or None for a proper refusal; let nothing else pass."""
    try:
        return read_torch_archive(path)
    except ArtifactError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return None


def as_lists(tensors: object) -> object:
    return tensors and {key: value.tolist() for key, value in tensors.items()}


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path):
    content = zipped(entries(pickled(MODEL)))
    path = tmp_path / "flipped.pt"
    path.write_bytes(content)
    assert as_lists(outcome(path)) == NUMBERS
    bit = random.Random(1)
    refused = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit.randrange(8)
        path.write_bytes(flipped)
        found = as_lists(outcome(path))
        assert found in (None, NUMBERS), position
        refused += found is None
    assert refused > len(content) / 2


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    content = zipped(entries(pickled(MODEL)))
    path = tmp_path / "cut.pt"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert outcome(path) is None, length


def test_a_pickle_changed_anywhere_is_refused_or_inert(tmp_path):
    """Its checksum is right, so that the reader must cope."""
    content = pickled(MODEL)
    path = tmp_path / "changed.pt"
    choice = random.Random(2)
    refused = 0
    for position in range(len(content)):
        for _ in range(2):
            changed = bytearray(content)
            changed[position] = choice.randrange(256)
            path.write_bytes(zipped(entries(bytes(changed))))
            refused += outcome(path) is None
    assert refused > len(content) / 2


def test_opcodes_in_any_order_are_refused_or_inert(tmp_path):
    steps = [bytes([code]) for code in b"(012NRQabdest}])u\x81\x85\x86\x87\x88\x8f\x90\x91\x93\x94"]
    steps += [SYSTEM, REBUILD, DICT, FLOATS, STORAGE, SHAPE, ZERO, b"h\x00", b"q\x00", storage()]
    path = tmp_path / "random.pt"
    choice = random.Random(3)
    accepted = 0
    for _ in range(500):
        program = choice.choices(steps, k=choice.randrange(1, 12))
        path.write_bytes(zipped(entries(pickled(*program))))
        accepted += outcome(path) is not None
    assert accepted > 5
