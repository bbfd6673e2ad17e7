"""The registry, and downloads from a server on this machine that can misbehave."""

import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mace_jax.errors import ConfigError
from mace_jax.torch_models import foundation_models
from mace_jax.torch_models.foundation_models import (
    FOUNDATION_MODELS,
    DownloadError,
    FoundationModel,
    fetch_foundation_model,
    find_foundation_model,
    licence_notice,
    released_model,
)

# The names of mace-torch 0.3.16, and two that it has no name for: OFF24 and the ANI model.
NAMES = {
    "mp": [
        *("small", "medium", "large", "small-0b", "medium-0b"),
        *("small-0b2", "medium-0b2", "large-0b2", "medium-0b3", "medium-mpa-0"),
        *("small-omat-0", "medium-omat-0", "mace-matpes-pbe-0", "mace-matpes-r2scan-0"),
        *("mh-0", "mh-1"),
    ],
    "off": ["small", "medium", "large", "off24-medium"],
    "anicc": ["ani500k-large-cc"],
    "omol": ["extra_large"],
}


def test_the_registry_has_every_model_of_mace_torch_once():
    found = [(model.source, model.name) for model in FOUNDATION_MODELS]
    assert found == [(source, name) for source, names in NAMES.items() for name in names]


def test_addresses_checksums_and_file_names_are_well_formed():
    assert all(model.url.startswith("https://") for model in FOUNDATION_MODELS)
    assert all(model.file_name.endswith(".model") for model in FOUNDATION_MODELS)
    assert len({(m.source, m.file_name) for m in FOUNDATION_MODELS}) == len(FOUNDATION_MODELS)
    checksums = [model.sha256 for model in FOUNDATION_MODELS if model.sha256]
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in checksums)
    assert len(set(checksums)) == len(checksums) == len(FOUNDATION_MODELS) - 3


@pytest.mark.parametrize(
    ("source", "name"),
    [("mp", "medium-mpa-0"), ("off", "medium"), ("anicc", None), ("omol", "extra_large")],
)
def test_default_names(source, name):
    assert find_foundation_model(source, None).name == (name or NAMES["anicc"][0])


def test_an_unknown_name_lists_the_others_the_nearest_first():
    with pytest.raises(ConfigError) as caught:
        find_foundation_model("mp", "mediun-mpa0")
    message = str(caught.value)
    assert message.startswith("mediun-mpa0: no foundation model of source mp; choose medium-mpa-0,")
    assert all(name in message for name in NAMES["mp"])


def test_an_unknown_source_lists_the_others():
    with pytest.raises(ConfigError, match=r"^om: no source of .* expected omol, .*(mp|off|anicc)"):
        find_foundation_model("om", None)


def test_names_in_training_are_those_of_mace_run_train():
    found = {name: released_model(name) for name in NAMES["mp"]}
    assert {(m.source, m.name) for m in found.values()} == {("mp", name) for name in found}
    others = {
        "small_off": ("off", "small"),
        "medium_off": ("off", "medium"),
        "large_off": ("off", "large"),
        "off24-medium": ("off", "off24-medium"),
        "mace_omol": ("omol", "extra_large"),
        "ani500k-large-cc": ("anicc", "ani500k-large-cc"),
    }
    for name, (source, own_name) in others.items():
        assert released_model(name) is find_foundation_model(source, own_name)


def test_an_unknown_name_in_training_lists_the_others():
    with pytest.raises(ConfigError) as caught:
        released_model("smal_off")
    message = str(caught.value)
    assert message.startswith("smal_off: no foundation model and no file; choose small_off,")
    assert all(name in message for name in (*NAMES["mp"], "mace_omol", "off24-medium"))


def test_polar_models_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"^polar-1-m: .* field blocks, which are not supported;"):
        find_foundation_model("mp", "polar-1-m")


def test_only_models_for_commercial_use_go_without_a_notice():
    free = {(m.source, m.name) for m in FOUNDATION_MODELS if licence_notice(m) is None}
    expected = {("mp", name) for name in NAMES["mp"][:10]} | {("anicc", NAMES["anicc"][0])}
    assert free == expected
    notice = licence_notice(find_foundation_model("off", "small"))
    assert notice.startswith("off small: Academic Software License, no commercial use; ")
    assert "\n" not in notice


def archive(size: int) -> bytes:
    """Return a zip archive with ``size`` bytes that do not compress."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("model/data.pkl", os.urandom(size))
    return buffer.getvalue()


CONTENT = archive(3_000_000)
HALF = len(CONTENT) // 2


@dataclass
class Server:
    """What the local server answers, and what it was asked."""

    address: str
    answer: Callable[["Request"], None]
    ranges: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def model(self) -> FoundationModel:
        checksum = hashlib.sha256(CONTENT).hexdigest()
        return FoundationModel("mp", "tiny", f"{self.address}/tiny.model", "MIT", checksum)


class Request(BaseHTTPRequestHandler):
    """Leaves the answer to ``Server.answer``."""

    server: ThreadingHTTPServer
    local: Server

    def do_GET(self):
        self.local.paths.append(self.path)
        self.local.ranges.append(self.headers["Range"])
        self.local.answer(self)

    def reply(self, body: bytes, status=200, length=None, **headers: str) -> None:
        """Send ``body`` and announce ``length`` bytes, those of the body if not given."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        """Say nothing."""


def whole(request: Request) -> None:
    """Know nothing of ranges."""
    request.reply(CONTENT)


def ranges(request: Request) -> None:
    """Send what was asked for."""
    wanted = request.headers["Range"]
    if wanted is None:
        request.reply(CONTENT)
    elif (start := int(wanted.removeprefix("bytes=").removesuffix("-"))) >= len(CONTENT):
        request.reply(b"", 416)
    else:
        content_range = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        request.reply(CONTENT[start:], 206, Content_Range=content_range)


def half(request: Request) -> None:
    """Announce everything, send half of it and hang up."""
    request.reply(CONTENT[:HALF], length=len(CONTENT))


@pytest.fixture
def server(monkeypatch):
    """A server that sends ``CONTENT`` for any path until told otherwise."""
    monkeypatch.setenv("no_proxy", "*")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Request)
    local = Server(f"http://127.0.0.1:{http.server_port}", ranges)
    http.RequestHandlerClass = type("Bound", (Request,), {"local": local})
    thread = threading.Thread(target=partial(http.serve_forever, poll_interval=0.01))
    thread.start()
    yield local
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The folder in which files of source mp are looked for."""
    monkeypatch.setenv("MACE_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MACE_JAX_MIRROR", raising=False)
    return tmp_path / "cache" / "mp"


def left_in(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} - {"tiny.model.lock"}


def refusal(model: FoundationModel, **options) -> str:
    """Return the message with which a fetch fails, after checking that it is one line."""
    with pytest.raises(DownloadError) as caught:
        fetch_foundation_model(model, **options)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_is_downloaded_once(server, cache):
    path = fetch_foundation_model(server.model)
    assert path == cache / "tiny.model"
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert left_in(cache) == {"tiny.model"}
    assert fetch_foundation_model(server.model) == path
    assert server.paths == ["/tiny.model"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other places for it")
def test_the_cache_is_the_users_own_unless_told_otherwise(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MACE_JAX_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    path = fetch_foundation_model(server.model)
    assert path == tmp_path / "users" / "mace-jax" / "mp" / "tiny.model"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MACE_JAX_CACHE", "~/chosen")
    assert fetch_foundation_model(server.model) == tmp_path / "chosen" / "mp" / "tiny.model"


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_of_another_checksum_in_the_cache_is_replaced(server, cache):
    cache.mkdir(parents=True)
    (cache / "tiny.model").write_bytes(archive(100))
    assert fetch_foundation_model(server.model).read_bytes() == CONTENT


def test_progress_counts_the_blocks_that_come(server):
    seen = []

    def track(items, description, total):
        for item in items:
            seen.append((description, total))
            yield item

    fetch_foundation_model(server.model, track=track)
    assert seen == [("downloading tiny.model (MiB)", 3)] * 3


def test_a_cut_download_continues_where_it_stopped(server, cache):
    server.answer = half
    message = refusal(server.model)
    assert message.startswith(f"{server.address}/tiny.model: broke off after {HALF} of ")
    assert left_in(cache) == {"tiny.model.part"}
    server.answer = ranges
    assert fetch_foundation_model(server.model).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert left_in(cache) == {"tiny.model"}


def test_a_redirected_download_continues_too(server):
    """Files of a GitHub release lie behind a redirection."""

    def redirected(answer):
        def reply(request):
            if request.path.startswith("/store"):
                answer(request)
            else:
                request.reply(b"", 302, Location="/store/tiny.model")

        return reply

    server.answer = redirected(half)
    refusal(server.model)
    server.answer = redirected(ranges)
    assert fetch_foundation_model(server.model).read_bytes() == CONTENT
    assert server.paths == ["/tiny.model", "/store/tiny.model"] * 2
    assert server.ranges == [None, None, f"bytes={HALF}-", f"bytes={HALF}-"]


def test_without_ranges_it_starts_again(server, cache):
    server.answer = half
    refusal(server.model)
    server.answer = whole
    assert fetch_foundation_model(server.model).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_part_that_has_nothing_left_to_ask_for_is_dropped(server, cache):
    cache.mkdir(parents=True)
    (cache / "tiny.model.part").write_bytes(CONTENT + b"of another release")
    assert fetch_foundation_model(server.model).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT) + 18}-", None]


@pytest.mark.parametrize("checksum", ["known", None])
def test_a_part_of_another_file_is_noticed(server, cache, checksum):
    model = server.model if checksum else replace(server.model, sha256=None)
    cache.mkdir(parents=True)
    (cache / "tiny.model.part").write_bytes(bytes(HALF))
    message = refusal(model)
    assert "sha256" in message if checksum else "entry model/data.pkl is damaged" in message
    assert left_in(cache) == set()
    assert fetch_foundation_model(model).read_bytes() == CONTENT


def test_without_a_checksum_the_announced_size_counts(server, cache):
    server.answer = half
    message = refusal(replace(server.model, sha256=None))
    assert f"broke off after {HALF} of {len(CONTENT)} bytes (connection closed); run" in message
    assert left_in(cache) == {"tiny.model.part"}


def test_without_a_size_a_truncated_archive_is_noticed(server, cache):
    def answer(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(CONTENT[:HALF])

    server.answer = answer
    message = refusal(replace(server.model, sha256=None))
    assert "File is not a zip file, expected a model" in message
    assert left_in(cache) == set()


def test_a_wrong_checksum_is_refused_and_nothing_kept(server, cache):
    model = replace(server.model, sha256="0" * 64)
    message = refusal(model)
    assert f"sha256 {server.model.sha256}, expected {model.sha256}; try again" in message
    assert left_in(cache) == set()


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_no_model(server, cache, content_type):
    page = b"<!doctype html><title>Sign in to the guest network</title>"
    server.answer = partial(Request.reply, body=page, Content_Type=content_type)
    message = refusal(replace(server.model, sha256=None))
    assert message.startswith(f"{server.address}/tiny.model: ")
    assert "expected a model" in message
    assert left_in(cache) == set()


def test_a_web_page_does_not_cost_what_has_been_downloaded(server, cache):
    server.answer = half
    refusal(server.model)
    server.answer = partial(Request.reply, body=b"<html>", Content_Type="text/html")
    assert "a web page" in refusal(server.model)
    assert (cache / "tiny.model.part").read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize(("status", "words"), [(404, "Not Found"), (500, "Internal Server Error")])
def test_an_http_error_names_the_address_and_ways_out(server, cache, status, words):
    server.answer = partial(Request.reply, body=b"no", status=status)
    message = refusal(server.model)
    assert message.startswith(f"{server.address}/tiny.model: HTTP {status} {words}, expected")
    assert "MACE_JAX_MIRROR" in message
    assert f"put the file at {cache / 'tiny.model'}" in message
    assert left_in(cache) == set()


def test_a_refused_connection(server, cache):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/tiny.model"
        message = refusal(replace(server.model, url=url))
    assert message.startswith(f"{url}: cannot be reached (Connection refused); check the network")


def test_an_unknown_host(server, monkeypatch):
    def getaddrinfo(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    message = refusal(replace(server.model, url="https://nowhere.invalid/tiny.model"))
    assert message.startswith(
        "https://nowhere.invalid/tiny.model: cannot be reached (Name or service not known);"
    )


@pytest.mark.parametrize("sent", [0, HALF])
def test_a_silent_server_is_given_up(server, monkeypatch, sent):
    monkeypatch.setattr(foundation_models, "_TIMEOUT", 0.2)
    done = threading.Event()

    def answer(request):
        if sent:
            request.reply(CONTENT[:sent], length=len(CONTENT))
        done.wait(10)

    server.answer = answer
    message = refusal(server.model)
    done.set()
    assert "(timed out)" in message


def test_offline_takes_what_is_in_the_cache(server, cache):
    cache.mkdir(parents=True)
    (cache / "tiny.model").write_bytes(CONTENT)
    assert fetch_foundation_model(server.model, offline=True) == cache / "tiny.model"
    assert server.paths == []


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_offline_says_what_to_put_where(server, cache, content):
    if content is not None:
        cache.mkdir(parents=True)
        (cache / "tiny.model").write_bytes(content)
    message = refusal(server.model, offline=True)
    what = "missing" if content is None else f"not of sha256 {server.model.sha256}"
    assert message.startswith(f"{cache / 'tiny.model'}: {what}; download {server.model.url} to")
    assert server.paths == []


@pytest.mark.parametrize("end", ["", "/"])
def test_a_mirror_is_asked_instead(server, monkeypatch, end):
    monkeypatch.setenv("MACE_JAX_MIRROR", f"{server.address}/models{end}")
    model = replace(server.model, url="https://nowhere.invalid/release/tiny.model")
    assert fetch_foundation_model(model).read_bytes() == CONTENT
    assert server.paths == ["/models/mp/tiny.model"]


def test_a_mirror_may_be_a_folder(server, tmp_path, monkeypatch):
    mirror = tmp_path / "shared" / "mp"
    mirror.mkdir(parents=True)
    (mirror / "tiny.model").write_bytes(CONTENT)
    monkeypatch.setenv("MACE_JAX_MIRROR", mirror.parent.as_uri())
    assert fetch_foundation_model(server.model).read_bytes() == CONTENT
    assert server.paths == []


def test_a_mirror_that_is_no_address(server, monkeypatch):
    monkeypatch.setenv("MACE_JAX_MIRROR", "mirror.example/mace")
    message = refusal(server.model)
    assert message.startswith("mirror.example/mace/mp/tiny.model: cannot be reached (unknown url")


@pytest.mark.parametrize("obstacle", ["cache", "cache/mp", "cache/mp/tiny.model.lock/x"])
def test_a_cache_that_cannot_be_written(server, tmp_path, obstacle):
    (tmp_path / obstacle).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / obstacle).write_text("in the way")
    message = refusal(server.model)
    assert re.match(f"{tmp_path}/cache/mp: cannot be written .*; set MACE_JAX_CACHE", message)
    assert server.paths == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache(server, cache):
    cache.mkdir(parents=True, mode=0o555)
    message = refusal(server.model)
    assert message.startswith(f"{cache}: cannot be written (Permission denied); set MACE_JAX_CACHE")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_not_blamed_on_the_network(server, cache):
    cache.mkdir(parents=True)
    (cache / "tiny.model.part").symlink_to("/dev/full")
    message = refusal(server.model)
    assert message.startswith(f"{cache}: cannot be written (No space left on device); set ")


def start_fetch(model: FoundationModel) -> subprocess.Popen:
    code = (
        "from mace_jax.torch_models.foundation_models import *\n"
        f"print(fetch_foundation_model({model!r}), end='')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_download_once(server, cache):
    release = threading.Event()

    def answer(request):
        release.wait(10)
        request.reply(CONTENT)

    server.answer = answer
    both = [start_fetch(server.model) for _ in range(2)]
    time.sleep(1)
    release.set()
    printed = [process.communicate(timeout=120) for process in both]
    assert printed == [(str(cache / "tiny.model"), "")] * 2
    assert (cache / "tiny.model").read_bytes() == CONTENT
    assert server.paths == ["/tiny.model"]


def test_two_threads_download_once(server, cache):
    def answer(request):
        time.sleep(0.2)
        request.reply(CONTENT)

    server.answer = answer
    threads = [threading.Thread(target=fetch_foundation_model, args=[server.model]) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (cache / "tiny.model").read_bytes() == CONTENT
    assert server.paths == ["/tiny.model"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_leaves_no_model_and_continues(server, cache, how):
    done = threading.Event()
    part = cache / "tiny.model.part"
    sent = 1 << 21  # two blocks

    def answer(request):
        request.reply(CONTENT[:sent], length=len(CONTENT))
        done.wait(10)

    server.answer = answer
    process = start_fetch(server.model)
    deadline = time.monotonic() + 10
    while (not part.exists() or part.stat().st_size < sent) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=120)
    done.set()
    assert process.returncode != 0
    assert not (cache / "tiny.model").exists()
    server.answer = ranges
    assert fetch_foundation_model(server.model).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={sent}-"]


def test_the_module_is_light():
    code = (
        "import sys, mace_jax.torch_models.foundation_models\n"
        "print({'pooch', 'requests', 'jax', 'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
