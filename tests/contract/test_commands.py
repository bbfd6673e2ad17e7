"""What all commands have in common: help, exit codes, stdout and stderr, no heavy imports."""

import hashlib
import json
import re
import resource
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import h5py
import msgpack
import pytest

ROOT = Path(__file__).parents[2]
MODULES = {  # of ``python -m``
    "mace-jax-preprocess": "mace_jax_preprocess",
    "mace-jax-select-replay": "mace_jax_preprocess.cli_select_replay",
    "mace-jax-plan-batches": "mace_jax_plan_batches",
    "mace-jax-train": "mace_jax_train",
    "mace-jax-predict": "mace_jax_predict",
    "mace-jax-from-torch": "mace_jax_convert",
    "mace-jax-to-torch": "mace_jax_convert.cli_to_torch",
    "mace-create-lammps-model": "mace_jax_export_lammps",
    "mace-jax-train-plot": "mace_jax_plot",
    "mace-jax-inspect": "mace_jax.inspection",
}
ALIASES = {
    "mace-jax-export-lammps": "mace-create-lammps-model",
    "mace-jax-plot": "mace-jax-train-plot",
}
HAS_TORCH = all(find_spec(name) is not None for name in ("torch", "mace"))
LIGHT = [command for command in MODULES if command not in ("mace-jax-train", "mace-jax-predict")]
HEAVY_MODULES = ("jax", "jaxlib", "flax", "optax", "e3nn_jax", "torch")
# Their names say all there is to say; options with a choice of values do so, too.
SELF_EXPLANATORY = {
    "--valid-fraction",
    "--energy-weight",
    "--forces-weight",
    "--stress-weight",
    "--weight-decay",
    "--max-epochs",
    "--ema-decay",
}
every_command = pytest.mark.parametrize("command", MODULES)

MISSING_INPUT = {
    "mace-jax-preprocess": (["--train_file", "no.xyz", "--h5_prefix", "out"], 1),
    "mace-jax-select-replay": (["no.xyz", "-o", "o.xyz"], 1),
    "mace-jax-plan-batches": (["no_data", "--r-max", "5", "--n-edge", "9", "-o", "o.json"], 1),
    "mace-jax-train": (["no.gin"], 2),
    "mace-jax-predict": (["no.msgpack", "structures.xyz", "-o", "o.npz"], 1),
    "mace-jax-from-torch": (["--torch-model", "no.pt"], 1),
    "mace-create-lammps-model": (["no.msgpack"], 1),
    "mace-jax-train-plot": (["--path", "no.metrics"], 1),
    "mace-jax-inspect": (["no.msgpack"], 1),
}
if HAS_TORCH:
    MISSING_INPUT["mace-jax-to-torch"] = (["no.msgpack"], 1)
every_command_that_runs = pytest.mark.parametrize("command", MISSING_INPUT)


def command_of(name: str) -> click.Command:
    module = import_module(MODULES[name])
    return module.main if hasattr(module, "main") else import_module(f"{MODULES[name]}.cli").main


def options_of(name: str) -> list[click.Option]:
    return [option for option in command_of(name).params if isinstance(option, click.Option)]


def examples_of(name: str) -> list[str]:
    epilog = command_of(name).epilog
    return [line.strip() for line in epilog.splitlines() if line.strip().startswith("mace-")]


@every_command
def test_help_goes_to_stdout_with_examples_and_exit_codes(shell, command):
    outcome = shell(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: {command} ")
    text = " ".join(outcome.out.split())
    for code in ("0 done", "1 bad data or file", "2 usage", "3 a requested", "70 a bug", "130"):
        assert code in text
    assert len(examples_of(command)) >= 2
    for example in examples_of(command):
        assert example in outcome.out


@pytest.mark.parametrize(("alias", "command"), ALIASES.items())
def test_alias_is_the_same_command(shell, alias, command):
    outcome = shell(alias, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: {alias} ")
    assert outcome.out.split("\n\n")[1:] == shell(command, "--help").out.split("\n\n")[1:]


@every_command
def test_help_starts_with_one_sentence_of_what_it_does(invoke, command):
    description = invoke(command, "--help").out.split("\n\n")[1].strip()
    assert re.match(r"[A-Z].+\.", description, re.DOTALL)


@every_command
def test_short_help(invoke, command):
    assert invoke(command, "-h") == invoke(command, "--help")


@every_command
def test_every_option_says_what_it_is(command):
    for option in options_of(command):
        explained = (
            option.help
            or isinstance(option.type, click.Choice)
            or SELF_EXPLANATORY & set(option.opts)
        )
        assert explained, option.opts


@every_command
def test_every_option_is_given_in_a_test(command):
    """Those of a run's configuration are observed one by one in the tests of train."""
    package = MODULES[command].split(".")[0].removeprefix("mace_jax_")
    own = Path("shared" if package == "mace_jax" else f"tools/{package}") / "tests"
    folders = (ROOT / own, ROOT / "tests")
    tests = [path.read_text() for folder in folders for path in folder.rglob("test_*.py")]
    found = re.findall(r"[\"' ](--?[a-zA-Z][\w-]*)", " ".join(tests))
    words = {word.replace("_", "-") for word in found}
    options = [option for option in options_of(command) if not hasattr(option, "flag")]
    names = [{*option.opts, *option.secondary_opts} for option in options if not option.hidden]
    assert [each for each in names if not each & words] == []


def test_help_shows_defaults(invoke):
    assert "[default: 123" in invoke("mace-jax-preprocess", "--help").out
    assert "[default: 8192" in invoke("mace-jax-predict", "--help").out


@every_command
def test_version(shell, command):
    outcome = shell(command, "--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(
        r"(mace-jax-\S+ [\d.]+, )?mace-jax-shared [\d.]+, mace-jax-schemas [\d.]+\n", outcome.out
    )


@every_command
def test_runs_as_a_module(environment, command):
    done = subprocess.run(
        [sys.executable, "-m", MODULES[command], "--help"],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert examples_of(command)[0] in done.stdout


@every_command
def test_unknown_flag_is_a_usage_error(shell, command):
    outcome = shell(command, "--no-such-flag")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--no-such-flag" in outcome.err
    assert "Traceback" not in outcome.err


@every_command
def test_unknown_flag_as_json(invoke, command):
    outcome = invoke(command, "--no-such-flag", "--json")
    assert (outcome.code, outcome.err) == (2, "")
    assert "--no-such-flag" in json.loads(outcome.out)["error"]["message"]


@every_command_that_runs
def test_missing_input_is_one_line_on_stderr(workspace, shell, command):
    arguments, code = MISSING_INPUT[command]
    outcome = shell(command, *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: no")
    assert ";" in line  # what is wrong; what to do


@every_command_that_runs
def test_missing_input_as_json(workspace, invoke, command):
    arguments, code = MISSING_INPUT[command]
    outcome = invoke(command, *arguments, "--json")
    assert (outcome.code, outcome.err) == (code, "")
    assert set(json.loads(outcome.out)) == {"error"}
    assert outcome.out.count("\n") == 1


@pytest.mark.parametrize("command", [name for name in MODULES if name != "mace-jax-from-torch"])
def test_no_arguments_is_a_usage_error(workspace, invoke, command):
    """Without any, mace-jax-from-torch fetches a released model."""
    outcome = invoke(command)
    assert (outcome.code, outcome.out) == (2, "")


@every_command_that_runs
def test_debug_shows_the_traceback(workspace, invoke, command):
    arguments, code = MISSING_INPUT[command]
    outcome = invoke(command, *arguments, "--debug")
    assert outcome.code == code
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1].startswith("error: no")


@every_command
def test_underscores_are_dashes(invoke, command):
    """With ``--help`` behind it a known option is accepted, an unknown one is an error."""
    for option in options_of(command):
        for name in (name for name in option.opts if name.startswith("--")):
            value = [] if option.is_flag else ["1"]
            spelling = "--" + name[2:].replace("-", "_")
            assert invoke(command, spelling, *value, "--help").code == 0, spelling
            assert invoke(command, f"{spelling}_x", *value, "--help").code == 2


def cpu_seconds(environment: dict[str, str], *arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", [*LIGHT, "mace-jax-train"])
def test_help_is_instant(environment, command):
    """Below 0.3 s, best of three, beyond what the bare interpreter needs here.

    Processor time, which is the wall time of an idle machine: others use this one.
    """
    bare = min(cpu_seconds(environment, "-c", "pass") for _ in range(3))
    call = ("-m", MODULES[command], "--help")
    assert min(cpu_seconds(environment, *call) for _ in range(3)) - bare < 0.3


FULL_RUN = {
    "mace-jax-preprocess": [
        *("--train_file", "train.xyz", "--valid_file", "valid.xyz", "--test_file", "test.xyz"),
        *("--h5_prefix", "out", "--compute_statistics", "--E0s", "average"),
    ],
    "mace-jax-select-replay": ["data/train", "--number", "5", "--elements", "H,C,O", "-o", "o.xyz"],
    "mace-jax-plan-batches": ["data/train", "--r-max", "5", "--n-edge", "2048", "-o", "o.json"],
    "mace-jax-predict": ["model.msgpack", "structures.xyz", "-o", "o.npz"],
    "mace-jax-from-torch": ["--torch-model", "model.pt"],
    "mace-create-lammps-model": ["model.pt", "--no-self-test"],
    "mace-jax-train-plot": ["--path", "results"],
}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        *((command, ["--help"]) for command in LIGHT),
        *((command, FULL_RUN[command]) for command in LIGHT if command in FULL_RUN),
        ("mace-jax-inspect", ["model.msgpack", "data", "data/train", "train.plan.json"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "help" if len(value) == 1 else "full",
)
def test_light_tools_import_neither_jax_nor_torch(workspace, environment, command, arguments):
    script = (
        "import sys, json, importlib\n"
        "main = importlib.import_module(sys.argv[1]).main\n"
        "try:\n    main(sys.argv[2:])\n"
        "except SystemExit as stopped:\n    code = stopped.code\n"
        "print(json.dumps([code, sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, command_of(command).callback.__module__, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    assert "mace_jax.cli.command" in modules
    assert not [name for name in modules if name.split(".")[0] in HEAVY_MODULES]


@pytest.mark.parametrize("command", FULL_RUN)
def test_result_is_all_of_stdout(workspace, invoke, command):
    outcome = invoke(command, *FULL_RUN[command], "--json", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    result = json.loads(outcome.out)
    assert set(result) == {"artifact", "sha256", "summary"}
    artifact = workspace / result["artifact"]
    if artifact.is_file():
        assert result["sha256"] == hashlib.sha256(artifact.read_bytes()).hexdigest()
    else:
        assert artifact.is_dir()
        assert result["sha256"] is None
    again = invoke(command, *FULL_RUN[command], "--force")
    assert (again.code, again.out) == (0, f"{result['artifact']}\n")


FARTHEST = ["-n", "5", "--method", "farthest-point", "-o", "o.xyz"]
TRAIN = [
    *("configs/aspirin_small.gin", "--train-path", "data/train", "--valid-path", "data/val"),
    *("--test-path", "None", "--train-plan", "train.plan.json", "--valid-plan"),
    *("valid.plan.json", "--statistics-file", "data/statistics.json", "--log-dir", "out"),
]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("mace-jax-preprocess", ["--train_file", "train.plan.json"], "train.plan.json: frame 0"),
        ("mace-jax-select-replay", ["train.plan.json", "-o", "o.xyz"], "train.plan.json: frame 0"),
        (
            "mace-jax-select-replay",
            ["train.xyz", *FARTHEST, "--model", "train.plan.json"],
            "expected a model bundle",
        ),
        (
            "mace-jax-plan-batches",
            ["train.plan.json", "--r-max", "5", "--n-edge", "9", "-o", "o.json"],
            "not a complete HDF5 file",
        ),
        ("mace-jax-train", [*TRAIN, "--train-plan", "data/statistics.json"], "'statistics', exp"),
        ("mace-jax-train", [*TRAIN, "--statistics-file", "train.plan.json"], "'batch_plan', exp"),
        ("mace-jax-train", ["train.plan.json"], "kind 'batch_plan', expected 'train_config'"),
        (
            "mace-jax-predict",
            ["train.plan.json", "test.xyz", "-o", "o.npz"],
            "expected a model bundle",
        ),
        ("mace-jax-predict", ["model.msgpack", "model.msgpack", "-o", "o.npz"], "frame 0"),
        ("mace-jax-from-torch", ["--torch-model", "train.plan.json"], "train.plan.json"),
        ("mace-create-lammps-model", ["train.plan.json"], "train.plan.json"),
        ("mace-jax-train-plot", ["--path", "train.plan.json"], "JSON lines"),
        ("mace-jax-train-plot", ["--path", "model.msgpack"], "JSON lines"),
    ],
)
def test_wrong_kind_of_file_is_refused(workspace, invoke, command, arguments, message):
    outcome = invoke(command, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    error = outcome.err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def newer(path: Path) -> int:
    """Raise the version of the schema tag of a file by one; return the version it had."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            version = json.loads(file.attrs["schema"])["version"]
            file.attrs["schema"] = json.dumps({"kind": "dataset", "version": version + 1})
        return version
    if path.suffix == ".msgpack":
        document = msgpack.unpackb(path.read_bytes())
        document["header"]["schema"]["version"] += 1
        path.write_bytes(msgpack.packb(document))
        return document["header"]["schema"]["version"] - 1
    text = path.read_text()
    version = int(re.search(r'"version": (\d+)', text)[1])  # the tag comes first
    path.write_text(text.replace(f'"version": {version}', f'"version": {version + 1}', 1))
    return version


@pytest.mark.parametrize(
    ("command", "path", "arguments"),
    [
        ("mace-jax-select-replay", "data/train/train_0.h5", FULL_RUN["mace-jax-select-replay"]),
        (
            "mace-jax-select-replay",
            "model.msgpack",
            ["train.xyz", *FARTHEST, "--model", "model.msgpack"],
        ),
        ("mace-jax-plan-batches", "data/train/train_0.h5", FULL_RUN["mace-jax-plan-batches"]),
        ("mace-jax-train", "data/train/train_0.h5", TRAIN),
        ("mace-jax-train", "train.plan.json", TRAIN),
        ("mace-jax-train", "data/statistics.json", TRAIN),
        (
            "mace-jax-train",
            "results/aspirin_small.config.json",
            ["results/aspirin_small.config.json", "--log-dir", "out"],
        ),
        ("mace-jax-predict", "model.msgpack", FULL_RUN["mace-jax-predict"]),
        ("mace-create-lammps-model", "model.msgpack", ["model.msgpack", "--no-self-test"]),
        ("mace-jax-train-plot", "results/aspirin_small.metrics", ["--path", "results"]),
    ],
)
def test_newer_version_is_refused(workspace, invoke, command, path, arguments):
    version = newer(workspace / path)
    outcome = invoke(command, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    error = outcome.err.splitlines()[-1]
    assert error.startswith(f"error: {path}: ")
    assert f"version {version + 1}, expected at most {version}; upgrade" in error


@pytest.mark.parametrize(
    ("command", "existing", "arguments"),
    [
        *(
            ("mace-jax-preprocess", f"out/{name}", FULL_RUN["mace-jax-preprocess"])
            for name in ("train", "val", "test", "statistics.json")
        ),
        *(
            ("mace-jax-select-replay", name, FULL_RUN["mace-jax-select-replay"])
            for name in ("o.xyz", "o.selection.json")
        ),
        ("mace-jax-plan-batches", "o.json", FULL_RUN["mace-jax-plan-batches"]),
        *(
            ("mace-jax-train", f"out/aspirin_small{suffix}", TRAIN)
            for suffix in (".config.json", ".gin", ".metrics", "_best.msgpack", "_last.msgpack")
        ),
        ("mace-jax-predict", "o.npz", FULL_RUN["mace-jax-predict"]),
        ("mace-jax-from-torch", "model-jax.msgpack", FULL_RUN["mace-jax-from-torch"]),
        (
            "mace-create-lammps-model",
            "model-lammps.pkl",
            FULL_RUN["mace-create-lammps-model"],
        ),
        ("mace-jax-train-plot", "results/aspirin_small.png", FULL_RUN["mace-jax-train-plot"]),
    ],
)
def test_existing_output_is_refused_and_untouched(workspace, invoke, command, existing, arguments):
    path = workspace / existing
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    before = sorted(workspace.rglob("*"))
    outcome = invoke(command, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {existing}: ")
    assert "--force" in outcome.err
    assert path.read_text() == "mine"
    assert sorted(workspace.rglob("*")) == before


def test_train_does_not_replace_plans_and_statistics_it_would_make(workspace, invoke, tiny):
    """They count as output, too: a file of that name may belong to somebody else."""
    paths = [
        workspace / "out" / f"aspirin_small{suffix}"
        for suffix in (".statistics.json", ".train.plan.json")
    ]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text("mine")
    arguments = ["configs/aspirin_small.gin", *tiny, "--train-path", "data/train"]
    outcome = invoke("mace-jax-train", *arguments, "--log-dir", "out", "--max-epochs", "1")
    assert [path.read_text() for path in paths] == ["mine", "mine"]
    assert outcome.code == 2


def test_train_does_not_replace_the_configuration_it_was_given(workspace, invoke, tiny):
    """Even with ``--force``: results go beside it under the same name, comments would be lost."""
    config = Path("configs/aspirin_small.gin")
    before = config.read_text()
    invoke("mace-jax-train", str(config), *tiny, "--log-dir", "configs", "--force")
    assert config.read_text() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["mace-jax-preprocess", "--train_file", "train.xyz", "--h5_prefix", "train.xyz/out"],
        ["mace-jax-select-replay", "train.xyz", "-o", "train.xyz/o.xyz"],
        ["mace-jax-plan-batches", "data/train", "--r-max=5", "--n-edge=9", "-o", "train.xyz/o"],
        ["mace-jax-predict", "model.msgpack", "test.xyz", "-o", "train.xyz/o.npz"],
        ["mace-jax-from-torch", "--torch-model", "model.pt", "-o", "train.xyz/o.msgpack"],
        ["mace-create-lammps-model", "model.pt", "--no-self-test", "-o", "train.xyz/o.pkl"],
        ["mace-jax-plan-batches", "data/train", "--r-max=5", "--n-edge=9", "-o", "data", "--force"],
    ],
    ids=lambda arguments: f"{arguments[0]}-{arguments[-1].strip('-')}",
)
def test_output_that_cannot_be_written_is_not_called_a_bug(workspace, invoke, arguments):
    """A file stands where a folder is needed, or the other way round."""
    outcome = invoke(*arguments)
    assert outcome.code in (1, 2)
    assert outcome.out == ""
    assert outcome.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["mace-jax-preprocess", "--train_file", "train.xyz", "--h5_prefix", "out"],
        ["mace-jax-select-replay", "train.xyz", "-o", "o.xyz"],
        ["mace-jax-plan-batches", "data/train", "--r-max", "5", "--n-edge", "2048", "-o", "o"],
        ["mace-jax-train", "configs/aspirin_small.gin", "--log-dir", "out", "--dry-run"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_negative_seed_is_a_usage_error(workspace, invoke, arguments):
    outcome = invoke(*arguments, "--seed", "-1")
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("command", "example"),
    [(command, example) for command in MODULES for example in examples_of(command)],
)
def test_example_in_help_runs(workspace, shell, invoke, tiny, command, example):
    """Train's examples get bindings that make the network tiny; they are run as shown otherwise.

    What the chain's own run left under the example's output names is removed first. The two
    commands that need jax run in this process, which has imported it.
    """
    if command == "mace-jax-to-torch" and not HAS_TORCH:
        pytest.skip("torch is not installed")
    name, *arguments = shlex.split(example)
    assert name == command
    if "--output" in arguments:
        Path(arguments[arguments.index("--output") + 1]).unlink(missing_ok=True)
    if command == "mace-jax-preprocess":
        shutil.rmtree("data")
    if command == "mace-jax-train":
        shutil.rmtree("results")
        arguments += tiny
    outcome = (shell if command in LIGHT else invoke)(command, *arguments)
    assert outcome.code == 0, outcome.err
    if command == "mace-jax-inspect" and "--output" not in arguments:
        assert outcome.out.startswith(arguments[0])  # a report, not a path
        return
    assert outcome.out.count("\n") == 1
    result = json.loads(outcome.out)["artifact"] if "--json" in arguments else outcome.out.strip()
    assert Path(result).exists()
