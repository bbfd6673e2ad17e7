"""The report of a run: one HTML page with everything inside."""

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mace_jax.artifacts.atomic_write import write_bytes
from mace_jax.elements import symbol
from mace_jax_plot.artifacts import Artifact, read_artifact
from mace_jax_plot.curves import TrainingRun, curves_figure
from mace_jax_plot.figures import histograms, parity, svg

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--dim:#656b73;--line:#dfe2e6;--page:#fff;--ok:#137a3d}
@media(prefers-color-scheme:dark){:root{--ink:#e6e7e9;--dim:#9aa1a9;--line:#3a3e44;--page:#17191c;
--ok:#5bc98a}}
*{box-sizing:border-box}body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:62rem;
background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.6rem 0 .6rem;
padding-bottom:.3rem;border-bottom:1px solid var(--line)}h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{color:var(--dim);margin:.3rem 0}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .9rem .28rem 0;text-align:left;white-space:nowrap;vertical-align:top}
th{color:var(--dim);font-weight:500;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right}td{border-bottom:1px solid var(--line)}
img{display:block;width:100%;height:auto;background:#fff;border-radius:6px;
padding:.5rem;margin:.8rem 0}.ok{color:var(--ok)}code{font:.85em ui-monospace,monospace}
details>summary{cursor:pointer;color:var(--dim)}pre{overflow-x:auto;font-size:.8rem}
"""
_FACTORS = {"mae_e_per_atom": "MAE, meV/atom", "rmse_e_per_atom": "RMSE, meV/atom"}
_FACTORS |= {"mae_f": "MAE, meV/Å", "rmse_f": "RMSE, meV/Å"}


def write_report(path: Path, files: list[Path]) -> None:
    """Write one page about ``files`` atomically; what is not among them is absent.

    Raises:
        ArtifactError: a file is missing, damaged, or of no kind that a report shows.
    """
    artifacts = [read_artifact(file) for file in files]
    parts = [
        section
        for kind, make in _SECTIONS.items()
        for section in [make([a for a in artifacts if a.kind == kind])]
        if any(artifact.kind == kind for artifact in artifacts)
    ]
    body = "\n".join([*parts, _files(artifacts)])
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(path.stem)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(path.stem)}</h1>"
        f"<p>{len(artifacts)} files</p>{body}</body></html>\n"
    )
    write_bytes(path, page.encode())


def _table(head: list[str], rows: list[list[Any]]) -> str:
    """Return a table; numbers, which have been formatted with one width, stand right."""
    numeric = [all(isinstance(row[i], _Number) for row in rows) for i in range(len(head))]
    mark = [' class="n"' if number else "" for number in numeric]
    top = "".join(f"<th{m}>{escape(h)}</th>" for h, m in zip(head, mark, strict=True))
    lines = [
        "".join(
            f"<td{m}>{cell if isinstance(cell, _Html) else escape(str(cell))}</td>"
            for cell, m in zip(row, mark, strict=True)
        )
        for row in rows
    ]
    rest = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><tr>{top}</tr>{rest}</table></div>'


class _Number(str):
    """Text of a number, to be aligned on its decimals."""


class _Html(str):
    """Text that is HTML already."""


def _image(figure: Figure, alt: str) -> str:
    data = base64.b64encode(svg(figure).encode()).decode()
    width = figure.get_figwidth()
    return (
        f'<div class="scroll"><img alt="{escape(alt)}" style="min-width:{3.7 * width:.1f}rem;'
        f'max-width:{6.5 * width:.1f}rem" src="data:image/svg+xml;base64,{data}"></div>'
    )


def _metrics(artifacts: list[Artifact]) -> str:
    parts = ["<h2>Training</h2>"]
    for artifact in artifacts:
        header, rows = artifact.content
        run = TrainingRun(artifact.path.stem, header["status"], rows)
        if not rows:
            parts.append(f"<p>{escape(run.name)} has no evaluations yet.</p>")
            continue
        keys = [key for key in _FACTORS if any(row.get(key) is not None for row in rows)]
        figure = curves_figure(run, [key for key in keys if key.startswith("rmse")], linear=False)
        parts.append(_image(figure, f"learning curves of {run.name}"))
        last = {(row["mode"], row["head"]): row for row in rows}
        parts.append(
            _table(
                ["last of", "head", "epoch", "loss", *(_FACTORS[key] for key in keys)],
                [
                    [mode, head, _Number(row["epoch"]), _fixed(row["loss"], 1, 5)]
                    + [_fixed(row.get(key), 1000, 2) for key in keys]
                    for (mode, head), row in last.items()
                ],
            )
        )
    return "\n".join(parts)


def _fixed(value: float | None, factor: float, digits: int) -> _Number:
    return _Number("–" if value is None else f"{value * factor:z.{digits}f}")


def _predictions(artifacts: list[Artifact]) -> str:
    parts = ["<h2>Predictions against labels</h2>"]
    for artifact in artifacts:
        figures, rows = parity(artifact.path)
        parts.append(f"<h3>{escape(artifact.path.name)}</h3>")
        parts += [_image(figure, "parity plot and error histogram") for figure in figures]
        parts.append(
            _table(
                ["quantity", "over", "values", "MAE", "RMSE", "unit"],
                [
                    [r.quantity, r.group, _Number(r.n_values)]
                    + [_fixed(error, 1, 2) for error in (r.mae, r.rmse)]
                    + [r.unit]
                    for r in rows
                ],
            )
        )
    return "\n".join(parts)


def _energies(title: str, energies: dict[str, Any]) -> str:
    rows = [
        [head, symbol(number), _fixed(value, 1, 6)]
        for head, of_head in energies.items()
        for number, value in of_head.items()
    ]
    return f"<h3>{title}</h3>" + _table(["head", "element", "E0, eV"], rows)


def _models(artifacts: list[Artifact]) -> str:
    parts = ["<h2>Model</h2>"]
    for artifact in artifacts:
        bundle = artifact.content
        count = sum(array.size for array in bundle.parameters.values())
        config = bundle.config
        parts.append(
            f"<p><code>{escape(artifact.path.name)}</code>: {escape(config.model)}, "
            f"{escape(config.hidden_irreps)}, {config.num_interactions} interactions, "
            f"cutoff {config.r_max} Å, {bundle.dtype}, {count} numbers</p>"
        )
        parts.append(_energies("E0s of the model", dict(bundle.atomic_energies)))
    return "\n".join(parts)


def _statistics(artifacts: list[Artifact]) -> str:
    parts = ["<h2>Statistics of the training data</h2>"]
    for artifact in artifacts:
        s = artifact.content
        rows = [
            ["neighbours of an atom", _fixed(s.avg_num_neighbors, 1, 6), ""],
            ["mean of E − ΣE0", _fixed(s.mean, 1, 6), "eV/atom"],
            ["root mean square force", _fixed(s.std, 1, 6), "eV/Å"],
            ["cutoff", _fixed(s.r_max, 1, 6), "Å"],
        ]
        parts.append(_table(["", "value", "unit"], rows))
        by_head = {h: found.atomic_energies for h, found in s.heads.items()}
        parts.append(_energies("E0s", by_head or {"Default": s.atomic_energies}))
    return "\n".join(parts)


def _plans(artifacts: list[Artifact]) -> str:
    parts = ["<h2>Batches</h2>"]
    for artifact in artifacts:
        r = artifact.content.report
        parts.append(
            f"<p><code>{escape(artifact.path.name)}</code>: {r.n_graphs} structures in "
            f"{r.n_batches} batches; empty are {r.edge_waste:.1%} of the edges, "
            f"{r.node_waste:.1%} of the atoms, {r.graph_waste:.1%} of the structures</p>"
        )
        sizes = {"structures in a batch": artifact.content.batches.n_graph}
        parts.append(_image(histograms(sizes), "structures in a batch"))
    return "\n".join(parts)


def _indices(artifacts: list[Artifact]) -> str:
    parts = ["<h2>Sizes of structures</h2>"]
    for artifact in artifacts:
        names = {"n_atoms": "atoms", "n_edges": "directed edges"}
        table = artifact.content.table
        columns = {f"{n} of a structure": table[c].to_numpy() for c, n in names.items()}
        parts.append(f"<p><code>{escape(artifact.path.name)}</code></p>")
        parts.append(_image(histograms(columns), "sizes of structures"))
    return "\n".join(parts)


def _configs(artifacts: list[Artifact]) -> str:
    parts = ["<h2>Configuration</h2>"]
    for artifact in artifacts:
        rest = {k: v for k, v in artifact.document.items() if k not in ("schema", "provenance")}
        text = escape(json.dumps(rest, indent=1, ensure_ascii=False))
        name = escape(artifact.path.name)
        parts.append(f"<details><summary>{name}</summary><pre>{text}</pre></details>")
    return "\n".join(parts)


def _files(artifacts: list[Artifact]) -> str:
    """Return the chain of files: each with its digest, and its inputs, found here or not."""
    here = {artifact.sha256 for artifact in artifacts}
    rows = []
    for artifact in artifacts:
        made_by = artifact.provenance.get("tool", "")
        code = _Html(f"<code>{artifact.sha256[:16]}</code>")
        rows.append([artifact.path.name, artifact.kind, made_by, code, ""])
        for item in artifact.provenance.get("inputs", []):
            found = item["sha256"] in here
            mark = _Html('<span class="ok">verified</span>') if found else "not given"
            code = _Html(f"<code>{item['sha256'][:16]}</code>")
            rows.append([f"↳ {item['name']}", item["kind"], item["role"], code, mark])
    head = ["file ↳ input", "kind", "made by, role", "SHA-256", "input"]
    return "<h2>Files</h2>" + _table(head, rows)


_SECTIONS = {
    "metrics": _metrics,
    "predictions": _predictions,
    "model_bundle": _models,
    "statistics": _statistics,
    "batch_plan": _plans,
    "index": _indices,
    "train_config": _configs,
}
