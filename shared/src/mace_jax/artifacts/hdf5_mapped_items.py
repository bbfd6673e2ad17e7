"""Small items of HDF5 groups, read from the mapped file where they are of a form that is known.

HDF5 takes some thirty microseconds for an item, most of it to describe what is the same for all.
Small items of newer files lie within their object header: signature ``OHDR``, what the item is, the
value, a checksum. Of items that HDF5 has read all but the value is remembered, and others that have
the same around their value are read without it. Whatever is not of such a form is left to HDF5.
The checksums are not computed.

Source: HDF5 file format specification, version 3.0: III.F (global heap), IV.A.1.b (object headers
of version 2), IV.A.2.g (links), IV.A.2.i (layout).
"""

import mmap
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from h5py import h5d, h5g, h5o, h5t

from mace_jax.artifacts.hdf5_items import Item, read_item

_KEY = 36  # first bytes of a header, which tell forms apart; no value begins there
_LINK, _LAYOUT, _CONTINUATION = 0x06, 0x08, 0x10  # kinds of messages
# Groups that forms are learned from, and heaps whose texts are kept in mind.
_MOST_LEARNED, _MOST_HEAPS = 2048, 1 << 14
# Groups are read until the system is told to let go of the pages around them.
_MOST_MAPPED = 256


class UnknownFormError(Exception):
    """HDF5 itself has to read this."""


class _Form(NamedTuple):
    """What surrounds the values of a header: addresses of links by name, or those of an item."""

    pattern: re.Pattern[bytes]
    length: int
    names: tuple[str, ...]
    dtype: np.dtype[Any] | None  # None: a text
    shape: tuple[int, ...]


class MappedItems:
    """Reads the items of one file that nobody changes; not for several threads at once."""

    def __init__(self, path: Path) -> None:
        """Map the file."""
        with path.open("rb") as opened:
            self._pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._forms: dict[bytes, _Form] = {}
        self._heaps: dict[int, array[int]] = {}
        self._n_mapped = self._n_learned = 0

    def group(self, address: int) -> "MappedGroup":
        """Return the group whose header is at ``address``.

        Raises:
            UnknownFormError: it is of no known form.
        """
        self._n_mapped += 1
        if self._n_mapped > _MOST_MAPPED and hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)
            self._n_mapped = 0
        form, values = self._match(address)
        if not form.names:
            raise UnknownFormError
        links = zip(form.names, (int.from_bytes(value, "little") for value in values), strict=True)
        return MappedGroup(self, dict(links))

    def item(self, address: int) -> Item:
        """Return the value of the item whose header is at ``address``; errors as of ``group``."""
        form, values = self._match(address)
        if form.names:
            raise UnknownFormError
        (value,) = values
        if form.dtype is None:
            return self._text(value)
        found = np.frombuffer(value, form.dtype).reshape(form.shape)
        return found != 0 if form.dtype == np.uint8 else found.copy()

    def _match(self, address: int) -> tuple[_Form, tuple[bytes, ...]]:
        form = self._forms.get(self._pages[address : address + _KEY])
        match = form and form.pattern.fullmatch(self._pages, address, address + form.length)
        if not (form and match):
            raise UnknownFormError
        return form, match.groups()

    def _text(self, reference: bytes) -> str:
        """Return a text: its length, the address of a heap and its number there are given."""
        length = int.from_bytes(reference[:4], "little")
        heap = int.from_bytes(reference[4:12], "little")
        number = int.from_bytes(reference[12:], "little")
        starts = self._heaps.get(heap)
        if starts is None:
            if len(self._heaps) == _MOST_HEAPS:
                self._heaps.clear()
            starts = self._heaps[heap] = array("I", _heap_starts(self._pages, heap))
        if number >= len(starts) or not starts[number]:
            raise UnknownFormError
        start = heap + starts[number]
        size = int.from_bytes(self._pages[start - 8 : start], "little")
        text = self._pages[start : start + length]
        if not length == len(text) <= size:
            raise UnknownFormError
        return text.decode()

    def learn(self, group: h5g.GroupID, address: int) -> None:
        """Remember the form of a group that HDF5 has read, and of all that is in it."""
        if self._n_learned < _MOST_LEARNED:
            self._n_learned += 1
            self._learn_group(group, address)

    def _learn_group(self, group: h5g.GroupID, address: int) -> None:
        header = _Header.read(self._pages, address)
        if header is None or header.links is None:
            return
        for name, at in header.links.items():
            child = h5o.open(group, name.encode())
            linked = int.from_bytes(self._pages[at : at + 8], "little")
            if isinstance(child, h5g.GroupID):
                self._learn_group(child, linked)
            elif isinstance(child, h5d.DatasetID) and not self._knows(linked):
                self._learn_item(child, read_item(group, name), linked)
        if not self._knows(address):
            places = [(at, 8) for at in header.links.values()]
            self._remember(header, places, tuple(header.links), None, ())

    def _knows(self, address: int) -> bool:
        try:
            self._match(address)
        except UnknownFormError:
            return False
        return True

    def _learn_item(self, item: h5d.DatasetID, value: Item, address: int) -> None:
        header = _Header.read(self._pages, address)
        if header is None or header.value is None:
            return
        size, kind = header.value[1], item.get_type()
        if isinstance(value, str):
            is_reference = kind.get_class() == h5t.STRING and kind.is_variable_str()
            if is_reference and size == 16:
                self._remember(header, [header.value], (), None, ())
            return
        dtype = np.dtype(np.uint8) if value.dtype == np.bool_ else value.dtype
        as_is = kind.get_size() == 1 if dtype == np.uint8 else kind == h5t.py_create(dtype)
        if as_is and size == value.size * dtype.itemsize:
            self._remember(header, [header.value], (), dtype, value.shape)

    def _remember(
        self,
        header: "_Header",
        places: list[tuple[int, int]],
        names: tuple[str, ...],
        dtype: np.dtype[Any] | None,
        shape: tuple[int, ...],
    ) -> None:
        """Remember a header, all but the values at ``places`` (address, size) and the checksum."""
        parts, at = [], header.start
        for start, size in places:
            parts += [re.escape(self._pages[at:start]), b"(.{%d})" % size]
            at = start + size
        parts += [re.escape(self._pages[at : header.end]), b".{4}"]
        key = self._pages[header.start : header.start + _KEY]
        pattern = re.compile(b"".join(parts), re.DOTALL)
        self._forms[key] = _Form(pattern, header.end + 4 - header.start, names, dtype, shape)


class MappedGroup:
    """The items of a group by name."""

    def __init__(self, items: MappedItems, links: dict[str, int]) -> None:
        self._items, self._links = items, links

    def group(self, name: str) -> "MappedGroup":
        """Return a group in this one; errors as of ``MappedItems.group``."""
        return self._items.group(self._address(name))

    def read(self, name: str) -> Item:
        """Return an item; errors as of ``MappedItems.item``."""
        return self._items.item(self._address(name))

    def read_if_present(self, name: str) -> Item | None:
        """Return an item, or None if there is none of that name."""
        return self.read(name) if name in self._links else None

    def _address(self, name: str) -> int:
        if name not in self._links:
            raise UnknownFormError
        return self._links[name]


class _Header(NamedTuple):
    """Where an object header of one piece begins and ends, and what changes in it.

    Attributes:
        links: address of the address of each linked object, of a group.
        value: address and size of the value, of an item that holds it.
    """

    start: int
    end: int
    links: dict[str, int] | None
    value: tuple[int, int] | None

    @classmethod
    def read(cls, pages: mmap.mmap, start: int) -> "_Header | None":
        """Parse the header at an address; None if it is no such header."""
        signature, flags = pages[start : start + 5], pages[start + 5 : start + 6]
        if signature != b"OHDR\x02" or flags[0] & ~0b11:  # of no times or such
            return None
        width = 1 << flags[0]
        first = start + 6 + width
        end = first + int.from_bytes(pages[start + 6 : first], "little")
        links: dict[str, int] = {}
        value = None
        for kind, at, size in _messages(pages, first, end):
            message = pages[at : at + size]
            if kind == _CONTINUATION:
                return None
            if kind == _LINK:
                if message[:2] != b"\x01\x00":  # hard, its name of ASCII and less than 256 bytes
                    return None
                links[message[3 : 3 + message[2]].decode("ascii")] = at + 3 + message[2]
            if kind == _LAYOUT:
                if message[0] not in (3, 4) or message[1] != 0:  # compact
                    return None
                value = at + 4, int.from_bytes(message[2:4], "little")
        return cls(start, end, links or None, value)


def _messages(pages: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield kind, address and size of the messages of a header."""
    while start + 4 <= end:
        size = int.from_bytes(pages[start + 1 : start + 3], "little")
        yield pages[start], start + 4, size
        start += 4 + size


def _heap_starts(pages: mmap.mmap, heap: int) -> Iterator[int]:
    """Yield where objects 0, 1, 2, … of a global heap begin in it; 0: there is none of a number."""
    if pages[heap : heap + 5] != b"GCOL\x01":
        return
    size = int.from_bytes(pages[heap + 8 : heap + 16], "little")
    found: dict[int, int] = {}
    at = 16
    while at + 16 <= size:
        number = int.from_bytes(pages[heap + at : heap + at + 2], "little")
        if not number:
            break
        found[number] = at + 16
        length = int.from_bytes(pages[heap + at + 8 : heap + at + 16], "little")
        at += 16 + -(-length // 8) * 8
    yield from (found.get(number, 0) for number in range(max(found, default=0) + 1))
