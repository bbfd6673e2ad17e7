"""The report of a run: one HTML page with everything inside."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mace_jax.artifacts.atomic_write import write_bytes
from mace_jax.elements import symbol
from mace_jax_plot.artifacts import Artifact, read_artifact
from mace_jax_plot.page import Html, fixed, folded, page, table
from mace_jax_plot.report_figures import indices, metrics, plans, predictions


def write_report(path: Path, files: list[Path]) -> None:
    """Write one page about ``files`` atomically; what is not among them is absent.

    Raises:
        ArtifactError: a file is missing, damaged, or of no kind that a report shows.
    """
    artifacts = [read_artifact(file) for file in files]
    sections = [
        f"<h2>{title}</h2>" + make(chosen)
        for kind, (title, make) in _sections(artifacts).items()
        for chosen in [[artifact for artifact in artifacts if artifact.kind == kind]]
        if chosen
    ]
    parts = [f"<p>{len(artifacts)} files</p>", *sections, _files(artifacts)]
    write_bytes(path, page(path.stem, "\n".join(parts)))


def _sections(
    artifacts: Sequence[Artifact],
) -> Mapping[str, tuple[str, Callable[[list[Artifact]], str]]]:
    """Return title and maker of the section of each kind, in the order of the page."""
    known = [artifact.content for artifact in artifacts if artifact.kind == "index"]
    return {
        "metrics": ("Training", metrics),
        "predictions": ("Predictions against labels", predictions),
        "model_bundle": ("Model", _models),
        "statistics": ("Statistics of the training data", _statistics),
        "selection": ("Chosen structures", _selections),
        "batch_plan": ("Batches", lambda chosen: plans(chosen, known)),
        "index": ("Sizes of structures", indices),
        "train_config": ("Configuration", _configs),
    }


def _energies(title: str, energies: dict[str, Any]) -> str:
    rows = [
        [head, symbol(number), fixed(value, 1, 6)]
        for head, of_head in energies.items()
        for number, value in of_head.items()
    ]
    return f"<h3>{title}</h3>" + table(["head", "element", "E0, eV"], rows)


def _models(artifacts: list[Artifact]) -> str:
    parts = []
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
    parts = []
    for artifact in artifacts:
        s = artifact.content
        rows = [
            ["neighbours of an atom", fixed(s.avg_num_neighbors, 1, 6), ""],
            ["mean of E − ΣE0", fixed(s.mean, 1, 6), "eV/atom"],
            ["root mean square force", fixed(s.std, 1, 6), "eV/Å"],
            ["cutoff", fixed(s.r_max, 1, 6), "Å"],
        ]
        parts.append(table(["", "value", "unit"], rows))
        by_head = {h: found.atomic_energies for h, found in s.heads.items()}
        parts.append(_energies("E0s", by_head or {"Default": s.atomic_energies}))
    return "\n".join(parts)


def _selections(artifacts: list[Artifact]) -> str:
    rows = [
        [
            artifact.content.dataset_name,
            len(artifact.content.frame),
            artifact.content.method,
            artifact.content.counts["candidates"],
            " ".join(map(symbol, artifact.content.elements)),
            ", ".join(artifact.content.sources),
        ]
        for artifact in artifacts
    ]
    return table(["dataset", "structures", "method", "candidates", "elements", "of"], rows)


def _configs(artifacts: list[Artifact]) -> str:
    parts = []
    for artifact in artifacts:
        rest = {k: v for k, v in artifact.document.items() if k not in ("schema", "provenance")}
        text = escape(json.dumps(rest, indent=1, ensure_ascii=False))
        parts.append(folded(artifact.path.name, f"<pre>{text}</pre>"))
    return "\n".join(parts)


def _files(artifacts: list[Artifact]) -> str:
    """Return the chain of files: each with its digest, and its inputs, found here or not."""
    here = {artifact.sha256 for artifact in artifacts}
    rows = []
    for artifact in artifacts:
        made_by = artifact.provenance.get("tool", "")
        code = Html(f"<code>{artifact.sha256[:16]}</code>")
        rows.append([artifact.path.name, artifact.kind, made_by, code, ""])
        for item in artifact.provenance.get("inputs", []):
            found = item["sha256"] in here
            mark = Html('<span class="ok">verified</span>') if found else "not given"
            code = Html(f"<code>{item['sha256'][:16]}</code>")
            rows.append([f"↳ {item['name']}", item["kind"], item["role"], code, mark])
    head = ["file ↳ input", "kind", "made by, role", "SHA-256", "input"]
    return "<h2>Files</h2>" + table(head, rows)
