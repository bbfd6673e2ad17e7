"""The result of a run as JSON, as Markdown tables and as a figure.

``python benchmarks/report.py FOLDER`` writes the table and the figure of ``FOLDER/benchmark.json``
once more.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import commands
from systems import OURS, TORCH, TORCH_HUGE

_NAME = "benchmark"
_COLORS = {OURS: "#0b7285", TORCH: "#868e96", TORCH_HUGE: "#ced4da"}
# Cores that others may keep busy before a case is marked.
_QUIET = 0.1


def write_json(result: dict[str, Any], folder: Path) -> None:
    """Write everything that was measured."""
    (folder / f"{_NAME}.json").write_text(json.dumps(result, indent=1) + "\n")


def write(result: dict[str, Any], folder: Path) -> None:
    """Write JSON, table and figure."""
    write_json(result, folder)
    (folder / f"{_NAME}.md").write_text(markdown(result))
    draw(result, folder / f"{_NAME}.png")


def markdown(result: dict[str, Any]) -> str:
    """Return the tables."""
    done = [case for case in _small(result) if "error" not in case]
    failed = [case for case in result["cases"] if "error" in case]
    parts = ["# mace-jax beside mace-torch", _about(result)]
    if failed:
        rows = [
            [case["label"], *_network(case), " ".join(case["error"].split())] for case in failed
        ]
        parts += ["## Failed", _table(["case", "network", "dtype", "why"], rows)]
    if done:
        parts += ["## Speed", _speed(done)]
        parts += ["## First step and memory", _first_steps(done)]
    if any("flops" in case["programs"][OURS]["first"] for case in done):
        parts += ["## Share of what the machine can do", _roofline(result, done)]
    if result["commands"]:
        parts += ["## Commands", _commands(result["commands"])]
    if any(case["kind"] == "edges" for case in result["cases"]):
        parts += ["## Cost against the number of edges, µs/edge", _edges(result)]
    return "\n\n".join(parts) + "\n"


def _small(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [case for case in result["cases"] if case["kind"] != "edges"]


def _about(result: dict[str, Any]) -> str:
    about, versions = result["machine"], result["machine"]["versions"]
    load = ", ".join(f"{x:.2f}" for x in about["load_before"])
    return (
        f"{result['date']}, commit {result['commit']}. {about['cpu']}, {about['n_cpus']} cores, "
        f"{about['memory_gb']:.0f} GB; load before: {load}. Python {about['python']}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". Data: {result['data']}.\n\n"
        "Medians of turns taken in one run, on all cores unless said, with the same weights. "
        "Ratios are mace-torch's time over ours. *Huge pages*: mace-torch, told from outside to "
        f"hold memory as our commands do. †: others kept more than {_QUIET} cores busy meanwhile."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _network(case: dict[str, Any]) -> tuple[str, str]:
    return case["hidden_irreps"], case["dtype"]


def _shown(case: dict[str, Any], program: str) -> str:
    seconds = case["programs"][program]["median"]
    if case["kind"] == "evaluate":
        return f"{_digits(1 / seconds)} {case['unit']}s/s"
    return f"{_digits(1e3 * seconds)} ms/{case['unit']}"


def _digits(x: float) -> str:
    """Return three digits, without an exponent."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _ratio(case: dict[str, Any], program: str) -> float:
    return case["programs"][program]["median"] / case["programs"][OURS]["median"]


def _speed(cases: list[dict[str, Any]]) -> str:
    head = ["case", "network", "dtype", OURS, TORCH, "ratio", "huge pages", "ratio"]
    rows = []
    for case in cases:
        mark = " †" if case["others_busy"] > _QUIET else ""
        theirs = [
            text
            for program in (TORCH, TORCH_HUGE)
            for text in (_shown(case, program), f"**{_ratio(case, program):.2f}**")
        ]
        rows.append([case["label"] + mark, *_network(case), _shown(case, OURS), *theirs])
    return _table(head, rows)


def _first_steps(cases: list[dict[str, Any]]) -> str:
    """Return seconds to the end of the first step, peak memory, and how well results agree."""
    head = ["case", "network", "dtype", f"{OURS}, s", "trace + compile, s", f"{TORCH}, s"]
    head += [f"{OURS}, peak MB", f"{TORCH}, peak MB", "huge pages, peak MB", "agree to"]
    rows = []
    for case in cases:
        ours, theirs = (case["programs"][name] for name in (OURS, TORCH))
        first = ours["first"]
        parts = "-"
        if "flops" in first:
            parts = f"{first['lower_seconds']:.1f} + {first['compile_seconds']:.1f}"
        rows.append(
            [
                case["label"],
                *_network(case),
                f"{first['seconds']:.1f}",
                parts,
                f"{theirs['first']['seconds']:.1f}",
                *(f"{case['programs'][name]['peak_mb']:.0f}" for name in (OURS, TORCH, TORCH_HUGE)),
                f"{max(theirs['difference'].values()):.0e}",
            ]
        )
    return _table(head, rows)


def _roofline(result: dict[str, Any], cases: list[dict[str, Any]]) -> str:
    """Return what XLA counts in a step of ours, and the rates that follow from it."""
    peaks = result["peaks"]
    head = ["case", "network", "dtype", "GFLOP/step", "GFLOP/s", "of peak"]
    head += ["GB/step", "GB/s", "of peak", "temporaries, MB"]
    rows = []
    for case in cases:
        ours = case["programs"][OURS]
        first = ours["first"]
        if "flops" not in first:
            continue
        seconds = ours["median"] * case["units"]
        work, traffic = first["flops"] / 1e9, first["bytes"] / 1e9
        shares = [
            work / seconds / peaks[f"gflops_{case['dtype']}"],
            traffic / seconds / peaks["gb_per_second"],
        ]
        rows.append(
            [
                case["label"],
                *_network(case),
                *(f"{work:.3g}", f"{work / seconds:.3g}", f"{shares[0]:.0%}"),
                *(f"{traffic:.3g}", f"{traffic / seconds:.3g}", f"{shares[1]:.0%}"),
                f"{first['temp_bytes'] / 1e6:.0f}",
            ]
        )
    text = (
        f"Peaks, measured in the same run: {peaks['gflops_float32']:.0f} GFLOP/s (float32) and "
        f"{peaks['gflops_float64']:.0f} GFLOP/s (float64) by matrix products, "
        f"{peaks['gb_per_second']:.0f} GB/s by adding to an array in memory. XLA counts every "
        "byte that an operation reads or writes, also where it finds it in a cache."
    )
    return f"{text}\n\n{_table(head, rows)}"


def _commands(found: dict[str, Any]) -> str:
    times = _command_medians(found)
    rows = [
        [
            f"`{ours} --help`",
            f"{times[ours]:.2f} s",
            f"`{theirs}`: {times[theirs]:.2f} s" if theirs else "",
            f"**{times[theirs] / times[ours]:.1f}**" if theirs else "",
        ]
        for ours, theirs in commands.HELP.items()
    ]
    peak = statistics.median(turn[commands.CONVERSION]["peak_mb"] for turn in found["rounds"])
    what = f"{commands.CONVERSION} ({found['file_mb']:.0f} MB)"
    rows.append([what, f"{times[commands.CONVERSION]:.2f} s, peak {peak:.0f} MB", "", ""])
    return _table(["command", OURS, TORCH, "ratio"], rows)


def _command_medians(found: dict[str, Any]) -> dict[str, float]:
    turns = found["rounds"]
    return {name: statistics.median(turn[name]["seconds"] for turn in turns) for name in turns[0]}


def _edges(result: dict[str, Any]) -> str:
    series = list(_series(result))
    names = [f"{label}, {program}" for label, program, *_ in series]
    sizes = sorted({n for *_, points, _ in series for n in points})
    left_out = {copies for *_, skipped in series for copies in skipped}
    rows = [
        [f"{n:,}", *(f"{points[n]:.3g}" if n in points else "" for *_, points, _ in series)]
        for n in sizes
    ]
    rows += [
        [f"{copies} cells", *(skipped.get(copies, "") for *_, skipped in series)]
        for copies in sorted(left_out)
    ]
    return _table(["edges", *names], rows)


def _series(
    result: dict[str, Any],
) -> Iterator[tuple[str, str, dict[int, float], dict[int, str]]]:
    """Yield label, program, µs of an edge by number of edges, and what was skipped by cells."""
    cases = [case for case in result["cases"] if case["kind"] == "edges"]
    for label in dict.fromkeys(case["label"] for case in cases):
        for program in (OURS, TORCH):
            points, skipped = {}, {}
            for case in cases:
                if case["label"] != label:
                    continue
                copies = case["settings"]["batch"]
                if program in case["programs"]:
                    found = case["programs"][program]
                    n_edge = found["first"]["n_edge"]
                    points[n_edge] = 1e6 * found["median"] / n_edge
                elif program in case["skipped"]:
                    skipped[copies] = case["skipped"][program]
            yield label, program, points, skipped


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw times relative to mace-torch, and time per edge against the number of edges."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bars = list(_bars(result))
    series = [entry for entry in _series(result) if entry[2]]
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    panels = [bool(bars), bool(series)]
    if not any(panels):
        return
    figure, axes = plt.subplots(
        1,
        sum(panels),
        figsize=(6.8 * panels[0] + 5.2 * panels[1], max(4.2, 1.2 + 0.55 * len(bars))),
        width_ratios=[width for width, wanted in zip((6.8, 5.2), panels, strict=True) if wanted],
        squeeze=False,
        layout="constrained",
    )
    if bars:
        _draw_bars(axes[0, 0], bars)
    if series:
        _draw_edges(axes[0, -1], series)
    about = result["machine"]
    disturbed = any(case.get("others_busy", 0) > _QUIET for case in result["cases"])
    figure.suptitle(
        f"{about['cpu']}, {about['n_cpus']} cores · {result['commit']} · {result['date'][:10]}"
        + disturbed * " · other processes were busy: do not quote",
        fontsize=8,
        color="#495057",
    )
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _bars(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, tuple[float, str]]]]:
    """Yield for each case its label, and seconds and their text by program."""
    for case in _small(result):
        if "error" not in case:
            label = f"{case['label']}\n{case['hidden_irreps']}, {case['dtype']}"
            programs = case["programs"]
            seconds = {name: programs[name]["median"] for name in programs}
            yield (
                label,
                {name: (s, f"{_digits(1e3 * s)} ms/{case['unit']}") for name, s in seconds.items()},
            )
    if result["commands"]:
        times = _command_medians(result["commands"])
        for ours, theirs in commands.HELP.items():
            if theirs:
                pair = ((OURS, ours), (TORCH, theirs))
                values = {program: (times[name], f"{times[name]:.2f} s") for program, name in pair}
                yield f"start-up\n{ours} --help", values


def _draw_bars(axes: Any, bars: list[tuple[str, dict[str, tuple[float, str]]]]) -> None:
    """Draw the time of each case relative to mace-torch's, with times and ratios in words."""
    height = 0.27
    for row, (_, values) in enumerate(bars):
        reference = values[TORCH][0]
        for place, (program, (seconds, text)) in enumerate(values.items()):
            y, length = row + height * (place - (len(values) - 1) / 2), seconds / reference
            label = program if row == 0 else None
            axes.barh(y, length, 0.9 * height, color=_COLORS[program], label=label)
            axes.text(length + 0.01, y, text, va="center", fontsize=7)
        ratio = reference / values[OURS][0]
        axes.text(
            1.02, row, f"{ratio:.1f}×", va="center", fontsize=12, weight="bold",
            color=_COLORS[OURS], transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    longest = max(value[0] / values[TORCH][0] for _, values in bars for value in values.values())
    axes.set_xlim(0, 1.2 * longest)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.axvline(1, color=_COLORS[TORCH], linewidth=0.6, linestyle=":", zorder=0)
    axes.set_xlabel("time relative to mace-torch")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8)


def _draw_edges(axes: Any, series: list[tuple[str, str, dict[int, float], dict[int, str]]]) -> None:
    """Draw the time of an edge in ever larger batches."""
    labels = list(dict.fromkeys(entry[0] for entry in series))
    for label, program, points, _ in series:
        marker, line = (("o", "-"), ("s", "--"))[labels.index(label)]
        axes.plot(
            *zip(*sorted(points.items()), strict=True),
            color=_COLORS[program],
            marker=marker,
            linestyle=line,
            markersize=4,
            label=f"{program}, {label}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("edges in the batch")
    axes.set_ylabel("time per edge, µs")
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
    axes.grid(which="major", color="#e9ecef", linewidth=0.8)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)


if __name__ == "__main__":
    _folder = Path(sys.argv[1])
    write(json.loads((_folder / f"{_NAME}.json").read_text()), _folder)
