"""The file that LAMMPS loads: a pickle of one call, with a versioned document as its argument.

The document is msgpack: a header, validated by the schema, and the bytes of a model bundle. LAMMPS
unpickles the file; nothing in this project does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import dumps
from typing import Any

import msgpack

from mace_jax.artifacts.atomic_write import write_bytes
from mace_jax.artifacts.model_bundle import ModelBundle, pack_model_bundle, unpack_model_bundle
from mace_jax.artifacts.versioned import check_document, tag
from mace_jax.elements import symbol
from mace_jax.errors import ArtifactError

KIND = "lammps_model"
_FILE = "the file of pair_style mliap"  # LAMMPS does not tell its name
# Protocol 4 is read by every Python that can be installed today.
_PROTOCOL = 4


@dataclass(frozen=True)
class LammpsModel:
    """A model of one head, and what its file says of it.

    Attributes:
        bundle: the model.
        inputs: what else it is told of every structure or atom, by name.
        self_test: structure and numbers as ``self_test.reference`` makes them, if wanted.
        source: what to name in messages.
    """

    bundle: ModelBundle
    inputs: Mapping[str, float]
    self_test: dict[str, Any] | None
    source: str

    @property
    def elements(self) -> list[str]:
        """Symbols of the elements the model knows, by ascending atomic number."""
        return [symbol(number) for number in self.bundle.config.atomic_numbers]


def write_lammps_model(path: Path, model: LammpsModel, provenance: dict[str, Any]) -> None:
    """Write a file for ``pair_style mliap unified`` atomically."""
    bundle = model.bundle
    header = {
        "schema": tag(KIND),
        "provenance": provenance,
        "requires": {
            "package": "mace-jax-export-lammps[model]",
            "pair_style": "mliap unified",
            "newton_pair": True,
            "units": "metal",
        },
        "r_max": bundle.config.r_max,
        "num_interactions": bundle.config.num_interactions,
        "elements": model.elements,
        "head": bundle.heads[0],
        "dtype": bundle.dtype,
        "source": model.source,
        "inputs": dict(model.inputs),
        "self_test": model.self_test,
    }
    check_document(header, KIND, path)
    document = msgpack.packb({"header": header, "bundle": pack_model_bundle(bundle, provenance)})
    write_bytes(path, dumps(_Call(document), protocol=_PROTOCOL))


def unpack_lammps_model(document: bytes) -> LammpsModel:
    """Return the model of a document that LAMMPS found in a file.

    Args:
        document: what ``write_lammps_model`` packed.

    Raises:
        ArtifactError: it is damaged, or of a version that this package does not read.
    """
    try:
        content = msgpack.unpackb(document)
        header, packed = content["header"], content["bundle"]
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        message = (
            f"{_FILE}: not a complete document ({error or type(error).__name__}); create the "
            "file again with mace-create-lammps-model"
        )
        raise ArtifactError(message) from error
    header = check_document(header, KIND, Path(_FILE), place="header")
    bundle = unpack_model_bundle(packed, Path(_FILE))
    return LammpsModel(bundle, header["inputs"], header["self_test"], header["source"])


class _Call:
    """Pickled as the call that makes LAMMPS's object."""

    def __init__(self, document: bytes) -> None:
        self._document = document

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        from mace_jax_export_lammps.potential import load_potential

        return load_potential, (self._document,)
