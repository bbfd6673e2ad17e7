"""Hostile and damaged files: nothing of them runs, each is refused in one line with its path."""

import os
import pickle
import subprocess

import numpy as np
import pytest

from mace_jax.errors import ArtifactError
from mace_jax_convert.from_torch import convert_torch_model
from mace_jax_convert.torch_archive import Record, read_torch_archive


class Malice:
    """Pickles to a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"


def tensor_pickle(
    *, storage="torch\nFloatStorage", key="0", size=4, offset=0, shape=(4,), strides=(1,)
) -> bytes:
    """A pickle of one tensor as torch writes it: a storage by reference, and a view of it."""
    reference = b"(" + text("storage") + b"c" + storage.encode() + b"\n" + text(key) + text("cpu")
    reference += b"I%d\ntQ" % size
    view = b"I%d\n" % offset + numbers(*shape) + numbers(*strides) + b"I00\nNt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + reference + view + b"R."


FOUR = {"0": np.arange(4, dtype="<f4").tobytes()}


def refusal(path) -> str:
    with pytest.raises(ArtifactError) as caught:
        convert_torch_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def attacks(trace: str) -> dict[str, Malice]:
    code = f"__import__('pathlib').Path({trace!r}).touch()"
    return {
        "os.system": Malice(os.system, f"touch {trace}"),
        "eval": Malice(eval, code),
        "exec": Malice(exec, code),
        "subprocess": Malice(subprocess.Popen, ["touch", trace]),
        "nested": Malice(map, Malice(eval, code), [1]),
    }


@pytest.mark.parametrize("name", attacks(""))
def test_calls_leave_no_trace(tmp_path, write_pickle, name):
    trace = tmp_path / "trace"
    payload = pickle.dumps([attacks(str(trace))[name]], protocol=2)
    if name == "exec":  # the attack is real: pickle itself falls for it
        pickle.loads(payload)
        assert trace.exists()
        trace.unlink()
    path = write_pickle(payload)
    (record,) = read_torch_archive(path)
    assert isinstance(record, Record)
    assert "instead of a model" in refusal(path)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_calls_in_the_state_of_a_module_leave_no_trace(tmp_path, write_pickle, protocol):
    trace = tmp_path / "trace"
    module = pickle.dumps(attacks(str(trace))["os.system"], protocol=protocol)
    path = write_pickle(module)
    assert read_torch_archive(path).short_name == "system"
    assert "model class" in refusal(path)
    assert not trace.exists()


def test_a_real_tensor_is_read(write_pickle):
    path = write_pickle(tensor_pickle(offset=1, shape=(2,), strides=(2,)), FOUR)
    np.testing.assert_array_equal(read_torch_archive(path), np.array([1, 3], np.float32))


@pytest.mark.parametrize(
    "views",
    [
        {"shape": (5,)},
        {"offset": 1},
        {"offset": -1},
        {"shape": (2, 3), "strides": (2, 1)},
        {"strides": (-1,)},
        {"shape": (-1,)},
        {"shape": (2, 2), "strides": (1,)},
        {"offset": 10**30},
        {"shape": (2**40,), "strides": (0,)},
    ],
    ids=str,
)
def test_tensors_outside_their_storage_are_refused(write_pickle, views):
    refusal(write_pickle(tensor_pickle(**views), FOUR))


@pytest.mark.parametrize(
    ("options", "storages"),
    [
        ({"size": 5}, FOUR),
        ({"size": 2}, FOUR),
        ({"key": "1"}, FOUR),
        ({"key": "../version"}, FOUR),
        ({}, {"0": b"123"}),
        ({"storage": "torch\nComplexFloatStorage"}, FOUR),
        ({"storage": "os\nsystem"}, FOUR),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_storages_are_refused(write_pickle, options, storages):
    refusal(write_pickle(tensor_pickle(**options), storages))


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_files_are_refused(checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    refusal(checkpoint)


@pytest.mark.parametrize("kept", [0, 1, 1000, 100_000])
def test_truncated_pickles_are_refused(entries, write_entries, kept):
    pickled = entries["archive/data.pkl"]
    assert len(pickled) > kept
    assert "damaged" in refusal(write_entries({**entries, "archive/data.pkl": pickled[:kept]}))


def test_no_pickle(entries, write_entries):
    del (without := dict(entries))["archive/data.pkl"]
    assert "0 data.pkl entries" in refusal(write_entries(without))


def test_two_pickles(entries, write_entries):
    assert "2 data.pkl" in refusal(write_entries({**entries, "other/data.pkl": b"."}))


def test_a_missing_storage(entries, write_entries):
    del (without := dict(entries))["archive/data/0"]
    assert "damaged" in refusal(write_entries(without))


def test_big_endian(entries, write_entries):
    assert "big-endian" in refusal(write_entries({**entries, "archive/byteorder": b"big"}))


def test_not_a_zip(tmp_path):
    path = tmp_path / "old.pt"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "not a torch.save file" in refusal(path)


def test_no_file(tmp_path):
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "none.pt")


def test_a_folder(tmp_path):
    assert "cannot be read" in refusal(tmp_path)
