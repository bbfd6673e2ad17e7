"""How a process holds the memory that it computes in.

XLA asks for the memory of every step anew. By default glibc takes large pieces from the system and
gives them back each time, so every step begins with zeroed pages of 4 kB that are mapped one by
one: on a CPU that took half of the time of a training step.
"""

import ctypes
import mmap
import os
import sys

# the parameters of mallopt(3), from malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_HUGE_PAGE = 1 << 21
_LARGEST_HEAP = 1 << 34


def keep_memory() -> bool:
    """Let malloc keep what the main thread frees, in huge pages where the system has them.

    Other threads keep heaps of their own, of 64 MB each: one for all would hand to one core what
    another has in its cache, so that products on two cores were slower than on one. A process then
    shrinks by ``return_memory`` alone, and may grow by about a tenth more. Call it
    before arrays are made; a second call does nothing new.

    Returns: whether this is possible here: on Linux with glibc.
    """
    libc = _glibc()
    if libc is None:
        return False
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
        libc.mallopt(parameter, value)
    _ask_for_huge_pages(libc)
    return True


def return_memory() -> None:
    """Return to the system what is free: after work that took much more than what follows it."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return this process's C library if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Extend the heap, advise huge pages for all of it, and free it: no page is touched."""
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    size = min(physical // 2, _LARGEST_HEAP)
    start = libc.malloc(size)
    if start is None:
        return
    aligned = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    libc.madvise(aligned, (start + size - aligned) // _HUGE_PAGE * _HUGE_PAGE, mmap.MADV_HUGEPAGE)
    libc.free(start)
