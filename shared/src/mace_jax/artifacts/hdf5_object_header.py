"""Object headers of HDF5 that lie in one piece: what they link to, or the value they hold.

Source: HDF5 file format specification, version 3.0: IV.A.1.b (object headers of version 2),
IV.A.2.g (links), IV.A.2.i (layout).
"""

import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from h5py import h5d, h5t

from mace_jax.artifacts.hdf5_items import Item

CHECKSUM_SIZE = 4
REFERENCE_SIZE = 16  # of a reference to a text: its length, the address of a heap, its number there
_START = b"OHDR\x02"  # signature and version
_SIZES = 14  # bytes of a header that say how long it is, and perhaps more
_LINK, _LAYOUT, _CONTINUATION = 0x06, 0x08, 0x10  # kinds of messages


class UnknownHeaderError(Exception):
    """A header is not of one piece, or not of a kind that is read here."""


class Value(NamedTuple):
    """Where the value of an item stands, and what it is.

    Attributes:
        start: in the file, or from the beginning of a record.
        dtype: None of a reference to a text.
    """

    start: int
    size: int
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]


class ObjectHeader(NamedTuple):
    """An object header of one piece.

    Attributes:
        start, end: where it begins, and where what follows on its checksum does.
        path: of the group or item.
        links: address of the address of each linked object, of a group.
        value: of an item that holds it.
    """

    start: int
    end: int
    path: str
    links: dict[str, int]
    value: Value | None

    @classmethod
    def read(cls, pages: mmap.mmap, start: int, path: str) -> "ObjectHeader":
        """Parse the header at an address.

        Raises:
            UnknownHeaderError: it is no such header.
        """
        first, end = extent_of_messages(pages, start)
        links: dict[str, int] = {}
        value = None
        for kind, at, length in _messages(pages, first, end):
            message = pages[at : at + length]
            if kind == _CONTINUATION:
                raise UnknownHeaderError
            if kind == _LINK:
                if message[:2] != b"\x01\x00":  # hard, its name of ASCII and less than 256 bytes
                    raise UnknownHeaderError
                links[message[3 : 3 + message[2]].decode("ascii")] = at + 3 + message[2]
            if kind == _LAYOUT:
                if message[0] not in (3, 4) or message[1] != 0:  # compact
                    raise UnknownHeaderError
                value = Value(at + 4, int.from_bytes(message[2:4], "little"), None, ())
        return cls(start, end + CHECKSUM_SIZE, path, links, value)

    def described(self, item: object, read: Item) -> "ObjectHeader":
        """Return the header of an item with the type and shape of its value.

        Args:
            item: that HDF5 has opened.
            read: what it has read of it.

        Raises:
            UnknownHeaderError: the value is converted when it is read, or is elsewhere.
        """
        if not (isinstance(item, h5d.DatasetID) and self.value):
            raise UnknownHeaderError
        kind = item.get_type()
        if isinstance(read, str):
            as_is = kind.get_class() == h5t.STRING and kind.is_variable_str()
            value, size = self.value, REFERENCE_SIZE
        else:
            dtype = np.dtype(np.uint8) if read.dtype == np.bool_ else read.dtype
            as_is = kind.get_size() == 1 if dtype == np.uint8 else kind == h5t.py_create(dtype)
            value = self.value._replace(dtype=dtype, shape=read.shape)
            size = read.size * dtype.itemsize
        if not (as_is and size == value.size):
            raise UnknownHeaderError
        return self._replace(value=value)


def extent_of_messages(pages: mmap.mmap, start: int) -> tuple[int, int]:
    """Return where the messages of the header at an address begin and end.

    Raises:
        UnknownHeaderError: there is no header of the kind that is read here.
    """
    header = pages[start : start + _SIZES]
    if not header.startswith(_START) or header[5] & ~0b11:  # of no times or such
        raise UnknownHeaderError
    size_at = len(_START) + 1
    first = size_at + (1 << header[5])
    return start + first, start + first + int.from_bytes(header[size_at:first], "little")


def _messages(pages: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield kind, address and size of the messages of a header."""
    while start + 4 <= end:
        size = int.from_bytes(pages[start + 1 : start + 3], "little")
        yield pages[start], start + 4, size
        start += 4 + size
