"""What a torch.save file holds, and what is said of files that are something else."""

import argparse
import gzip
import lzma
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest

from mace_jax.errors import ArtifactError
from mace_jax.torch_models.torch_archive import Global, Record, read_torch_archive

SIX = {"0": np.arange(6, dtype="<f4").tobytes()}


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"


def tensor(*, storage="FloatStorage", key="0", size=6, offset=0, shape=(6,), strides=(1,)) -> bytes:
    """The opcodes of a tensor as torch writes it: a storage by reference, and a view of it."""
    reference = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu")
    reference += b"I%d\ntQ" % size
    view = b"I%d\n" % offset + numbers(*shape) + numbers(*strides) + b"I00\nNt"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + view + b"R"


def pickled(content: bytes) -> bytes:
    return b"\x80\x02" + content + b"."


def refusal(path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_torch_archive(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


# Tensors


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"offset": 1, "shape": (2,), "strides": (3,)}, [1, 4]),
        ({"shape": (2, 3), "strides": (3, 1)}, [[0, 1, 2], [3, 4, 5]]),
        ({"shape": (3, 2), "strides": (1, 3)}, [[0, 3], [1, 4], [2, 5]]),
        ({"shape": (1, 3), "strides": (999, 2)}, [[0, 2, 4]]),
        ({"shape": (2, 3), "strides": (1, 1)}, [[0, 1, 2], [1, 2, 3]]),
        ({"shape": (2, 3), "strides": (0, 1)}, [[0, 1, 2], [0, 1, 2]]),
        ({"offset": 5, "shape": (), "strides": ()}, 5),
        ({"shape": (0,), "strides": (1,)}, []),
        ({"offset": 6, "shape": (2, 0), "strides": (1, 1)}, [[], []]),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_any_view_is_read(write_pickle, view, expected):
    found = read_torch_archive(write_pickle(pickled(tensor(**view)), SIX))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected, np.float32), strict=True)
    assert not found.flags.writeable


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("FloatStorage", np.float32),
        ("HalfStorage", np.float16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_storages_have_their_dtype(write_pickle, storage, dtype):
    expected = np.array([0, 1, 1], dtype)
    content = pickled(tensor(storage=storage, size=3, shape=(3,)))
    found = read_torch_archive(write_pickle(content, {"0": expected.tobytes()}))
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    ("function", "more"),
    [("_rebuild_parameter", b""), ("_rebuild_parameter_with_state", b"}" + text("a") + b"Ns")],
)
def test_parameters_are_their_tensors(write_pickle, function, more):
    content = f"ctorch._utils\n{function}\n(".encode() + tensor() + b"\x88}" + more + b"tR"
    found = read_torch_archive(write_pickle(pickled(content), SIX))
    np.testing.assert_array_equal(found, np.arange(6))


def test_a_storage_is_read_once(write_pickle, monkeypatch):
    reads = []
    read = zipfile.ZipFile.read
    monkeypatch.setattr(
        zipfile.ZipFile,
        "read",
        lambda self, entry: reads.append(entry.filename) or read(self, entry),
    )
    content = pickled(b"(" + tensor() + tensor(offset=2, shape=(2,)) + tensor() + b"t")
    first, second, _ = read_torch_archive(write_pickle(content, SIX))
    assert np.shares_memory(first[2:4], second)
    assert reads.count("archive/data/0") == 1


def test_memory_is_that_of_the_file(write_pickle):
    size = 5_000_000
    view = tensor(size=size, shape=(1000, 5000), strides=(1, 1000))
    path = write_pickle(pickled(b"(" + view * 5 + b"t"), {"0": bytes(4 * size)})
    tracemalloc.start()
    try:
        tensors = read_torch_archive(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(array.nbytes for array in tensors) == 5 * 4 * size
    assert peak < 1.1 * path.stat().st_size


# Everything else


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_data_stays_what_it_is(write_pickle, protocol):
    data = {
        "numbers": [0, 255, 256, 65536, -1, 2**40, 2**300, 2.5, True, False, None],
        "many": list(range(2000)),
        "text": ["", "Å", "x" * 300, "\n"],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "dictionary": OrderedDict([("b", {}), ("a", {1: [], None: (), 0.5: {}})]),
    }
    data["shared"] = data["many"]
    found = read_torch_archive(write_pickle(pickle.dumps(data, protocol)))
    assert found == data
    assert list(found["dictionary"]) == ["b", "a"]
    assert type(found["dictionary"]) is OrderedDict
    assert found["shared"] is found["many"]


def test_attributes_of_a_dictionary_are_left_out(write_pickle):
    weights = OrderedDict(a=1)
    weights._metadata = {"version": 1}
    assert read_torch_archive(write_pickle(pickle.dumps(weights, 2))) == {"a": 1}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_become_records(write_pickle, protocol):
    objects = [
        argparse.Namespace(a=1, b=[2]),
        deque([1, 2], 5),
        defaultdict(list, {"a": 1, "b": 2}),
        complex(1, 2),
    ]
    namespace, queue, dictionary, number = read_torch_archive(
        write_pickle(pickle.dumps(objects, protocol))
    )
    assert isinstance(namespace, Record)
    assert (namespace.class_name, namespace.short_name) == ("argparse.Namespace", "Namespace")
    assert namespace.state == {"a": 1, "b": [2]}
    assert (queue.class_name, queue.args, queue.items) == ("collections.deque", ((), 5), [1, 2])
    (factory,) = dictionary.args
    assert isinstance(factory, Global)
    assert factory.class_name.endswith(".list")
    assert dictionary.items == [("a", 1), ("b", 2)]
    assert (number.short_name, number.args) == ("complex", (1.0, 2.0))


@pytest.mark.parametrize("protocol", [4, 5])
def test_sets_become_records(write_pickle, protocol):
    some, none = read_torch_archive(write_pickle(pickle.dumps([{1, 2}, frozenset([3])], protocol)))
    assert (some.class_name, some.items) == ("builtins.set", [1, 2])
    assert (none.class_name, none.args) == ("builtins.frozenset", ([3],))


def test_records_of_one_file_do_not_reach_another(write_pickle):
    path = write_pickle(pickle.dumps([argparse.Namespace(a=1), argparse.Namespace], 2))
    first, second = read_torch_archive(path), read_torch_archive(path)
    first[0].state["a"] = 2
    assert second[0].state == {"a": 1}
    assert first[1] is not second[1]


# Damage, and other files


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_checkpoints_are_refused(checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    assert refusal(checkpoint).endswith("get the file again")


@pytest.mark.parametrize("kept", [0, 1, 1000, 100_000])
def test_truncated_pickles_are_refused(entries, write_entries, kept):
    pickle_ = entries["archive/data.pkl"]
    assert len(pickle_) > kept
    assert "damaged" in refusal(write_entries({**entries, "archive/data.pkl": pickle_[:kept]}))


def test_a_missing_storage(entries, write_entries):
    del (without := dict(entries))["archive/data/0"]
    assert "storage '0' is missing" in refusal(write_entries(without))


def test_big_endian(entries, write_entries):
    assert "big-endian" in refusal(write_entries({**entries, "archive/byteorder": b"big"}))


def test_no_byte_order_was_little_endian_in_older_files(entries, write_entries):
    del (without := dict(entries))["archive/byteorder"]
    assert read_torch_archive(write_entries(without)).short_name == "ScaleShiftMACE"


def test_a_large_pickle(write_pickle, monkeypatch):
    monkeypatch.setattr("mace_jax.torch_models.torch_archive._MAX_PICKLE_BYTES", 3)
    assert "data.pkl: 4 bytes, expected at most 3" in refusal(write_pickle(pickled(b"N")))


@pytest.mark.parametrize("entry", ["archive/constants.pkl", "archive/code/__torch__.py"])
def test_torchscript(entries, write_entries, entry):
    message = refusal(write_entries({**entries, entry: b""}))
    assert message.startswith("a TorchScript archive, expected one of torch.save(model, path); ")


LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (LEGACY, "a torch.save file in the format before torch 1.6"),
        (pickle.dumps({"a": 1}, 2), "a plain pickle"),
        (pickle.dumps({"a": 1}, 5), "a plain pickle"),
        ((8).to_bytes(8, "little") + b'{"a": 1}', "a safetensors file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\x82\xa6header\x80", "a model bundle already"),
        (gzip.compress(b"model"), "a gzip file"),
        (lzma.compress(b"model"), "an xz file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"hello", "a file of unknown format"),
        (b"PK\x03\x04" + bytes(99), "a zip archive without its end, cut off or damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_are_named(tmp_path, content, found):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    what, _, advice = refusal(path).partition("; ")
    assert what == f"{found}, expected a torch.save archive"
    assert advice


def test_no_file(tmp_path):
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "none.pt")


def test_a_folder(tmp_path):
    assert refusal(tmp_path).startswith("a directory, expected a file; ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").startswith("a pipe or device, expected a file; ")
