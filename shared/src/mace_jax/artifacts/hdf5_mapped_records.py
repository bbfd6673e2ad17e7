"""Groups of small items, read from the mapped file many at once where their form is known.

HDF5 takes some thirty microseconds for an item, most of it to describe what is the same for all.
Small items lie within their headers. The headers of a group and of all that is in it, end to end,
are its record. Of a group that HDF5 has read it is remembered which bytes of the record are values,
addresses and checksums. Groups with all other bytes the same are read without HDF5; whatever is not
of such a form is left to it. The checksums are not computed.

Source: HDF5 file format specification, version 3.0: III.F (global heap).
"""

import mmap
import struct
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from h5py import h5g, h5o
from numpy.typing import NDArray

from mace_jax.artifacts.hdf5_items import read_item
from mace_jax.artifacts.hdf5_object_header import (
    CHECKSUM_SIZE,
    ObjectHeader,
    UnknownHeaderError,
    Value,
    extent_of_messages,
)

# The values of an item in several groups: an array whose rows they are, or texts.
Column = NDArray[Any] | list[str]

_KEY = 36  # first bytes of an item's header, which say its shape
_REFERENCE = struct.Struct("<IQI")  # to a text: its length, the address of a heap, its number there
# Groups that forms are learned from, and heaps whose texts are kept in mind.
_MOST_LEARNED, _MOST_HEAPS = 4096, 1 << 14
# Groups are read until the system is told to let go of the pages around them.
_MOST_MAPPED = 256


class _Part(NamedTuple):
    """A header in a record.

    Attributes:
        size: bytes of it.
        parent: number of the header that links to it.
        link: where in that one its address stands.
    """

    size: int
    parent: int
    link: int


class _Form(NamedTuple):
    """What is the same in all records of a kind.

    Attributes:
        parts: the headers, in order.
        fixed: 255 for each byte that is the same, 0 for the others.
        known: those bytes, 0 for the others.
        values: of the items, by path.
    """

    parts: tuple[_Part, ...]
    fixed: NDArray[np.uint8]
    known: NDArray[np.uint8]
    values: Mapping[str, Value]

    @classmethod
    def of(cls, pages: mmap.mmap, headers: Sequence[tuple[ObjectHeader, int, int]]) -> "_Form":
        """Return the form of a group.

        Args:
            pages: the file.
            headers: of the group and of all in it, each after the one that links to it; the number
                of that one, and where in the file it links.
        """
        record = b"".join(pages[header.start : header.end] for header, _, _ in headers)
        fixed = np.full(len(record), 255, np.uint8)
        parts, values, start = [], {}, 0
        for header, parent, link in headers:
            size, shift = header.end - header.start, start - header.start
            parts.append(_Part(size, parent, link - headers[parent][0].start))
            changing = [(at, 8) for at in header.links.values()]
            if header.value:
                values[header.path] = header.value._replace(start=header.value.start + shift)
                changing.append((header.value.start, header.value.size))
            for at, length in (*changing, (header.end - CHECKSUM_SIZE, CHECKSUM_SIZE)):
                fixed[at + shift : at + shift + length] = 0
            start += size
        return cls(tuple(parts), fixed, np.frombuffer(record, np.uint8) & fixed, values)

    def record(self, pages: mmap.mmap, address: int) -> bytes:
        """Return the headers of the group at an address, if it is of this form."""
        found: list[bytes] = []
        for size, parent, link in self.parts:
            at = int.from_bytes(found[parent][link : link + 8], "little") if found else address
            found.append(pages[at : at + size])
        return b"".join(found)


class MappedRecords:
    """Reads groups of one file that nobody changes; not for several threads at once."""

    def __init__(self, path: Path) -> None:
        """Map the file."""
        with path.open("rb") as opened:
            self._pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self._forms: dict[bytes, list[_Form]] = defaultdict(list)
        self._heaps: dict[int, array[int]] = {}
        self._n_mapped = self._n_learned = 0

    def read(self, addresses: Sequence[int]) -> Iterator[tuple[list[int], dict[str, Column]]]:
        """Read the groups that are of known forms.

        Args:
            addresses: of the groups' headers.

        Yields: the indices of those that are of one form, and their items by path.
        """
        alike: dict[bytes, list[int]] = defaultdict(list)
        for index, address in enumerate(addresses):
            alike[self._key(address)].append(index)
        for key, indices in alike.items():
            rest = indices
            for form in self._forms.get(key, ()):
                found, columns = self._read_form(form, rest, addresses)
                if found:
                    yield found, columns
                    rest = sorted({*rest} - {*found})
        self._let_go(len(addresses))

    def _key(self, address: int) -> bytes:
        """Return what tells forms apart: what follows on a group's header, most often an item."""
        try:
            _, end = extent_of_messages(self._pages, address)
        except UnknownHeaderError:
            return b""
        return self._pages[end + CHECKSUM_SIZE : end + CHECKSUM_SIZE + _KEY]

    def _read_form(
        self, form: _Form, indices: Sequence[int], addresses: Sequence[int]
    ) -> tuple[list[int], dict[str, Column]]:
        """Return which groups are of a form, and their items by path."""
        contents = {i: form.record(self._pages, addresses[i]) for i in indices}
        whole = [i for i, content in contents.items() if len(content) == len(form.fixed)]
        records = np.frombuffer(b"".join(contents[i] for i in whole), np.uint8)
        records = records.reshape(-1, len(form.fixed))
        fits = ((records & form.fixed) == form.known).all(axis=1)
        texts = {
            path: self._texts(_bytes_of(records, value))
            for path, value in form.values.items()
            if value.dtype is None
        }
        for column in texts.values():
            fits &= np.array([text is not None for text in column], np.bool_)
        columns: dict[str, Column] = {
            path: [text for text, fit in zip(column, fits, strict=True) if fit and text is not None]
            for path, column in texts.items()
        }
        for path, value in form.values.items():
            if value.dtype is not None:
                numbers = (
                    _bytes_of(records[fits], value).view(value.dtype).reshape(-1, *value.shape)
                )
                columns[path] = numbers != 0 if value.dtype == np.uint8 else numbers
        return [i for i, fit in zip(whole, fits, strict=True) if fit], columns

    def _texts(self, references: NDArray[np.uint8]) -> list[str | None]:
        """Return the texts that are referred to, None where this cannot be followed."""
        return [self._text(*found) for found in _REFERENCE.iter_unpack(references.tobytes())]

    def _text(self, length: int, heap: int, number: int) -> str | None:
        starts = self._heaps.get(heap)
        if starts is None:
            if len(self._heaps) == _MOST_HEAPS:
                self._heaps.clear()
            starts = self._heaps[heap] = array("I", _heap_starts(self._pages, heap))
        if number >= len(starts) or not starts[number]:
            return None
        start = heap + starts[number]
        size = int.from_bytes(self._pages[start - 8 : start], "little")
        text = self._pages[start : start + length]
        if not length == len(text) <= size:
            return None
        try:
            return text.decode()
        except UnicodeDecodeError:
            return None

    def _let_go(self, n_groups: int) -> None:
        self._n_mapped += n_groups
        if self._n_mapped > _MOST_MAPPED and hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)
            self._n_mapped = 0

    def learn(self, group: h5g.GroupID, address: int) -> None:
        """Remember the form of a group that HDF5 has read, if it has one that can be read here."""
        if self._n_learned == _MOST_LEARNED:
            return
        self._n_learned += 1
        headers: list[tuple[ObjectHeader, int, int]] = []
        try:
            self._survey(headers, group, ObjectHeader.read(self._pages, address, ""), 0, address)
        except UnknownHeaderError:
            return
        form, alike = _Form.of(self._pages, headers), self._forms[self._key(address)]
        if not any(np.array_equal(form.known, other.known) for other in alike):
            alike.append(form)

    def _survey(
        self,
        headers: list[tuple[ObjectHeader, int, int]],
        group: h5g.GroupID,
        header: ObjectHeader,
        parent: int,
        link: int,
    ) -> None:
        """Add the headers of a group and of all that is in it."""
        number = len(headers)
        headers.append((header, parent, link))
        for name, at in header.links.items():
            child = h5o.open(group, name.encode())
            linked = int.from_bytes(self._pages[at : at + 8], "little")
            path = f"{header.path}/{name}" if header.path else name
            found = ObjectHeader.read(self._pages, linked, path)
            if isinstance(child, h5g.GroupID):
                self._survey(headers, child, found, number, at)
            else:
                headers.append((found.described(child, read_item(group, name)), number, at))


def _bytes_of(records: NDArray[np.uint8], value: Value) -> NDArray[np.uint8]:
    """Return the bytes of a value in all records, an array of its own."""
    return records[:, value.start : value.start + value.size].copy()


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
