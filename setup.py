"""The package list, and the kernels: their sources go into the package, and on request a library built from them.

``STGRAPH_BUILD_KERNELS=1 pip install --no-build-isolation .`` compiles the kernels ahead of time (torch and a C++20
compiler must be at hand; with nvcc also those for GPUs), which makes the package one for this platform, any Python and
every torch from 2.10 on. Where that fails, so does the installation. Otherwise they are compiled at first use.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
AHEAD = os.environ.get("STGRAPH_BUILD_KERNELS", "0") not in ("", "0")


class BuildWithKernels(build_py):
    """Copies ``kernels/`` beside ``stgraph/ops``; compiles it where asked to."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # the source tree is used as it is
        target = Path(self.build_lib) / "stgraph" / "ops"
        for folder in ("cpu", "cuda"):
            if (HERE / "kernels" / folder).is_dir():
                shutil.copytree(HERE / "kernels" / folder, target / "kernels" / folder, dirs_exist_ok=True)
        for source in (HERE / "kernels").glob("*.cpp"):
            shutil.copy2(source, target / "kernels")
        if AHEAD:
            self.build_library(target)

    def build_library(self, target: Path) -> None:
        """Build the library into the package."""
        sys.path.insert(0, str(HERE))
        try:
            from stgraph.ops import loader
        except ModuleNotFoundError as error:
            raise SystemExit(f"STGRAPH_BUILD_KERNELS=1: {error}; install torch and numpy, and then this package with "
                             "--no-build-isolation") from error
        command, nvcc = loader.compiler(), shutil.which("nvcc")
        if command is None:
            raise SystemExit("STGRAPH_BUILD_KERNELS=1: there is no C++ compiler")
        with tempfile.TemporaryDirectory() as work:
            try:
                made = loader.compile_library(HERE / "kernels", Path(work), command, nvcc, everywhere=True)
            except (loader.KernelError, OSError) as error:
                raise SystemExit(f"STGRAPH_BUILD_KERNELS=1: {error}") from error
            for old in target.glob("_kernels.*"):
                old.unlink()
            shutil.copy2(made, target / loader.built_name(nvcc is not None))


class WheelOfLibrary(bdist_wheel):
    """The library is none of Python's: it depends on the platform alone."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return ("py3", "none", platform)


class WithLibrary(Distribution):
    """A package that holds a compiled library is one for this platform."""

    def has_ext_modules(self) -> bool:
        return AHEAD or super().has_ext_modules()


setup(packages=[*find_packages(include=["stgraph", "stgraph.*"]), "stgraph_datasets"],
      cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelOfLibrary}, distclass=WithLibrary)
