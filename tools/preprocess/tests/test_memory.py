"""Memory of mace-jax-preprocess as the data grow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def thousand_frames() -> bytes:
    """Return molecules of 20 atoms as text."""
    generator = np.random.default_rng(0)
    start = 1.5 * np.indices((2, 2, 5)).reshape(3, -1).T
    lines = []
    for _ in range(1000):
        lines += ["20", "Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-20.0"]
        rows = np.hstack(
            [start + 0.1 * generator.normal(size=(20, 3)), generator.normal(size=(20, 3))]
        )
        lines += [
            f"{'CH'[k % 2]} " + " ".join(f"{x:.8f}" for x in row) for k, row in enumerate(rows)
        ]
    return "\n".join([*lines, ""]).encode()


def peak_memory(folder: Path, content: bytes, copies: int, layout: str) -> int:
    """Return the largest memory of a process of the command, in bytes."""
    path = folder / f"{copies}.xyz"
    with path.open("wb") as file:
        for _ in range(copies):
            file.write(content)
    arguments = [
        f"--train_file={path}", f"--h5_prefix={folder / str(copies)}", f"--layout={layout}",
        "--valid_fraction=0.05", "--compute_statistics", "--E0s=average", "--num_process=2",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "mace_jax_preprocess", *arguments], stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["mace", "flat"])
def test_memory_does_not_grow_with_the_data(tmp_path, layout):
    content = thousand_frames()
    least, few, many = (peak_memory(tmp_path, content, n, layout) for n in (1, 10, 100))
    assert (tmp_path / "100.xyz").stat().st_size > 140e6
    assert many - least < 25e6  # what buffers, allocators and mapped pages come to
    assert many < 1.06 * few  # of the same data the peak varies by 3 % from run to run
