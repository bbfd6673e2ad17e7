"""Measure this project against mace-torch, interleaved in one run.

``python benchmarks/run.py [--quick] [--only train,evaluate,...] [--data FILE] [--output FOLDER]``
needs one environment with these packages, torch, mace-torch and matplotlib. It writes
``benchmark.json`` with every repeat, ``benchmark.md`` and ``benchmark.png``.

Each program runs in a process of its own for each case, on all cores unless said, while the others
wait. They take turns, so a slow minute of the machine hits all of them. All have the same weights,
converted, and a case is timed only after they agree on its first loss, or its first energies and
forces.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import commands
import machine
import report
import systems
from protocol import Worker, WorkerError
from systems import OURS, TORCH, TORCH_HUGE

HERE = Path(__file__).parent
SCRIPTS = {
    OURS: HERE / "worker_ours.py",
    TORCH: HERE / "worker_torch.py",
    TORCH_HUGE: HERE / "worker_torch.py",
}
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
}
# What our commands do to malloc by themselves, from outside.
HUGE_PAGES = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:"
    "glibc.malloc.trim_threshold=17179869184"
}
KINDS = ("train", "evaluate", "calculator", "startup", "edges")
# Largest difference, relative to the largest number, of the same weights on the same input.
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}
# Share of the free memory that a case may be expected to take.
MEMORY_SHARE = 0.7
# Seconds between turns, in which the threads of the last program fall asleep.
PAUSE = 0.2


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        repeats: timed turns of each program.
        seconds: that a turn should take.
        models: hidden irreps of the networks.
        copies: of a cell of a thousand edges, for the cost against the number of edges.
        limit: seconds that one step may be expected to take; a larger system is left out.
    """

    repeats: int = 7
    seconds: float = 2.0
    models: tuple[str, ...] = (systems.SMALL, systems.MEDIUM)
    copies: tuple[int, ...] = (1, 3, 10, 30, 100, 300, 1000)
    limit: float = 60.0


QUICK = Effort(repeats=2, seconds=0.3, models=(systems.SMALL,), copies=(1, 10, 100), limit=10.0)


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        kind: one of ``KINDS``.
        label: what is special about it, for people.
        worker: what the workers measure.
        hidden_irreps, dtype: of the network.
        unit: what one costs.
        units: of them in a step.
        settings: for the workers.
        programs: that take part.
        threads: of each program.
    """

    kind: str
    label: str
    worker: str
    hidden_irreps: str
    dtype: str
    unit: str
    units: int
    settings: Mapping[str, Any]
    programs: tuple[str, ...] = (OURS, TORCH, TORCH_HUGE)
    threads: int = os.cpu_count() or 1


def main() -> int:
    """Measure, write, and return 1 if a case failed."""
    options = _options()
    effort = QUICK if options.quick else Effort()
    if options.repeats:
        effort = replace(effort, repeats=options.repeats)
    options.output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "data": options.data.name,
        "effort": asdict(effort),
        "machine": machine.describe(),
        "cases": [],
        "commands": None,
    }
    with tempfile.TemporaryDirectory() as name, (options.output / "workers.log").open("w") as log:
        bench = Bench(Path(name), effort, log)
        result["peaks"] = bench.peaks()
        if "startup" in options.only:
            _say("start-up of commands")
            result["commands"] = commands.measure(Path(name), effort.repeats)
        for record in bench.measure(_cases(options.only, effort, str(options.data.resolve()))):
            result["cases"].append(record)
            report.write_json(result, options.output)  # after each: nothing measured is lost
    report.write(result, options.output)
    print(options.output / "benchmark.md")
    return int(any("error" in record for record in result["cases"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repeats of small cases")
    parser.add_argument("--only", default=",".join(KINDS), help="of %(default)s")
    parser.add_argument("--data", type=Path, default=systems.default_data(), help="aspirin, extxyz")
    parser.add_argument("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed turns of each program")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = set(options.only) - set(KINDS)
    if unknown:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}")
    return options


def _cases(kinds: list[str], effort: Effort, data: str) -> list[Case]:
    """Return what to compare, systems of edges from small to large."""
    frames = {"structures": {"data": data}, "batch": systems.BATCH}
    cases = []
    for model in effort.models:
        for dtype in ("float32", "float64"):
            work = ("training step", "train", model, dtype, "graph", systems.BATCH, frames)
            cases.append(Case("train", *work))
        work = ("evaluation", "evaluate", model, "float32", "graph", systems.BATCH, frames)
        cases.append(Case("evaluate", *work))
    for system, label in (("aspirin", "MD, aspirin"), ("cell", "MD, 512 atoms")):
        for model in effort.models:
            settings = {"system": system, "data": data}
            work = (label, "calculator", model, "float32", "MD step", 1, settings)
            case = Case("calculator", *work)
            cases.append(case)
            if system == "aspirin":  # too little work for several threads
                cases.append(replace(case, label=f"{label}, one thread", threads=1))
    for worker, label in (("evaluate", "evaluation"), ("train", "training step")):
        for n in effort.copies:
            settings = {"structures": {"copies": n}, "batch": n}
            work = (label, worker, systems.SMALL, "float32", "batch", 1, settings, (OURS, TORCH))
            cases.append(Case("edges", *work))
    return [case for case in cases if case.kind in kinds]


class Bench:
    """Runs cases."""

    def __init__(self, folder: Path, effort: Effort, log: TextIO) -> None:
        """Keep where networks are written, how much to measure and where workers talk to."""
        self.folder = folder
        self.effort = effort
        self.log = log
        # by label and program: cells, seconds and MB of the systems so far
        self.reached: dict[tuple[str, str], list[tuple[int, float, float]]] = {}

    def worker(self, program: str, threads: int = os.cpu_count() or 1) -> Worker:
        """Start a worker that computes with ``threads`` threads."""
        environment = ENVIRONMENT | (HUGE_PAGES if program == TORCH_HUGE else {})
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "PJRT_NPROC"), str(threads))
        return Worker(SCRIPTS[program], environment, self.log)

    def peaks(self) -> dict[str, Any]:
        """Return what the machine can do at most."""
        _say("peaks of the machine")
        with self.worker(OURS) as worker:
            worker.ask("start", case="peaks")
            return worker.ask("first")

    def measure(self, cases: list[Case]) -> Iterator[dict[str, Any]]:
        """Yield the record of each case; one that failed has an ``error``."""
        for case in cases:
            _say(f"{case.label}, {case.hidden_irreps}, {case.dtype}: {case.settings}")
            skipped = self._unaffordable(case) if case.kind == "edges" else {}
            for program, reason in skipped.items():
                _say(f"  {program}: {reason}")
            programs = [program for program in case.programs if program not in skipped]
            record = {**asdict(case), "skipped": skipped, "programs": {}}
            try:
                if programs:
                    record |= self.compare(case, programs)
            except (WorkerError, subprocess.CalledProcessError) as error:
                record["error"] = str(error)
                _say(f"  failed: {error}")
            yield record

    def _unaffordable(self, case: Case) -> dict[str, str]:
        """Return the programs that would need too much, if cost grows linearly."""
        skipped = {}
        free = MEMORY_SHARE * machine.available_mb()
        for program in case.programs:
            reached = self.reached.get((case.label, program))
            if not reached:
                continue
            # the smallest system shows what any costs: calls, code, compiler
            (_, *base), (copies, *last) = reached[0], reached[-1]
            factor = case.settings["batch"] / copies
            seconds, peak = (b + factor * (x - b) for b, x in zip(base, last, strict=True))
            if peak > free:
                skipped[program] = f"would need about {peak / 1000:.0f} GB"
            elif seconds > self.effort.limit:
                skipped[program] = f"would take about {seconds:.0f} s"
            else:
                free -= peak
        return skipped

    def compare(self, case: Case, programs: list[str]) -> dict[str, Any]:
        """Time a case with programs in turn.

        Raises:
            WorkerError: a program fails, or they do not agree.
        """
        model, bundle = self._model(case.hidden_irreps, case.dtype)
        settings = {**case.settings, "dtype": case.dtype}
        with ExitStack() as stack:
            workers, found = {}, {}
            for program in programs:
                worker = workers[program] = stack.enter_context(self.worker(program, case.threads))
                network = str(bundle if program == OURS else model)
                worker.ask("start", case=case.worker, network=network, **settings)
                first = worker.ask("first")
                for n_steps in (3, 1):  # the first steps of TorchScript are slow
                    warm = worker.ask("repeat", n_steps=n_steps)["seconds"]
                n_steps = max(1, round(self.effort.seconds / warm))
                found[program] = {"first": first, "n_steps": n_steps, "repeats": []}
            _require_agreement(found, case.dtype)
            others = machine.Others([worker.process.pid for worker in workers.values()])
            for _ in range(self.effort.repeats):
                for program, worker in workers.items():
                    time.sleep(PAUSE)
                    answer = worker.ask("repeat", n_steps=found[program]["n_steps"])
                    found[program]["repeats"].append(answer["seconds"] / case.units)
                    found[program]["peak_mb"] = answer["peak_mb"]
            busy = others.busy()
        for program, values in found.items():
            del values["first"]["values"]
            values["median"] = statistics.median(values["repeats"])
            if case.kind == "edges":
                cost = case.settings["batch"], values["median"], values["peak_mb"]
                self.reached.setdefault((case.label, program), []).append(cost)
            _say(f"  {program}: {1e3 * values['median']:.3g} ms/{case.unit}")
        return {"programs": found, "others_busy": busy}

    def _model(self, hidden_irreps: str, dtype: str) -> tuple[Path, Path]:
        """Return a network of random weights as mace-torch saves it, and converted."""
        stem = f"{hidden_irreps.replace(' ', '')}-{dtype}"
        model, bundle = (self.folder / f"{stem}.{suffix}" for suffix in ("model", "msgpack"))
        if not bundle.exists():
            with self.worker(TORCH) as worker:
                worker.ask(
                    "start",
                    case="make",
                    hidden_irreps=hidden_irreps,
                    dtype=dtype,
                    network=str(model),
                )
            command = [Path(sys.executable).parent / "mace-jax-from-torch", "--torch-model", model]
            subprocess.run(  # noqa: S603
                [*command, "--output", bundle], check=True, stdout=self.log, stderr=self.log
            )
        return model, bundle


def _require_agreement(found: Mapping[str, Any], dtype: str) -> None:
    """Check that all programs computed the same at first, and note how well in ``difference``.

    Raises:
        WorkerError: they did not, so that their times say nothing about each other.
    """
    reference = next(iter(found.values()))["first"]["values"]
    for program, values in found.items():
        differences = {}
        for name, expected in reference.items():
            got = values["first"]["values"][name]
            scale = max(abs(x) for x in expected)
            pairs = zip(expected, got, strict=True)
            differences[name] = max(abs(a - b) for a, b in pairs) / scale
            if not differences[name] <= TOLERANCE[dtype]:
                message = (
                    f"{program}: first {name} differs by {differences[name]:.1e} of the largest, "
                    f"expected {TOLERANCE[dtype]:.0e} at most; nothing was timed"
                )
                raise WorkerError(message)
        values["difference"] = differences


def _commit() -> str:
    """Return the commit that is measured, and whether files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, check=False, cwd=HERE, capture_output=True, text=True)  # noqa: S603
    return done.stdout.strip() or "unknown"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
