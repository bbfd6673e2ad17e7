"""The released MACE foundation models: names, addresses, licences, and their cached download.

Files lie in ``<cache>/<source>/<file name>``. Two environment variables change where:

- ``MACE_JAX_CACHE``: the cache folder, instead of the user's own cache folder.
- ``MACE_JAX_MIRROR``: a base address (http, https or file) with the same layout as the cache,
  asked instead of the addresses below.
"""

import fcntl
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from mace_jax.artifacts.provenance import file_sha256
from mace_jax.cache_folder import cache_folder
from mace_jax.errors import ArtifactError, ConfigError
from mace_jax.tracking import Track, track_silently

log = logging.getLogger(__name__)

_TIMEOUT = 60.0  # seconds without a byte
_BLOCK = 1 << 20  # bytes


class DownloadError(ArtifactError):
    """A released model cannot be had."""


@dataclass(frozen=True)
class FoundationModel:
    """A released model.

    Attributes:
        source: ``mp``, ``off``, ``anicc`` or ``omol``.
        name: as in mace-torch, unique within the source.
        url: where its authors put it.
        license: ``MIT``, or ``ASL``, the Academic Software License.
        sha256: of the file. The authors publish none: these are the values on which unrelated
            public records of the same file agree, ``None`` where there is no such pair.
    """

    source: str
    name: str
    url: str
    license: str
    sha256: str | None = None

    @property
    def file_name(self) -> str:
        """Return its name in the cache and on a mirror."""
        return self.url.rsplit("/", 1)[-1]


_MP = "https://github.com/ACEsuit/mace-mp/releases/download"
_FOUNDATIONS = "https://github.com/ACEsuit/mace-foundations/releases/download"
_OFF = "https://raw.githubusercontent.com/ACEsuit/mace-off/main"
_MACE = "https://github.com/ACEsuit/mace/raw/main/mace/calculators/foundations_models"
_ASL_ADDRESS = "https://github.com/gabor1/ASL"

# Addresses and names: mace-torch 0.3.16. Licences: README of ACEsuit/mace, mace-foundations and
# mace-off; for mh-0 and mh-1 ACEsuit/mace-foundations#54; for anicc mace-torch itself.
FOUNDATION_MODELS: tuple[FoundationModel, ...] = (
    FoundationModel(
        "mp",
        "small",
        f"{_MP}/mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model",
        "MIT",
        "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
    ),
    FoundationModel(
        "mp",
        "medium",
        f"{_MP}/mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model",
        "MIT",
        "01bfe22100139f424713cf921144e5509cbe353d67aa9fa1be9c6e1e0ed35845",
    ),
    FoundationModel(  # the README links another file as large; this is what mace-torch loads
        "mp",
        "large",
        f"{_MP}/mace_mp_0/MACE_MPtrj_2022.9.model",
        "MIT",
        "f80e992b65ab8f88fdf26964511357c022e92704e4d9bcd086652635a8495b32",
    ),
    FoundationModel(
        "mp",
        "small-0b",
        f"{_MP}/mace_mp_0b/mace_agnesi_small.model",
        "MIT",
        "7e3a0abcaf41e03a80e69f778e1b11b29de1cca704783dc25917a736392f8cf0",
    ),
    FoundationModel(
        "mp",
        "medium-0b",
        f"{_MP}/mace_mp_0b/mace_agnesi_medium.model",
        "MIT",
        "ab8baff639a8f295f3eccad3d3ccf574efb6fb63220bd52cd88664211569e521",
    ),
    FoundationModel(
        "mp",
        "small-0b2",
        f"{_MP}/mace_mp_0b2/mace-small-density-agnesi-stress.model",
        "MIT",
        "d5773bf9440e96d6eb8c598f84bd0e6369fcfa432f626a87f890e07da3c651c9",
    ),
    FoundationModel(
        "mp",
        "medium-0b2",
        f"{_MP}/mace_mp_0b2/mace-medium-density-agnesi-stress.model",
        "MIT",
        "a90be07c8aa6623c390fcc4653d3e319c4a356f8b4a53d323f96b2012d375caf",
    ),
    FoundationModel(
        "mp",
        "large-0b2",
        f"{_MP}/mace_mp_0b2/mace-large-density-agnesi-stress.model",
        "MIT",
        "348390e758e1c90011c7675e864850f8e9c5b3e7c217f79a2b4bad1baaa657ad",
    ),
    FoundationModel(
        "mp",
        "medium-0b3",
        f"{_MP}/mace_mp_0b3/mace-mp-0b3-medium.model",
        "MIT",
        "2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
    ),
    FoundationModel(
        "mp",
        "medium-mpa-0",
        f"{_MP}/mace_mpa_0/mace-mpa-0-medium.model",
        "MIT",
        "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
    ),
    FoundationModel(
        "mp",
        "small-omat-0",
        f"{_MP}/mace_omat_0/mace-omat-0-small.model",
        "ASL",
        "0abfde07862cf1e93b8b4d03cb702f29ce9c344ff2fc4de2ec0d7166d6c113a5",
    ),
    FoundationModel(
        "mp",
        "medium-omat-0",
        f"{_MP}/mace_omat_0/mace-omat-0-medium.model",
        "ASL",
        "d4b14be9afa294eebdbe31a0280b26a0fa29715771e978cbfd3ca24e0d90307a",
    ),
    FoundationModel(
        "mp",
        "mace-matpes-pbe-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
        "ASL",
        "e618ad582b84239905b9c3b77ce6e9ce111b0ecd1533223a1a6aac7a696b8aa0",
    ),
    FoundationModel(
        "mp",
        "mace-matpes-r2scan-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
        "ASL",
        "8f147ecffa1d06a696e5648b13b81abda9c96fda9d0fb3faba3cd3fb27d9bba9",
    ),
    FoundationModel("mp", "mh-0", f"{_FOUNDATIONS}/mace_mh_1/mace-mh-0.model", "ASL"),
    FoundationModel(
        "mp",
        "mh-1",
        f"{_FOUNDATIONS}/mace_mh_1/mace-mh-1.model",
        "ASL",
    ),
    FoundationModel(
        "off",
        "small",
        f"{_OFF}/mace_off23/MACE-OFF23_small.model",
        "ASL",
        "165cce4cfec5a34b9c64d4ebf95de15d71106bb584b7291c8470f0749977c46f",
    ),
    FoundationModel(
        "off",
        "medium",
        f"{_OFF}/mace_off23/MACE-OFF23_medium.model",
        "ASL",
        "4842c52ad210d6e1f84d6cf1ffa70fae25a7e0d755ed55cf223f43913f587db7",
    ),
    FoundationModel(
        "off",
        "large",
        f"{_OFF}/mace_off23/MACE-OFF23_large.model",
        "ASL",
        "a29e397dbf3e7a24ac50a9b0dfc919bd5a62efa346f5895a6237b0950c1d76f4",
    ),
    FoundationModel(  # known to mace-torch by its address only
        "off",
        "off24-medium",
        f"{_OFF}/mace_off24/MACE-OFF24_medium.model",
        "ASL",
        "e5ccf5837f685899811a68754e7c994393bfd1a81720393b03c643b46c70bc69",
    ),
    FoundationModel("anicc", "ani500k-large-cc", f"{_MACE}/ani500k_large_CC.model", "MIT"),
    FoundationModel(
        "omol",
        "extra_large",
        f"{_FOUNDATIONS}/mace_omol_0/MACE-omol-0-extra-large-1024.model",
        "ASL",
        "9b64b4fd5153ca578c694abc57806d8111050de6ff652e695c9b525bc4d36469",
    ),
)

# What mace-torch loads when it is given no name.
_DEFAULTS = {
    "mp": "medium-mpa-0",
    "off": "medium",
    "anicc": "ani500k-large-cc",
    "omol": "extra_large",
}


def find_foundation_model(source: str, name: str | None = None) -> FoundationModel:
    """Return a released model by name.

    Args:
        source: ``mp``, ``off``, ``anicc`` or ``omol``.
        name: of the model; ``None`` for the default of the source.

    Raises:
        ConfigError: there is no such source or model; the message lists those there are.
    """
    models = {model.name: model for model in FOUNDATION_MODELS if model.source == source}
    if not models:
        message = f"{source}: no source of foundation models, expected {_listed(source, _DEFAULTS)}"
        raise ConfigError(message)
    name = name or _DEFAULTS[source]
    if name not in models:
        _refuse(name, f"no foundation model of source {source}", models)
    return models[name]


def released_model(name: str) -> FoundationModel:
    """Return a released model by the name that ``mace_run_train`` has for it.

    Args:
        name: of a model of ``mp`` as it is; ``small_off``, ``mace_omol`` and so on for others.

    Raises:
        ConfigError: there is no such model; the message lists those there are.
    """
    models = _names_in_training()
    if name not in models:
        _refuse(name, "no foundation model and no file", models)
    return models[name]


def _names_in_training() -> dict[str, FoundationModel]:
    names: dict[str, FoundationModel] = {}
    for model in FOUNDATION_MODELS:
        names[f"{model.name}_{model.source}" if model.name in names else model.name] = model
    return names | {"mace_omol": names["extra_large"]}


def _refuse(name: str, what: str, models: Iterable[str]) -> NoReturn:
    if name.startswith("polar-1-"):
        what = "polar models have field blocks, which are not supported"
    message = f"{name}: {what}; choose {_listed(name, models)}"
    raise ConfigError(message)


def _listed(asked: str, names: Iterable[str]) -> str:
    """Return the names there are, those most like the asked one first."""
    *others, last = sorted(names, key=lambda name: -SequenceMatcher(None, asked, name).ratio())
    return f"{', '.join(others)} or {last}" if others else last


def licence_notice(model: FoundationModel) -> str | None:
    """Return what a user must be told before the model is used, ``None`` for nothing."""
    if model.license != "ASL":
        return None
    return (
        f"{model.source} {model.name}: Academic Software License, no commercial use; "
        f"who uses the model accepts {_ASL_ADDRESS}"
    )


def fetch_foundation_model(
    model: FoundationModel, *, offline: bool = False, track: Track = track_silently
) -> Path:
    """Return the path of a model in the cache, downloading it if it is not there.

    A broken download continues where it stopped, and of several processes only one downloads.
    Nothing gets the model's name in the cache but a whole archive with the known checksum.

    Args:
        model: what to fetch.
        offline: use the cache only.
        track: progress, in MiB.

    Raises:
        DownloadError: it cannot be downloaded, is not what was released, or, offline, is missing.
    """
    path = cache_folder() / model.source / model.file_name
    mirror = os.environ.get("MACE_JAX_MIRROR")
    url = f"{mirror.rstrip('/')}/{model.source}/{model.file_name}" if mirror else model.url
    if path.is_file() and (not model.sha256 or file_sha256(path) == model.sha256):
        return path
    if offline:
        what = f"not of sha256 {model.sha256}" if path.is_file() else "missing"
        message = f"{path}: {what}; download {url} to there, or leave out --offline"
        raise DownloadError(message)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path):
            _retrieve(url, path, model.sha256, track)
    except OSError as error:
        message = f"{path.parent}: cannot be written ({_reason(error)}); set MACE_JAX_CACHE to "
        message += "another folder"
        raise DownloadError(message) from error
    return path


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait while another process downloads the same file."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for another process that downloads it", path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _retrieve(url: str, path: Path, sha256: str | None, track: Track) -> None:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # its own lines know nothing of --quiet
    downloader = _ResumingDownload(path, sha256, track)
    pooch.retrieve(url, sha256, fname=path.name, path=path.parent, downloader=downloader)


@dataclass(frozen=True)
class _ResumingDownload:
    """A ``downloader`` of pooch that keeps what has come in, to go on from there the next time."""

    path: Path
    sha256: str | None
    track: Track

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Download ``url`` to ``output_file``."""
        part = self.path.with_name(f"{self.path.name}.part")
        start = part.stat().st_size if part.exists() else 0
        with self._open(url, start) as response:
            headers = response.headers
            if headers.get_content_type() == "text/html":
                self._fail(f"{url}: a web page, expected a model")
            continues = headers.get("Content-Range", "").startswith(f"bytes {start}-")
            size = int(headers.get("Content-Length", 0))
            blocks = _blocks(response, url, size)
            description = f"downloading {self.path.name} (MiB)"
            with part.open("ab" if continues else "wb") as file:
                for block in self.track(blocks, description, -(-size // _BLOCK)):
                    file.write(block)
        fault = _fault(part, self.sha256)
        if fault:
            part.unlink()
            message = f"{url}: {fault}; try again, or give a file of your own"
            raise DownloadError(message)
        part.replace(output_file)

    def _open(self, url: str, start: int) -> Any:
        request_headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            return urlopen(Request(url, headers=request_headers), timeout=_TIMEOUT)  # noqa: S310
        except HTTPError as error:
            error.close()
            if start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return self._open(url, 0)
            self._fail(f"{url}: HTTP {error.code} {error.reason}, expected a model", error)
        except (OSError, HTTPException, ValueError) as error:
            self._fail(f"{url}: cannot be reached ({_reason(error)})", error)

    def _fail(self, what: str, cause: Exception | None = None) -> NoReturn:
        message = (
            f"{what}; check the network, name a mirror in MACE_JAX_MIRROR, "
            f"or put the file at {self.path}"
        )
        raise DownloadError(message) from cause


def _blocks(response: Any, url: str, size: int) -> Iterator[bytes]:
    """Yield the body, all ``size`` bytes of it if the server has told how many (not 0)."""
    received = 0
    try:
        while block := response.read(_BLOCK):
            received += len(block)
            yield block
        why = "connection closed" if received < size else None
    except (OSError, HTTPException) as error:
        why = _reason(error)
    if why:
        message = f"{url}: broke off after {received} of {size} bytes ({why}); run the command "
        message += "again to continue from there"
        raise DownloadError(message)


def _fault(path: Path, sha256: str | None) -> str | None:
    """Return what is wrong with a downloaded file, ``None`` for nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = None if sha256 else archive.testzip()
    except zipfile.BadZipFile as error:
        return f"{error}, expected a model"
    if damaged:
        return f"entry {damaged} is damaged"
    found = file_sha256(path)
    return f"sha256 {found}, expected {sha256}" if sha256 and found != sha256 else None


def _reason(error: Exception) -> str:
    """Return the system's words for an error, such as "Connection refused"."""
    cause = getattr(error, "reason", error)  # a URLError wraps what happened
    return str(getattr(cause, "strerror", None) or cause)
