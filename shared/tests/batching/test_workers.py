"""Workers against the same function in the calling thread, and what becomes of the processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from operator import call
from pathlib import Path

import pytest

from mace_jax.batching.workers import Workers
from mace_jax.elements import species_index
from mace_jax.errors import DataError, MaceJaxError

# Tasks are functions that are called: what they are is found in a worker, too.
REFUSED = partial(species_index, [1], (8,), "frame 3")


def squares(numbers):
    return [partial(pow, n, 2) for n in numbers]


@pytest.fixture(scope="module")
def two():
    workers = Workers(call, 2)
    yield workers
    workers.close()
    assert not multiprocessing.active_children()


def test_without_workers_the_caller_computes():
    workers = Workers(call, 0)
    assert list(workers.map([os.getpid])) == [os.getpid()]
    workers.close()


def test_results_are_in_the_order_of_the_tasks(two):
    assert list(two.map(squares(range(50)))) == [n**2 for n in range(50)]
    assert list(two.map([])) == []


def test_others_compute(two):
    assert os.getpid() not in list(two.map([os.getpid] * 4))


def test_tasks_are_taken_no_faster_than_results_are(two):
    taken = []

    def tasks():
        for n in range(100):
            taken.append(n)
            yield partial(pow, n, 2)

    results = two.map(tasks())
    for n in range(20):
        assert next(results) == n**2
        assert len(taken) <= n + 5
    results.close()


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_an_error_arrives_in_its_place_as_it_is(n_workers, two):
    workers = two if n_workers == 2 else Workers(call, n_workers)
    results = workers.map([*squares([1, 2]), REFUSED, *squares([4])])
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(DataError, match=r"^frame 3: unknown element H"):
        next(results)
    assert list(workers.map(squares([3]))) == [9]
    if workers is not two:
        workers.close()


def test_a_worker_that_dies_is_an_error_and_not_a_wait():
    workers = Workers(call, 1)
    with pytest.raises(MaceJaxError, match=r"ended from outside.*memory"):
        list(workers.map([*squares([1]), partial(os._exit, 1), *squares([3])]))
    assert list(workers.map(squares([3]))) == [9]
    workers.close()


def test_an_interrupt_is_left_to_the_parent(two):
    for pid in set(two.map([os.getpid] * 4)):
        os.kill(pid, signal.SIGINT)
    assert list(two.map(squares(range(10)))) == [n**2 for n in range(10)]


def test_nothing_runs_before_it_is_asked_for_and_after_close():
    workers = Workers(call, 2)
    results = workers.map(squares(range(100)))
    before = set(multiprocessing.active_children())
    next(results)
    (*started,) = set(multiprocessing.active_children()) - before
    assert started
    results.close()
    workers.close()
    workers.close()
    assert not any(process.is_alive() for process in started)


_PARENT = """
import os, time
from operator import call
from mace_jax.batching.workers import Workers

if __name__ == "__main__":
    workers = Workers(call, 2)
    print(*set(workers.map([os.getpid] * 8)), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_workers_end_with_their_parent(tmp_path, signal_name):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids
    assert all(_runs(pid) for pid in pids)
    parent.send_signal(getattr(signal, signal_name))
    parent.communicate()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid):
    """Return whether a process is there and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
