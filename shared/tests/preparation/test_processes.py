"""Results come in order, failures are noticed, and one process is as good as several."""

import os
import signal

import pytest

from mace_jax.errors import DataError, MaceJaxError
from mace_jax.preparation.processes import Processes


@pytest.fixture(scope="module")
def two():
    with Processes(2) as processes:
        yield processes


def square(number):
    if number < 0:
        message = f"{number}: below zero"
        raise DataError(message)
    return number**2, os.getpid()


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_are_in_the_order_of_the_tasks(two):
    found = list(two.map(square, range(30)))
    assert [number for number, _ in found] == [number**2 for number in range(30)]
    assert os.getpid() not in {process for _, process in found}


def test_only_a_few_tasks_are_taken_ahead(two):
    taken = []
    results = two.map(square, (taken.append(n) or n for n in range(100)))
    next(results)
    assert len(taken) <= 6
    results.close()


@pytest.mark.parametrize("n_processes", [1, 2])
def test_what_a_task_raises_is_raised_after_the_results_before_it(n_processes):
    with Processes(n_processes) as processes:
        results = processes.map(square, [1, 2, -3, 4])
        assert [next(results)[0], next(results)[0]] == [1, 4]
        with pytest.raises(DataError, match="-3: below zero"):
            next(results)


def test_a_single_task_needs_no_process():
    with Processes(2) as processes:
        assert list(processes.map(square, [3])) == [(9, os.getpid())]
        assert list(processes.map(square, [])) == []


def test_a_process_that_is_killed_is_noticed():
    with Processes(2) as processes, pytest.raises(MaceJaxError, match="ended from outside"):
        list(processes.map(die, range(4)))
