import gc
import json
import logging
import signal
import time
from pathlib import Path

import click
import pytest

from mace_jax.cli.command import Result, ToolCommand, set_log_level
from mace_jax.errors import (
    ArtifactError,
    CheckFailedError,
    ConfigError,
    DataError,
    DivergedError,
    IncompatibleError,
    MaceJaxError,
)


@pytest.fixture
def run(call):
    """Run a command whose body is given; return exit code, stdout and stderr."""

    def run(body, *args):
        command = ToolCommand(
            "tool",
            callback=body,
            params=[click.Option(["--h5-prefix"]), click.Option(["--n-edge"], type=int)],
            tool="mace-jax-shared",
            examples=("tool --h5_prefix out",),
        )
        return call(command.main, *args)

    return run


def raising(error):
    def body(**_):
        raise error

    return body


def done(path, **summary):
    return lambda **_: Result(Path(path), summary)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MaceJaxError, 1),
        (ArtifactError, 1),
        (DataError, 1),
        (IncompatibleError, 1),
        (DivergedError, 1),
        (ConfigError, 2),
        (CheckFailedError, 3),
        (click.UsageError, 2),
        (ZeroDivisionError, 70),
        (EOFError, 70),
        (RecursionError, 70),
        (KeyError, 70),
        (KeyboardInterrupt, 130),
        (click.Abort, 130),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_codes(run, error, code, as_json):
    found, out, err = run(raising(error("a.xyz: bad")), *["--json"] * as_json)
    assert found == code
    if as_json:
        assert set(json.loads(out)) == {"error"}
        assert out.count("\n") == 1
    else:
        assert out == ""
        assert err.strip()


def test_a_users_error_is_one_line_without_a_traceback(run):
    code, _, err = run(raising(DataError("a.xyz: frame 3:\n  bad;  correct it")))
    assert (code, err) == (1, "error: a.xyz: frame 3: bad; correct it\n")


def test_debug_shows_the_traceback(run):
    _, out, err = run(raising(DataError("a.xyz: bad")), "--debug")
    assert "Traceback" in err
    assert err.endswith("error: a.xyz: bad\n")
    assert out == ""


def test_a_bug_shows_the_traceback_and_asks_for_a_report(run):
    _, _, err = run(raising(ZeroDivisionError("oops")))
    assert "Traceback" in err
    assert "this is a bug, please report it: ZeroDivisionError: oops" in err


def test_the_path_alone_is_on_stdout(run, tmp_path):
    assert run(done(tmp_path / "a.h5")) == (0, f"{tmp_path / 'a.h5'}\n", "")


def test_json_of_a_file(run, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"")
    code, out, _ = run(done(path, n=3), "--json")
    assert code == 0
    assert out.count("\n") == 1
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert json.loads(out) == {"artifact": str(path), "sha256": empty, "summary": {"n": 3}}


def test_options_of_its_own_replace_common_ones_of_the_same_name(capsys):
    seen = {}
    command = ToolCommand(
        "tool",
        callback=lambda **options: seen.update(options),
        params=[click.Option(["--debug/--no-debug"], default=None)],
        tool="mace-jax-shared",
        examples=(),
    )
    with pytest.raises(SystemExit):
        command.main(["--no-debug"])
    assert seen == {"debug": False}
    assert [option.name for option in command.params].count("debug") == 1


@pytest.mark.parametrize("quiet", [False, True])
def test_the_log_level_can_be_set_but_for_what_is_quiet(run, quiet):
    def body(**_):
        set_log_level("DEBUG")
        logging.getLogger("mace_jax.test").debug("detail")

    assert run(body, *["--quiet"] * quiet)[2] == ("" if quiet else "detail\n")


def test_json_of_a_folder_has_no_digest(run, tmp_path):
    assert json.loads(run(done(tmp_path), "--json")[1])["sha256"] is None


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    "args", [["--nonsense"], ["--n-edge", "many"], ["extra"], ["--n-edge"], ["--h5"]]
)
def test_usage_errors(run, args, as_json):
    code, out, err = run(done("a"), *args, *["--json"] * as_json)
    assert code == 2
    if as_json:
        assert json.loads(out)["error"]["message"]
        assert out.count("\n") == 1
    else:
        assert (out, "Error: " in err) == ("", True)


@pytest.mark.parametrize("flag", ["--h5-prefix", "--h5_prefix"])
@pytest.mark.parametrize("form", ["two words", "equals"])
def test_underscores_equal_dashes_in_flags_and_never_in_values(run, flag, form):
    seen = {}
    args = [flag, "my_out-dir"] if form == "two words" else [f"{flag}=my_out-dir"]
    code, _, _ = run(lambda **options: seen.update(options), *args)
    assert code == 0
    assert seen == {"h5_prefix": "my_out-dir", "n_edge": None}


def test_help_shows_examples_and_exit_codes(run):
    code, out, err = run(done("a"), "--help")
    assert (code, err) == (0, "")
    assert "  tool --h5_prefix out\n" in out
    assert "130 interrupted" in out
    assert run(done("a"), "-h")[1] == out


def test_version_names_tool_and_libraries(run):
    code, out, _ = run(done("a"), "--version")
    assert code == 0
    assert "mace-jax-shared" in out
    assert "mace-jax-schemas" in out


@pytest.mark.parametrize(
    ("flags", "lines"),
    [((), ["reading", "warning: odd"]), (("--quiet",), ["warning: odd"])],
)
def test_talk_goes_to_stderr(run, tmp_path, flags, lines):
    def body(**_):
        log = logging.getLogger("mace_jax.test")
        log.info("reading")
        log.warning("odd")
        logging.getLogger("elsewhere").info("noise")
        return Result(tmp_path)

    code, out, err = run(body, *flags)
    assert (code, out, err.splitlines()) == (0, f"{tmp_path}\n", lines)


def test_json_with_talk_is_still_one_object(run, tmp_path):
    def body(**_):
        logging.getLogger("mace_jax.test").warning("odd")
        return Result(tmp_path)

    assert json.loads(run(body, "--json")[1])["artifact"] == str(tmp_path)


def test_an_interrupt_that_python_ignores_is_not_lost(run):
    """What is raised in a hook of the garbage collector goes nowhere by itself."""
    calls = []

    def interrupted_hook(phase, info):
        if not calls:
            calls.append(phase)
            signal.raise_signal(signal.SIGINT)

    def body(**_):
        gc.callbacks.append(interrupted_hook)
        gc.collect()
        time.sleep(10)
        return Result(Path("late"), {})

    try:
        code, out, err = run(body)
    finally:
        gc.callbacks.remove(interrupted_hook)
    assert calls == ["start"]
    assert (code, out) == (130, "")
    assert "error: interrupted" in err
