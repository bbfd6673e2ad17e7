"""Memory that was freed is used again without asking the system for it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mace_jax.memory import keep_memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory")
setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
huge_pages = pytest.mark.skipif(
    not setting.exists() or "[madvise]" not in setting.read_text(),
    reason="huge pages are for all or for none",
)

# prints what ``prepare`` returns, then the page faults of each of several passes: allocate 64 MB,
# fill, free
PROGRAM = """
from resource import RLIMIT_AS, RUSAGE_SELF, getrusage, setrlimit

import numpy as np

from mace_jax.memory import keep_memory, return_memory

def faults(work):
    before = getrusage(RUSAGE_SELF).ru_minflt
    work()
    return getrusage(RUSAGE_SELF).ru_minflt - before

def fill():
    np.ones(1 << 23)

def resident():
    return int(open("/proc/self/statm").read().split()[1])

def returned():
    fill()
    before = resident()
    return_memory()
    return before - resident()

def limited():
    setrlimit(RLIMIT_AS, (1 << 30, 1 << 30))
    return keep_memory()

print({prepare}, *(faults({work}) for _ in range(3)))
"""


def page_faults(prepare: str, work: str = "fill") -> tuple[str, list[int]]:
    """Return what ``prepare`` returned, and the page faults of every pass after it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(prepare=prepare, work=work)],
        env={**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    returned, *faults = done.stdout.split()
    return returned, [int(number) for number in faults]


@pytest.fixture(scope="module")
def usual() -> int:
    """Return the page faults of a pass where nothing is kept: they do not become fewer."""
    _, faults = page_faults("None")
    assert min(faults) > max(faults) / 2
    assert min(faults) >= 32  # huge pages of 2 MB at most
    return min(faults)


@glibc
@pytest.mark.parametrize(
    "prepare", ["keep_memory()", "keep_memory() and keep_memory()", "limited()"]
)
def test_a_second_pass_finds_its_memory_there(usual, prepare):
    returned, faults = page_faults(prepare)
    assert returned == "True"
    assert max(faults[1:]) < usual / 10


@glibc
@huge_pages
def test_the_first_pass_gets_huge_pages(usual):
    _, (first, *_) = page_faults("keep_memory()")
    assert first < usual / 2


@glibc
def test_asking_for_it_takes_no_memory():
    _, (first, *_) = page_faults("None", "keep_memory")
    assert first < 32


def test_elsewhere_it_is_not_possible(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_memory() is False


@glibc
def test_what_was_kept_is_returned_when_asked_for():
    pages, _ = page_faults("keep_memory() and returned()")
    assert int(pages) * os.sysconf("SC_PAGE_SIZE") > 60 << 20
