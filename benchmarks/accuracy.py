"""Train the same network on the same frames with mace-jax-train and mace_run_train.

``python benchmarks/accuracy.py --data FILE --output FOLDER`` needs an environment with both
programs and FILE, rMD17's aspirin: 950 frames are for training, 50 for validation. Batches,
optimizer, schedule, averaging and epochs are the same, seeds differ. Both commands run in turn,
and their own metrics are compared: of the averaged weights, after every epoch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import systems
from ase import Atoms
from ase.io import read, write

OURS, TORCH = "mace-jax", "mace-torch"
N_TRAIN, N_VALID = 950, 50
BATCH = 5
PATH = str(Path(sys.executable).parent)
CONFIG = Path(__file__).parents[1] / "configs" / "aspirin_small.gin"
# What differs from aspirin_small; its ``@MACE`` is what mace_run_train makes of ``--model MACE``.
BINDINGS = {
    "datasets.test_path": "None",
    "datasets.energy_key": "'REF_energy'",
    "datasets.forces_key": "'REF_forces'",
    "datasets.n_edge": 1620,  # five molecules
    "model.hidden_irreps": "'64x0e + 64x1o'",
    "loss.energy_weight": 1.0,
    "optimizer.weight_decay": 5e-7,
    "optimizer.scheduler": "@exponential_decay",
    "exponential_decay.staircase": True,
}
FLAGS = {
    "model": "MACE",
    "num_channels": 64,
    "max_L": 1,
    "r_max": 5.0,
    "num_radial_basis": 8,
    "num_cutoff_basis": 5,
    "max_ell": 3,
    "num_interactions": 2,
    "correlation": 3,
    "MLP_irreps": "16x0e",
    "scaling": "rms_forces_scaling",
    "E0s": "average",
    "loss": "weighted",
    "energy_weight": 1.0,
    "forces_weight": 100.0,
    "lr": 0.01,
    "weight_decay": 5e-7,
    "scheduler": "ExponentialLR",
    "ema_decay": 0.99,
    "clip_grad": 10.0,
    "batch_size": BATCH,
    "valid_batch_size": BATCH,
    "default_dtype": "float32",
    "device": "cpu",
    "eval_interval": 1,
    "error_table": "PerAtomRMSE",
}


def split(data: Path, folder: Path) -> dict[str, Path]:
    """Write the frames for training and for validation, chosen at random."""
    frames: list[Atoms] = read(data, ":")  # type: ignore[assignment]
    chosen = np.random.default_rng(0).permutation(len(frames))[: N_TRAIN + N_VALID]
    paths = {}
    for name, part in (("train", chosen[:N_TRAIN]), ("valid", chosen[N_TRAIN:])):
        labelled = []
        for index in part:
            atoms = frames[index]
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            atoms.calc = None
            atoms.info["REF_energy"], atoms.arrays["REF_forces"] = energy, forces
            labelled.append(atoms)
        paths[name] = folder / f"{name}.xyz"
        write(paths[name], labelled)
    return paths


def train_ours(
    data: dict[str, Path], folder: Path, seed: int, epochs: int, gamma: float
) -> list[dict[str, float]]:
    """Return the errors of every epoch."""
    command = [f"{PATH}/mace-jax-train", CONFIG, "--name", f"seed{seed}", "--log-dir", folder]
    command += ["--train-path", data["train"], "--valid-path", data["valid"], "--force"]
    command += ["--seed", seed, "--max-epochs", epochs, "--lr-scheduler-gamma", gamma]
    for name, value in BINDINGS.items():
        command += ["-b", f"{name}={value}"]
    _run(command, folder / f"seed{seed}.ours.log")
    (metrics,) = folder.glob(f"seed{seed}*.metrics")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [_errors(line) for line in lines if line.get("mode") == "valid"]


def train_torch(
    data: dict[str, Path], folder: Path, seed: int, epochs: int, gamma: float
) -> list[dict[str, float]]:
    """Return the errors of every epoch."""
    command = [f"{PATH}/mace_run_train", "--name", "torch", "--work_dir", folder, "--ema"]
    command += ["--amsgrad", "--seed", seed, "--max_num_epochs", epochs]
    command += ["--lr_scheduler_gamma", gamma, "--patience", epochs]
    command += ["--train_file", data["train"], "--valid_file", data["valid"]]
    for name, value in FLAGS.items():
        command += [f"--{name}", value]
    _run(command, folder / f"seed{seed}.torch.log")
    (metrics,) = (folder / "results").glob(f"torch_run-{seed}_train.txt")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [_errors(line) for line in lines if line["mode"] == "eval" and line["epoch"] is not None]


def _errors(line: dict[str, float]) -> dict[str, float]:
    """Return what both programs name alike, in meV/atom and meV/Å."""
    return {
        "energy": 1e3 * line["rmse_e_per_atom"],
        "forces": 1e3 * line["rmse_f"],
    }


def _run(command: list[object], log: Path) -> None:
    """Run a command, from which nothing is to be seen here."""
    with log.open("w") as file:
        subprocess.run(  # noqa: S603
            [str(part) for part in command], check=True, stdout=file, stderr=subprocess.STDOUT
        )


def table(result: dict[str, list[dict[str, object]]]) -> str:
    """Return the last epoch of every seed, and its mean and spread, as Markdown."""
    lines = [
        "| program | seed | force RMSE, meV/Å | energy RMSE, meV/atom | seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for program, runs in result.items():
        last = [run["epochs"][-1] for run in runs]
        lines += [
            f"| {program} | {run['seed']} | {errors['forces']:.1f} | {errors['energy']:.2f} "
            f"| {run['seconds']:.0f} |"
            for run, errors in zip(runs, last, strict=True)
        ]
        if len(runs) > 1:
            spread = {
                name: (statistics.mean(values), statistics.stdev(values))
                for name in ("forces", "energy")
                if (values := [errors[name] for errors in last])
            }
            lines.append(
                f"| {program} | mean ± deviation | {spread['forces'][0]:.1f} ± "
                f"{spread['forces'][1]:.1f} | {spread['energy'][0]:.2f} ± "
                f"{spread['energy'][1]:.2f} | |"
            )
    return "\n".join(lines)


def main() -> None:
    """Train, and write the table and a JSON file after every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=systems.default_data(), help="aspirin, extxyz")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--gamma", type=float, default=0.85, help="of the rate, every epoch")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    data = split(options.data, options.output)
    result: dict[str, list[dict[str, object]]] = {OURS: [], TORCH: []}
    for seed in range(1, options.seeds + 1):
        for program, train in ((OURS, train_ours), (TORCH, train_torch)):
            start = time.perf_counter()
            epochs = train(data, options.output, seed, options.epochs, options.gamma)
            seconds = time.perf_counter() - start
            result[program].append({"seed": seed, "seconds": seconds, "epochs": epochs})
            (options.output / "accuracy.json").write_text(json.dumps(result, indent=1) + "\n")
            (options.output / "accuracy.md").write_text(table(result) + "\n")
            print(table(result), flush=True)


if __name__ == "__main__":
    main()
