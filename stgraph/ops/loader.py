"""Which kernels run: built ahead of time, compiled at first use, or none (PyTorch's own operators).

The sources stand in ``kernels/`` of the source tree, or beside this file in an installed package. They are
compiled once for each combination of sources, torch, compiler and flags into a cache folder; the library is put in
place by a rename, so processes that compile at the same time do no harm.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from stgraph.errors import InputError
from stgraph.ops.names import CHOICE

TARGET = "0x020a000000000000"
"""Oldest torch whose stable interface the kernels use: 2.10."""
_ARCHITECTURES = ("80", "90", "100")
_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-Wno-psabi", "-Wno-attributes",
          f"-DTORCH_TARGET_VERSION={TARGET}")


@dataclass(frozen=True)
class Backend:
    """What runs the operators.

    Args:
        name: ``native`` (our kernels) or ``torch`` (PyTorch's own operators).
        reason: Why this one.
        library: The library that was loaded, for ``native``.
        cuda: Whether the library holds kernels for the GPU.
        log: What the compiler said, where it failed.
    """

    name: str
    reason: str
    library: Path | None = None
    cuda: bool = False
    log: str = ""


class KernelWarning(UserWarning):
    """The kernels could not be had; slower operators run in their place."""


@cache
def backend() -> Backend:
    """Load the kernels once, as ``STGRAPH_KERNELS`` says (``auto``, ``require`` or ``torch``), and say what runs.

    Raises:
        InputError: under ``require``, where the kernels cannot be had; the compiler's message is part of it.
    """
    wanted = os.environ.get(CHOICE, "auto")
    if wanted not in ("auto", "require", "torch"):
        raise InputError("unknown choice of kernels", field=CHOICE, value=wanted,
                         remedy="set it to auto, require or torch")
    if wanted == "torch":
        return Backend("torch", f"{CHOICE}=torch")
    try:
        library, cuda, reason = _library()
        torch.ops.load_library(str(library))
    except (KernelError, OSError) as error:
        if wanted == "require":
            raise InputError(f"the kernels cannot be had: {error}", field=CHOICE, value=wanted,
                             remedy="install a C++20 compiler, or set it to auto or torch") from error
        warnings.warn(f"the compiled kernels cannot be had, slower operators of PyTorch run in their place: {error}",
                      KernelWarning, stacklevel=2)
        return Backend("torch", "the kernels cannot be had", log=str(error))
    return Backend("native", reason, library, cuda)


class KernelError(Exception):
    """Why there are no kernels, with the compiler's words."""


def _library() -> tuple[Path, bool, str]:
    """The library, whether it holds GPU kernels, and where it comes from."""
    nvcc = shutil.which("nvcc") if torch.cuda.is_available() else None
    for cuda in (True, False):
        built = Path(__file__).with_name(built_name(cuda))
        if built.exists() and (cuda or nvcc is None):  # one without GPU kernels does not do where they can be had
            return built, cuda, "built when the package was installed"
    sources = sources_folder()
    if sources is None:
        raise KernelError("the sources are not there")
    command = compiler()
    if command is None:
        raise KernelError("there is no C++ compiler")
    target = cache_folder() / f"{_digest(sources, command, nvcc)}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as work:
            made = compile_library(sources, Path(work), command, nvcc)
            os.replace(made, target)  # another process may have been quicker: the same file, then
    return target, nvcc is not None, f"compiled from {sources.name}/"


def built_name(cuda: bool) -> str:
    """File name of a library built with the package: it serves the torch in its name and every later one."""
    return f"_kernels.torch{int(TARGET[2:4], 16)}.{int(TARGET[4:6], 16)}.{'cuda' if cuda else 'cpu'}.so"


def compiler() -> str | None:
    """The C++ compiler: ``CXX``, else ``g++`` or ``c++`` on the path."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def sources_folder() -> Path | None:
    """Where the sources of the kernels are: beside this file where installed, else at the top of the source tree."""
    here = Path(__file__).parent
    for folder in (here / "kernels", here.parents[1] / "kernels"):
        if (folder / "cpu" / "spmm.cpp").exists():
            return folder
    return None


def cache_folder() -> Path:
    """Folder of compiled kernels: ``STGRAPH_CACHE``, else the user's cache folder."""
    given = os.environ.get("STGRAPH_CACHE")
    if given:
        return Path(given) / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stgraph" / "kernels"


def cpp_sources(sources: Path, nvcc: str | None) -> list[Path]:
    """The kernels of the CPU, and where there is nvcc what registers those of the GPU."""
    return sorted((sources / "cpu").glob("*.cpp")) + (sorted(sources.glob("*.cpp")) if nvcc is not None else [])


def compile_library(sources: Path, work: Path, command: str, nvcc: str | None, everywhere: bool = False) -> Path:
    """Compile all sources into one library in the folder ``work``.

    Args:
        sources: From :func:`sources_folder`.
        work: An empty folder.
        command: The C++ compiler.
        nvcc: The CUDA compiler; None: no kernels for a GPU.
        everywhere: Whether the library is for all processors and GPUs, not for those at hand only.

    Raises:
        KernelError: with the command and the compiler's message.
    """
    root = Path(torch.__file__).parent
    commands = []
    objects = []
    for source in cpp_sources(sources, nvcc):
        objects.append(work / f"{source.stem}.o")
        commands.append([command, *_FLAGS, *cpu_flags(everywhere), f"-I{root / 'include'}", f"-I{sources}", "-c",
                         str(source), "-o", str(objects[-1])])
    if nvcc is not None:
        for source in sorted((sources / "cuda").glob("*.cu")):
            objects.append(work / f"{source.stem}_cuda.o")
            commands.append([nvcc, "-std=c++17", "-O3", "-Xcompiler", "-fPIC", *gpu_flags(everywhere), "-c",
                             str(source), "-o", str(objects[-1])])
    running = [(words, subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
               for words in commands]
    for words, process in running:
        said, _ = process.communicate()
        _check(words, process.returncode, said)
    out = work / "kernels.so"
    # nvcc knows where its libraries are, which differs from one installation to the next
    link = [command] if nvcc is None else [nvcc, "-cudart", "static"]
    link += ["-shared", *map(str, objects), "-o", str(out), f"-L{root / 'lib'}", "-ltorch_cpu"]
    done = subprocess.run(link, capture_output=True, text=True, check=False)
    _check(link, done.returncode, done.stdout + done.stderr)
    return out


def cpu_flags(everywhere: bool = False) -> list[str]:
    """Flags of the C++ compiler: code for this processor alone, which takes a third of the time, or for all of them.

    ``STGRAPH_CPU`` (``avx512``, ``avx2`` or ``baseline``) asks for fewer instructions than the processor has.
    """
    information = Path("/proc/cpuinfo")
    if everywhere or platform.machine() != "x86_64" or not information.exists():
        return []
    found = re.search(r"^flags\s*:(.*)$", information.read_text(), re.MULTILINE)
    has = set(found.group(1).split()) if found else set()
    wanted = os.environ.get("STGRAPH_CPU", "avx512")
    if wanted == "avx512" and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= has:
        return ["-march=x86-64-v4"]
    return ["-march=x86-64-v3"] if wanted != "baseline" and {"avx2", "fma", "f16c", "bmi2"} <= has else []


def gpu_flags(everywhere: bool = False) -> list[str]:
    """Flags of nvcc: code for the GPUs at hand, else for each architecture, and a form for later ones."""
    count = 0 if everywhere else torch.cuda.device_count()
    devices = [torch.cuda.get_device_capability(device) for device in range(count)]
    numbers = sorted({f"{major}{minor}" for major, minor in devices}) or list(_ARCHITECTURES)
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    return [*flags, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


def _check(command: list[str], code: int, said: str) -> None:
    if code:
        raise KernelError(f"{' '.join(command[:1])} failed:\n{said.strip()[-4000:]}")


def _digest(sources: Path, command: str, nvcc: str | None) -> str:
    """Hash of all that the library depends on."""
    digest = hashlib.sha256()
    folders = (sources, sources / "cpu", *([sources / "cuda"] if nvcc else []))
    for file in sorted(path for folder in folders for path in folder.glob("*")
                       if path.suffix in (".h", ".cpp", ".cu", ".cuh")):
        digest.update(file.relative_to(sources).as_posix().encode() + b"\0" + file.read_bytes())
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout
    words = [torch.__version__, platform.machine(), version, str(nvcc), *_FLAGS, *cpu_flags(), *gpu_flags()]
    digest.update("\0".join(words).encode())
    return digest.hexdigest()[:24]
