"""The example of fine-tuning, with a few frames and a tiny network."""

import gzip
import math
import shutil
import subprocess
from pathlib import Path

import pytest
from ase.io import read, write

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "finetune"
TINY = """
model.num_bessel = 4
model.max_ell = 1
model.hidden_irreps = '4x0e'
model.MLP_irreps = '4x0e'
model.correlation = 1
model.radial_MLP = (8,)
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the example whose files have every 7th frame and all isolated atoms."""
    shutil.copytree(EXAMPLE, tmp_path / "finetune")
    for path in (tmp_path / "finetune").glob("*.xyz.gz"):
        frames = read(path, ":")
        few = [frame for frame in frames if len(frame) == 1]
        few += [frame for frame in frames if len(frame) > 1][::7]
        with gzip.open(path, "wt") as target:
            write(target, few, format="extxyz")
    gin = tmp_path / "finetune" / "start.gin"
    lines = [line for line in gin.read_text().splitlines() if line.split(" =")[0] not in TINY]
    gin.write_text("\n".join(lines) + TINY)
    return tmp_path


def test_every_step_leads_to_the_table(folder, environment):
    command = [
        *("make", "-f", ROOT / "examples" / "finetune" / "Makefile"),
        *("HERE=finetune", "OUT=out", "TRAINING=--seed 0 --max-epochs 2", "REPLAY=20"),
    ]

    def make():
        run = subprocess.run(
            command, cwd=folder, env=environment, check=False, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    printed = make()
    table = (folder / "out" / "table.md").read_text()
    assert table in printed
    _, _, *rows = [line.split("|")[1:-1] for line in table.splitlines()]
    assert [row[0].strip().split()[0] for row in rows] == ["start", "naive", "replay", "the"]
    for row in rows[:-1]:
        for cell in row[1:]:
            forces, energy = map(float, cell.split("/"))
            assert 0 < energy < math.inf
            assert 0 < forces < math.inf
    assert (folder / "out" / "forgetting.svg").read_text().count("<path") > 20
    assert "is up to date" in make() or "Nothing to be done" in make()
